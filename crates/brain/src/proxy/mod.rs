//! Where connections to a Service go, as one node sees it: what `kube-proxy` decides.
//!
//! After `pkg/proxy/topology.go` and the nftables mode of `pkg/proxy`. In goes one Service with its
//! EndpointSlices and the node; out come its ports with the lists of endpoints for each way to
//! them, as `net` writes them to the kernel. The rule in one paragraph: endpoints that are ready
//! and, if hints say so, near; if there are none, those that still serve while they terminate. By
//! policy `Local` those on this node, by the same rule. No endpoint anywhere: clients are refused;
//! none on this node by policy: they are not answered.

mod service;

use std::sync::Arc;

use containers::{Backend, Backends, ServicePort, ServicePortName, SourceRanges};

use crate::model::EndpointSlice;

pub use service::{Endpoint, Policy, Port, Service};

/// Ports of a Service; more are left out.
const PORTS_MAX: usize = 1000;
/// Addresses times ports of a Service: more external addresses are left out.
const FRONTENDS_MAX: usize = 10_000;
/// Ways to the ports of a Service times endpoints, which is what the kernel holds of it: longer
/// lists of endpoints are cut. One user's Service must not take the memory that all others need.
const ELEMENTS_MAX: usize = 50_000;
/// The same for Services that remember their clients, where each element is a chain.
const CHAINS_MAX: usize = 2000;
/// Ways by one external address or node port: for clients from elsewhere, and for those inside.
const WAYS_OF_AN_ADDRESS: usize = 2;

/// The node that decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// Its label `topology.kubernetes.io/zone`; empty without it.
    pub zone: String,
}

/// What a node does for a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub ports: Vec<(ServicePortName, ServicePort)>,
    /// For load balancers that ask whether to send traffic here.
    pub health_check: Option<HealthCheck>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthCheck {
    pub port: u16,
    /// On this node, of all ports of the Service together; one address counts once.
    pub local_endpoints: usize,
}

/// Decides for one Service. IPv6 addresses are left out until the pods' network has them.
pub fn decide(service: &Service, slices: &[Arc<EndpointSlice>], node: &Node) -> Decision {
    let Some(cluster_address) = service.cluster_addresses.iter().copied().find(|address| address.is_ipv4()) else {
        return Decision { ports: Vec::new(), health_check: None };
    };
    let of_family = |addresses: &[std::net::IpAddr]| addresses.iter().copied().filter(|address| address.is_ipv4()).collect::<Vec<_>>();
    let (external, load_balancer) = (of_family(&service.external_addresses), of_family(&service.load_balancer_addresses));
    let ports = service.ports.len().clamp(1, PORTS_MAX);
    let mut addresses: Vec<_> = load_balancer.iter().chain(&external).copied().collect();
    addresses.truncate((FRONTENDS_MAX / ports).max(1));
    addresses.sort_unstable();
    addresses.dedup();
    let elements_max = if service.affinity_seconds.is_some() { CHAINS_MAX } else { ELEMENTS_MAX };
    let endpoints_max = (elements_max / (ports * (1 + WAYS_OF_AN_ADDRESS * (addresses.len() + 1)))).max(1);
    let source_ranges: Vec<ipnet::IpNet> = service.source_ranges.iter().copied().filter(|range| range.addr().is_ipv4()).collect();
    let mut local_addresses = Vec::new();
    let port = |port: &Port| {
        let endpoints = service::endpoints(slices, port, false, &node.name);
        let usable = Usable::of(&endpoints, node);
        local_addresses.extend(usable.local.iter().filter(|endpoint| endpoint.is_ready).map(|endpoint| endpoint.address));
        let name =
            ServicePortName { namespace: service.namespace.to_string(), service: service.name.to_string(), port: port.name.to_string() };
        let decided = ServicePort {
            protocol: port.protocol,
            port: port.port,
            cluster_address,
            node_port: port.node_port,
            external_addresses: addresses.clone(),
            source_ranges: (!source_ranges.is_empty() && !load_balancer.is_empty())
                .then(|| SourceRanges { load_balancer_addresses: load_balancer.clone(), allowed: source_ranges.clone() }),
            affinity_seconds: service.affinity_seconds,
            internal: usable.backends(service.internal_policy, endpoints_max),
            external: usable.backends(Policy::Cluster, endpoints_max),
            external_local: (service.external_policy == Policy::Local).then(|| usable.backends(Policy::Local, endpoints_max)),
            serving: endpoints.iter().filter(|endpoint| endpoint.is_serving).map(backend).collect(),
            on_this_node: endpoints.iter().filter(|endpoint| endpoint.is_on_this_node).map(|endpoint| endpoint.address).collect(),
        };
        (name, decided)
    };
    let ports = service.ports.iter().take(PORTS_MAX).map(port).collect();
    local_addresses.sort_unstable();
    local_addresses.dedup();
    let health_check = service.health_check_port.map(|port| HealthCheck { port, local_endpoints: local_addresses.len() });
    Decision { ports, health_check }
}

