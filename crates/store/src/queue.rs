//! Transactions that are accepted but not yet durable, between the committers and the one writer
//! of a backend. It does not know where the writer writes to.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::change::Batch;
use crate::commit::CommitResult;
use crate::lock::lock;
use crate::published::Published;
use crate::sequencer::{Decision, Sequencer};
use crate::{Commit, CommitError, Revision, StoreError, Txn, Write};

/// Commits the writer takes into one transaction on disk. Bounds how long the first of a group
/// waits for the last.
const GROUP_COMMITS_MAX: usize = 2_048;
/// The same bound for large objects.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What a waiting commit costs beside its keys and values, so that the bound on bytes bounds the
/// number too.
const PENDING_OVERHEAD_BYTES: usize = 256;

/// An answer to give, in order, and what must be durable before.
pub(crate) struct Pending {
    /// None for an answer that only waits for what was accepted before it.
    pub(crate) batch: Option<Batch>,
    pub(crate) result: CommitResult,
    pub(crate) answer: oneshot::Sender<CommitResult>,
    bytes: usize,
}

/// What the writer made durable and published, to be struck off.
pub(crate) struct Done {
    keys: Vec<(Bytes, Revision)>,
    bytes: usize,
}

impl Done {
    pub(crate) fn of(group: &[Pending]) -> Done {
        let keys = group
            .iter()
            .filter_map(|pending| pending.batch.as_ref())
            .flat_map(|batch| &batch.events)
            .map(|event| (event.key.clone(), event.revision))
            .collect();
        let bytes = group.iter().map(|pending| pending.bytes).sum();
        Done { keys, bytes }
    }
}

pub(crate) struct Queue {
    state: Mutex<QueueState>,
    arrived: Condvar,
    bytes_max: usize,
    path: Arc<Path>,
}

struct QueueState {
    sequencer: Sequencer,
    pending: VecDeque<Pending>,
    /// Bytes of `pending` and of the group the writer works on.
    bytes: usize,
    /// Whether the writer sleeps. Only then does a commit wake it.
    writer_idle: bool,
    phase: Phase,
}

enum Phase {
    Open,
    Closing,
    Failed(StoreError),
}

impl Queue {
    pub(crate) fn new(published: Revision, bytes_max: usize, path: Arc<Path>) -> Queue {
        Queue {
            state: Mutex::new(QueueState {
                sequencer: Sequencer::new(published),
                pending: VecDeque::new(),
                bytes: 0,
                writer_idle: false,
                phase: Phase::Open,
            }),
            arrived: Condvar::new(),
            bytes_max,
            path,
        }
    }

    /// Decides the transaction and queues its answer, unless the answer needs nothing from the
    /// disk.
    pub(crate) fn commit(&self, published: &Published, txn: Txn) -> Commit {
        let bytes = PENDING_OVERHEAD_BYTES + bytes_of(&txn);
        let mut state = lock(&self.state);
        if let Phase::Failed(error) = &state.phase {
            return Commit::ready(Err(CommitError::Failed(error.clone())));
        }
        // One that is larger than the bound by itself gets its turn when nothing else waits.
        if state.bytes > 0 && state.bytes + bytes > self.bytes_max {
            let pending_bytes = state.bytes;
            return Commit::ready(Err(CommitError::Busy { pending_bytes }));
        }
        let decision = state.sequencer.decide(&published.objects(), txn);
        let (batch, result) = match decision {
            Decision::Settled { result, after_earlier: false } => return Commit::ready(result),
            Decision::Settled { result, .. } => (None, result),
            Decision::Effective { batch, committed } => {
                state.sequencer.remember(&batch);
                (Some(batch), Ok(committed))
            }
        };
        let (answer, commit) = Commit::waiting(Arc::clone(&self.path));
        state.bytes += bytes;
        state.pending.push_back(Pending { batch, result, answer, bytes });
        if state.writer_idle {
            state.writer_idle = false;
            self.arrived.notify_one();
        }
        commit
    }

    /// To be called before the answers are given, so that a caller that got one finds its bytes
    /// free again.
    pub(crate) fn strike_off(&self, done: Done) {
        let mut state = lock(&self.state);
        state.bytes -= done.bytes;
        for (key, revision) in &done.keys {
            state.sequencer.forget(key, *revision);
        }
    }

    /// Waits for the next group to write. None when closed and empty.
    pub(crate) fn next_group(&self) -> Option<Vec<Pending>> {
        let mut state = lock(&self.state);
        while state.pending.is_empty() {
            if !matches!(state.phase, Phase::Open) {
                return None;
            }
            state.writer_idle = true;
            state = self.arrived.wait(state).expect("no code panics under this lock; if it did, the state is not to be trusted");
        }
        state.writer_idle = false;
        let count = group_len(&state.pending);
        Some(state.pending.drain(..count).collect())
    }

    /// From now on every commit gets this error; so do those that wait.
    pub(crate) fn fail(&self, error: &StoreError) {
        let waiting = {
            let mut state = lock(&self.state);
            state.phase = Phase::Failed(error.clone());
            std::mem::take(&mut state.pending)
        };
        for pending in waiting {
            refuse(pending, error);
        }
    }

    /// No commit will follow; lets the writer finish what waits.
    pub(crate) fn close(&self) {
        // A poisoned lock means the writer is gone already, and panicking while closing would only
        // hide why.
        if let Ok(mut state) = self.state.lock() {
            if matches!(state.phase, Phase::Open) {
                state.phase = Phase::Closing;
            }
            self.arrived.notify_one();
        }
    }
}

pub(crate) fn refuse(pending: Pending, error: &StoreError) {
    // The caller may wait no longer; then it does not miss the answer.
    let _ = pending.answer.send(Err(CommitError::Failed(error.clone())));
}

fn group_len(pending: &VecDeque<Pending>) -> usize {
    let mut bytes = 0;
    let fitting = pending
        .iter()
        .take(GROUP_COMMITS_MAX)
        .take_while(|pending| {
            bytes += pending.bytes;
            bytes <= GROUP_BYTES_MAX
        })
        .count();
    fitting.max(1)
}

fn bytes_of(txn: &Txn) -> usize {
    let of_write = |write: &Write| write.key().len() + write.template().map_or(0, |template| template.bytes.len());
    txn.writes.iter().map(of_write).sum()
}
