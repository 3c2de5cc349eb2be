//! Shells around the deciders of `brain`: keep a picture of the cluster, plan what changed, perform
//! the plans through the API.
//!
//! They speak to any Kubernetes API through `kube::Client`. All controllers of a process share one
//! picture and one loop ([`engine`]); a controller of its own is a decider of `brain` and a line in
//! [`brain::controllers`].

mod engine;
mod perform;
mod report;
mod send;
mod watch;

use brain::controllers::ClusterSettings;
use kube::Client;

/// What the controllers need to know besides the API.
#[derive(Debug, Clone)]
pub struct ControllerSettings {
    pub cluster: ClusterSettings,
    /// The machine, as events name it.
    pub host: String,
}

/// Runs all controllers until `shutdown` turns true.
pub async fn run(client: Client, settings: ControllerSettings, shutdown: tokio::sync::watch::Receiver<bool>) {
    let controllers = brain::controllers::all(settings.cluster);
    engine::run(client, brain::controllers::followed(), controllers, settings.host, shutdown).await;
}

/// Runs the DaemonSet controller alone, against a Kubernetes that has all the others.
pub async fn run_daemon_sets(client: Client, host: String, shutdown: tokio::sync::watch::Receiver<bool>) {
    let (controllers, kinds) = brain::controllers::daemon_sets();
    engine::run(client, kinds, controllers, host, shutdown).await;
}
