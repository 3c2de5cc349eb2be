//! The one thread that writes to the file: takes all that waits, syncs once, publishes, answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use redb::Database;

use super::checksum::Sum;
use super::format;
use crate::StoreError;
use crate::published::Published;
use crate::queue::{Done, Pending, Queue, refuse};

pub(super) struct Writer {
    pub(super) database: Database,
    /// Over all records in the file.
    pub(super) sum: Sum,
    pub(super) path: Arc<Path>,
    pub(super) queue: Arc<Queue>,
    pub(super) published: Arc<Published>,
    pub(super) failed: Arc<OnceLock<StoreError>>,
}

impl Writer {
    /// Runs until the queue is closed and empty, or until the first failure.
    pub(super) fn run(mut self) {
        let end = catch_unwind(AssertUnwindSafe(|| self.write_groups()));
        let error = match end {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            // The hook reported the panic; what matters here is that no caller waits forever.
            Err(_) => StoreError::WriterStopped { path: self.path.to_path_buf() },
        };
        self.fail(&error);
    }

    fn write_groups(&mut self) -> Result<(), StoreError> {
        while let Some(mut group) = self.queue.next_group() {
            if let Err(error) = self.write(&group) {
                // Readers learn of it before any committer does, so that no committer that got the
                // error can still read.
                self.fail(&error);
                group.into_iter().for_each(|pending| refuse(pending, &error));
                return Err(error);
            }
            let done = Done::of(&group);
            let batches = group.iter_mut().filter_map(|pending| pending.batch.take());
            let wake = self.published.publish(batches);
            self.queue.strike_off(done);
            wake.into_iter().for_each(Waker::wake);
            group.into_iter().for_each(answer);
        }
        Ok(())
    }

    fn write(&mut self, group: &[Pending]) -> Result<(), StoreError> {
        let mut batches = group.iter().filter_map(|pending| pending.batch.as_ref()).peekable();
        if batches.peek().is_none() {
            return Ok(());
        }
        format::write(&self.database, batches, &mut self.sum).map_err(|source| StoreError::Disk {
            path: self.path.to_path_buf(),
            operation: "write to",
            source: Arc::new(source),
        })
    }

    fn fail(&self, error: &StoreError) {
        self.failed.get_or_init(|| error.clone());
        self.queue.fail(error);
        self.published.end(error.clone());
    }
}

fn answer(pending: Pending) {
    // The caller may wait no longer; then it does not miss the answer.
    let _ = pending.answer.send(pending.result);
}
