//! From the model's values to what the decider sees, and back. Objects are made once and shared,
//! plans are remembered: a plan is a function of the picture and the memory, and most states of the
//! model share both with others.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::SignedDuration;

use super::controller::{Memory, Planned, PlannedWrite, Why};
use super::world::{Event, Id, NODE_NAMES, NODES_MAX, Name, Node, Objects, Owner, Phase, Pod, Set, Taint};
use crate::controller::Controller as _;
use crate::daemonset::{Action, Backoff, Because, DaemonSetController, HASH_LABEL, Made, Plan, View, plan};
use crate::fixture::{at, daemon_set, node, now, pod, revision, template};
use crate::history::{HistoryAction, template_hash};
use crate::model::{ControllerRevision, DaemonSet, Key, UpdateStrategy};
use crate::picture::{Change, Object, Picture};

/// Keeps what was translated.
pub struct Translator {
    words: Vec<&'static str>,
    names: RefCell<Vec<Arc<str>>>,
    pods: RefCell<HashMap<Pod, Arc<crate::model::Pod>>>,
    nodes: RefCell<HashMap<(u8, Node), Arc<crate::model::Node>>>,
    sets: RefCell<HashMap<Set, Arc<DaemonSet>>>,
    revisions: RefCell<HashMap<(u8, u8), Arc<ControllerRevision>>>,
    plans: RefCell<HashMap<(Objects, Memory), Arc<Planned>>>,
    concerns: RefCell<HashMap<(Event, Event, Set), bool>>,
}

