//! All controllers, and the kinds that they look at: what a control plane runs, and the simulator.

use kinds::table::KINDS;

use crate::controller::Controller;
use crate::node_ipam::ClusterRanges;
use crate::picture::Kind;
use crate::request::{EVENTS, Resource};

/// What the controllers of a cluster need to know besides its objects.
#[derive(Debug, Clone, Default)]
pub struct ClusterSettings {
    /// Certificate of the cluster's authority, for the ConfigMap `kube-root-ca.crt` of every
    /// namespace.
    pub root_certificate_pem: String,
    /// What nodes get their ranges of pod addresses from; from none where it is empty.
    pub pod_ranges: ClusterRanges,
}

/// Those of a cluster of its own.
pub fn all(settings: ClusterSettings) -> Vec<Box<dyn Controller>> {
    let ClusterSettings { root_certificate_pem, pod_ranges } = settings;
    vec![
        Box::new(crate::service_account::ServiceAccountController { root_certificate_pem }),
        Box::new(crate::namespace::NamespaceController),
        Box::new(crate::gc::GarbageCollector::default()),
        Box::new(crate::node_lifecycle::NodeLifecycle::default()),
        Box::new(crate::taint_eviction::TaintEviction::default()),
        Box::new(crate::podgc::PodGc::default()),
        Box::new(crate::daemonset::DaemonSetController::default()),
        Box::new(crate::scheduler::Scheduler::default()),
        Box::new(crate::endpoints::slices::EndpointSliceController::default()),
        Box::new(crate::endpoints::legacy::EndpointsController::default()),
        Box::new(crate::endpoints::mirror::EndpointSliceMirroring),
        Box::new(crate::disruption::DisruptionController::default()),
        Box::new(crate::disruption::stale::StaleDisruptions),
        Box::new(crate::quota::QuotaController),
        Box::new(crate::cluster_roles::ClusterRoleAggregation),
        Box::new(crate::ttl::TtlController::default()),
        Box::new(crate::node_ipam::NodeIpam::new(pod_ranges)),
        Box::new(crate::service_cidr::ServiceCidrController),
        Box::new(crate::service_cidr::repair::IpAddressRepair::default()),
    ]
}

/// What [`all`] look at: everything that is stored, but events, which no controller decides on.
pub fn followed() -> Vec<Kind> {
    let stored = KINDS.iter().filter(|kind| kind.is_stored() && kind.view.is_none());
    let resource = |kind: &kinds::table::Kind| Resource { group: kind.group, version: kind.version, plural: kind.plural, kind: kind.kind };
    let followed = stored.map(resource).filter(|resource| *resource != EVENTS).map(|resource| resource.followed());
    followed.chain([Kind::RootCertificate]).collect()
}

/// The DaemonSet controller alone, for a Kubernetes that has all the others, and what it looks at.
pub fn daemon_sets() -> (Vec<Box<dyn Controller>>, Vec<Kind>) {
    let controller = Box::new(crate::daemonset::DaemonSetController::default());
    (vec![controller], vec![Kind::DaemonSet, Kind::ControllerRevision, Kind::Pod, Kind::Node])
}
