//! A small cluster to play on: it carries plans out at once, its pods do what pods do, and time
//! passes when the test says so.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::daemonset::{Action, Because, Memory, Plan, daemon_pod, plan, view_of};
use crate::fixture::{now, picture};
use crate::history::HistoryAction;
use crate::model::{ControllerRevision, DaemonSet, Phase, Pod};
use crate::picture::{Kind, Object, Picture};

pub struct Stage {
    pub picture: Picture,
    pub memory: Memory,
    pub now: Timestamp,
    uids: u64,
}

impl Stage {
    /// From a text in the language of [`crate::fixture`].
    pub fn new(text: &str) -> Stage {
        Stage { picture: picture(text), memory: Memory::default(), now: now(), uids: 0 }
    }

    pub fn set(&self) -> Arc<DaemonSet> {
        self.picture.sets.values().next().expect("the text has a set").clone()
    }

    /// Changes the set as its owner would.
    pub fn edit(&mut self, how: impl FnOnce(&mut DaemonSet)) {
        let mut set = DaemonSet::clone(&self.set());
        how(&mut set);
        set.meta.generation += 1;
        self.picture.put(Object::DaemonSet(Arc::new(set)));
    }

    /// The template of a revision that did not exist before.
    pub fn update_to(&mut self, revision: &str) {
        self.edit(|set| set.template = Arc::new(crate::fixture::template(revision)));
    }

    pub fn plan(&self) -> Plan {
        plan(&view_of(&self.picture, &self.set(), self.now), self.memory.clone())
    }

    /// Plans, and does what was planned.
    pub fn sync(&mut self) -> Plan {
        let made = self.plan();
        self.apply(&made);
        made
    }

    pub fn apply(&mut self, made: &Plan) {
        self.memory = made.memory.clone();
        let set = self.set();
        for action in made.history.before.iter().chain(&made.history.after) {
            self.apply_history(&set, action);
        }
        for action in &made.actions {
            self.apply_action(&set, action);
        }
        let mut set = DaemonSet::clone(&set);
        set.status = made.status.clone();
        self.picture.put(Object::DaemonSet(Arc::new(set)));
    }

    fn apply_action(&mut self, set: &DaemonSet, action: &Action) {
        match action {
            Action::Adopt { pod, .. } => self.change(&pod.name, |pod| pod.meta.owner_references = reference(set)),
            Action::Release { pod, .. } => self.change(&pod.name, |pod| pod.meta.owner_references.clear()),
            Action::Create { node, name, hash } => {
                let mut pod: Pod = serde_json::from_value(daemon_pod(set, node, name, hash)).expect("planned pods are pods");
                self.uids += 1;
                pod.meta.uid = format!("made-{}", self.uids).into();
                pod.meta.creation_timestamp = Some(self.now);
                assert!(!self.picture.pods.contains_key(&pod.meta.key()), "{name} is there already");
                self.picture.put(Object::Pod(Arc::new(pod)));
            }
            Action::Delete { pod, uid, .. } => {
                let Some(there) = self.picture.pods.get(pod).filter(|there| there.meta.uid == *uid) else { return };
                if there.node.is_none() {
                    self.picture.remove(Kind::Pod, pod, 0);
                } else {
                    let now = self.now;
                    self.change(&pod.name, |pod| pod.meta.deletion_timestamp = Some(now));
                }
            }
        }
    }

