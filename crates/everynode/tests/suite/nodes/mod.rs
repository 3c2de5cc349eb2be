//! Real nodes from outside: real containers, real kubectl, real failures. They need
//! [`crate::support::cluster::REAL_NODES`].
//!
//! Every group has a cluster of its own, started in half a second, and shares it among its pods.
//! Nothing is timed: deadlines are far away.

mod addons;
mod agents;
mod chaos;
mod chaos_nodes;
mod cni;
mod deletes;
mod faulty_proxy;
mod full_disk;
mod hanging;
mod host_ports;
mod kubelet_cases;
mod leaks;
mod limits;
mod local_clusters;
mod many;
mod pod_network;
mod pod_proxy;
mod recorded;
mod registry;
mod removal;
mod resize;
mod restore;
mod static_pods;
