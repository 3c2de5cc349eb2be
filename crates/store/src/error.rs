//! Everything that can go wrong, named for the operation it stops.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::Revision;

/// The store itself cannot go on. After `Disk` or `WriterStopped` it refuses everything until it is
/// reopened: what the disk holds is then unknown, and neither reads nor watches may show it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {operation} the store {path}; it refuses all requests from here on, so check the disk and restart")]
    Disk {
        path: PathBuf,
        operation: &'static str,
        #[source]
        source: Arc<redb::Error>,
    },
    #[error("the writer of the store {path} stopped unexpectedly; restart to recover from the file")]
    WriterStopped { path: PathBuf },
    #[error("revision {asked} is in the future: the store is at {current}")]
    FutureRevision { asked: Revision, current: Revision },
    #[error("the store was closed")]
    Closed,
}

/// Why a transaction did not take place.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    #[error("guard on key {} does not hold: {}", .key.escape_ascii(), describe_found(.found))]
    Conflict {
        key: Bytes,
        /// The revision the key was last modified at; `None` when it is absent.
        found: Option<Revision>,
    },
    #[error("key {} is written twice in one transaction", .key.escape_ascii())]
    DuplicateKey { key: Bytes },
    #[error("the revision's place {revision_at} is outside the {length} bytes for key {}", .key.escape_ascii())]
    TemplateOffset { key: Bytes, revision_at: usize, length: usize },
    #[error("key {} and its value need {bytes} bytes, more than the {bytes_max} of one object", .key.escape_ascii())]
    TooLarge { key: Bytes, bytes: usize, bytes_max: usize },
    /// Nothing happened; the same transaction may be tried again after a moment.
    #[error("{pending_bytes} bytes wait for the disk already; try again later")]
    Busy { pending_bytes: usize },
    /// Whether the transaction took place is unknown: after a disk error its bytes may or may not
    /// be in the file.
    #[error("the store failed before it could confirm the transaction")]
    Failed(#[source] StoreError),
}

impl CommitError {
    /// Whether the same transaction may succeed if sent again unchanged.
    pub fn is_retriable(&self) -> bool {
        matches!(self, CommitError::Busy { .. })
    }
}

fn describe_found(found: &Option<Revision>) -> String {
    match found {
        Some(revision) => format!("it was last modified at revision {revision}"),
        None => "it is absent".to_owned(),
    }
}

/// Why a watch cannot start or go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WatchError {
    /// Changes the watch should have shown are forgotten. List again and watch after the list's
    /// revision.
    #[error("history before revision {oldest} is forgotten; list again")]
    Compacted {
        /// The smallest revision a new watch may start after.
        oldest: Revision,
    },
    #[error("revision to watch after is in the future: the store is at {current}")]
    Future { current: Revision },
    #[error("the store failed")]
    Failed(#[source] StoreError),
}

/// Why a file could not be opened as a store. The file is unchanged, except after `Disk`.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} is a directory; give the path of the store's file, such as {path}/store.redb")]
    Directory { path: PathBuf },
    #[error("{path} is not a regular file; give the path of the store's file")]
    NotAFile { path: PathBuf },
    #[error("the directory {path} for the store's file does not exist; create it first")]
    NoDirectory { path: PathBuf },
    #[error("no permission to {operation} {path}; run as its owner, or give its owner read and write access")]
    Permission {
        path: PathBuf,
        operation: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is in use by another process; stop that one first or give another path")]
    Locked { path: PathBuf },
    #[error("{path} is not an everynode store ({reason}); it was left as it is, give another path")]
    NotOurs { path: PathBuf, reason: String },
    #[error(
        "{path} has store format {found}, this program knows formats up to {known}; use the newer everynode that \
         wrote it or restore a backup made with format {known}; the file was left as it is"
    )]
    NewerFormat { path: PathBuf, found: u64, known: u64 },
    #[error("{path} is damaged ({reason}); it was left as it is: restore a backup, or save what can be read with `everynode store repair`")]
    Damaged { path: PathBuf, reason: String },
    #[error("cannot {operation} {path}")]
    Io {
        path: PathBuf,
        operation: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot {operation} {path}; check the disk")]
    Disk {
        path: PathBuf,
        operation: &'static str,
        #[source]
        source: Box<redb::Error>,
    },
}
