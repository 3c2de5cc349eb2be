//! A small language for clusters, and what is decided about them as text.
//!
//! Items are separated by `;`: `node NAME`, `pod [NAMESPACE/]NAME`, `namespace NAME`, `budget NAME
//! KEY=VALUE allowed=N`, each followed by words `key=value` or plain words; see the matches below.
//! Times are seconds since 2026-01-01.

use std::fmt::Write;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::controller::{Controller, Work};
use crate::model::{Key, Pod};
use crate::picture::{Kind, Object, Picture};
use crate::request::{Request, Verb};
use crate::scheduler::{Plan, Queue, Rejection, Scheduler, View, explain, plan, preemption_on};

const EPOCH: i64 = 1_767_225_600;

pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(EPOCH + seconds).expect("a few seconds after 2026 are a time")
}

/// A cluster, with a scheduler that follows all changes.
#[derive(Default)]
pub struct World {
    pub picture: Picture,
    pub scheduler: Scheduler,
    wake_at: Option<Timestamp>,
}

impl World {
    pub fn new(text: &str) -> World {
        let mut world = World::default();
        world.change(text);
        world
    }

    /// Puts objects, new ones or other versions of old ones.
    pub fn change(&mut self, text: &str) {
        for item in text.split(';').map(str::trim).filter(|item| !item.is_empty()) {
            let object = object(item);
            self.put(object);
        }
    }

    pub fn put(&mut self, object: Object) {
        let change = self.picture.put(object);
        self.scheduler.concerns(&self.picture, &change, &mut |_| {});
    }

    pub fn remove_pod(&mut self, name: &str) {
        self.remove(Kind::Pod, &Key::new("default", name));
    }

    pub fn remove(&mut self, kind: Kind, key: &Key) {
        if let Some(change) = self.picture.remove(kind, key, 0) {
            self.scheduler.concerns(&self.picture, &change, &mut |_| {});
        }
    }

    pub fn plan(&self, seconds: i64) -> Plan {
        let mut queue = Queue::of(&self.picture);
        queue.advance(&self.picture, at(seconds));
        plan(&View { picture: &self.picture, now: at(seconds), queue: &queue, limit: 100 })
    }

    /// What a scheduler decides that sees the cluster for the first time, in order.
    pub fn decide(&self, seconds: i64) -> String {
        let plan = self.plan(seconds);
        let mut lines: Vec<(usize, String)> = Vec::new();
        let mut queue = Queue::of(&self.picture);
        queue.advance(&self.picture, at(seconds));
        let order: Vec<Key> = queue.active().cloned().collect();
        let place = |key: &Key| order.iter().position(|other| other == key).expect("it was its turn");
        for binding in &plan.bindings {
            lines.push((place(&binding.key), format!("bind {} to {}", short(&binding.key), binding.node)));
        }
        for rejected in &plan.unschedulable {
            lines.push((place(&rejected.key), format!("reject {}: {}", short(&rejected.key), rejected.message)));
        }
        lines.sort();
        let mut lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
        for preemption in &plan.preemptions {
            let names = |keys: Vec<&Key>| keys.into_iter().map(short).collect::<Vec<_>>().join(" ");
            let victims = names(preemption.victims.iter().map(|victim| &victim.key).collect());
            let mut line = format!("preempt for {} on {}: {victims}", short(&preemption.preemptor), preemption.node);
            if !preemption.displaced.is_empty() {
                line += &format!(", displaces {}", names(preemption.displaced.iter().collect()));
            }
            lines.push(line);
        }
        lines.join("\n")
    }

    /// What the controller sends at a time.
    pub fn requests(&mut self, seconds: i64) -> Work {
        let work = self.scheduler.plan(&self.picture, &Key::default(), at(seconds));
        self.wake_at = work.wake_at;
        work
    }

    /// The same as text, with what is left in the queue.
    pub fn work(&mut self, seconds: i64) -> String {
        let work = self.requests(seconds);
        let [active, backoff, waiting] = self.scheduler.queue().lengths();
        let mut out = format!("[{active} active, {backoff} in backoff, {waiting} waiting]");
        if let Some(at) = work.wake_at {
            write!(out, " wake at {}", at.as_second() - EPOCH).expect("strings take all");
        }
        out += if work.more { " more" } else { "" };
        for (at, step) in work.steps.iter().enumerate() {
            for request in &step.requests {
                out += if at == 0 { "\n" } else { "\nthen " };
                out += &describe(request);
            }
        }
        for event in &work.events {
            write!(out, "\nevent {} {}", short(&event.about.key), event.reason).expect("strings take all");
        }
        out
    }

    pub fn wake_at(&self) -> Option<i64> {
        self.wake_at.map(|at| at.as_second() - EPOCH)
    }

