//! One term of inter-pod affinity: which pods it selects, and how many of them are in each domain.

use kinds::selector::Selector;

use super::Domains;
use crate::model::{Labels, Node, Pod, PodAffinityTerm};
use crate::picture::Picture;
use crate::scheduler::node_info::Snapshot;

/// A term, ready to match.
#[derive(Debug, Clone)]
pub(in crate::scheduler) struct Term {
    pub topology_key: Box<str>,
    namespaces: Vec<Box<str>>,
    namespace_selector: Option<Selector>,
    /// None selects nothing.
    selector: Option<Selector>,
}

impl Term {
    /// `owner` is the namespace of the pod that has the term.
    pub fn new(term: &PodAffinityTerm, owner: &str) -> Term {
        let own = term.namespaces.is_empty() && term.namespace_selector.is_none();
        Term {
            topology_key: term.topology_key.clone(),
            namespaces: if own { vec![owner.into()] } else { term.namespaces.clone() },
            namespace_selector: term.namespace_selector.as_deref().and_then(parse),
            selector: term.selector.as_deref().and_then(parse),
        }
    }

    pub fn matches(&self, pod: &Pod, picture: &Picture) -> bool {
        self.selector.as_ref().is_some_and(|selector| pod.meta.labels.selected_by(selector))
            && (self.namespaces.iter().any(|namespace| **namespace == *pod.meta.namespace) || self.selects_namespace(pod, picture))
    }

    fn selects_namespace(&self, pod: &Pod, picture: &Picture) -> bool {
        let Some(selector) = &self.namespace_selector else { return false };
        let none = Labels::default();
        let labels = picture.namespaces.get(&pod.meta.namespace).map_or(&none, |namespace| &namespace.meta.labels);
        labels.selected_by(selector)
    }
}

/// Selectors are kept as texts that [`Selector`] printed, so all of them can be read.
pub(in crate::scheduler) fn parse(text: &str) -> Option<Selector> {
    Selector::parse(text).ok()
}

/// How many pods match all of some terms, by the domains of each term.
#[derive(Debug, Clone)]
pub(in crate::scheduler) struct Selected {
    pub terms: Vec<Term>,
    pub domains: Vec<Domains>,
    /// Pods that match, in domains of any term.
    pub total: i64,
}

impl Selected {
    pub fn count(terms: &[PodAffinityTerm], owner: &str, snapshot: &mut Snapshot<'_>) -> Selected {
        let terms: Vec<Term> = terms.iter().map(|term| Term::new(term, owner)).collect();
        let domains = vec![Domains::new(); terms.len()];
        let mut selected = Selected { terms, domains, total: 0 };
        snapshot.load_all();
        for info in snapshot.infos() {
            for pod in &info.pods {
                selected.add(pod, &info.node, snapshot.picture);
            }
        }
        selected
    }

    pub fn matches(&self, pod: &Pod, picture: &Picture) -> bool {
        self.terms.iter().all(|term| term.matches(pod, picture))
    }

    pub fn add(&mut self, pod: &Pod, node: &Node, picture: &Picture) {
        if !self.matches(pod, picture) {
            return;
        }
        for (term, domains) in self.terms.iter().zip(&mut self.domains) {
            if let Some(value) = node.meta.labels.get(&term.topology_key) {
                add(domains, value, 1);
                self.total += 1;
            }
        }
    }
}

/// Adds to a domain, without copying the name of one that is known.
pub(in crate::scheduler) fn add(domains: &mut Domains, value: &str, amount: i64) {
    match domains.get_mut(value) {
        Some(count) => *count += amount,
        None => drop(domains.insert(value.into(), amount)),
    }
}
