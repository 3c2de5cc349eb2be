//! The other nodes of a cluster, as the network of this node is asked to reach their pods.

use std::net::IpAddr;

use ipnet::IpNet;

/// What a node's pods get their addresses from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRange {
    /// Of this node, one for each family at most, the main one first.
    pub own: Vec<IpNet>,
    /// Of all nodes.
    pub cluster: Vec<IpNet>,
}

/// Another node, and how its pods are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node's name.
    pub name: String,
    /// The node's own address.
    pub address: IpAddr,
    /// The range of the node's pods, of the same family as the address.
    pub pod_cidr: IpNet,
    pub way: Way,
}

/// How packets for a node's pods travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// By a route through the node's address, which is on a network of this node.
    Direct,
    /// In VXLAN packets to the node's address.
    Vxlan,
    /// Encrypted with WireGuard, to the node that has this public key.
    WireGuard { public_key: WireGuardKey },
}

/// A key of WireGuard: 32 bytes of Curve25519.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireGuardKey(pub [u8; 32]);
