//! TaintNodesByCondition: a new node is tainted until it is known to be ready.

use serde_json::{Value, json};

use super::list_mut;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub fn admit(node: &mut Value) {
    let taints = list_mut(&mut node["spec"], "taints");
    if !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule") {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}
