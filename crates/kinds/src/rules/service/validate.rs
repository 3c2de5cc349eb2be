//! What is wrong with a Service, in Kubernetes' order.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cursor::Cursor;
use crate::field::{FieldError, Path};
use crate::names;

use super::super::check::{self, Errors};
use super::super::meta::{self, MetaRule};
use super::super::pod::go;
use super::addresses;
use super::fields::{is_external, is_headless, needs_health_check, spec_of};

const META: MetaRule = MetaRule { namespaced: true, name: names::name_is_dns_label };

const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const AFFINITY_TIMEOUT_SECONDS_MAX: i64 = 86_400;
const NOT_FOR_EXTERNAL_NAMES: &str = "may not be set for ExternalName services";
const BALANCERS_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";

pub fn validate(object: &Value, old: Option<&Value>) -> Errors {
    let service = Cursor::root(object);
    let spec = service.field("spec");
    let before = old.map(spec_of);
    let mut errors = meta::validate(object, META);
    errors.extend(topology(&service.field("metadata").field("annotations")));
    errors.extend(type_fields(&spec));
    errors.extend(ports(&spec.field("ports")));
    errors.extend(meta::validate_labels(&spec.field("selector")));
    errors.extend(affinity(&spec));
    errors.extend(validate_cluster_ips(&spec, before.as_ref()));
    errors.extend(external_ips(&spec, before.as_ref()));
    errors.extend(check::one_of(&spec.field("type"), &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]));
    errors.extend(port_numbers(&spec));
    errors.extend(source_ranges(&service, old));
    errors.extend(node_port_allocation(&spec));
    errors.extend(load_balancer_class(&spec));
    errors.extend(external_traffic(&spec));
    errors.extend(internal_traffic(&spec));
    let distribution = spec.field("trafficDistribution");
    errors.extend(check::one_of_if_set(&distribution, &["PreferClose", "PreferSameNode", "PreferSameZone"]));
    errors
}

