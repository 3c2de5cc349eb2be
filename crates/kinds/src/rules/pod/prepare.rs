//! What of a written Pod is taken over, before it is validated.

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value, json};

use crate::cursor::Cursor;
use crate::rules::{Part, meta};

use super::annotations::APP_ARMOR_PREFIX;
use super::qos_class;

/// What is behind feature gates that are off in 1.36 is not kept: no node would obey it.
pub fn drop_disabled(spec: &mut Value) {
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("schedulingGroup");
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items_mut(spec, list) {
            if let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) {
                lifecycle.remove("stopSignal");
            }
        }
    }
}

pub fn prepare_create(pod: &mut Value) {
    if let Some(spec) = pod.get_mut("spec") {
        drop_disabled(spec);
        // Kubernetes took negative periods once; it makes the shortest of them.
        if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
            spec["terminationGracePeriodSeconds"] = 1.into();
        }
    }
    meta::start_generation(pod);
    let spec = Cursor::root(pod).field("spec");
    let mut status = json!({"phase": "Pending", "qosClass": qos_class(&spec)});
    if !spec.field("schedulingGates").is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null,
            "lastTransitionTime": null,
        }]);
    }
    pod["status"] = status;
    extend_selectors(pod);
    app_armor_fields(pod);
}

/// Keys of `matchLabelKeys` become expressions with the pod's own values.
fn extend_selectors(pod: &mut Value) {
    let labels = pod.pointer("/metadata/labels").cloned().unwrap_or_default();
    let Some(spec) = pod.get_mut("spec") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.pointer_mut(&format!("/affinity/{kind}")) else { continue };
        for term in items_mut(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
            extend_selector(term, &labels);
        }
        for weighted in items_mut(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = weighted.get_mut("podAffinityTerm") {
                extend_selector(term, &labels);
            }
        }
    }
    for constraint in items_mut(spec, "topologySpreadConstraints") {
        extend_selector(constraint, &labels);
    }
}

fn items_mut<'a>(owner: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    owner.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
}

fn extend_selector(term: &mut Value, labels: &Value) {
    let mut expressions = Vec::new();
    for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys = term.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let known = keys.filter_map(|key| Some((key, labels.get(key)?)));
        expressions.extend(known.map(|(key, value)| json!({"key": key, "operator": operator, "values": [value]})));
    }
    let Some(selector) = term.get_mut("labelSelector").and_then(Value::as_object_mut) else { return };
    if expressions.is_empty() {
        return;
    }
    let list = selector.entry("matchExpressions").or_insert_with(|| json!([]));
    list.as_array_mut().into_iter().for_each(|list| list.append(&mut expressions));
}

/// AppArmor annotations become fields of containers that have none, unless they say what the pod's
/// field says.
fn app_armor_fields(pod: &mut Value) {
    let annotations = pod.pointer("/metadata/annotations").cloned().unwrap_or_default();
    let of_pod = pod.pointer("/spec/securityContext/appArmorProfile").cloned();
    let is_windows = pod.pointer("/spec/os/name").is_some_and(|name| name == "windows");
    let Some(spec) = pod.get_mut("spec").filter(|_| !is_windows) else { return };
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            let key = format!("{APP_ARMOR_PREFIX}{}", container["name"].as_str().unwrap_or_default());
            let profile = annotations.get(&key).and_then(Value::as_str).and_then(app_armor_profile);
            let has_own = container.pointer("/securityContext/appArmorProfile").is_some();
            if let Some(profile) = profile.filter(|profile| !has_own && Some(profile) != of_pod.as_ref()) {
                meta::child(container, "securityContext").insert("appArmorProfile".into(), profile);
            }
        }
    }
}

fn app_armor_profile(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        local => Some(json!({"type": "Localhost", "localhostProfile": local.strip_prefix("localhost/")?})),
    }
}

