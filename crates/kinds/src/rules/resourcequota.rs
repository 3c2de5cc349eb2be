//! ResourceQuotas: how much a namespace may have of what.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::cursor::Cursor;
use crate::names;

use super::check::Errors;
use super::meta::{self, NAMESPACED};
use super::pod::{go, resources, round_list};
use super::{Part, Rules};

const PODS: &[&str] = &["pods"];
const COMPUTE: &[&str] = &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const CLAIMS: &[&str] = &["persistentvolumeclaims", "requests.storage"];
const OTHERS: &[&str] = &[
    "ephemeral-storage",
    "requests.ephemeral-storage",
    "limits.ephemeral-storage",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

pub static RULES: ResourceQuotaRules = ResourceQuotaRules;

pub struct ResourceQuotaRules;

impl Rules for ResourceQuotaRules {
    fn default(&self, object: &mut Value) {
        for (part, list) in [("spec", "hard"), ("status", "hard"), ("status", "used")] {
            if let Some(owner) = object.get_mut(part).filter(|owner| owner.is_object()) {
                round_list(owner, list);
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({});
    }

    fn validate_create(&self, object: &Value) -> Errors {
        let mut errors = meta::validate(object, NAMESPACED);
        errors.extend(validate_spec(&Cursor::root(object).field("spec")));
        errors
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, part: Part) {
        meta::keep(object, old, if part == Part::Status { "spec" } else { "status" });
    }

    fn validate_update(&self, object: &Value, old: &Value, part: Part) -> Errors {
        let (spec, status) = (Cursor::root(object).field("spec"), Cursor::root(object).field("status"));
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(meta::validate_update(object, old));
        if part == Part::Status {
            errors.extend(["hard", "used"].iter().flat_map(|list| validate_amounts(&status.field(list))));
            return errors;
        }
        errors.extend(validate_spec(&spec));
        let scopes = |spec: &Cursor<'_>| -> BTreeSet<String> { spec.field("scopes").strs().map(str::to_owned).collect() };
        if scopes(&spec) != scopes(&Cursor::root(old).field("spec")) {
            errors.push(spec.field("scopes").invalid(meta::FIELD_IMMUTABLE));
        }
        errors
    }
}

fn validate_spec(spec: &Cursor<'_>) -> Errors {
    let mut errors = validate_amounts(&spec.field("hard"));
    errors.extend(validate_scopes(spec));
    errors.extend(validate_selector(spec));
    errors
}

fn validate_amounts(amounts: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    for (name, amount) in amounts.entries() {
        errors.extend(validate_name(name, &amount));
        errors.extend(resources::validate_quantity(name, &amount));
    }
    errors
}

fn validate_name(name: &str, amount: &Cursor<'_>) -> Errors {
    let is_huge_pages = name.starts_with("requests.hugepages-") && names::qualified_name(name).is_empty();
    let mut errors = if is_huge_pages { Vec::new() } else { resources::resource_name(name, amount) };
    if !name.contains('/') && !is_standard(name) {
        errors.push(amount.invalid_value(name, "must be a standard resource for quota"));
    }
    errors
}

fn is_standard(name: &str) -> bool {
    [PODS, COMPUTE, CLAIMS, OTHERS].iter().any(|list| list.contains(&name))
        || resources::is_huge_pages(name)
        || name.starts_with("requests.hugepages-")
}

/// Does the scope narrow down what is counted of this resource?
fn fits(scope: &str, resource: &str) -> bool {
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            PODS.contains(&resource) || COMPUTE.contains(&resource)
        }
        "BestEffort" => PODS.contains(&resource),
        "VolumeAttributesClass" => CLAIMS.contains(&resource),
        _ => true,
    }
}

/// How many of the resources each scope does not fit.
fn misfits(spec: &Cursor<'_>) -> BTreeMap<&'static str, usize> {
    let hard: Vec<&str> = spec.field("hard").entries().map(|(resource, _)| resource).filter(|resource| is_standard(resource)).collect();
    SCOPES.iter().map(|scope| (*scope, hard.iter().filter(|resource| !fits(scope, resource)).count())).collect()
}

/// Findings about scopes that show the whole list are left out past this number: for thousands of
/// scopes they would be gigabytes.
const SCOPE_FINDINGS_MAX: usize = 20;

fn conflicts(scopes: &BTreeSet<&str>) -> usize {
    let pairs = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
    pairs.iter().filter(|pair| pair.iter().all(|scope| scopes.contains(scope))).count()
}

fn validate_scopes(spec: &Cursor<'_>) -> Errors {
    let scopes = spec.field("scopes");
    let misfits = misfits(spec);
    let found = scopes.strs().flat_map(|scope| match misfits.get(scope) {
        Some(misfits) => std::iter::repeat_n("unsupported scope applied to resource", *misfits),
        None => std::iter::repeat_n("unsupported scope", 1),
    });
    let mut errors: Errors = found.take(SCOPE_FINDINGS_MAX).map(|detail| scopes.invalid(detail)).collect();
    let seen: BTreeSet<&str> = scopes.strs().collect();
    errors.extend((0..conflicts(&seen)).map(|_| scopes.invalid("conflicting scopes")));
    errors
}

/// Errors name the list, not the element.
fn validate_selector(spec: &Cursor<'_>) -> Errors {
    let selector = spec.field("scopeSelector");
    let list = selector.field("matchExpressions");
    let misfits = misfits(spec);
    let shown = || go::print("ScopeSelector", selector.value());
    let mut room = SCOPE_FINDINGS_MAX;
    let mut errors = Vec::new();
    for requirement in list.items() {
        let [scope, operator, values] =
            ["scopeName", "operator", "values"].map(|name| Cursor::at(requirement.field(name).value(), list.path().child(name)));
        if !SCOPES.contains(&scope.str()) {
            errors.push(scope.invalid_str("unsupported scope"));
        }
        let count = misfits.get(scope.str()).copied().unwrap_or_default().min(room);
        room -= count;
        errors.extend((0..count).map(|_| list.invalid_value(shown(), "unsupported scope applied to resource")));
        let has_no_values = SCOPES.contains(&scope.str()) && !matches!(scope.str(), "PriorityClass" | "VolumeAttributesClass");
        if has_no_values && operator.str() != "Exists" {
            errors.push(operator.invalid_str("must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"));
        }
        match operator.str() {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(values.required("must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(values.invalid("must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(operator.invalid_str("not a valid selector operator")),
        }
    }
    let seen: BTreeSet<&str> = list.list().iter().filter_map(|requirement| requirement["scopeName"].as_str()).collect();
    let scopes = Cursor::at(spec.field("scopes").value(), list.path().clone());
    errors.extend((0..conflicts(&seen)).map(|_| scopes.invalid("conflicting scopes")));
    errors
}
