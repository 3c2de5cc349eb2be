//! What of a Pod may change: images, the deadline downwards, tolerations and scheduling gates,
//! little else.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value};

use crate::cursor::Cursor;
use crate::field::FieldError;
use crate::names;
use crate::rules::check::Errors;
use crate::rules::meta;

use super::{annotations, containers, diff, go, tolerations, validate_metadata_and_spec};

const CHANGEABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub fn validate(object: &Value, old: &Value) -> Errors {
    let (new_spec, old_spec) = (Cursor::root(object).field("spec"), Cursor::root(old).field("spec"));
    let mut errors = validate_common(object, old);
    for list in ["containers", "initContainers"] {
        let (new, old) = (new_spec.field(list), old_spec.field(list));
        if new.len() != old.len() {
            errors.push(new.forbidden("pod updates may not add or remove containers"));
            return errors;
        }
        errors.extend(new.items().flat_map(|container| validate_image(&container)));
    }
    let deadline = validate_deadline(&new_spec.field("activeDeadlineSeconds"), &old_spec.field("activeDeadlineSeconds"));
    let is_final = deadline.is_some() && new_spec.field("activeDeadlineSeconds").exists();
    errors.extend(deadline);
    if is_final {
        return errors;
    }
    errors.extend(validate_added_tolerations(&new_spec.field("tolerations"), &old_spec.field("tolerations")));
    errors.extend(validate_removed_gates(&new_spec.field("schedulingGates"), &old_spec.field("schedulingGates")));
    if new_spec.value() != old_spec.value() {
        errors.extend(validate_rest(&new_spec, &old_spec));
    }
    errors
}

/// What updates of Pods and of their subresources have in common.
pub fn validate_common(object: &Value, old: &Value) -> Errors {
    let (new, before) = (Cursor::root(object), Cursor::root(old));
    let mut errors = meta::validate_update(object, old);
    errors.extend(validate_metadata_and_spec(object));
    errors.extend(annotations::validate_update(&annotations_of(&new), &annotations_of(&before), &new.field("spec")));
    errors
}

fn annotations_of<'a>(pod: &Cursor<'a>) -> Cursor<'a> {
    pod.field("metadata").field("annotations")
}

fn validate_image(container: &Cursor<'_>) -> Errors {
    let image = container.field("image");
    let missing = image.str().is_empty().then(|| image.required(""));
    missing.into_iter().chain(containers::image_whitespace(container)).collect()
}

/// From none to some, or downwards.
fn validate_deadline(new: &Cursor<'_>, old: &Cursor<'_>) -> Option<FieldError> {
    let max = i64::from(i32::MAX);
    match (new.int(), old.int()) {
        (Some(new_seconds), _) if !(0..=max).contains(&new_seconds) => Some(new.invalid(names::range_error(0, max))),
        (Some(new_seconds), Some(old_seconds)) if old_seconds < new_seconds => {
            Some(new.invalid("must be less than or equal to previous value"))
        }
        (None, Some(_)) => Some(new.invalid("must not update from a positive integer to nil value")),
        _ => None,
    }
}

fn validate_added_tolerations(new: &Cursor<'_>, old: &Cursor<'_>) -> Errors {
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.as_object_mut().map(|fields| fields.remove("tolerationSeconds"));
        toleration
    };
    let wanted: HashSet<Value> = new.list().iter().map(without_seconds).collect();
    if !old.list().iter().all(|old| wanted.contains(&without_seconds(old))) {
        return vec![new.forbidden("existing toleration can not be modified except its tolerationSeconds")];
    }
    tolerations::validate(new)
}

fn validate_removed_gates(new: &Cursor<'_>, old: &Cursor<'_>) -> Errors {
    let before: BTreeSet<&str> = old.items().map(|gate| gate.field("name").str()).collect();
    let added = new.items().map(|gate| gate.field("name")).filter(|name| !before.contains(name.str()));
    added.map(|name| name.forbidden(format!("only deletion is allowed, but found new scheduling gate '{}'", name.str()))).collect()
}