fn backend(endpoint: &Endpoint) -> Backend {
    Backend { address: endpoint.address, port: endpoint.port }
}

/// The endpoints that each policy may use.
struct Usable<'a> {
    cluster: Vec<&'a Endpoint>,
    local: Vec<&'a Endpoint>,
}

impl<'a> Usable<'a> {
    fn of(endpoints: &'a [Endpoint], node: &Node) -> Usable<'a> {
        let nearness = Nearness::of(endpoints, node);
        // There is a near one among those that are ready, or nearness does not matter: so if this
        // is empty, none is ready.
        let ready_and_near: Vec<&Endpoint> =
            endpoints.iter().filter(|endpoint| endpoint.is_ready && nearness.is_near(endpoint, node)).collect();
        let cluster = if ready_and_near.is_empty() { still_serving(endpoints.iter()) } else { ready_and_near };
        let on_this_node = || endpoints.iter().filter(|endpoint| endpoint.is_on_this_node);
        let ready_here: Vec<&Endpoint> = on_this_node().filter(|endpoint| endpoint.is_ready).collect();
        let local = if ready_here.is_empty() { still_serving(on_this_node()) } else { ready_here };
        Usable { cluster, local }
    }

    fn backends(&self, policy: Policy, endpoints_max: usize) -> Backends {
        let list = match policy {
            Policy::Cluster => &self.cluster,
            Policy::Local => &self.local,
        };
        match (list.is_empty(), self.cluster.is_empty()) {
            (false, _) => Backends::To(list.iter().copied().take(endpoints_max).map(backend).collect()),
            // What is usable here is usable by policy Cluster, too: none there is none anywhere.
            (true, true) => Backends::Reject,
            (true, false) => Backends::Drop,
        }
    }
}

/// For when no endpoint is ready: connections to one that ends soon are better than none.
fn still_serving<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<&'a Endpoint> {
    endpoints.filter(|endpoint| endpoint.is_serving && endpoint.is_terminating).collect()
}

/// Which endpoints their hints want this node to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nearness {
    Any,
    Zone,
    Node,
}

impl Nearness {
    /// Hints count when every ready endpoint has some and one of them is for this node, or else for
    /// its zone.
    fn of(endpoints: &[Endpoint], node: &Node) -> Nearness {
        let ready = || endpoints.iter().filter(|endpoint| endpoint.is_ready);
        let counts = |hints: fn(&Endpoint) -> &[Box<str>], wanted: &str| {
            ready().all(|endpoint| !hints(endpoint).is_empty()) && ready().any(|endpoint| is_hinted(hints(endpoint), wanted))
        };
        if counts(|endpoint| &endpoint.node_hints, &node.name) {
            Nearness::Node
        } else if counts(|endpoint| &endpoint.zone_hints, &node.zone) {
            Nearness::Zone
        } else {
            Nearness::Any
        }
    }

    fn is_near(self, endpoint: &Endpoint, node: &Node) -> bool {
        match self {
            Nearness::Any => true,
            Nearness::Zone => is_hinted(&endpoint.zone_hints, &node.zone),
            Nearness::Node => is_hinted(&endpoint.node_hints, &node.name),
        }
    }
}

fn is_hinted(hints: &[Box<str>], wanted: &str) -> bool {
    hints.iter().any(|hint| **hint == *wanted)
}

#[cfg(test)]
mod tests;
