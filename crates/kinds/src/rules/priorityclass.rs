//! PriorityClasses: names for how important pods are.

use serde_json::{Value, json};

use crate::cursor::Cursor;
use crate::field::FieldError;

use super::check::Errors;
use super::meta::{self, CLUSTER_WIDE};
use super::{Part, Rules};

/// Above it are Kubernetes' own classes.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

const SYSTEM_PREFIX: &str = "system-";
const SYSTEM_CLASSES: &[(&str, i64)] = &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub static RULES: PriorityClassRules = PriorityClassRules;

pub struct PriorityClassRules;

impl Rules for PriorityClassRules {
    fn default(&self, object: &mut Value) {
        if object.get("preemptionPolicy").is_none_or(Value::is_null) {
            object["preemptionPolicy"] = json!("PreemptLowerPriority");
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::start_generation(object);
    }

    fn validate_create(&self, object: &Value) -> Errors {
        let class = Cursor::root(object);
        let mut errors = meta::validate(object, CLUSTER_WIDE);
        errors.extend(validate_value(&class));
        errors.extend(validate_preemption(&class.field("preemptionPolicy")));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Errors {
        let (new, before) = (Cursor::root(object), Cursor::root(old));
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(meta::validate_update(object, old));
        let value = new.field("value");
        if value.int_or_zero() != before.field("value").int_or_zero() {
            errors.push(value.forbidden("may not be changed in an update."));
        }
        errors.extend(meta::immutable(&new.field("preemptionPolicy"), &before.field("preemptionPolicy")));
        errors
    }
}

fn validate_value(class: &Cursor<'_>) -> Option<FieldError> {
    let (name, value) = (class.field("metadata").field("name"), class.field("value"));
    if !name.str().starts_with(SYSTEM_PREFIX) {
        let is_too_high = value.int_or_zero() > USER_PRIORITY_MAX;
        return is_too_high.then(|| value.forbidden(format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}")));
    }
    let why = differs_from_system_class(name.str(), value.int_or_zero(), class.field("globalDefault").is_true())?;
    Some(name.forbidden(format!("priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {why}")))
}

fn differs_from_system_class(name: &str, value: i64, is_global_default: bool) -> Option<String> {
    match SYSTEM_CLASSES.iter().find(|(own, _)| *own == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, own)) if *own != value => Some(format!("value of {name} PriorityClass must be {own}")),
        Some(_) if is_global_default => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

fn validate_preemption(policy: &Cursor<'_>) -> Option<FieldError> {
    match policy.str() {
        "PreemptLowerPriority" | "Never" => None,
        "" => Some(policy.required("")),
        _ => Some(policy.not_supported(&["PreemptLowerPriority", "Never"])),
    }
}
