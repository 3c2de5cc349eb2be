//! Which taints of nodes a pod tolerates, and what the effects of taints may be.

use crate::cursor::Cursor;
use crate::field::FieldError;
use crate::names;
use crate::rules::check::{self, Errors};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub fn validate(tolerations: &Cursor<'_>) -> Errors {
    tolerations.items().flat_map(|toleration| validate_one(&toleration)).collect()
}

fn validate_one(toleration: &Cursor<'_>) -> Errors {
    let (key, operator, effect) = (toleration.field("key"), toleration.field("operator"), toleration.field("effect"));
    let mut errors = check::named_if_set(&key, names::qualified_name);
    if key.str().is_empty() && operator.str() != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(operator.invalid_str(detail));
    }
    if toleration.field("tolerationSeconds").exists() && effect.str() != "NoExecute" {
        errors.push(effect.invalid_str("effect must be 'NoExecute' when `tolerationSeconds` is set"));
    }
    errors.extend(validate_operator(&operator, toleration.field("value").str()));
    if !effect.str().is_empty() {
        errors.extend(validate_effect(&effect));
    }
    errors
}

/// Errors about the value name the operator.
fn validate_operator(operator: &Cursor<'_>, value: &str) -> Option<FieldError> {
    match operator.str() {
        "" | "Equal" => {
            let findings = names::label_value(value);
            (!findings.is_empty()).then(|| operator.invalid_value(value, findings.join(";")))
        }
        "Exists" => (!value.is_empty()).then(|| operator.invalid_value(value, "value must be empty when `operator` is 'Exists'")),
        // Lt and Gt are refused because the gate for them is off; only a request that uses them
        // gets them listed.
        "Lt" | "Gt" => Some(operator.not_supported(&["Equal", "Exists", "Lt", "Gt"])),
        _ => Some(operator.not_supported(&["Equal", "Exists"])),
    }
}

/// The effect of a taint, or of a toleration that has one.
pub fn validate_effect(effect: &Cursor<'_>) -> Option<FieldError> {
    check::one_of(effect, EFFECTS)
}
