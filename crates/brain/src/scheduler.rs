//! Which node a pod gets. First part: node names, affinity and taints; resources, ports and preemption come with the next issue.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::daemonset::taint_text;
use crate::placement::{Effects, Misfit, misfit};

/// The scheduler that pods get who name none.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// What to do with a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    Bind {
        node: String,
    },
    /// No node fits; the message is the one that kubectl shows.
    Unschedulable {
        message: String,
    },
}

/// Is the pod for the default scheduler, and still without a node?
pub fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let unbound = spec.node_name.as_deref().unwrap_or_default().is_empty();
    let ours = spec.scheduler_name.as_deref().unwrap_or(DEFAULT_SCHEDULER) == DEFAULT_SCHEDULER;
    let gated = spec.scheduling_gates.as_deref().is_some_and(|gates| !gates.is_empty());
    unbound && ours && !gated && pod.metadata.deletion_timestamp.is_none()
}

/// Decides for one pod.
pub fn plan(pod: &Pod, nodes: &BTreeMap<String, Node>) -> Decision {
    let Some(spec) = &pod.spec else { return Decision::Unschedulable { message: "the pod has no spec".to_owned() } };
    // A daemon pod names its node: one look-up instead of one for each node of the fleet.
    let named = crate::daemonset::target_node(pod).and_then(|name| nodes.get_key_value(name));
    let fits = |node: &Node| misfit(spec, node, Effects::Start).is_none();
    let found = match named {
        Some((name, node)) => fits(node).then_some(name),
        None => nodes.iter().find(|(_, node)| fits(node)).map(|(name, _)| name),
    };
    match found {
        Some(name) => Decision::Bind { node: name.clone() },
        None => Decision::Unschedulable { message: explain(pod, nodes) },
    }
}

/// `0/4 nodes are available: 1 node(s) had untolerated taint(s), 3 node(s) didn't match Pod's node affinity/selector.`
fn explain(pod: &Pod, nodes: &BTreeMap<String, Node>) -> String {
    if nodes.is_empty() {
        return "no nodes available to schedule pods".to_owned();
    }
    let spec = pod.spec.clone().unwrap_or_default();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for misfit in nodes.values().filter_map(|node| misfit(&spec, node, Effects::Start)) {
        let reason = match misfit {
            Misfit::OtherNode => "node(s) didn't match the requested node name".to_owned(),
            Misfit::Affinity => "node(s) didn't match Pod's node affinity/selector".to_owned(),
            Misfit::Taint(taint) => format!("node(s) had untolerated taint {{{}}}", taint_text(&taint)),
        };
        *reasons.entry(reason).or_default() += 1;
    }
    let listed: Vec<String> = reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    format!("0/{} nodes are available: {}.", nodes.len(), listed.join(", "))
}
