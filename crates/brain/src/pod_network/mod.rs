//! How a node reaches the pods of the other nodes: what the built-in DaemonSet `pod-network`
//! decides on each node.
//!
//! In go all Node objects, what this node is connected to ([`Site`]), and what was decided last;
//! out come the other nodes with the way to each, as `net` writes them to the kernel, and why some
//! were left out. A node says of itself where it is and which range its pods have, so the rules
//! assume that one of them lies: where two claim the same, the one that had it keeps it, and among
//! new ones the older Node object gets it. A node that the server has lost gives way to those that
//! live. No claim leads pods' packets outside the cluster's range, or a node's own packets into it.

mod condition;
mod member;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;

use containers::{Peer, Way, WireGuardKey};
use ipnet::{IpNet, Ipv4Net};

pub use condition::{Condition, condition};
pub use member::{Member, key_annotation};

/// How packets between nodes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// By routes, where the other node is on a network of this node; in VXLAN packets otherwise.
    #[default]
    Direct,
    /// All in VXLAN packets, for networks that drop what has the address of a pod.
    Vxlan,
    /// All encrypted, with WireGuard.
    WireGuard,
}

impl Mode {
    pub const ALL: [Mode; 3] = [Mode::Direct, Mode::Vxlan, Mode::WireGuard];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Direct => "direct",
            Mode::Vxlan => "vxlan",
            Mode::WireGuard => "wireguard",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to connect pods: there are direct, vxlan and wireguard")]
pub struct UnknownMode(String);

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Mode, UnknownMode> {
        Mode::ALL.into_iter().find(|mode| mode.to_string() == text).ok_or_else(|| UnknownMode(text.to_owned()))
    }
}

/// The node that decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub node: Arc<str>,
    pub mode: Mode,
    /// All pods of the cluster.
    pub cluster_cidr: Ipv4Net,
    /// The networks that this node is connected to.
    pub networks: Vec<Ipv4Net>,
}

/// What a node does about all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// This node's part of the network.
    pub own: Result<Own, Problem>,
    /// By name.
    pub peers: Vec<Peer>,
    /// Nodes whose pods are not reached.
    pub left_out: BTreeMap<Arc<str>, Problem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    pub address: Ipv4Addr,
    pub pod_cidr: Ipv4Net,
}

/// Why a node has no part in the network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("there is no Node object")]
    NoNode,
    #[error("the node has no range of IPv4 addresses for pods yet (spec.podCIDRs)")]
    NoRange,
    #[error("the node has no IPv4 address (status.addresses, InternalIP)")]
    NoAddress,
    #[error("its range {range} is not a part of the cluster's, {cluster}")]
    OutsideCluster { range: Ipv4Net, cluster: Ipv4Net },
    #[error("its range {range} overlaps that of node {node}, which had it before")]
    RangeTaken { range: Ipv4Net, node: Arc<str> },
    #[error("nodes cannot be reached at {0}")]
    NoNodeAddress(Ipv4Addr),
    #[error("its address {address} is one for pods ({cluster})")]
    AddressOfPods { address: Ipv4Addr, cluster: Ipv4Net },
    #[error("its address {address} is that of node {node}, which had it before")]
    AddressTaken { address: Ipv4Addr, node: Arc<str> },
    #[error("it has not published a WireGuard key yet")]
    NoKey,
    #[error("its WireGuard key is that of node {node}, which had it before")]
    KeyTaken { node: Arc<str> },
}

/// Decides about all nodes, in any order. `before`: what was decided last; whoever had something
/// then keeps it.
pub fn decide<'a>(site: &Site, members: impl Iterator<Item = &'a Member>, before: Option<&Decision>) -> Decision {
    let held = before.map(|before| before.holders(site)).unwrap_or_default();
    let mut members: Vec<&Member> = members.collect();
    // A machine that took over the address of one that is gone is not held up by what is left of
    // it.
    members.sort_by_cached_key(|member| (member.is_lost, !member.holds(held.get(&*member.name)), member.age()));
    let mut claims = Claims::default();
    let mut decision = Decision { own: Err(Problem::NoNode), peers: Vec::new(), left_out: BTreeMap::new() };
    for member in members {
        let claimed = claims.take(site, member);
        if member.name == site.node {
            decision.own = claimed;
            continue;
        }
        match claimed.and_then(|own| Ok((own, claims.way(site, member, own.address)?))) {
            Ok((own, way)) => decision.peers.push(Peer {
                name: member.name.to_string(),
                address: own.address.into(),
                pod_cidr: IpNet::V4(own.pod_cidr),
                way,
            }),
            Err(problem) => drop(decision.left_out.insert(member.name.clone(), problem)),
        }
    }
    decision.peers.sort_by(|a, b| a.name.cmp(&b.name));
    decision
}

