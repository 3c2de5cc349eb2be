//! Questions about Services that several of their rules ask.

use serde_json::{Map, Value};

use crate::cursor::Cursor;

use super::super::meta;

/// Absent, or an empty text.
pub fn is_unset(value: Option<&Value>) -> bool {
    value.is_none_or(|value| value.is_null() || *value == "")
}

/// `clusterIP: None`.
pub fn is_headless(spec: &Cursor<'_>) -> bool {
    let ips = spec.field("clusterIPs");
    ips.len() == 1 && ips.list()[0] == "None"
}

pub fn needs_node_ports(typed: &str) -> bool {
    matches!(typed, "NodePort" | "LoadBalancer")
}

pub fn has_cluster_ip(typed: &str) -> bool {
    typed != "ExternalName"
}

/// Whether nodes answer on a port of their own if they have endpoints.
pub fn needs_health_check(spec: &Cursor<'_>) -> bool {
    spec.field("type").str() == "LoadBalancer" && spec.field("externalTrafficPolicy").str() == "Local"
}

/// Reachable from outside the cluster.
pub fn is_external(spec: &Cursor<'_>) -> bool {
    let typed = spec.field("type").str();
    needs_node_ports(typed) || (typed == "ClusterIP" && !spec.field("externalIPs").is_empty())
}

/// The spec, to be changed.
pub fn spec_mut(service: &mut Value) -> &mut Map<String, Value> {
    meta::child(service, "spec")
}

pub fn spec_of(service: &Value) -> Cursor<'_> {
    Cursor::root(service).field("spec")
}
