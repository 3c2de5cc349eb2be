//! Local clusters: the nodes of one cluster as network namespaces on this host, connected by a
//! bridge.
//!
//! [`choose_subnet`] finds ranges that nothing here uses, [`Bridge::ensure`] makes the bridge with
//! its rules, [`Bridge::connect`] gives a node's namespace its `eth0`. The host routes between the
//! pods of the nodes and masquerades what leaves the cluster. Everything can be repeated, and
//! [`Bridge::remove`] finds by names what an earlier process made.
//!
//! All functions block for a few milliseconds and work in the calling thread's network namespace.

mod bridge;
mod subnet;

use std::io;

use ipnet::Ipv4Net;

pub use bridge::{Bridge, NodeLink, PodRoutes};
pub use subnet::{Subnet, choose_subnet, plan_subnet};

use crate::netlink::NetlinkError;

#[derive(Debug, thiserror::Error)]
pub enum LocalNetworkError {
    #[error("no range of {0} is free on this host")]
    NoSubnetLeft(Ipv4Net),
    #[error("network namespace of process {pid}")]
    Namespace {
        pid: u32,
        #[source]
        cause: io::Error,
    },
    #[error("turn on forwarding of packets")]
    Forwarding(#[source] io::Error),
    #[error("close interface {interface} to IPv6 routers")]
    Ipv6 {
        interface: String,
        #[source]
        cause: io::Error,
    },
    #[error("open a socket to the kernel's network")]
    Socket(#[source] io::Error),
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
}

pub type Result<T> = std::result::Result<T, LocalNetworkError>;