impl Translator {
    /// `words` are those of the set in the language of [`crate::fixture`].
    pub fn new(words: &[&'static str]) -> Translator {
        Translator {
            words: words.to_vec(),
            names: RefCell::default(),
            pods: RefCell::default(),
            nodes: RefCell::default(),
            sets: RefCell::default(),
            revisions: RefCell::default(),
            plans: RefCell::default(),
            concerns: RefCell::default(),
        }
    }

    pub fn name(&self, text: &str) -> Name {
        let mut names = self.names.borrow_mut();
        let at = names.iter().position(|name| **name == *text).unwrap_or_else(|| {
            names.push(text.into());
            names.len() - 1
        });
        Name(u16::try_from(at).expect("the model has few pods"))
    }

    pub fn text(&self, name: Name) -> Arc<str> {
        self.names.borrow()[usize::from(name.0)].clone()
    }

    /// The decider's plan for a picture.
    pub fn plan(&self, seen: &Objects, memory: &Memory) -> Arc<Planned> {
        let key = (seen.clone(), memory.clone());
        if let Some(known) = self.plans.borrow().get(&key) {
            return known.clone();
        }
        let planned = Arc::new(self.plan_anew(seen, memory));
        self.plans.borrow_mut().insert(key, planned.clone());
        planned
    }

    pub fn plans(&self) -> usize {
        self.plans.borrow().len()
    }

    fn plan_anew(&self, seen: &Objects, memory: &Memory) -> Planned {
        let set = self.set(seen.set);
        let present = (0..NODES_MAX as u8).filter_map(|node| Some((node, seen.node(node)?)));
        let nodes: BTreeMap<Arc<str>, _> = present.map(|(at, node)| (NODE_NAMES[usize::from(at)].into(), self.node(at, node))).collect();
        let names: BTreeMap<Key, _> = seen.pods.iter().map(|pod| self.pod(*pod)).map(|pod| (pod.meta.key(), pod)).collect();
        let revisions: Vec<_> = (0..2).filter_map(|t| self.revision(t, seen.revisions[usize::from(t)])).collect();
        let foreign = |pod: &&crate::model::Pod| pod.meta.controller().is_some_and(|owner| owner.uid != set.meta.uid);
        let view = View {
            now: now(),
            set: &set,
            nodes: &nodes,
            pods: names.values().map(|pod| &**pod).filter(|pod| !foreign(pod)).collect(),
            names: &names,
            revisions: revisions.iter().map(|revision| &**revision).collect(),
        };
        self.planned(seen, &plan(&view, self.memory(memory)))
    }

    fn planned(&self, seen: &Objects, plan: &Plan) -> Planned {
        let mut writes = Vec::new();
        let mut step = 0;
        if plan.actions.iter().any(|action| matches!(action, Action::Adopt { .. })) {
            writes.push((step, PlannedWrite::Check));
        }
        for action in &plan.history.before {
            step += 1;
            writes.push((step, self.history_write(action, seen)));
        }
        assert!(plan.history.after.is_empty(), "two revisions are within every limit");
        for (order, action) in plan.actions.iter().map(|action| self.write(action, seen)) {
            writes.push((step + order, action));
        }
        writes.sort_by_key(|(step, _)| *step);
        Planned { writes, memory: self.remembered(&plan.memory, seen), wakes: plan.wake_at.is_some(), more: plan.more }
    }

    /// As [`crate::daemonset::work`] puts them into steps.
    fn write(&self, action: &Action, seen: &Objects) -> (u8, PlannedWrite) {
        let id = |pod: &Key| seen.pod(self.name(&pod.name)).expect("plans are about pods of the picture").id;
        let node = |name: &Arc<str>| NODE_NAMES.iter().position(|other| **other == **name).expect("a node of the model") as u8;
        match action {
            Action::Adopt { pod, .. } => (1, PlannedWrite::Adopt(id(pod))),
            Action::Release { .. } => unreachable!("all pods of the model are selected"),
            Action::Delete { pod, because, node: at, .. } => {
                let at = at.as_ref().expect("every pod of the model has a node");
                (2, PlannedWrite::Delete { id: id(pod), node: node(at), why: why(because) })
            }
            Action::Create { node: at, name, hash } => {
                let template = (0..2).find(|t| hash_of(*t) == **hash).expect("one of the two templates");
                (3, PlannedWrite::Create { node: node(at), name: self.name(name), template })
            }
        }
    }

    fn history_write(&self, action: &HistoryAction, seen: &Objects) -> PlannedWrite {
        let template = |name: &str| (0..2).find(|t| name.ends_with(&hash_of(*t))).expect("one of the two templates");
        match action {
            HistoryAction::Create { name, object } => {
                let number = object["revision"].as_u64().expect("revisions are numbered");
                PlannedWrite::Revision { template: template(name), number: number as u8, is_new: true }
            }
            HistoryAction::Change { revision, patch } => {
                let number = patch["revision"].as_u64().expect("only numbers change in the model");
                assert!(seen.revisions[usize::from(template(&revision.name))] > 0);
                PlannedWrite::Revision { template: template(&revision.name), number: number as u8, is_new: false }
            }
            other => unreachable!("{other:?} does not happen with two revisions that are the set's"),
        }
    }

    fn memory(&self, memory: &Memory) -> crate::daemonset::Memory {
        let doomed = memory.doomed.iter().map(|id| self.uid(*id)).collect();
        let mut real = crate::daemonset::Memory { begun: memory.begun, doomed, ..Default::default() };
        let long_ago = at(-1000);
        for (at, name) in NODE_NAMES.iter().enumerate() {
            let name: Arc<str> = (*name).into();
            if memory.pauses[at] != Pause::Unknown {
                let since = if memory.pauses[at] == Pause::Running { now() } else { long_ago };
                real.backoff.insert(name.clone(), Backoff { pause: SignedDuration::from_secs(1), since });
            }
            if let Some((attempt, pod)) = memory.made[at] {
                real.made.insert(name.clone(), Made { attempt, name: self.text(pod) });
            }
            if memory.unseen[at] {
                real.unseen.insert(name);
            }
        }
        real
    }

    fn remembered(&self, real: &crate::daemonset::Memory, seen: &Objects) -> Memory {
        let doomed = seen.pods.iter().map(|pod| pod.id).filter(|id| real.doomed.contains(&self.uid(*id))).collect();
        let mut memory = Memory { begun: real.begun, doomed, ..Memory::default() };
        for (at, name) in NODE_NAMES.iter().enumerate() {
            memory.pauses[at] = match real.backoff.get(*name) {
                None => Pause::Unknown,
                Some(backoff) if backoff.since + backoff.pause > now() => Pause::Running,
                Some(_) => Pause::Over,
            };
            memory.made[at] = real.made.get(*name).map(|made| (made.attempt, self.name(&made.name)));
            memory.unseen[at] = real.unseen.contains(*name);
        }
        memory
    }

    /// Does a change make the controller look at the set? `seen` has it already.
    pub fn concerns(&self, before: Event, after: Event, seen: &Objects) -> bool {
        let key = (before, after, seen.set);
        if let Some(known) = self.concerns.borrow().get(&key) {
            return *known;
        }
        let mut picture = Picture::default();
        picture.put(Object::DaemonSet(self.set(seen.set)));
        let change = Change { old: self.object(before), new: self.object(after) };
        let mut concerned = false;
        if change.old.is_some() || change.new.is_some() {
            DaemonSetController::default().concerns(&picture, &change, &mut |_| concerned = true);
        }
        self.concerns.borrow_mut().insert(key, concerned);
        concerned
    }

    fn object(&self, event: Event) -> Option<Object> {
        match event {
            Event::Node(at, node) => node.map(|node| Object::Node(self.node(at, node))),
            Event::Set(set) => Some(Object::DaemonSet(self.set(set))),
            Event::Revision(template, number) => self.revision(template, number).map(Object::ControllerRevision),
            Event::Pod(_, pod) => pod.map(|pod| Object::Pod(self.pod(pod))),
        }
    }

    pub fn set(&self, set: Set) -> Arc<DaemonSet> {
        let make = || {
            let mut words = self.words.clone();
            words.push(if set.template == 0 { "rev=1" } else { "rev=2" });
            if set.deleting {
                words.push("deleting");
            }
            Arc::new(daemon_set("web", &words))
        };
        self.sets.borrow_mut().entry(set).or_insert_with(make).clone()
    }

    pub fn strategy(&self) -> UpdateStrategy {
        self.set(Set { template: 0, deleting: false }).strategy
    }

    pub fn pod(&self, abstracted: Pod) -> Arc<crate::model::Pod> {
        let make = || Arc::new(self.make_pod(abstracted));
        self.pods.borrow_mut().entry(abstracted).or_insert_with(make).clone()
    }

    fn make_pod(&self, from: Pod) -> crate::model::Pod {
        let name = self.text(from.id.name);
        let mut words = vec![];
        words.extend((!from.bound).then_some("unbound"));
        words.extend(match from.phase {
            Phase::Starting => None,
            Phase::Ready => Some("ready=0"),
            Phase::Available => Some("ready=1000"),
            Phase::Failed => Some("failed"),
        });
        words.extend(from.deleting.then_some("deleting"));
        words.extend(match from.owner {
            Owner::Ours => None,
            Owner::Nobody => Some("orphan"),
            Owner::Other => Some("owner=other"),
        });
        words.push(if from.aged { "age=1000" } else { "age=0" });
        let mut made = pod(&format!("{name}@{}", NODE_NAMES[usize::from(from.node)]), &words);
        made.meta.uid = self.uid(from.id);
        made.meta.labels.insert(HASH_LABEL, &hash_of(from.template));
        made
    }

    fn node(&self, at: u8, from: Node) -> Arc<crate::model::Node> {
        let make = || {
            let mut words = vec![];
            words.extend((!from.ready).then_some("notready"));
            words.extend(match from.taint {
                Taint::Absent => None,
                Taint::NoSchedule => Some("taint=t:NoSchedule"),
                Taint::NoExecute => Some("taint=t:NoExecute"),
            });
            Arc::new(node(NODE_NAMES[usize::from(at)], &words))
        };
        self.nodes.borrow_mut().entry((at, from)).or_insert_with(make).clone()
    }

    fn revision(&self, of: u8, number: u8) -> Option<Arc<ControllerRevision>> {
        let make = || {
            let set = self.set(Set { template: of, deleting: false });
            let mut made = revision(&set, if of == 0 { "1" } else { "2" }, i64::from(number));
            made.meta.name = format!("web-{}", hash_of(of)).into();
            made.meta.labels.insert(HASH_LABEL, &hash_of(of));
            Arc::new(made)
        };
        (number > 0).then(|| self.revisions.borrow_mut().entry((of, number)).or_insert_with(make).clone())
    }

    pub fn uid(&self, id: Id) -> Arc<str> {
        format!("{}-{}", self.text(id.name), id.life).into()
    }
}

/// How the pause of a node whose pod failed stands; how long it is does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Pause {
    #[default]
    Unknown,
    Running,
    Over,
}

fn why(because: &Because) -> Why {
    match because {
        Because::Misfit(_) => Why::Misfit,
        Because::Failed | Because::Succeeded => Why::Ended,
        Because::Duplicate => Why::Duplicate,
        Because::Outdated => Why::Outdated,
        Because::OutdatedAndUnavailable => Why::Broken,
        Because::Surged => Why::Surged,
        Because::NodeGone => Why::NodeGone,
    }
}

/// The hash of one of the two templates, as the decider makes it.
pub fn hash_of(of: u8) -> String {
    thread_local! {
        static HASHES: [String; 2] = ["1", "2"].map(|name| template_hash(&template(name), 0));
    }
    HASHES.with(|hashes| hashes[usize::from(of)].clone())
}
