//! Which daemon pods should exist: one on every eligible node, none elsewhere, of the current
//! revision as fast as the update strategy allows; and what the set's status says about it.
//!
//! [`plan`] sees one set, the nodes, the set's pods and revisions, the time, and what it remembered
//! from its last plan ([`Memory`]). It returns actions, the status, one reason for each node, and
//! when to look again. It follows Kubernetes' DaemonSet controller (`pkg/controller/daemon`) rule
//! by rule; where it is better on purpose, docs/kubernetes-differences.md says so.

mod claim;
mod controller;
mod node;
mod pod;
mod rollout;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::history::{self, HistoryPlan};
use crate::model::{ControllerRevision, DaemonSet, DaemonSetStatus, Key, Node, Pod, PodSpec};
use crate::placement::Misfit;

pub use controller::{DaemonSetController, view_of, work};
pub use node::{Backoff, Eligibility, eligibility};
pub use pod::{daemon_pod, owner_reference, pod_name, running_spec};
pub use rollout::Budget;

/// Creations and deletions of one plan. Upstream stops at 250 to spare the server; here it bounds
/// how old the status may get.
pub const ACTIONS_MAX: usize = 500;

/// Everything that one decision may look at.
#[derive(Debug, Clone)]
pub struct View<'a> {
    pub now: Timestamp,
    pub set: &'a DaemonSet,
    /// By name.
    pub nodes: &'a BTreeMap<Arc<str>, Arc<Node>>,
    /// The pods that the set controls, and those of its namespace without a controller, by key.
    pub pods: Vec<&'a Pod>,
    /// All pods of the cluster: whose names are taken.
    pub names: &'a BTreeMap<Key, Arc<Pod>>,
    /// The revisions that the set controls, those of its namespace without a controller, and any
    /// whose name begins with the set's.
    pub revisions: Vec<&'a ControllerRevision>,
}

/// What a set's plans remember from one to the next. Losing it (a restart) costs some pauses, never
/// correctness.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Memory {
    /// Pauses of nodes whose pods failed.
    pub backoff: BTreeMap<Arc<str>, Backoff>,
    /// The last pod made for each node.
    pub made: BTreeMap<Arc<str>, Made>,
    /// Nodes whose last pod was not seen yet.
    pub unseen: BTreeSet<Arc<str>>,
    /// Uids of the pods that were to be replaced and that the picture still shows alive: the
    /// controller does not know whether the server accepted their deletion. No plan counts on them,
    /// and they are the next to be replaced: another choice might be one deletion too many.
    pub doomed: BTreeSet<Arc<str>>,
    /// The pods that were there before the first plan were noted.
    pub begun: bool,
}

/// The last pod that was planned for a node. Until it was seen, planning again gives the same name.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    pub attempt: u32,
    pub name: Arc<str>,
}

/// What to do, what to report, and why.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    pub history: HistoryPlan,
    pub actions: Vec<Action>,
    pub status: DaemonSetStatus,
    /// One for each node that exists or that has pods of the set, by name.
    pub notes: Vec<Note>,
    pub memory: Memory,
    /// Look again at that time, even if nothing changes.
    pub wake_at: Option<Timestamp>,
    /// The plan was cut at [`ACTIONS_MAX`].
    pub more: bool,
    /// Numbers of the rolling update.
    pub budget: Budget,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Adopt {
        pod: Key,
        uid: Arc<str>,
    },
    Release {
        pod: Key,
        uid: Arc<str>,
    },
    Create {
        node: Arc<str>,
        name: Arc<str>,
        hash: Arc<str>,
    },
    /// The uid protects a successor of the same name.
    Delete {
        pod: Key,
        uid: Arc<str>,
        node: Option<Arc<str>>,
        because: Because,
    },
}

/// Why a pod is deleted.
#[derive(Debug, Clone, PartialEq)]
pub enum Because {
    /// It may not stay on its node.
    Misfit(Misfit),
    Failed,
    Succeeded,
    /// Another pod of the set is on the node; the oldest stays.
    Duplicate,
    /// It is of an old revision, and the budget allows it.
    Outdated,
    /// It is of an old revision and was not available anyway.
    OutdatedAndUnavailable,
    /// Its successor is available.
    Surged,
    /// It waits for a node that does not exist.
    NodeGone,
}

