//! Connecting and disconnecting sandboxes: the steps, their order, and how they are taken back.
//!
//! An attach writes the file, makes the link, then the rules; a detach takes the rules away, then
//! the entry of the file, then the link. A crash leaves at worst an allocation without a link,
//! whose sandbox is attached again, detached or not retained, or a link without an allocation,
//! which the next detach or retain removes. A file that was lost is made up for by the links too:
//! their routes name the addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use super::state::{Allocation, Allocations, normalize_ports};
use super::{PodNetworkError, PodNetworkSettings, Result, addresses, rules};
use crate::namespace::{self, Ipv6};
use crate::netlink::{self, Address, DeviceSettings, Family, Pair, Route, RouteSocket, Socket, UdpPort, Veth};
use crate::{mtu, names, nftables, obstacles};
use containers::{PortMapping, Protocol};

/// What pods send everything to. Link-local, so that it takes the address of no other machine; the
/// same on all links, so that nothing has to be remembered.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const ANYWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
const INSIDE: &str = "eth0";

/// A sandbox's namespace and a socket in it.
pub struct Sandbox {
    pub namespace: File,
    pub inside: RouteSocket,
}

/// All that is known of the node, with sockets that stay in its namespace.
#[derive(Debug)]
pub struct Node {
    settings: PodNetworkSettings,
    allocations: Allocations,
    /// Addresses of links that the file does not know, by link name: of sandboxes that are being
    /// detached, or whose file was lost.
    ownerless: BTreeMap<String, Ipv4Addr>,
    /// The node's.
    namespace: File,
    route: RouteSocket,
    netfilter: Socket,
}

impl Node {
    pub fn open(settings: PodNetworkSettings) -> Result<Self> {
        let allocations = Allocations::load(&settings.state_file)?;
        let namespace = namespace::current().map_err(PodNetworkError::Socket)?;
        let mut route = RouteSocket::open().map_err(PodNetworkError::Socket)?;
        let netfilter = Socket::open(Family::Netfilter).map_err(PodNetworkError::Socket)?;
        let known: BTreeSet<String> = allocations.sandboxes.keys().map(|id| names::pod_link(id)).collect();
        let mut ownerless = pod_routes(&mut route)?;
        ownerless.retain(|name, _| !known.contains(name));
        Ok(Self { settings, allocations, ownerless, namespace, route, netfilter })
    }

    pub fn repair_rules(&mut self) -> Result<()> {
        Ok(nftables::replace(&mut self.netfilter, &rules::desired(&self.settings, &self.allocations))?)
    }

    pub fn attach(&mut self, sandbox_id: &str, mut sandbox: Sandbox, ports: &[PortMapping]) -> Result<Ipv4Addr> {
        let ports = normalize_ports(ports)?;
        self.allocations.check_ports(sandbox_id, &ports)?;
        let previous = self.allocations.sandboxes.get(sandbox_id).cloned();
        let was_attached = previous.is_some() || self.ownerless.contains_key(&names::pod_link(sandbox_id));
        let before = self.allocations.clone();
        let address = self.address_for(sandbox_id)?;
        self.allocations.sandboxes.insert(sandbox_id.to_string(), Allocation { address, ports });
        let attached = self.save().and_then(|()| self.connect(sandbox_id, &mut sandbox, address));
        let attached = attached.and_then(|()| self.apply_rules(&before, was_attached));
        match attached {
            Ok(()) => {
                self.ownerless.remove(&names::pod_link(sandbox_id));
                self.forget_flows(previous.as_ref(), sandbox_id);
                Ok(address)
            }
            Err(error) => {
                self.take_back(sandbox_id, before, was_attached);
                Err(error)
            }
        }
    }

