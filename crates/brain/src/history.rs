//! The revisions of a set's template, as `kubectl rollout history` and `undo` read them: which is
//! current, which are made, renumbered, merged and forgotten.
//!
//! A revision's name ends in a hash of the template. The hash only has to differ between templates
//! and to stay the same for one: it is opaque, as it is upstream, and is never compared with that
//! of an unchanged template again once the revision exists.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::daemonset::HASH_LABEL;
use crate::model::{ControllerRevision, DaemonSet, Key, Pod};

/// What to do about revisions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HistoryPlan {
    current: Current,
    /// Hashes of the set's revisions with other templates.
    pub old_hashes: BTreeSet<Arc<str>>,
    /// First of all, in this order.
    pub before: Vec<HistoryAction>,
    /// After the pods were seen to.
    pub after: Vec<HistoryAction>,
}

#[derive(Debug, Clone, PartialEq)]
enum Current {
    Known {
        hash: Arc<str>,
    },
    /// The name of the next revision belongs to another template: count and try the next hash.
    Collision {
        count: i64,
    },
}

impl Default for Current {
    fn default() -> Current {
        Current::Known { hash: "".into() }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum HistoryAction {
    Create {
        name: Arc<str>,
        object: Arc<Value>,
    },
    Adopt {
        revision: Key,
        uid: Arc<str>,
    },
    Release {
        revision: Key,
        uid: Arc<str>,
    },
    /// Patch of a revision's metadata or number.
    Change {
        revision: Key,
        patch: Value,
    },
    /// A pod gets the hash of the revision that stays.
    Relabel {
        pod: Key,
        uid: Arc<str>,
        hash: Arc<str>,
    },
    Delete {
        revision: Key,
        uid: Arc<str>,
    },
}

impl HistoryPlan {
    /// Of the current revision; empty while a collision is being resolved.
    pub fn hash(&self) -> &Arc<str> {
        static NONE: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(|| "".into());
        match &self.current {
            Current::Known { hash } => hash,
            Current::Collision { .. } => &NONE,
        }
    }

    /// Do pods change their revision first?
    pub fn relabels(&self) -> bool {
        self.before.iter().any(|action| matches!(action, HistoryAction::Relabel { .. }))
    }

    /// The number of collisions to be noted, when the name of the next revision is taken.
    pub fn collision(&self) -> Option<i64> {
        match self.current {
            Current::Known { .. } => None,
            Current::Collision { count } => Some(count),
        }
    }
}

/// Decides about the revisions of a set. `pods` are the set's.
pub fn plan(set: &DaemonSet, revisions: &[&ControllerRevision], pods: &[&Pod]) -> HistoryPlan {
    let mut plan = HistoryPlan::default();
    let ours = claim(set, revisions, &mut plan.before);
    let data = revision_data(set);
    let (mut current, old): (Vec<&ControllerRevision>, Vec<&ControllerRevision>) =
        ours.into_iter().partition(|revision| same_template(&revision.data, &data));
    for revision in current.iter().chain(&old).filter(|revision| revision.meta.labels.get(HASH_LABEL).is_none()) {
        let patch = json!({"metadata": {"labels": {HASH_LABEL: revision.meta.name}}});
        plan.before.push(HistoryAction::Change { revision: revision.meta.key(), patch });
    }
    plan.old_hashes = old.iter().filter_map(|revision| revision.meta.labels.get(HASH_LABEL)).map(Arc::from).collect();
    let number = old.iter().map(|revision| revision.revision).max().unwrap_or(0) + 1;
    current.sort_by_key(|revision| (revision.revision, revision.meta.name.clone()));
    match current.pop() {
        None => make(set, revisions, data, number, &mut plan),
        Some(keep) => {
            let hash: Arc<str> = keep.meta.labels.get(HASH_LABEL).unwrap_or(&keep.meta.name).into();
            merge_duplicates(&current, &hash, pods, &mut plan.before);
            if keep.revision < number {
                plan.before.push(HistoryAction::Change { revision: keep.meta.key(), patch: json!({"revision": number}) });
            }
            plan.current = Current::Known { hash };
        }
    }
    forget(set, old, pods, &mut plan.after);
    plan
}

/// The revisions that are the set's; adoptions and releases are added.
fn claim<'a>(set: &DaemonSet, revisions: &[&'a ControllerRevision], actions: &mut Vec<HistoryAction>) -> Vec<&'a ControllerRevision> {
    let mut ours = Vec::new();
    for &revision in revisions {
        let meta = &revision.meta;
        let selected = meta.labels.selected_by(&set.selector);
        match meta.controller() {
            Some(owner) if owner.uid == set.meta.uid && selected => ours.push(revision),
            Some(owner) if owner.uid == set.meta.uid => {
                actions.push(HistoryAction::Release { revision: meta.key(), uid: meta.uid.clone() })
            }
            None if selected && !meta.is_deleted() => {
                actions.push(HistoryAction::Adopt { revision: meta.key(), uid: meta.uid.clone() });
                ours.push(revision);
            }
            _ => {}
        }
    }
    ours
}

