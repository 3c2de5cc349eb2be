//! The answer to a transaction, to be awaited or waited for.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::lock::block_on;
use crate::{CommitError, Committed, StoreError};

pub(crate) type CommitResult = Result<Committed, CommitError>;

/// Becomes ready once the transaction is durable and visible to readers, or refused. Dropping it
/// withdraws nothing.
#[must_use = "a commit is confirmed only by its answer"]
#[derive(Debug)]
pub struct Commit(CommitState);

#[derive(Debug)]
enum CommitState {
    /// `None` once the answer was handed out.
    Ready(Option<CommitResult>),
    Waiting {
        answer: oneshot::Receiver<CommitResult>,
        /// For the error when the writer is gone without an answer.
        path: std::sync::Arc<Path>,
    },
}

impl Commit {
    pub(crate) fn ready(result: CommitResult) -> Commit {
        Commit(CommitState::Ready(Some(result)))
    }

    pub(crate) fn waiting(path: std::sync::Arc<Path>) -> (oneshot::Sender<CommitResult>, Commit) {
        let (sender, answer) = oneshot::channel();
        (sender, Commit(CommitState::Waiting { answer, path }))
    }

    /// Blocks this thread until the answer is there. Not for async tasks: they await the commit.
    pub fn wait(self) -> Result<Committed, CommitError> {
        block_on(self)
    }
}

impl Future for Commit {
    type Output = Result<Committed, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            CommitState::Ready(result) => Poll::Ready(result.take().expect("a future is not polled after it was ready")),
            CommitState::Waiting { answer, path } => Pin::new(answer).poll(context).map(|received| {
                received.unwrap_or_else(|_| Err(CommitError::Failed(StoreError::WriterStopped { path: path.to_path_buf() })))
            }),
        }
    }
}