impl Because {
    /// Whether the pod makes room for one of the current revision: then it counts against the
    /// budget of the rollout.
    pub fn is_replacement(&self) -> bool {
        match self {
            Because::Outdated | Because::OutdatedAndUnavailable | Because::Surged => true,
            Because::Misfit(_) | Because::Failed | Because::Succeeded | Because::Duplicate | Because::NodeGone => false,
        }
    }
}

/// What holds for a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    pub node: Arc<str>,
    pub verdict: Verdict,
    /// The pods of the set there, oldest first.
    pub pods: Vec<Key>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Runs a pod of the current revision.
    Updated { available: bool },
    /// Runs a pod of an old revision that waits for its turn, or for its deletion with OnDelete.
    Outdated { available: bool },
    /// A pod is being made.
    Creating,
    /// The pod is being deleted for this reason.
    Deleting(Because),
    /// The pod there is on its way out and is waited for.
    Terminating,
    /// The pod there failed; it is tried again at that time.
    BackingOff { until: Timestamp },
    /// No pod, and none to be.
    NotEligible(Misfit),
    /// A pod that would not be started there, but may stay.
    Misscheduled(Misfit),
    /// The node is gone, its pods are left to the pod garbage collector.
    NodeGone,
    /// More is to be done than one plan holds.
    Queued,
}

/// Decides for one set. `memory` is what the plan before returned.
pub fn plan(view: &View<'_>, memory: Memory) -> Plan {
    let mut plan = Plan { status: view.set.status.clone(), memory, ..Plan::default() };
    // A set that is being deleted gets nothing, loses nothing: the garbage collector follows the
    // owner references.
    if view.set.meta.is_deleted() || view.set.selector.is_everything() {
        return plan;
    }
    let pods = claim::claim(view, &mut plan.actions);
    plan.history = history::plan(view.set, &view.revisions, &pods);
    if let Some(count) = plan.history.collision() {
        // First the next hash must be agreed on; pods with no revision would belong to no set.
        plan.status.collision_count = Some(count);
        plan.actions.clear();
        plan.more = true;
        return plan;
    }
    if plan.history.relabels() {
        // Pods are about to become pods of the current revision: judging them before that would
        // replace them.
        plan.more = true;
        return plan;
    }
    let hash = plan.history.hash().clone();
    let spec = running_spec(&view.set.template_spec);
    let by_node = pods_by_node(&pods);
    let old_hashes = plan.history.old_hashes.clone();
    let context = Context { view, hash: &hash, old_hashes: &old_hashes, sites: sites(view, &spec, &by_node) };
    plan.memory.note_pods(&context.sites);
    node::plan_nodes(&context, &mut plan);
    rollout::plan_rollout(&context, &mut plan);
    plan.doom();
    status::count(&context, &mut plan);
    plan
}

/// What the parts of a plan share.
pub(crate) struct Context<'a> {
    pub view: &'a View<'a>,
    /// Of the current revision.
    pub hash: &'a str,
    /// Of the others.
    pub old_hashes: &'a BTreeSet<Arc<str>>,
    pub sites: Vec<Site<'a>>,
}

/// A node, or the name of one that pods are on and that does not exist.
pub(crate) struct Site<'a> {
    pub name: &'a Arc<str>,
    pub node: Option<(&'a Node, Eligibility)>,
    /// Oldest first.
    pub pods: &'a [&'a Pod],
}

impl Site<'_> {
    /// Should the node run a pod?
    pub fn is_wanted(&self) -> bool {
        matches!(self.node, Some((_, Eligibility::Runs)))
    }

    pub fn is_ready(&self) -> bool {
        self.node.as_ref().is_some_and(|(node, _)| node.is_ready())
    }

    pub fn live_pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().copied().filter(|pod| !pod.meta.is_deleted())
    }
}

