//! EndpointSlices: some of the addresses behind a Service, of one family.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cursor::Cursor;
use crate::names;

use super::check::{self, Errors};
use super::endpoints::PROTOCOLS;
use super::meta::{self, NAMESPACED};
use super::service::addresses;
use super::{Part, Rules};

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 100;
const TOPOLOGY_LABELS_MAX: usize = 16;
const HINTS_MAX: usize = 8;

pub static RULES: EndpointSliceRules = EndpointSliceRules;

pub struct EndpointSliceRules;

impl Rules for EndpointSliceRules {
    fn default(&self, object: &mut Value) {
        let ports = object.get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
            for (name, value) in [("name", ""), ("protocol", "TCP")] {
                if port.get(name).is_none_or(Value::is_null) {
                    port.insert(name.into(), value.into());
                }
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::start_generation(object);
        drop_topology(object);
    }

    fn validate_create(&self, object: &Value) -> Errors {
        validate(object, &BTreeSet::new())
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, _part: Part) {
        if object.get("endpoints") != old.get("endpoints") {
            drop_topology(object);
        }
        let is_changed = ["addressType", "endpoints", "ports"].iter().any(|name| object.get(name) != old.get(name));
        let labels = |object: &Value| object["metadata"].get("labels").cloned();
        meta::count_generation(object, old, is_changed || labels(object) != labels(old));
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Errors {
        let known: BTreeSet<&str> = all_addresses(old).map(|address| address.str()).collect();
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(validate(object, &known));
        errors.extend(meta::immutable_str(&Cursor::root(object).field("addressType"), &Cursor::root(old).field("addressType")));
        errors
    }

    fn warnings_create(&self, object: &Value) -> Vec<String> {
        if Cursor::root(object).field("addressType").str() == "FQDN" {
            return vec!["addressType: FQDN endpoints are deprecated".to_owned()];
        }
        all_addresses(object).filter_map(|address| addresses::ip_warning(&address)).collect()
    }

    fn warnings_update(&self, object: &Value, _old: &Value) -> Vec<String> {
        self.warnings_create(object)
    }
}

fn all_addresses(slice: &Value) -> impl Iterator<Item = Cursor<'_>> {
    Cursor::root(slice).field("endpoints").items().flat_map(|endpoint| endpoint.field("addresses").items())
}

/// A field of the version before: read, but no longer written.
fn drop_topology(slice: &mut Value) {
    let endpoints = slice.get_mut("endpoints").and_then(Value::as_array_mut);
    endpoints.into_iter().flatten().filter_map(Value::as_object_mut).for_each(|endpoint| {
        endpoint.remove("deprecatedTopology");
    });
}

fn validate(object: &Value, known: &BTreeSet<&str>) -> Errors {
    let slice = Cursor::root(object);
    let (kind, endpoints, ports) = (slice.field("addressType"), slice.field("endpoints"), slice.field("ports"));
    let mut errors = meta::validate(object, NAMESPACED);
    errors.extend(check::one_of(&kind, &["FQDN", "IPv4", "IPv6"]));
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(endpoints.too_many(ENDPOINTS_MAX));
    } else {
        errors.extend(endpoints.items().flat_map(|endpoint| validate_endpoint(&endpoint, kind.str(), known)));
    }
    if ports.len() > PORTS_MAX {
        errors.push(ports.too_many(PORTS_MAX));
    } else {
        errors.extend(validate_ports(&ports));
    }
    errors
}

fn validate_endpoint(endpoint: &Cursor<'_>, kind: &str, known: &BTreeSet<&str>) -> Errors {
    let (list, node, topology) = (endpoint.field("addresses"), endpoint.field("nodeName"), endpoint.field("deprecatedTopology"));
    let mut errors = Vec::new();
    match list.len() {
        0 => errors.push(list.required("must contain at least 1 address")),
        len if len > ADDRESSES_MAX => errors.push(list.too_many(ADDRESSES_MAX)),
        _ => {}
    }
    errors.extend(list.items().flat_map(|address| validate_address(&address, kind, known)));
    if node.exists() {
        errors.extend(check::named(&node, names::dns1123_subdomain));
    }
    if topology.len() > TOPOLOGY_LABELS_MAX {
        errors.push(topology.too_many(TOPOLOGY_LABELS_MAX));
    }
    errors.extend(meta::validate_labels(&topology));
    if endpoint.field("hostname").exists() {
        errors.extend(check::named(&endpoint.field("hostname"), names::dns1123_label));
    }
    errors.extend(validate_hints(&endpoint.field("hints").field("forZones"), names::label_value));
    errors.extend(validate_hints(&endpoint.field("hints").field("forNodes"), names::dns1123_subdomain));
    errors
}

fn validate_address(address: &Cursor<'_>, kind: &str, known: &BTreeSet<&str>) -> Errors {
    let ip = names::parse_ip(address.str());
    let misfit = match kind {
        "IPv4" => ip.is_none_or(|ip| !ip.is_ipv4()),
        "IPv6" => ip.is_none_or(|ip| !ip.is_ipv6()),
        "FQDN" => return validate_domain(address),
        _ => return Vec::new(),
    };
    if ip.is_none() {
        return addresses::validate_ip(address, known);
    }
    let mut errors = Vec::new();
    if misfit {
        errors.push(address.invalid_str(format!("must be a valid {kind} address")));
    } else {
        errors.extend(addresses::validate_ip(address, known));
    }
    errors.extend(addresses::validate_not_special(address));
    errors
}

/// A whole domain name, a dot at its end or not.
fn validate_domain(address: &Cursor<'_>) -> Errors {
    let name = address.str().strip_suffix('.').unwrap_or(address.str());
    if name.is_empty() {
        return vec![address.required("")];
    }
    let findings = names::dns1123_subdomain(name);
    if !findings.is_empty() {
        return findings.into_iter().map(|finding| address.invalid_value(name, finding)).collect();
    }
    let labels: Vec<&str> = name.split('.').collect();
    if labels.len() < 2 {
        return vec![address.invalid_value(name, "should be a domain with at least two segments separated by dots")];
    }
    let findings = labels.into_iter().flat_map(|label| names::dns1123_label(label).into_iter().map(move |finding| (label, finding)));
    findings.map(|(label, finding)| address.invalid_value(label, finding)).collect()
}

fn validate_hints(hints: &Cursor<'_>, rule: fn(&str) -> Vec<String>) -> Errors {
    if hints.len() > HINTS_MAX {
        return vec![hints.too_many(HINTS_MAX)];
    }
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for name in hints.items().map(|hint| hint.field("name")) {
        errors.extend((!seen.insert(name.str())).then(|| name.duplicate()));
        errors.extend(check::named(&name, rule));
    }
    errors
}

fn validate_ports(ports: &Cursor<'_>) -> Errors {
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for port in ports.items() {
        let (name, protocol) = (port.field("name"), port.field("appProtocol"));
        errors.extend(check::named_if_set(&name, names::dns1123_label));
        errors.extend((!seen.insert(name.str())).then(|| crate::field::FieldError::duplicate(name.path(), json!(name.str()))));
        errors.extend(check::one_of_if_set(&port.field("protocol"), PROTOCOLS));
        if protocol.exists() {
            errors.extend(check::named(&protocol, names::qualified_name));
        }
    }
    errors
}
