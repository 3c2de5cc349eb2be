//! The scheduler: which node a pod gets.
//!
//! [`plan`] takes a [`View`] of the cluster with the [`Queue`] of pods that wait for a node, and
//! returns a [`Plan`]: bindings, pods that fit nowhere with the text that says why, and
//! preemptions. It behaves as the default
//! scheduler of Kubernetes 1.36; where it differs on purpose, the file that does says so. It
//! refuses to know volumes, images and resource claims: the model has none.
//!
//! Reading order: `reason` (why not), `node_info` (what is on nodes), `filters` (may the pod be
//! there), `topology` (what the filters need to know of other nodes), `scores` (where best),
//! `preemption` (who would have to go), `cycle` (one pod), `queue` (which pod, and when again),
//! `controller` (plans as requests), `explain` (the same for people who ask).

mod controller;
mod cycle;
mod explain;
mod filters;
mod node_info;
mod nominations;
mod preemption;
mod queue;
mod reason;
mod scores;
mod topology;

use std::sync::Arc;

use jiff::Timestamp;

use crate::model::{Key, Pod};
use crate::picture::Picture;

pub use controller::Scheduler;
pub use explain::{explain, explain_all, preemption_on};
pub use filters::ports_conflict;
pub use node_info::NodeInfo;
pub use queue::Queue;
pub use reason::{Causes, Reasons, Rejection, Shortage};
pub use scores::Score;

use cycle::Cycle;

/// The scheduler that pods get who name none.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// Everything a plan may look at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub picture: &'a Picture,
    pub now: Timestamp,
    /// Brought to `now` with [`Queue::advance`].
    pub queue: &'a Queue,
    /// How many pods the plan may decide on.
    pub limit: usize,
}

/// What to do, with reasons. [`Queue::finish`] takes it into the queue.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    pub bindings: Vec<Binding>,
    /// Preemptors are among these too: they wait for their victims to go.
    pub unschedulable: Vec<Unschedulable>,
    pub preemptions: Vec<Preemption>,
    /// Plan again at that time, even if nothing changes.
    pub wake_at: Option<Timestamp>,
    /// There are more pods than the limit.
    pub more: bool,
    /// Pods that the queue has and that are not to be scheduled any more.
    pub gone: Vec<Key>,
    /// The node at which the next search among many nodes begins.
    pub next_start: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    pub key: Key,
    pub uid: Arc<str>,
    pub node: Arc<str>,
    /// None when there was no choice.
    pub score: Option<Score>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Unschedulable {
    pub key: Key,
    pub uid: Arc<str>,
    /// Of the condition and the event.
    pub message: String,
    /// How many nodes refuse the pod for what.
    pub reasons: Reasons,
    /// What has to change before a new attempt makes sense.
    pub causes: Causes,
    pub nomination: Nomination,
}

/// What becomes of `status.nominatedNodeName`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nomination {
    Keep,
    Clear,
    To(Arc<str>),
}

/// Pods that have to go from a node so that a more important one fits.
#[derive(Debug, Clone, PartialEq)]
pub struct Preemption {
    pub preemptor: Key,
    pub preemptor_uid: Arc<str>,
    pub node: Arc<str>,
    /// The most important first. Those that are being deleted already are not listed.
    pub victims: Vec<Victim>,
    /// Less important pods that were nominated to the node: their nomination ends.
    pub displaced: Vec<Key>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    pub key: Key,
    pub uid: Arc<str>,
}

/// Does the pod take something of the node it is bound to? It does until it is gone or all its
/// containers have ended.
fn takes_space(pod: &Pod) -> bool {
    pod.node.is_some() && !pod.is_terminal()
}

/// Is it ours to find a node for the pod? Gated pods, deleted ones and those of other schedulers
/// are not.
pub fn is_ours(pod: &Pod) -> bool {
    pod.node.is_none()
        && *pod.spec.scheduler_name == *DEFAULT_SCHEDULER
        && pod.spec.scheduling_gates.is_empty()
        && !pod.meta.is_deleted()
        && !pod.is_terminal()
}

/// Decides on the pods whose turn it is, one after the other; earlier decisions count for later
/// pods.
pub fn plan(view: &View<'_>) -> Plan {
    let mut turn = view.queue.active().peekable();
    let mut plan = Plan { next_start: view.queue.next_start(), ..Plan::default() };
    if turn.peek().is_some() {
        let mut cycle = Cycle::new(view);
        let mut gone = Vec::new();
        for key in turn.by_ref().take(view.limit) {
            match view.picture.pods.get(key).filter(|pod| is_ours(pod)) {
                Some(pod) => cycle.schedule(pod),
                None => gone.push(key.clone()),
            }
        }
        plan = Plan { more: turn.peek().is_some(), gone, ..cycle.into_plan() };
    }
    plan.wake_at = view.queue.next_wake_after(&plan, view.now);
    plan
}

#[cfg(test)]
mod tests;
