//! What proxies see of a Service, and of its endpoints.

use std::net::IpAddr;
use std::sync::Arc;

use containers::Protocol;
use ipnet::IpNet;
use serde::Deserialize;

use crate::model::{EndpointSlice, Meta, absent_if_null};

/// Label of Services that another proxy serves.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// A Service with an address of its own that this proxy serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// One of each family at most.
    pub cluster_addresses: Vec<IpAddr>,
    pub ports: Vec<Port>,
    pub external_addresses: Vec<IpAddr>,
    pub load_balancer_addresses: Vec<IpAddr>,
    pub source_ranges: Vec<IpNet>,
    pub affinity_seconds: Option<u32>,
    pub internal_policy: Policy,
    pub external_policy: Policy,
    /// Where load balancers ask whether this node has endpoints.
    pub health_check_port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    pub name: Box<str>,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

/// Which endpoints traffic may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Cluster,
    /// Those on the same node.
    Local,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    metadata: Meta,
    #[serde(deserialize_with = "absent_if_null")]
    spec: RawSpec,
    #[serde(deserialize_with = "absent_if_null")]
    status: RawStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    #[serde(rename = "type", deserialize_with = "absent_if_null")]
    kind: Box<str>,
    #[serde(rename = "clusterIP", deserialize_with = "absent_if_null")]
    cluster_ip: Box<str>,
    #[serde(rename = "clusterIPs", deserialize_with = "absent_if_null")]
    cluster_ips: Vec<Box<str>>,
    #[serde(deserialize_with = "absent_if_null")]
    ports: Vec<RawPort>,
    #[serde(rename = "externalIPs", deserialize_with = "absent_if_null")]
    external_ips: Vec<Box<str>>,
    #[serde(deserialize_with = "absent_if_null")]
    load_balancer_source_ranges: Vec<Box<str>>,
    #[serde(deserialize_with = "absent_if_null")]
    session_affinity: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    session_affinity_config: RawAffinity,
    #[serde(deserialize_with = "absent_if_null")]
    internal_traffic_policy: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    external_traffic_policy: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    health_check_node_port: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPort {
    #[serde(deserialize_with = "absent_if_null")]
    name: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    protocol: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    port: u16,
    #[serde(deserialize_with = "absent_if_null")]
    node_port: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawAffinity {
    #[serde(rename = "clientIP", deserialize_with = "absent_if_null")]
    client_ip: RawClientAffinity,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawClientAffinity {
    timeout_seconds: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    #[serde(deserialize_with = "absent_if_null")]
    load_balancer: RawLoadBalancer,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawLoadBalancer {
    #[serde(deserialize_with = "absent_if_null")]
    ingress: Vec<RawIngress>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawIngress {
    #[serde(deserialize_with = "absent_if_null")]
    ip: Box<str>,
    ip_mode: Option<Box<str>>,
}

impl Service {
    /// From the object. None for Services without an address, for names of others, and for those
    /// that another proxy serves (`ShouldSkipService`).
    pub fn read(object: &serde_json::Value) -> Option<Service> {
        let raw = Raw::deserialize(object).ok()?;
        let is_of_another = raw.metadata.labels.get(PROXY_NAME).is_some();
        let has_address = !matches!(&*raw.spec.cluster_ip, "" | "None") && &*raw.spec.kind != "ExternalName";
        (has_address && !is_of_another).then(|| raw.into())
    }
}

impl From<Raw> for Service {
    fn from(raw: Raw) -> Service {
        let spec = raw.spec;
        let addresses = |texts: &[Box<str>]| texts.iter().filter_map(|text| text.parse().ok()).collect::<Vec<IpAddr>>();
        let policy = |text: &str| if text == "Local" { Policy::Local } else { Policy::Cluster };
        let affinity = spec.session_affinity_config.client_ip.timeout_seconds.unwrap_or(DEFAULT_AFFINITY_SECONDS);
        let is_load_balancer = &*spec.kind == "LoadBalancer";
        let external_policy = policy(&spec.external_traffic_policy);
        let is_checked = is_load_balancer && external_policy == Policy::Local && spec.health_check_node_port != 0;
        // Where the load balancer sends on to nodes by itself, packets never have its address.
        let of_load_balancer = raw.status.load_balancer.ingress.into_iter().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
        let cluster_ips = if spec.cluster_ips.is_empty() { vec![spec.cluster_ip] } else { spec.cluster_ips };
        Service {
            namespace: raw.metadata.namespace,
            name: raw.metadata.name,
            cluster_addresses: addresses(&cluster_ips),
            ports: spec.ports.into_iter().filter_map(Port::read).collect(),
            external_addresses: addresses(&spec.external_ips),
            load_balancer_addresses: addresses(&of_load_balancer.map(|ingress| ingress.ip).collect::<Vec<_>>()),
            source_ranges: spec.load_balancer_source_ranges.iter().filter_map(|text| text.trim().parse().ok()).collect(),
            affinity_seconds: (&*spec.session_affinity == "ClientIP").then_some(affinity),
            internal_policy: policy(&spec.internal_traffic_policy),
            external_policy,
            health_check_port: is_checked.then_some(spec.health_check_node_port),
        }
    }
}

impl Port {
    fn read(raw: RawPort) -> Option<Port> {
        let protocol = protocol(&raw.protocol)?;
        Some(Port { name: raw.name, protocol, port: raw.port, node_port: (raw.node_port != 0).then_some(raw.node_port) })
    }
}

fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "TCP" | "" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// One address of a port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    pub is_ready: bool,
    pub is_serving: bool,
    pub is_terminating: bool,
    pub is_on_this_node: bool,
    pub node_hints: Vec<Box<str>>,
    pub zone_hints: Vec<Box<str>>,
}

/// The endpoints of a port, in the order of their addresses. Where slices name the same one twice,
/// the one that is not terminating counts.
pub fn endpoints(slices: &[Arc<EndpointSlice>], port: &Port, is_ipv6: bool, node: &str) -> Vec<Endpoint> {
    let kind = if is_ipv6 { "IPv6" } else { "IPv4" };
    let mut found: Vec<Endpoint> = Vec::new();
    for slice in slices.iter().filter(|slice| &*slice.address_type == kind) {
        let is_same = |other: &&crate::model::EndpointPort| other.name == port.name && protocol(&other.protocol) == Some(port.protocol);
        let number = slice.ports.iter().find(is_same).and_then(|other| u16::try_from(other.port?).ok()).filter(|number| *number != 0);
        let Some(number) = number else { continue };
        found.extend(slice.endpoints.iter().filter_map(|endpoint| Endpoint::read(endpoint, number, node)));
    }
    found.retain(|endpoint| endpoint.address.is_ipv6() == is_ipv6);
    found.sort_by_key(|endpoint| (endpoint.address, endpoint.port, endpoint.is_terminating, !endpoint.is_on_this_node));
    found.dedup_by_key(|endpoint| (endpoint.address, endpoint.port));
    found
}

impl Endpoint {
    fn read(endpoint: &crate::model::Endpoint, port: u16, node: &str) -> Option<Endpoint> {
        let conditions = endpoint.conditions;
        let hints = endpoint.hints.clone().unwrap_or_default();
        Some(Endpoint {
            address: endpoint.addresses.first()?.parse().ok()?,
            port,
            is_ready: conditions.ready.unwrap_or(true),
            is_serving: conditions.serving.unwrap_or(true),
            is_terminating: conditions.terminating.unwrap_or(false),
            is_on_this_node: endpoint.node_name.as_deref() == Some(node),
            node_hints: hints.for_nodes.into_iter().map(|hint| hint.name).collect(),
            zone_hints: hints.for_zones.into_iter().map(|hint| hint.name).collect(),
        })
    }
}