/// Plans a new revision, unless its name is taken by another template.
fn make(set: &DaemonSet, revisions: &[&ControllerRevision], data: Value, number: i64, plan: &mut HistoryPlan) {
    let collisions = set.status.collision_count.unwrap_or(0);
    let hash: Arc<str> = template_hash(&set.template, collisions).into();
    let name: Arc<str> = format!("{}-{hash}", set.meta.name).into();
    if let Some(taken) = revisions.iter().find(|revision| revision.meta.name == name) {
        if !same_template(&taken.data, &data) || taken.meta.controller().is_some_and(|owner| owner.uid != set.meta.uid) {
            plan.current = Current::Collision { count: collisions + 1 };
            return;
        }
    } else {
        plan.before.push(HistoryAction::Create { name: name.clone(), object: Arc::new(revision_object(set, &name, &hash, data, number)) });
    }
    plan.current = Current::Known { hash };
}

fn revision_object(set: &DaemonSet, name: &str, hash: &str, data: Value, number: i64) -> Value {
    let mut labels: serde_json::Map<String, Value> =
        set.template_labels.iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
    labels.insert(HASH_LABEL.to_owned(), json!(hash));
    let annotations: serde_json::Map<String, Value> =
        set.meta.annotations.iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
    json!({
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": name,
            "namespace": set.meta.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [crate::daemonset::owner_reference(set)],
        },
        "data": data,
        "revision": number,
    })
}

/// A strategic merge patch that restores the template.
pub fn revision_data(set: &DaemonSet) -> Value {
    let mut template = Value::clone(&set.template);
    if let Value::Object(template) = &mut template {
        template.insert("$patch".to_owned(), json!("replace"));
    }
    json!({"spec": {"template": template}})
}

/// Do two revisions hold the same template? Fields that the server fills in by itself do not make a
/// difference: a server of a newer version, which fills in more, must not restart every pod
/// (kubernetes/kubernetes 78633).
pub fn same_template(a: &Value, b: &Value) -> bool {
    a == b || defaulted(a) == defaulted(b)
}

fn defaulted(data: &Value) -> Option<Value> {
    let mut template = data.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    let mut set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {}, "spec": {"template": template}});
    kinds::table::by_kind("apps", "DaemonSet")?.rules.default(&mut set);
    set.pointer_mut("/spec/template").map(Value::take)
}

/// Several revisions of one template: the pods get the hash of the one that stays, the others go.
fn merge_duplicates(others: &[&ControllerRevision], hash: &Arc<str>, pods: &[&Pod], actions: &mut Vec<HistoryAction>) {
    for other in others {
        let other_hash = other.meta.labels.get(HASH_LABEL).unwrap_or(&other.meta.name);
        for pod in pods.iter().filter(|pod| pod.meta.labels.get(HASH_LABEL) == Some(other_hash)) {
            actions.push(HistoryAction::Relabel { pod: pod.meta.key(), uid: pod.meta.uid.clone(), hash: hash.clone() });
        }
        actions.push(HistoryAction::Delete { revision: other.meta.key(), uid: other.meta.uid.clone() });
    }
}

/// Old revisions beyond the limit go, oldest first, except those that pods still run.
fn forget(set: &DaemonSet, mut old: Vec<&ControllerRevision>, pods: &[&Pod], actions: &mut Vec<HistoryAction>) {
    let excess = old.len().saturating_sub(set.revision_history_limit);
    if excess == 0 {
        return;
    }
    let live: BTreeSet<&str> = pods.iter().filter_map(|pod| pod.meta.labels.get(HASH_LABEL)).collect();
    old.sort_by_key(|revision| (revision.revision, revision.meta.name.clone()));
    let unused = old.into_iter().filter(|revision| !revision.meta.labels.get(HASH_LABEL).is_some_and(|hash| live.contains(hash)));
    actions.extend(
        unused.take(excess).map(|revision| HistoryAction::Delete { revision: revision.meta.key(), uid: revision.meta.uid.clone() }),
    );
}

/// Characters that stand for the digits of a hash, as in Kubernetes' safe encoding.
const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short text that differs between templates: 32-bit FNV-1a over the template's JSON (keys
/// sorted) and the number of collisions.
pub fn template_hash(template: &Value, collisions: i64) -> String {
    let mut hash = Fnv32(0x811c_9dc5);
    hash_value(template, &mut hash);
    if collisions > 0 {
        hash.write(&collisions.to_le_bytes());
    }
    hash.0.to_string().bytes().map(|digit| char::from(SAFE[usize::from(digit) % SAFE.len()])).collect()
}

struct Fnv32(u32);

impl Fnv32 {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    }
}

fn hash_value(value: &Value, hash: &mut Fnv32) {
    match value {
        Value::Object(map) => {
            let sorted: std::collections::BTreeMap<&String, &Value> = map.iter().collect();
            hash.write(b"{");
            for (key, value) in sorted {
                hash.write(key.as_bytes());
                hash.write(b"\0");
                hash_value(value, hash);
            }
            hash.write(b"}");
        }
        Value::Array(list) => {
            hash.write(b"[");
            for value in list {
                hash_value(value, hash);
            }
            hash.write(b"]");
        }
        scalar => {
            hash.write(scalar.to_string().as_bytes());
            hash.write(b"\0");
        }
    }
}
