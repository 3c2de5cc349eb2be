//! Which peers can be reached and how, and what the kernel should have for that. Pure.
//!
//! A range that could cut this node off from another machine is refused, whoever asks for it: the
//! peer is reported by name, and the others are reached all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use containers::{Peer, Way, WireGuardKey};
use ipnet::{IpNet, Ipv4Net};

use super::{PeerNetworkSettings, ROUTE_PROTOCOL, WIREGUARD_PORT};
use crate::netlink::{Neighbour, Route, RouteScope, Table, WireGuardPeer};

/// Nothing shorter is the range of one node: it would be a part of the Internet.
const PREFIX_MIN: u8 = 8;
/// This host, its loopback, its links, and groups.
const SPECIAL: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
];
/// What hardware addresses begin with: of one interface, and not from a maker's range.
const LOCALLY_ADMINISTERED: u8 = 0xe6;

/// Networks to which this node has a link, by the routes that say so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Neighbourhood(Vec<(Ipv4Net, u32)>);

impl Neighbourhood {
    pub fn of_routes(routes: &[Route]) -> Self {
        let on_link = |route: &&Route| {
            route.gateway.is_none() && route.link != 0 && route.scope == RouteScope::Link && route.protocol != ROUTE_PROTOCOL
        };
        Self(routes.iter().filter(on_link).map(|route| (route.destination, route.link)).collect())
    }

    /// The link on which the address is; the kernel prefers the first of equal ranges.
    fn link_of(&self, address: Ipv4Addr) -> Option<u32> {
        let mut best: Option<(u8, u32)> = None;
        for (network, link) in self.0.iter().filter(|(network, _)| network.contains(&address)) {
            if best.is_none_or(|(prefix, _)| prefix < network.prefix_len()) {
                best = Some((network.prefix_len(), *link));
            }
        }
        best.map(|(_, link)| link)
    }
}

/// How packets leave for a peer's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    Neighbour {
        address: Ipv4Addr,
        link: u32,
    },
    Vxlan {
        address: Ipv4Addr,
    },
    WireGuard {
        address: Ipv4Addr,
        public_key: WireGuardKey,
    },
    /// What cannot be encrypted must not find the default route, and leave in plain text.
    Nowhere,
}

/// The devices of the tunnels, by index; None for one that is not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Devices {
    pub vxlan: Option<u32>,
    pub wireguard: Option<u32>,
}

/// What is wanted of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// By the range of the pods: the peer's name, and the hop.
    hops: BTreeMap<Ipv4Net, (String, Hop)>,
    /// Peers that are not reached, by name: why.
    pub refused: BTreeMap<String, String>,
}

/// Of two peers that want the same, the first in the list has it.
pub fn decide(settings: &PeerNetworkSettings, peers: &[Peer], neighbourhood: &Neighbourhood) -> Desired {
    let addresses: BTreeSet<Ipv4Addr> = peers.iter().filter_map(|peer| ipv4(&peer.address)).collect();
    let mut desired = Desired::default();
    let mut keys = BTreeSet::new();
    for peer in peers {
        let found = checked(settings, peer, &addresses)
            .and_then(|(address, range)| Ok((range, hop(peer.way, address, neighbourhood)?)))
            .and_then(|(range, hop)| desired.room_for(range).map(|()| (range, hop)));
        match found {
            Ok((range, hop)) => {
                desired.hops.insert(range, (peer.name.clone(), hop));
                is_new_key(&mut keys, &hop).unwrap_or_else(|reason| desired.refuse(range, reason));
            }
            Err(reason) => drop(desired.refused.insert(peer.name.clone(), reason)),
        }
    }
    desired
}

