//! What the registry reads and sets of any object's metadata.

use serde_json::{Map, Value, json};

/// A text of the object's metadata, empty when unset.
pub fn metadata_text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The object's metadata, to be changed.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().expect("made an object above")
}

/// Is the object being deleted, with no finalizer left (namespaces have some in their spec as well)
/// and no grace period to wait for?
pub fn is_finished(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let deleting = metadata["deletionTimestamp"].is_string();
    let held = metadata["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    let graceful = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
    let namespace_held = object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    deleting && !held && !graceful && !namespace_held
}
