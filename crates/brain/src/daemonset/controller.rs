//! The decider as a controller: which sets a change concerns, and a plan as requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Action, Because, Eligibility, Memory, Plan, View, daemon_pod, eligibility, owner_reference, plan, running_spec};
use crate::controller::{Controller, Step, Work};
use crate::history::HistoryAction;
use crate::model::{DaemonSet, DaemonSetStatus, Key, Meta, Node};
use crate::picture::{Change, Object, Picture};
use crate::request::{DAEMON_SETS, Event, EventType, PODS, REVISIONS, Regarding, Request, Verb};

const COMPONENT: &str = "daemonset-controller";

/// After a plan a set rests this long for each of its nodes: at 10,000 nodes a plan looks at much,
/// and much changes meanwhile.
const REST_PER_NODE: SignedDuration = SignedDuration::from_micros(1);

/// Also without any change every set is looked at this often.
const FULL_PASS: SignedDuration = SignedDuration::from_secs(60);

/// Holds what sets remember between their plans.
#[derive(Debug, Default)]
pub struct DaemonSetController {
    memories: BTreeMap<Arc<str>, Memory>,
    /// The status that each set's last plan wanted.
    told: BTreeMap<Arc<str>, DaemonSetStatus>,
}

/// What a plan for the set may look at.
pub fn view_of<'a>(picture: &'a Picture, set: &'a DaemonSet, now: Timestamp) -> View<'a> {
    let Meta { namespace, name, uid, .. } = &set.meta;
    let owned = picture.pods_of(uid);
    let orphans = picture.orphans(namespace);
    let prefix = format!("{name}-");
    let from = Key::new(namespace, &prefix);
    let alike = picture.revisions.range(from..).take_while(|(key, _)| key.namespace == *namespace && key.name.starts_with(&*prefix));
    let mut revisions: BTreeMap<&str, _> = BTreeMap::new();
    revisions.extend(alike.map(|(_, revision)| (&*revision.meta.name, &**revision)));
    revisions
        .extend(picture.revisions_of(uid).chain(picture.orphaned_revisions(namespace)).map(|revision| (&*revision.meta.name, &**revision)));
    View {
        now,
        set,
        nodes: &picture.nodes,
        pods: owned.chain(orphans).map(|pod| &**pod).collect(),
        names: &picture.pods,
        revisions: revisions.into_values().collect(),
    }
}

