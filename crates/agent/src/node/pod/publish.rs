//! Telling the API server how a pod is, and that it is gone.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use super::id;
use crate::node::manifests::is_static;
use crate::simulated::send::is_overtaken;

/// The newer of two versions of a pod, by resourceVersion.
pub fn newer(a: &Arc<Pod>, b: &Arc<Pod>) -> Arc<Pod> {
    let version = |pod: &Pod| pod.metadata.resource_version.as_ref().and_then(|version| version.parse::<u64>().ok()).unwrap_or(0);
    if version(b) >= version(a) { b.clone() } else { a.clone() }
}

/// Patches what differs; answers the pod as it is then, or None when nothing differs or the pod is gone or another one.
pub async fn status(client: &Client, pod: &Pod, status: PodStatus) -> Result<Option<Pod>, kube::Error> {
    let before = pod.status.clone().unwrap_or_default();
    let Some(changes) = difference(&before, &status) else { return Ok(None) };
    // A static pod is told of through its mirror, which has a uid of its own.
    let is_static = is_static(pod);
    let uid = pod.metadata.uid.as_ref().filter(|_| !is_static);
    let patch = match uid {
        Some(uid) => json!({"metadata": {"uid": uid}, "status": changes}),
        None => json!({"status": changes}),
    };
    let patch = Patch::Strategic(patch);
    let api: Api<Pod> = Api::namespaced(client.clone(), &id(pod).namespace);
    match api.patch_status(&id(pod).name, &PatchParams::default(), &patch).await {
        Ok(mirror) if is_static => Ok(Some(Pod { status: mirror.status, ..pod.clone() })),
        Ok(pod) => Ok(Some(pod)),
        Err(error) if is_overtaken(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists of addresses are merged by address unless told otherwise: old ones would stay.
const REPLACED: [&str; 2] = ["podIPs", "hostIPs"];

fn difference(before: &PodStatus, now: &PodStatus) -> Option<Value> {
    let tree = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let (before, now) = (tree(before), tree(now));
    let mut changes = Map::new();
    for (key, value) in &now {
        if before.get(key) == Some(value) {
            continue;
        }
        let mut value = value.clone();
        if key == "conditions" {
            clear_absent(&mut value);
        }
        if let Value::Array(list) = &mut value
            && REPLACED.contains(&key.as_str())
            && before.contains_key(key)
        {
            list.insert(0, json!({"$patch": "replace"}));
        }
        changes.insert(key.clone(), value);
    }
    for key in before.keys().filter(|key| !now.contains_key(*key)) {
        changes.insert(key.clone(), Value::Null);
    }
    if changes.is_empty() { None } else { Some(Value::Object(changes)) }
}

/// Conditions are merged by type: what a new one does not have would stay from the old one.
fn clear_absent(conditions: &mut Value) {
    for condition in conditions.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        for field in ["reason", "message"] {
            condition.entry(field).or_insert(Value::Null);
        }
    }
}

/// Removes a pod that has ended, if it is still that one.
pub async fn delete(client: &Client, pod: &Pod) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &id(pod).namespace);
    let uid = pod.metadata.uid.clone().filter(|_| !is_static(pod));
    let preconditions = Preconditions { uid, resource_version: None };
    let params = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(&id(pod).name, &params).await {
        Err(error) if !is_overtaken(&error) => Err(error),
        _ => Ok(()),
    }
}