/// The peer's address and its range, or why neither can be used.
fn checked(settings: &PeerNetworkSettings, peer: &Peer, addresses: &BTreeSet<Ipv4Addr>) -> Result<(Ipv4Addr, Ipv4Net), String> {
    let (Some(address), IpNet::V4(range)) = (ipv4(&peer.address), peer.pod_cidr) else {
        return Err(format!("address {} and pod range {} must be IPv4: this node has no other pods", peer.address, peer.pod_cidr));
    };
    let range = range.trunc();
    let own = settings.pod_cidr.trunc();
    if address == settings.node_address || own.contains(&address) || SPECIAL.iter().any(|special| special.contains(&address)) {
        return Err(format!("address {address} is this node's own, or of no other machine"));
    }
    if range.prefix_len() < PREFIX_MIN || SPECIAL.iter().any(|special| overlap(*special, range)) {
        return Err(format!("pod range {range} is no range for the pods of a node"));
    }
    if overlap(own, range) {
        return Err(format!("pod range {range} overlaps this node's own, {own}"));
    }
    if range.contains(&settings.node_address) {
        return Err(format!("pod range {range} contains this node's own address {}", settings.node_address));
    }
    match addresses.range(range.network()..=range.broadcast()).next() {
        Some(node) => Err(format!("pod range {range} contains the address {node} of a node")),
        None => Ok((address, range)),
    }
}

fn hop(way: Way, address: Ipv4Addr, neighbourhood: &Neighbourhood) -> Result<Hop, String> {
    match way {
        Way::Direct => match neighbourhood.link_of(address) {
            Some(link) => Ok(Hop::Neighbour { address, link }),
            None => Err(format!("address {address} is on no network of this node, so its pods cannot be reached without a tunnel")),
        },
        Way::Vxlan => Ok(Hop::Vxlan { address }),
        Way::WireGuard { public_key } => Ok(Hop::WireGuard { address, public_key }),
    }
}

/// WireGuard knows peers by their keys: with the key of another, a node would take its place.
fn is_new_key(keys: &mut BTreeSet<WireGuardKey>, hop: &Hop) -> Result<(), String> {
    match hop {
        Hop::WireGuard { public_key, .. } if !keys.insert(*public_key) => Err("another node has the same WireGuard key".to_owned()),
        _ => Ok(()),
    }
}

impl Desired {
    /// Ranges that are in use do not overlap, so only those next to a new one can.
    fn room_for(&self, range: Ipv4Net) -> Result<(), String> {
        let before = self.hops.range(..range).next_back();
        let after = self.hops.range(range..).next();
        match before.into_iter().chain(after).find(|(other, _)| overlap(**other, range)) {
            Some((other, (name, _))) => Err(format!("pod range {range} overlaps {other} of node {name}")),
            None => Ok(()),
        }
    }

    pub fn has_vxlan(&self) -> bool {
        self.hops.values().any(|(_, hop)| matches!(hop, Hop::Vxlan { .. }))
    }

    pub fn has_wireguard(&self) -> bool {
        self.hops.values().any(|(_, hop)| matches!(hop, Hop::WireGuard { .. }))
    }

    /// Gives up the peers with such a hop, for one reason.
    pub fn refuse_all(&mut self, reason: &str, is_concerned: impl Fn(&Hop) -> bool) {
        let concerned: Vec<Ipv4Net> = self.hops.iter().filter(|(_, (_, hop))| is_concerned(hop)).map(|(range, _)| *range).collect();
        concerned.into_iter().for_each(|range| self.refuse(range, reason.to_owned()));
    }

    /// Reports the peer with this range.
    pub fn refuse(&mut self, range: Ipv4Net, reason: String) {
        let Some((name, hop)) = self.hops.remove(&range) else { return };
        self.refused.insert(name.clone(), reason);
        if matches!(hop, Hop::WireGuard { .. }) {
            self.hops.insert(range, (name, Hop::Nowhere));
        }
    }

    pub fn routes(&self, devices: Devices) -> BTreeMap<Ipv4Net, Route> {
        let route = |range: Ipv4Net, hop: &Hop| match *hop {
            Hop::Neighbour { address, link } => Some(Route::via(range, address, link)),
            Hop::Vxlan { .. } => Some(Route { onlink: true, ..Route::via(range, range.network(), devices.vxlan?) }),
            Hop::WireGuard { .. } => Some(Route::to_link(range, devices.wireguard?)),
            Hop::Nowhere => Some(Route::unreachable(range)),
        };
        let routes = self.hops.iter().filter_map(|(range, (_, hop))| route(*range, hop));
        routes.map(|route| (route.destination, Route { protocol: ROUTE_PROTOCOL, ..route })).collect()
    }

