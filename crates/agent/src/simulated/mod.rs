//! Simulated nodes: any number of nodes in one process, which run pods without containers.
//!
//! They register, renew their leases, make the pods bound to them Running and Ready, and let them
//! go when they are deleted. Annotations on a pod set how it behaves, see [`behaviour`]. Every Node
//! with the label `everynode.dev/simulated: "true"` is simulated, whichever client made it: nodes
//! are added with `kubectl create` and removed with `kubectl delete node`. One with the annotation
//! `sim.everynode.dev/stopped: "true"` is dead: no heartbeats, and nothing happens to its pods.

mod behaviour;
mod fleet;
mod nodes;
mod objects;
mod pod;
mod pods;
pub(crate) use kube::Client;
use tokio::sync::watch;

use fleet::Fleet;

pub use brain::model::SIMULATED;

/// Which nodes to simulate.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Made when there are no simulated nodes yet.
    pub names: Vec<String>,
}

/// Runs the nodes until `shutdown` turns true.
pub async fn run(client: Client, settings: Settings, mut shutdown: watch::Receiver<bool>) {
    let fleet = Fleet::default();
    // All arms run until they are dropped; requests under way are then cut off, as on a machine
    // that loses power.
    tokio::select! {
        () = nodes::register(&client, &settings.names) => {}
        () = nodes::follow(&client, &fleet) => {}
        () = nodes::beat(&client, &fleet) => {}
        () = pods::run(&client, &fleet) => {}
        _ = shutdown.wait_for(|&stopping| stopping) => {}
    }
}
