//! Shells around the deciders of `brain`: wait for a change, take a snapshot, plan, perform the plan through the API.
//!
//! They speak to any Kubernetes API through `kube::Client`. All shells of a process share one reflector for each kind.

mod cluster;
mod daemonset;
mod names;
mod namespace;
mod perform;
mod pod_cleanup;
mod scheduler;
mod service_account;

use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use cluster::Cluster;

/// What the controllers need to know besides the API.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The certificate of the cluster's authority, for the ConfigMap `kube-root-ca.crt` of every namespace.
    pub root_certificate_pem: String,
}

/// Runs all controllers until `shutdown` turns true.
pub async fn run(client: Client, settings: Settings, shutdown: watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    let cluster = Cluster::start(&client, &mut tasks);
    tasks.spawn(service_account::run(cluster.clone(), client.clone(), settings));
    tasks.spawn(namespace::run(cluster.clone(), client.clone()));
    tasks.spawn(daemonset::run(cluster.clone(), client.clone()));
    tasks.spawn(scheduler::run(cluster.clone(), client.clone()));
    tasks.spawn(pod_cleanup::run(cluster, client));
    let mut shutdown = shutdown;
    loop {
        // Both arms only wait; a task that ended is a bug worth a line, and the others go on.
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(Err(error)) if error.is_panic() => tracing::error!(%error, "a controller panicked"),
                Some(_) => {}
                None => return,
            },
            _ = shutdown.wait_for(|&stopping| stopping) => break,
        }
    }
    tasks.shutdown().await;
}
