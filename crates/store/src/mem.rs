//! The backend without a file: everything is gone when it is dropped. For tests, simulation and
//! throwaway clusters.

use std::sync::Mutex;
use std::task::Waker;

use crate::history::WindowLimits;
use crate::lock::lock;
use crate::objects::Objects;
use crate::published::Published;
use crate::sequencer::{Decision, Sequencer};
use crate::{Backend, Commit, Entry, Page, Revision, StoreError, Txn, Watch, WatchError};

/// An empty store with the default window.
pub fn open() -> MemStore {
    open_with(WindowLimits::default())
}

pub fn open_with(window: WindowLimits) -> MemStore {
    MemStore { sequencer: Mutex::new(Sequencer::new(Revision::FIRST)), published: Published::new(Objects::empty(), window) }
}

pub struct MemStore {
    /// Held from the decision to the publication: here accepted and published are the same.
    sequencer: Mutex<Sequencer>,
    published: Published,
}

impl Backend for MemStore {
    fn revision(&self) -> Revision {
        self.published.revision()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        Ok(self.published.get(key))
    }

    fn range(&self, prefix: &[u8], after: Option<&[u8]>, limit: Option<usize>) -> Result<Page, StoreError> {
        Ok(self.published.range(prefix, after, limit))
    }

    fn commit(&self, txn: Txn) -> Commit {
        let mut sequencer = lock(&self.sequencer);
        let decision = sequencer.decide(&self.published.objects(), txn);
        match decision {
            Decision::Settled { result, .. } => Commit::ready(result),
            Decision::Effective { batch, committed } => {
                let wake = self.published.publish([batch]);
                drop(sequencer);
                wake.into_iter().for_each(Waker::wake);
                Commit::ready(Ok(committed))
            }
        }
    }

    fn watch(&self, prefix: &[u8], after: Revision) -> Result<Watch, WatchError> {
        self.published.watch(prefix, after)
    }

    fn compact(&self, up_to: Revision) -> Result<(), StoreError> {
        self.published.compact(up_to)
    }
}

impl Drop for MemStore {
    fn drop(&mut self) {
        self.published.end(StoreError::Closed);
    }
}
