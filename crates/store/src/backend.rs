//! The port of the store: what every backend offers, and the nouns of its answers.

use std::fmt;

use bytes::Bytes;

use crate::{Commit, StoreError, Txn, Watch, WatchError};

/// A point in the one global order of changes; every effective transaction gets the next one.
#[derive(Copy, Clone, Debug, Ord, PartialOrd, Eq, PartialEq, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of a store nothing was ever written to (etcd's choice too: 0 stays free to mean
    /// "none").
    pub const FIRST: Revision = Revision(1);

    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One current object. Cloning shares the value's allocation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    pub value: Bytes,
    pub created: Revision,
    pub modified: Revision,
}

/// Part of the current objects under a prefix, all read at one revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Page {
    /// The revision the entries were read at: watching after it misses nothing.
    pub revision: Revision,
    /// In key order.
    pub entries: Vec<(Bytes, Entry)>,
    /// Whether the limit cut the page; the next one starts `after` the last key of this one.
    pub more: bool,
}

/// A store. All methods return without waiting for the disk; only [`Commit`] waits.
pub trait Backend: Send + Sync + 'static {
    /// The latest durable revision.
    fn revision(&self) -> Revision;

    fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError>;

    /// Current objects whose key starts with `prefix`, from the first key greater than `after`.
    fn range(&self, prefix: &[u8], after: Option<&[u8]>, limit: Option<usize>) -> Result<Page, StoreError>;

    /// Accepts the transaction or not, in the order of the calls; the answer comes when it is
    /// durable. Dropping the [`Commit`] does not withdraw the transaction.
    fn commit(&self, txn: Txn) -> Commit;

    /// Every change with a key under `prefix` and a revision greater than `after`.
    fn watch(&self, prefix: &[u8], after: Revision) -> Result<Watch, WatchError>;

    /// Forgets watch history up to and including `up_to`; current objects stay.
    fn compact(&self, up_to: Revision) -> Result<(), StoreError>;
}
