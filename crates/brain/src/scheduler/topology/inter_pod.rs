//! Required inter-pod affinity and anti-affinity, in both directions: what the pod wants, and what
//! the pods that are there want.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Domains;
use super::term::{Selected, Term, add};
use crate::model::{Labels, Pod, PodAffinityTerm};
use crate::picture::Picture;
use crate::scheduler::node_info::NodeInfo;
use crate::scheduler::reason::Rejection;

/// The weight of the required affinity of pods that are there: the default of the plugin's
/// `hardPodAffinityWeight`.
const REQUIRED_AFFINITY_WEIGHT: i64 = 1;

/// What is required of the neighbours of one pod.
#[derive(Debug)]
pub(in crate::scheduler) struct InterPod {
    /// Pods that match all required affinity terms.
    pub affinity: Option<Arc<Selected>>,
    /// The pod satisfies its own affinity: the first of its kind may go anywhere.
    pub matches_itself: bool,
    /// For each required anti-affinity term.
    pub anti: Vec<Arc<Selected>>,
    /// Required anti-affinity terms of others that are about this pod.
    pub existing: Vec<Arc<OwnedTerm>>,
}

impl InterPod {
    pub fn rejection(&self, pod: &Pod, info: &NodeInfo, picture: &Picture) -> Option<Rejection> {
        if self.affinity.as_ref().is_some_and(|selected| !self.is_near(selected, info, picture)) {
            return Some(Rejection::PodAffinity);
        }
        if let Some(topology_key) = self.anti.iter().find_map(|selected| unwanted_near(selected, info, picture)) {
            return Some(Rejection::PodAntiAffinity { topology_key });
        }
        let existing = self.existing.iter().find(|term| term.counts_near(info) > 0).map(|term| term.term.topology_key.clone());
        let repels = |other: &Arc<Pod>| repelled_by(pod, other, info, picture);
        let topology_key = existing.or_else(|| info.nominated.iter().find_map(repels))?;
        Some(Rejection::ExistingAntiAffinity { topology_key })
    }

    /// Are pods that the terms select in the domains of the node? Nominated pods do not count: they
    /// may not come.
    fn is_near(&self, selected: &Selected, info: &NodeInfo, picture: &Picture) -> bool {
        let removed = count(selected, &info.removed, picture);
        let mut all_near = true;
        for (term, domains) in selected.terms.iter().zip(&selected.domains) {
            let Some(value) = info.label(&term.topology_key) else { return false };
            all_near &= domains.get(value).is_some_and(|&count| count > removed);
        }
        let labelled = selected.terms.iter().filter(|term| info.label(&term.topology_key).is_some()).count() as i64;
        all_near || (self.matches_itself && selected.total <= removed * labelled)
    }
}

fn count(selected: &Selected, pods: &[Arc<Pod>], picture: &Picture) -> i64 {
    pods.iter().filter(|pod| selected.matches(pod, picture)).count() as i64
}

/// The topology key of an anti-affinity term that forbids the node. A node without the label is in
/// no domain.
fn unwanted_near(selected: &Selected, info: &NodeInfo, picture: &Picture) -> Option<Box<str>> {
    let (term, domains) = (selected.terms.first()?, selected.domains.first()?);
    let value = info.label(&term.topology_key)?;
    let there = domains.get(value).copied().unwrap_or(0) - count(selected, &info.removed, picture);
    (there + count(selected, &info.nominated, picture) > 0).then(|| term.topology_key.clone())
}

/// The topology key of a term of `other`, meant for this node, that is about the pod.
fn repelled_by(pod: &Pod, other: &Pod, info: &NodeInfo, picture: &Picture) -> Option<Box<str>> {
    let terms = other.spec.pod_anti_affinity.iter().filter(|term| info.label(&term.topology_key).is_some());
    let mut terms = terms.map(|term| Term::new(term, &other.meta.namespace));
    terms.find(|term| term.matches(pod, picture)).map(|term| term.topology_key)
}

/// A term that pods on nodes have, and how much they weigh in each domain.
#[derive(Debug, Clone)]
pub(in crate::scheduler) struct OwnedTerm {
    namespace: Arc<str>,
    raw: PodAffinityTerm,
    pub term: Term,
    pub domains: Domains,
}

impl OwnedTerm {
    /// Pods with the term in the domain of the node.
    fn counts_near(&self, info: &NodeInfo) -> i64 {
        let Some(value) = info.label(&self.term.topology_key) else { return 0 };
        let owns = |pod: &&Arc<Pod>| pod.meta.namespace == self.namespace && pod.spec.pod_anti_affinity.contains(&self.raw);
        self.domains.get(value).copied().unwrap_or(0) - info.removed.iter().filter(owns).count() as i64
    }
}

/// The terms of all pods that are on nodes; equal terms of one namespace are one.
#[derive(Debug, Default)]
pub(super) struct OwnedTerms(BTreeMap<(Arc<str>, PodAffinityTerm), Arc<OwnedTerm>>);

impl OwnedTerms {
    /// Adds the terms of a pod, with weights, on a node with those labels.
    pub fn add<'a>(&mut self, terms: impl Iterator<Item = (&'a PodAffinityTerm, i64)>, labels: &Labels, namespace: &Arc<str>) {
        for (raw, weight) in terms {
            let Some(value) = labels.get(&raw.topology_key) else { continue };
            let new = || {
                let (namespace, term) = (namespace.clone(), Term::new(raw, namespace));
                Arc::new(OwnedTerm { namespace, raw: raw.clone(), term, domains: Domains::new() })
            };
            let known = self.0.entry((namespace.clone(), raw.clone())).or_insert_with(new);
            add(&mut Arc::make_mut(known).domains, value, weight);
        }
    }

    /// Those that are about the pod.
    pub fn matching(&self, pod: &Pod, picture: &Picture) -> Vec<Arc<OwnedTerm>> {
        self.0.values().filter(|owned| owned.term.matches(pod, picture)).cloned().collect()
    }
}

/// The terms by which a pod keeps others away.
pub(super) fn repelling(pod: &Pod) -> impl Iterator<Item = (&PodAffinityTerm, i64)> {
    pod.spec.pod_anti_affinity.iter().map(|term| (term, 1))
}

/// The terms by which a pod makes its neighbourhood better or worse for others.
pub(super) fn attracting(pod: &Pod) -> impl Iterator<Item = (&PodAffinityTerm, i64)> {
    let spec = &*pod.spec;
    let required = spec.pod_affinity.iter().map(|term| (term, REQUIRED_AFFINITY_WEIGHT));
    let wanted = spec.preferred_pods.iter().map(|weighted| (&weighted.term, weighted.weight));
    required.chain(wanted).chain(spec.unwanted_pods.iter().map(|weighted| (&weighted.term, -weighted.weight)))
}
