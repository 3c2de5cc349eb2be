//! Endpoints: the addresses behind a Service, in the form before EndpointSlices.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cursor::Cursor;
use crate::names;

use super::check::{self, Errors};
use super::meta::{self, NAMESPACED};
use super::service::addresses;
use super::{Part, Rules};

pub const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub static RULES: EndpointsRules = EndpointsRules;

pub struct EndpointsRules;

impl Rules for EndpointsRules {
    fn default(&self, object: &mut Value) {
        let subsets = object.get_mut("subsets").and_then(Value::as_array_mut);
        let ports = subsets.into_iter().flatten().filter_map(|subset| subset.get_mut("ports")?.as_array_mut()).flatten();
        for port in ports.filter_map(Value::as_object_mut) {
            if port.get("protocol").is_none_or(|protocol| protocol.is_null() || protocol == "") {
                port.insert("protocol".into(), "TCP".into());
            }
        }
    }

    fn validate_create(&self, object: &Value) -> Errors {
        validate(object, &BTreeSet::new())
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Errors {
        let old_addresses: Vec<Cursor<'_>> = all_addresses(old).collect();
        let known: BTreeSet<&str> = old_addresses.iter().map(|address| address.field("ip").str()).collect();
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(meta::validate_update(object, old));
        errors.extend(validate(object, &known));
        errors
    }

    fn warnings_create(&self, object: &Value) -> Vec<String> {
        all_addresses(object).filter_map(|address| addresses::ip_warning(&address.field("ip"))).collect()
    }

    fn warnings_update(&self, object: &Value, _old: &Value) -> Vec<String> {
        self.warnings_create(object)
    }
}

fn all_addresses(endpoints: &Value) -> impl Iterator<Item = Cursor<'_>> {
    let subsets = Cursor::root(endpoints).field("subsets").items();
    subsets.flat_map(|subset| subset.field("addresses").items().chain(subset.field("notReadyAddresses").items()))
}

fn validate(object: &Value, known: &BTreeSet<&str>) -> Errors {
    let mut errors = meta::validate(object, NAMESPACED);
    for subset in Cursor::root(object).field("subsets").items() {
        let (ready, not_ready, ports) = (subset.field("addresses"), subset.field("notReadyAddresses"), subset.field("ports"));
        if ready.is_empty() && not_ready.is_empty() {
            errors.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
        }
        errors.extend(ready.items().chain(not_ready.items()).flat_map(|address| validate_address(&address, known)));
        errors.extend(ports.items().flat_map(|port| validate_port(&port, ports.len() > 1)));
    }
    errors
}

fn validate_address(address: &Cursor<'_>, known: &BTreeSet<&str>) -> Errors {
    let (ip, node) = (address.field("ip"), address.field("nodeName"));
    let mut errors = addresses::validate_ip(&ip, known);
    errors.extend(check::named_if_set(&address.field("hostname"), names::dns1123_label));
    if node.exists() {
        errors.extend(check::named(&node, names::dns1123_subdomain));
    }
    errors.extend(addresses::validate_not_special(&ip));
    errors
}

fn validate_port(port: &Cursor<'_>, needs_name: bool) -> Errors {
    let (name, number) = (port.field("name"), port.field("port"));
    let mut errors = check::named_if_set(&name, names::dns1123_label);
    if needs_name {
        errors.extend(check::required(&name));
    }
    errors.extend(check::number_findings(&number, names::port_number(number.int_or_zero())));
    errors.extend(check::one_of(&port.field("protocol"), PROTOCOLS));
    let protocol = port.field("appProtocol");
    if protocol.exists() {
        errors.extend(check::named(&protocol, names::qualified_name));
    }
    errors
}
