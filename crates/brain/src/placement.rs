//! May a pod be on a node? Node selectors, required node affinity, taints and tolerations.
//!
//! The rules are those of Kubernetes' component helpers for node affinity and of its toleration
//! matching.

use crate::model::{Node, NodeRequirement, NodeTerm, PodSpec, Taint, Toleration};

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

/// The first reason against a pod of that spec on the node, in the order affinity, taints. Node
/// names are the caller's matter.
pub fn misfit(spec: &PodSpec, node: &Node, effects: Effects) -> Option<Misfit> {
    if !affinity_fits(spec, node) {
        return Some(Misfit::Affinity);
    }
    untolerated_taint(node, &spec.tolerations, effects).map(|taint| Misfit::Taint(taint.clone()))
}

/// nodeSelector and required node affinity together.
pub fn affinity_fits(spec: &PodSpec, node: &Node) -> bool {
    spec.node_selector.iter().all(|(key, value)| node.meta.labels.get(key) == Some(value))
        && spec.node_affinity.as_ref().is_none_or(|terms| terms.iter().any(|term| term_matches(term, node)))
}

/// A term without any requirement matches nothing.
pub fn term_matches(term: &NodeTerm, node: &Node) -> bool {
    let field = |key: &str| if key == "metadata.name" { Some(&*node.meta.name) } else { None };
    !(term.match_expressions.is_empty() && term.match_fields.is_empty())
        && term.match_expressions.iter().all(|r| requirement_matches(r, node.meta.labels.get(&r.key)))
        && term.match_fields.iter().all(|r| requirement_matches(r, field(&r.key)))
}

fn requirement_matches(requirement: &NodeRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_slice();
    let listed = value.is_some_and(|value| values.iter().any(|v| **v == *value));
    match &*requirement.operator {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compares(value, values, |a, b| a > b),
        "Lt" => compares(value, values, |a, b| a < b),
        _ => false,
    }
}

fn compares(value: Option<&str>, values: &[Box<str>], compare: fn(i64, i64) -> bool) -> bool {
    match (value.and_then(|v| v.parse().ok()), values.first().and_then(|v| v.parse().ok())) {
        (Some(value), Some(bound)) => compare(value, bound),
        _ => false,
    }
}

/// The first taint of the node that counts and that no toleration covers.
pub fn untolerated_taint<'a>(node: &'a Node, tolerations: &[Toleration], effects: Effects) -> Option<&'a Taint> {
    let counts = |taint: &&Taint| match effects {
        Effects::Start => matches!(&*taint.effect, "NoSchedule" | "NoExecute"),
        Effects::Stay => *taint.effect == *"NoExecute",
    };
    node.taints.iter().filter(counts).find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// Does the toleration cover the taint? An empty key with `Exists` covers every key, an empty
/// effect every effect.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let differs = |mine: &str, theirs: &str| !mine.is_empty() && mine != theirs;
    if differs(&toleration.effect, &taint.effect) || differs(&toleration.key, &taint.key) {
        return false;
    }
    match &*toleration.operator {
        "" | "Equal" => toleration.value == taint.value,
        "Exists" => true,
        _ => false,
    }
}
