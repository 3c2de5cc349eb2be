//! From a port of a Service to the elements of maps that it needs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::LazyLock;

use containers::{Backends, Protocol, ServicePort, ServicePortName};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::nftables::{Entry, Value, Verdict};

use super::desired::Place;
use super::rules::{self, Affinity, BalanceChain, By, EndpointChain, Masquerade};
use super::{MapName, ServiceSettings, ipv4};

/// An element, and the map that it is in.
#[derive(Debug, Clone)]
pub struct Claim {
    pub map: MapName,
    pub entry: Entry,
    pub rank: Rank,
}

/// Whose claim counts where several ports want the same place: every user may give a Service any
/// external address, and must not get what goes to another's cluster address by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    Own,
    External,
}

/// Who claims what belongs to no Service.
pub static NODE: LazyLock<ServicePortName> =
    LazyLock::new(|| ServicePortName { namespace: String::new(), service: String::new(), port: String::new() });

/// More endpoints than this get no connections: indexes of the kernel's random numbers end
/// somewhere.
const ENDPOINTS_MAX: usize = 1 << 20;
/// Enough of a digest that no two ports of a cluster share a map.
const DIGEST_BYTES: usize = 8;

/// What every node has, whatever the Services.
pub fn of_node(settings: &ServiceSettings) -> Vec<Claim> {
    let member = |address: &Ipv4Addr| Entry::member(&[Value::Address(*address)]);
    let claim = |address| Claim { map: rules::NODE_ADDRESSES, entry: member(address), rank: Rank::Own };
    settings.node_addresses.iter().map(claim).collect()
}

/// Nothing for ports with an IPv6 address.
pub fn of_port(name: &ServicePortName, port: &ServicePort) -> Vec<Claim> {
    let Some(cluster_address) = ipv4(&port.cluster_address) else { return Vec::new() };
    let mut elements = Elements { name, port, rank: Rank::Own, claims: Vec::new() };
    elements.claim(rules::CLUSTER_ADDRESSES, Entry::member(&[Value::Address(cluster_address)]));
    let list = List { backends: &port.internal, kind: "" };
    elements.way(By::Frontends, Masquerade::Never, &elements.at(cluster_address), &list);
    elements.external();
    for address in port.on_this_node.iter().filter_map(ipv4) {
        elements.claim(rules::HAIRPINS, Entry::member(&[Value::Address(address), Value::Address(address)]));
    }
    elements.claims
}

/// The maps in which clients of this port are remembered, with the endpoints that they may go back
/// to.
pub fn remembered(name: &ServicePortName, port: &ServicePort) -> Vec<(String, Vec<Box<[u8]>>)> {
    if port.affinity_seconds.is_none() {
        return Vec::new();
    }
    let endpoints = |list: &List| targets(list.backends).into_iter().map(|(address, port)| Entry::encode(&target(address, port))).collect();
    lists(port).into_iter().map(|list| (clients(name, &list), endpoints(&list))).collect()
}

/// Endpoints, and what tells this list from the others of a port.
#[derive(Clone, Copy)]
struct List<'a> {
    backends: &'a Backends,
    kind: &'static str,
}

/// By the cluster address, by external ones, and by external ones by policy `Local`. The second is
/// the first where both have the same endpoints.
fn lists(port: &ServicePort) -> Vec<List<'_>> {
    let internal = List { backends: &port.internal, kind: "" };
    let external = external_list(port);
    let local = port.external_local.as_ref().map(local_list);
    let other = (external.kind != internal.kind).then_some(external);
    [internal].into_iter().chain(other).chain(local).collect()
}

fn external_list(port: &ServicePort) -> List<'_> {
    List { backends: &port.external, kind: if port.external == port.internal { "" } else { "-external" } }
}

fn local_list(backends: &Backends) -> List<'_> {
    List { backends, kind: "-local" }
}

/// Names of ports may be longer than those of maps.
fn clients(name: &ServicePortName, list: &List) -> String {
    let digest = Sha256::digest(format!("{}/{}/{}", name.namespace, name.service, name.port));
    format!("clients-{}{}", hex::encode(&digest[..DIGEST_BYTES]), list.kind)
}

fn protocol(port: &ServicePort) -> Value {
    Value::Protocol(match port.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    })
}

fn at(port: &ServicePort, address: Ipv4Addr) -> Vec<Value> {
    vec![Value::Address(address), protocol(port), Value::Port(port.port)]
}

/// What clients connect to, and the element that sends them on.
pub struct Frontend {
    /// None: the node's own addresses.
    pub address: Option<Ipv4Addr>,
    pub port: u16,
    pub place: Place,
}

pub fn frontends(port: &ServicePort) -> Vec<Frontend> {
    let addresses = port.external_addresses.iter().chain([&port.cluster_address]).filter_map(ipv4);
    let by_address = addresses.map(|address| Frontend {
        address: Some(address),
        port: port.port,
        place: (By::Frontends.verdicts(), Entry::encode(&at(port, address))),
    });
    let by_node_port = port.node_port.map(|node_port| Frontend {
        address: None,
        port: node_port,
        place: (By::NodePorts.verdicts(), Entry::encode(&[protocol(port), Value::Port(node_port)])),
    });
    by_address.chain(by_node_port).collect()
}

