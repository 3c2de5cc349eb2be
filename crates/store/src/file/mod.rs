//! The embedded backend: one redb file, all objects in memory as well, one sync for all commits
//! that wait.
//!
//! [`FileStore::commit`] decides at once and queues; the writer thread takes whatever queued up
//! during its last sync, writes it as one redb transaction, publishes it to readers and watches,
//! and answers, in revision order. Reads and watches never see what is not durable. Once the disk
//! failed, everything is refused until the file is reopened.

mod checksum;
mod format;
mod guard;
mod held_back;
mod open;
mod salvage;
mod scan;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use redb::StorageBackend;

use self::open::Opened;
pub use self::salvage::{Repaired, Survey, repair, survey};
use self::writer::Writer;
use crate::history::WindowLimits;
use crate::published::Published;
use crate::queue::Queue;
use crate::{Backend, Commit, Entry, OpenError, Page, Revision, StoreError, Txn, Watch, WatchError};

/// Some two seconds of writing at full speed: past that, waiting only adds latency, and a stuck
/// disk must not take the memory of the machine.
const PENDING_BYTES_MAX: usize = 32 * 1024 * 1024;

#[derive(Clone, Debug)]
pub struct Options {
    pub window: WindowLimits,
    /// Bytes of commits that may wait for the disk. Further ones are refused as
    /// [`crate::CommitError::Busy`].
    pub pending_bytes_max: usize,
    /// Revisions to leave out after those of a file that was written before; nothing is left out of
    /// a new one.
    ///
    /// A file may have been put back from a copy. Its clients then know revisions that it gives out
    /// a second time, for other changes. With a large number that differs from start to start, what
    /// they know is either in the gap or in the future: both are refused.
    pub left_out: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { window: WindowLimits::default(), pending_bytes_max: PENDING_BYTES_MAX, left_out: 0 }
    }
}

/// Opens the store in this file, making an empty one (readable by its owner only) where there is
/// none.
pub fn open(path: impl AsRef<Path>, options: Options) -> Result<FileStore, OpenError> {
    let path = path.as_ref();
    FileStore::start(open::open_path(path)?, path, options)
}

/// Opens the store in any storage of redb's kind: a faulty one in tests and simulation. An empty
/// one is initialised.
pub fn open_storage(storage: impl StorageBackend, options: Options) -> Result<FileStore, OpenError> {
    let path = PathBuf::from("(storage)");
    FileStore::start(open::open_storage(&path, Box::new(storage))?, &path, options)
}

/// Dropping it finishes what waits, closes the file and ends all watches.
pub struct FileStore {
    published: Arc<Published>,
    queue: Arc<Queue>,
    failed: Arc<OnceLock<StoreError>>,
    /// None once joined.
    writer: Option<JoinHandle<()>>,
}

impl FileStore {
    fn start(opened: Opened, path: &Path, options: Options) -> Result<FileStore, OpenError> {
        let Opened { database, mut objects, sum } = opened;
        if objects.revision > Revision::FIRST {
            objects.revision = Revision(objects.revision.0.saturating_add(options.left_out));
        }
        let shared_path: Arc<Path> = path.into();
        let queue = Arc::new(Queue::new(objects.revision, options.pending_bytes_max, Arc::clone(&shared_path)));
        let published = Arc::new(Published::new(objects, options.window));
        let failed = Arc::new(OnceLock::new());
        let writer = Writer {
            database,
            sum,
            path: shared_path,
            queue: Arc::clone(&queue),
            published: Arc::clone(&published),
            failed: Arc::clone(&failed),
        };
        let writer = thread::Builder::new().name("store-writer".to_owned()).spawn(|| writer.run()).map_err(|source| OpenError::Io {
            path: path.to_owned(),
            operation: "start the writer of",
            source,
        })?;
        Ok(FileStore { published, queue, failed, writer: Some(writer) })
    }

    fn check_working(&self) -> Result<(), StoreError> {
        match self.failed.get() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

impl Backend for FileStore {
    fn revision(&self) -> Revision {
        self.published.revision()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.check_working()?;
        Ok(self.published.get(key))
    }

    fn range(&self, prefix: &[u8], after: Option<&[u8]>, limit: Option<usize>) -> Result<Page, StoreError> {
        self.check_working()?;
        Ok(self.published.range(prefix, after, limit))
    }

    fn commit(&self, txn: Txn) -> Commit {
        self.queue.commit(&self.published, txn)
    }

    fn watch(&self, prefix: &[u8], after: Revision) -> Result<Watch, WatchError> {
        self.published.watch(prefix, after)
    }

    fn compact(&self, up_to: Revision) -> Result<(), StoreError> {
        self.check_working()?;
        self.published.compact(up_to)
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            // The writer catches its panics and reports them; a second panic while it does so
            // reaches no caller.
            let _ = writer.join();
        }
        self.published.end(StoreError::Closed);
    }
}
