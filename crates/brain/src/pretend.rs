//! A pretended API server: takes the requests that controllers plan and answers as a server would,
//! in memory and at once.
//!
//! What it knows: names are unique, versions rise, uids and versions in requests are preconditions,
//! patches merge as Kubernetes merges them, bindings bind, pods on nodes end gracefully (their
//! agent says when), finalizers hold. What it does not: defaulting, validation, admission, quotas.
//! The forecast of `everynode plan` and the simulator run the real controllers against it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kinds::decode::format_time;
use kinds::patch::{Findings, merge, strategic};
use serde_json::{Value, json};
use thiserror::Error;

use crate::controller::Work;
use crate::execution::Execution;
use crate::model::Key;
use crate::picture::Picture;
use crate::queue::{Outcome, Written, Wrote};
use crate::request::{PODS, Request, Resource, Verb};

/// Why a request was refused, as the code of its answer would say.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Refusal {
    #[error("{0} is not there")]
    NotFound(Key),
    #[error("{0} is there already")]
    AlreadyExists(Key),
    #[error("{0} is not as the request expects")]
    Conflict(Key),
    #[error("the patch does not fit: {0}")]
    BadPatch(String),
}

/// What happened to an object: its version and how it is now, if it still is.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub version: u64,
    pub resource: Resource,
    pub key: Key,
    pub object: Option<Arc<Value>>,
}

/// The objects, and what happened to them.
#[derive(Debug, Clone, Default)]
pub struct Server {
    objects: BTreeMap<(Resource, Key), Arc<Value>>,
    version: u64,
    /// Everything that happened, oldest first.
    pub log: Vec<Event>,
}

impl Server {
    /// Puts an object there as it is; gives it a uid if it has none.
    pub fn insert(&mut self, resource: Resource, mut object: Value) {
        let key = key_of(&object);
        self.version += 1;
        if object["metadata"].get("uid").is_none_or(Value::is_null) {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        }
        self.store(resource, key, object);
    }

    pub fn get(&self, resource: Resource, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(&(resource, key.clone()))
    }

    /// All objects of a resource, by key.
    pub fn list(&self, resource: Resource) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter().filter(move |((other, _), _)| *other == resource).map(|((_, key), object)| (key, object))
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// The picture of everything, as one list of each kind would give it.
    pub fn picture(&self) -> Picture {
        let mut picture = Picture::default();
        for ((resource, _), object) in &self.objects {
            if let Some(object) = resource.followed().read(object) {
                picture.put(object);
            }
        }
        picture
    }

    /// Answers a request.
    pub fn send(&mut self, request: &Request, now: Timestamp) -> Result<Option<Written>, Refusal> {
        let Request { resource, key, subresource, verb, .. } = request;
        let current = self.get(*resource, key).cloned();
        let there = || current.clone().ok_or_else(|| Refusal::NotFound(key.clone()));
        match (verb, subresource) {
            (Verb::Create(binding), Some("binding")) => self.bind(key, binding, now),
            (Verb::Create(object), _) => self.create(*resource, key, object, now),
            (Verb::Replace(object), Some("finalize")) => {
                self.finish_namespace(key, object);
                Ok(None)
            }
            (Verb::Replace(object), _) => self.change(*resource, key, object.clone()),
            (Verb::Merge(patch), _) => {
                let merged = merge::apply(&*there()?, patch.to_string().as_bytes(), Findings::Ignored);
                self.patched(*resource, key, patch, merged.map(|merged| merged.document))
            }
            (Verb::Strategic(patch), _) => {
                let row = kinds::table::by_kind(resource.group, resource.kind).ok_or_else(|| Refusal::NotFound(key.clone()))?;
                let merged = strategic::apply(&*there()?, patch.to_string().as_bytes(), row.type_id(), Findings::Ignored);
                self.patched(*resource, key, patch, merged.map(|merged| merged.document))
            }
            (Verb::Check { uid }, _) => {
                let object = there()?;
                let fine = object["metadata"]["uid"] == json!(uid) && object["metadata"].get("deletionTimestamp").is_none();
                if fine { Ok(None) } else { Err(Refusal::Conflict(key.clone())) }
            }
            (Verb::CheckGone { uid }, _) => match current {
                Some(object) if uid.is_empty() || object["metadata"]["uid"] == json!(uid) => Err(Refusal::Conflict(key.clone())),
                _ => Ok(None),
            },
            (Verb::DeleteCollection, _) => Ok(None),
            (Verb::Delete { uid, resource_version, grace_seconds, propagation }, _) => {
                let wanted =
                    Wanted { uid: uid.as_deref(), version: *resource_version, force: *grace_seconds == Some(0), propagation: *propagation };
                self.delete(*resource, key, &wanted, now)
            }
        }
    }

    fn create(&mut self, resource: Resource, key: &Key, object: &Value, now: Timestamp) -> Result<Option<Written>, Refusal> {
        if self.get(resource, key).is_some() {
            return Err(Refusal::AlreadyExists(key.clone()));
        }
        let mut object = object.clone();
        self.version += 1;
        object["metadata"]["namespace"] = json!(key.namespace);
        object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        object["metadata"]["creationTimestamp"] = json!(format_time(now));
        if resource == PODS {
            object["status"] = json!({"phase": "Pending"});
        }
        Ok(Some(self.store(resource, key.clone(), object)))
    }

