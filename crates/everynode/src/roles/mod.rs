//! The roles of a process: what is started, in which order, and when it is ready.

pub mod agent;
pub mod server;
