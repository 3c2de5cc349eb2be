//! What the outside sees: current objects and history, always at the same revision.

use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};
use std::task::Waker;

use crate::change::Batch;
use crate::history::{History, WindowLimits};
use crate::lock::lock;
use crate::objects::Objects;
use crate::{Entry, Page, Revision, StoreError, Watch, WatchError};

/// Lock order: `objects`, then `history`. Only [`Published::publish`] holds both, so that a caller
/// that saw a revision in one finds it in the other: a list's revision can be watched after, and a
/// read after an event sees its change.
pub(crate) struct Published {
    objects: RwLock<Objects>,
    history: Arc<Mutex<History>>,
}

impl Published {
    pub(crate) fn new(objects: Objects, window: WindowLimits) -> Published {
        let history = History::starting_at(objects.revision, window);
        Published { objects: RwLock::new(objects), history: Arc::new(Mutex::new(history)) }
    }

    pub(crate) fn objects(&self) -> RwLockReadGuard<'_, Objects> {
        self.objects.read().expect("no code panics under this lock; if it did, the state is not to be trusted")
    }

    pub(crate) fn revision(&self) -> Revision {
        self.objects().revision
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Entry> {
        self.objects().get(key).cloned()
    }

    pub(crate) fn range(&self, prefix: &[u8], after: Option<&[u8]>, limit: Option<usize>) -> Page {
        self.objects().range(prefix, after, limit)
    }

    pub(crate) fn watch(&self, prefix: &[u8], after: Revision) -> Result<Watch, WatchError> {
        let cursor = lock(&self.history).add_cursor(prefix, after)?;
        Ok(Watch::new(Arc::clone(&self.history), cursor))
    }

    pub(crate) fn compact(&self, up_to: Revision) -> Result<(), StoreError> {
        lock(&self.history).compact(up_to)
    }

    /// Makes batches visible, in revision order. The caller wakes what it gets once it holds no
    /// lock.
    #[must_use = "watches sleep until they are woken"]
    pub(crate) fn publish(&self, batches: impl IntoIterator<Item = Batch>) -> Vec<Waker> {
        let mut wake = Vec::new();
        let mut objects = self.objects.write().expect("no code panics under this lock; if it did, the state is not to be trusted");
        let mut history = lock(&self.history);
        for batch in batches {
            objects.apply(&batch);
            history.push(batch, &mut wake);
        }
        wake
    }

    /// Nothing will be published any more: ends all watches, once they have yielded what was.
    pub(crate) fn end(&self, error: StoreError) {
        let mut wake = Vec::new();
        lock(&self.history).end(error, &mut wake);
        wake.into_iter().for_each(Waker::wake);
    }
}