impl Controller for DaemonSetController {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn concerns(&mut self, picture: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        match (&change.old, &change.new) {
            (Some(Object::DaemonSet(old)), None) => {
                self.memories.remove(&old.meta.uid);
                self.told.remove(&old.meta.uid);
            }
            // The status that was written comes back as a change.
            (Some(Object::DaemonSet(old)), Some(Object::DaemonSet(set)))
                if is_only_status(old, set) && self.told.get(&set.meta.uid) == Some(&set.status) => {}
            (_, Some(Object::DaemonSet(set))) => add(set.meta.key()),
            (Some(Object::Node(old)), Some(Object::Node(new))) => concerned_by_node(picture, Some(old), Some(new), add),
            (None, Some(Object::Node(new))) => concerned_by_node(picture, None, Some(new), add),
            (Some(Object::Node(old)), None) => concerned_by_node(picture, Some(old), None, add),
            (Some(Object::Pod(old)), Some(Object::Pod(new))) if old.meta.owner_references == new.meta.owner_references => {
                concerned_by(picture, &new.meta, add);
            }
            (old, Some(Object::ControllerRevision(revision))) => {
                // As upstream: a revision that has an owner is no reason to look at the set; one
                // that lost or changed it is.
                let before = old.as_ref().map(Object::meta);
                let same_owner = before.is_none_or(|before| before.owner_references == revision.meta.owner_references);
                if revision.meta.controller().is_none() || !same_owner {
                    before.into_iter().chain([&revision.meta]).for_each(|meta| concerned_by(picture, meta, add));
                }
            }
            (Some(Object::ControllerRevision(_)), None)
            | (Some(Object::Pod(_)) | None, Some(Object::Pod(_)))
            | (Some(Object::Pod(_)), None) => {
                for object in change.old.iter().chain(&change.new) {
                    concerned_by(picture, object.meta(), add);
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, now: Timestamp) -> Work {
        let Some(set) = picture.sets.get(key) else { return Work::default() };
        let memory = self.memories.remove(&set.meta.uid).unwrap_or_default();
        let mut made = plan(&view_of(picture, set, now), memory);
        self.memories.insert(set.meta.uid.clone(), std::mem::take(&mut made.memory));
        self.told.insert(set.meta.uid.clone(), made.status.clone());
        let full_pass = now + FULL_PASS;
        made.wake_at = Some(made.wake_at.map_or(full_pass, |at| at.min(full_pass)));
        Work { rest: REST_PER_NODE * i32::try_from(picture.nodes.len()).unwrap_or(i32::MAX), ..work(set, &made) }
    }
}

fn is_only_status(old: &DaemonSet, new: &DaemonSet) -> bool {
    let meta = Meta { resource_version: new.meta.resource_version, ..old.meta.clone() };
    meta == new.meta && old.template == new.template && old.strategy == new.strategy && old.status != new.status
}

/// The set that controls the object, or those that might adopt it.
fn concerned_by(picture: &Picture, meta: &Meta, add: &mut dyn FnMut(Key)) {
    match meta.controller() {
        Some(owner) if *owner.kind == *"DaemonSet" => {
            let key = Key { namespace: meta.namespace.clone(), name: owner.name.clone() };
            if picture.sets.get(&key).is_some_and(|set| set.meta.uid == owner.uid) {
                add(key);
            }
        }
        Some(_) => {}
        None => {
            let from = Key { namespace: meta.namespace.clone(), name: "".into() };
            let sets = picture.sets.range(from..).take_while(|(key, _)| key.namespace == meta.namespace);
            for (key, _) in sets.filter(|(_, set)| meta.labels.selected_by(&set.selector)) {
                add(key.clone());
            }
        }
    }
}

/// The sets for which the node became something else: heartbeats and other news of a node cost no
/// set anything.
fn concerned_by_node(picture: &Picture, old: Option<&Node>, new: Option<&Node>, add: &mut dyn FnMut(Key)) {
    if let (Some(old), Some(new)) = (old, new)
        && old.meta.labels == new.meta.labels
        && old.taints == new.taints
        && old.is_ready() == new.is_ready()
    {
        return;
    }
    for (key, set) in &picture.sets {
        let spec = running_spec(&set.template_spec);
        let wanted = set.template_node();
        let judge = |node: &Node| (eligibility(&spec, wanted, node), node.is_ready());
        let never = |verdict: &(Eligibility, bool)| matches!(verdict.0, Eligibility::Never(_));
        let (before, after) = (old.map(judge), new.map(judge));
        let concerned = match (&before, &after) {
            (Some(before), Some(after)) => before != after && !(never(before) && never(after)),
            // A node that comes with a taint, as all do, has no pods yet; the set is planned again
            // when the taint goes.
            (None, Some(verdict)) => verdict.0 == Eligibility::Runs,
            (Some(verdict), None) => !never(verdict),
            (None, None) => false,
        };
        if concerned {
            add(key.clone());
        }
    }
}

/// A plan as requests: revisions first, since pods carry their hash; then adoptions, deletions,
/// creations; then what is forgotten, and the status.
pub fn work(set: &DaemonSet, plan: &Plan) -> Work {
    let mut steps = Vec::new();
    let mut step = |requests: Vec<Request>, slow_start: bool| {
        if !requests.is_empty() {
            steps.push(Step { slow_start, ..Step::all_at_once(requests) });
        }
    };
    let adopts = plan.actions.iter().any(|action| matches!(action, Action::Adopt { .. }))
        || plan.history.before.iter().any(|action| matches!(action, HistoryAction::Adopt { .. }));
    if adopts {
        // What is adopted for a set that is gone would be collected with it: ask the server, not
        // the picture.
        step(vec![Request::new(DAEMON_SETS, set.meta.key(), Verb::Check { uid: set.meta.uid.clone() })], false);
    }
    for action in &plan.history.before {
        step(vec![history_request(set, action)], false);
    }
    let requests = |wanted: fn(&Action) -> bool| {
        plan.actions.iter().filter(move |&action| wanted(action)).map(|action| request(set, action)).collect()
    };
    step(requests(|action| matches!(action, Action::Adopt { .. } | Action::Release { .. })), false);
    step(requests(|action| matches!(action, Action::Delete { .. })), false);
    step(requests(|action| matches!(action, Action::Create { .. })), true);
    step(plan.history.after.iter().map(|action| history_request(set, action)).collect(), false);
    let mut work = Work { wake_at: plan.wake_at, more: plan.more, events: events(set, plan), ..Work::default() };
    if plan.status != set.status {
        // Also when pods could not be made: people look at the status to see that.
        work.last = Some(status_request(set, plan));
    }
    work.steps = steps;
    work
}

fn request(set: &DaemonSet, action: &Action) -> Request {
    match action {
        Action::Adopt { pod, uid } => {
            let patch = json!({"metadata": {"uid": uid, "ownerReferences": [owner_reference(set)]}});
            Request::new(PODS, pod.clone(), Verb::Strategic(patch))
        }
        Action::Release { pod, uid } => Request::new(PODS, pod.clone(), Verb::Strategic(release_patch(set, uid))),
        Action::Create { node, name, hash } => {
            let key = Key { namespace: set.meta.namespace.clone(), name: name.clone() };
            let created = event(set, "SuccessfulCreate", format!("Created pod: {name}"));
            let failed = Event { event_type: EventType::Warning, ..event(set, "FailedCreate", "Error creating: ".to_owned()) };
            Request::new(PODS, key, Verb::Create(Arc::new(daemon_pod(set, node, name, hash)))).reporting(Some(created), Some(failed))
        }
        Action::Delete { pod, uid, .. } => {
            let deleted = event(set, "SuccessfulDelete", format!("Deleted pod: {}", pod.name));
            let failed = Event { event_type: EventType::Warning, ..event(set, "FailedDelete", "Error deleting: ".to_owned()) };
            let verb = Verb::Delete { uid: Some(uid.clone()), resource_version: None, grace_seconds: None, propagation: None };
            Request::new(PODS, pod.clone(), verb).reporting(Some(deleted), Some(failed))
        }
    }
}

fn release_patch(set: &DaemonSet, uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "ownerReferences": [{"$patch": "delete", "uid": set.meta.uid}]}})
}

