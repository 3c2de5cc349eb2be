//! What a node's packet rules do for the ports of Services.
//!
//! A [`ServicePort`] is one port of one Service as one node sees it: by which addresses it is
//! reached, and which endpoints this node sends connections to. Which endpoints those are (ready
//! ones, near ones, terminating ones) is decided before; here the lists are final.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::Protocol;

/// Namespace and name of a Service, and the name of its port (empty for the only one).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    pub namespace: String,
    pub service: String,
    pub port: String,
}

/// Where a connection ends: a pod's address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    pub address: IpAddr,
    pub port: u16,
}

/// What happens to connections by one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backends {
    /// To one of these, by chance; never empty.
    To(Vec<Backend>),
    /// The client gets an error at once.
    Reject,
    /// The client hears nothing: there are endpoints, but by policy none for this node.
    Drop,
}

impl Backends {
    pub fn list(&self) -> &[Backend] {
        match self {
            Backends::To(list) => list,
            Backends::Reject | Backends::Drop => &[],
        }
    }
}

/// Sources that may use a load balancer's addresses; all others are dropped there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRanges {
    pub load_balancer_addresses: Vec<IpAddr>,
    pub allowed: Vec<IpNet>,
}

/// One port of a Service on one node, for one family of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub protocol: Protocol,
    pub port: u16,
    pub cluster_address: IpAddr,
    /// At the node's own addresses.
    pub node_port: Option<u16>,
    /// External addresses of the Service and those of its load balancer.
    pub external_addresses: Vec<IpAddr>,
    pub source_ranges: Option<SourceRanges>,
    /// Connections of one client go to the same endpoint until none was made for so long.
    pub affinity_seconds: Option<u32>,
    /// By the cluster address.
    pub internal: Backends,
    /// By node port and external addresses. Where the policy is `Local`, this is for clients in
    /// pods and on the node itself.
    pub external: Backends,
    /// By node port and external addresses for clients from elsewhere, who keep their source
    /// address. None where the policy is `Cluster`.
    pub external_local: Option<Backends>,
    /// Endpoints that may still answer, ready or not. Datagrams of known flows to others are sent
    /// to a new endpoint.
    pub serving: Vec<Backend>,
    /// Endpoints on this node: where they reach themselves, the source address is changed.
    pub on_this_node: Vec<IpAddr>,
}
