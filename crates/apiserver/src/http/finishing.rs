//! Work that is done to its end, even when its caller has gone.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// Work that its caller polls. Where it is dropped before its end, the rest goes on in a task: a
/// task for all of it would wake another thread for every request.
pub struct Finishing<T: Send + 'static> {
    /// None when it is done, or panicked.
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
}

impl<T: Send + 'static> Finishing<T> {
    pub fn new(work: impl Future<Output = T> + Send + 'static) -> Finishing<T> {
        Finishing { work: Some(Box::pin(work)) }
    }
}

impl<T: Send + 'static> Future for Finishing<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Taken out, so that nothing is left after a panic.
        let mut work = self.work.take().expect("it is not polled again when it is done");
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Finishing<T> {
    fn drop(&mut self) {
        // Without a runtime the process is ending.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_is_dropped_goes_on() {
        let (go, wait) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let mut work = Finishing::new(async move {
            wait.await.unwrap();
            tell.send("done").unwrap();
        });
        assert!((&mut work).now_or_never().is_none());
        drop(work);
        go.send(()).unwrap();
        assert_eq!(told.await, Ok("done"));
    }

    #[tokio::test]
    async fn what_panics_is_not_done_again() {
        let mut work = Finishing::new(async { panic!("on purpose") });
        let panicked: Result<(), _> = std::panic::AssertUnwindSafe(&mut work).catch_unwind().await;
        assert!(panicked.is_err() && work.work.is_none());
    }
}