    /// The one that it has, by the file or by its link, or a new one.
    fn address_for(&mut self, sandbox_id: &str) -> Result<Ipv4Addr> {
        if let Some(allocation) = self.allocations.sandboxes.get(sandbox_id) {
            return Ok(allocation.address);
        }
        if let Some(address) = self.ownerless.get(&names::pod_link(sandbox_id)) {
            return Ok(*address);
        }
        let mut taken = self.allocations.addresses();
        taken.extend(self.ownerless.values());
        // Local clusters with ranges of their own may have the node's address in the pods' range.
        taken.extend(self.settings.node_address());
        let range = self.settings.pod_cidr;
        let free = addresses::next_free(range, self.allocations.last_address, &taken);
        let address = free.ok_or(PodNetworkError::NoAddressLeft { range, count: taken.len() })?;
        self.allocations.last_address = Some(address);
        Ok(address)
    }

    fn save(&self) -> Result<()> {
        self.allocations.save(&self.settings.state_file)
    }

    fn connect(&mut self, sandbox_id: &str, sandbox: &mut Sandbox, address: Ipv4Addr) -> Result<()> {
        let name = names::pod_link(sandbox_id);
        let veth = Veth { outside: &name, inside: INSIDE, mtu: mtu::of_pods(&mut self.route)?, controller: None, hardware_address: None };
        let pair = self.route.ensure_veth(&sandbox.namespace, &mut sandbox.inside, &veth)?;
        let close = |of: &File, interface: &str, how: Ipv6| {
            namespace::inside(of, || namespace::close_ipv6(interface, how))
                .map_err(|cause| PodNetworkError::Ipv6 { interface: interface.to_string(), cause })
        };
        close(&sandbox.namespace, INSIDE, Ipv6::Unrouted)?;
        close(&self.namespace, &name, Ipv6::Off)?;
        configure_inside(&mut sandbox.inside, pair, address)?;
        self.configure_outside(pair, address)
    }

    fn configure_outside(&mut self, pair: Pair, address: Ipv4Addr) -> Result<()> {
        self.route.set_up(pair.outside, &DeviceSettings { route_localnet: Some(true), is_untrusted: true, ..DeviceSettings::default() })?;
        // Reaching the link only, it is never what the node shows to pods or to the world.
        self.route.add_address(&Address { link: pair.outside, address: Ipv4Net::from(GATEWAY), link_only: true })?;
        let route = Route::to_link(Ipv4Net::from(address), pair.outside);
        let source = self.settings.node_address();
        match self.route.replace_route(&Route { source, ..route }) {
            // The node's address is not (yet) one of its interfaces: the kernel chooses.
            Err(error) if source.is_some() && error.errno() == Some(libc::EINVAL) => Ok(self.route.replace_route(&route)?),
            other => Ok(other?),
        }
    }

    /// Elements for a new sandbox; everything for one that is repaired, whose rules may be what is
    /// broken.
    fn apply_rules(&mut self, before: &Allocations, repairing: bool) -> Result<()> {
        if repairing {
            return self.repair_rules();
        }
        let before = rules::desired(&self.settings, before);
        Ok(nftables::update(&mut self.netfilter, &before, &rules::desired(&self.settings, &self.allocations))?)
    }

    /// A sandbox that was attached before keeps its link. Failures here are left to the next detach
    /// or retain: the first error counts.
    fn take_back(&mut self, sandbox_id: &str, before: Allocations, was_attached: bool) {
        self.allocations = before;
        let link = if was_attached { Ok(()) } else { self.route.delete_link(&names::pod_link(sandbox_id)).map_err(PodNetworkError::from) };
        for result in [link, self.repair_rules(), self.save()] {
            if let Err(error) = result {
                tracing::warn!(sandbox_id, error = &error as &dyn std::error::Error, "a failed attach was not taken back completely");
            }
        }
    }

    /// The first step of a detach: host ports and the allocation go. The address is not free before
    /// the link is gone. Answers the link's name.
    pub fn withdraw(&mut self, sandbox_id: &str) -> Result<String> {
        let name = names::pod_link(sandbox_id);
        let before = self.allocations.clone();
        let Some(previous) = self.allocations.sandboxes.remove(sandbox_id) else { return Ok(name) };
        if let Err(error) = self.apply_rules(&before, false).and_then(|()| self.save()) {
            // Still allocated: the next detach does it all again.
            self.allocations = before;
            return Err(error);
        }
        self.ownerless.insert(name.clone(), previous.address);
        self.forget_flows(Some(&previous), sandbox_id);
        Ok(name)
    }

