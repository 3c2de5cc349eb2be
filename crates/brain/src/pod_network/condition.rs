//! The condition `NetworkUnavailable`, by which others learn that a node has no part in the
//! network: the node controller turns it into a taint.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Own, Problem};
use crate::model::NodeCondition;

pub(super) const KIND: &str = "NetworkUnavailable";

/// What is to be said of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    is_unavailable: bool,
    reason: &'static str,
    message: String,
}

/// How many nodes a message names.
const NAMES_MAX: usize = 3;

/// `failed`: why the kernel could not be brought to what was decided. `unreached`: why single nodes
/// are not reached, by name.
pub fn condition(own: &Result<Own, Problem>, failed: Option<&str>, unreached: &BTreeMap<String, String>) -> Condition {
    match (own, failed) {
        (Err(problem), _) => Condition {
            is_unavailable: true,
            reason: reason(problem),
            message: format!("the node has no part in the pod network: {problem}"),
        },
        (Ok(_), Some(error)) => {
            Condition { is_unavailable: true, reason: "PodNetworkFailed", message: format!("the pod network cannot be set up: {error}") }
        }
        (Ok(own), None) => Condition {
            is_unavailable: false,
            reason: "PodNetworkIsUp",
            message: match without(unreached) {
                None => format!("pods of other nodes and of this one ({}) reach each other", own.pod_cidr),
                Some(without) => format!("pods of this node ({}) are reached; {without}", own.pod_cidr),
            },
        },
    }
}

fn without(unreached: &BTreeMap<String, String>) -> Option<String> {
    if unreached.is_empty() {
        return None;
    }
    let named: Vec<String> = unreached.iter().take(NAMES_MAX).map(|(node, why)| format!("{node} ({why})")).collect();
    let others = unreached.len() - named.len();
    let more = if others > 0 { format!(" and {others} more") } else { String::new() };
    Some(format!("those of {} are not: {}{more}", plural(unreached.len()), named.join(", ")))
}

fn plural(nodes: usize) -> String {
    if nodes == 1 { "one node".to_owned() } else { format!("{nodes} nodes") }
}

fn reason(problem: &Problem) -> &'static str {
    match problem {
        Problem::NoNode | Problem::NoRange => "NoPodRange",
        Problem::NoAddress | Problem::NoNodeAddress(_) | Problem::AddressOfPods { .. } => "NoNodeAddress",
        Problem::OutsideCluster { .. } => "PodRangeOutsideCluster",
        Problem::RangeTaken { .. } => "PodRangeTaken",
        Problem::AddressTaken { .. } => "NodeAddressTaken",
        Problem::NoKey | Problem::KeyTaken { .. } => "NoWireGuardKey",
    }
}

impl Condition {
    /// What is said when the DaemonSet is gone and the node's routes with it.
    pub fn removed() -> Condition {
        Condition {
            is_unavailable: true,
            reason: "PodNetworkIsGone",
            message: "the DaemonSet pod-network was deleted: pods of other nodes are not reached".to_owned(),
        }
    }

    fn status(&self) -> &'static str {
        if self.is_unavailable { "True" } else { "False" }
    }

    /// Whether the node says something else, or nothing.
    pub fn differs(&self, before: Option<&NodeCondition>) -> bool {
        before.is_none_or(|before| (&*before.status, &*before.reason, &*before.message) != (self.status(), self.reason, &self.message))
    }

    /// A strategic merge patch of the status of the node with that uid.
    pub fn patch(&self, uid: &str, before: Option<&NodeCondition>, now: Timestamp) -> Value {
        let since = before.filter(|before| &*before.status == self.status()).and_then(|before| before.last_transition_time).unwrap_or(now);
        let condition = json!({
            "type": KIND, "status": self.status(), "reason": self.reason, "message": self.message,
            "lastHeartbeatTime": kinds::decode::format_time(now), "lastTransitionTime": kinds::decode::format_time(since),
        });
        json!({"metadata": {"uid": uid}, "status": {"conditions": [condition]}})
    }
}
