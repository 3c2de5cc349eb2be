//! DaemonSets.

use serde_json::{Map, Value, json};

use crate::cursor::Cursor;
use crate::field::{BadValue, FieldError, Path};
use crate::names;
use crate::selector::Selector;

use super::check::{self, Errors};
use super::meta::{self, NAMESPACED};
use super::pod::{go, template};
use super::{Part, Rules};

/// The number of the template's current version, older than ControllerRevisions and still kept up
/// to date.
pub const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

const REVISION_HISTORY_LIMIT: i64 = 10;

pub static RULES: DaemonSetRules = DaemonSetRules;

pub struct DaemonSetRules;

impl Rules for DaemonSetRules {
    fn default(&self, object: &mut Value) {
        if object.get("spec").is_none() {
            object["spec"] = json!({});
        }
        let spec = &mut object["spec"];
        let pods = meta::child(spec, "template");
        pods.entry("metadata").or_insert_with(|| json!({}));
        pods.entry("spec").or_insert_with(|| json!({}));
        template::default(&mut spec["template"]);
        default_update_strategy(meta::child(spec, "updateStrategy"));
        set(spec, "revisionHistoryLimit", REVISION_HISTORY_LIMIT);
    }

    fn prepare_create(&self, object: &mut Value) {
        if let Some(template) = object.pointer_mut("/spec/template") {
            template::drop_disabled(template);
        }
        object["status"] = empty_status();
        meta::start_generation(object);
        let generation = template_generation(object).max(1);
        set_template_generation(object, generation);
    }

    fn validate_create(&self, object: &Value) -> Errors {
        let mut errors = meta::validate(object, NAMESPACED);
        errors.extend(validate_spec(&Cursor::root(object).field("spec")));
        errors
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, part: Part) {
        if let Some(template) = object.pointer_mut("/spec/template") {
            template::drop_disabled(template);
        }
        if part == Part::Status {
            meta::keep(object, old, "spec");
            meta::count_generation(object, old, false);
            set_template_generation(object, template_generation(old));
            return;
        }
        meta::keep(object, old, "status");
        let is_template_changed = object.pointer("/spec/template") != old.pointer("/spec/template");
        set_template_generation(object, template_generation(old) + i64::from(is_template_changed));
        meta::count_generation(object, old, object.get("spec") != old.get("spec"));
    }

    fn validate_update(&self, object: &Value, old: &Value, part: Part) -> Errors {
        let (new, before) = (Cursor::root(object), Cursor::root(old));
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(meta::validate_update(object, old));
        if part == Part::Status {
            errors.extend(validate_status(&new.field("status"), &before.field("status")));
            return errors;
        }
        let selector = new.field("spec").field("selector");
        if selector.value() != before.field("spec").field("selector").value() {
            let shown = selector.value().map_or(BadValue::Json(Value::Null), |own| go::print("LabelSelector", Some(own)));
            errors.push(selector.invalid_value(shown, meta::FIELD_IMMUTABLE));
        }
        errors.extend(validate_spec(&new.field("spec")));
        errors
    }

    fn warnings_create(&self, object: &Value) -> Vec<String> {
        template::warnings(&object["spec"]["template"], Path::new("spec").child("template"))
    }

    fn warnings_update(&self, object: &Value, old: &Value) -> Vec<String> {
        let is_same = object["metadata"]["generation"] == old["metadata"]["generation"];
        if is_same { Vec::new() } else { self.warnings_create(object) }
    }
}

fn empty_status() -> Value {
    json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0})
}

fn set(owner: &mut Value, name: &str, value: impl Into<Value>) {
    if let Some(owner) = owner.as_object_mut() {
        let slot = owner.entry(name).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value.into();
        }
    }
}

fn default_update_strategy(strategy: &mut Map<String, Value>) {
    strategy.entry("type").or_insert_with(|| "RollingUpdate".into());
    if strategy["type"] == "RollingUpdate" {
        strategy.entry("rollingUpdate").or_insert_with(|| json!({}));
    }
    // A strategy of another type keeps what it says of rolling updates.
    if let Some(rolling) = strategy.get_mut("rollingUpdate") {
        set(rolling, "maxUnavailable", 1);
        set(rolling, "maxSurge", 0);
    }
}