impl Decision {
    /// What each node had, by name.
    fn holders<'a>(&'a self, site: &'a Site) -> BTreeMap<&'a str, Held> {
        let peers = self.peers.iter().map(|peer| {
            let key = match peer.way {
                Way::WireGuard { public_key } => Some(public_key),
                Way::Direct | Way::Vxlan => None,
            };
            (peer.name.as_str(), Held { address: peer.address, pod_cidr: peer.pod_cidr, key })
        });
        let own = self.own.iter().map(|own| {
            let held = Held { address: own.address.into(), pod_cidr: IpNet::V4(own.pod_cidr), key: None };
            (&*site.node, held)
        });
        peers.chain(own).collect()
    }
}

/// What a node has and others cannot take.
#[derive(Debug, Clone, Copy)]
struct Held {
    address: IpAddr,
    pod_cidr: IpNet,
    key: Option<WireGuardKey>,
}

/// What the nodes so far have.
#[derive(Default)]
struct Claims {
    /// By first address: the range, and whose it is. They do not overlap.
    ranges: BTreeMap<Ipv4Addr, (Ipv4Net, Arc<str>)>,
    addresses: BTreeMap<Ipv4Addr, Arc<str>>,
    keys: BTreeMap<WireGuardKey, Arc<str>>,
}

impl Claims {
    fn take(&mut self, site: &Site, member: &Member) -> Result<Own, Problem> {
        let address = member.address().ok_or(Problem::NoAddress)?;
        let range = member.pod_cidr().ok_or(Problem::NoRange)?;
        let cluster = site.cluster_cidr;
        if !cluster.contains(&range) {
            return Err(Problem::OutsideCluster { range, cluster });
        }
        if cluster.contains(&address) {
            return Err(Problem::AddressOfPods { address, cluster });
        }
        if !is_of_a_node(address) {
            return Err(Problem::NoNodeAddress(address));
        }
        if let Some(node) = self.addresses.get(&address) {
            return Err(Problem::AddressTaken { address, node: node.clone() });
        }
        // Ranges do not overlap each other, so the last one that begins before this one ends is the
        // one to look at.
        let before = self.ranges.range(..=range.broadcast()).next_back().map(|(_, claim)| claim);
        if let Some((_, node)) = before.filter(|(other, _)| other.broadcast() >= range.network()) {
            return Err(Problem::RangeTaken { range, node: node.clone() });
        }
        self.addresses.insert(address, member.name.clone());
        self.ranges.insert(range.network(), (range, member.name.clone()));
        Ok(Own { address, pod_cidr: range })
    }

    fn way(&mut self, site: &Site, member: &Member, address: Ipv4Addr) -> Result<Way, Problem> {
        match site.mode {
            Mode::Direct if site.networks.iter().any(|network| network.contains(&address)) => Ok(Way::Direct),
            Mode::Direct | Mode::Vxlan => Ok(Way::Vxlan),
            Mode::WireGuard => {
                let public_key = member.key.ok_or(Problem::NoKey)?;
                // The kernel knows peers by their keys: the later of two would get all packets.
                match self.keys.get(&public_key) {
                    Some(node) => Err(Problem::KeyTaken { node: node.clone() }),
                    None => {
                        self.keys.insert(public_key, member.name.clone());
                        Ok(Way::WireGuard { public_key })
                    }
                }
            }
        }
    }
}

fn is_of_a_node(address: Ipv4Addr) -> bool {
    let is_special = address.is_unspecified() || address.is_loopback() || address.is_link_local();
    !(is_special || address.is_multicast() || address.is_broadcast())
}

/// The nodes that are named in one of two decisions' lists of nodes left out, and not alike in the
/// other: what is worth telling.
pub fn newly_left_out<'a>(before: &'a Decision, now: &'a Decision) -> impl Iterator<Item = (&'a Arc<str>, &'a Problem)> {
    now.left_out.iter().filter(|(name, problem)| before.left_out.get(*name) != Some(*problem))
}

/// Networks of a node that others may be on: not single addresses, and not those of pods.
pub fn shared_networks(addresses: impl Iterator<Item = Ipv4Net>, cluster_cidr: Ipv4Net) -> Vec<Ipv4Net> {
    let is_shared = |network: &Ipv4Net| {
        let is_of_pods = cluster_cidr.contains(network) || network.contains(&cluster_cidr);
        network.prefix_len() < 32 && !network.addr().is_loopback() && !is_of_pods
    };
    addresses.map(|address| address.trunc()).filter(is_shared).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests;
