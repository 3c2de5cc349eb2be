//! The pods of nodes on other machines: routes to them, plain or through tunnels.
//!
//! A peer is reached by one of three ways. Direct: a route through the node's address, which is on
//! a network of this node. VXLAN: a device whose every entry is set here, so that it neither asks
//! nor learns. WireGuard: a device of the kernel, or one that this process drives where the kernel
//! has none ([`wireguard`]).
//!
//! [`desired`] says what the kernel should have; [`PeerNetwork::apply`] looks at what it has and
//! sends the difference. Devices are told apart by their names, routes by the number of their
//! maker, so that what an earlier process left is found, and what others made is left alone.
//!
//! [`PeerNetwork`] must be opened in the node's network namespace; afterwards it may be used from
//! anywhere. It blocks. What it made survives the process, but for a WireGuard device that the
//! process drives itself.
//!
//! IPv4 is what works today.

mod desired;
mod devices;
mod wireguard;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;

use containers::{Peer, WireGuardKey};
use ipnet::Ipv4Net;

use crate::netlink::{Existing, Family, Message, Neighbour, NetlinkError, Route, RouteProtocol, RouteSocket, Socket, Table, says_gone};
use crate::{namespace, obstacles};
use desired::{Desired, Devices, Hop, Neighbourhood};
use wireguard::WireGuard;

/// Who made our routes. The kernel's list of known programs (rtnetlink.h) and iproute2's have other
/// numbers.
const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol(101);
/// The number of our network in VXLAN packets: neither flannel's (1) nor Calico's (4096).
const VXLAN_ID: u32 = 0x65_766e;
/// Both ports are free at IANA, and below those that Linux gives to clients: flannel and Cilium
/// have 8472, 51820, 51821 and 51871.
pub const VXLAN_PORT: u16 = 14789;
pub const WIREGUARD_PORT: u16 = 14790;

/// Who encrypts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WireGuardDriver {
    /// The kernel, or this process where the kernel has no WireGuard.
    #[default]
    KernelIfKnown,
    Process,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerNetworkSettings {
    /// Where other nodes send tunnels' packets for this node.
    pub node_address: Ipv4Addr,
    /// The pods of this node. Its first address, which no pod has, is what the node itself shows to
    /// pods behind tunnels.
    pub pod_cidr: Ipv4Net,
    pub wireguard: WireGuardDriver,
}

