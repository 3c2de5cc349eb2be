//! The window of past changes that all watches share, and their cursors into it.
//!
//! There is no queue per watch. A cursor knows the earliest change it has yet to yield, or that
//! there is none. The publisher tests each new change against the cursors without one, so a watch
//! of a quiet prefix neither wakes up nor ages while other keys change, and a cursor is cut off
//! only by forgetting a change it should have yielded.
//!
//! Assumption: watches number in the dozens (one per kind and cache, not one per client), since
//! every new change is compared with the prefix of every idle cursor.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use bytes::Bytes;

use crate::change::{Batch, Change};
use crate::{Revision, StoreError, WatchError};

/// How much history is kept for watches to resume in. The newest change is kept whatever its size.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct WindowLimits {
    pub events_max: usize,
    /// Bytes held by the history alone; values that are still current are shared and cost nothing
    /// more.
    pub bytes_max: usize,
}

/// A rollout over 10,000 nodes makes some 60,000 changes within a few seconds. A watch that was cut
/// for about a second of that resumes; for one that is further behind, a list costs less than the
/// replay.
const WINDOW_EVENTS_MAX: usize = 32_768;
/// Only the API server's cache watches a store directly. It is milliseconds behind, and loads
/// everything anew if it is ever further; what clients resume in is that cache's own window.
const WINDOW_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Default for WindowLimits {
    fn default() -> WindowLimits {
        WindowLimits { events_max: WINDOW_EVENTS_MAX, bytes_max: WINDOW_BYTES_MAX }
    }
}

#[derive(Copy, Clone, Debug, Ord, PartialOrd, Eq, PartialEq)]
pub(crate) struct CursorId(u64);

#[derive(Debug)]
struct Cursor {
    prefix: Bytes,
    /// The earliest matching change not yet yielded. `None`: everything matching was yielded.
    next: Option<Revision>,
    waker: Option<Waker>,
}

#[derive(Debug)]
pub(crate) struct History {
    limits: WindowLimits,
    /// One batch per revision, without gaps: from `forgotten` (exclusive) to `current` (inclusive).
    batches: VecDeque<Batch>,
    forgotten: Revision,
    current: Revision,
    /// Sums over `batches`.
    events: usize,
    bytes: usize,
    cursors: BTreeMap<CursorId, Cursor>,
    cursor_next: CursorId,
    /// Why no change will follow.
    end: Option<StoreError>,
}

impl History {
    /// History of a store opened at this revision. What led to it is forgotten, except that nothing
    /// did at the first.
    pub(crate) fn starting_at(current: Revision, limits: WindowLimits) -> History {
        let forgotten = if current == Revision::FIRST { Revision(0) } else { current };
        History {
            limits,
            batches: VecDeque::new(),
            forgotten,
            current,
            events: 0,
            bytes: 0,
            cursors: BTreeMap::new(),
            cursor_next: CursorId(0),
            end: None,
        }
    }

    /// Adds the next revision; puts the wakers of the watches that wait for it into `wake`.
    pub(crate) fn push(&mut self, batch: Batch, wake: &mut Vec<Waker>) {
        assert_eq!(batch.revision, self.current.next(), "revisions have no gaps");
        self.current = batch.revision;
        for cursor in self.cursors.values_mut() {
            if cursor.next.is_none() && matches(&batch, &cursor.prefix) {
                cursor.next = Some(batch.revision);
                wake.extend(cursor.waker.take());
            }
        }
        self.events += batch.events.len();
        self.bytes += bytes_of(&batch);
        self.batches.push_back(batch);
        while self.batches.len() > 1 && self.is_over_limit() {
            self.forget_oldest();
        }
    }

    /// Forgets everything up to and including this revision.
    pub(crate) fn compact(&mut self, up_to: Revision) -> Result<(), StoreError> {
        if up_to > self.current {
            return Err(StoreError::FutureRevision { asked: up_to, current: self.current });
        }
        while self.batches.front().is_some_and(|batch| batch.revision <= up_to) {
            self.forget_oldest();
        }
        self.forgotten = self.forgotten.max(up_to);
        Ok(())
    }

