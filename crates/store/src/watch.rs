//! A watch: a cursor into the shared history, and what it yields.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use crate::change::Batch;
use crate::history::{CursorId, History};
use crate::lock::{block_on, lock};
use crate::{Revision, WatchError};

/// Yields every change under a prefix in revision order, each revision once and whole.
///
/// It owns a position, not a queue. A reader that stays behind until a change it has not seen
/// leaves the window gets [`WatchError::Compacted`]; changes of other keys never cost it its place.
/// After an error it yields that error.
pub struct Watch {
    history: Arc<Mutex<History>>,
    cursor: CursorId,
}

impl Watch {
    pub(crate) fn new(history: Arc<Mutex<History>>, cursor: CursorId) -> Watch {
        Watch { history, cursor }
    }

    /// Waits for the next batch. Cancel-safe: a batch is taken only in the poll that returns it.
    pub async fn next(&mut self) -> Result<Batch, WatchError> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Blocks this thread until the next batch. Not for async tasks.
    pub fn next_blocking(&mut self) -> Result<Batch, WatchError> {
        block_on(self.next())
    }

    /// The next batch if there is one already.
    pub fn try_next(&mut self) -> Result<Option<Batch>, WatchError> {
        lock(&self.history).take(self.cursor)
    }

    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Batch, WatchError>> {
        let mut history = lock(&self.history);
        match history.take(self.cursor) {
            Ok(Some(batch)) => Poll::Ready(Ok(batch)),
            Err(error) => Poll::Ready(Err(error)),
            Ok(None) => {
                history.wake_on_match(self.cursor, context.waker());
                Poll::Pending
            }
        }
    }

    /// The bookmark: every matching change up to this revision was yielded, so a new watch after it
    /// misses nothing. Moves on while other keys change.
    pub fn progress(&self) -> Revision {
        lock(&self.history).progress(self.cursor)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.history).remove_cursor(self.cursor);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}
