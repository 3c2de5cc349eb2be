//! Pods and local nodes with real namespaces, links, rules and traffic.
//!
//! Each test makes its own world: a namespace that plays the node (or the host), others for pods
//! and for a client outside. Nothing in the namespace of the test process changes. Namespaces live
//! as long as files in this process do, so that nothing outlives a panic.

mod local;
mod peers;
mod pods;
mod rules;
mod services;
mod sources;
mod world;

use testing::Need;

/// What every test here needs.
pub const NEEDS: [Need<'_>; 2] = [Need::Root, Need::Namespaces];
