//! Telling the API server how a pod is, and that it is gone.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use super::id;
use crate::node::manifests::is_static;
use crate::simulated::send::is_overtaken;
use crate::tree::Tree;

/// The newer of two versions of a pod, by resourceVersion.
pub fn newer(a: &Arc<Pod>, b: &Arc<Pod>) -> Arc<Pod> {
    if version(b) >= version(a) { b.clone() } else { a.clone() }
}

pub fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// What is told when the server refuses a status and does not say which field of it.
const ESSENTIAL: [&str; 5] = ["phase", "reason", "message", "conditions", "containerStatuses"];

/// Patches what differs, without the fields that the server refuses: one of them must not keep all
/// others from being told, or a pod could never end. Answers the pod as it is then, or None when
/// nothing differs or the pod is gone or another one.
pub async fn status(client: &Client, pod: &Pod, status: PodStatus) -> Result<Option<Pod>, kube::Error> {
    let before = pod.status.clone().unwrap_or_default();
    let Some(changes) = difference(&before, &status) else { return Ok(None) };
    // A static pod is told of through its mirror, which has a uid of its own.
    let is_static = is_static(pod);
    let uid = pod.metadata.uid.as_ref().filter(|_| !is_static);
    let api: Api<Tree<Pod>> = Api::namespaced(client.clone(), &id(pod).namespace);
    let mut changes = changes;
    loop {
        let patch = match uid {
            Some(uid) => json!({"metadata": {"uid": uid}, "status": changes}),
            None => json!({"status": changes}),
        };
        match api.patch_status(&id(pod).name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(Tree(mirror)) if is_static => return Ok(Some(Pod { status: mirror.status, ..pod.clone() })),
            Ok(Tree(pod)) => return Ok(Some(pod)),
            Err(error) if is_overtaken(&error) => return Ok(None),
            // Each time with fewer fields: this ends.
            Err(error) => match acceptable(&changes, &error) {
                Some(fewer) if fewer.is_empty() => return Ok(None),
                Some(fewer) => {
                    tracing::warn!(%error, pod = id(pod).name, "the server refuses a part of a status; the rest is told without it");
                    changes = fewer;
                }
                None => return Err(error),
            },
        }
    }
}

/// The changes without those that the server found wrong; None when it was something else that it
/// found.
fn acceptable(changes: &Map<String, Value>, error: &kube::Error) -> Option<Map<String, Value>> {
    let kube::Error::Api(status) = error else { return None };
    if status.code != UNPROCESSABLE {
        return None;
    }
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let refused: Vec<&str> = causes.filter_map(|cause| cause.field.strip_prefix("status.")?.split(['.', '[']).next()).collect();
    let named: Map<String, Value> = changes.clone().into_iter().filter(|(name, _)| !refused.contains(&name.as_str())).collect();
    if named.len() < changes.len() {
        return Some(named);
    }
    let essential: Map<String, Value> = changes.clone().into_iter().filter(|(name, _)| ESSENTIAL.contains(&name.as_str())).collect();
    (essential.len() < changes.len()).then_some(essential)
}

const UNPROCESSABLE: u16 = 422;

/// Lists of addresses are merged by address unless told otherwise: old ones would stay.
const REPLACED: [&str; 2] = ["podIPs", "hostIPs"];

fn difference(before: &PodStatus, now: &PodStatus) -> Option<Map<String, Value>> {
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
            remove_missing(&mut value, before.get(key));
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
    if changes.is_empty() { None } else { Some(changes) }
}

/// Conditions are merged by type: what a new one does not have would stay from the old one.
fn clear_absent(conditions: &mut Value) {
    for condition in conditions.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        for field in ["reason", "message"] {
            condition.entry(field).or_insert(Value::Null);
        }
    }
}

/// And those that are there no more would stay, too.
fn remove_missing(conditions: &mut Value, before: Option<&Value>) {
    let Value::Array(now) = conditions else { return };
    let missing = before.and_then(Value::as_array).into_iter().flatten().filter(|old| now.iter().all(|new| new["type"] != old["type"]));
    let removals: Vec<Value> = missing.map(|old| json!({"$patch": "delete", "type": old["type"]})).collect();
    now.extend(removals);
}

/// Removes a pod that has ended, if it is still that one.
pub async fn delete(client: &Client, pod: &Pod) -> Result<(), kube::Error> {
    let api: Api<Tree<Pod>> = Api::namespaced(client.clone(), &id(pod).namespace);
    let uid = pod.metadata.uid.clone().filter(|_| !is_static(pod));
    let preconditions = Preconditions { uid, resource_version: None };
    let params = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(&id(pod).name, &params).await {
        Err(error) if !is_overtaken(&error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(fields: &[&str]) -> kube::Error {
        let causes: Vec<Value> =
            fields.iter().map(|field| json!({"field": field, "message": "no", "reason": "FieldValueInvalid"})).collect();
        let status = json!({"status": "Failure", "code": 422, "reason": "Invalid", "message": "no", "details": {"causes": causes}});
        kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
    }

    fn names(changes: &[&str], fields: &[&str]) -> Option<Vec<String>> {
        let changes = changes.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
        acceptable(&changes, &refusal(fields)).map(|rest| rest.keys().cloned().collect())
    }

    #[test]
    fn conditions_that_are_gone_are_removed() {
        let status = |types: &[&str]| -> PodStatus {
            let conditions: Vec<Value> = types.iter().map(|name| json!({"type": name, "status": "True"})).collect();
            serde_json::from_value(json!({"conditions": conditions})).unwrap()
        };
        let changes = difference(&status(&["Ready", "PodResizePending"]), &status(&["Ready"])).unwrap();
        let removed: Vec<&Value> =
            changes["conditions"].as_array().unwrap().iter().filter(|condition| condition["$patch"] == "delete").collect();
        assert_eq!(removed, [&json!({"$patch": "delete", "type": "PodResizePending"})]);
        assert!(difference(&status(&["Ready"]), &status(&["Ready"])).is_none());
    }

    #[test]
    fn a_refused_field_does_not_hold_the_others_up() {
        let all = ["containerStatuses", "phase", "podIPs", "qosClass"];
        let own = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&all, &["status.qosClass"]), own(&["containerStatuses", "phase", "podIPs"]));
        assert_eq!(names(&all, &["status.containerStatuses[0].resources.claims", "status.podIPs[1].ip"]), own(&["phase", "qosClass"]));
        assert_eq!(names(&all, &["metadata.name"]), own(&["containerStatuses", "phase"]), "what matters most");
        assert_eq!(names(&["phase"], &["metadata.name"]), None, "nothing is left to leave out");
        assert_eq!(names(&["phase"], &["status.phase"]), own(&[]));
    }
}