impl PeerNetworkSettings {
    pub fn new(node_address: Ipv4Addr, pod_cidr: Ipv4Net) -> Self {
        Self { node_address, pod_cidr, wireguard: WireGuardDriver::default() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PeerNetworkError {
    #[error("turn on forwarding of packets")]
    Forwarding(#[source] io::Error),
    #[error("open a socket to the kernel's network")]
    Socket(#[source] io::Error),
    #[error("close interface {interface} to IPv6 routers")]
    Ipv6 {
        interface: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error("make a WireGuard key")]
    Key(#[source] io::Error),
    #[error("make WireGuard device {name} (the kernel has none of its own)")]
    Process {
        name: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
}

pub type Result<T> = std::result::Result<T, PeerNetworkError>;

/// What one call did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Messages that change something; 0 when everything was as it should be.
    pub messages: usize,
    /// The peers whose pods are not reached, by name: why.
    pub failed: BTreeMap<String, String>,
}

#[derive(Debug)]
pub struct PeerNetwork {
    settings: PeerNetworkSettings,
    namespace: File,
    route: RouteSocket,
    netfilter: Socket,
    wireguard: WireGuard,
    /// Others know our key, so the device that has it stays even while there is no peer.
    is_key_known: bool,
}

impl PeerNetwork {
    pub fn open(settings: PeerNetworkSettings) -> Result<Self> {
        namespace::set_sysctl("ipv4/ip_forward", "1").map_err(PeerNetworkError::Forwarding)?;
        let namespace = namespace::current().map_err(PeerNetworkError::Socket)?;
        let route = RouteSocket::open().map_err(PeerNetworkError::Socket)?;
        let netfilter = Socket::open(Family::Netfilter).map_err(PeerNetworkError::Socket)?;
        let wireguard = WireGuard::new(settings.wireguard);
        Ok(Self { settings, namespace, route, netfilter, wireguard, is_key_known: false })
    }

    /// The node has another address now; what follows from that comes with the next
    /// [`PeerNetwork::apply`].
    pub fn set_node_address(&mut self, address: Ipv4Addr) {
        self.settings.node_address = address;
    }

    /// The key by which others may encrypt for this node. Makes the device that has the private
    /// one, unless it is there.
    pub fn public_key(&mut self) -> Result<WireGuardKey> {
        self.is_key_known = true;
        Ok(self.ensure_wireguard()?.public_key)
    }

    /// Makes these the peers that are reached. Sends only what differs from what the kernel has. To
    /// be called again when peers change, and now and then: a link that goes down takes its routes
    /// with it, and other programs make mistakes.
    pub fn apply(&mut self, peers: &[Peer]) -> Result<Applied> {
        let neighbourhood = Neighbourhood::of_routes(&self.route.routes()?);
        let mut desired = desired::decide(&self.settings, peers, &neighbourhood);
        let (mut devices, mut messages) = (Devices::default(), 0);
        messages += self.settle_vxlan(&mut desired, &mut devices)?;
        messages += self.settle_wireguard(&mut desired, &mut devices)?;
        messages += self.settle_routes(&mut desired, devices)?;
        Ok(Applied { messages, failed: desired.refused })
    }

    /// A device that cannot be made is a matter of its peers alone.
    fn settle_vxlan(&mut self, desired: &mut Desired, devices: &mut Devices) -> Result<usize> {
        if !desired.has_vxlan() {
            return self.remove_device(devices::VXLAN_DEVICE);
        }
        match self.ensure_vxlan() {
            Ok((index, messages)) => {
                devices.vxlan = Some(index);
                Ok(messages)
            }
            Err(error) => {
                desired.refuse_all(&chain(&error), |hop| matches!(hop, Hop::Vxlan { .. }));
                Ok(0)
            }
        }
    }

    fn settle_wireguard(&mut self, desired: &mut Desired, devices: &mut Devices) -> Result<usize> {
        if !desired.has_wireguard() {
            if self.is_key_known {
                return self.wireguard.set_peers(&BTreeMap::new());
            }
            self.wireguard.stop();
            return self.remove_device(devices::WIREGUARD_DEVICE);
        }
        let changed = self.ensure_wireguard().and_then(|device| {
            let is_own = |hop: &Hop| matches!(hop, Hop::WireGuard { public_key, .. } if *public_key == device.public_key);
            desired.refuse_all("its WireGuard key is this node's own", is_own);
            devices.wireguard = Some(device.index);
            Ok(device.messages + self.wireguard.set_peers(&desired.wireguard_peers())?)
        });
        changed.or_else(|error| {
            desired.refuse_all(&chain(&error), |hop| matches!(hop, Hop::WireGuard { .. }));
            Ok(0)
        })
    }

    /// Packets find their way at every moment: what routes need comes before them, and goes after.
    fn settle_routes(&mut self, desired: &mut Desired, devices: Devices) -> Result<usize> {
        let wanted = desired.neighbours(devices);
        let there = match devices.vxlan {
            Some(link) => [self.route.neighbours(Table::Addresses, link)?, self.route.neighbours(Table::Forwarding, link)?].concat(),
            None => Vec::new(),
        };
        let (missing, gone) = neighbour_difference(&wanted, there);
        let mut messages = self.add_neighbours(missing, desired)?;
        messages += self.change_routes(desired, devices)?;
        Ok(messages + self.delete("remove neighbours", gone.iter().map(Neighbour::deletion).collect())?)
    }

    fn add_neighbours(&mut self, missing: Vec<Neighbour>, desired: &mut Desired) -> Result<usize> {
        let refused = self.route.send_each("add neighbours", missing.iter().map(Neighbour::addition).collect())?;
        let changed = missing.len() - refused.len();
        for (place, error) in refused {
            if let Some(range) = desired::range_of(missing[place].hardware_address) {
                desired.refuse(range, format!("the kernel takes no neighbour for {range}: {error}"));
            }
        }
        Ok(changed)
    }

    fn change_routes(&mut self, desired: &mut Desired, devices: Devices) -> Result<usize> {
        let there = self.route.routes()?.into_iter().filter(|route| route.protocol == ROUTE_PROTOCOL);
        let Changes { additions, removals } = route_difference(desired.routes(devices), there);
        let mut changed = additions.len() + removals.len();
        let messages = additions.iter().map(|(route, existing)| route.addition(*existing)).collect();
        for (place, error) in self.route.send_each("add routes", messages)? {
            changed -= 1;
            let range = additions[place].0.destination;
            desired.refuse(range, refusal(range, &error));
        }
        self.delete("remove routes", removals.iter().map(Route::deletion).collect())?;
        Ok(changed)
    }

    /// Also what is gone meanwhile.
    fn delete(&mut self, operation: &str, messages: Vec<Message>) -> Result<usize> {
        let sent = messages.len();
        let refused = self.route.send_each(operation, messages)?;
        match refused.into_iter().find(|(_, error)| !says_gone(error)) {
            Some((_, error)) => Err(NetlinkError::new(operation, error).into()),
            None => Ok(sent),
        }
    }

    /// Sentences about what on this node keeps packets of tunnels from arriving. What keeps packets
    /// from being forwarded is [`crate::pods::PodNetwork::obstacles`].
    pub fn obstacles(&mut self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let address = self.settings.node_address;
        let has_address = self.route.addresses()?.iter().any(|own| own.address.addr() == address);
        if !has_address && self.route.link(devices::VXLAN_DEVICE)?.is_some() {
            found.push(format!("no interface of this node has its address {address}: VXLAN packets cannot leave with it"));
        }
        for (device, port) in [(devices::VXLAN_DEVICE, VXLAN_PORT), (devices::WIREGUARD_DEVICE, WIREGUARD_PORT)] {
            if self.route.link(device)?.is_some() {
                found.extend(obstacles::of_tunnel(&mut self.netfilter, port)?);
            }
        }
        Ok(found)
    }

    /// Takes away all that was made here, with the WireGuard key. Succeeds when nothing is there.
    pub fn remove(mut self) -> Result<()> {
        self.is_key_known = false;
        self.apply(&[]).map(drop)
    }
}

/// What to send, in this order.
#[derive(Debug, PartialEq, Eq)]
struct Changes {
    additions: Vec<(Route, Existing)>,
    removals: Vec<Route>,
}

/// Only a route of our own is replaced: the kernel refuses another one's place.
fn route_difference(mut wanted: BTreeMap<Ipv4Net, Route>, there: impl Iterator<Item = Route>) -> Changes {
    let mut stale = Vec::new();
    for route in there {
        if wanted.get(&route.destination) == Some(&route) {
            wanted.remove(&route.destination);
        } else {
            stale.push(route);
        }
    }
    let replaced: BTreeSet<Ipv4Net> = stale.iter().map(|route| route.destination).filter(|range| wanted.contains_key(range)).collect();
    let existing = |route: &Route| if replaced.contains(&route.destination) { Existing::Replaced } else { Existing::Kept };
    let additions = wanted.into_values().map(|route| (route, existing(&route))).collect();
    stale.retain(|route| !replaced.contains(&route.destination));
    Changes { additions, removals: stale }
}

/// What to add (which replaces what is there for the same address or machine), and what to remove.
fn neighbour_difference(wanted: &BTreeSet<Neighbour>, there: Vec<Neighbour>) -> (Vec<Neighbour>, Vec<Neighbour>) {
    let place = |neighbour: &Neighbour| match neighbour.table {
        Table::Addresses => (neighbour.table, Some(neighbour.address), None),
        Table::Forwarding => (neighbour.table, None, Some(neighbour.hardware_address)),
    };
    let there: BTreeSet<Neighbour> = there.into_iter().collect();
    let missing = wanted.difference(&there).copied().collect();
    let kept: BTreeSet<_> = wanted.iter().map(place).collect();
    let gone = there.into_iter().filter(|neighbour| !kept.contains(&place(neighbour))).collect();
    (missing, gone)
}

fn refusal(range: Ipv4Net, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EEXIST) => format!("another program has made a route to {range}: remove it, or change the range"),
        _ => format!("the kernel takes no route to {range}: {error}"),
    }
}

/// An error with its causes, in one line.
fn chain(error: &PeerNetworkError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, link: u32) -> Route {
        Route { protocol: ROUTE_PROTOCOL, ..Route::to_link(destination.parse().expect("a range"), link) }
    }

    fn wanted(routes: &[Route]) -> BTreeMap<Ipv4Net, Route> {
        routes.iter().map(|route| (route.destination, *route)).collect()
    }

    #[test]
    fn only_what_differs_is_sent() {
        let (same, old, new, gone, fresh) =
            (route("10.1.0.0/24", 1), route("10.2.0.0/24", 1), route("10.2.0.0/24", 2), route("10.3.0.0/24", 1), route("10.4.0.0/24", 1));
        let changes = route_difference(wanted(&[same, new, fresh]), [same, old, gone].into_iter());
        let additions = vec![(new, Existing::Replaced), (fresh, Existing::Kept)];
        assert_eq!(changes, Changes { additions, removals: vec![gone] });
    }

    #[test]
    fn a_changed_neighbour_is_replaced_and_not_removed() {
        let forwarding = |last: u8, machine: u8| Neighbour {
            table: Table::Forwarding,
            link: 1,
            address: Ipv4Addr::new(192, 168, 0, machine),
            hardware_address: [2, 0, 0, 0, 0, last],
        };
        let (missing, gone) = neighbour_difference(
            &BTreeSet::from([forwarding(1, 9), forwarding(2, 2)]),
            vec![forwarding(1, 1), forwarding(2, 2), forwarding(3, 3)],
        );
        assert_eq!((missing, gone), (vec![forwarding(1, 9)], vec![forwarding(3, 3)]));
    }
}
