//! Leases: who leads, and the heartbeats of nodes.

use serde_json::Value;

use crate::cursor::Cursor;

use super::check::Errors;
use super::meta::{self, NAMESPACED};
use super::{Part, Rules};

pub static RULES: LeaseRules = LeaseRules;

pub struct LeaseRules;

impl Rules for LeaseRules {
    fn default(&self, _object: &mut Value) {}

    fn prepare_create(&self, object: &mut Value) {
        drop_coordination(object);
    }

    fn validate_create(&self, object: &Value) -> Errors {
        let mut errors = meta::validate_leniently(object, NAMESPACED);
        errors.extend(validate_spec(&Cursor::root(object).field("spec")));
        errors
    }

    fn prepare_update(&self, object: &mut Value, _old: &Value, _part: Part) {
        drop_coordination(object);
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(meta::validate_update_leniently(object, old));
        errors.extend(validate_spec(&Cursor::root(object).field("spec")));
        errors
    }
}

/// Coordinated leader election is behind a gate that is off: its fields are not kept.
fn drop_coordination(lease: &mut Value) {
    if let Some(spec) = lease.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("strategy");
        spec.remove("preferredHolder");
    }
}

fn validate_spec(spec: &Cursor<'_>) -> Errors {
    let (duration, transitions) = (spec.field("leaseDurationSeconds"), spec.field("leaseTransitions"));
    let mut errors = Vec::new();
    if duration.int().is_some_and(|seconds| seconds <= 0) {
        errors.push(duration.invalid("must be greater than 0"));
    }
    errors.extend(meta::non_negative(&transitions));
    errors
}
