//! What a change of a Service keeps, drops with the type, and may not change.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::cursor::Cursor;

use super::super::check::Errors;
use super::fields::{has_cluster_ip, is_headless, is_unset, needs_health_check, needs_node_ports, spec_mut, spec_of};

const MAY_NOT_CHANGE: &str = "may not change once set";

/// Takes over what was allocated and the client left out, so that the manifest a Service was made
/// of can be sent again.
pub fn keep_allocated(service: &mut Value, old: &Value) {
    let before = spec_of(old);
    let typed = spec_of(service).field("type").str().to_owned();
    let still_checked = needs_health_check(&spec_of(service)) && needs_health_check(&before);
    let spec = spec_mut(service);
    if has_cluster_ip(before.field("type").str()) && has_cluster_ip(&typed) {
        keep_if_unset(spec, &before, "clusterIP");
        keep_if_unset(spec, &before, "clusterIPs");
    }
    if needs_node_ports(before.field("type").str()) && needs_node_ports(&typed) {
        keep_node_ports(spec, &before);
    }
    if still_checked {
        keep_if_unset(spec, &before, "healthCheckNodePort");
    }
}

fn keep_if_unset(spec: &mut Map<String, Value>, before: &Cursor<'_>, name: &'static str) {
    let current = spec.get(name);
    let is_empty = is_unset(current) || current.is_some_and(|value| *value == 0 || *value == json!([]));
    if let Some(value) = before.field(name).value().filter(|_| is_empty) {
        spec.insert(name.to_owned(), value.clone());
    }
}

/// By name of the port, unless another port uses the number now.
fn keep_node_ports(spec: &mut Map<String, Value>, before: &Cursor<'_>) {
    let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return };
    let numbers = |ports: &[Value]| -> BTreeSet<i64> { ports.iter().filter_map(node_port).collect() };
    let used: BTreeSet<i64> = numbers(ports).intersection(&numbers(before.field("ports").list())).copied().collect();
    let by_name: BTreeMap<&str, i64> =
        before.field("ports").items().map(|port| (port.field("name").str(), port.field("nodePort").int_or_zero())).collect();
    for port in ports.iter_mut().filter(|port| node_port(port).is_none()) {
        let name = port["name"].as_str().unwrap_or_default();
        if let Some(&number) = by_name.get(name).filter(|number| **number != 0 && !used.contains(number)) {
            port["nodePort"] = number.into();
        }
    }
}

fn node_port(port: &Value) -> Option<i64> {
    port["nodePort"].as_i64().filter(|number| *number != 0)
}

