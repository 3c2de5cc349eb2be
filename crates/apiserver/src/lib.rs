//! The Kubernetes API over the store: HTTP surface, authentication, authorization, admission, watch
//! cache.
//!
//! In: HTTP requests, from the network over TLS ([`http::serve`]) or from within the process
//! ([`ApiServer::as_user`]). Out: answers and watch streams as Kubernetes 1.36 gives them; what
//! only a node can answer (logs, processes, ports, figures) is asked of its agent ([`nodes`]).
//! Knows nothing of controllers; what kinds there are and what their fields mean is the crate
//! `kinds`'s.
//!
//! The modules stand from the bottom up: each imports only from those above it (`cargo xtask tidy`
//! has the table).

pub mod body;
pub mod request;

pub mod registry;

pub mod auth;

pub mod admission;
pub mod audit;
mod metrics;
pub mod nodes;

pub mod http;

pub mod bootstrap;

pub use crate::http::server::ApiServer;
pub use crate::http::service::LocalService;

#[cfg(test)]
mod tests;
