//! May a pod be on a node? The filters of the default plugins, in their order; the first that
//! rejects has the word.
//!
//! What needs to know other nodes comes prepared in [`Filters`]; the rest is between the pod and
//! one [`NodeInfo`].

use std::collections::BTreeSet;
use std::sync::Arc;

use super::node_info::{NodeInfo, Snapshot};
use super::reason::{Rejection, Shortage};
use super::topology::{InterPod, Spread, Topology};
use crate::model::{HostPort, Key, Node, NodeTerm, Pod, PodSpec, Taint};
use crate::picture::Picture;
use crate::placement::{Effects, affinity_fits, tolerates, untolerated_taint};

/// The taint that a node has while it is cordoned; a pod that tolerates it may be on a cordoned
/// node.
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// Which nodes a pod could be on by their names alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Candidates {
    All,
    Named(BTreeSet<Arc<str>>),
    /// It asks for two names at once.
    None,
}

/// Narrows the search to the nodes that the required affinity names, if each of its terms names
/// some.
pub(super) fn candidates(pod: &Pod) -> Candidates {
    if let Some(pinned) = &pod.pinned {
        return Candidates::Named(BTreeSet::from([pinned.clone()]));
    }
    let Some(terms) = &pod.spec.node_affinity else { return Candidates::All };
    let mut all = BTreeSet::new();
    for term in terms {
        match named_by(term) {
            Some(names) => all.extend(names),
            None => return Candidates::All,
        }
    }
    if all.is_empty() && !terms.is_empty() { Candidates::None } else { Candidates::Named(all) }
}

/// The names that all `metadata.name` requirements of a term allow; None when it has none.
fn named_by(term: &NodeTerm) -> Option<BTreeSet<Arc<str>>> {
    let fields = term.match_fields.iter().filter(|field| &*field.key == "metadata.name" && &*field.operator == "In");
    let sets = fields.map(|field| field.values.iter().map(|name| Arc::from(&**name)).collect::<BTreeSet<Arc<str>>>());
    sets.reduce(|a, b| a.intersection(&b).cloned().collect())
}

/// A pod on the way to a node, with what the filters need to know of other nodes.
#[derive(Debug)]
pub(super) struct Filters<'a> {
    pub pod: &'a Pod,
    picture: &'a Picture,
    inter_pod: InterPod,
    spread: Option<Spread>,
}

impl<'a> Filters<'a> {
    pub fn new(pod: &'a Pod, snapshot: &mut Snapshot<'a>, topology: &mut Topology<'_>) -> Filters<'a> {
        let inter_pod = topology.inter_pod(pod, snapshot);
        let spread = topology.required_spread(pod, snapshot);
        Filters { pod, picture: snapshot.picture, inter_pod, spread }
    }

    /// All reasons of the first filter that rejects; none when the pod may be there.
    pub fn rejections(&self, info: &NodeInfo) -> Vec<Rejection> {
        let spec = &*self.pod.spec;
        let first = unschedulable(spec, &info.node)
            .or_else(|| untolerated_taint(&info.node, &spec.tolerations, Effects::Start).map(|taint| Rejection::Taint(taint.clone())))
            .or_else(|| (!affinity_fits(spec, &info.node)).then_some(Rejection::Affinity))
            .or_else(|| taken_port(spec, info));
        if let Some(rejection) = first {
            return vec![rejection];
        }
        let shortages = shortages(spec, info);
        if !shortages.is_empty() {
            return shortages;
        }
        let spread = self.spread.as_ref().and_then(|spread| spread.rejection(self.pod, info));
        spread.or_else(|| self.inter_pod.rejection(self.pod, info, self.picture)).into_iter().collect()
    }

    pub fn fits(&self, info: &NodeInfo) -> bool {
        self.rejections(info).is_empty()
    }

    /// Like [`Filters::rejections`], on the node with the pods that are nominated to it.
    pub fn rejections_with_nominated(&self, info: &NodeInfo, snapshot: &Snapshot<'_>) -> Vec<Rejection> {
        match snapshot.with_nominated(info, self.pod) {
            Some(with) => self.rejections(&with),
            None => self.rejections(info),
        }
    }
}

fn unschedulable(spec: &PodSpec, node: &Node) -> Option<Rejection> {
    if !node.unschedulable {
        return None;
    }
    let cordon = Taint { key: UNSCHEDULABLE_TAINT.into(), effect: "NoSchedule".into(), ..Taint::default() };
    let is_tolerated = spec.tolerations.iter().any(|toleration| tolerates(toleration, &cordon));
    (!is_tolerated).then_some(Rejection::Unschedulable)
}

fn taken_port(spec: &PodSpec, info: &NodeInfo) -> Option<Rejection> {
    let wanted = spec.host_ports.as_slice();
    if wanted.is_empty() {
        return None;
    }
    info.pods.iter().find_map(|pod| {
        let port = wanted.iter().find(|port| pod.spec.host_ports.iter().any(|taken| conflict(port, taken)))?;
        Some(Rejection::PortTaken { port: port.clone(), by: pod.meta.key() })
    })
}

/// The same port of the same protocol, on the same address or on all addresses on one side.
pub(super) fn conflict(a: &HostPort, b: &HostPort) -> bool {
    const ALL: &str = "0.0.0.0";
    a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || &*a.ip == ALL || &*b.ip == ALL)
}

/// Whether two pods want the same port of their node.
pub fn ports_conflict(a: &PodSpec, b: &PodSpec) -> bool {
    a.host_ports.iter().any(|mine| b.host_ports.iter().any(|theirs| conflict(mine, theirs)))
}

/// Everything of which there is too little, as the plugin NodeResourcesFit lists it: what is not
/// asked for cannot be short.
fn shortages(spec: &PodSpec, info: &NodeInfo) -> Vec<Rejection> {
    let (wanted, taken, all) = (&spec.requests, &info.requested, &info.node.allocatable);
    let mut rejections = Vec::new();
    if info.pods.len() as i64 >= all.pods {
        rejections.push(Rejection::TooManyPods { allocatable: all.pods });
    }
    let mut check = |resource: &str, requested: i64, taken: i64, allocatable: i64| {
        let free = allocatable.saturating_sub(taken);
        if requested > 0 && requested > free {
            let shortage = Shortage { resource: resource.into(), requested, free, allocatable, holders: Vec::<(Key, i64)>::new() };
            rejections.push(Rejection::Insufficient(Box::new(shortage)));
        }
    };
    check("cpu", wanted.milli_cpu, taken.milli_cpu, all.milli_cpu);
    check("memory", wanted.memory, taken.memory, all.memory);
    check("ephemeral-storage", wanted.ephemeral_storage, taken.ephemeral_storage, all.ephemeral_storage);
    for (name, &requested) in &wanted.others {
        let amount = |of: &crate::model::Resources| of.others.get(name).copied().unwrap_or(0);
        check(name, requested, amount(taken), amount(all));
    }
    rejections
}
