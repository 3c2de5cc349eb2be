//! The taints that follow from a node's conditions, and how fast those that evict may be set.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kinds::decode::format_time;
use serde_json::{Value, json};

use crate::controller::Work;
use crate::model::{Node, Taint};
use crate::picture::Picture;
use crate::request::{NODES, Request, Verb};

/// Condition, state, taint: all NoSchedule.
const OF_CONDITIONS: [(&str, &str, &str); 6] = [
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Nodes that may get an evicting taint: one in ten seconds, one in a hundred in a large zone of
/// which most is down.
const PERIOD: SignedDuration = SignedDuration::from_secs(10);
const SECONDARY_PERIOD: SignedDuration = SignedDuration::from_secs(100);
const LARGE_NODES_MIN: usize = 51;
/// Percent of a zone's nodes.
const UNHEALTHY_PERCENT_MIN: usize = 55;

/// How a zone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZoneState {
    #[default]
    Normal,
    PartialDisruption,
    FullDisruption,
}

/// A zone, and when the next of its nodes may get an evicting taint.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Zone {
    pub state: ZoneState,
    next: Option<Timestamp>,
    /// Every zone is down: then it is our own network that is broken, and nothing is evicted.
    stopped: bool,
}

/// Looks at all nodes again: how every zone is.
pub fn survey(picture: &Picture, mut known: BTreeMap<Box<str>, Zone>) -> BTreeMap<Box<str>, Zone> {
    let mut counts: BTreeMap<Box<str>, (usize, usize)> = BTreeMap::new();
    for node in picture.nodes.values() {
        let (ready, other) = counts.entry(zone_of(node)).or_default();
        *(if node.is_ready() { ready } else { other }) += 1;
    }
    let states: BTreeMap<Box<str>, ZoneState> = counts.into_iter().map(|(zone, (ready, other))| (zone, state_of(ready, other))).collect();
    let stopped = !states.is_empty() && states.values().all(|state| *state == ZoneState::FullDisruption);
    let kept = |(zone, state): (Box<str>, ZoneState)| {
        let next = known.remove(&zone).and_then(|zone| zone.next);
        (zone, Zone { state, next, stopped })
    };
    states.into_iter().map(kept).collect()
}

fn state_of(ready: usize, other: usize) -> ZoneState {
    match (ready, other) {
        (0, 1..) => ZoneState::FullDisruption,
        (_, 3..) if other * 100 >= UNHEALTHY_PERCENT_MIN * (ready + other) => {
            if ready + other >= LARGE_NODES_MIN {
                ZoneState::PartialDisruption
            } else {
                ZoneState::FullDisruption
            }
        }
        _ => ZoneState::Normal,
    }
}

/// Region and zone of a node.
fn zone_of(node: &Node) -> Box<str> {
    let label = |name: &str| node.meta.labels.get(name).unwrap_or_default().to_owned();
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone")).into()
}

/// The taints that a node's conditions ask for: key, effect. Evicting ones come last.
pub fn desired_taints(node: &Node) -> Vec<(&'static str, &'static str)> {
    let holds = |kind: &str, status: &str| node.condition(kind).is_some_and(|condition| *condition.status == *status);
    let mut taints: Vec<(&str, &str)> =
        OF_CONDITIONS.iter().filter(|(kind, status, _)| holds(kind, status)).map(|(_, _, taint)| (*taint, "NoSchedule")).collect();
    if node.unschedulable {
        taints.push((UNSCHEDULABLE, "NoSchedule"));
    }
    if holds("Ready", "False") {
        taints.push((NOT_READY, "NoExecute"));
    }
    if holds("Ready", "Unknown") {
        taints.push((UNREACHABLE, "NoExecute"));
    }
    taints
}

/// Is the taint one that follows from conditions?
fn is_managed(taint: &Taint) -> bool {
    let key = &*taint.key;
    match &*taint.effect {
        "NoSchedule" => key == UNSCHEDULABLE || OF_CONDITIONS.iter().any(|(_, _, managed)| *managed == key),
        "NoExecute" => key == NOT_READY || key == UNREACHABLE,
        _ => false,
    }
}

/// Sets and lifts the taints of a node. A node that never said how it is keeps what it was
/// registered with.
pub fn plan(node: &Node, zones: &mut BTreeMap<Box<str>, Zone>, now: Timestamp) -> Work {
    if node.condition("Ready").is_none() {
        return Work::default();
    }
    let mut wanted = desired_taints(node);
    let has = |key: &str, effect: &str| node.taints.iter().any(|taint| *taint.key == *key && *taint.effect == *effect);
    let mut wake_at = None;
    if let Some(&(key, "NoExecute")) = wanted.last() {
        // Another evicting taint is exchanged at once: it evicts only pods that were to be evicted
        // anyway.
        let evicts = has(NOT_READY, "NoExecute") || has(UNREACHABLE, "NoExecute");
        if !has(key, "NoExecute") && !evicts {
            wake_at = zones.entry(zone_of(node)).or_default().wait(now);
            if wake_at.is_some() {
                wanted.pop();
            }
        }
    }
    let kept = node.taints.iter().filter(|taint| !is_managed(taint) || wanted.contains(&(&*taint.key, &*taint.effect)));
    let mut taints: Vec<Value> = kept.map(taint_json).collect();
    let before = taints.len();
    for (key, effect) in wanted.iter().filter(|(key, effect)| !has(key, effect)) {
        taints.push(json!({"key": key, "effect": effect, "timeAdded": format_time(now)}));
    }
    if taints.len() == before && before == node.taints.len() {
        return Work { wake_at, ..Work::default() };
    }
    let taints = if taints.is_empty() { Value::Null } else { Value::Array(taints) };
    let version = node.meta.resource_version.to_string();
    let patch = json!({"metadata": {"uid": node.meta.uid, "resourceVersion": version}, "spec": {"taints": taints}});
    let request = Request::new(NODES, node.meta.key(), Verb::Merge(patch));
    Work { wake_at, ..Work::requests(vec![request]) }
}

impl Zone {
    /// None when a node of the zone may be tainted now; otherwise when to ask again.
    fn wait(&mut self, now: Timestamp) -> Option<Timestamp> {
        let period = match self.state {
            _ if self.stopped => return Some(now + PERIOD),
            ZoneState::PartialDisruption => SECONDARY_PERIOD,
            ZoneState::Normal | ZoneState::FullDisruption => PERIOD,
        };
        if let Some(next) = self.next.filter(|next| *next > now) {
            return Some(next);
        }
        self.next = Some(now + period);
        None
    }
}

fn taint_json(taint: &Taint) -> Value {
    let mut value = json!({"key": taint.key, "effect": taint.effect});
    if !taint.value.is_empty() {
        value["value"] = json!(taint.value);
    }
    if let Some(added) = taint.time_added {
        value["timeAdded"] = json!(format_time(added));
    }
    value
}
