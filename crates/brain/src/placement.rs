//! May a pod be on a node? Node selectors, required node affinity, taints and tolerations.
//!
//! The rules are those of Kubernetes' component helpers for node affinity and of its toleration matching.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

/// Why a pod may not be on a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Misfit {
    /// The pod names another node.
    OtherNode,
    /// nodeSelector or required node affinity.
    Affinity,
    /// The first taint that is not tolerated.
    Taint(Taint),
}

/// Which taint effects count.
#[derive(Debug, Copy, Clone, PartialEq)]
pub enum Effects {
    /// For a pod that would start: NoSchedule and NoExecute.
    Start,
    /// For a pod that is there: NoExecute.
    Stay,
}

/// The first reason against the pod on the node, in the order name, affinity, taints.
pub fn misfit(pod: &PodSpec, node: &Node, effects: Effects) -> Option<Misfit> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if pod.node_name.as_deref().is_some_and(|wanted| !wanted.is_empty() && wanted != name) {
        return Some(Misfit::OtherNode);
    }
    if !affinity_fits(pod, node) {
        return Some(Misfit::Affinity);
    }
    let tolerations = pod.tolerations.as_deref().unwrap_or_default();
    untolerated_taint(node, tolerations, effects).map(Misfit::Taint)
}

/// nodeSelector and required node affinity together.
pub fn affinity_fits(pod: &PodSpec, node: &Node) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let selected = pod.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required =
        pod.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_matches(term, node, labels)))
}

/// A term without any requirement matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let field = |key: &str| if key == "metadata.name" { node.metadata.name.as_deref() } else { None };
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| requirement_matches(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| requirement_matches(r, field(&r.key)))
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|v| v == value));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compares(value, values, |a, b| a > b),
        "Lt" => compares(value, values, |a, b| a < b),
        _ => false,
    }
}

fn compares(value: Option<&str>, values: &[String], compare: fn(i64, i64) -> bool) -> bool {
    match (value.and_then(|v| v.parse().ok()), values.first().and_then(|v| v.parse().ok())) {
        (Some(value), Some(bound)) => compare(value, bound),
        _ => false,
    }
}

/// The first taint of the node that counts and that no toleration covers.
pub fn untolerated_taint(node: &Node, tolerations: &[Toleration], effects: Effects) -> Option<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let counts = |taint: &Taint| match effects {
        Effects::Start => matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"),
        Effects::Stay => taint.effect == "NoExecute",
    };
    taints.iter().filter(|t| counts(t)).find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint))).cloned()
}

/// Does the toleration cover the taint? An empty key with `Exists` covers every key, an empty effect every effect.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.as_deref().unwrap_or_default().to_owned();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match text(&toleration.operator).as_str() {
        "" | "Equal" => text(&toleration.value) == text(&taint.value),
        "Exists" => true,
        _ => false,
    }
}
