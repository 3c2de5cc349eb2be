//! Which pod is next, and which pods wait for what.
//!
//! A pod of ours without a node is active (its turn comes), in backoff (its turn comes later), or
//! waiting: it fitted nowhere, and nothing changed since that could help. What helps, coarser than
//! in Kubernetes, which asks each plugin:
//!  - a node that came, or whose labels, taints, cordon or allocatable changed: every pod that
//!    could be on that node;
//!  - a pod that left a node, ended, or was nominated there and is no more: pods that lack ports or
//!    resources there, and pods with rules about other pods;
//!  - a pod that came to a node, changed labels or is being deleted, or a namespace that changed:
//!    pods with rules about other pods;
//!  - the pod itself, when its spec or labels changed;
//!  - five minutes.
//!
//! Waiting pods that can only be on one node are found by that node. Unlike Kubernetes since 1.33,
//! which takes pods out of the backoff when it has nothing else to do, the backoff is always kept.
//!
//! The queue also keeps what plans need and the picture of the cluster lacks: pods that were bound
//! and are not seen as bound yet ("assumed"), nominations by node, and which pods repel others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::nominations::Nominations;
use super::reason::Causes;
use super::{Nomination, Plan, Unschedulable, is_ours, takes_space};
use crate::model::{Key, Labels, Node, Pod, PodSpec};
use crate::picture::{Change, Object, Picture};

/// The pause after an attempt that failed, doubling between these: `podInitialBackoffSeconds`,
/// `podMaxBackoffSeconds`.
const BACKOFF_MIN: SignedDuration = SignedDuration::from_secs(1);
const BACKOFF_MAX: SignedDuration = SignedDuration::from_secs(10);
const BACKOFF_DOUBLINGS_MAX: u32 = 4;

/// How long a pod waits when nothing happens: `podMaxInUnschedulablePodsDuration`.
const WAIT_MAX: SignedDuration = SignedDuration::from_secs(5 * 60);

/// How long a binding may take to be seen. Bindings that were refused are tried again after that.
const ASSUMED_MAX: SignedDuration = SignedDuration::from_secs(10);

/// Highest priority first, then the oldest, then by key.
type Order = (Reverse<i32>, Option<Timestamp>, Key);

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    uid: Arc<str>,
    order: Order,
    /// The only node it can be on.
    pinned: Option<Arc<str>>,
    /// With the labels, what decides whether an update makes a new attempt sensible.
    spec: Arc<PodSpec>,
    labels: Labels,
    attempts: u32,
    last_failure: Option<Timestamp>,
    causes: Causes,
    message: String,
    state: EntryState,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum EntryState {
    Active,
    Backoff { until: Timestamp },
    Waiting { until: Timestamp },
}

impl Entry {
    fn new(pod: &Pod) -> Entry {
        Entry {
            uid: pod.meta.uid.clone(),
            order: (Reverse(pod.spec.priority), pod.meta.creation_timestamp, pod.meta.key()),
            pinned: pod.pinned.clone(),
            spec: pod.spec.clone(),
            labels: pod.meta.labels.clone(),
            attempts: 0,
            last_failure: None,
            causes: Causes::default(),
            message: String::new(),
            state: EntryState::Active,
        }
    }

    /// The node whose changes are all that can help it.
    fn waits_for(&self) -> Option<&Arc<str>> {
        self.pinned.as_ref().filter(|_| !self.causes.topology)
    }

    fn backoff_ends(&self) -> Option<Timestamp> {
        let doublings = self.attempts.saturating_sub(1).min(BACKOFF_DOUBLINGS_MAX);
        Some(self.last_failure? + (BACKOFF_MIN * (1 << doublings)).min(BACKOFF_MAX))
    }
}

/// A pod that a plan bound.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Assumption {
    pub uid: Arc<str>,
    pub node: Arc<str>,
    until: Timestamp,
}

/// What happened since the last [`Queue::advance`].
#[derive(Debug, Clone, PartialEq, Default)]
struct Happened {
    /// Nodes that came or changed.
    changed: BTreeSet<Arc<str>>,
    /// Nodes on which something became free.
    freed: BTreeSet<Arc<str>>,
    /// Pods or namespaces changed in a way that rules about other pods could see.
    moved: bool,
}

