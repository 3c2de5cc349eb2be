//! The same rules for people who ask: why is a pod not on a node, who has what it lacks, and who
//! would have to go.

use std::sync::Arc;

use super::filters::{Candidates, Filters, candidates};
use super::node_info::{NodeInfo, Snapshot};
use super::preemption::victims_on;
use super::queue::Queue;
use super::reason::{Rejection, Shortage};
use super::topology::Topology;
use crate::model::{Key, Node, Pod, Resources};
use crate::picture::Picture;

/// May the pod be on the node? The pod need not exist; one that is there already is looked at as if
/// it were not.
pub fn explain(picture: &Picture, pod: &Pod, node: &Node) -> Result<(), Rejection> {
    explain_all(picture, pod, node).into_iter().next().map_or(Ok(()), Err)
}

/// All reasons of the first rule that forbids the node; none when it is allowed. Looks at the whole
/// cluster.
pub fn explain_all(picture: &Picture, pod: &Pod, node: &Node) -> Vec<Rejection> {
    let question = Question { picture, pod, node };
    let Some((filters, info, snapshot)) = question.prepare() else { return vec![question.unnamed()] };
    let mut rejections = filters.rejections_with_nominated(&info, &snapshot);
    for rejection in &mut rejections {
        if let Rejection::Insufficient(shortage) = rejection {
            shortage.holders = holders(shortage, &info);
        }
    }
    rejections
}

/// The pods that would be evicted so that the pod fits, the most important first. None when it fits
/// anyway, when it may not evict, and when that would not help.
pub fn preemption_on(picture: &Picture, pod: &Pod, node: &Node) -> Option<Vec<Key>> {
    let (filters, info, snapshot) = Question { picture, pod, node }.prepare()?;
    let rejections = filters.rejections_with_nominated(&info, &snapshot);
    if pod.spec.never_preempts || rejections.is_empty() || !rejections.iter().all(Rejection::is_resolvable) {
        return None;
    }
    let candidate = victims_on(&filters, &info, &snapshot).ok()?;
    Some(candidate.victims.iter().map(|victim| victim.meta.key()).collect())
}

struct Question<'a> {
    picture: &'a Picture,
    pod: &'a Pod,
    node: &'a Node,
}

impl<'a> Question<'a> {
    /// None when the pod's affinity names other nodes, or the pod names one.
    fn prepare(&self) -> Option<(Filters<'a>, NodeInfo, Snapshot<'a>)> {
        let Question { picture, pod, node } = *self;
        let is_named = match candidates(pod) {
            Candidates::All => true,
            Candidates::Named(names) => names.contains(&node.meta.name),
            Candidates::None => false,
        };
        if !is_named || pod.node.as_ref().is_some_and(|name| *name != node.meta.name) {
            return None;
        }
        let queue = Queue::of(picture);
        let (mut snapshot, mut topology) = (Snapshot::new(picture, &queue), Topology::new(&queue));
        let filters = Filters::new(pod, &mut snapshot, &mut topology);
        let known = snapshot.load(&node.meta.name).then(|| snapshot.get(&node.meta.name).cloned()).flatten();
        let mut info = known.unwrap_or_else(|| NodeInfo::new(Arc::new(node.clone())));
        info.node = Arc::new(node.clone());
        info.remove(&pod.meta.key());
        Some((filters, info, snapshot))
    }

    fn unnamed(&self) -> Rejection {
        if self.pod.node.is_some() { Rejection::NodeName } else { Rejection::NotNamed }
    }
}

/// Which pods have how much of what there is too little of.
fn holders(shortage: &Shortage, info: &NodeInfo) -> Vec<(Key, i64)> {
    let amount = |requests: &Resources| match &*shortage.resource {
        "cpu" => requests.milli_cpu,
        "memory" => requests.memory,
        "ephemeral-storage" => requests.ephemeral_storage,
        other => requests.others.get(other).copied().unwrap_or(0),
    };
    let held = info.pods.iter().map(|pod| (pod.meta.key(), amount(pod.requests())));
    let mut holders: Vec<(Key, i64)> = held.filter(|(_, amount)| *amount > 0).collect();
    holders.sort_by(|(a, one), (b, other)| other.cmp(one).then_with(|| a.cmp(b)));
    holders
}
