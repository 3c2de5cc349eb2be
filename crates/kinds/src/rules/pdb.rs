//! PodDisruptionBudgets: how many pods of a kind may be missing when a client evicts them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cursor::Cursor;
use crate::field::FieldError;
use crate::names;

use super::check::{self, Errors};
use super::meta;
use super::pod::go;
use super::{Part, Rules};

const REASON_BYTES_MAX: usize = 1024;
const MESSAGE_BYTES_MAX: usize = 32 * 1024;

pub static RULES: PodDisruptionBudgetRules = PodDisruptionBudgetRules;

pub struct PodDisruptionBudgetRules;

impl Rules for PodDisruptionBudgetRules {
    fn default(&self, _object: &mut Value) {}

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({});
        meta::start_generation(object);
    }

    fn validate_create(&self, object: &Value) -> Errors {
        let errors = validate_spec(&Cursor::root(object).field("spec"));
        if errors.is_empty() { meta::validate_generally(object, true) } else { errors }
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, part: Part) {
        if part == Part::Status {
            return meta::keep(object, old, "spec");
        }
        meta::keep(object, old, "status");
        meta::count_generation(object, old, object.get("spec") != old.get("spec"));
    }

    fn validate_update(&self, object: &Value, old: &Value, part: Part) -> Errors {
        let budget = Cursor::root(object);
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(match part {
            Part::Status => validate_status(&budget.field("status")),
            _ => validate_spec(&budget.field("spec")),
        });
        errors
    }
}

fn validate_spec(spec: &Cursor<'_>) -> Errors {
    let (min, max) = (spec.field("minAvailable"), spec.field("maxUnavailable"));
    let mut errors = Vec::new();
    if min.exists() && max.exists() {
        let shown = go::print("PodDisruptionBudgetSpec", spec.value());
        errors.push(spec.invalid_value(shown, "minAvailable and maxUnavailable cannot be both set"));
    }
    for amount in [min, max].iter().filter(|amount| amount.exists()) {
        errors.extend(check::non_negative_or_percent(amount));
        if names::percent_value(amount.str()).is_some_and(|percent| percent > 100) {
            errors.push(amount.invalid("must not be greater than 100%"));
        }
    }
    errors.extend(check::label_selector(&spec.field("selector")));
    errors.extend(check::one_of_if_set(&spec.field("unhealthyPodEvictionPolicy"), &["AlwaysAllow", "IfHealthyBudget"]));
    errors
}

fn validate_status(status: &Cursor<'_>) -> Errors {
    let mut errors = validate_conditions(&status.field("conditions"));
    let counts = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
    errors.extend(counts.into_iter().filter_map(|name| meta::non_negative(&status.field(name))));
    errors
}

fn validate_conditions(conditions: &Cursor<'_>) -> Errors {
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for condition in conditions.items() {
        let kind = condition.field("type");
        errors.extend((!seen.insert(kind.str())).then(|| kind.duplicate()));
        errors.extend(validate_condition(&condition));
    }
    errors
}

/// A condition of the newer form, which says when and why.
fn validate_condition(condition: &Cursor<'_>) -> Errors {
    let (status, generation) = (condition.field("status"), condition.field("observedGeneration"));
    let (reason, message) = (condition.field("reason"), condition.field("message"));
    let mut errors = check::named(&condition.field("type"), names::qualified_name);
    if !matches!(status.str(), "True" | "False" | "Unknown") {
        errors.push(status.not_supported(&["False", "True", "Unknown"]));
    }
    if generation.int_or_zero() < 0 {
        errors.push(generation.invalid("must be greater than or equal to zero"));
    }
    if !condition.field("lastTransitionTime").exists() {
        errors.push(condition.field("lastTransitionTime").required("must be set"));
    }
    errors.extend(validate_reason(&reason));
    if message.str().len() > MESSAGE_BYTES_MAX {
        errors.push(message.too_long(MESSAGE_BYTES_MAX));
    }
    errors
}

fn validate_reason(reason: &Cursor<'_>) -> Option<FieldError> {
    let text = reason.str().as_bytes();
    let is_last = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let (Some(first), Some(last)) = (text.first(), text.last()) else { return Some(reason.required("must be set")) };
    let is_formed = first.is_ascii_alphabetic() && is_last(last) && text.iter().all(|b| is_last(b) || matches!(b, b',' | b':'));
    if !is_formed {
        let what = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
        let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
        return Some(reason.invalid(names::regex_error(what, "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", &examples)));
    }
    (text.len() > REASON_BYTES_MAX).then(|| reason.too_long(REASON_BYTES_MAX))
}
