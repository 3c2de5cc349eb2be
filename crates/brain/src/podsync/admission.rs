//! Whether a node takes a pod on that was bound to it: the checks that a kubelet makes whatever the
//! scheduler said.

use std::sync::Arc;

use crate::model::{Node, Pod, Resources};
use crate::placement::{Effects, affinity_fits, untolerated_taint};
use crate::scheduler::ports_conflict;

/// Why a pod was turned away: the status's reason, and the message of event and status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

impl Rejection {
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Rejection {
        Rejection { reason: reason.into(), message: message.into() }
    }
}

/// Judges one pod beside those that the node already runs (without terminal ones). `os` is the
/// pod's `spec.os.name`.
pub fn check(pod: &Pod, os: Option<&str>, node: &Node, others: &[Arc<Pod>]) -> Result<(), Rejection> {
    if os.is_some_and(|os| !os.is_empty() && os != "linux") {
        return Err(Rejection::new("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    check_resources(pod, node, others)?;
    let is_pinned_elsewhere = pod.pinned.as_deref().is_some_and(|name| name != &*node.meta.name);
    if is_pinned_elsewhere || !affinity_fits(&pod.spec, node) {
        return Err(predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    if others.iter().any(|other| ports_conflict(&pod.spec, &other.spec)) {
        return Err(predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    // Only taints that evict keep a bound pod off: daemon pods are bound past the others.
    if untolerated_taint(node, &pod.spec.tolerations, Effects::Stay).is_some() {
        return Err(predicate("TaintToleration", "node(s) had untolerated taint(s)"));
    }
    Ok(())
}

fn check_resources(pod: &Pod, node: &Node, others: &[Arc<Pod>]) -> Result<(), Rejection> {
    let mut used = Resources::default();
    for other in others {
        used += &other.spec.requests;
    }
    let wants = &pod.spec.requests;
    let has = &node.allocatable;
    let pods = i64::try_from(others.len()).unwrap_or(i64::MAX);
    insufficient("pods", 1, pods, has.pods)?;
    insufficient("cpu", wants.milli_cpu, used.milli_cpu, has.milli_cpu)?;
    insufficient("memory", wants.memory, used.memory, has.memory)?;
    insufficient("ephemeral-storage", wants.ephemeral_storage, used.ephemeral_storage, has.ephemeral_storage)?;
    for (name, &amount) in &wants.others {
        // An extended resource that no node has belongs to the cluster, or another component gives
        // it.
        if is_extended(name) && !has.others.contains_key(name) {
            continue;
        }
        insufficient(name, amount, used.others.get(name).copied().unwrap_or(0), has.others.get(name).copied().unwrap_or(0))?;
    }
    Ok(())
}

fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

fn insufficient(name: &str, requested: i64, used: i64, capacity: i64) -> Result<(), Rejection> {
    if requested == 0 || used.saturating_add(requested) <= capacity {
        return Ok(());
    }
    let message = format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
    Err(Rejection::new(format!("OutOf{name}"), message))
}

fn predicate(name: &str, why: &str) -> Rejection {
    Rejection::new(name, format!("Predicate {name} failed: {why}"))
}
