//! What requests do to objects: reads from the caches and the store, writes as transactions.
//!
//! A write runs in Kubernetes' order: default, admit (mutating plugins), prepare, validate, check
//! (validating plugins), allocate, encode, commit. A commit names the version that the write was
//! based on; when another writer was faster, a write without a version of its own is done again on
//! the newer one.
//!
//! The registry knows neither users' rights nor plugins: what they add and refuse it asks through
//! [`port::Admission`].

pub mod port;

mod allocate;
pub mod create;
pub mod delete;
pub mod turns;
pub mod update;

pub mod cache;
pub mod encoding;
pub mod list;
pub mod metadata;
pub mod object;
pub mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kinds::status::Status;
use kinds::table::Kind;
use store::{Backend, CommitError, Entry, StoreError};

use allocate::{Allocations, KnownRanges};
use cache::Caches;
use object::store_key;
use turns::WriteTurns;

/// A write that loses this many races in a row is answered with a conflict; the client may come
/// again.
const WRITE_ATTEMPTS_MAX: usize = 20;

/// The objects of the cluster.
pub struct Registry {
    store: Arc<dyn Backend>,
    pub caches: Arc<Caches>,
    allocations: Allocations,
    ranges: KnownRanges,
    turns: WriteTurns,
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
        let allocations = allocate::load(&caches);
        Ok(Registry { store, caches, allocations, ranges: KnownRanges::default(), turns: WriteTurns::default() })
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

/// A failure of the store, in the words for clients; the detail is for the log.
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
