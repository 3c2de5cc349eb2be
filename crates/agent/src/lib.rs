//! Node agents: they register nodes, keep them alive and run the pods bound to them.
//!
//! [`node`] is the agent of a real node, with containers, volumes and probes; [`server`] answers
//! clients that ask that node for logs, processes and figures; [`simulated`] plays any number of
//! nodes without all this. What to do about a pod is decided in `brain::podsync`. Knows nothing of
//! the store.

pub mod node;
mod send;
pub mod server;
pub mod simulated;
pub mod tree;
pub mod unverified;
