//! What other nodes have to do with a pod: inter-pod affinity and anti-affinity, topology spread.
//!
//! Both rest on counts: how many pods that a term selects are in each domain (nodes with one value
//! of a label). Counting looks at every node, so each count is made once per plan, when the first
//! pod needs it, and kept up to date when the plan places pods. Pods without terms of their own
//! cost nothing but a look at the terms of the pods that repel others.
//!
//! A dry run of a preemption takes pods off one node; [`NodeInfo::removed`] is subtracted from the
//! counts of that node's domain. Left out: `nodeAffinityPolicy` and `nodeTaintsPolicy` (their
//! defaults, Honor and Ignore, hold) and `matchLabelKeys`, which the API server of Kubernetes
//! merges into the selectors.

mod inter_pod;
mod spread;
mod term;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::node_info::Snapshot;
use super::queue::Queue;
use crate::model::{Pod, PodAffinityTerm};

pub(super) use inter_pod::InterPod;
pub(super) use spread::{Spread, soft_score};

use inter_pod::{OwnedTerm, OwnedTerms};
use spread::{SpreadCounts, SpreadKey};
use term::Selected;

/// How many pods a term selects, by the value of its topology key.
pub(super) type Domains = BTreeMap<Box<str>, i64>;

/// The counts of one plan.
#[derive(Debug)]
pub(super) struct Topology<'a> {
    /// Knows which pods have required anti-affinity.
    queue: &'a Queue,
    /// Of all the terms that a pod's required affinity has, or of one term alone, in the namespace
    /// of the pod that has them.
    selected: BTreeMap<(Arc<str>, Vec<PodAffinityTerm>), Arc<Selected>>,
    spreads: BTreeMap<SpreadKey, Arc<SpreadCounts>>,
    /// Required anti-affinity terms of the pods that are there.
    repelling: Option<OwnedTerms>,
    /// Terms of the pods that are there which make nodes better or worse for others.
    attracting: Option<OwnedTerms>,
}

impl<'a> Topology<'a> {
    pub fn new(queue: &'a Queue) -> Topology<'a> {
        Topology { queue, selected: BTreeMap::new(), spreads: BTreeMap::new(), repelling: None, attracting: None }
    }

    /// What is required of a pod's neighbours.
    pub fn inter_pod(&mut self, pod: &Pod, snapshot: &mut Snapshot<'_>) -> InterPod {
        let affinity = match pod.spec.pod_affinity.as_slice() {
            [] => None,
            terms => Some(self.selected(pod, terms, snapshot)),
        };
        let anti = pod.spec.pod_anti_affinity.iter().map(|term| self.selected(pod, std::slice::from_ref(term), snapshot)).collect();
        let existing = self.repelling(snapshot).matching(pod, snapshot.picture);
        let matches_itself = affinity.as_ref().is_some_and(|selected| selected.matches(pod, snapshot.picture));
        InterPod { affinity, matches_itself, anti, existing }
    }

    /// How many pods the terms select together.
    pub fn selected(&mut self, pod: &Pod, terms: &[PodAffinityTerm], snapshot: &mut Snapshot<'_>) -> Arc<Selected> {
        let key = (pod.meta.namespace.clone(), terms.to_vec());
        let new = || Arc::new(Selected::count(terms, &pod.meta.namespace, snapshot));
        self.selected.entry(key).or_insert_with(new).clone()
    }

    fn repelling(&mut self, snapshot: &Snapshot<'_>) -> &OwnedTerms {
        let pods = self.queue.repelling();
        self.repelling.get_or_insert_with(|| {
            let mut terms = OwnedTerms::default();
            for pod in pods.filter_map(|key| snapshot.picture.pods.get(key)) {
                let node = pod.node.as_ref().filter(|_| !pod.is_terminal()).and_then(|name| snapshot.picture.nodes.get(name));
                if let Some(node) = node {
                    terms.add(inter_pod::repelling(pod), &node.meta.labels, &pod.meta.namespace);
                }
            }
            for (name, pod) in snapshot.assumed() {
                if let Some(node) = snapshot.picture.nodes.get(name) {
                    terms.add(inter_pod::repelling(pod), &node.meta.labels, &pod.meta.namespace);
                }
            }
            terms
        })
    }

    /// What the pods that are there think of a pod, with weights.
    pub fn attracting(&mut self, pod: &Pod, snapshot: &mut Snapshot<'_>) -> Vec<Arc<OwnedTerm>> {
        let terms = self.attracting.get_or_insert_with(|| {
            snapshot.load_all();
            let mut terms = OwnedTerms::default();
            for info in snapshot.infos() {
                for pod in &info.pods {
                    terms.add(inter_pod::attracting(pod), &info.node.meta.labels, &pod.meta.namespace);
                }
            }
            terms
        });
        terms.matching(pod, snapshot.picture)
    }

    /// The hard constraints of a pod, if it has any.
    pub fn required_spread(&mut self, pod: &Pod, snapshot: &mut Snapshot<'_>) -> Option<Spread> {
        if !pod.spec.spread.iter().any(|constraint| constraint.do_not_schedule) {
            return None;
        }
        Some(Spread::new(self.spread(SpreadKey::required(pod), snapshot)))
    }

    /// The soft constraints of a pod, its own or those that Kubernetes has for pods without.
    pub fn preferred_spread(&mut self, pod: &Pod, snapshot: &mut Snapshot<'_>) -> Option<Arc<SpreadCounts>> {
        Some(self.spread(SpreadKey::preferred(pod)?, snapshot))
    }

    fn spread(&mut self, key: SpreadKey, snapshot: &mut Snapshot<'_>) -> Arc<SpreadCounts> {
        if let Some(known) = self.spreads.get(&key) {
            return known.clone();
        }
        let counts = Arc::new(SpreadCounts::count(&key, snapshot));
        self.spreads.insert(key, counts.clone());
        counts
    }

    /// Counts a pod that the plan placed.
    pub fn place(&mut self, pod: &Pod, snapshot: &Snapshot<'_>, node: &str) {
        let Some(node) = snapshot.picture.nodes.get(node) else { return };
        for selected in self.selected.values_mut() {
            Arc::make_mut(selected).add(pod, node, snapshot.picture);
        }
        for counts in self.spreads.values_mut() {
            Arc::make_mut(counts).add(pod, node);
        }
        if let Some(terms) = &mut self.repelling {
            terms.add(inter_pod::repelling(pod), &node.meta.labels, &pod.meta.namespace);
        }
        if let Some(terms) = &mut self.attracting {
            terms.add(inter_pod::attracting(pod), &node.meta.labels, &pod.meta.namespace);
        }
    }
}
