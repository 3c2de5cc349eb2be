//! Removes pods that no other component can remove: of nodes that are gone, deleted before they had
//! a node, on nodes declared out of service, and ended ones when there are too many.
//!
//! After `pkg/controller/podgc`.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kinds::decode::format_time;
use serde_json::json;

use crate::controller::{Controller, Step, Work};
use crate::model::{Key, Node, Pod};
use crate::picture::{Change, Object, Picture};
use crate::request::{NODES, PODS, Request, Verb};

/// A node that is gone may come back this long: what deletes it and makes it anew must not lose its
/// pods.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);

/// Ended pods beyond this number go, oldest first.
const ENDED_MAX: usize = 12_500;

/// How often ended pods are counted.
const COUNT_PERIOD: SignedDuration = SignedDuration::from_secs(20);

/// Removals of one plan.
const REMOVALS_MAX: usize = 500;

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The key of the pass over ended pods; other keys are names of nodes, or empty for pods without
/// one.
const ENDED: &str = "ended";

#[derive(Debug, Default)]
pub struct PodGc {
    /// Nodes that are gone, and when that was noticed.
    missing: BTreeMap<Arc<str>, Timestamp>,
}

impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn concerns(&mut self, picture: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        let node_key = |name: &Arc<str>| Key { namespace: "".into(), name: name.clone() };
        match (&change.old, &change.new) {
            (Some(Object::Node(node)), None) => add(node_key(&node.meta.name)),
            (_, Some(Object::Node(node))) if self.missing.remove(&node.meta.name).is_some() || is_out_of_service(node) => {
                add(node_key(&node.meta.name));
            }
            (_, Some(Object::Pod(pod))) => match &pod.node {
                None if pod.meta.is_deleted() => add(Key::default()),
                Some(node) if picture.nodes.get(node).is_none_or(|node| is_out_of_service(node)) => add(node_key(node)),
                _ if pod.is_terminal() => add(Key::new(ENDED, "")),
                _ => {}
            },
            _ => {}
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, now: Timestamp) -> Work {
        if *key.namespace == *ENDED {
            return plan_ended(picture, now);
        }
        if key.name.is_empty() {
            let deleted = picture.pods.values().filter(|pod| pod.node.is_none() && pod.meta.is_deleted());
            return removals(deleted, None, Vec::new(), now);
        }
        let here = picture.pods_on(&key.name).filter(|pod| pod.node.is_some());
        match picture.nodes.get(&key.name) {
            Some(node) if is_out_of_service(node) => {
                let text = "PodGC: node is out-of-service";
                removals(here.filter(|pod| pod.meta.is_deleted()), Some(text), Vec::new(), now)
            }
            Some(_) => Work::default(),
            None => {
                let since = *self.missing.entry(key.name.clone()).or_insert(now);
                if now < since + QUARANTINE {
                    return Work { wake_at: Some(since + QUARANTINE), ..Work::default() };
                }
                // The picture may be old: ask the server whether the node is really gone.
                let gone = Request::new(NODES, key.clone(), Verb::CheckGone { uid: "".into() });
                let work = removals(here, Some("PodGC: node no longer exists"), vec![gone], now);
                if work.is_empty() {
                    self.missing.remove(&key.name);
                }
                work
            }
        }
    }
}

/// Declared so by hand, and not ready: nothing of it runs any more.
fn is_out_of_service(node: &Node) -> bool {
    !node.is_ready() && node.taints.iter().any(|taint| &*taint.key == OUT_OF_SERVICE)
}

fn plan_ended(picture: &Picture, now: Timestamp) -> Work {
    let mut ended: Vec<&Arc<Pod>> = picture.pods.values().filter(|pod| pod.is_terminal() && !pod.meta.is_deleted()).collect();
    if ended.len() <= ENDED_MAX {
        return Work::default();
    }
    ended.sort_by_key(|pod| (pod.meta.creation_timestamp, pod.meta.key()));
    let excess = ended.len() - ENDED_MAX;
    Work { wake_at: Some(now + COUNT_PERIOD), ..removals(ended.into_iter().take(excess), None, Vec::new(), now) }
}

/// Deletes pods with no grace, after those that still seem to run were marked as failed.
fn removals<'a>(pods: impl Iterator<Item = &'a Arc<Pod>>, message: Option<&str>, checks: Vec<Request>, now: Timestamp) -> Work {
    let (mut marks, mut deletions, mut more) = (Vec::new(), Vec::new(), false);
    for pod in pods {
        if deletions.len() == REMOVALS_MAX {
            more = true;
            break;
        }
        if let Some(message) = message.filter(|_| !pod.is_terminal()) {
            marks.push(mark(pod, message, now));
        }
        let verb = Verb::Delete { uid: Some(pod.meta.uid.clone()), resource_version: None, grace_seconds: Some(0), propagation: None };
        deletions.push(Request::new(PODS, pod.meta.key(), verb));
    }
    if deletions.is_empty() {
        return Work::default();
    }
    let independent = |requests| Step { independent: true, ..Step::all_at_once(requests) };
    Work { steps: vec![Step::all_at_once(checks), independent(marks), independent(deletions)], more, ..Work::default() }
}

fn mark(pod: &Pod, message: &str, now: Timestamp) -> Request {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": message,
        "lastTransitionTime": format_time(now),
    });
    let patch = json!({"metadata": {"uid": pod.meta.uid}, "status": {"phase": "Failed", "conditions": [condition]}});
    Request::new(PODS, pod.meta.key(), Verb::Strategic(patch)).on("status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{at, now, picture};

    fn paths(work: &Work) -> Vec<String> {
        work.steps.iter().flat_map(|step| &step.requests).map(|request| format!("{} {}", request.body().0, request.path())).collect()
    }

    #[test]
    fn pods_of_a_node_that_is_gone_are_removed_after_the_quarantine() {
        let picture = picture("node b; pod p@a; pod q@b");
        let (mut gc, key) = (PodGc::default(), Key::new("", "a"));
        assert_eq!(gc.plan(&picture, &key, now()).wake_at, Some(at(40)));
        assert_eq!(paths(&gc.plan(&picture, &key, at(39))), Vec::<String>::new());
        assert_eq!(
            paths(&gc.plan(&picture, &key, at(40))),
            ["GET /api/v1/nodes/a", "PATCH /api/v1/namespaces/ns/pods/p/status", "DELETE /api/v1/namespaces/ns/pods/p"]
        );
    }

    #[test]
    fn pods_that_never_had_a_node_go_when_they_are_deleted() {
        let picture = picture("node a; pod p@a unbound deleting; pod q@a unbound");
        assert_eq!(paths(&PodGc::default().plan(&picture, &Key::default(), now())), ["DELETE /api/v1/namespaces/ns/pods/p"]);
    }

    #[test]
    fn deleted_pods_of_a_node_out_of_service_are_removed() {
        let picture = picture("node a notready taint=node.kubernetes.io/out-of-service:NoExecute; pod p@a deleting; pod q@a");
        let paths = paths(&PodGc::default().plan(&picture, &Key::new("", "a"), now()));
        assert_eq!(paths, ["PATCH /api/v1/namespaces/ns/pods/p/status", "DELETE /api/v1/namespaces/ns/pods/p"]);
    }
}
