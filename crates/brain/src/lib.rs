//! Deciders: pure functions from a view of the cluster to a plan with reasons. No I/O, no clock, no randomness, no logging.
//!
//! A decider sees a `View` (with everything it may look at, the time included) and returns a `Plan`: actions with their
//! preconditions, status, and notes that say why. The shells in `controllers` take snapshots and perform plans.

pub mod daemonset;
pub mod scheduler;

pub mod placement;
