//! What must never be, and what must be at the end. Stated over the server's objects, without
//! asking the deciders.

use std::collections::BTreeMap;
use std::fmt;

use brain::model::Key;
use brain::pretend::Server;
use brain::request::{DAEMON_SETS, NODES, PODS, REVISIONS};
use serde_json::Value;

use crate::people::STRANGER;

/// What is wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// More pods of a set on a node than may be.
    Crowd { set: String, node: String, pods: usize },
    /// A pod without an owner was changed or removed.
    StrangerTouched,
    /// Two nodes have the same range of pod addresses.
    SharedRange { range: String, nodes: [String; 2] },
    /// Two revisions of a set have the same number.
    SameNumber { set: String, number: i64 },
    /// It never came to rest.
    Restless,
    /// It came to rest, but not right.
    Unsettled(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Crowd { set, node, pods } => write!(f, "{pods} pods of {set} on {node}"),
            Finding::StrangerTouched => f.write_str("the pod without an owner was touched"),
            Finding::SharedRange { range, nodes: [a, b] } => write!(f, "{a} and {b} have the same range {range}"),
            Finding::SameNumber { set, number } => write!(f, "two revisions of {set} have the number {number}"),
            Finding::Restless => f.write_str("the cluster does not come to rest"),
            Finding::Unsettled(what) => write!(f, "the cluster came to rest, but {what}"),
        }
    }
}

/// Remembers what must stay as it was.
#[derive(Debug, Default)]
pub struct Judge {
    stranger: Option<Value>,
}

/// Pods of one set on a node that may live at the same time: the old and the new one while surging.
/// A change of strategy in the middle of an update leaves two where one is allowed until the next
/// plan, so that two are allowed to all.
const LIVE_PODS_MAX: usize = 2;

impl Judge {
    /// After every step.
    pub fn safe(&mut self, server: &Server) -> Result<(), Finding> {
        let stranger = server.get(PODS, &Key::new("default", STRANGER)).map(|pod| Value::clone(pod));
        match (&self.stranger, stranger) {
            (Some(before), now) if now.as_ref() != Some(before) => return Err(Finding::StrangerTouched),
            (None, now) => self.stranger = now,
            _ => {}
        }
        let mut ranges = BTreeMap::new();
        for (key, node) in server.list(NODES) {
            let Some(range) = node["spec"]["podCIDR"].as_str() else { continue };
            if let Some(other) = ranges.insert(range, &key.name) {
                return Err(Finding::SharedRange { range: range.to_owned(), nodes: [other.to_string(), key.name.to_string()] });
            }
        }
        let mut crowds: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (_, pod) in server.list(PODS).filter(|(_, pod)| is_live(pod)) {
            if let (Some(owner), Some(node)) = (owner_uid(pod), node_of(pod)) {
                *crowds.entry((owner, node)).or_default() += 1;
            }
        }
        for ((set, node), pods) in crowds {
            if pods > LIVE_PODS_MAX || pods > 1 && !ever_surged(server, &set) {
                return Err(Finding::Crowd { set, node, pods });
            }
        }
        Ok(())
    }

    /// At the end: every node that should run a pod runs exactly one, ready and of the current
    /// template; no other node runs one. Every node has a range of pod addresses.
    pub fn settled(&self, server: &Server) -> Result<(), Finding> {
        let unsettled = |what: String| Err(Finding::Unsettled(what));
        for (key, set) in server.list(DAEMON_SETS) {
            if set["metadata"].get("deletionTimestamp").is_some() {
                return unsettled(format!("{key} is still being deleted"));
            }
            numbers_differ(server, set)?;
            let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
            // With OnDelete people decide; and a pod that nothing has room for uses up the budget
            // of an update for good.
            let stuck = pods_of(server, set).any(|pod| pod["spec"].get("nodeName").is_none());
            let may_be_old = set["spec"]["updateStrategy"]["type"] == "OnDelete" || stuck;
            let mut desired = 0;
            for (node_key, node) in server.list(NODES) {
                let here: Vec<&Value> = pods_of(server, set).filter(|pod| node_of(pod).as_deref() == Some(&*node_key.name)).collect();
                match effect(node) {
                    None => {
                        desired += 1;
                        // Two sets may ask for more than a node has: then the new pod waits, beside
                        // the old one while surging.
                        let (bound, waiting): (Vec<&Value>, Vec<&Value>) =
                            here.iter().partition(|pod| pod["spec"].get("nodeName").is_some());
                        match (bound.as_slice(), waiting.as_slice()) {
                            ([pod], _) if !is_ready(pod) => return unsettled(format!("the pod of {key} on {node_key} is not ready")),
                            ([pod], []) if !may_be_old && pod["spec"]["containers"][0]["image"] != *image && !is_adopted(pod, set) => {
                                return unsettled(format!("the pod of {key} on {node_key} is of an old template"));
                            }
                            ([_], []) | ([], [_]) => {}
                            ([_], [_]) if ever_surged(server, &uid(set)) => {}
                            _ => return unsettled(format!("{} pods of {key} on {node_key}", here.len())),
                        }
                    }
                    Some("NoExecute") if !here.is_empty() => {
                        return unsettled(format!("{key} runs on {node_key}, which is tainted NoExecute"));
                    }
                    Some(_) => {}
                }
            }
            if set["status"]["desiredNumberScheduled"] != desired || set["status"]["observedGeneration"] != set["metadata"]["generation"] {
                return unsettled(format!("the status of {key} is {}, with {desired} nodes to run on", set["status"]));
            }
        }
        if let Some((key, _)) = server.list(NODES).find(|(_, node)| node["spec"].get("podCIDR").is_none()) {
            return unsettled(format!("{key} has no range of pod addresses"));
        }
        let owners: Vec<String> = server.list(DAEMON_SETS).map(|(_, set)| uid(set)).collect();
        match server.list(PODS).find(|(_, pod)| owner_uid(pod).is_some_and(|owner| !owners.contains(&owner))) {
            Some((key, _)) => unsettled(format!("{key} has outlived its set")),
            None => Ok(()),
        }
    }
}

