//! Calls of the container runtime that make something.

use std::sync::Arc;

use brain::podsync::pace::CALLS_TIMEOUT;

#[derive(Debug, thiserror::Error)]
#[error("the call was interrupted")]
struct Interrupted(#[source] tokio::task::JoinError);

/// Calls that make something. They go on when the sync that made them is dropped,
/// and the end of the pod waits for them: nothing else would see what they made.
#[derive(Debug, Clone, Default)]
pub struct Calls(Arc<tokio::sync::Mutex<()>>);

impl Calls {
    /// Runs the call to its end, whether or not its caller stays.
    pub async fn whole<T: Send + 'static>(
        &self,
        call: impl Future<Output = containers::Result<T>> + Send + 'static,
    ) -> containers::Result<T> {
        let turn = self.0.clone().lock_owned().await;
        let task = tokio::spawn(async move {
            let result = call.await;
            drop(turn);
            result
        });
        task.await.unwrap_or_else(|error| Err(containers::Error::Failed(Box::new(Interrupted(error)))))
    }

    /// Waits until none is under way; false: one is after all this time.
    pub async fn are_done(&self) -> bool {
        tokio::time::timeout(CALLS_TIMEOUT, self.0.lock()).await.is_ok()
    }
}