/// All nodes and all names of nodes that pods are on, by name.
fn sites<'a>(view: &View<'a>, spec: &PodSpec, by_node: &'a PodsByNode<'a>) -> Vec<Site<'a>> {
    let wanted = view.set.template_node();
    let mut sites = Vec::with_capacity(view.nodes.len());
    let mut pods = by_node.iter().peekable();
    let ghost = |name: &'a Arc<str>, pods: &'a Vec<&'a Pod>| Site { name, node: None, pods };
    for (name, node) in view.nodes {
        while let Some((gone, pods)) = pods.next_if(|(other, _)| **other < name) {
            sites.push(ghost(gone, pods));
        }
        let here = pods.next_if(|(other, _)| **other == name);
        let node: &Node = node;
        let pods = here.map_or(&[][..], |(_, pods)| pods.as_slice());
        sites.push(Site { name, node: Some((node, eligibility(spec, wanted, node))), pods });
    }
    sites.extend(pods.map(|(gone, pods)| ghost(gone, pods)));
    sites
}

impl Context<'_> {
    /// Is the pod of the current revision? One whose hash no revision of the set has counts as such
    /// when its template generation is the set's. Upstream looks at the generation first: a set
    /// that is made anew begins to count at one, and would take the pods that another set of the
    /// same selector left for its own, whatever they run.
    pub fn is_updated(&self, pod: &Pod) -> bool {
        match pod.meta.labels.get(HASH_LABEL) {
            Some(hash) if !self.hash.is_empty() && hash == self.hash => true,
            Some(hash) if self.old_hashes.contains(hash) => false,
            _ => {
                let generation = self.view.set.template_generation();
                generation.is_some() && pod.meta.labels.get(GENERATION_LABEL) == generation
            }
        }
    }

    pub fn is_available(&self, pod: &Pod) -> bool {
        pod.is_available(self.view.set.min_ready_seconds, self.view.now)
    }
}

impl Plan {
    /// Adds a deletion, unless the pod is on its way out already or the plan is full.
    pub(crate) fn delete(&mut self, pod: &Pod, because: Because) {
        if pod.meta.is_deleted() || self.deletes(&pod.meta.uid) {
            return;
        }
        if self.is_full() {
            self.more = true;
            return;
        }
        let action = Action::Delete { pod: pod.meta.key(), uid: pod.meta.uid.clone(), node: pod.target_node().cloned(), because };
        self.actions.push(action);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.actions.len() >= ACTIONS_MAX
    }

    /// Remembers what it takes away for the sake of a new revision.
    fn doom(&mut self) {
        for action in &self.actions {
            if let Action::Delete { uid, because, .. } = action
                && because.is_replacement()
            {
                self.memory.doomed.insert(uid.clone());
            }
        }
    }

    fn deletes(&self, uid: &str) -> bool {
        // Only the last few can be of the same node; a pod is asked for once by each part of the
        // plan.
        self.actions.iter().rev().any(|action| matches!(action, Action::Delete { uid: other, .. } if **other == *uid))
    }

    pub(crate) fn wake_no_later_than(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// The label with the hash of a pod's revision.
pub const HASH_LABEL: &str = "controller-revision-hash";

/// The label with the template's generation at the pod's creation.
pub const GENERATION_LABEL: &str = "pod-template-generation";

type PodsByNode<'a> = BTreeMap<&'a Arc<str>, Vec<&'a Pod>>;

/// Pods by the node they are on or meant for. Leaves out pods that ended and are being deleted:
/// others finish their deletion.
fn pods_by_node<'a>(pods: &[&'a Pod]) -> PodsByNode<'a> {
    let mut by_node: PodsByNode<'a> = BTreeMap::new();
    for &pod in pods {
        if let Some(node) = pod.target_node().filter(|_| !(pod.is_terminal() && pod.meta.is_deleted())) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    for pods in by_node.values_mut().filter(|pods| pods.len() > 1) {
        pods.sort_by_key(|pod| seniority(pod));
    }
    by_node
}

/// Pods that have a node come first, then the older ones.
fn seniority(pod: &Pod) -> (bool, Option<Timestamp>, Arc<str>) {
    (pod.node.is_none(), pod.meta.creation_timestamp, pod.meta.name.clone())
}

#[cfg(test)]
mod tests;
