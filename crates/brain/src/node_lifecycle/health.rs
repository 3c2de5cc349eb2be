//! Which nodes are silent.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kinds::decode::format_time;
use serde_json::{Value, json};

use super::{NodeLifecycleSettings, event};
use crate::controller::{Step, Work};
use crate::model::{Node, NodeCondition, Pod};
use crate::picture::Picture;
use crate::request::{Event, EventType, NODES, PODS, Regarding, Request, Verb};

/// What a node said last, and when that was noticed: by our clock, since the node's may be wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    renewed: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
    status: Option<Box<str>>,
    at: Timestamp,
    /// Its pods were marked since it fell silent.
    marked: bool,
}

/// The conditions that become Unknown with a silent node.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// One pass over all nodes.
pub fn plan(picture: &Picture, settings: NodeLifecycleSettings, seen: &mut BTreeMap<Arc<str>, Seen>, now: Timestamp) -> Work {
    let mut work = Work::default();
    let (mut conditions, mut pods) = (Vec::new(), Vec::new());
    let gone: Vec<Arc<str>> = seen.keys().filter(|name| !picture.nodes.contains_key(*name)).cloned().collect();
    for name in gone {
        seen.remove(&name);
        let mut node = Node::default();
        node.meta.name = name.clone();
        node.meta.uid = name.clone();
        work.events.push(event(&node, "RemovingNode", format!("Node {name} event: Removing Node {name} from Controller")));
    }
    for (name, node) in &picture.nodes {
        let lease = picture.node_lease(name);
        let ready = node.condition("Ready");
        let said = Seen {
            renewed: lease.and_then(|lease| lease.renew_time),
            heartbeat: ready.and_then(|ready| ready.last_heartbeat_time),
            status: ready.map(|ready| ready.status.clone()),
            at: now,
            marked: false,
        };
        let Some(last) = seen.get_mut(name) else {
            work.events.push(event(node, "RegisteredNode", format!("Node {name} event: Registered Node {name} in Controller")));
            seen.insert(name.clone(), said);
            continue;
        };
        // Our own Unknown is not a sign of life.
        let is_ours = ready.is_some_and(|ready| &*ready.status == "Unknown");
        if last.renewed != said.renewed || !is_ours && (last.heartbeat != said.heartbeat || last.status != said.status) {
            *last = said;
            continue;
        }
        let promised = lease.map_or(0, |lease| lease.duration_seconds);
        let grace = settings.grace_period.max(SignedDuration::from_secs(promised) * 2);
        if now.duration_since(last.at) <= grace {
            continue;
        }
        if let Some(request) = unknown(node, now) {
            conditions.push(request);
            if node.is_ready() {
                work.events.push(event(node, "NodeNotReady", format!("Node {name} status is now: NodeNotReady")));
            }
        }
        if !std::mem::replace(&mut last.marked, true) {
            pods.extend(picture.pods_on(name).filter(|pod| pod.node.is_some() && pod.is_ready()).map(|pod| not_ready(pod, now)));
        }
    }
    work.steps = vec![Step { independent: true, ..Step::all_at_once(conditions) }, Step { independent: true, ..Step::all_at_once(pods) }];
    work
}

/// Sets the conditions of a silent node to Unknown; None when they are.
fn unknown(node: &Node, now: Timestamp) -> Option<Request> {
    let changed: Vec<Value> = CONDITIONS.iter().filter_map(|kind| unknown_condition(kind, node.condition(kind), now)).collect();
    let patch = json!({"metadata": {"uid": node.meta.uid}, "status": {"conditions": changed}});
    (!changed.is_empty()).then(|| Request::new(NODES, node.meta.key(), Verb::Strategic(patch)).on("status"))
}

fn unknown_condition(kind: &str, current: Option<&NodeCondition>, now: Timestamp) -> Option<Value> {
    let (reason, message) = match current {
        Some(current) if &*current.status == "Unknown" => return None,
        Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
        None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
    };
    let now = format_time(now);
    let heartbeat = current.and_then(|current| current.last_heartbeat_time);
    let heartbeat = heartbeat.map_or_else(|| now.clone(), format_time);
    Some(json!({
        "type": kind, "status": "Unknown", "reason": reason, "message": message,
        "lastHeartbeatTime": heartbeat, "lastTransitionTime": now,
    }))
}

/// No agent is there any more that could say that the pod is ready.
fn not_ready(pod: &Pod, now: Timestamp) -> Request {
    let now = format_time(now);
    let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": now});
    let patch = json!({"metadata": {"uid": pod.meta.uid}, "status": {"conditions": [condition]}});
    let told = Event {
        about: Regarding::of(PODS, &pod.meta),
        event_type: EventType::Warning,
        reason: "NodeNotReady".into(),
        message: "Node is not ready".to_owned(),
        action: None,
        component: super::COMPONENT,
        host: None,
    };
    Request::new(PODS, pod.meta.key(), Verb::Strategic(patch)).on("status").reporting(Some(told), None)
}
