//! What applying DaemonSets would do: the real deciders, run on a copy of the state until nothing
//! more happens.
//!
//! The copy is a pretended [`Server`]. Pods that are bound become ready at once, deleted ones go at
//! once; time jumps to when a controller next wants to look. What only the real world knows (images
//! that cannot be pulled, programs that crash) is not in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kinds::decode::format_time;
use serde::Serialize;
use serde_json::{Value, json};

use crate::controller::Controller;
use crate::daemonset::{self, Eligibility, Memory, eligibility, running_spec, view_of};
use crate::model::{DaemonSet, Key, Pod};
use crate::picture::{Change, Picture};
use crate::pretend::Server;
use crate::request::{DAEMON_SETS, PODS, REVISIONS, Resource};
use crate::scheduler::{Scheduler, explain};
use crate::why::{misfit_text, rejection_text};

/// Rounds of planning. Of a rollout that takes more, the forecast shows what it followed.
const ROUNDS_MAX: usize = 2000;

/// What applying a set would do.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    pub namespace: String,
    pub name: String,
    /// There is no such set yet.
    pub is_new: bool,
    /// Nodes that run a pod at the end and ran none before.
    pub gained: Vec<String>,
    /// Nodes that ran a pod before and run none at the end.
    pub lost: Vec<Lost>,
    /// Nodes that should run a pod at the end and do not, without having had one.
    pub stuck: Vec<Lost>,
    /// Nodes whose pod is replaced by one of the new revision.
    pub replaced: usize,
    /// Nodes whose pod stays as it is.
    pub kept: usize,
    /// Pods replaced at the same time, wave after wave.
    pub waves: Vec<Vec<String>>,
    /// Of the nodes that should run a pod before and after: how many were without an available one
    /// at most.
    pub unavailable_at_most: usize,
    /// Pods that were unavailable before anything was done.
    pub unavailable_before: usize,
    /// Pods of others that are evicted to make room.
    pub preempted: Vec<Preempted>,
    /// The rollout was not followed to its end.
    pub is_cut: bool,
}

/// A node without a pod, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lost {
    pub node: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preempted {
    pub pod: String,
    pub node: String,
}

impl Forecast {
    /// Would a node lose its pod for good?
    pub fn loses(&self) -> bool {
        !self.lost.is_empty()
    }
}

/// Applies the sets, as the server would store them, to a copy of the state. `state` holds nodes,
/// pods, sets, revisions, budgets and priority classes.
pub fn forecast(state: Server, sets: Vec<Value>, now: Timestamp) -> Vec<Forecast> {
    let mut world = World::new(state, now);
    let before = world.picture.clone();
    let mut watched = Vec::new();
    for set in sets {
        let key = world.apply(set);
        let known = before.sets.get(&key);
        let mut forecast =
            Forecast { namespace: key.namespace.to_string(), name: key.name.to_string(), is_new: known.is_none(), ..Forecast::default() };
        forecast.unavailable_before = world.unavailable(&key, known.map(|set| &**set));
        forecast.unavailable_at_most = forecast.unavailable_before;
        watched.push((key, forecast));
    }
    let finished = world.run(&mut watched);
    watched
        .into_iter()
        .map(|(key, mut forecast)| {
            forecast.is_cut = !finished;
            world.compare(&before, &key, &mut forecast);
            forecast
        })
        .collect()
}

struct World {
    server: Server,
    picture: Picture,
    seen: usize,
    now: Timestamp,
    scheduler: Scheduler,
    memories: BTreeMap<Key, Memory>,
    /// Sets to be planned.
    due: BTreeSet<Key>,
    wakes: BTreeMap<Key, Timestamp>,
    scheduler_wakes: Option<Timestamp>,
    evicted: Vec<(Key, Arc<str>)>,
}

impl World {
    fn new(server: Server, now: Timestamp) -> World {
        let picture = server.picture();
        let mut scheduler = Scheduler::default();
        for pod in picture.pods.values().cloned() {
            let change = Change { old: None, new: Some(crate::picture::Object::Pod(pod)) };
            scheduler.concerns(&picture, &change, &mut |_| {});
        }
        World {
            seen: server.log.len(),
            server,
            picture,
            now,
            scheduler,
            memories: BTreeMap::new(),
            due: BTreeSet::new(),
            wakes: BTreeMap::new(),
            scheduler_wakes: Some(now),
            evicted: Vec::new(),
        }
    }