    /// How many pods would be decided on at a time.
    pub fn attempts(&self, seconds: i64) -> usize {
        let mut queue = self.scheduler.queue().clone();
        queue.advance(&self.picture, at(seconds));
        let plan = plan(&View { picture: &self.picture, now: at(seconds), queue: &queue, limit: 100 });
        plan.bindings.len() + plan.unschedulable.len()
    }

    pub fn pod(&self, name: &str) -> &Pod {
        &self.picture.pods[&Key::new("default", name)]
    }

    pub fn explain(&self, pod: &str, node: &str) -> String {
        match explain(&self.picture, self.pod(pod), &self.picture.nodes[node]) {
            Ok(()) => "fits".to_owned(),
            Err(Rejection::Insufficient(s)) => {
                let holders: String = s.holders.iter().map(|(key, amount)| format!(", {key} has {amount}")).collect();
                format!("Insufficient {}: wants {}, free {} of {}{holders}", s.resource, s.requested, s.free, s.allocatable)
            }
            Err(rejection) => rejection.to_string(),
        }
    }

    pub fn evicted(&self, pod: &str, node: &str) -> Option<Vec<String>> {
        let victims = preemption_on(&self.picture, self.pod(pod), &self.picture.nodes[node])?;
        Some(victims.iter().map(Key::to_string).collect())
    }
}

fn short(key: &Key) -> String {
    if &*key.namespace == "default" { key.name.to_string() } else { key.to_string() }
}

fn describe(request: &Request) -> String {
    let name = short(&request.key);
    match &request.verb {
        Verb::Create(body) => format!("bind {name} to {}", body["target"]["name"].as_str().unwrap_or_default()),
        Verb::Strategic(patch) => {
            let mut text = format!("patch {name}/{}", request.subresource.unwrap_or_default());
            let text_of = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            for condition in patch["status"]["conditions"].as_array().into_iter().flatten() {
                text += &format!(" {}={}", text_of(&condition["type"]), text_of(&condition["status"]));
            }
            if let Some(node) = patch["status"].get("nominatedNodeName") {
                text += &format!(" nominated {}", text_of(node));
            }
            text
        }
        Verb::Delete { .. } => {
            let event = request.report.as_ref().and_then(|report| report.accepted.as_ref());
            format!("delete {name} ({})", event.map_or("".into(), |event| event.reason.clone()))
        }
        other => format!("{other:?}"),
    }
}

fn object(item: &str) -> Object {
    let mut words = item.split_whitespace();
    let (kind, name) = (words.next().unwrap_or_default(), words.next().expect("an item has a name"));
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let words: Vec<(&str, &str)> = words.map(|word| word.split_once('=').unwrap_or((word, ""))).collect();
    match kind {
        "node" => Object::Node(Arc::new(read(node(name, &words)))),
        "pod" => Object::Pod(Arc::new(read(pod(namespace, name, &words)))),
        "namespace" => Object::Namespace(Arc::new(read(json!({"metadata": {"name": name, "labels": labels(&words)}})))),
        "budget" => Object::PodDisruptionBudget(Arc::new(read(budget(name, &words)))),
        other => panic!("unknown kind {other}"),
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the language makes objects")
}

fn pair(text: &str) -> (&str, &str) {
    text.split_once('=').expect("KEY=VALUE")
}

fn labels(words: &[(&str, &str)]) -> Value {
    let labels = words.iter().filter(|(key, _)| *key == "label").map(|(_, label)| pair(label));
    labels.map(|(key, value)| (key.to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into()
}

fn node(name: &str, words: &[(&str, &str)]) -> Value {
    let mut allocatable = json!({"cpu": "8", "memory": "16Gi", "pods": "110"});
    let (mut taints, mut cordoned) = (Vec::new(), false);
    for &(key, value) in words {
        match key {
            "cpu" | "memory" | "pods" => allocatable[key] = json!(value),
            "gpu" => allocatable["example.com/gpu"] = json!(value),
            "taint" => {
                let (key, effect) = value.split_once(':').expect("taint=KEY:EFFECT");
                taints.push(json!({"key": key, "effect": effect}));
            }
            "cordoned" => cordoned = true,
            "label" | "ready" => {}
            other => panic!("unknown word {other} of a node"),
        }
    }
    let ready = json!([{"type": "Ready", "status": if words.iter().any(|(key, _)| *key == "ready") { "True" } else { "False" }}]);
    json!({
        "metadata": {"name": name, "uid": name, "labels": labels(words)},
        "spec": {"taints": taints, "unschedulable": cordoned},
        "status": {"allocatable": allocatable, "conditions": ready},
    })
}

fn budget(name: &str, words: &[(&str, &str)]) -> Value {
    let (key, value) = words[0];
    let allowed: i64 = words[1].1.parse().expect("allowed=NUMBER");
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {key: value}}},
        "status": {"disruptionsAllowed": allowed},
    })
}