    /// The last step: the link is gone.
    pub fn release(&mut self, link_name: &str) {
        self.ownerless.remove(link_name);
    }

    pub fn retain(&mut self, live: &[String]) -> Result<()> {
        let names: BTreeSet<String> = live.iter().map(|id| names::pod_link(id)).collect();
        let mut kept = self.allocations.clone();
        kept.sandboxes.retain(|id, _| live.contains(id));
        let removed: Vec<Allocation> =
            self.allocations.sandboxes.iter().filter(|(id, _)| !live.contains(id)).map(|(_, allocation)| allocation.clone()).collect();
        nftables::replace(&mut self.netfilter, &rules::desired(&self.settings, &kept))?;
        for link in self.route.links()? {
            if is_pod_link(&link) && !names.contains(&link.name) {
                self.route.delete_link(&link.name)?;
            }
        }
        self.allocations = kept;
        self.ownerless.retain(|name, _| names.contains(name));
        self.save()?;
        removed.iter().for_each(|allocation| self.forget_flows(Some(allocation), ""));
        Ok(())
    }

    /// Of UDP ports that changed hands. Connections are not always tracked by a part of the kernel
    /// that can be asked, and a stale flow is no reason to fail a pod.
    fn forget_flows(&mut self, previous: Option<&Allocation>, sandbox_id: &str) {
        let current = self.allocations.sandboxes.get(sandbox_id);
        if previous == current {
            return;
        }
        let allocations = previous.into_iter().chain(current);
        let ports: Vec<UdpPort> = allocations.flat_map(|allocation| &allocation.ports).filter_map(udp_port).collect();
        if let Err(error) = netlink::flush_udp(&mut self.netfilter, &ports) {
            tracing::warn!(sandbox_id, error = &error as &dyn std::error::Error, "flows of UDP host ports were not forgotten");
        }
    }

    pub fn obstacles(&mut self) -> Result<Vec<String>> {
        Ok(obstacles::of_forwarding(&mut self.netfilter, &self.settings.table, self.settings.cluster_cidr)?)
    }
}

fn configure_inside(inside: &mut RouteSocket, pair: Pair, address: Ipv4Addr) -> Result<()> {
    if let Some(loopback) = inside.link("lo")?.filter(|link| !link.up) {
        inside.set_up(loopback.index, &DeviceSettings::default())?;
    }
    inside.set_up(pair.inside, &DeviceSettings::default())?;
    inside.add_address(&Address { link: pair.inside, address: Ipv4Net::from(address), link_only: false })?;
    let route = Route { onlink: true, ..Route::via(ANYWHERE, GATEWAY, pair.inside) };
    Ok(inside.replace_route(&route)?)
}

/// The addresses behind the links of pods, by link name.
fn pod_routes(route: &mut RouteSocket) -> Result<BTreeMap<String, Ipv4Addr>> {
    let links: BTreeMap<u32, String> = route.links()?.into_iter().filter(is_pod_link).map(|link| (link.index, link.name)).collect();
    let hosts = route.routes()?.into_iter().filter(|route| route.destination.prefix_len() == 32);
    Ok(hosts.filter_map(|route| Some((links.get(&route.link)?.clone(), route.destination.addr()))).collect())
}

fn is_pod_link(link: &netlink::Link) -> bool {
    link.kind == "veth" && link.name.starts_with(names::POD_PREFIX)
}

fn udp_port(mapping: &PortMapping) -> Option<UdpPort> {
    let address = mapping.host_ip.and_then(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    (mapping.protocol == Protocol::Udp).then_some(UdpPort { address, port: mapping.host_port })
}