fn history_request(set: &DaemonSet, action: &HistoryAction) -> Request {
    match action {
        HistoryAction::Create { name, object } => {
            Request::new(REVISIONS, Key { namespace: set.meta.namespace.clone(), name: name.clone() }, Verb::Create(object.clone()))
        }
        HistoryAction::Adopt { revision, uid } => {
            let patch = json!({"metadata": {"uid": uid, "ownerReferences": [owner_reference(set)]}});
            Request::new(REVISIONS, revision.clone(), Verb::Strategic(patch))
        }
        HistoryAction::Release { revision, uid } => Request::new(REVISIONS, revision.clone(), Verb::Strategic(release_patch(set, uid))),
        HistoryAction::Change { revision, patch } => Request::new(REVISIONS, revision.clone(), Verb::Merge(patch.clone())),
        HistoryAction::Relabel { pod, uid, hash } => {
            let patch = json!({"metadata": {"uid": uid, "labels": {super::HASH_LABEL: hash}}});
            Request::new(PODS, pod.clone(), Verb::Merge(patch))
        }
        HistoryAction::Delete { revision, uid } => {
            let verb = Verb::Delete { uid: Some(uid.clone()), resource_version: None, grace_seconds: None, propagation: None };
            Request::new(REVISIONS, revision.clone(), verb)
        }
    }
}

/// Counters that are zero are absent from a status; a merge patch has to say so.
fn status_request(set: &DaemonSet, plan: &Plan) -> Request {
    let mut status = serde_json::to_value(&plan.status).expect("counters are JSON");
    for counter in ["numberAvailable", "numberUnavailable", "updatedNumberScheduled"] {
        if status.get(counter).is_none() {
            status[counter] = Value::Null;
        }
    }
    let patch = json!({"metadata": {"uid": set.meta.uid}, "status": status});
    Request::new(DAEMON_SETS, set.meta.key(), Verb::Merge(patch)).on("status")
}

fn event(set: &DaemonSet, reason: &'static str, message: String) -> Event {
    Event {
        about: Regarding::of(DAEMON_SETS, &set.meta),
        event_type: EventType::Normal,
        reason: reason.into(),
        message,
        action: None,
        component: COMPONENT,
        host: None,
    }
}

/// Events besides those about requests.
fn events(set: &DaemonSet, plan: &Plan) -> Vec<Event> {
    if set.selector.is_everything() && !set.meta.is_deleted() {
        let text = "This daemon set is selecting all pods. A non-empty selector is required.";
        return vec![Event { event_type: EventType::Warning, ..event(set, "SelectingAll", text.to_owned()) }];
    }
    let about = |action: &Action| {
        let Action::Delete { pod, node, because, .. } = action else { return None };
        let node = node.as_deref().unwrap_or_default();
        match because {
            Because::Failed => {
                let text = format!("Found failed daemon pod {pod} on node {node}, will try to kill it");
                Some(Event { event_type: EventType::Warning, ..event(set, "FailedDaemonPod", text) })
            }
            Because::Succeeded => {
                Some(event(set, "SucceededDaemonPod", format!("Found succeeded daemon pod {pod} on node {node}, will try to delete it")))
            }
            _ => None,
        }
    };
    plan.actions.iter().filter_map(about).collect()
}
