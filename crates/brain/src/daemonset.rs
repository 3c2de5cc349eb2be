//! Which daemon pods should exist: one on every node that is eligible, none elsewhere, and what the set's status says about it.
//!
//! First part: eligibility, creation, removal, status. Rolling updates, revisions and backoff come with the next issue.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};

use crate::placement::{Effects, Misfit, misfit};

/// Everything that one decision may look at.
#[derive(Debug)]
pub struct View<'a> {
    pub set: &'a DaemonSet,
    /// By name.
    pub nodes: &'a BTreeMap<String, Node>,
    /// The pods that the set controls, sorted by name.
    pub pods: &'a [&'a Pod],
}

/// What to do, what to report, and why.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub status: DaemonSetStatus,
    pub notes: Vec<Note>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Create the pod of the set for that node.
    CreatePod { node: String },
    /// Delete a pod; the uid protects its successor of the same name.
    DeletePod { name: String, uid: String, because: Reason },
}

/// One reason for each node.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    pub node: String,
    pub reason: Reason,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    Runs,
    Missing,
    Misfit(Misfit),
    /// Another pod of the set is on the node; the oldest stays.
    Duplicate,
    NodeGone,
}

/// Decides for one set.
pub fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if view.set.metadata.deletion_timestamp.is_some() {
        plan.status = view.set.status.clone().unwrap_or_default();
        return plan;
    }
    let spec = daemon_pod_spec(view.set, None);
    let by_node = pods_by_node(view.pods);
    let nothing = Vec::new();
    for (name, node) in view.nodes {
        plan_node(&mut plan, &spec, node, name, by_node.get(name.as_str()).unwrap_or(&nothing));
    }
    for (name, pods) in by_node.iter().filter(|(name, _)| !view.nodes.contains_key(**name)) {
        plan.notes.push(Note { node: (*name).to_owned(), reason: Reason::NodeGone });
        plan.actions.extend(pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).map(|pod| delete(pod, Reason::NodeGone)));
    }
    finish_status(&mut plan.status, view.set);
    plan
}

/// Pods by the node they are on or meant for, oldest first.
fn pods_by_node<'a>(pods: &[&'a Pod]) -> BTreeMap<&'a str, Vec<&'a Pod>> {
    let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for &pod in pods {
        if let Some(node) = target_node(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    for pods in by_node.values_mut() {
        pods.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone().map(|t| t.0), pod.metadata.name.clone()));
    }
    by_node
}

/// The node a pod is bound to, or the one that its affinity names.
pub fn target_node(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let required = spec.affinity.as_ref()?.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let terms = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let named = terms.filter(|r| r.key == "metadata.name" && r.operator == "In").find_map(|r| r.values.as_ref()?.first());
    named.map(String::as_str)
}

fn plan_node(plan: &mut Plan, spec: &PodSpec, node: &Node, name: &str, pods: &[&Pod]) {
    let should_run = misfit(spec, node, Effects::Start);
    let should_stay = misfit(spec, node, Effects::Stay);
    let live: Vec<&&Pod> = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
    count(&mut plan.status, should_run.is_none(), pods);
    let reason = match (&should_run, &should_stay) {
        (_, Some(misfit)) => {
            plan.actions.extend(live.iter().map(|pod| delete(pod, Reason::Misfit(misfit.clone()))));
            Reason::Misfit(misfit.clone())
        }
        (None, None) => {
            plan.actions.extend(live.iter().skip(1).map(|pod| delete(pod, Reason::Duplicate)));
            // A pod that is on its way out is waited for: never two of a set on a node.
            if pods.is_empty() {
                plan.actions.push(Action::CreatePod { node: name.to_owned() });
                Reason::Missing
            } else {
                Reason::Runs
            }
        }
        (Some(misfit), None) => {
            plan.actions.extend(live.iter().skip(1).map(|pod| delete(pod, Reason::Duplicate)));
            Reason::Misfit(misfit.clone())
        }
    };
    plan.notes.push(Note { node: name.to_owned(), reason });
}

fn delete(pod: &Pod, because: Reason) -> Action {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Action::DeletePod { name: text(&pod.metadata.name), uid: text(&pod.metadata.uid), because }
}

fn count(status: &mut DaemonSetStatus, desired: bool, pods: &[&Pod]) {
    if !desired {
        status.number_misscheduled += i32::from(!pods.is_empty());
        return;
    }
    status.desired_number_scheduled += 1;
    let Some(oldest) = pods.first() else { return };
    status.current_number_scheduled += 1;
    if is_ready(oldest) {
        status.number_ready += 1;
        *status.number_available.get_or_insert(0) += 1;
    }
    *status.updated_number_scheduled.get_or_insert(0) += 1;
}

fn finish_status(status: &mut DaemonSetStatus, set: &DaemonSet) {
    status.observed_generation = set.metadata.generation;
    let unavailable = status.desired_number_scheduled - status.number_available.unwrap_or(0);
    status.number_unavailable = Some(unavailable).filter(|&n| n > 0);
    let old = set.status.as_ref();
    status.collision_count = old.and_then(|old| old.collision_count);
    status.conditions = old.and_then(|old| old.conditions.clone());
}

/// Is the pod's Ready condition true?
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The spec of the set's pod for a node: the template with the tolerations of daemon pods, and pinned to the node.
pub fn daemon_pod_spec(set: &DaemonSet, node: Option<&str>) -> PodSpec {
    let mut spec = set.spec.as_ref().and_then(|spec| spec.template.spec.clone()).unwrap_or_default();
    if let Some(node) = node {
        pin_to_node(&mut spec, node);
    }
    add_tolerations(&mut spec);
    spec
}

/// Replaces what the template says of node names; its other requirements stay.
fn pin_to_node(spec: &mut PodSpec, node: &str) {
    let requirement =
        NodeSelectorRequirement { key: "metadata.name".to_owned(), operator: "In".to_owned(), values: Some(vec![node.to_owned()]) };
    let affinity = spec.affinity.get_or_insert_with(Affinity::default).node_affinity.get_or_insert_with(NodeAffinity::default);
    let required = affinity.required_during_scheduling_ignored_during_execution.get_or_insert_with(NodeSelector::default);
    required.node_selector_terms = vec![NodeSelectorTerm { match_fields: Some(vec![requirement]), match_expressions: None }];
}

/// Daemon pods bear what ordinary pods are kept away by.
fn add_tolerations(spec: &mut PodSpec) {
    let host_network = spec.host_network == Some(true);
    let mut wanted = vec![
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    if host_network {
        wanted.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in wanted {
        let same = |t: &Toleration| {
            t.key.as_deref() == Some(key) && t.effect.as_deref() == Some(effect) && t.operator.as_deref() == Some("Exists")
        };
        if !tolerations.iter().any(same) {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some(effect.to_owned()),
                ..Toleration::default()
            });
        }
    }
}

/// A taint as people write it: `key=value:effect`.
pub fn taint_text(taint: &Taint) -> String {
    match taint.value.as_deref().filter(|value| !value.is_empty()) {
        Some(value) => format!("{}={value}:{}", taint.key, taint.effect),
        None => format!("{}:{}", taint.key, taint.effect),
    }
}

#[cfg(test)]
mod tests;
