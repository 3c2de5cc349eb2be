//! What requests do to objects: reads from the caches and the store, writes as transactions.
//!
//! A write runs in Kubernetes' order: default, admit (mutating), prepare, validate, check (validating
//! plugins), encode, commit. Who may write what, and what plugins add or refuse, is asked through
//! [`port::Admission`]: the registry knows neither users' rights nor plugins. A commit names the version that the write was based on; when another writer was faster,
//! a write without a version of its own is done again on the newer one.

pub mod port;

mod allocate;
pub mod create;
pub mod delete;
pub mod turns;
pub mod update;

pub mod cache;
pub mod list;
pub mod object;
pub mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kinds::document::{STORED_DEPTH_MAX, nesting};
use kinds::encode::Encoded;
use kinds::status::Status;
use kinds::table::Kind;
use serde_json::Value;
use store::{Backend, CommitError, Entry, StoreError, Template};

use allocate::Allocations;
use cache::Caches;
use object::store_key;
use turns::Turns;

/// A write that loses this many races in a row is answered with a conflict; the client may come
/// again.
const WRITE_ATTEMPTS_MAX: usize = 20;

/// The largest object that is stored: etcd's default limit of a request.
const OBJECT_BYTES_MAX: usize = 3 * 512 * 1024;

/// The objects of the cluster.
pub struct Registry {
    store: Arc<dyn Backend>,
    pub caches: Arc<Caches>,
    allocations: Allocations,
    turns: Turns,
}

/// The answer to a write.
#[derive(Debug)]
pub struct Written {
    /// The object as stored (or, in a dry run, as it would have been).
    pub bytes: Bytes,
    pub created: bool,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// What admission noted, for the audit log.
    pub annotations: BTreeMap<String, String>,
}

impl Registry {
    pub fn new(store: Arc<dyn Backend>) -> Result<Registry, StoreError> {
        let caches = Caches::start(store.clone())?;
        let allocations = Allocations::load(&caches);
        Ok(Registry { store, caches, allocations, turns: Turns::default() })
    }

    /// Does the store still take and give objects? After it has failed, nothing but a new start
    /// helps.
    pub fn is_working(&self) -> bool {
        self.store.get(b"").is_ok()
    }

    /// The stored object, newest version.
    pub fn entry(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Option<Entry>, Status> {
        self.store.get(&store_key(kind, namespace, name)).map_err(store_failed)
    }

    /// The stored object, newest version, or 404.
    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Entry, Status> {
        self.entry(kind, namespace, name)?.ok_or_else(|| Status::not_found(kind.resource(), name))
    }

    /// Does the object exist?
    pub fn exists(&self, kind: &Kind, namespace: &str, name: &str) -> Result<bool, Status> {
        Ok(self.entry(kind, namespace, name)?.is_some())
    }

    /// Newest revision that is durable.
    pub fn revision(&self) -> u64 {
        self.store.revision().0
    }

    /// Forgets watch history, so that older resource versions are answered with 410.
    pub fn compact(&self) {
        let revision = self.caches.applied();
        for kind in kinds::table::KINDS.iter().filter(|k| k.is_stored()) {
            self.caches.of(kind).compact(revision);
        }
    }
}

/// The tree of a stored object.
pub fn parse_stored(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("the store holds only what our encoder wrote")
}

/// Same, folded: for writes that do not see managedFields.
pub fn parse_folded(bytes: &[u8]) -> Value {
    kinds::patch::folded::parse(bytes).expect("the store holds only what our encoder wrote")
}

/// A part of a stored object, read without building its tree.
pub fn read_stored<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> T {
    serde_json::from_slice(bytes).expect("the store holds only what our encoder wrote, and the part fits the schema")
}

/// Brings an object into the form in which decoding would give it, after rules and plugins worked
/// on it.
fn normalized(kind: &'static Kind, object: Value) -> Result<Value, Status> {
    kinds::decode::normalize(object, kind.stored().type_id()).map_err(|e| Status::internal(e.0))
}

/// An object as JSON with the resourceVersion it carries, if any: what a dry run answers.
fn encoded(kind: &'static Kind, object: &Value) -> Bytes {
    kinds::encode::encode(&kind.stored().api_version(), kind.stored().kind, object).into()
}

/// Same, with a place for the version of a commit.
fn answer_template(kind: &'static Kind, object: &Value) -> Encoded {
    kinds::encode::encode_answer(&kind.stored().api_version(), kind.stored().kind, object)
}

/// The store's encoding of an object. One that is too large is refused as etcd would refuse it.
fn template(kind: &'static Kind, object: &Value) -> Result<Template, Status> {
    let encoded = kinds::encode::encode_template(&kind.stored().api_version(), kind.stored().kind, object);
    if encoded.bytes.len() > OBJECT_BYTES_MAX {
        return Err(Status::unclassified("etcdserver: request is too large"));
    }
    if nesting(&encoded.bytes) > STORED_DEPTH_MAX {
        return Err(Status::bad_request("the object is nested too deep to be read again"));
    }
    Ok(Template { bytes: encoded.bytes, revision_at: Some(encoded.revision_at) })
}

/// The store's encoding of an object as it is stored, to be stored again at another revision.
fn stored_template(kind: &'static Kind, entry: &Entry) -> Result<Template, Status> {
    match kinds::encode::template_of(&kind.stored().api_version(), kind.stored().kind, &entry.value) {
        Some(encoded) => Ok(Template { bytes: encoded.bytes, revision_at: Some(encoded.revision_at) }),
        None => template(kind, &parse_stored(&entry.value)),
    }
}

/// A failure of the store, as clients are told; the detail is for the log.
fn store_failed(error: StoreError) -> Status {
    tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
    Status::internal("the store failed; see the server's log")
}

/// Same for a commit that did not fail for a conflict.
fn commit_failed(error: CommitError) -> Status {
    if error.is_retriable() {
        return Status::too_many_requests("the store has too many writes waiting, please try again later", 1);
    }
    tracing::error!(error = &error as &dyn std::error::Error, "a commit failed");
    Status::internal("the store failed; see the server's log")
}
