//! What the kernel is asked over netlink, with blocking sockets and plain byte encoding.
//!
//! A request takes microseconds, so blocking costs less than a task per connection would; callers
//! that are async put a whole piece of work on a blocking thread. Nothing here knows about pods or
//! clusters.

mod attribute;
mod conntrack;
mod link;
mod neighbour;
mod route;
mod socket;
mod wireguard;

use std::io;

pub use attribute::{Attribute, Attributes, attributes};
pub use conntrack::{UdpPort, flush_stale_udp, flush_udp};
pub use link::{DeviceSettings, Link, Pair, Veth, Vxlan};
pub use neighbour::{Neighbour, Table};
pub use route::{Address, Existing, Route, RouteProtocol, RouteScope, RouteSocket};
pub use socket::{Family, Message, Reply, Socket};
pub use wireguard::{WireGuardDevice, WireGuardPeer, WireGuardSocket};

/// A request that the kernel refused, or could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("netlink: {operation}")]
pub struct NetlinkError {
    pub operation: String,
    #[source]
    pub cause: io::Error,
}

impl NetlinkError {
    pub(crate) fn new(operation: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self { operation: operation.into(), cause: cause.into() }
    }

    /// The kernel's error number, when it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        self.cause.raw_os_error()
    }

    pub(crate) fn is(&self, errno: i32) -> bool {
        self.errno() == Some(errno)
    }
}

pub type Result<T> = std::result::Result<T, NetlinkError>;

/// Turns the answer "it is not there" into success: what is to be removed may be gone.
pub(crate) fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if says_gone(&error.cause) => Ok(()),
        other => other,
    }
}

/// Whether the kernel refused because there is nothing of that name.
pub(crate) fn says_gone(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|errno| [libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL].contains(&errno))
}