/// A generation that is no number was refused by decoding.
fn template_generation(object: &Value) -> i64 {
    let annotation = object.pointer("/metadata/annotations").and_then(|annotations| annotations.get(TEMPLATE_GENERATION));
    annotation.and_then(Value::as_str).and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn set_template_generation(object: &mut Value, generation: i64) {
    let metadata = meta::child(object, "metadata");
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    annotations[TEMPLATE_GENERATION] = generation.to_string().into();
}

fn validate_spec(spec: &Cursor<'_>) -> Errors {
    let (selector, pods) = (spec.field("selector"), spec.field("template"));
    let mut errors = check::label_selector(&selector);
    errors.extend(selects_own_pods(&selector, &pods));
    if selector.exists() && selector.field("matchLabels").is_empty() && selector.field("matchExpressions").is_empty() {
        errors.push(selector.invalid("empty selector is invalid for daemonset"));
    }
    errors.extend(template::validate(&pods));
    let restart_policy = pods.field("spec").field("restartPolicy");
    if restart_policy.str() != "Always" {
        errors.push(restart_policy.not_supported(&["Always"]));
    }
    let deadline = pods.field("spec").field("activeDeadlineSeconds");
    if deadline.exists() {
        errors.push(deadline.forbidden("activeDeadlineSeconds in DaemonSet is not Supported"));
    }
    errors.extend(meta::non_negative(&spec.field("minReadySeconds")));
    errors.extend(validate_update_strategy(&spec.field("updateStrategy")));
    errors.extend(meta::non_negative(&spec.field("revisionHistoryLimit")));
    errors
}

/// A selector that cannot be read was reported already.
fn selects_own_pods(selector: &Cursor<'_>, pods: &Cursor<'_>) -> Option<FieldError> {
    let labels = pods.field("metadata").field("labels");
    let no_labels = Map::new();
    let map = labels.value().and_then(Value::as_object).unwrap_or(&no_labels);
    let matches = Selector::from_object(selector.value()).map_or(true, |selector| selector.matches(map));
    (!matches).then(|| labels.invalid("`selector` does not match template `labels`"))
}

fn validate_update_strategy(strategy: &Cursor<'_>) -> Errors {
    let rolling = strategy.field("rollingUpdate");
    match strategy.field("type").str() {
        "OnDelete" => Vec::new(),
        "RollingUpdate" if rolling.exists() => validate_rolling_update(&rolling),
        "RollingUpdate" => vec![rolling.required("")],
        _ => {
            let shown = go::print("DaemonSetUpdateStrategy", strategy.value());
            vec![FieldError::not_supported(strategy.path(), shown, &["RollingUpdate", "OnDelete"])]
        }
    }
}

fn validate_rolling_update(rolling: &Cursor<'_>) -> Errors {
    let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
    let mut errors = check::non_negative_or_percent(&unavailable);
    errors.extend(check::non_negative_or_percent(&surge));
    let over = |value: &Cursor<'_>| names::percent_value(value.str()).is_some_and(|percent| percent > 100);
    errors
        .extend([&unavailable, &surge].into_iter().filter(|value| over(value)).map(|value| value.invalid("must not be greater than 100%")));
    match (is_some(&unavailable), is_some(&surge)) {
        (true, true) => errors.push(surge.invalid("may not be set when maxUnavailable is non-zero")),
        (false, false) => errors.push(unavailable.required("cannot be 0 when maxSurge is 0")),
        _ => {}
    }
    errors
}

/// Not zero; text that is no percentage counts as the number it begins to be.
fn is_some(value: &Cursor<'_>) -> bool {
    let text = value.str();
    let number = names::percent_value(text).or_else(|| text.parse().ok()).or(value.int());
    number.unwrap_or_default() != 0
}

fn validate_status(status: &Cursor<'_>, old: &Cursor<'_>) -> Errors {
    let numbers = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    let mut errors: Errors = numbers.into_iter().filter_map(|name| meta::non_negative(&status.field(name))).collect();
    let (collisions, before) = (status.field("collisionCount"), old.field("collisionCount"));
    let is_decremented = before.int().is_some_and(|before| collisions.int().is_none_or(|now| now < before));
    if is_decremented {
        errors.push(collisions.invalid_value(collisions.int_or_zero(), "cannot be decremented"));
    }
    errors
}

#[cfg(test)]
mod tests;