/// With everything that may change put back, nothing else has changed.
fn validate_rest(new: &Cursor<'_>, old: &Cursor<'_>) -> Errors {
    let mut munged = new.value().and_then(Value::as_object).cloned().unwrap_or_default();
    let before = old.value().cloned().unwrap_or_default();
    for list in ["containers", "initContainers"] {
        put_back_images(&mut munged, &before, list);
    }
    for name in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        meta::copy(&mut munged, &before, name);
    }
    let was_negative = old.field("terminationGracePeriodSeconds").int_or_zero() < 0;
    if was_negative && new.field("terminationGracePeriodSeconds").int() == Some(1) {
        meta::copy(&mut munged, &before, "terminationGracePeriodSeconds");
    }
    let mut errors = Vec::new();
    if !old.field("schedulingGates").is_empty() {
        errors.extend(validate_node_selector(&new.field("nodeSelector"), &old.field("nodeSelector")));
        meta::copy(&mut munged, &before, "nodeSelector");
        errors.extend(validate_node_affinity(new, old));
        put_back_node_affinity(&mut munged, &before);
    }
    let munged = Value::Object(munged);
    if munged != before {
        let lines = diff::unified(&go::lines("PodSpec", Some(&before)), &go::lines("PodSpec", Some(&munged)));
        errors.push(new.forbidden(format!("pod updates may not change fields other than {CHANGEABLE}\n{lines}")));
    }
    errors
}

fn put_back_images(spec: &mut Map<String, Value>, old: &Value, list: &str) {
    let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
    let before = old.get(list).and_then(Value::as_array).into_iter().flatten();
    for (container, before) in containers.zip(before) {
        if let Some(container) = container.as_object_mut() {
            meta::copy(container, before, "image");
        }
    }
}

/// A pod that is not scheduled yet may become choosier.
fn validate_node_selector(new: &Cursor<'_>, old: &Cursor<'_>) -> Option<FieldError> {
    let is_kept = old.entries().all(|(key, value)| new.key(key).value() == value.value());
    (!is_kept).then(|| new.invalid("only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
}

fn validate_node_affinity(new: &Cursor<'_>, old: &Cursor<'_>) -> Errors {
    let (new, old) = (node_selector_terms(new), node_selector_terms(old));
    if old.is_empty() {
        return Vec::new();
    }
    if old.len() != new.len() {
        let shown = go::print_list("NodeSelectorTerm", new.value());
        return vec![new.invalid_value(shown, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")];
    }
    let narrowed = new.items().zip(old.items()).filter(|(new, old)| !has_only_additions(new, old));
    narrowed
        .map(|(new, _)| {
            let shown = go::print("NodeSelectorTerm", new.value());
            new.invalid_value(shown, "only additions are allowed (no mutations or deletions)")
        })
        .collect()
}

fn node_selector_terms<'a>(spec: &Cursor<'a>) -> Cursor<'a> {
    let affinity = spec.field("affinity").field("nodeAffinity");
    affinity.field("requiredDuringSchedulingIgnoredDuringExecution").field("nodeSelectorTerms")
}

fn has_only_additions(new: &Cursor<'_>, old: &Cursor<'_>) -> bool {
    let lists = ["matchExpressions", "matchFields"];
    let is_empty = |term: &Cursor<'_>| lists.iter().all(|list| term.field(list).is_empty());
    if is_empty(old) && !is_empty(new) {
        return false;
    }
    lists.iter().all(|list| new.field(list).list().starts_with(old.field(list).list()))
}

fn put_back_node_affinity(spec: &mut Map<String, Value>, old: &Value) {
    let before = old.pointer("/affinity/nodeAffinity");
    let has_affinity_before = old.get("affinity").is_some();
    let affinity = spec.entry("affinity").or_insert_with(|| Value::Object(Map::new()));
    if let Some(affinity) = affinity.as_object_mut() {
        match before {
            Some(before) => affinity.insert("nodeAffinity".into(), before.clone()),
            None => affinity.remove("nodeAffinity"),
        };
        if affinity.is_empty() && !has_affinity_before {
            spec.remove("affinity");
        }
    }
}