    /// For each peer the hardware address of its device, and the machine where that is.
    pub fn neighbours(&self, devices: Devices) -> BTreeSet<Neighbour> {
        let Some(link) = devices.vxlan else { return BTreeSet::new() };
        let entries = |range: &Ipv4Net, hop: &Hop| match *hop {
            Hop::Vxlan { address } => [(Table::Addresses, range.network()), (Table::Forwarding, address)]
                .map(|(table, address)| Neighbour { table, link, address, hardware_address: hardware_address(*range) })
                .to_vec(),
            _ => Vec::new(),
        };
        self.hops.iter().flat_map(|(range, (_, hop))| entries(range, hop)).collect()
    }

    pub fn wireguard_peers(&self) -> BTreeMap<WireGuardKey, WireGuardPeer> {
        let peer = |range: &Ipv4Net, hop: &Hop| match *hop {
            Hop::WireGuard { address, public_key } => {
                Some((public_key, WireGuardPeer { endpoint: SocketAddrV4::new(address, WIREGUARD_PORT), allowed: *range }))
            }
            _ => None,
        };
        self.hops.iter().filter_map(|(range, (_, hop))| peer(range, hop)).collect()
    }
}

/// Of the VXLAN device of the node with this range: each node computes that of the others, and no
/// two ranges have the same.
pub fn hardware_address(range: Ipv4Net) -> [u8; 6] {
    let [a, b, c, d] = range.network().octets();
    [LOCALLY_ADMINISTERED, range.prefix_len(), a, b, c, d]
}

/// The range for which [`hardware_address`] makes this address.
pub fn range_of(hardware_address: [u8; 6]) -> Option<Ipv4Net> {
    let [_, prefix, a, b, c, d] = hardware_address;
    Ipv4Net::new(Ipv4Addr::new(a, b, c, d), prefix).ok()
}

fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

