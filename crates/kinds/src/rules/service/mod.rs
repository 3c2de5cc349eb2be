//! Services: ports, addresses and policies that depend on each other and on the type.
//!
//! Kubernetes fills `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` before anything else looks at a
//! Service, and answers what is wrong with them alone; [`families`] does this for a cluster with
//! IPv4 addresses only. The API server decides which addresses and ports a Service gets (in its
//! `admission::allocate`), so that here they may still be missing.

pub mod addresses;
mod families;
mod fields;
mod update;
mod validate;
mod warnings;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use crate::cursor::Cursor;

use super::check::Errors;
use super::meta;
use super::{Part, Rules};

pub use fields::{is_headless, is_unset, needs_health_check, needs_node_ports};

const AFFINITY_TIMEOUT_SECONDS: i64 = 3 * 60 * 60;

pub static RULES: ServiceRules = ServiceRules;

pub struct ServiceRules;

impl Rules for ServiceRules {
    fn default(&self, object: &mut Value) {
        let spec = meta::child(object, "spec");
        default_affinity(spec);
        default_string(spec, "type", "ClusterIP");
        default_ports(spec);
        default_policies(spec);
        if spec["type"] == "LoadBalancer" {
            spec.entry("allocateLoadBalancerNodePorts").or_insert(true.into());
            default_ip_modes(object);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"loadBalancer": {}});
        families::link_cluster_ips(object, None);
        // The validation, which tries the same, reports what is wrong with them.
        let _ = families::init(object, None);
    }

    fn validate_create(&self, object: &Value) -> Errors {
        let errors = families::init(&mut object.clone(), None);
        if errors.is_empty() { validate::validate(object, None) } else { errors }
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, part: Part) {
        if part == Part::Status {
            return meta::keep(object, old, "spec");
        }
        meta::keep(object, old, "status");
        update::keep_allocated(object, old);
        families::link_cluster_ips(object, Some(old));
        let _ = families::init(object, Some(old));
        update::drop_fields_of_the_old_type(object, old);
    }

    fn validate_update(&self, object: &Value, old: &Value, part: Part) -> Errors {
        if part == Part::Status {
            let mut errors = meta::validate_update_generally(object, old);
            errors.extend(meta::validate_update(object, old));
            errors.extend(validate::validate_status(&Cursor::root(object), &Cursor::root(old)));
            return errors;
        }
        let errors = families::init(&mut object.clone(), Some(old));
        if !errors.is_empty() {
            return errors;
        }
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(meta::validate_update(object, old));
        errors.extend(update::validate(&Cursor::root(object), &Cursor::root(old)));
        errors.extend(validate::validate(object, Some(old)));
        errors
    }

    fn warnings_create(&self, object: &Value) -> Vec<String> {
        warnings::warnings(&Cursor::root(object))
    }

    fn warnings_update(&self, object: &Value, _old: &Value) -> Vec<String> {
        self.warnings_create(object)
    }
}

fn default_string(object: &mut Map<String, Value>, name: &str, value: &str) {
    if is_unset(object.get(name)) {
        object.insert(name.into(), value.into());
    }
}

fn default_affinity(spec: &mut Map<String, Value>) {
    default_string(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "None" {
        spec.remove("sessionAffinityConfig");
    }
    let timeout = spec.get("sessionAffinityConfig").and_then(|config| config.pointer("/clientIP/timeoutSeconds"));
    if spec["sessionAffinity"] == "ClientIP" && timeout.is_none_or(Value::is_null) {
        spec.insert("sessionAffinityConfig".into(), json!({"clientIP": {"timeoutSeconds": AFFINITY_TIMEOUT_SECONDS}}));
    }
}

fn default_ports(spec: &mut Map<String, Value>) {
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(port) = port.as_object_mut() else { continue };
        default_string(port, "protocol", "TCP");
        let target = port.get("targetPort");
        if is_unset(target) || target.is_some_and(|target| *target == 0) {
            let number = port.get("port").cloned().unwrap_or_else(|| 0.into());
            port.insert("targetPort".into(), number);
        }
    }
}

fn default_policies(spec: &mut Map<String, Value>) {
    let typed = spec["type"].as_str().unwrap_or_default();
    let has_type_with_address = matches!(typed, "ClusterIP" | "NodePort" | "LoadBalancer");
    let has_external_ips = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    if needs_node_ports(typed) || (typed == "ClusterIP" && has_external_ips) {
        default_string(spec, "externalTrafficPolicy", "Cluster");
    }
    if has_type_with_address && spec.get("internalTrafficPolicy").is_none_or(Value::is_null) {
        spec.insert("internalTrafficPolicy".into(), "Cluster".into());
    }
}

fn default_ip_modes(service: &mut Value) {
    let ingress = service.pointer_mut("/status/loadBalancer/ingress").and_then(Value::as_array_mut);
    for point in ingress.into_iter().flatten().filter_map(Value::as_object_mut) {
        if !is_unset(point.get("ip")) && point.get("ipMode").is_none_or(Value::is_null) {
            point.insert("ipMode".into(), "VIP".into());
        }
    }
}