/// With another type, what was filled in for the old one goes, unless the client changed it as
/// well.
pub fn drop_fields_of_the_old_type(service: &mut Value, old: &Value) {
    let before = spec_of(old);
    let (was, is) = (before.field("type").str(), spec_of(service).field("type").str().to_owned());
    let no_longer_checked = needs_health_check(&before) && !needs_health_check(&spec_of(service));
    let spec = spec_mut(service);
    let same = |spec: &Map<String, Value>, name: &'static str| spec.get(name) == before.field(name).value();
    if has_cluster_ip(was) && !has_cluster_ip(&is) {
        if same(spec, "clusterIP") && same(spec, "clusterIPs") {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        remove_if(spec, same, "ipFamilies");
        remove_if(spec, same, "ipFamilyPolicy");
        remove_if(spec, same, "internalTrafficPolicy");
    }
    if needs_node_ports(was) && !needs_node_ports(&is) {
        drop_node_ports(spec, &before);
        remove_if(spec, same, "externalTrafficPolicy");
    }
    if no_longer_checked {
        remove_if(spec, same, "healthCheckNodePort");
    }
    if was == "LoadBalancer" && is != "LoadBalancer" {
        remove_if(spec, same, "allocateLoadBalancerNodePorts");
        remove_if(spec, same, "loadBalancerClass");
    }
    if is != "LoadBalancer" {
        super::meta::child(service, "status").insert("loadBalancer".into(), json!({}));
    }
}

fn remove_if(spec: &mut Map<String, Value>, rule: impl Fn(&Map<String, Value>, &'static str) -> bool, name: &'static str) {
    if rule(spec, name) {
        spec.remove(name);
    }
}

/// Only if the client asks for no new ones.
fn drop_node_ports(spec: &mut Map<String, Value>, before: &Cursor<'_>) {
    let old: BTreeSet<i64> = before.field("ports").list().iter().filter_map(node_port).collect();
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut).map(Vec::as_mut_slice).unwrap_or_default();
    if ports.iter().filter_map(node_port).all(|number| old.contains(&number)) {
        ports.iter_mut().filter_map(Value::as_object_mut).for_each(|port| {
            port.remove("nodePort");
        });
    }
}

/// What may not change.
pub fn validate(new: &Cursor<'_>, old: &Cursor<'_>) -> Errors {
    let (spec, before) = (new.field("spec"), old.field("spec"));
    let mut errors = Vec::new();
    if has_cluster_ip(spec.field("type").str()) && has_cluster_ip(before.field("type").str()) {
        errors.extend(cluster_ips(&spec, &before));
        errors.extend(families(&spec, &before));
    }
    errors.extend(load_balancer_class(&spec, &before));
    errors.extend(super::validate::load_balancer_class(&spec));
    let port = spec.field("healthCheckNodePort");
    let is_changed = port.int_or_zero() != before.field("healthCheckNodePort").int_or_zero();
    if needs_health_check(&spec) && needs_health_check(&before) && is_changed {
        errors.push(port.forbidden(super::meta::FIELD_IMMUTABLE));
    }
    errors
}

/// The first address stays; a second one may come, or go with the policy.
fn cluster_ips(spec: &Cursor<'_>, before: &Cursor<'_>) -> Errors {
    if is_headless(spec) && is_headless(before) {
        return Vec::new();
    }
    let (ips, old) = (spec.field("clusterIPs"), before.field("clusterIPs"));
    let refuse = |i: usize, detail: &str| crate::field::FieldError::invalid(&ips.path().index(i), json!(ips.list()), detail);
    if ips.len() == old.len() {
        let changed = ips.list().iter().zip(old.list()).enumerate().filter(|(_, (new, old))| new != old);
        return changed.map(|(i, _)| refuse(i, MAY_NOT_CHANGE)).collect();
    }
    let mut errors = Vec::new();
    match (ips.list().first(), old.list().first()) {
        (None, _) => errors.push(refuse(0, "primary clusterIP can not be unset")),
        (Some(new), Some(old)) if new != old => errors.push(refuse(0, MAY_NOT_CHANGE)),
        _ => {}
    }
    let policy = spec.field("ipFamilyPolicy");
    if old.len() > ips.len() && ips.len() == 1 && policy.str() != "SingleStack" {
        errors.push(policy.invalid("must be set to 'SingleStack' when releasing the secondary clusterIP"));
    }
    errors
}

fn families(spec: &Cursor<'_>, before: &Cursor<'_>) -> Errors {
    if is_headless(spec) || is_headless(before) {
        return Vec::new();
    }
    let (families, old) = (spec.field("ipFamilies"), before.field("ipFamilies"));
    let first = families.path().index(0);
    let refuse = |shown: &Cursor<'_>, detail: &str| crate::field::FieldError::invalid(&first, json!(shown.list()), detail);
    if families.len() == old.len() {
        let changed = families.list().iter().zip(old.list()).filter(|(new, old)| new != old);
        return changed.map(|_| refuse(&families, MAY_NOT_CHANGE)).collect();
    }
    let mut errors = Vec::new();
    if old.len() > families.len() && spec.field("clusterIPs").is_empty() {
        errors.push(refuse(&families, "primary ipFamily can not be unset"));
    }
    if let (Some(new), Some(old)) = (families.list().first(), old.list().first())
        && new != old
    {
        // Upstream shows the addresses here.
        errors.push(refuse(&spec.field("clusterIPs"), MAY_NOT_CHANGE));
    }
    let policy = spec.field("ipFamilyPolicy");
    if old.len() > families.len() && families.len() == 1 && policy.str() != "SingleStack" {
        errors.push(policy.invalid("must be set to 'SingleStack' when releasing the secondary ipFamily"));
    }
    errors
}

fn load_balancer_class(spec: &Cursor<'_>, before: &Cursor<'_>) -> Option<crate::field::FieldError> {
    let (class, old) = (spec.field("loadBalancerClass"), before.field("loadBalancerClass"));
    let both_balance = [spec, before].iter().all(|spec| spec.field("type").str() == "LoadBalancer");
    let shown = class.value().and_then(Value::as_str).unwrap_or("null");
    (both_balance && class.value() != old.value()).then(|| class.invalid_value(shown, MAY_NOT_CHANGE))
}
