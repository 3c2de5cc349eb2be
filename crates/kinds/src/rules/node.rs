//! Nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::cursor::Cursor;
use crate::field::{FieldError, Path};
use crate::names;

use super::check::{self, Errors};
use super::meta::{self, CLUSTER_WIDE};
use super::pod::{go, resources, round_list, tolerations};
use super::{Part, Rules};

const POD_CIDR_CHANGED: &str = "node updates may not change podCIDR except from \"\" to valid";
const PROVIDER_CHANGED: &str = "node updates may not change providerID except from \"\" to valid";

pub static RULES: NodeRules = NodeRules;

pub struct NodeRules;

impl Rules for NodeRules {
    fn default(&self, object: &mut Value) {
        one_pod_cidr(object);
        if let Some(status) = object.get_mut("status").filter(|status| status.is_object()) {
            for list in ["capacity", "allocatable"] {
                round_list(status, list);
            }
            let capacity = status.get("capacity").filter(|capacity| !capacity.is_null()).cloned();
            if let Some(capacity) = capacity.filter(|_| status["allocatable"].is_null()) {
                status["allocatable"] = capacity;
            }
        }
    }

    fn validate_create(&self, object: &Value) -> Errors {
        let node = Cursor::root(object);
        let mut errors = meta::validate(object, CLUSTER_WIDE);
        errors.extend(validate_taints(&node));
        errors.extend(validate_resources(&node));
        errors.extend(validate_pod_cidrs(&node.field("spec").field("podCIDRs")));
        errors
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, part: Part) {
        meta::keep(object, old, if part == Part::Status { "spec" } else { "status" });
    }

    fn validate_update(&self, object: &Value, old: &Value, part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        if part != Part::Status {
            errors.extend(self.validate_create(object));
        }
        errors.extend(meta::validate_update(object, old));
        errors.extend(validate_change(&Cursor::root(object), &Cursor::root(old)));
        errors
    }

    fn warnings_create(&self, object: &Value) -> Vec<String> {
        let id = Cursor::root(object).field("spec").field("externalID");
        if id.str().is_empty() {
            return Vec::new();
        }
        vec![format!("{}: this field is deprecated, and is unused by Kubernetes", id.path())]
    }

    fn warnings_update(&self, object: &Value, _old: &Value) -> Vec<String> {
        self.warnings_create(object)
    }
}

/// `podCIDR` and the first of `podCIDRs` are the same; where they differ, `podCIDR` counts.
fn one_pod_cidr(node: &mut Value) {
    let Some(spec) = node.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let first = spec.get("podCIDRs").and_then(|list| list.get(0)).cloned();
    match (spec.get("podCIDR").filter(|own| *own != "").cloned(), first) {
        (Some(own), first) if first.as_ref() != Some(&own) => {
            spec.insert("podCIDRs".into(), json!([own]));
        }
        (None, Some(first)) => {
            spec.insert("podCIDR".into(), first);
        }
        _ => {}
    }
}

/// Upstream looks for taints under `metadata`.
fn validate_taints(node: &Cursor<'_>) -> Errors {
    let taints = Cursor::at(node.field("spec").field("taints").value(), Path::new("metadata").child("taints"));
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for taint in taints.items() {
        let (key, value, effect) = (taint.field("key"), taint.field("value"), taint.field("effect"));
        errors.extend(check::named(&key, names::qualified_name));
        let findings = names::label_value(value.str());
        if !findings.is_empty() {
            errors.push(value.invalid(findings.join(";")));
        }
        errors.extend(tolerations::validate_effect(&effect));
        if !seen.insert((key.str(), effect.str())) {
            let mut error = FieldError::duplicate(taint.path(), go::print("Taint", taint.value()));
            error.detail = "taints must be unique by key and effect pair".into();
            errors.push(error);
        }
    }
    errors
}

fn validate_resources(node: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    for list in ["capacity", "allocatable"].map(|name| node.field("status").field(name)) {
        for (name, amount) in list.entries() {
            let found = resources::validate_quantity(name, &amount);
            // Upstream names the resource as if it were a field.
            let field = format!("{}.{name}", list.path());
            errors.extend(found.into_iter().map(|error| FieldError { field: field.clone(), ..error }));
        }
    }
    errors
}

fn validate_pod_cidrs(cidrs: &Cursor<'_>) -> Errors {
    let mut errors: Errors = cidrs.items().flat_map(|cidr| check::named(&cidr, names::cidr)).collect();
    if cidrs.len() < 2 {
        return errors;
    }
    let parsed: Vec<Option<IpAddr>> = cidrs.strs().map(|text| names::parse_cidr(text).map(|(ip, _)| ip)).collect();
    if let Some(bad) = cidrs.strs().zip(&parsed).find(|(_, ip)| ip.is_none()).map(|(text, _)| text) {
        let detail = format!("invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR address: {bad}");
        errors.push(FieldError::internal(cidrs.path(), detail));
    }
    let addresses: Vec<IpAddr> = parsed.iter().flatten().copied().collect();
    let is_dual_stack = addresses.len() == parsed.len() && check::is_dual_stack(&addresses);
    if !is_dual_stack || cidrs.len() > 2 {
        errors.push(cidrs.invalid("may specify no more than one CIDR for each IP family"));
    }
    let mut seen = BTreeSet::new();
    errors.extend(cidrs.items().filter(|cidr| !seen.insert(cidr.str())).map(|cidr| cidr.duplicate()));
    errors
}

fn validate_change(new: &Cursor<'_>, old: &Cursor<'_>) -> Errors {
    let (spec, before) = (new.field("spec"), old.field("spec"));
    let mut errors = validate_resources(new);
    errors.extend(duplicate_addresses(&new.field("status").field("addresses")));
    let (cidrs, old_cidrs) = (spec.field("podCIDRs"), before.field("podCIDRs"));
    if !old_cidrs.is_empty() && cidrs.len() != old_cidrs.len() {
        errors.push(cidrs.forbidden(POD_CIDR_CHANGED));
    } else {
        let changed = old_cidrs.strs().zip(cidrs.strs()).filter(|(old, new)| old != new);
        errors.extend(changed.map(|_| cidrs.forbidden(POD_CIDR_CHANGED)));
    }
    let (provider, old_provider) = (spec.field("providerID"), before.field("providerID").str());
    if !old_provider.is_empty() && old_provider != provider.str() {
        errors.push(provider.forbidden(PROVIDER_CHANGED));
    }
    errors.extend(validate_taints(new));
    if spec.field("externalID").str() != before.field("externalID").str() {
        errors.push(spec.field("externalID").forbidden("may not be updated"));
    }
    errors
}

fn duplicate_addresses(addresses: &Cursor<'_>) -> Errors {
    let mut seen = BTreeSet::new();
    let again = addresses.items().filter(|address| !seen.insert((address.field("type").str(), address.field("address").str())));
    again.map(|address| FieldError::duplicate(address.path(), go::print("NodeAddress", address.value()))).collect()
}