impl Happened {
    fn is_nothing(&self) -> bool {
        self.changed.is_empty() && self.freed.is_empty() && !self.moved
    }

    /// Could it help a pod that is not bound to one node?
    fn helps(&self, causes: Causes) -> bool {
        !self.changed.is_empty() || (!self.freed.is_empty() && (causes.space || causes.topology)) || (self.moved && causes.topology)
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Queue {
    entries: BTreeMap<Key, Entry>,
    active: BTreeSet<Order>,
    /// When pods in backoff and waiting pods are due.
    timers: BTreeSet<(Timestamp, Key)>,
    /// Waiting pods that only one node can help.
    waiting_on: BTreeMap<Arc<str>, BTreeSet<Key>>,
    waiting_anywhere: BTreeSet<Key>,
    happened: Happened,
    assumed: BTreeMap<Key, Assumption>,
    nominated: Nominations,
    repelling: BTreeSet<Key>,
    next_start: usize,
}

impl Queue {
    /// The queue of a cluster that no scheduler followed until now.
    pub fn of(picture: &Picture) -> Queue {
        let mut queue = Queue::default();
        for pod in picture.pods.values() {
            queue.observe_pod(None, Some(pod));
        }
        queue
    }

    /// Takes in what a change means for pods without nodes.
    pub fn observe(&mut self, change: &Change) {
        match (&change.old, &change.new) {
            (Some(Object::Pod(old)), Some(Object::Pod(new))) => self.observe_pod(Some(old), Some(new)),
            (Some(Object::Pod(old)), None) => self.observe_pod(Some(old), None),
            (None, Some(Object::Pod(new))) => self.observe_pod(None, Some(new)),
            (old, Some(Object::Node(new))) => {
                let old = old.as_ref().and_then(|old| if let Object::Node(old) = old { Some(old) } else { None });
                if old.is_none_or(|old| differs(old, new)) {
                    self.happened.changed.insert(new.meta.name.clone());
                }
            }
            (Some(Object::Namespace(old)), Some(Object::Namespace(new))) => self.happened.moved |= old.meta.labels != new.meta.labels,
            (Some(Object::Node(_)), None) | (None, Some(Object::Namespace(_))) => self.happened.moved = true,
            _ => {}
        }
        if self.waiting_on.is_empty() && self.waiting_anywhere.is_empty() {
            self.happened = Happened::default();
        }
    }

    fn observe_pod(&mut self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        let Some(key) = new.or(old).map(|pod| pod.meta.key()) else { return };
        let was_there = old.filter(|old| takes_space(old));
        let is_there = new.filter(|new| takes_space(new));
        if let Some(old) = was_there {
            let keeps = |new: &&Arc<Pod>| new.meta.uid == old.meta.uid && new.node == old.node && new.requests() == old.requests();
            if !is_there.is_some_and(|new| keeps(&new)) {
                self.happened.freed.extend(old.node.clone());
            }
        }
        self.happened.moved |= was_there.map(seen_by_others) != is_there.map(seen_by_others);
        if new.is_some_and(|new| !new.spec.pod_anti_affinity.is_empty()) {
            self.repelling.insert(key.clone());
        } else {
            self.repelling.remove(&key);
        }
        self.observe_nomination(&key, old, new);
        if self.assumed.get(&key).is_some_and(|assumption| !new.is_some_and(|new| is_ours(new) && new.meta.uid == assumption.uid)) {
            self.end_assumption(&key, is_there.is_some());
        }
        match new.filter(|new| is_ours(new)) {
            Some(new) if !self.assumed.contains_key(&key) => self.observe_unbound(key, new),
            _ => self.forget(&key),
        }
    }

    fn end_assumption(&mut self, key: &Key, is_bound: bool) {
        if let Some(assumption) = self.assumed.remove(key) {
            self.timers.remove(&(assumption.until, key.clone()));
            if !is_bound {
                self.happened.freed.insert(assumption.node);
            }
        }
    }

    /// A nomination that ends makes room for less important pods.
    fn observe_nomination(&mut self, key: &Key, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        let before = old.and_then(|old| old.status.nominated_node.as_ref());
        let now = new.filter(|new| is_ours(new)).and_then(|new| new.status.nominated_node.as_ref());
        if let Some(node) = before.filter(|node| Some(*node) != now) {
            self.happened.freed.insert(node.clone());
        }
        if before != now || new.is_none_or(|new| !is_ours(new)) {
            self.nominated.set(key, now);
        }
    }

    fn observe_unbound(&mut self, key: Key, pod: &Arc<Pod>) {
        if let Some(entry) = self.entries.get(&key).filter(|entry| entry.uid == pod.meta.uid) {
            let is_same = (Arc::ptr_eq(&entry.spec, &pod.spec) || entry.spec == pod.spec) && entry.labels == pod.meta.labels;
            if is_same && entry.pinned == pod.pinned {
                return;
            }
            let Entry { attempts, last_failure, message, .. } = entry.clone();
            self.forget(&key);
            let entry = Entry { attempts, last_failure, message, ..Entry::new(pod) };
            let state = entry.backoff_ends().map_or(EntryState::Active, |until| EntryState::Backoff { until });
            self.entries.insert(key.clone(), entry);
            self.enter(&key, state);
        } else {
            self.forget(&key);
            self.entries.insert(key.clone(), Entry::new(pod));
            self.enter(&key, EntryState::Active);
        }
    }

    /// Puts an entry that is in none of the sets into those of a state.
    fn enter(&mut self, key: &Key, state: EntryState) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.state = state;
        match state {
            EntryState::Active => {
                self.active.insert(entry.order.clone());
            }
            EntryState::Backoff { until } => {
                self.timers.insert((until, key.clone()));
            }
            EntryState::Waiting { until } => {
                self.timers.insert((until, key.clone()));
                match entry.waits_for() {
                    Some(node) => self.waiting_on.entry(node.clone()).or_default().insert(key.clone()),
                    None => self.waiting_anywhere.insert(key.clone()),
                };
            }
        }
    }

    /// Takes an entry out of the sets of its state.
    fn leave(&mut self, key: &Key) {
        let Some(entry) = self.entries.get(key) else { return };
        match entry.state {
            EntryState::Active => {
                self.active.remove(&entry.order);
            }
            EntryState::Backoff { until } => {
                self.timers.remove(&(until, key.clone()));
            }
            EntryState::Waiting { until } => {
                self.timers.remove(&(until, key.clone()));
                self.waiting_anywhere.remove(key);
                if let Some(node) = entry.waits_for()
                    && let Some(keys) = self.waiting_on.get_mut(node)
                {
                    keys.remove(key);
                    if keys.is_empty() {
                        self.waiting_on.remove(node);
                    }
                }
            }
        }
    }

    fn forget(&mut self, key: &Key) {
        self.leave(key);
        self.entries.remove(key);
    }

    /// Brings the queue to a time: pods that are due become active, and pods that events helped
    /// too, unless a backoff keeps them.
    pub fn advance(&mut self, picture: &Picture, now: Timestamp) {
        let happened = std::mem::take(&mut self.happened);
        for key in self.helped(&happened) {
            self.wake(&key, now);
        }
        while let Some((_, key)) = self.timers.first().filter(|(at, _)| *at <= now).cloned() {
            if self.assumed.contains_key(&key) {
                self.end_assumption(&key, false);
                match picture.pods.get(&key).filter(|pod| is_ours(pod)) {
                    Some(pod) => self.observe_unbound(key, pod),
                    None => self.forget(&key),
                }
            } else {
                self.leave(&key);
                self.enter(&key, EntryState::Active);
            }
        }
    }

    fn helped(&self, happened: &Happened) -> Vec<Key> {
        if happened.is_nothing() {
            return Vec::new();
        }
        let on = |node: &Arc<str>| self.waiting_on.get(node).into_iter().flatten();
        let causes = |key: &Key| self.entries.get(key).map(|entry| entry.causes).unwrap_or_default();
        let changed = happened.changed.iter().flat_map(on);
        let freed = happened.freed.iter().flat_map(on).filter(|key| causes(key).space);
        let anywhere = self.waiting_anywhere.iter().filter(|key| happened.helps(causes(key)));
        changed.chain(freed).chain(anywhere).cloned().collect::<BTreeSet<Key>>().into_iter().collect()
    }

    /// Ends the waiting of a pod.
    fn wake(&mut self, key: &Key, now: Timestamp) {
        let Some(entry) = self.entries.get(key).filter(|entry| matches!(entry.state, EntryState::Waiting { .. })) else { return };
        let until = entry.backoff_ends().filter(|until| *until > now);
        self.leave(key);
        self.enter(key, until.map_or(EntryState::Active, |until| EntryState::Backoff { until }));
    }

    /// Takes in what a plan decided: bound pods are assumed to be bound, the others wait.
    pub fn finish(&mut self, plan: &Plan, now: Timestamp) {
        self.next_start = plan.next_start;
        plan.gone.iter().for_each(|key| self.forget(key));
        for binding in &plan.bindings {
            self.forget(&binding.key);
            self.nominated.set(&binding.key, None);
            let assumption = Assumption { uid: binding.uid.clone(), node: binding.node.clone(), until: now + ASSUMED_MAX };
            self.timers.insert((assumption.until, binding.key.clone()));
            self.assumed.insert(binding.key.clone(), assumption);
        }
        for unschedulable in &plan.unschedulable {
            self.fail(unschedulable, now);
        }
        for displaced in plan.preemptions.iter().flat_map(|preemption| &preemption.displaced) {
            self.nominated.set(displaced, None);
            self.wake(displaced, now);
        }
    }

    fn fail(&mut self, unschedulable: &Unschedulable, now: Timestamp) {
        let key = &unschedulable.key;
        self.leave(key);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.attempts += 1;
            entry.last_failure = Some(now);
            entry.causes = unschedulable.causes;
            entry.message.clone_from(&unschedulable.message);
        }
        self.enter(key, EntryState::Waiting { until: now + WAIT_MAX });
        match &unschedulable.nomination {
            Nomination::Keep => {}
            Nomination::Clear => self.nominated.set(key, None),
            Nomination::To(node) => self.nominated.set(key, Some(node)),
        }
    }