fn topology(annotations: &Cursor<'_>) -> Option<FieldError> {
    let (hints, mode) = (annotations.key(TOPOLOGY_HINTS), annotations.key(TOPOLOGY_MODE));
    let differ = hints.exists() && mode.exists() && hints.str() != mode.str();
    differ.then(|| mode.invalid_str(format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified")))
}

fn type_fields(spec: &Cursor<'_>) -> Errors {
    let typed = spec.field("type").str();
    let mut errors = Vec::new();
    if spec.field("ports").is_empty() && !is_headless(spec) && typed != "ExternalName" {
        errors.push(spec.field("ports").required(""));
    }
    match typed {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let first = spec.field("clusterIPs").path().index(0);
            errors.push(FieldError::invalid(&first, "None", format!("may not be set to 'None' for {typed} services")));
        }
        "ExternalName" => errors.extend(external_name(spec)),
        _ => {}
    }
    errors
}

fn external_name(spec: &Cursor<'_>) -> Errors {
    let is_set = |name: &&'static str| !spec.field(name).is_empty() || (*name == "ipFamilyPolicy" && spec.field(name).exists());
    let set = ["clusterIPs", "ipFamilies", "ipFamilyPolicy"].into_iter().filter(is_set);
    let mut errors: Errors = set.map(|name| spec.field(name).forbidden(NOT_FOR_EXTERNAL_NAMES)).collect();
    let name = spec.field("externalName");
    match name.str().strip_suffix('.').unwrap_or(name.str()) {
        "" => errors.push(name.required("")),
        host => errors.extend(names::dns1123_subdomain(host).into_iter().map(|finding| name.invalid_value(host, finding))),
    }
    errors
}

fn ports(ports: &Cursor<'_>) -> Errors {
    let mut names_seen = BTreeSet::new();
    let mut errors = Vec::new();
    for port in ports.items() {
        let name = port.field("name");
        if !name.str().is_empty() {
            errors.extend(check::named(&name, names::dns1123_label));
            errors.extend((!names_seen.insert(name.str())).then(|| name.duplicate()));
        } else if ports.len() > 1 {
            errors.push(name.required(""));
        }
        errors.extend(check::number_findings(&port.field("port"), names::port_number(port.field("port").int_or_zero())));
        errors.extend(check::one_of(&port.field("protocol"), PROTOCOLS));
        errors.extend(check::port_number_or_name(&port.field("targetPort")));
        errors.extend(app_protocol(&port.field("appProtocol")));
    }
    errors
}

/// The protocol of a port's contents.
pub fn app_protocol(protocol: &Cursor<'_>) -> Errors {
    if protocol.exists() { check::named(protocol, names::qualified_name) } else { Vec::new() }
}

fn affinity(spec: &Cursor<'_>) -> Errors {
    let (affinity, config) = (spec.field("sessionAffinity"), spec.field("sessionAffinityConfig"));
    let mut errors: Errors = check::one_of(&affinity, &["ClientIP", "None"]).into_iter().collect();
    let timeout = config.field("clientIP").field("timeoutSeconds");
    let seconds = timeout.int_or_zero();
    match affinity.str() {
        "ClientIP" if seconds <= 0 || seconds > AFFINITY_TIMEOUT_SECONDS_MAX => {
            errors.push(timeout.invalid(format!("must be greater than 0 and less than {AFFINITY_TIMEOUT_SECONDS_MAX}")));
        }
        "None" if config.exists() => errors.push(config.forbidden("must not be set when session affinity is None")),
        _ => {}
    }
    errors
}

/// The addresses in the cluster and their families, among themselves.
pub fn validate_cluster_ips(spec: &Cursor<'_>, before: Option<&Cursor<'_>>) -> Errors {
    if spec.field("type").str() == "ExternalName" {
        return Vec::new();
    }
    let (one, ips) = (spec.field("clusterIP"), spec.field("clusterIPs"));
    let refuse = |detail: &str| ips.invalid_value(json!(ips.list()), detail);
    let mut errors = Vec::new();
    match (one.str(), ips.strs().next()) {
        ("", None) => {}
        ("", Some(_)) => errors.push(refuse("must be empty when `clusterIP` is not specified")),
        (_, None) => errors.push(ips.required("")),
        (one, Some(first)) if one != first => errors.push(refuse("first value must match `clusterIP`")),
        _ => {}
    }
    errors.extend(families(spec));
    let known: BTreeSet<&str> = before.map(|before| before.field("clusterIPs").strs().collect()).unwrap_or_default();
    let mut misplaced = Vec::new();
    for (i, ip) in ips.items().enumerate() {
        match (i, ip.str()) {
            (0, "None") if ips.len() == 1 => {}
            (0, "None") => misplaced.push(refuse("'None' must be the first and only value")),
            _ => misplaced.extend(addresses::validate_ip(&ip, &known)),
        }
    }
    let has_misplaced = !misplaced.is_empty();
    errors.extend(misplaced);
    if ips.len() > 2 {
        errors.push(refuse("may only hold up to 2 values"));
    }
    if has_misplaced {
        return errors;
    }
    let parsed: Vec<_> = ips.strs().filter_map(names::parse_ip).collect();
    if ips.len() > 1 && !check::is_dual_stack(&parsed) {
        errors.push(refuse("may specify no more than one IP for each IP family"));
    }
    if !is_headless(spec) {
        errors.extend(families_match(spec, &parsed));
    }
    errors
}

fn families(spec: &Cursor<'_>) -> Errors {
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for family in spec.field("ipFamilies").items() {
        if !matches!(family.str(), "IPv4" | "IPv6") {
            errors.push(family.not_supported(&["IPv4", "IPv6"]));
        }
        errors.extend((!seen.insert(family.str())).then(|| family.duplicate()));
    }
    errors.extend(check::one_of_if_set(&spec.field("ipFamilyPolicy"), &["PreferDualStack", "RequireDualStack", "SingleStack"]));
    errors
}

fn families_match(spec: &Cursor<'_>, parsed: &[std::net::IpAddr]) -> Errors {
    let pairs = spec.field("clusterIPs").items().zip(parsed).zip(spec.field("ipFamilies").strs()).enumerate();
    let wrong = pairs.filter(|(_, ((_, ip), family))| (*family == "IPv4" && ip.is_ipv6()) || (*family == "IPv6" && ip.is_ipv4()));
    wrong.map(|(i, ((ip, _), family))| ip.invalid(format!("expected an {family} value as indicated by `ipFamilies[{i}]`"))).collect()
}

fn external_ips(spec: &Cursor<'_>, before: Option<&Cursor<'_>>) -> Errors {
    let known: BTreeSet<&str> = before.map(|before| before.field("externalIPs").strs().collect()).unwrap_or_default();
    let check = |ip: Cursor<'_>| {
        let errors = addresses::validate_ip(&ip, &known);
        if errors.is_empty() { addresses::validate_not_special(&ip) } else { errors }
    };
    spec.field("externalIPs").items().flat_map(check).collect()
}

/// Node ports where there are none, and numbers used twice.
fn port_numbers(spec: &Cursor<'_>) -> Errors {
    let with_node_port = |port: &Cursor<'_>| port.field("nodePort").int_or_zero() != 0;
    let ports = spec.field("ports");
    let mut errors = Vec::new();
    if spec.field("type").str() == "ClusterIP" {
        let bad = ports.items().filter(with_node_port);
        errors.extend(bad.map(|port| port.field("nodePort").forbidden("may not be used when `type` is 'ClusterIP'")));
    }
    let mut seen = BTreeSet::new();
    let key = |port: &Cursor<'_>, name| (port.field("protocol").str().to_owned(), port.field(name).int_or_zero());
    let again = ports.items().filter(with_node_port).filter(|port| !seen.insert(key(port, "nodePort")));
    errors.extend(again.map(|port| port.field("nodePort").duplicate()));
    let mut seen = BTreeSet::new();
    for port in ports.items().filter(|port| !seen.insert(key(port, "port"))) {
        let (protocol, number) = key(&port, "port");
        let shown = json!({"protocol": protocol, "port": number});
        errors.push(FieldError::duplicate(port.path(), go::print("ServicePort", Some(&shown))));
    }
    errors
}