    /// Says that no change will follow; watches yield what there is and then this.
    pub(crate) fn end(&mut self, error: StoreError, wake: &mut Vec<Waker>) {
        self.end.get_or_insert(error);
        for cursor in self.cursors.values_mut() {
            wake.extend(cursor.waker.take());
        }
    }

    pub(crate) fn add_cursor(&mut self, prefix: &[u8], after: Revision) -> Result<CursorId, WatchError> {
        if let Some(error) = &self.end {
            return Err(WatchError::Failed(error.clone()));
        }
        if after > self.current {
            return Err(WatchError::Future { current: self.current });
        }
        if after < self.forgotten {
            return Err(self.compacted());
        }
        let id = self.cursor_next;
        self.cursor_next = CursorId(id.0 + 1);
        let cursor = Cursor { prefix: Bytes::copy_from_slice(prefix), next: first_match(&self.batches, prefix, after), waker: None };
        self.cursors.insert(id, cursor);
        Ok(id)
    }

    pub(crate) fn remove_cursor(&mut self, id: CursorId) {
        self.cursors.remove(&id);
    }

    /// Yields the cursor's next batch and moves it on.
    pub(crate) fn take(&mut self, id: CursorId) -> Result<Option<Batch>, WatchError> {
        let Some(revision) = self.cursor(id).next else {
            return match &self.end {
                Some(error) => Err(WatchError::Failed(error.clone())),
                None => Ok(None),
            };
        };
        if revision <= self.forgotten {
            return Err(self.compacted());
        }
        let batches = &self.batches;
        let cursor = self.cursors.get_mut(&id).expect("a cursor lives as long as its watch");
        let batch = &batches[index_after(batches, Revision(revision.0 - 1))];
        let yielded = only_matching(batch, &cursor.prefix);
        cursor.next = first_match(batches, &cursor.prefix, revision);
        Ok(Some(yielded))
    }

    /// To be called when [`History::take`] had nothing, under the same lock.
    pub(crate) fn wake_on_match(&mut self, id: CursorId, waker: &Waker) {
        let cursor = self.cursors.get_mut(&id).expect("a cursor lives as long as its watch");
        match &mut cursor.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    pub(crate) fn progress(&self, id: CursorId) -> Revision {
        match self.cursor(id).next {
            Some(revision) => Revision(revision.0 - 1),
            None => self.current,
        }
    }

    fn cursor(&self, id: CursorId) -> &Cursor {
        &self.cursors[&id]
    }

    fn compacted(&self) -> WatchError {
        WatchError::Compacted { oldest: self.forgotten }
    }

    fn is_over_limit(&self) -> bool {
        self.events > self.limits.events_max || self.bytes > self.limits.bytes_max
    }

    fn forget_oldest(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            self.forgotten = batch.revision;
            self.events -= batch.events.len();
            self.bytes -= bytes_of(&batch);
        }
    }
}

/// Where the first batch after this revision is; revisions in the window have no gaps.
fn index_after(batches: &VecDeque<Batch>, after: Revision) -> usize {
    batches.front().map_or(0, |oldest| (after.0 + 1).saturating_sub(oldest.revision.0) as usize)
}

fn first_match(batches: &VecDeque<Batch>, prefix: &[u8], after: Revision) -> Option<Revision> {
    batches.range(index_after(batches, after).min(batches.len())..).find(|batch| matches(batch, prefix)).map(|batch| batch.revision)
}

fn matches(batch: &Batch, prefix: &[u8]) -> bool {
    batch.events.iter().any(|event| event.key.starts_with(prefix))
}

fn only_matching(batch: &Batch, prefix: &[u8]) -> Batch {
    let events = batch.events.iter().filter(|event| event.key.starts_with(prefix)).cloned().collect();
    Batch { revision: batch.revision, events }
}

/// What forgetting the batch gives back: the values it replaced and the final states. The values it
/// put are either current, or replaced by a later batch and counted there.
fn bytes_of(batch: &Batch) -> usize {
    let values = batch.events.iter().map(|event| match &event.change {
        Change::Put { previous, .. } => previous.as_ref().map_or(0, Bytes::len),
        Change::Delete { previous, last } => previous.len() + last.as_ref().map_or(0, Bytes::len),
    });
    let keys = batch.events.iter().map(|event| size_of_val(event) + event.key.len());
    values.sum::<usize>() + keys.sum::<usize>()
}
