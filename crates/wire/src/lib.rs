//! What several parts speak on the network: HTTP over TLS served to peers that are not known yet
//! ([`serve`]), [`query`] parameters, calls of gRPC ([`grpc`]), frames of SPDY ([`spdy`]).
//!
//! Both the API server and the agents of nodes listen through [`serve`].
//!
//! In: a listener, a TLS configuration, a service. Out: answered requests, and connections that
//! end. Every phase of a connection has a deadline (the first bytes, the handshake, the first
//! request, the pause between requests, an answer that is not read), and every peer a number of
//! connections: a peer that opens connections and says nothing closes its own, not those of others.
//! [`plain`] is the small server without TLS for health checks and figures.

mod activity;
mod listener;
mod peers;
mod quota;

pub mod grpc;
pub mod plain;
pub mod query;
pub mod spdy;

pub use activity::Guarded;
pub use listener::{Client, Deadlines, Limits, serve};
pub use quota::{Place, Quota};
