//! The Kubernetes API over the store: HTTP surface, authentication, authorization, admission, watch
//! cache.
//!
//! In: HTTP requests, from the network over TLS ([`http::serve`]) or from within the process
//! ([`http::service::ApiServer::as_user`]). Out: answers and watch streams as Kubernetes 1.36 gives
//! them; what only a node can answer (logs, processes, ports, figures) is asked of its agent
//! ([`nodes`]). Knows nothing of controllers; what kinds there are and what their fields mean is
//! the crate `kinds`'s.

pub mod admission;
pub mod audit;
pub mod auth;
pub mod bootstrap;
pub mod http;
pub mod metrics;
pub mod nodes;
pub mod registry;

pub use crate::http::service::{ApiServer, LocalService};

#[cfg(test)]
mod tests;
