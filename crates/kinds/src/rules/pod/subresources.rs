//! Changes that have a path of their own: ephemeral containers, resizing.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::cursor::Cursor;
use crate::field::{FieldError, Path, go_quote};
use crate::rules::check::Errors;
use crate::rules::meta;

use super::{annotations, containers, diff, go, qos_class, update, validate_metadata_and_spec};

pub fn validate_ephemeral_containers(object: &Value, old: &Value) -> Errors {
    if is_static(old) {
        return vec![FieldError::forbidden(&Path::new(""), "static pods do not support ephemeral containers")];
    }
    let mut errors = update::validate_common(object, old);
    let list = Cursor::root(object).field("spec").field("ephemeralContainers");
    let mut by_name: BTreeMap<&str, Cursor<'_>> = BTreeMap::new();
    for container in list.items() {
        by_name.entry(container.field("name").str()).or_insert(container);
    }
    for before in Cursor::root(old).field("spec").field("ephemeralContainers").items() {
        let name = before.field("name").str();
        match by_name.get(name) {
            None => errors.push(list.forbidden(format!("existing ephemeral containers {} may not be removed\n", go_quote(name)))),
            Some(now) if now.value() != before.value() => {
                let kind = "EphemeralContainer";
                let lines = diff::unified(&go::lines(kind, before.value()), &go::lines(kind, now.value()));
                let detail = format!("existing ephemeral containers {} may not be changed\n{lines}", go_quote(name));
                errors.push(list.forbidden(detail));
            }
            Some(_) => {}
        }
    }
    errors
}

/// Pods that a kubelet runs from a file.
fn is_static(pod: &Value) -> bool {
    Cursor::root(pod).field("metadata").field("annotations").key(annotations::MIRROR_POD).exists()
}

pub fn validate_resize(object: &Value, old: &Value) -> Errors {
    let (spec, before) = (Cursor::root(object).field("spec"), Cursor::root(old).field("spec"));
    if let Some(detail) = not_resizable(old, &spec, &before) {
        return vec![FieldError::forbidden(&Path::new(""), detail)];
    }
    let mut errors = meta::validate_update(object, old);
    errors.extend(validate_metadata_and_spec(object));
    let class = Cursor::root(old).field("status").field("qosClass").str();
    let class = if class.is_empty() { qos_class(&before) } else { class };
    if class != qos_class(&spec) {
        errors.push(spec.invalid_value(class, "Pod QOS Class may not change as a result of resizing"));
    }
    if !runs_where_resizing_works(old) {
        errors.push(spec.forbidden("Pod running on node without support for resize"));
    }
    errors.extend(validate_each(&spec, &before));
    errors.extend(validate_only_resources_changed(&spec, &before));
    errors
}

fn not_resizable(old: &Value, spec: &Cursor<'_>, before: &Cursor<'_>) -> Option<&'static str> {
    let has_own = |spec: &Cursor<'_>| ["requests", "limits"].iter().any(|list| !spec.field("resources").field(list).is_empty());
    if has_own(spec) || has_own(before) {
        return Some("pods with pod-level resources cannot be resized");
    }
    if is_static(old) {
        return Some("static pods cannot be resized");
    }
    (before.field("os").field("name").str() == "windows").then_some("windows pods cannot be resized")
}

/// A node that does not report resources cannot change them.
fn runs_where_resizing_works(old: &Value) -> bool {
    let statuses = Cursor::root(old).field("status").field("containerStatuses");
    let running = statuses.items().find(|status| status.field("state").field("running").exists());
    running.is_none_or(|status| status.field("resources").exists())
}

fn validate_each(spec: &Cursor<'_>, before: &Cursor<'_>) -> Errors {
    let pairs = |list: &'static str| spec.field(list).items().zip(before.field(list).items());
    let init = pairs("initContainers").filter(|(_, before)| containers::is_sidecar(before));
    init.chain(pairs("containers")).flat_map(|(now, before)| validate_container(&now, &before)).collect()
}

fn validate_container(now: &Cursor<'_>, before: &Cursor<'_>) -> Errors {
    let (new, old) = (now.field("resources"), before.field("resources"));
    let mut errors = Vec::new();
    for list in ["requests", "limits"] {
        let is_removed = old.field(list).entries().any(|(name, _)| !new.field(list).key(name).exists());
        if is_removed {
            let what = list.trim_end_matches('s');
            errors.push(new.field(list).forbidden(format!("resource {what}s cannot be removed")));
        }
    }
    errors
}

fn validate_only_resources_changed(spec: &Cursor<'_>, before: &Cursor<'_>) -> Errors {
    let detail = "only cpu and memory resources are mutable";
    let mut errors = Vec::new();
    for (now, old) in spec.field("containers").items().zip(before.field("containers").items()) {
        if put_back_resources(&now, &old) != old.value().cloned() {
            errors.push(spec.forbidden(detail));
        }
    }
    for (now, old) in spec.field("initContainers").items().zip(before.field("initContainers").items()) {
        if containers::is_sidecar(&now) {
            if put_back_resources(&now, &old) != old.value().cloned() {
                errors.push(spec.forbidden("only cpu and memory resources for sidecar containers are mutable"));
            }
        } else if now.value() != old.value() {
            errors.push(spec.forbidden("resources for non-sidecar init containers are immutable"));
        }
    }
    let without_containers = |spec: &Cursor<'_>| {
        let mut fields = spec.value().and_then(Value::as_object).cloned().unwrap_or_default();
        fields.retain(|name, _| name != "containers" && name != "initContainers");
        fields
    };
    if errors.is_empty() && without_containers(spec) != without_containers(before) {
        errors.push(spec.forbidden(detail));
    }
    errors
}

/// The container with the CPU and memory it had.
fn put_back_resources(now: &Cursor<'_>, old: &Cursor<'_>) -> Option<Value> {
    let mut container = now.value().cloned()?;
    let fields = container.as_object_mut()?;
    let mut resources = now.field("resources").value().and_then(Value::as_object).cloned().unwrap_or_default();
    for list in ["requests", "limits"] {
        let before = old.field("resources").field(list);
        let mut amounts: Map<String, Value> = resources.get(list).and_then(Value::as_object).cloned().unwrap_or_default();
        for name in ["cpu", "memory"] {
            match before.key(name).value() {
                Some(amount) => amounts.insert(name.to_owned(), amount.clone()),
                None => amounts.remove(name),
            };
        }
        if before.exists() {
            resources.insert(list.to_owned(), Value::Object(amounts));
        } else {
            resources.remove(list);
        }
    }
    if old.field("resources").exists() || !resources.is_empty() {
        fields.insert("resources".into(), Value::Object(resources));
    }
    Some(container)
}