pub fn prepare_update(pod: &mut Value, old: &Value, part: Part) {
    if let Some(spec) = pod.get_mut("spec") {
        drop_disabled(spec);
    }
    match part {
        Part::Main | Part::Finalize | Part::Approval => meta::keep(pod, old, "status"),
        Part::Status => return prepare_status(pod, old),
        Part::EphemeralContainers => keep_all_but_ephemeral(pod, old),
        Part::Resize => keep_all_but_resources(pod, old),
    }
    let is_changed = pod.get("spec") != old.get("spec");
    meta::count_generation(pod, old, is_changed);
}

fn prepare_status(pod: &mut Value, old: &Value) {
    meta::keep(pod, old, "spec");
    let metadata = meta::child(pod, "metadata");
    for name in ["deletionTimestamp", "ownerReferences", "generation"] {
        meta::copy(metadata, &old["metadata"], name);
    }
    let status = meta::child(pod, "status");
    one_address(status);
    for name in ["qosClass", "observedGeneration"] {
        if !status.contains_key(name) {
            meta::copy(status, &old["status"], name);
        }
    }
    keep_observed_generations(status, &old["status"]);
}

/// `podIP` and the first of `podIPs` are the same; where they differ, `podIP` counts.
fn one_address(status: &mut Map<String, Value>) {
    let first = status.get("podIPs").and_then(|list| list.get(0)).and_then(|entry| entry.get("ip")).cloned();
    match (status.get("podIP").cloned(), first) {
        (Some(own), first) if first.as_ref() != Some(&own) => {
            status.insert("podIPs".into(), json!([{"ip": own}]));
        }
        (None, Some(first)) => {
            status.insert("podIP".into(), first);
        }
        _ => {}
    }
}

/// Conditions written without `observedGeneration` keep the one they had.
fn keep_observed_generations(status: &mut Map<String, Value>, old: &Value) {
    let mut before: HashMap<&Value, VecDeque<&Value>> = HashMap::new();
    for condition in old.get("conditions").and_then(Value::as_array).into_iter().flatten() {
        before.entry(&condition["type"]).or_default().push_back(condition);
    }
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(other) = before.get_mut(&condition["type"]).and_then(VecDeque::pop_front) else { continue };
        if let Some(condition) = condition.as_object_mut().filter(|condition| !condition.contains_key("observedGeneration")) {
            meta::copy(condition, other, "observedGeneration");
        }
    }
}

fn keep_all_but_ephemeral(pod: &mut Value, old: &Value) {
    let containers = pod.pointer("/spec/ephemeralContainers").cloned();
    keep_spec_and_metadata(pod, old);
    let spec = meta::child(pod, "spec");
    match containers {
        Some(containers) => spec.insert("ephemeralContainers".into(), containers),
        None => spec.remove("ephemeralContainers"),
    };
}

/// Containers that were added, removed or renamed are left for validation to refuse.
fn keep_all_but_resources(pod: &mut Value, old: &Value) {
    let len = |pod: &Value, list: &str| pod["spec"][list].as_array().map_or(0, Vec::len);
    if ["containers", "initContainers"].iter().any(|list| len(pod, list) != len(old, list)) {
        return;
    }
    let written = pod["spec"].clone();
    keep_spec_and_metadata(pod, old);
    meta::copy(meta::child(pod, "spec"), &written, "resources");
    for list in ["containers", "initContainers"] {
        let empty = Vec::new();
        let new = written[list].as_array().unwrap_or(&empty);
        let kept = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        let Some(kept) = kept else { continue };
        if kept.iter().zip(new).any(|(kept, new)| kept["name"] != new["name"]) {
            *kept = new.clone();
            continue;
        }
        for (kept, new) in kept.iter_mut().zip(new) {
            if let Some(kept) = kept.as_object_mut() {
                meta::copy(kept, new, "resources");
                meta::copy(kept, new, "resizePolicy");
            }
        }
    }
}

fn keep_spec_and_metadata(pod: &mut Value, old: &Value) {
    meta::keep(pod, old, "spec");
    meta::keep(pod, old, "status");
    let metadata = meta::child(pod, "metadata");
    for name in ["deletionTimestamp", "labels", "annotations", "finalizers", "ownerReferences"] {
        meta::copy(metadata, &old["metadata"], name);
    }
}
