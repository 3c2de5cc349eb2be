//! SPDY/3.1 as Kubernetes' clients speak it, on the frames of [`wire::spdy`]: streams in both
//! directions.
//!
//! Receiving windows are kept open by what was taken from the inlets. Sending does not wait for
//! windows: the Go implementation that all clients of Kubernetes use never widens them, so that
//! waiting would end every stream after 64 KiB. What bounds memory is that frames are written one
//! after the other to a socket that takes no more than its buffer.

mod connection;

#[cfg(test)]
mod tests;

pub use connection::{Client, Incoming, serve};
pub use wire::spdy::Headers;
