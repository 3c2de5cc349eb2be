//! What the built-in DaemonSet `pod-network` may write: of the Node that its pod runs on, the
//! condition `NetworkUnavailable` and the key of the node. All its pods share one account, so its
//! rights alone would let a stolen token speak for every node.

use kinds::status::Status;
use serde_json::Value;

use kinds::table;

use super::{is_core, refuse};
use crate::registry::Registry;
use crate::registry::encoding::parse_stored;
use crate::request::WriteRequest;

const ACCOUNT: &str = "system:serviceaccount:kube-system:pod-network";
/// Tokens that are bound to a pod say which node it runs on.
const NODE_OF_TOKEN: &str = "authentication.kubernetes.io/node-name";

const CONDITION: &str = "NetworkUnavailable";
const KEY: &str = "everynode.dev/wireguard-public-key";

/// Checks a create (`old` is None) or an update by the account.
pub fn check(registry: &Registry, write: &WriteRequest<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    if write.user.name != ACCOUNT || !is_core(write.kind, "Node") {
        return Ok(());
    }
    let refused = |why: &str| Err(refuse(write, object, why));
    let own = match write.user.extra.get(NODE_OF_TOKEN).map(Vec::as_slice) {
        Some([node]) => node.as_str(),
        _ => return refused("pod-network writes only with a token that is bound to a pod on a node"),
    };
    let Some(old) = old else { return refused("pod-network does not create nodes") };
    if old["metadata"]["name"] != own {
        return refused(&format!("pod-network on node {own:?} is not allowed to modify other nodes"));
    }
    if others_than_its_own(object) != others_than_its_own(old) {
        return refused(&format!("pod-network may only change the condition {CONDITION} and the annotation {KEY}"));
    }
    let key = &object["metadata"]["annotations"][KEY];
    if !key.is_null() && *key != old["metadata"]["annotations"][KEY] && is_key_of_another(registry, own, key) {
        return refused("another node has that key");
    }
    Ok(())
}

/// Others would send what is meant for that node to whoever took its key.
fn is_key_of_another(registry: &Registry, own: &str, key: &Value) -> bool {
    let nodes = table::by_resource("", "v1", "nodes").expect("the table has nodes");
    let has_it = |node: &Value| node["metadata"]["annotations"][KEY] == *key && node["metadata"]["name"] != own;
    registry.caches.of(nodes).snapshot("", 0).objects.iter().any(|node| has_it(&parse_stored(&node.bytes)))
}

/// The object without what the account may write, and without what the server keeps.
fn others_than_its_own(node: &Value) -> Value {
    let mut node = node.clone();
    for field in ["managedFields", "resourceVersion", "generation"] {
        remove(&mut node, "/metadata", field);
    }
    remove(&mut node, "/metadata/annotations", KEY);
    if let Some(conditions) = node.pointer_mut("/status/conditions").and_then(Value::as_array_mut) {
        conditions.retain(|condition| condition["type"] != CONDITION);
    }
    // The first of them makes what holds it.
    for (parent, field) in [("/metadata", "annotations"), ("/status", "conditions"), ("", "status")] {
        let is_empty = |value: &Value| match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            other => other.is_null(),
        };
        if node.pointer(parent).and_then(|parent| parent.get(field)).is_some_and(is_empty) {
            remove(&mut node, parent, field);
        }
    }
    node
}

fn remove(node: &mut Value, parent: &str, field: &str) {
    if let Some(parent) = node.pointer_mut(parent).and_then(Value::as_object_mut) {
        parent.remove(field);
    }
}