    fn bind(&mut self, key: &Key, binding: &Value, now: Timestamp) -> Result<Option<Written>, Refusal> {
        let mut pod = Value::clone(self.get(PODS, key).ok_or_else(|| Refusal::NotFound(key.clone()))?);
        let uid = &binding["metadata"]["uid"];
        let bound = pod["spec"].get("nodeName").is_some_and(|node| !node.is_null());
        if bound || !uid.is_null() && *uid != pod["metadata"]["uid"] || pod["metadata"].get("deletionTimestamp").is_some() {
            return Err(Refusal::Conflict(key.clone()));
        }
        pod["spec"]["nodeName"] = binding["target"]["name"].clone();
        pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": format_time(now)}]);
        self.version += 1;
        Ok(Some(self.store(PODS, key.clone(), pod)))
    }

    fn patched<E: std::fmt::Debug>(
        &mut self,
        resource: Resource,
        key: &Key,
        patch: &Value,
        merged: Result<Value, E>,
    ) -> Result<Option<Written>, Refusal> {
        let current = self.get(resource, key).ok_or_else(|| Refusal::NotFound(key.clone()))?;
        for field in ["uid", "resourceVersion"] {
            let expected = &patch["metadata"][field];
            if !expected.is_null() && *expected != current["metadata"][field] {
                return Err(Refusal::Conflict(key.clone()));
            }
        }
        self.change(resource, key, merged.map_err(|error| Refusal::BadPatch(format!("{error:?}")))?)
    }

    /// Stores a changed object; one that was only waiting for its finalizers goes.
    fn change(&mut self, resource: Resource, key: &Key, object: Value) -> Result<Option<Written>, Refusal> {
        let current = self.get(resource, key).ok_or_else(|| Refusal::NotFound(key.clone()))?;
        let mut before = Value::clone(current);
        before["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
        if before == object {
            let uid = text(&object["metadata"]["uid"]);
            let version = text(&current["metadata"]["resourceVersion"]).parse().unwrap_or(0);
            return Ok(Some(written(resource, key, &uid, Wrote::Version(version))));
        }
        self.version += 1;
        let is_deleted = object["metadata"].get("deletionTimestamp").is_some();
        if is_deleted && finalizers(&object).is_empty() && (resource != PODS || before["metadata"].get("deletionTimestamp").is_none()) {
            self.remove(resource, key);
            return Ok(Some(written(resource, key, &text(&object["metadata"]["uid"]), Wrote::Deleted)));
        }
        Ok(Some(self.store(resource, key.clone(), object)))
    }

    fn delete(&mut self, resource: Resource, key: &Key, wanted: &Wanted<'_>, now: Timestamp) -> Result<Option<Written>, Refusal> {
        let Some(current) = self.get(resource, key).cloned() else { return Ok(None) };
        let meta = &current["metadata"];
        let uid = text(&meta["uid"]);
        if wanted.uid.is_some_and(|wanted| wanted != uid) {
            return Ok(None);
        }
        if wanted.version.is_some_and(|version| version.to_string() != text(&meta["resourceVersion"])) {
            return Err(Refusal::Conflict(key.clone()));
        }
        let mut object = Value::clone(&current);
        for (propagation, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
            if wanted.propagation == Some(propagation) {
                let mut list = finalizers(&object);
                list.push(finalizer.to_owned());
                object["metadata"]["finalizers"] = json!(list);
            }
        }
        self.version += 1;
        let ends_gracefully = resource == PODS && !wanted.force && object["spec"].get("nodeName").is_some_and(|node| !node.is_null());
        if !ends_gracefully && finalizers(&object).is_empty() {
            self.remove(resource, key);
        } else if meta.get("deletionTimestamp").is_none() {
            object["metadata"]["deletionTimestamp"] = json!(format_time(now));
            self.store(resource, key.clone(), object);
        }
        Ok(Some(written(resource, key, &uid, Wrote::Deleted)))
    }

    fn finish_namespace(&mut self, key: &Key, object: &Value) {
        if object.pointer("/spec/finalizers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            self.version += 1;
            self.remove(crate::request::NAMESPACES, key);
        }
    }

    fn store(&mut self, resource: Resource, key: Key, mut object: Value) -> Written {
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let uid = text(&object["metadata"]["uid"]);
        let object = Arc::new(object);
        self.log.push(Event { version: self.version, resource, key: key.clone(), object: Some(object.clone()) });
        self.objects.insert((resource, key.clone()), object);
        written(resource, &key, &uid, Wrote::Version(self.version))
    }

    /// Takes an object away, whatever holds it.
    pub fn remove(&mut self, resource: Resource, key: &Key) {
        self.version += 1;
        if self.objects.remove(&(resource, key.clone())).is_some() {
            self.log.push(Event { version: self.version, resource, key: key.clone(), object: None });
        }
    }

    /// Does the work of a controller as its shell would, and says how it ended.
    pub fn perform(&mut self, work: Work, now: Timestamp) -> Outcome {
        let mut execution = Execution::new(work);
        while let Some(batch) = execution.next_batch() {
            for request in batch {
                execution.answered(self.send(&request, now), now);
            }
        }
        execution.outcome()
    }
}

struct Wanted<'a> {
    uid: Option<&'a str>,
    version: Option<u64>,
    force: bool,
    propagation: Option<&'static str>,
}

fn key_of(object: &Value) -> Key {
    Key::new(&text(&object["metadata"]["namespace"]), &text(&object["metadata"]["name"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn finalizers(object: &Value) -> Vec<String> {
    object.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten().map(text).collect()
}

fn written(resource: Resource, key: &Key, uid: &str, what: Wrote) -> Written {
    Written { kind: resource.followed(), key: key.clone(), uid: uid.into(), what }
}
