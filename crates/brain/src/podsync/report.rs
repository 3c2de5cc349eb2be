//! Which parts of a pod's status the agent sends to the API server, and which version of a pod
//! counts.

use std::cmp::Ordering;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Map, Value, json};

use super::is_deleted;

/// The pod's resourceVersion as a number; 0 when it has none.
pub fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// Whether what the watch says now is from a time that had passed: the server's store was put back,
/// and what it says counts, not what is newer.
///
/// `before`: what the watch said last, None when it said that the pod is gone; `asked`: the newest
/// of what was seen and answered. A list may also say the same once more; only a deletion that the
/// server has answered with is not given up for that.
pub fn is_back(before: Option<&Pod>, asked: &Pod, told: &Pod) -> bool {
    let Some(before) = before else { return true };
    match version(told).cmp(&version(before)) {
        Ordering::Less => true,
        Ordering::Equal => !is_deleted(asked) || is_deleted(before) && !is_deleted(told),
        Ordering::Greater => is_deleted(before) && !is_deleted(told),
    }
}

/// What the agent sends when the server refuses a status and does not say which field of it.
const ESSENTIAL: [&str; 5] = ["phase", "reason", "message", "conditions", "containerStatuses"];

/// The changes without those that the server found wrong; None when nothing can be left out.
/// `fields`: those that it names, with their paths.
pub fn acceptable(changes: &Map<String, Value>, fields: &[&str]) -> Option<Map<String, Value>> {
    let refused: Vec<&str> = fields.iter().filter_map(|field| field.strip_prefix("status.")?.split(['.', '[']).next()).collect();
    let named: Map<String, Value> = changes.clone().into_iter().filter(|(name, _)| !refused.contains(&name.as_str())).collect();
    if named.len() < changes.len() {
        return Some(named);
    }
    let essential: Map<String, Value> = changes.clone().into_iter().filter(|(name, _)| ESSENTIAL.contains(&name.as_str())).collect();
    (essential.len() < changes.len()).then_some(essential)
}

/// Lists of addresses are merged by address unless the patch says otherwise: old ones would stay.
const REPLACED: [&str; 2] = ["podIPs", "hostIPs"];

/// What a strategic merge patch of the status has to say; None when nothing differs.
pub fn difference(before: &PodStatus, now: &PodStatus) -> Option<Map<String, Value>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(changes: &[&str], fields: &[&str]) -> Option<Vec<String>> {
        let changes = changes.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
        acceptable(&changes, fields).map(|rest| rest.keys().cloned().collect())
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

    fn pod(version: &str, is_deleted: bool) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.resource_version = Some(version.to_owned());
        let at = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH);
        pod.metadata.deletion_timestamp = is_deleted.then_some(at);
        pod
    }

    #[test]
    fn a_store_that_was_put_back_is_told_from_a_watch_that_lags() {
        let back = |before: &Pod, asked: &Pod, told: &Pod| is_back(Some(before), asked, told);
        let (old, new, deleted) = (pod("5", false), pod("9", false), pod("9", true));
        assert!(back(&new, &new, &old), "an older version than the list or watch had told");
        assert!(!back(&old, &pod("12", false), &new), "the watch comes up to what was answered");
        assert!(back(&old, &new, &old), "a list says the same again; the answer may be of what is no more");
        assert!(!back(&old, &deleted, &old), "a deletion that was answered stays");
        assert!(back(&deleted, &deleted, &pod("20", false)), "a deletion is not taken back otherwise");
        assert!(!back(&deleted, &deleted, &pod("20", true)));
        assert!(is_back(None, &new, &pod("20", false)));
    }
}
