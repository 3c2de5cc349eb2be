//! Topology spread: hard constraints refuse nodes, soft ones (and those that Kubernetes has for
//! pods without any) make them worse.
//!
//! Kubernetes finds the siblings of a pod without constraints by the selectors of its Services and
//! ReplicaSets; here they are the pods that the same controller owns, which is the same for all but
//! Services.

use std::collections::BTreeSet;
use std::sync::Arc;

use kinds::selector::Selector;

use super::Domains;
use super::term::{add, parse};
use crate::model::{Node, Pod, PodSpec, SpreadConstraint};
use crate::placement::affinity_fits;
use crate::scheduler::node_info::{NodeInfo, Snapshot};
use crate::scheduler::reason::Rejection;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The constraints of pods that have none: their keys and skews.
const DEFAULTS: [(&str, i64); 2] = [(HOSTNAME, 3), (ZONE, 5)];

/// What counts depend on: pods with the same key share them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::scheduler) struct SpreadKey {
    namespace: Arc<str>,
    constraints: Vec<SpreadConstraint>,
    /// The siblings are what this controller owns, for the default constraints.
    owner: Option<Arc<str>>,
    choice: NodeChoice,
}

/// Which nodes the pod could be on: the others do not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct NodeChoice {
    pinned: Option<Arc<str>>,
    /// Has nothing but what the pod's spec says about nodes.
    spec: PodSpec,
}

impl SpreadKey {
    pub fn required(pod: &Pod) -> SpreadKey {
        Self::new(pod, pod.spec.spread.iter().filter(|constraint| constraint.do_not_schedule).cloned().collect())
    }

    /// None when nothing spreads the pod.
    pub fn preferred(pod: &Pod) -> Option<SpreadKey> {
        let soft: Vec<_> = pod.spec.spread.iter().filter(|constraint| !constraint.do_not_schedule).cloned().collect();
        if !pod.spec.spread.is_empty() {
            return (!soft.is_empty()).then(|| Self::new(pod, soft));
        }
        let owner = pod.meta.controller()?.uid.clone();
        let default = |(key, max_skew): (&str, i64)| SpreadConstraint { topology_key: key.into(), max_skew, ..SpreadConstraint::default() };
        let defaults = DEFAULTS.into_iter().map(default).collect();
        Some(SpreadKey { owner: Some(owner), ..Self::new(pod, defaults) })
    }

    fn new(pod: &Pod, constraints: Vec<SpreadConstraint>) -> SpreadKey {
        let (node_selector, node_affinity) = (pod.spec.node_selector.clone(), pod.spec.node_affinity.clone());
        let spec = PodSpec { node_selector, node_affinity, ..PodSpec::default() };
        let choice = NodeChoice { pinned: pod.pinned.clone(), spec };
        SpreadKey { namespace: pod.meta.namespace.clone(), constraints, owner: None, choice }
    }
}

/// How many siblings are in each domain, for each constraint. Domains without siblings count with
/// 0.
#[derive(Debug, Clone)]
pub(in crate::scheduler) struct SpreadCounts {
    key: SpreadKey,
    /// For each constraint; None selects nothing.
    selectors: Vec<Option<Selector>>,
    domains: Vec<Domains>,
}

impl SpreadCounts {
    pub fn count(key: &SpreadKey, snapshot: &mut Snapshot<'_>) -> SpreadCounts {
        let selectors = key.constraints.iter().map(|constraint| constraint.selector.as_deref().and_then(parse)).collect();
        let mut counts = SpreadCounts { key: key.clone(), selectors, domains: vec![Domains::new(); key.constraints.len()] };
        match &key.choice.pinned {
            Some(name) => drop(snapshot.load(name)),
            None => snapshot.load_all(),
        }
        for info in snapshot.infos() {
            counts.add_node(info);
        }
        counts
    }

    fn add_node(&mut self, info: &NodeInfo) {
        if !self.includes(&info.node) {
            return;
        }
        for (constraint, domains) in self.key.constraints.iter().zip(&mut self.domains) {
            if let Some(value) = info.label(&constraint.topology_key) {
                add(domains, value, 0);
            }
        }
        info.pods.iter().for_each(|pod| self.count_pod(pod, &info.node));
    }

    /// Nodes that the pod could be on and that have all labels; the default constraints do not ask
    /// for labels.
    fn includes(&self, node: &Node) -> bool {
        let choice = &self.key.choice;
        let may_be = choice.pinned.as_ref().is_none_or(|name| *name == node.meta.name) && affinity_fits(&choice.spec, node);
        may_be && (self.key.owner.is_some() || self.has_labels(node))
    }