/// `KEY=VALUE/TOPOLOGY` or `KEY=VALUE/TOPOLOGY/KEY=VALUE` with a selector of namespaces.
fn term(text: &str) -> Value {
    let parts: Vec<&str> = text.split('/').collect();
    let (key, value) = pair(parts[0]);
    let mut term = json!({"topologyKey": parts[1], "labelSelector": {"matchLabels": {key: value}}});
    if let Some(namespace) = parts.get(2) {
        let (key, value) = pair(namespace);
        term["namespaceSelector"] = json!({"matchLabels": {key: value}});
    }
    term
}

fn spread(text: &str, when: &str) -> Value {
    let parts: Vec<&str> = text.split('/').collect();
    let (key, value) = pair(parts[2]);
    let skew: i64 = parts[0].parse().expect("SKEW/TOPOLOGY/KEY=VALUE");
    json!({"maxSkew": skew, "topologyKey": parts[1], "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {key: value}}})
}

fn push(object: &mut Value, pointer: &[&str], value: Value) {
    let mut place = object;
    for part in pointer {
        place = &mut place[*part];
    }
    match place {
        Value::Array(list) => list.push(value),
        other => *other = json!([value]),
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn pod(namespace: &str, name: &str, words: &[(&str, &str)]) -> Value {
    let mut meta = json!({"name": name, "namespace": namespace, "uid": name, "labels": labels(words), "generation": 1});
    let mut spec = json!({"containers": [{"resources": {"requests": {}}, "ports": []}]});
    let mut status = json!({"phase": "Pending"});
    for &(key, value) in words {
        let seconds = || at(value.parse().expect("a number of seconds")).to_string();
        match key {
            "label" => {}
            "on" => {
                spec["nodeName"] = json!(value);
                status["phase"] = json!("Running");
            }
            "cpu" | "memory" => spec["containers"][0]["resources"]["requests"][key] = json!(value),
            "gpu" => spec["containers"][0]["resources"]["requests"]["example.com/gpu"] = json!(value),
            "prio" => spec["priority"] = json!(value.parse::<i64>().expect("a number")),
            "never" => spec["preemptionPolicy"] = json!("Never"),
            "gate" => push(&mut spec, &["schedulingGates"], json!({"name": value})),
            "scheduler" => spec["schedulerName"] = json!(value),
            "tolerate" => push(&mut spec, &["tolerations"], json!({"key": value, "operator": "Exists"})),
            "select" => spec["nodeSelector"] = json!({pair(value).0: pair(value).1}),
            "pin" => {
                let field = json!({"key": "metadata.name", "operator": "In", "values": [value]});
                spec["affinity"]["nodeAffinity"][REQUIRED] = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
            }
            "prefer" => {
                let (key, value) = pair(value);
                let expression = json!({"key": key, "operator": "In", "values": [value]});
                let term = json!({"weight": 1, "preference": {"matchExpressions": [expression]}});
                push(&mut spec, &["affinity", "nodeAffinity", PREFERRED], term);
            }
            "port" => push(&mut spec, &["containers"], json!({"ports": [{"hostPort": value.parse::<i64>().expect("a port")}]})),
            "near" => push(&mut spec, &["affinity", "podAffinity", REQUIRED], term(value)),
            "anti" => push(&mut spec, &["affinity", "podAntiAffinity", REQUIRED], term(value)),
            "like" => push(&mut spec, &["affinity", "podAffinity", PREFERRED], json!({"weight": 50, "podAffinityTerm": term(value)})),
            "avoid" => push(&mut spec, &["affinity", "podAntiAffinity", PREFERRED], json!({"weight": 50, "podAffinityTerm": term(value)})),
            "spread" => push(&mut spec, &["topologySpreadConstraints"], spread(value, "DoNotSchedule")),
            "softspread" => push(&mut spec, &["topologySpreadConstraints"], spread(value, "ScheduleAnyway")),
            "owner" => meta["ownerReferences"] = json!([{"kind": "ReplicaSet", "name": value, "uid": value, "controller": true}]),
            "created" => meta["creationTimestamp"] = json!(seconds()),
            "deleted" => meta["deletionTimestamp"] = json!(at(0).to_string()),
            "started" => status["startTime"] = json!(seconds()),
            "phase" => status["phase"] = json!(value),
            "nominated" => status["nominatedNodeName"] = json!(value),
            "victim" => push(&mut status, &["conditions"], json!({"type": "DisruptionTarget", "status": "True"})),
            "unscheduled" => {
                let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "older"});
                push(&mut status, &["conditions"], condition);
            }
            other => panic!("unknown word {other} of a pod"),
        }
    }
    json!({"metadata": meta, "spec": spec, "status": status})
}
