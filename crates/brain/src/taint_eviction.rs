//! Evicts the pods that do not tolerate a node's NoExecute taints: at once, or after the seconds
//! that they tolerate them.
//!
//! After `pkg/controller/tainteviction`. The seconds are counted from the time at which the taint
//! was added, so that a restart of the controller does not give pods more of them. Taints that
//! people set do not say that time: then it is when the pod was first seen with the taint.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kinds::decode::format_time;
use serde_json::json;

use crate::controller::{Controller, Step, Work};
use crate::model::{Key, Node, Pod, Taint};
use crate::picture::{Change, Object, Picture};
use crate::placement::tolerates;
use crate::request::{Event, EventType, PODS, Regarding, Request, Verb};

const COMPONENT: &str = "taint-eviction-controller";

/// Evictions of one plan.
const EVICTIONS_MAX: usize = 500;

/// When pods that tolerate a node's taints for some seconds were first seen with them, by uid.
type FirstSeen = BTreeMap<Arc<str>, Timestamp>;

#[derive(Debug, Default)]
pub struct TaintEviction {
    /// By node; only nodes with taints that evict.
    bearing: BTreeMap<Arc<str>, FirstSeen>,
}

impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn concerns(&mut self, picture: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        let evicts = |name: &str| picture.nodes.get(name).is_some_and(|node| evicting(node).next().is_some());
        match (&change.old, &change.new) {
            (old, Some(Object::Node(node))) if evicts(&node.meta.name) => {
                let same = matches!(old, Some(Object::Node(old)) if old.taints == node.taints);
                if !same {
                    add(node.meta.key());
                }
            }
            // The same taint set again is a new one.
            (_, Some(Object::Node(node))) | (Some(Object::Node(node)), None) => drop(self.bearing.remove(&node.meta.name)),
            (_, Some(Object::Pod(pod))) => {
                if let Some(node) = pod.node.as_ref().filter(|node| evicts(node)) {
                    add(Key { namespace: "".into(), name: node.clone() });
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, now: Timestamp) -> Work {
        let Some(node) = picture.nodes.get(&key.name).filter(|node| evicting(node).next().is_some()) else { return Work::default() };
        let before = self.bearing.remove(&key.name).unwrap_or_default();
        let (work, bearing) = plan(picture, node, &before, now);
        if !bearing.is_empty() {
            self.bearing.insert(key.name.clone(), bearing);
        }
        work
    }
}

fn evicting(node: &Node) -> impl Iterator<Item = &Taint> {
    node.taints.iter().filter(|taint| &*taint.effect == "NoExecute")
}

/// When a pod has to leave: None when never.
fn leaves_at(pod: &Pod, node: &Node, first_seen: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let mut earliest = None;
    for taint in evicting(node) {
        let bearing: Vec<_> = pod.spec.tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if bearing.is_empty() {
            return Some(now);
        }
        // Of several tolerations of a taint the shortest counts; without seconds it is borne for
        // ever.
        let seconds = bearing.iter().filter_map(|toleration| toleration.toleration_seconds).min();
        if let Some(seconds) = seconds {
            // A pod that came later has borne the taint since then.
            let since = taint.time_added.map_or(first_seen, |added| pod.meta.creation_timestamp.map_or(added, |made| made.max(added)));
            let at = since.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
            earliest = Some(earliest.map_or(at, |other: Timestamp| other.min(at)));
        }
    }
    earliest
}

fn plan(picture: &Picture, node: &Node, before: &FirstSeen, now: Timestamp) -> (Work, FirstSeen) {
    let (mut work, mut bearing) = (Work::default(), FirstSeen::new());
    let (mut marks, mut deletions) = (Vec::new(), Vec::new());
    let here = picture.pods_on(&node.meta.name).filter(|pod| pod.node.is_some() && !pod.meta.is_deleted() && !pod.is_terminal());
    for pod in here {
        let first_seen = before.get(&pod.meta.uid).copied().unwrap_or(now);
        let leaves_at = leaves_at(pod, node, first_seen, now);
        if leaves_at.is_some() {
            bearing.insert(pod.meta.uid.clone(), first_seen);
        }
        match leaves_at {
            Some(at) if at > now => work.wake_at = Some(work.wake_at.map_or(at, |other| other.min(at))),
            Some(_) if deletions.len() < EVICTIONS_MAX => {
                marks.push(mark(pod, now));
                deletions.push(Request::delete(PODS, &pod.meta));
                work.events.push(event(pod));
            }
            Some(_) => work.more = true,
            None => {}
        }
    }
    work.steps = vec![Step { independent: true, ..Step::all_at_once(marks) }, Step { independent: true, ..Step::all_at_once(deletions) }];
    (work, bearing)
}

fn mark(pod: &Pod, now: Timestamp) -> Request {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": format_time(now),
    });
    let patch = json!({"metadata": {"uid": pod.meta.uid}, "status": {"conditions": [condition]}});
    Request::new(PODS, pod.meta.key(), Verb::Strategic(patch)).on("status")
}

