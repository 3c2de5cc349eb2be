//! NodeRestriction: an agent writes its own node and the pods on it, and no labels by which others trust nodes.

use kinds::status::Status;
use serde_json::Value;

use super::{is_core, refuse};
use crate::auth::node::node_of;
use crate::registry::Write;

const PROTECTED_LABEL_PREFIX: &str = "node-restriction.kubernetes.io/";

/// Checks a create (`old` is None) or an update by an agent.
pub fn check(write: &Write<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    let Some(node) = node_of(write.user) else { return Ok(()) };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if is_core(write.kind, "Node") {
        return check_node(write, node, name, object, old);
    }
    if is_core(write.kind, "Pod") {
        return check_pod(write, node, object, old);
    }
    if write.kind.plural == "leases" && name != node {
        return Err(refuse(write, object, &format!("can only access node lease with the same name as the requesting node: {node:?}")));
    }
    Ok(())
}

fn check_node(write: &Write<'_>, node: &str, name: &str, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    if name != node {
        return Err(refuse(write, object, &format!("node {node:?} is not allowed to modify node {name:?}")));
    }
    let protected = |object: &Value| -> Vec<(String, Value)> {
        let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
        labels.filter(|(key, _)| key.starts_with(PROTECTED_LABEL_PREFIX)).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    if protected(object) != old.map(protected).unwrap_or_default() {
        return Err(refuse(write, object, &format!("is not allowed to modify labels: {PROTECTED_LABEL_PREFIX}*")));
    }
    match old {
        Some(old) if old["spec"]["taints"] != object["spec"]["taints"] => {
            Err(refuse(write, object, &format!("node {node:?} is not allowed to modify taints")))
        }
        _ => Ok(()),
    }
}

fn check_pod(write: &Write<'_>, node: &str, pod: &Value, old: Option<&Value>) -> Result<(), Status> {
    match old {
        // Agents make only the mirrors of their static pods.
        None if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() => Err(refuse(
            write,
            pod,
            &format!("pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"),
        )),
        None if pod["spec"]["nodeName"] != node => {
            Err(refuse(write, pod, &format!("node {node:?} can only create pods with spec.nodeName set to itself")))
        }
        None => Ok(()),
        Some(old) if old["spec"]["nodeName"] != node => {
            Err(refuse(write, pod, &format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself")))
        }
        Some(_) => Ok(()),
    }
}

/// Checks a deletion by an agent.
pub fn check_delete(write: &Write<'_>, object: &Value) -> Result<(), Status> {
    let Some(node) = node_of(write.user) else { return Ok(()) };
    if is_core(write.kind, "Pod") && object["spec"]["nodeName"] != node {
        return Err(refuse(write, object, &format!("node {node:?} can only delete pods with spec.nodeName set to itself")));
    }
    Ok(())
}
