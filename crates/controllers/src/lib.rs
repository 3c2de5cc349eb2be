//! Shells around the deciders of `brain`: keep a picture of the cluster, plan what changed, perform the plans through the API.
//!
//! They speak to any Kubernetes API through `kube::Client`. All controllers of a process share one picture and one loop
//! ([`engine`]); a controller of its own is a decider of `brain` and a line in [`controllers`].

mod engine;
mod perform;
mod report;
mod watch;

use brain::cluster::Kind;
use brain::controller::Controller;
use brain::request::{EVENTS, Resource};
use kinds::table::KINDS;
use kube::Client;

/// What the controllers need to know besides the API.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The certificate of the cluster's authority, for the ConfigMap `kube-root-ca.crt` of every namespace.
    pub root_certificate_pem: String,
    /// The machine, as events name it.
    pub host: String,
}

/// Runs all controllers until `shutdown` turns true.
pub async fn run(client: Client, settings: Settings, shutdown: tokio::sync::watch::Receiver<bool>) {
    let host = settings.host.clone();
    engine::run(client, followed_kinds(), controllers(settings), host, shutdown).await;
}

/// Runs the DaemonSet controller alone, against a Kubernetes that has all the others.
pub async fn run_daemon_sets(client: Client, host: String, shutdown: tokio::sync::watch::Receiver<bool>) {
    let kinds = vec![Kind::DaemonSet, Kind::ControllerRevision, Kind::Pod, Kind::Node];
    let controllers: Vec<Box<dyn Controller>> = vec![Box::new(brain::daemonset::DaemonSetController::default())];
    engine::run(client, kinds, controllers, host, shutdown).await;
}

fn controllers(settings: Settings) -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(brain::service_account::ServiceAccountController { root_certificate_pem: settings.root_certificate_pem }),
        Box::new(brain::namespace::NamespaceController),
        Box::new(brain::gc::GarbageCollector::default()),
        Box::new(brain::node_lifecycle::NodeLifecycle::default()),
        Box::new(brain::taint_eviction::TaintEviction::default()),
        Box::new(brain::podgc::PodGc::default()),
        Box::new(brain::daemonset::DaemonSetController::default()),
        Box::new(brain::scheduler::Scheduler::default()),
        Box::new(brain::endpoints::slices::EndpointSliceController::default()),
        Box::new(brain::endpoints::legacy::EndpointsController::default()),
        Box::new(brain::disruption::DisruptionController::default()),
        Box::new(brain::disruption::stale::StaleDisruptions),
        Box::new(brain::quota::QuotaController),
        Box::new(brain::cluster_roles::ClusterRoleAggregation),
        Box::new(brain::ttl::TtlController::default()),
    ]
}

/// Everything that is stored, but events: nobody decides on those.
fn followed_kinds() -> Vec<Kind> {
    let stored = KINDS.iter().filter(|kind| kind.is_stored() && kind.view.is_none());
    let resource = |kind: &kinds::table::Kind| Resource { group: kind.group, version: kind.version, plural: kind.plural, kind: kind.kind };
    let followed = stored.map(resource).filter(|resource| *resource != EVENTS).map(|resource| resource.followed());
    followed.chain([Kind::RootCertificate]).collect()
}
