//! What is to be sent about the slices of one owner: a Service, or the Endpoints that they mirror.
//! Only what differs is sent. New names follow from the owner, so that a plan that is made twice
//! makes nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::controller::{Step, Work};
use crate::model::{EndpointSlice, Key, Meta};
use crate::picture::Picture;
use crate::request::{ENDPOINT_SLICES, Request, Verb};

use super::labels_patch;
use super::reconcile::Content;

/// Label that says which controller keeps a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// Characters of Kubernetes' generated suffixes.
const SUFFIX_CHARACTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;

/// The object that slices go with.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    pub kind: &'static str,
    pub meta: &'a Meta,
}

impl Owner<'_> {
    fn reference(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": self.kind, "name": self.meta.name, "uid": self.meta.uid,
            "controller": true, "blockOwnerDeletion": true,
        })
    }

    pub fn owns(&self, slice: &EndpointSlice) -> bool {
        slice.meta.owner_references.iter().any(|owner| owner.uid == self.meta.uid && *owner.kind == *self.kind)
    }
}

pub struct Writes<'a> {
    picture: &'a Picture,
    owner: Owner<'a>,
    /// Of every slice.
    labels: BTreeMap<String, String>,
    /// Names of the slices that are made.
    names: BTreeSet<String>,
    create: Vec<Request>,
    update: Vec<Request>,
    delete: Vec<Request>,
}

impl<'a> Writes<'a> {
    pub fn new(picture: &'a Picture, owner: Owner<'a>, labels: BTreeMap<String, String>) -> Writes<'a> {
        Writes { picture, owner, labels, names: BTreeSet::new(), create: Vec::new(), update: Vec::new(), delete: Vec::new() }
    }

    pub fn has_labels(&self, slice: &EndpointSlice) -> bool {
        labels_patch(&slice.meta.labels, &self.labels).is_none()
    }

    /// `annotations` is a patch, of which a new slice gets what is not null.
    pub fn create(&mut self, kind: &str, content: &Content, annotations: &Value) {
        // An owner that is going away gets no new slices: the collector is busy with those it has.
        if self.owner.meta.is_deleted() {
            return;
        }
        let owner = self.owner.meta;
        let name = self.new_name(kind);
        let mut object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "generateName": format!("{}-", owner.name), "labels": self.labels,
                "ownerReferences": [self.owner.reference()],
            },
            "addressType": kind, "endpoints": content.endpoints, "ports": content.ports,
        });
        let given: Map<String, Value> =
            annotations.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()).map(owned).collect();
        if !given.is_empty() {
            object["metadata"]["annotations"] = Value::Object(given);
        }
        self.create.push(Request::new(ENDPOINT_SLICES, Key::new(&owner.namespace, &name), Verb::Create(Arc::new(object))));
    }

    /// Without `content`, that of the slice stays.
    pub fn change(&mut self, slice: &EndpointSlice, content: Option<&Content>, annotations: &Value) {
        let meta = &slice.meta;
        let mut patch = json!({"metadata": {
            "uid": meta.uid, "resourceVersion": meta.resource_version.to_string(), "annotations": annotations,
        }});
        if let Some(labels) = labels_patch(&meta.labels, &self.labels) {
            patch["metadata"]["labels"] = labels;
        }
        if !self.owner.owns(slice) {
            patch["metadata"]["ownerReferences"] = json!([self.owner.reference()]);
        }
        if let Some(content) = content {
            if content.endpoints != slice.endpoints {
                patch["endpoints"] = json!(content.endpoints);
            }
            if content.ports != slice.ports {
                patch["ports"] = json!(content.ports);
            }
        }
        self.update.push(Request::new(ENDPOINT_SLICES, meta.key(), Verb::Merge(patch)));
    }

    pub fn delete(&mut self, slice: &EndpointSlice) {
        self.delete.push(Request::delete(ENDPOINT_SLICES, &slice.meta));
    }

    pub fn work(self) -> Work {
        let steps = [self.create, self.update, self.delete].into_iter().filter(|requests| !requests.is_empty());
        Work { steps: steps.map(Step::all_at_once).collect(), ..Work::default() }
    }

    /// A name that follows from the owner, and that no other slice has.
    fn new_name(&mut self, kind: &str) -> String {
        let owner = self.owner.meta;
        let is_taken = |name: &String| self.names.contains(name) || self.picture.slices.contains_key(&Key::new(&owner.namespace, name));
        let names = (0u32..).map(|attempt| format!("{}-{}", owner.name, suffix(&[&owner.uid, kind, &attempt.to_string()])));
        let name = names.into_iter().find(|name| !is_taken(name)).expect("there are more suffixes than slices");
        self.names.insert(name.clone());
        name
    }
}

fn owned((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

fn suffix(parts: &[&str]) -> String {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let mut digest = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let base = SUFFIX_CHARACTERS.len() as u64;
    let characters = (0..SUFFIX_LEN).map(|_| {
        let at = usize::try_from(digest % base).expect("less than the number of characters");
        digest /= base;
        char::from(SUFFIX_CHARACTERS[at])
    });
    characters.collect()
}
