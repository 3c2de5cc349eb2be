//! The pods of a set: their names and what is in them.

use serde_json::{Map, Value, json};

use super::{GENERATION_LABEL, HASH_LABEL};
use crate::model::{DaemonSet, Meta, PodSpec, Toleration};

/// Characters of Kubernetes' generated suffixes.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;

/// Longer set names are cut, as the server does for generated names.
const NAME_BASE_LEN_MAX: usize = 58;

/// What tells a pod of a set from all others.
#[derive(Debug, Clone, Copy)]
pub struct PodIdentity<'a> {
    pub set: &'a Meta,
    pub node: &'a str,
    /// Of the set's template.
    pub hash: &'a str,
    /// Counts the pods of that template on that node.
    pub attempt: u32,
}

/// `SET-xxxxx`, derived: the same for the same identity, so that making a pod twice makes it once.
pub fn pod_name(pod: PodIdentity<'_>) -> String {
    let mut digest = fnv1a_64(&[&pod.set.uid, pod.node, pod.hash, &pod.attempt.to_string()]);
    let base: String = format!("{}-", pod.set.name).chars().take(NAME_BASE_LEN_MAX).collect();
    let suffix = (0..SUFFIX_LEN).map(|_| {
        let at = usize::try_from(digest % ALPHABET.len() as u64).expect("27 fits");
        digest /= ALPHABET.len() as u64;
        char::from(ALPHABET[at])
    });
    base.chars().chain(suffix).collect()
}

/// 64-bit FNV-1a over the parts, each ended by a zero byte, and stirred: its low bits are close to
/// each other for short inputs.
fn fnv1a_64(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 11
}

/// The taints that daemon pods tolerate and that keep ordinary pods away: key, effect.
const TOLERATIONS: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// A pod that brings the node's network may start before there is one.
const HOST_NETWORK_TOLERATION: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

fn tolerations(host_network: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    TOLERATIONS.into_iter().chain(host_network.then_some(HOST_NETWORK_TOLERATION))
}

/// The spec that decides where the set's pods may be: the template's with the tolerations of daemon
/// pods.
pub fn running_spec(template: &PodSpec) -> PodSpec {
    let mut spec = template.clone();
    for (key, effect) in tolerations(spec.host_network) {
        let toleration = Toleration { key: key.into(), operator: "Exists".into(), effect: effect.into(), ..Toleration::default() };
        replace_or_add(&mut spec.tolerations, toleration, |a, b| {
            a.key == b.key && a.effect == b.effect && a.operator == b.operator && a.value == b.value
        });
    }
    spec
}

/// Upstream's rule for adding a toleration: one that matches it is replaced.
fn replace_or_add<T>(list: &mut Vec<T>, new: T, same: impl Fn(&T, &T) -> bool) {
    match list.iter_mut().find(|old| same(old, &new)) {
        Some(old) => *old = new,
        None => list.push(new),
    }
}

/// The pod object of the set for a node. The template's node names are replaced, its other
/// requirements stay.
pub fn daemon_pod(set: &DaemonSet, node: &str, name: &str, hash: &str) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(name));
    metadata.insert("generateName".to_owned(), json!(format!("{}-", set.meta.name)));
    metadata.insert("namespace".to_owned(), json!(set.meta.namespace));
    metadata.insert("labels".to_owned(), labels(set, hash));
    for field in ["annotations", "finalizers"] {
        if let Some(value) = set.template.pointer(&format!("/metadata/{field}")) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    metadata.insert("ownerReferences".to_owned(), json!([owner_reference(set)]));
    let mut spec = set.template.get("spec").cloned().unwrap_or_else(|| json!({}));
    pin_to_node(&mut spec, node);
    add_tolerations(&mut spec);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

fn labels(set: &DaemonSet, hash: &str) -> Value {
    let mut labels: Map<String, Value> = set.template_labels.iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
    if let Some(generation) = set.template_generation() {
        labels.insert(GENERATION_LABEL.to_owned(), json!(generation));
    }
    labels.insert(HASH_LABEL.to_owned(), json!(hash));
    Value::Object(labels)
}

/// The reference by which the set's pods and revisions say whose they are.
pub fn owner_reference(set: &DaemonSet) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": set.meta.name, "uid": set.meta.uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}

fn pin_to_node(spec: &mut Value, node: &str) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    for field in ["/affinity", "/affinity/nodeAffinity"] {
        if spec.pointer(field).is_some_and(Value::is_null) {
            *spec.pointer_mut(field).expect("it was there a line ago") = json!({});
        }
    }
    spec["affinity"]["nodeAffinity"][required] =
        json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]});
}

fn add_tolerations(spec: &mut Value) {
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    let mut list = match spec.get_mut("tolerations").map(Value::take) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    for (key, effect) in tolerations(host_network) {
        let text = |toleration: &Value, field: &str| toleration.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let same = |a: &Value, b: &Value| ["key", "effect", "operator", "value"].iter().all(|field| text(a, field) == text(b, field));
        replace_or_add(&mut list, json!({"key": key, "operator": "Exists", "effect": effect}), same);
    }
    spec["tolerations"] = Value::Array(list);
}
