//! Services, and what lists the addresses behind them: EndpointSlices and Endpoints.

use std::sync::Arc;

use kinds::selector::Selector;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{Meta, absent_if_null};

#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub meta: Meta,
    /// None for Services whose endpoints another client keeps.
    pub selector: Option<Selector>,
    /// Does its specification select anything? It may although `selector` is None: those of type
    /// ExternalName do not use theirs.
    pub has_selector: bool,
    /// `None` (the text) or empty for those without an address of their own.
    pub cluster_ip: Box<str>,
    pub ip_families: Vec<Box<str>>,
    pub ports: Vec<ServicePort>,
    pub publish_not_ready_addresses: bool,
    pub traffic_distribution: Option<TrafficDistribution>,
    /// How many ports of nodes it takes; quotas count them.
    pub node_ports: i64,
    pub is_load_balancer: bool,
}

/// Which endpoints of a Service its clients prefer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficDistribution {
    /// `PreferClose` is an older word for it.
    PreferSameZone,
    /// And then those of the same zone.
    PreferSameNode,
}

impl TrafficDistribution {
    fn read(word: &str) -> Option<TrafficDistribution> {
        match word {
            "PreferClose" | "PreferSameZone" => Some(TrafficDistribution::PreferSameZone),
            "PreferSameNode" => Some(TrafficDistribution::PreferSameNode),
            _ => None,
        }
    }
}

impl Service {
    /// Has it no address of its own?
    pub fn is_headless(&self) -> bool {
        matches!(&*self.cluster_ip, "" | "None")
    }
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    #[serde(deserialize_with = "absent_if_null")]
    pub name: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub protocol: Box<str>,
    /// A number, or the name of a container's port.
    pub target_port: Option<Value>,
    pub app_protocol: Option<Box<str>>,
    #[serde(deserialize_with = "absent_if_null")]
    pub node_port: i64,
}

/// Some of the endpoints of a Service, of one kind of address.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    #[serde(rename = "metadata")]
    pub meta: Meta,
    pub address_type: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "absent_if_null")]
    pub ports: Vec<EndpointPort>,
}

/// As it is written, too.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    #[serde(deserialize_with = "absent_if_null")]
    pub addresses: Vec<Box<str>>,
    #[serde(deserialize_with = "absent_if_null")]
    pub conditions: EndpointConditions,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<EndpointHints>,
}

/// For which nodes and zones an endpoint is near.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    #[serde(deserialize_with = "absent_if_null", skip_serializing_if = "Vec::is_empty")]
    pub for_zones: Vec<Hint>,
    #[serde(deserialize_with = "absent_if_null", skip_serializing_if = "Vec::is_empty")]
    pub for_nodes: Vec<Hint>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Hint {
    #[serde(deserialize_with = "absent_if_null")]
    pub name: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct EndpointConditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// The object behind an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetRef {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<Box<str>>,
    #[serde(deserialize_with = "absent_if_null", skip_serializing_if = "is_empty")]
    pub kind: Box<str>,
    #[serde(deserialize_with = "absent_if_null", skip_serializing_if = "is_empty")]
    pub namespace: Arc<str>,
    #[serde(deserialize_with = "absent_if_null", skip_serializing_if = "is_empty")]
    pub name: Arc<str>,
    #[serde(deserialize_with = "absent_if_null", skip_serializing_if = "is_empty")]
    pub uid: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_path: Option<Box<str>>,
}

fn is_empty(text: &impl AsRef<str>) -> bool {
    text.as_ref().is_empty()
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    #[serde(deserialize_with = "absent_if_null")]
    pub name: Box<str>,
    pub port: Option<i64>,
    #[serde(deserialize_with = "absent_if_null")]
    pub protocol: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<Box<str>>,
}

/// The older form: all endpoints of a Service in one object of its name.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// As stored, for comparing.
    #[serde(deserialize_with = "absent_if_null")]
    pub subsets: Arc<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    metadata: Meta,
    #[serde(deserialize_with = "absent_if_null")]
    spec: RawSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    selector: Option<Map<String, Value>>,
    #[serde(rename = "clusterIP", deserialize_with = "absent_if_null")]
    cluster_ip: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    ip_families: Vec<Box<str>>,
    #[serde(deserialize_with = "absent_if_null")]
    ports: Vec<ServicePort>,
    #[serde(deserialize_with = "absent_if_null")]
    publish_not_ready_addresses: bool,
    #[serde(deserialize_with = "absent_if_null")]
    traffic_distribution: Box<str>,
    #[serde(rename = "type", deserialize_with = "absent_if_null")]
    kind: Box<str>,
    allocate_load_balancer_node_ports: Option<bool>,
}

impl RawSpec {
    /// As `kinds::quota::node_ports_of` counts them.
    fn node_ports(&self) -> i64 {
        let given = || self.ports.iter().filter(|port| port.node_port != 0).count();
        let taken = match &*self.kind {
            "NodePort" => self.ports.len(),
            "LoadBalancer" if self.allocate_load_balancer_node_ports == Some(false) => given(),
            "LoadBalancer" => self.ports.len(),
            _ => 0,
        };
        i64::try_from(taken).unwrap_or(i64::MAX)
    }
}

impl<'de> Deserialize<'de> for Service {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Service, D::Error> {
        let Raw { metadata, spec } = Raw::deserialize(deserializer)?;
        let node_ports = spec.node_ports();
        let selector = spec.selector.filter(|labels| !labels.is_empty());
        let has_selector = selector.is_some();
        // Those of type ExternalName are names and nothing else, whatever they select.
        let selector = selector.filter(|_| &*spec.kind != "ExternalName");
        Ok(Service {
            has_selector,
            traffic_distribution: TrafficDistribution::read(&spec.traffic_distribution),
            node_ports,
            is_load_balancer: &*spec.kind == "LoadBalancer",
            meta: metadata,
            selector: selector.map(|labels| Selector::from_labels(Some(&labels))),
            cluster_ip: spec.cluster_ip,
            ip_families: spec.ip_families,
            ports: spec.ports,
            publish_not_ready_addresses: spec.publish_not_ready_addresses,
        })
    }
}