    fn apply_history(&mut self, set: &DaemonSet, action: &HistoryAction) {
        let change = |picture: &mut Picture, key, how: &dyn Fn(&mut ControllerRevision)| {
            let mut revision = ControllerRevision::clone(&picture.revisions[key]);
            how(&mut revision);
            picture.put(Object::ControllerRevision(Arc::new(revision)));
        };
        match action {
            HistoryAction::Create { object, .. } => {
                let mut revision: ControllerRevision =
                    serde_json::from_value(serde_json::Value::clone(object)).expect("planned revisions are revisions");
                self.uids += 1;
                revision.meta.uid = format!("made-{}", self.uids).into();
                self.picture.put(Object::ControllerRevision(Arc::new(revision)));
            }
            HistoryAction::Adopt { revision, .. } => {
                change(&mut self.picture, revision, &|made| made.meta.owner_references = reference(set))
            }
            HistoryAction::Release { revision, .. } => change(&mut self.picture, revision, &|made| made.meta.owner_references.clear()),
            HistoryAction::Change { revision, patch } => change(&mut self.picture, revision, &|made| {
                made.revision = patch["revision"].as_i64().unwrap_or(made.revision);
            }),
            HistoryAction::Relabel { pod, hash, .. } => {
                self.change(&pod.name, |pod| pod.meta.labels.insert(crate::daemonset::HASH_LABEL, hash))
            }
            HistoryAction::Delete { revision, .. } => drop(self.picture.remove(Kind::ControllerRevision, revision, 0)),
        }
    }

    /// Changes a pod.
    pub fn change(&mut self, name: &str, how: impl FnOnce(&mut Pod)) {
        let mut pod = self.picture.pods.values().find(|pod| *pod.meta.name == *name).map(|pod| Pod::clone(pod)).expect("the pod is there");
        how(&mut pod);
        self.picture.put(Object::Pod(Arc::new(pod)));
    }

    fn names(&self, which: impl Fn(&Pod) -> bool) -> Vec<Arc<str>> {
        self.picture.pods.values().filter(|pod| which(pod)).map(|pod| pod.meta.name.clone()).collect()
    }

    /// Pods that are pinned to a node that is there are bound.
    pub fn bind(&mut self) {
        let nodes: Vec<Arc<str>> = self.picture.nodes.keys().cloned().collect();
        for name in self.names(|pod| pod.node.is_none() && pod.target_node().is_some_and(|node| nodes.contains(node))) {
            self.change(&name, |pod| pod.node = pod.pinned.clone());
        }
    }

    /// Pods that are bound and have not ended become ready.
    pub fn start(&mut self) {
        let now = self.now;
        for name in self.names(|pod| pod.node.is_some() && !pod.is_ready() && !pod.is_terminal() && !pod.meta.is_deleted()) {
            self.change(&name, |pod| {
                pod.status.phase = Phase::Running;
                pod.status.ready = Some((true, Some(now)));
            });
        }
    }

    /// Pods on their way out go, and the garbage collector takes those of nodes that are gone.
    pub fn end(&mut self) {
        let nodes: Vec<Arc<str>> = self.picture.nodes.keys().cloned().collect();
        let ends = |pod: &Pod| pod.meta.is_deleted() || pod.node.as_ref().is_some_and(|node| !nodes.contains(node));
        let keys: Vec<_> = self.picture.pods.values().filter(|pod| ends(pod)).map(|pod| pod.meta.key()).collect();
        for key in keys {
            self.picture.remove(Kind::Pod, &key, 0);
        }
    }

    pub fn ready_all(&mut self) {
        self.end();
        self.bind();
        self.start();
    }

    pub fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }
}

fn reference(set: &DaemonSet) -> Vec<crate::model::OwnerReference> {
    let owner = serde_json::from_value(crate::daemonset::owner_reference(set)).expect("a reference is a reference");
    vec![owner]
}

/// Numbers of pods made and deleted.
pub fn counts(plan: &Plan) -> (usize, usize) {
    let made = plan.actions.iter().filter(|action| matches!(action, Action::Create { .. })).count();
    (made, deletions(plan).count())
}

pub fn deletions(plan: &Plan) -> impl Iterator<Item = (&str, &Because)> {
    plan.actions.iter().filter_map(|action| match action {
        Action::Delete { pod, because, .. } => Some((&*pod.name, because)),
        _ => None,
    })
}

/// Nodes that get a pod and pods that go: `+a -p`.
pub fn told(plan: &Plan) -> String {
    let made = plan.actions.iter().filter_map(|action| match action {
        Action::Create { node, .. } => Some(format!("+{node}")),
        _ => None,
    });
    let mut words: Vec<String> = made.chain(deletions(plan).map(|(pod, _)| format!("-{pod}"))).collect();
    words.sort();
    words.join(" ")
}