struct Elements<'a> {
    name: &'a ServicePortName,
    port: &'a ServicePort,
    /// Of the claims that come next.
    rank: Rank,
    claims: Vec<Claim>,
}

impl Elements<'_> {
    fn claim(&mut self, map: MapName, entry: Entry) {
        self.claims.push(Claim { map, entry, rank: self.rank });
    }

    fn protocol(&self) -> Value {
        protocol(self.port)
    }

    fn at(&self, address: Ipv4Addr) -> Vec<Value> {
        at(self.port, address)
    }

    /// One way to a list: where it leads, and the endpoints.
    fn way(&mut self, by: By, masquerade: Masquerade, key: &[Value], list: &List) {
        let targets = targets(list.backends);
        let Ok(endpoints @ 1..) = u32::try_from(targets.len()) else { return self.refuse(by, key, list.backends) };
        let affinity = self.port.affinity_seconds.map(|seconds| Affinity { clients: clients(self.name, list), seconds });
        if let Some(Affinity { clients, .. }) = &affinity {
            self.claim(rules::CLIENTS, Entry::named(clients));
        }
        for (index, (address, port)) in (0_u32..).zip(targets) {
            let place = [key, &[Value::Index(index)]].concat();
            match affinity.clone() {
                None => self.claim(by.endpoints(), Entry::value(&place, &target(address, port))),
                Some(affinity) => {
                    let chain = EndpointChain { affinity, address, port }.name();
                    self.claim(rules::CHAINS, Entry::named(&chain));
                    self.claim(by.endpoint_chains(), Entry::verdict(&place, Verdict::Goto(chain)));
                }
            }
        }
        let chain = BalanceChain { by, endpoints, masquerade, affinity }.name();
        self.claim(rules::CHAINS, Entry::named(&chain));
        self.claim(by.verdicts(), Entry::verdict(key, Verdict::Goto(chain)));
    }

    fn refuse(&mut self, by: By, key: &[Value], backends: &Backends) {
        let verdict = match backends {
            Backends::Drop => Verdict::Drop,
            Backends::Reject | Backends::To(_) => Verdict::Goto(rules::REJECT_CHAIN.to_string()),
        };
        match by {
            By::Frontends => self.claim(rules::REFUSED, Entry::verdict(key, verdict)),
            By::NodePorts => self.claim(rules::REFUSED_NODE_PORTS, Entry::verdict(key, verdict)),
            // Who finds nothing here takes the way of all others.
            By::FrontendsInside | By::NodePortsInside => {}
        }
    }

    /// The ways by external addresses and the node port.
    fn external(&mut self) {
        let port = self.port;
        let cluster = external_list(port);
        let local = port.external_local.as_ref().map(local_list);
        let masquerade = if local.is_some() { Masquerade::Never } else { Masquerade::Always };
        self.rank = Rank::External;
        self.firewall();
        for address in port.external_addresses.iter().filter_map(ipv4) {
            let key = self.at(address);
            self.way(By::Frontends, masquerade, &key, &local.unwrap_or(cluster));
            if local.is_some() {
                self.way(By::FrontendsInside, Masquerade::ThisNode, &key, &cluster);
            }
        }
        self.rank = Rank::Own;
        if let Some(node_port) = port.node_port {
            let key = [self.protocol(), Value::Port(node_port)];
            self.way(By::NodePorts, masquerade, &key, &local.unwrap_or(cluster));
            if local.is_some() {
                self.way(By::NodePortsInside, Masquerade::ThisNode, &key, &cluster);
            }
        }
    }

    fn firewall(&mut self) {
        let Some(ranges) = &self.port.source_ranges else { return };
        for address in ranges.load_balancer_addresses.iter().filter_map(ipv4) {
            let key = self.at(address);
            self.claim(rules::RESTRICTED, Entry::member(&key));
            for (first, last) in merged(&ranges.allowed) {
                let with = |source: Ipv4Addr| [key.as_slice(), &[Value::Address(source)]].concat();
                self.claim(rules::ALLOWED_SOURCES, Entry::range(&with(first), &with(last)));
            }
        }
    }
}

fn targets(backends: &Backends) -> Vec<(Ipv4Addr, u16)> {
    backends.list().iter().filter_map(|backend| Some((ipv4(&backend.address)?, backend.port))).take(ENDPOINTS_MAX).collect()
}

fn target(address: Ipv4Addr, port: u16) -> [Value; 2] {
    [Value::Address(address), Value::Port(port)]
}

/// The kernel refuses ranges that overlap.
fn merged(ranges: &[IpNet]) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let mut sorted: Vec<(u32, u32)> = ranges
        .iter()
        .filter_map(|range| match range {
            IpNet::V4(range) => Some((u32::from(range.network()), u32::from(range.broadcast()))),
            IpNet::V6(_) => None,
        })
        .collect();
    sorted.sort_unstable();
    let mut merged: BTreeMap<u32, u32> = BTreeMap::new();
    for (first, last) in sorted {
        match merged.last_entry() {
            Some(mut before) if first <= before.get().saturating_add(1) => {
                let end = last.max(*before.get());
                before.insert(end);
            }
            _ => {
                merged.insert(first, last);
            }
        }
    }
    merged.into_iter().map(|(first, last)| (first.into(), last.into())).collect()
}
