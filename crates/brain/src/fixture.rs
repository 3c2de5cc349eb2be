//! Small clusters from text, for tests: `node a notready taint=k=v:NoSchedule label=x=y; ds web
//! rev=2 maxUnavailable=1; pod p@a rev=1 ready`.
//!
//! All objects live in the namespace `ns`. A set's template of revision N has the image `app:N` and
//! the revision object `SET-hN`. Times are seconds after [`NOW`].

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::model::{ControllerRevision, DaemonSet, Node, Pod};
use crate::picture::{Object, Picture};

/// The present of all fixtures.
pub const NOW: i64 = 1_000_000;

pub fn now() -> Timestamp {
    at(0)
}

/// Seconds after the present.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).expect("a time near the epoch")
}

/// The cluster that a text describes.
pub fn picture(text: &str) -> Picture {
    let mut picture = Picture::default();
    for item in text.split([';', '\n']).map(str::trim).filter(|item| !item.is_empty()) {
        let mut words = item.split_whitespace();
        let (kind, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let words: Vec<&str> = words.collect();
        match kind {
            "node" => drop(picture.put(Object::Node(Arc::new(node(name, &words))))),
            "ds" => {
                let set = daemon_set(name, &words);
                for revision in known_revisions(&set, &words) {
                    picture.put(Object::ControllerRevision(Arc::new(revision)));
                }
                picture.put(Object::DaemonSet(Arc::new(set)));
            }
            "pod" => drop(picture.put(Object::Pod(Arc::new(pod(name, &words))))),
            _ => panic!("unknown item {item}"),
        }
    }
    picture
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).expect("fixtures are well formed"))
}

pub fn node(name: &str, words: &[&str]) -> Node {
    let mut node = json!({"metadata": {"name": name, "labels": {}}, "spec": {"taints": []},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}, "conditions": [{"type": "Ready", "status": "True"}]}});
    for word in words {
        match word.split_once('=') {
            None if *word == "notready" => node["status"]["conditions"][0]["status"] = json!("False"),
            None if *word == "cordoned" => {
                node["spec"]["unschedulable"] = json!(true);
                push(&mut node["spec"]["taints"], json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}));
            }
            Some(("taint", taint)) => {
                let (key, effect) = taint.split_once(':').expect("taint=KEY[=VALUE]:EFFECT");
                let (key, value) = key.split_once('=').unwrap_or((key, ""));
                push(&mut node["spec"]["taints"], json!({"key": key, "value": value, "effect": effect}));
            }
            Some(("label", label)) => {
                let (key, value) = label.split_once('=').expect("label=KEY=VALUE");
                node["metadata"]["labels"][key] = json!(value);
            }
            Some(("podCIDR", range)) => node["spec"]["podCIDRs"] = json!([range]),
            _ => panic!("unknown word {word} of a node"),
        }
    }
    Arc::unwrap_or_clone(read(node))
}

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().expect("a list").push(item);
}

/// The template of a revision.
pub fn template(revision: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": format!("app:{revision}")}]}})
}

pub fn daemon_set(name: &str, words: &[&str]) -> DaemonSet {
    let mut set = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("{name}-uid"), "generation": 1, "annotations": {}},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template("1"), "updateStrategy": {"type": "RollingUpdate"}},
    });
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<i64>().map_or_else(|_| json!(value), |number| json!(number));
        match key {
            "rev" => set["spec"]["template"] = template(value),
            "known" => {}
            "generation" => set["metadata"]["annotations"]["deprecated.daemonset.template.generation"] = json!(value),
            "maxUnavailable" | "maxSurge" => set["spec"]["updateStrategy"]["rollingUpdate"][key] = number(),
            "minReady" => set["spec"]["minReadySeconds"] = number(),
            "limit" => set["spec"]["revisionHistoryLimit"] = number(),
            "collisions" => set["status"]["collisionCount"] = number(),
            "onDelete" => set["spec"]["updateStrategy"] = json!({"type": "OnDelete"}),
            "deleting" => set["metadata"]["deletionTimestamp"] = json!(now().to_string()),
            "selectAll" => set["spec"]["selector"] = json!({}),
            "select" => {
                let (label, wanted) = value.split_once('=').expect("select=KEY=VALUE");
                set["spec"]["template"]["spec"]["nodeSelector"][label] = json!(wanted);
            }
            "hostNetwork" => set["spec"]["template"]["spec"]["hostNetwork"] = json!(true),
            "nodeName" => set["spec"]["template"]["spec"]["nodeName"] = json!(value),
            "affinity" => {
                let (label, wanted) = value.split_once('=').expect("affinity=KEY=VALUE");
                let terms = json!([{"matchExpressions": [{"key": label, "operator": "In", "values": [wanted]}]}]);
                let required = "requiredDuringSchedulingIgnoredDuringExecution";
                set["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][required] = json!({"nodeSelectorTerms": terms});
            }
            "field" => {
                let terms = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [value]}]}]);
                let required = "requiredDuringSchedulingIgnoredDuringExecution";
                set["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][required] = json!({"nodeSelectorTerms": terms});
            }
            "tolerate" => {
                let (taint, effect) = value.split_once(':').unwrap_or((value, ""));
                let list = json!([{"key": taint, "operator": "Exists", "effect": effect}]);
                set["spec"]["template"]["spec"]["tolerations"] = list;
            }
            _ => panic!("unknown word {word} of a set"),
        }
    }
    Arc::unwrap_or_clone(read(set))
}