fn numbers_differ(server: &Server, set: &Value) -> Result<(), Finding> {
    let mut seen = Vec::new();
    for (_, revision) in server.list(REVISIONS).filter(|(_, revision)| owner_uid(revision).as_deref() == Some(&*uid(set))) {
        let number = revision["revision"].as_i64().unwrap_or(0);
        if seen.contains(&number) {
            return Err(Finding::SameNumber { set: uid(set), number });
        }
        seen.push(number);
    }
    Ok(())
}

/// The strongest of the taints that daemon pods do not tolerate. Nodes that are dead have none at
/// the end: all are brought back.
fn effect(node: &Value) -> Option<&str> {
    let taints = node["spec"]["taints"].as_array().map(Vec::as_slice).unwrap_or_default();
    let effects = taints.iter().filter(|taint| taint["key"] == "maint").filter_map(|taint| taint["effect"].as_str());
    effects.min_by_key(|effect| *effect != "NoExecute")
}

/// Was the set allowed a second pod on a node at some time?
fn ever_surged(server: &Server, set_uid: &str) -> bool {
    let surges = |object: &Value| {
        let surge = &object["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"];
        !surge.is_null() && *surge != 0
    };
    server.log.iter().filter(|event| event.resource == DAEMON_SETS).any(|event| event.object.as_ref().is_some_and(|set| uid(set) == set_uid && surges(set)))
        // Pods that were adopted may be two already.
        || server.log.iter().any(|event| event.resource == DAEMON_SETS && event.object.as_ref().is_some_and(|set| set["metadata"]["finalizers"][0] == "orphan"))
}

/// Adopted pods count as current when their template generation is the set's, whatever their
/// template was.
fn is_adopted(pod: &Value, set: &Value) -> bool {
    pod["metadata"]["labels"]["pod-template-generation"] == set["metadata"]["annotations"]["deprecated.daemonset.template.generation"]
}

fn pods_of<'a>(server: &'a Server, set: &Value) -> impl Iterator<Item = &'a Value> {
    let uid = uid(set);
    server.list(PODS).map(|(_, pod)| &**pod).filter(move |pod| owner_uid(pod).as_deref() == Some(&*uid))
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn owner_uid(object: &Value) -> Option<String> {
    object["metadata"]["ownerReferences"][0]["uid"].as_str().map(str::to_owned)
}

/// The node that a pod is on or pinned to.
fn node_of(pod: &Value) -> Option<String> {
    let pinned = pod
        .pointer("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0");
    pod["spec"]["nodeName"].as_str().or(pinned.and_then(Value::as_str)).map(str::to_owned)
}

fn is_live(pod: &Value) -> bool {
    pod["metadata"].get("deletionTimestamp").is_none() && !matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"))
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// An object in a few words, for traces.
pub fn describe(object: &Value) -> String {
    let mut words = Vec::new();
    if object["metadata"].get("deletionTimestamp").is_some() {
        words.push("deleted".to_owned());
    }
    if let Some(node) = node_of(object) {
        words.push(format!("on {node}{}", if object["spec"].get("nodeName").is_some() { "" } else { " (pinned)" }));
    }
    for field in [
        "/status/phase",
        "/metadata/labels/controller-revision-hash",
        "/spec/template/spec/containers/0/image",
        "/spec/taints",
        "/spec/updateStrategy",
    ] {
        if let Some(value) = object.pointer(field) {
            words.push(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
    }
    if is_ready(object) {
        words.push("ready".to_owned());
    }
    words.join(" ")
}
