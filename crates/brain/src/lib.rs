//! Deciders: pure functions from a view of the cluster to a plan with reasons. No I/O, no clock, no
//! randomness, no logging.
//!
//! A decider sees data (with everything it may look at, the time included) and returns a plan:
//! requests with their preconditions, status, and notes that say why. The shells in `controllers`
//! keep the picture of the cluster and perform the plans; `why`, `plan`, the simulator and the
//! model checker use the same deciders.

pub mod controller;
pub mod controllers;
pub mod execution;
pub mod model;
pub mod picture;
pub mod queue;
pub mod request;
pub mod selected;

pub mod cluster_roles;
pub mod daemonset;
pub mod disruption;
pub mod dns;
pub mod endpoints;
pub mod events;
pub mod gc;
pub mod history;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod podgc;
pub mod quota;
pub mod scheduler;
pub mod service_account;
pub mod service_cidr;
pub mod taint_eviction;
pub mod ttl;

pub mod placement;

pub mod pod_network;
pub mod podsync;
pub mod proxy;

pub mod forecast;
pub mod pretend;
pub mod why;

#[cfg(test)]
mod fixture;