    /// The pods whose turn it is, in order.
    pub(super) fn active(&self) -> impl Iterator<Item = &Key> {
        self.active.iter().map(|(_, _, key)| key)
    }

    /// Is there anything that a plan could decide without waiting for a time?
    pub fn is_pressing(&self) -> bool {
        !self.active.is_empty() || !self.happened.is_nothing()
    }

    /// Where the pods in the queue are: active, in backoff, waiting.
    pub fn lengths(&self) -> [usize; 3] {
        let waiting = self.waiting_anywhere.len() + self.waiting_on.values().map(BTreeSet::len).sum::<usize>();
        [self.active.len(), self.entries.len() - self.active.len() - waiting, waiting]
    }

    /// The next time at which a pod is due, once the plan is taken in.
    pub(super) fn next_wake_after(&self, plan: &Plan, now: Timestamp) -> Option<Timestamp> {
        let due = self.timers.first().map(|(at, _)| *at);
        let waiting = (!plan.unschedulable.is_empty()).then(|| now + WAIT_MAX);
        let assumed = (!plan.bindings.is_empty()).then(|| now + ASSUMED_MAX);
        due.into_iter().chain(waiting).chain(assumed).min()
    }

    /// What was said of a pod the last time.
    pub(super) fn last_message(&self, key: &Key) -> Option<&str> {
        self.entries.get(key).map(|entry| &*entry.message)
    }

    pub(super) fn assumptions(&self) -> impl Iterator<Item = (&Key, &Assumption)> {
        self.assumed.iter()
    }

    pub(super) fn nominations(&self) -> &Nominations {
        &self.nominated
    }

    /// The pods with required anti-affinity.
    pub(super) fn repelling(&self) -> impl Iterator<Item = &Key> {
        self.repelling.iter()
    }

    pub(super) fn next_start(&self) -> usize {
        self.next_start
    }
}

/// What rules about other pods see of a pod on a node.
fn seen_by_others(pod: &Arc<Pod>) -> (&Arc<str>, Option<&Arc<str>>, &Labels, bool) {
    (&pod.meta.uid, pod.node.as_ref(), &pod.meta.labels, pod.meta.is_deleted())
}

/// Did something change on a node that filters look at? Heartbeats, conditions and addresses are
/// not among it.
fn differs(old: &Node, new: &Node) -> bool {
    old.meta.uid != new.meta.uid
        || old.meta.labels != new.meta.labels
        || old.unschedulable != new.unschedulable
        || old.taints != new.taints
        || old.allocatable != new.allocatable
}
