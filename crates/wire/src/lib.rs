//! Serving HTTP over TLS to peers of whom nothing is known yet. Both the API server and the agents
//! of nodes listen through this.
//!
//! In: a listener, a TLS configuration, a service. Out: answered requests, and connections that
//! end. Every phase of a connection has a deadline (the first bytes, the handshake, the first
//! request, the pause between requests, an answer that is not read), and every peer a number of
//! connections: who opens connections and says nothing closes their own, not those of others.

mod activity;
mod listener;
mod peers;

pub use activity::Guarded;
pub use listener::{Client, Deadlines, Limits, serve};
