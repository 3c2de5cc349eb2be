//! The programs inside the built-in DaemonSets of `kube-system`: what a node needs from the
//! cluster.
//!
//! [`pod_network`] keeps the ways to pods of other nodes, [`kube_proxy`] the rules for addresses of
//! Services, [`node_dns`] answers for names. Each
//! program follows the cluster with a client of its own ([`follow`]), asks `brain` what to do, and
//! does it through `net`. None of them keeps anything that it needs after a restart. What they made
//! stays when they end, so that a new version can take over, and goes when their DaemonSet does
//! ([`OwnSet`]).

pub mod kube_proxy;

pub mod node_dns;

pub mod pod_network;

mod follow;
mod removal;

pub use removal::OwnSet;