/// Who may reach a load balancer; an annotation is the older way to say it.
fn source_ranges(service: &Cursor<'_>, old: Option<&Value>) -> Errors {
    let spec = service.field("spec");
    let ranges = spec.field("loadBalancerSourceRanges");
    let annotation = service.field("metadata").field("annotations").key(SOURCE_RANGES);
    let balances = spec.field("type").str() == "LoadBalancer";
    let mut errors = Vec::new();
    if !ranges.is_empty() {
        // Upstream spells the field with a capital letter.
        let path = Path::new("spec").child("LoadBalancerSourceRanges");
        if !balances {
            errors.push(FieldError::forbidden(&path, BALANCERS_ONLY));
        }
        let before = old.map(spec_of).map(|before| before.field("loadBalancerSourceRanges"));
        let known: BTreeSet<&str> = before.iter().flat_map(Cursor::strs).map(str::trim).collect();
        let ranges = Cursor::at(ranges.value(), path);
        errors.extend(ranges.items().flat_map(|range| addresses::validate_cidr(&range, range.str().trim(), &known)));
    } else if annotation.exists() {
        if !balances {
            errors.push(annotation.forbidden(BALANCERS_ONLY));
        }
        let texts = annotation.str().trim().split(',').map(str::trim).filter(|_| !annotation.str().trim().is_empty());
        errors.extend(texts.flat_map(|text| addresses::validate_cidr(&annotation, text, &BTreeSet::new())));
    }
    errors
}

fn node_port_allocation(spec: &Cursor<'_>) -> Option<FieldError> {
    let allocate = spec.field("allocateLoadBalancerNodePorts");
    match (spec.field("type").str() == "LoadBalancer", allocate.exists()) {
        (false, true) => Some(allocate.forbidden(BALANCERS_ONLY)),
        (true, false) => Some(FieldError::required(&Path::new("allocateLoadBalancerNodePorts"), "")),
        _ => None,
    }
}

/// The class of a load balancer, and that nothing else has one.
pub fn load_balancer_class(spec: &Cursor<'_>) -> Errors {
    let class = spec.field("loadBalancerClass");
    match spec.field("type").str() {
        _ if !class.exists() => Vec::new(),
        "LoadBalancer" => check::named(&class, names::qualified_name),
        _ => vec![class.forbidden(BALANCERS_ONLY)],
    }
}

/// A missing port for health checks is no error here: it is allocated.
fn external_traffic(spec: &Cursor<'_>) -> Errors {
    let policy = spec.field("externalTrafficPolicy");
    let mut errors = Vec::new();
    if is_external(spec) {
        errors.extend(check::one_of(&policy, &["Cluster", "Local"]));
    } else if !policy.str().is_empty() {
        errors.push(policy.invalid("may only be set for externally-accessible services"));
    }
    let port = spec.field("healthCheckNodePort");
    if port.int_or_zero() != 0 {
        if needs_health_check(spec) {
            errors.extend(check::number_findings(&port, names::port_number(port.int_or_zero())));
        } else {
            errors.push(port.invalid("may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"));
        }
    }
    errors
}

fn internal_traffic(spec: &Cursor<'_>) -> Option<FieldError> {
    let policy = spec.field("internalTrafficPolicy");
    let is_needed = matches!(spec.field("type").str(), "NodePort" | "LoadBalancer" | "ClusterIP");
    if !policy.exists() && is_needed {
        return Some(policy.required(""));
    }
    check::one_of_if_set(&policy, &["Cluster", "Local"])
}

/// Where a load balancer is reached.
pub fn validate_status(new: &Cursor<'_>, old: &Cursor<'_>) -> Errors {
    let [ingress, before] = [new, old].map(|service| service.field("status").field("loadBalancer").field("ingress"));
    if new.field("spec").field("type").str() != "LoadBalancer" {
        let misplaced = !ingress.is_empty();
        return misplaced.then(|| ingress.forbidden("may only be used when `spec.type` is \"LoadBalancer\"")).into_iter().collect();
    }
    let old_points: Vec<Cursor<'_>> = before.items().collect();
    let known: BTreeSet<&str> = old_points.iter().map(|point| point.field("ip").str()).collect();
    ingress.items().flat_map(|point| validate_ingress(&point, &known)).collect()
}

fn validate_ingress(point: &Cursor<'_>, known: &BTreeSet<&str>) -> Errors {
    let (ip, mode, hostname) = (point.field("ip"), point.field("ipMode"), point.field("hostname"));
    let mut errors = if ip.str().is_empty() { Vec::new() } else { addresses::validate_ip(&ip, known) };
    match (ip.str().is_empty(), mode.exists()) {
        (false, false) => errors.push(mode.required("must be specified when `ip` is set")),
        (true, true) => errors.push(mode.forbidden("may not be specified when `ip` is not set")),
        _ => errors.extend(check::one_of_if_set(&mode, &["Proxy", "VIP"])),
    }
    if !hostname.str().is_empty() {
        errors.extend(check::named(&hostname, names::dns1123_subdomain));
        if names::parse_ip(hostname.str()).is_some() {
            errors.push(hostname.invalid("must be a DNS name, not an IP address"));
        }
    }
    errors
}