fn ipv4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const KEY: Way = Way::WireGuard { public_key: WireGuardKey([1; 32]) };

    fn settings() -> PeerNetworkSettings {
        PeerNetworkSettings::new(Ipv4Addr::new(192, 168, 0, 1), "10.244.1.0/24".parse().expect("a range"))
    }

    fn peer(name: &str, address: &str, range: &str, way: Way) -> Peer {
        let (address, pod_cidr) = (address.parse().expect("an address"), range.parse().expect("a range"));
        Peer { name: name.to_owned(), address, pod_cidr, way }
    }

    /// This node's routes: a network, its own pods, and one of ours.
    fn neighbourhood() -> Neighbourhood {
        let to = |destination: &str, link| Route::to_link(destination.parse().expect("a range"), link);
        let via = Route::via("192.168.9.0/24".parse().expect("a range"), Ipv4Addr::new(192, 168, 0, 254), 2);
        let ours = Route { protocol: ROUTE_PROTOCOL, ..to("192.168.8.0/24", 9) };
        Neighbourhood::of_routes(&[to("192.168.0.0/24", 2), to("192.168.0.128/25", 3), to("10.244.1.2/32", 5), via, ours])
    }

    fn decided(peers: &[Peer]) -> Desired {
        decide(&settings(), peers, &neighbourhood())
    }

    fn check(peers: &[Peer], expected: Expect) {
        let desired = decided(peers);
        let devices = Devices { vxlan: Some(11), wireguard: Some(12) };
        let mut text = String::new();
        for route in desired.routes(devices).values() {
            let gateway = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
            let onlink = if route.onlink { " onlink" } else { "" };
            let kind = if route.is_unreachable { "unreachable " } else { "" };
            text += &format!("{kind}{}{gateway} dev {}{onlink} proto {}\n", route.destination, route.link, route.protocol.0);
        }
        for entry in desired.neighbours(devices) {
            text += &format!("{:?} {} is {} dev {}\n", entry.table, entry.address, hex::encode(entry.hardware_address), entry.link);
        }
        for (key, peer) in desired.wireguard_peers() {
            text += &format!("peer {}: {} at {}\n", hex::encode(&key.0[..2]), peer.allowed, peer.endpoint);
        }
        for (name, reason) in &desired.refused {
            text += &format!("not {name}: {reason}\n");
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn each_way_has_its_entries() {
        let peers = [
            peer("direct", "192.168.0.2", "10.244.2.0/24", Way::Direct),
            peer("narrower", "192.168.0.200", "10.244.3.0/24", Way::Direct),
            peer("vxlan", "192.168.9.2", "10.244.4.0/24", Way::Vxlan),
            peer("wireguard", "192.168.9.3", "10.244.5.7/24", KEY),
        ];
        check(
            &peers,
            expect![[r#"
            10.244.2.0/24 via 192.168.0.2 dev 2 proto 101
            10.244.3.0/24 via 192.168.0.200 dev 3 proto 101
            10.244.4.0/24 via 10.244.4.0 dev 11 onlink proto 101
            10.244.5.0/24 dev 12 proto 101
            Addresses 10.244.4.0 is e6180af40400 dev 11
            Forwarding 192.168.9.2 is e6180af40400 dev 11
            peer 0101: 10.244.5.0/24 at 192.168.9.3:14790
        "#]],
        );
    }

    #[test]
    fn what_would_cut_a_node_off_is_refused() {
        let peers = [
            peer("everything", "192.168.9.2", "0.0.0.0/0", Way::Vxlan),
            peer("half", "192.168.9.3", "128.0.0.0/1", Way::Vxlan),
            peer("loopback", "192.168.9.4", "127.0.0.0/24", Way::Vxlan),
            peer("metadata", "192.168.9.5", "169.254.169.254/32", Way::Vxlan),
            peer("groups", "192.168.9.6", "239.0.0.0/8", Way::Vxlan),
            peer("mine", "192.168.9.7", "10.244.0.0/16", Way::Vxlan),
            peer("a part of mine", "192.168.9.8", "10.244.1.128/25", Way::Vxlan),
            peer("my address", "192.168.9.9", "192.168.0.0/24", Way::Vxlan),
            peer("an address", "192.168.9.10", "192.168.9.0/28", Way::Vxlan),
            peer("its own address", "10.9.0.1", "10.9.0.0/24", Way::Vxlan),
            peer("me", "192.168.0.1", "10.244.9.0/24", Way::Vxlan),
            peer("my pod", "10.244.1.9", "10.244.10.0/24", Way::Vxlan),
            peer("nowhere", "0.0.0.0", "10.244.11.0/24", Way::Vxlan),
            peer("ipv6", "fd00::1", "fd01::/64", Way::Vxlan),
            peer("mixed", "192.168.9.11", "fd01::/64", Way::Vxlan),
            peer("sound", "192.168.9.12", "10.244.2.0/24", Way::Vxlan),
        ];
        check(
            &peers,
            expect![[r#"
            10.244.2.0/24 via 10.244.2.0 dev 11 onlink proto 101
            Addresses 10.244.2.0 is e6180af40200 dev 11
            Forwarding 192.168.9.12 is e6180af40200 dev 11
            not a part of mine: pod range 10.244.1.128/25 overlaps this node's own, 10.244.1.0/24
            not an address: pod range 192.168.9.0/28 contains the address 192.168.9.2 of a node
            not everything: pod range 0.0.0.0/0 is no range for the pods of a node
            not groups: pod range 239.0.0.0/8 is no range for the pods of a node
            not half: pod range 128.0.0.0/1 is no range for the pods of a node
            not ipv6: address fd00::1 and pod range fd01::/64 must be IPv4: this node has no other pods
            not its own address: pod range 10.9.0.0/24 contains the address 10.9.0.1 of a node
            not loopback: pod range 127.0.0.0/24 is no range for the pods of a node
            not me: address 192.168.0.1 is this node's own, or of no other machine
            not metadata: pod range 169.254.169.254/32 is no range for the pods of a node
            not mine: pod range 10.244.0.0/16 overlaps this node's own, 10.244.1.0/24
            not mixed: address 192.168.9.11 and pod range fd01::/64 must be IPv4: this node has no other pods
            not my address: pod range 192.168.0.0/24 contains this node's own address 192.168.0.1
            not my pod: address 10.244.1.9 is this node's own, or of no other machine
            not nowhere: address 0.0.0.0 is this node's own, or of no other machine
        "#]],
        );
    }

    #[test]
    fn of_two_the_first_has_it() {
        let peers = [
            peer("a", "192.168.9.2", "10.244.2.0/24", KEY),
            peer("same range", "192.168.9.3", "10.244.2.0/24", Way::Vxlan),
            peer("wider", "192.168.9.4", "10.244.2.0/23", Way::Vxlan),
            peer("narrower", "192.168.9.5", "10.244.2.128/25", Way::Vxlan),
            peer("same key", "192.168.9.6", "10.244.4.0/24", KEY),
            peer("next", "192.168.9.7", "10.244.3.0/24", Way::Vxlan),
        ];
        check(
            &peers,
            expect![[r#"
                10.244.2.0/24 dev 12 proto 101
                10.244.3.0/24 via 10.244.3.0 dev 11 onlink proto 101
                unreachable 10.244.4.0/24 dev 0 proto 101
                Addresses 10.244.3.0 is e6180af40300 dev 11
                Forwarding 192.168.9.7 is e6180af40300 dev 11
                peer 0101: 10.244.2.0/24 at 192.168.9.2:14790
                not narrower: pod range 10.244.2.128/25 overlaps 10.244.2.0/24 of node a
                not same key: another node has the same WireGuard key
                not same range: pod range 10.244.2.0/24 overlaps 10.244.2.0/24 of node a
                not wider: pod range 10.244.2.0/23 overlaps 10.244.2.0/24 of node a
            "#]],
        );
    }

    #[test]
    fn a_direct_peer_is_on_a_network_of_this_node() {
        let peers = [
            peer("behind a gateway", "192.168.9.2", "10.244.2.0/24", Way::Direct),
            peer("behind our own route", "192.168.8.2", "10.244.3.0/24", Way::Direct),
        ];
        let refused: Vec<String> = decided(&peers).refused.into_keys().collect();
        assert_eq!(refused, ["behind a gateway", "behind our own route"]);
    }

    /// Without a route of its own, the pods' traffic would follow the default route.
    #[test]
    fn what_cannot_be_encrypted_goes_nowhere() {
        let mut desired = decided(&[peer("a", "192.168.9.2", "10.244.2.0/24", KEY)]);
        desired.refuse_all("no device", |hop| matches!(hop, Hop::WireGuard { .. }));
        assert!(desired.routes(Devices::default()).values().all(|route| route.is_unreachable));
        assert_eq!((desired.routes(Devices::default()).len(), desired.has_wireguard()), (1, false));
        assert_eq!(desired.refused.keys().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn without_a_device_there_is_no_way() {
        let mut desired = decided(&[
            peer("vxlan", "192.168.9.2", "10.244.4.0/24", Way::Vxlan),
            peer("direct", "192.168.0.2", "10.244.2.0/24", Way::Direct),
        ]);
        desired.refuse_all("no device", |hop| matches!(hop, Hop::Vxlan { .. }));
        assert_eq!(desired.refused.keys().collect::<Vec<_>>(), ["vxlan"]);
        assert_eq!(desired.routes(Devices::default()).len(), 1);
        assert_eq!(decided(&[peer("vxlan", "192.168.9.2", "10.244.4.0/24", Way::Vxlan)]).routes(Devices::default()).len(), 0);
    }
}
