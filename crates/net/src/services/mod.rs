//! Addresses of Services on a node: what `kube-proxy` does.
//!
//! The rules ([`rules`]) are written once. A packet's destination is looked up in maps: one says
//! how many endpoints there are (a chain for each number that occurs), and one for all Services has
//! the endpoints by destination and number. So a change of a Service changes elements of maps
//! ([`elements`], [`desired`]), one for each endpoint and way to it, and the first packet of a
//! connection costs the same however many Services there are. Services that remember their clients
//! have a chain and a map of their own.
//!
//! [`ServiceNetwork`] must be opened in the node's network namespace. What it wrote stays when the
//! process ends. When it starts, it reads what the kernel has and sends the difference only.
//!
//! IPv4 is what works today.

mod desired;
mod elements;
mod kernel;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use containers::{Protocol, ServicePort, ServicePortName};
use ipnet::Ipv4Net;

use crate::netlink::{Result, Socket, UdpPort, flush_stale_udp};
use crate::nftables::Entry;
use desired::Desired;
use kernel::Kernel;

/// What is the same for all Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSettings {
    /// The table of rules; no other program may use that name.
    pub table: String,
    /// The pods of all nodes. Clients elsewhere are not known to pods' networks: when they use a
    /// cluster address, the node's own address takes the place of theirs.
    pub cluster_cidr: Ipv4Net,
    /// Where cluster addresses come from. What goes to an address in there that no Service has is
    /// dropped.
    pub service_cidrs: Vec<Ipv4Net>,
    /// Where node ports are reached.
    pub node_addresses: Vec<Ipv4Addr>,
}

/// A port that is there now, or None for one that is gone.
pub type Change = (ServicePortName, Option<ServicePort>);

/// The name of a set or map of the table.
type MapName = &'static str;

/// What one call did to the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Netlink messages that were sent; 0 when everything was as it should be.
    pub messages: usize,
    /// Flows of datagrams that were forgotten, so that their next one finds a new endpoint.
    pub flows: usize,
    /// How long the kernel worked on the messages, with their encoding.
    pub in_kernel: Duration,
}

#[derive(Debug)]
pub struct ServiceNetwork {
    kernel: Kernel,
    desired: Desired,
    ports: BTreeMap<ServicePortName, ServicePort>,
}

impl ServiceNetwork {
    /// Makes the kernel's rules what these ports need. Blocks: some milliseconds for each thousand
    /// ports that the kernel does not have yet.
    pub fn start(netfilter: Socket, settings: ServiceSettings, ports: BTreeMap<ServicePortName, ServicePort>) -> Result<(Self, Applied)> {
        let mut desired = Desired::default();
        desired.claim(&elements::NODE, elements::of_node(&settings));
        for (name, port) in &ports {
            desired.claim(name, elements::of_port(name, port));
        }
        let mut network = ServiceNetwork { kernel: Kernel::new(netfilter, settings), desired, ports };
        let messages = network.kernel.sync(&network.desired)?;
        let names = network.ports.keys().cloned().collect();
        let applied = network.forget(&names, messages)?;
        Ok((network, applied))
    }

    /// Changes what these ports need, in one transaction.
    pub fn apply(&mut self, changes: Vec<Change>) -> Result<Applied> {
        // What a repair took is not part of this change.
        self.kernel.take_busy();
        let mut before: BTreeMap<(MapName, Box<[u8]>), Option<Entry>> = BTreeMap::new();
        let names: BTreeSet<ServicePortName> = changes.iter().map(|(name, _)| name.clone()).collect();
        for (name, port) in changes {
            let claims = port.as_ref().map(|port| elements::of_port(&name, port)).unwrap_or_default();
            for (place, entry) in self.desired.replace(&name, claims) {
                before.entry(place).or_insert(entry);
            }
            match port {
                Some(port) => self.ports.insert(name, port),
                None => self.ports.remove(&name),
            };
        }
        let messages = match self.kernel.change(&before, &self.desired) {
            Ok(messages) => messages,
            // Another program removed our table or elements of it: put everything back.
            Err(_) => self.kernel.sync(&self.desired)?,
        };
        self.forget(&names, messages)
    }

    /// Looks at what the kernel has and puts right what differs. Answers the number of messages.
    pub fn repair(&mut self) -> Result<usize> {
        self.kernel.sync(&self.desired)
    }

    /// Removes all rules, as when the node gets its Services from something else.
    pub fn remove(mut self) -> Result<()> {
        self.kernel.remove()
    }

    /// What the kernel remembers of endpoints that these ports no longer have, after the messages
    /// that changed them.
    fn forget(&mut self, names: &BTreeSet<ServicePortName>, messages: usize) -> Result<Applied> {
        let messages = messages + self.forget_clients(names)?;
        let flows = self.forget_flows(names);
        Ok(Applied { messages, flows, in_kernel: self.kernel.take_busy() })
    }

    /// Clients whose endpoint is gone choose anew.
    fn forget_clients(&mut self, names: &BTreeSet<ServicePortName>) -> Result<usize> {
        let mut messages = 0;
        for (name, port) in names.iter().filter_map(|name| self.ports.get_key_value(name)) {
            let remembered = elements::remembered(name, port).into_iter();
            // Lists without endpoints, and those that no way leads to, have no map.
            for (map, endpoints) in remembered.filter(|(map, _)| self.desired.has_clients(map)) {
                messages += self.kernel.forget_clients(&map, &endpoints)?;
            }
        }
        Ok(messages)
    }

    /// A client of datagrams that goes on sending keeps its flow, and with it the old endpoint.
    /// Flows of Services without endpoints stay, as upstream keeps them.
    fn forget_flows(&mut self, names: &BTreeSet<ServicePortName>) -> usize {
        let ports = names.iter().filter_map(|name| self.ports.get_key_value(name));
        let mut serving: BTreeMap<UdpPort, BTreeSet<(Ipv4Addr, u16)>> = BTreeMap::new();
        for (name, port) in ports.filter(|(_, port)| port.protocol == Protocol::Udp && !port.serving.is_empty()) {
            let nodes = &self.kernel.settings().node_addresses;
            let endpoints: Vec<(Ipv4Addr, u16)> =
                port.serving.iter().filter_map(|backend| Some((ipv4(&backend.address)?, backend.port))).collect();
            // What another Service has by a better claim is not this one's to forget.
            let held = elements::frontends(port).into_iter().filter(|frontend| self.desired.holds(name, &frontend.place));
            for frontend in held {
                for address in frontend.address.as_ref().map_or(nodes.as_slice(), std::slice::from_ref) {
                    serving.entry(UdpPort { address: Some(*address), port: frontend.port }).or_default().extend(&endpoints);
                }
            }
        }
        // The rules are written; flows that stay are no reason to write them again.
        flush_stale_udp(self.kernel.netfilter(), &serving).unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "flows of datagrams cannot be forgotten");
            0
        })
    }
}

fn ipv4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}