    /// Stores a set as it is to be.
    fn apply(&mut self, mut set: Value) -> Key {
        let name = |field: &str| set["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = Key::new(&name("namespace"), &name("name"));
        if let Some(current) = self.server.get(DAEMON_SETS, &key) {
            set["metadata"]["uid"] = current["metadata"]["uid"].clone();
            set["status"] = current["status"].clone();
        } else if let Some(metadata) = set["metadata"].as_object_mut() {
            // A dry run gives an object a uid that no object will ever have.
            metadata.remove("uid");
        }
        self.server.insert(DAEMON_SETS, set);
        self.catch_up();
        self.due.insert(key.clone());
        key
    }

    /// Takes the server's news into the picture, tells the scheduler, and notes which sets they
    /// concern.
    fn catch_up(&mut self) -> bool {
        let news = self.server.log[self.seen..].to_vec();
        self.seen = self.server.log.len();
        for event in &news {
            let kind = event.resource.followed();
            let change = match &event.object {
                Some(object) => event.resource.followed().read(object).map(|object| self.picture.put(object)),
                None => self.picture.remove(kind, &event.key, event.version),
            };
            let Some(change) = change else { continue };
            self.scheduler.concerns(&self.picture, &change, &mut |_| {});
            for owner in change.object().meta().owner_references.iter().filter(|owner| &*owner.kind == "DaemonSet") {
                self.due.insert(Key { namespace: event.key.namespace.clone(), name: owner.name.clone() });
            }
        }
        !news.is_empty()
    }

    /// Runs until nothing happens any more; false when that takes too long.
    fn run(&mut self, watched: &mut [(Key, Forecast)]) -> bool {
        for _ in 0..ROUNDS_MAX {
            let mut busy = self.plan_sets(watched);
            busy |= self.schedule();
            self.measure(watched);
            busy |= self.act();
            if !busy && self.due.is_empty() && !self.sleep() {
                return true;
            }
        }
        false
    }

    fn plan_sets(&mut self, watched: &mut [(Key, Forecast)]) -> bool {
        let mut busy = false;
        for key in std::mem::take(&mut self.due) {
            let Some(set) = self.picture.sets.get(&key).cloned() else { continue };
            let memory = self.memories.remove(&key).unwrap_or_default();
            let mut plan = daemonset::plan(&view_of(&self.picture, &set, self.now), memory);
            self.memories.insert(key.clone(), std::mem::take(&mut plan.memory));
            match plan.wake_at {
                Some(at) => self.wakes.insert(key.clone(), at),
                None => self.wakes.remove(&key),
            };
            if let Some((_, forecast)) = watched.iter_mut().find(|(other, _)| *other == key) {
                note_wave(forecast, &plan);
            }
            let mut work = daemonset::work(&set, &plan);
            busy |= !work.steps.is_empty();
            work.last = None;
            self.server.perform(work, self.now);
            if plan.more {
                self.due.insert(key);
            }
        }
        busy | self.catch_up()
    }

    fn schedule(&mut self) -> bool {
        let work = self.scheduler.plan(&self.picture, &Key::default(), self.now);
        self.scheduler_wakes = work.wake_at;
        for request in work.steps.iter().flat_map(|step| &step.requests) {
            if request.resource == PODS && matches!(request.verb, crate::request::Verb::Delete { .. }) {
                let node = self.picture.pods.get(&request.key).and_then(|pod| pod.node.clone());
                self.evicted.push((request.key.clone(), node.unwrap_or_default()));
            }
        }
        let more = self.server.perform(work, self.now).more;
        self.catch_up() || more
    }

    /// What the nodes do: pods that were bound become ready, deleted ones go.
    fn act(&mut self) -> bool {
        let pods: Vec<Arc<Pod>> = self.picture.pods.values().filter(|pod| pod.node.is_some()).cloned().collect();
        for pod in pods {
            let is_dead = pod.node.as_ref().and_then(|node| self.picture.nodes.get(node)).is_none_or(|node| !node.is_ready());
            let key = pod.meta.key();
            if is_dead {
                continue;
            }
            if pod.meta.is_deleted() {
                self.server.remove(PODS, &key);
            } else if pod.status.ready.is_none() && !pod.is_terminal() {
                let Some(object) = self.server.get(PODS, &key) else { continue };
                let mut object = Value::clone(object);
                let since = format_time(self.now);
                object["status"] =
                    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}]});
                self.server.insert(PODS, object);
            }
        }
        self.catch_up()
    }

    /// Lets time pass until a controller wants to look again; false when none does within the day.
    fn sleep(&mut self) -> bool {
        let Some(at) = self.wakes.values().min().copied().filter(|at| at.duration_since(self.now) < SignedDuration::from_hours(24)) else {
            return false;
        };
        self.now = self.now.max(at);
        let now = self.now;
        let due: Vec<Key> = self.wakes.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.wakes.remove(&key);
            self.due.insert(key);
        }
        true
    }

    /// Nodes that should run a pod of the set, before and now, and have no available one.
    fn unavailable(&self, key: &Key, before: Option<&DaemonSet>) -> usize {
        let (Some(set), Some(before)) = (self.picture.sets.get(key), before) else { return 0 };
        let wanted = |set: &DaemonSet| {
            let spec = running_spec(&set.template_spec);
            self.picture
                .nodes
                .values()
                .filter(|node| eligibility(&spec, set.template_node(), node) == Eligibility::Runs)
                .map(|node| node.meta.name.clone())
                .collect()
        };
        let (old, new): (BTreeSet<Arc<str>>, BTreeSet<Arc<str>>) = (wanted(before), wanted(set));
        let pods: Vec<&Arc<Pod>> = self.picture.pods_of(&set.meta.uid).collect();
        let available: BTreeSet<&Arc<str>> = pods
            .iter()
            .filter(|pod| pod.is_available(set.min_ready_seconds, self.now) && !pod.meta.is_deleted())
            .filter_map(|pod| pod.node.as_ref())
            .collect();
        old.intersection(&new).filter(|node| !available.contains(node)).count()
    }

    fn measure(&self, watched: &mut [(Key, Forecast)]) {
        for (key, forecast) in watched.iter_mut().filter(|(_, forecast)| !forecast.is_new) {
            let set = self.picture.sets.get(key).cloned();
            forecast.unavailable_at_most = forecast.unavailable_at_most.max(self.unavailable(key, set.as_deref()));
        }
    }

    /// Fills in what is different at the end.
    fn compare(&self, before: &Picture, key: &Key, forecast: &mut Forecast) {
        let Some(set) = self.picture.sets.get(key) else { return };
        let run = |picture: &Picture| -> BTreeMap<Arc<str>, Arc<str>> {
            let pods = picture.pods_of(&set.meta.uid).filter(|pod| !pod.meta.is_deleted() && !pod.is_terminal());
            pods.filter_map(|pod| Some((pod.node.clone()?, pod.meta.uid.clone()))).collect()
        };
        let (old, new) = (run(before), run(&self.picture));
        for (node, uid) in &old {
            match new.get(node) {
                Some(same) if same == uid => forecast.kept += 1,
                Some(_) => forecast.replaced += 1,
                None => forecast.lost.push(Lost { node: node.to_string(), reason: self.why_not(set, node) }),
            }
        }
        forecast.gained = new.keys().filter(|node| !old.contains_key(*node)).map(|node| node.to_string()).collect();
        let spec = running_spec(&set.template_spec);
        for node in self.picture.nodes.values().filter(|node| eligibility(&spec, set.template_node(), node) == Eligibility::Runs) {
            let name = &node.meta.name;
            if !old.contains_key(name) && !new.contains_key(name) {
                forecast.stuck.push(Lost { node: name.to_string(), reason: self.why_not(set, name) });
            }
        }
        let ours = |pod: &Key| before.pods.get(pod).is_some_and(|pod| pod.meta.controller().is_some_and(|owner| owner.uid == set.meta.uid));
        let others = self.evicted.iter().filter(|(pod, _)| !ours(pod));
        forecast.preempted = others.map(|(pod, node)| Preempted { pod: pod.to_string(), node: node.to_string() }).collect();
    }

    /// Why a node has no pod of the set.
    fn why_not(&self, set: &DaemonSet, name: &Arc<str>) -> String {
        let Some(node) = self.picture.nodes.get(name) else { return "the node does not exist".to_owned() };
        let spec = running_spec(&set.template_spec);
        match eligibility(&spec, set.template_node(), node) {
            Eligibility::Never(misfit) | Eligibility::OnlyStays(misfit) => return misfit_text(&misfit),
            Eligibility::Runs => {}
        }
        let mut pod =
            self.picture.pods_of(&set.meta.uid).find(|pod| pod.target_node() == Some(name)).map(|pod| Pod::clone(pod)).unwrap_or_default();
        pod.node = None;
        pod.pinned = Some(name.clone());
        match explain(&self.picture, &pod, node) {
            Err(rejection) => rejection_text(&rejection),
            Ok(()) if !node.is_ready() => "the node is not Ready".to_owned(),
            Ok(()) => "waits for its turn".to_owned(),
        }
    }
}

