//! What the API server warns of in Services that it accepts.

use crate::cursor::Cursor;

use super::addresses;

const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";

pub fn warnings(service: &Cursor<'_>) -> Vec<String> {
    let spec = service.field("spec");
    let typed = spec.field("type").str();
    let is_headless = typed == "ClusterIP" && spec.field("clusterIP").str() == "None";
    let external_ips = spec.field("externalIPs");
    let mut warnings = Vec::new();
    if service.field("metadata").field("annotations").key(TOPOLOGY_HINTS).exists() {
        warnings.push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"));
    }
    warnings.extend(spec.field("clusterIPs").items().filter_map(|ip| addresses::ip_warning(&ip)));
    if is_headless {
        warnings.extend(ignored_without_address(&spec));
    }
    if !external_ips.is_empty() {
        warnings.push("spec.externalIPs is deprecated".to_owned());
    }
    warnings.extend(external_ips.items().filter_map(|ip| addresses::ip_warning(&ip)));
    warnings.extend(addresses::ip_warning(&spec.field("loadBalancerIP")));
    warnings.extend(spec.field("loadBalancerSourceRanges").items().flat_map(|range| addresses::cidr_warnings(&range)));
    if typed == "ExternalName" && !external_ips.is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if typed != "ExternalName" && !spec.field("externalName").str().is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.field("trafficDistribution").str() == "PreferClose" {
        warnings.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    warnings
}

fn ignored_without_address(spec: &Cursor<'_>) -> Vec<String> {
    let mut ignored = Vec::new();
    if !spec.field("loadBalancerIP").str().is_empty() {
        ignored.push("loadBalancerIP");
    }
    if !spec.field("externalIPs").is_empty() {
        ignored.push("externalIPs");
    }
    if spec.field("sessionAffinity").str() != "None" {
        ignored.push("SessionAffinity");
    }
    ignored.into_iter().map(|name| format!("spec.{name} is ignored for headless services")).collect()
}