    fn has_labels(&self, node: &Node) -> bool {
        self.key.constraints.iter().all(|constraint| node.meta.labels.get(&constraint.topology_key).is_some())
    }

    pub fn add(&mut self, pod: &Pod, node: &Node) {
        if self.includes(node) {
            self.count_pod(pod, node);
        }
    }

    fn count_pod(&mut self, pod: &Pod, node: &Node) {
        for at in 0..self.domains.len() {
            if self.is_sibling(at, pod)
                && let Some(value) = node.meta.labels.get(&self.key.constraints[at].topology_key)
            {
                add(&mut self.domains[at], value, 1);
            }
        }
    }

    /// Does the pod count for a constraint? Pods that are being deleted do not.
    fn is_sibling(&self, at: usize, pod: &Pod) -> bool {
        if pod.meta.namespace != self.key.namespace || pod.meta.is_deleted() {
            return false;
        }
        match &self.key.owner {
            Some(owner) => pod.meta.controller().is_some_and(|controller| controller.uid == *owner),
            None => self.selectors[at].as_ref().is_some_and(|selector| pod.meta.labels.selected_by(selector)),
        }
    }

    fn siblings(&self, at: usize, pods: &[Arc<Pod>]) -> i64 {
        pods.iter().filter(|pod| self.is_sibling(at, pod)).count() as i64
    }
}

/// The hard constraints of one pod.
#[derive(Debug)]
pub(in crate::scheduler) struct Spread {
    counts: Arc<SpreadCounts>,
    /// The smallest count of any domain, for each constraint.
    least: Vec<i64>,
}

impl Spread {
    pub fn new(counts: Arc<SpreadCounts>) -> Spread {
        let least = counts.key.constraints.iter().zip(&counts.domains).map(|(constraint, domains)| {
            let too_few = constraint.min_domains.is_some_and(|min| (domains.len() as i64) < min);
            if too_few { 0 } else { domains.values().min().copied().unwrap_or(0) }
        });
        let least = least.collect();
        Spread { counts, least }
    }

    pub fn rejection(&self, pod: &Pod, info: &NodeInfo) -> Option<Rejection> {
        let constraints = self.counts.key.constraints.iter().enumerate();
        constraints.map(|(at, constraint)| (at, constraint, &constraint.topology_key)).find_map(|(at, constraint, key)| {
            let Some(value) = info.label(key) else { return Some(Rejection::SpreadLabelMissing { topology_key: key.clone() }) };
            let counted = self.counts.domains[at].get(value).copied().unwrap_or(0) - self.counts.siblings(at, &info.removed);
            let least = if info.removed.is_empty() { self.least[at] } else { self.least[at].min(counted) };
            let there = counted + self.counts.siblings(at, &info.nominated);
            let itself = i64::from(self.counts.selectors[at].as_ref().is_some_and(|selector| pod.meta.labels.selected_by(selector)));
            (there + itself - least > constraint.max_skew).then(|| Rejection::Spread { topology_key: key.clone() })
        })
    }
}

/// How bad soft constraints find each of the nodes; None for nodes that lack a label and get no
/// points at all.
pub(in crate::scheduler) fn soft_score(counts: &SpreadCounts, nodes: &[&NodeInfo]) -> Vec<Option<i64>> {
    let constraints = &counts.key.constraints;
    let ignored = |info: &NodeInfo| counts.key.owner.is_none() && !counts.has_labels(&info.node);
    let scored: Vec<&&NodeInfo> = nodes.iter().filter(|info| !ignored(info)).collect();
    let weights: Vec<f64> = constraints.iter().map(|constraint| domain_weight(&constraint.topology_key, &scored)).collect();
    let score = |info: &NodeInfo| {
        let points = constraints.iter().zip(&counts.domains).zip(&weights).map(|((constraint, domains), weight)| {
            let Some(value) = info.label(&constraint.topology_key) else { return 0.0 };
            domains.get(value).copied().unwrap_or(0) as f64 * weight + (constraint.max_skew - 1) as f64
        });
        points.sum::<f64>().round() as i64
    };
    nodes.iter().map(|info| (!ignored(info)).then(|| score(info))).collect()
}

/// Counts in few domains weigh less, so that a small topology is not drowned by a large one.
fn domain_weight(topology_key: &str, nodes: &[&&NodeInfo]) -> f64 {
    let size = match topology_key {
        HOSTNAME => nodes.len(),
        key => nodes.iter().map(|info| info.label(key)).collect::<BTreeSet<_>>().len(),
    };
    ((size + 2) as f64).ln()
}