/// Nodes whose pods one plan replaces are one wave.
fn note_wave(forecast: &mut Forecast, plan: &daemonset::Plan) {
    let replaced = plan.actions.iter().filter_map(|action| match action {
        daemonset::Action::Delete { node: Some(node), because, .. } if because.is_replacement() => Some(node.to_string()),
        _ => None,
    });
    let wave: Vec<String> = replaced.collect();
    if !wave.is_empty() {
        forecast.waves.push(wave);
    }
}

/// The resources whose objects [`forecast`] wants to be in its state.
pub const RESOURCES: [Resource; 6] =
    [crate::request::NODES, PODS, DAEMON_SETS, REVISIONS, crate::request::BUDGETS, crate::request::PRIORITY_CLASSES];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::NODES;

    /// Three nodes, and a set that names one of them in its template.
    #[test]
    fn a_template_that_names_a_node_is_stuck_nowhere_else() {
        let mut state = Server::default();
        for name in ["a", "b", "c"] {
            let status =
                json!({"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}, "conditions": [{"type": "Ready", "status": "True"}]});
            state.insert(NODES, json!({"metadata": {"name": name}, "status": status}));
        }
        let set = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "web", "namespace": "ns", "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}}, "spec": {"nodeName": "b", "containers": [{"name": "c", "image": "app:1"}]},
            }},
        });
        let told = forecast(state, vec![set], crate::fixture::now());
        assert_eq!((told[0].gained.as_slice(), told[0].stuck.len(), told[0].is_cut), (&["b".to_owned()][..], 0, false));
    }
}