fn event(pod: &Pod) -> Event {
    Event {
        about: Regarding::of(PODS, &pod.meta),
        event_type: EventType::Normal,
        reason: "TaintManagerEviction".into(),
        message: format!("Marking for deletion Pod {}", pod.meta.key()),
        action: None,
        component: COMPONENT,
        host: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{at, now, picture};
    use crate::model::Toleration;

    fn tolerant(seconds: Option<i64>) -> Pod {
        let mut pod = crate::fixture::pod("p@a", &[]);
        let toleration = Toleration { key: "k".into(), operator: "Exists".into(), toleration_seconds: seconds, ..Toleration::default() };
        std::sync::Arc::make_mut(&mut pod.spec).tolerations = vec![toleration];
        pod
    }

    fn tainted() -> Node {
        let mut node = crate::fixture::node("a", &["taint=k:NoExecute"]);
        node.taints[0].time_added = Some(now());
        node
    }

    fn leaves(pod: &Pod, node: &Node) -> Option<Timestamp> {
        leaves_at(pod, node, at(2), at(3))
    }

    #[test]
    fn a_pod_that_does_not_tolerate_the_taint_leaves_at_once() {
        assert_eq!(leaves(&crate::fixture::pod("p@a", &[]), &tainted()), Some(at(3)));
    }

    #[test]
    fn a_pod_that_bears_the_taint_for_a_while_leaves_then() {
        assert_eq!(leaves(&tolerant(Some(300)), &tainted()), Some(at(300)));
        assert_eq!(leaves(&tolerant(None), &tainted()), None);
    }

    #[test]
    fn a_pod_that_came_after_the_taint_has_its_seconds_from_then() {
        let mut pod = tolerant(Some(300));
        pod.meta.creation_timestamp = Some(at(60));
        assert_eq!(leaves(&pod, &tainted()), Some(at(360)));
    }

    /// `kubectl taint` does not say when: every plan counted anew, and the time never came.
    #[test]
    fn a_taint_without_its_time_evicts_too() {
        let mut picture = picture("node a taint=k:NoExecute; pod p@a");
        let pod = tolerant(Some(3));
        let key = pod.meta.key();
        picture.pods.insert(key.clone(), Arc::new(pod));
        let mut controller = TaintEviction::default();
        let mut plan = |seconds| controller.plan(&picture, &Key::new("", "a"), at(seconds));
        assert_eq!(plan(0).wake_at, Some(at(3)));
        assert_eq!((plan(1).wake_at, plan(1).is_empty()), (Some(at(3)), true));
        assert!(!plan(3).is_empty());
    }

    #[test]
    fn evicted_pods_are_marked_before_they_are_deleted() {
        let picture = picture("node a taint=k:NoExecute; pod p@a; pod q@a deleting");
        let work = TaintEviction::default().plan(&picture, &Key::new("", "a"), now());
        let paths: Vec<String> = work.steps.iter().flat_map(|step| &step.requests).map(Request::path).collect();
        assert_eq!(paths, ["/api/v1/namespaces/ns/pods/p/status", "/api/v1/namespaces/ns/pods/p"]);
    }
}