/// Revision objects: 1 up to the template's own number, or those of `known=1,2`.
fn known_revisions(set: &DaemonSet, words: &[&str]) -> Vec<ControllerRevision> {
    let word = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let own = word("rev").unwrap_or("1").to_owned();
    let numbers: Vec<String> = match word("known") {
        Some("none") => Vec::new(),
        Some(list) => list.split(',').map(str::to_owned).collect(),
        None => match own.parse::<i64>() {
            Ok(own) => (1..=own).map(|number| number.to_string()).collect(),
            Err(_) => vec![own],
        },
    };
    numbers.iter().enumerate().map(|(at, number)| revision(set, number, at as i64 + 1)).collect()
}

/// The revision object of a set's template of that name.
pub fn revision(set: &DaemonSet, template_name: &str, number: i64) -> ControllerRevision {
    let mut template = Value::clone(&set.template);
    template["spec"]["containers"][0]["image"] = json!(format!("app:{template_name}"));
    template["$patch"] = json!("replace");
    let hash = format!("h{template_name}");
    Arc::unwrap_or_clone(read(json!({
        "metadata": {"name": format!("{}-{hash}", set.meta.name), "namespace": "ns", "uid": format!("rev-{hash}"),
            "labels": {"app": "web", "controller-revision-hash": hash}, "ownerReferences": [owner(&set.meta.name)]},
        "data": {"spec": {"template": template}}, "revision": number,
    })))
}

fn owner(set: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": set, "uid": format!("{set}-uid"), "controller": true, "blockOwnerDeletion": true})
}

/// `pod NAME@NODE ...`; the owner is the set `web` unless `owner=` says otherwise.
pub fn pod(name: &str, words: &[&str]) -> Pod {
    let (name, node) = name.split_once('@').expect("pod NAME@NODE");
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("{name}-uid"), "labels": {"app": "web", "controller-revision-hash": "h1"},
            "creationTimestamp": at(-1000).to_string(), "ownerReferences": [owner("web")]},
        "spec": {"nodeName": node, "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "conditions": []},
    });
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "rev" => pod["metadata"]["labels"]["controller-revision-hash"] = json!(format!("h{value}")),
            "generation" => pod["metadata"]["labels"]["pod-template-generation"] = json!(value),
            "nohash" => drop(pod["metadata"]["labels"].as_object_mut().and_then(|labels| labels.remove("controller-revision-hash"))),
            "ready" => {
                let since = at(-value.parse::<i64>().unwrap_or(500)).to_string();
                pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
            }
            "pending" => pod["status"]["phase"] = json!("Pending"),
            "failed" => pod["status"]["phase"] = json!("Failed"),
            "succeeded" => pod["status"]["phase"] = json!("Succeeded"),
            "deleting" => pod["metadata"]["deletionTimestamp"] = json!(now().to_string()),
            "age" => pod["metadata"]["creationTimestamp"] = json!(at(-value.parse::<i64>().expect("age=SECONDS")).to_string()),
            "orphan" => pod["metadata"]["ownerReferences"] = json!([]),
            "owner" => pod["metadata"]["ownerReferences"] = json!([owner(value)]),
            "label" => pod["metadata"]["labels"] = json!({"app": value}),
            "unbound" => {
                drop(pod["spec"].as_object_mut().and_then(|spec| spec.remove("nodeName")));
                let terms = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]);
                let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
                pod["spec"]["affinity"] = json!({"nodeAffinity": required});
                pod["status"]["phase"] = json!("Pending");
            }
            _ => panic!("unknown word {word} of a pod"),
        }
    }
    Arc::unwrap_or_clone(read(pod))
}
