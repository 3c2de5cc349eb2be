//! Calls of file systems that may never return: what pods have mounted may lie on a server that
//! does not answer, and nothing ends such a call from outside. Each runs on a thread of its own,
//! and its caller stops waiting after a while. Threads that hang are bounded, and each pod has one
//! at most.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

/// Walks and mounts need little; the default is 2 MiB.
const STACK_BYTES: usize = 512 * 1024;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("the file system did not answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("the file system still does not answer an earlier call")]
    Hangs,
    #[error("too many file systems of the node do not answer")]
    Many,
    #[error("cannot look at the file system: {0}")]
    Failed(String),
}

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Threads {
    places: Arc<Semaphore>,
    busy: Arc<Mutex<BTreeSet<String>>>,
    patience: Duration,
}

impl Threads {
    /// So many at a time, each with so much time before it is given up.
    pub fn new(count_max: usize, patience: Duration) -> Threads {
        Threads { places: Arc::new(Semaphore::new(count_max)), busy: Arc::default(), patience }
    }

    /// Runs the work to its end, but waits for it only so long. Begins nothing for `whom` while
    /// earlier work of theirs hangs.
    pub async fn run<T: Send + 'static>(&self, whom: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let until = Instant::now() + self.patience;
        let turn = Turn::take(&self.busy, whom)?;
        let place = tokio::time::timeout_at(until, self.places.clone().acquire_owned()).await;
        let place = place.map_err(|_| Error::Many)?.map_err(|error| Error::Failed(error.to_string()))?;
        let (tell, told) = oneshot::channel();
        let held: (Turn, OwnedSemaphorePermit) = (turn, place);
        let body = move || {
            let result = work();
            // Released first: a caller that gets the result may begin the next one.
            drop(held);
            let _ = tell.send(result);
        };
        let thread = std::thread::Builder::new().name("file-system".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(body).map_err(|error| Error::Failed(error.to_string()))?;
        match tokio::time::timeout_at(until, told).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(Error::Failed("the call failed badly".to_owned())),
            Err(_) => Err(Error::Late(self.patience)),
        }
    }
}

/// One call under way; given back when it is dropped.
struct Turn {
    busy: Arc<Mutex<BTreeSet<String>>>,
    whom: String,
}

impl Turn {
    fn take(busy: &Arc<Mutex<BTreeSet<String>>>, whom: &str) -> Result<Turn, Error> {
        let is_free = busy.lock().unwrap_or_else(PoisonError::into_inner).insert(whom.to_owned());
        if is_free { Ok(Turn { busy: busy.clone(), whom: whom.to_owned() }) } else { Err(Error::Hangs) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.whom);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::FutureExt as _;

    use super::*;

    /// Too short for what hangs; what does not is tried until it is done.
    const PATIENCE: Duration = Duration::from_millis(20);

    /// A call that hangs until it is let go.
    fn hanging() -> (mpsc::Sender<()>, impl FnOnce() + Send + 'static) {
        let (let_go, wait) = mpsc::channel::<()>();
        (let_go, move || {
            let _ = wait.recv();
        })
    }

    async fn until_free(threads: &Threads, whom: &str) {
        while threads.run(whom, || ()).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_call_that_hangs_holds_nobody_else_up_and_ends_the_wait_for_it() {
        let threads = Threads::new(2, PATIENCE);
        let (let_go, hangs) = hanging();
        assert_eq!(threads.run("a", hangs).await, Err(Error::Late(PATIENCE)));
        assert_eq!(threads.run("a", || 1).await, Err(Error::Hangs), "one for each");
        let (_first_stays, hangs) = hanging();
        assert_eq!(threads.run("b", hangs).await, Err(Error::Late(PATIENCE)));
        assert_eq!(threads.run("c", || 1).await, Err(Error::Many), "two hang, and there are no more");
        drop(let_go);
        until_free(&threads, "a").await;
        until_free(&threads, "c").await;
    }

    /// The worker of a deleted pod drops what it waits for.
    #[tokio::test]
    async fn a_dropped_wait_leaves_the_thread_counted() {
        let threads = Threads::new(1, PATIENCE);
        let (let_go, hangs) = hanging();
        assert!(threads.run("a", hangs).now_or_never().is_none());
        assert_eq!(threads.run("a", || 1).await, Err(Error::Hangs));
        assert_eq!(threads.run("b", || 1).await, Err(Error::Many));
        drop(let_go);
        until_free(&threads, "b").await;
    }

    #[tokio::test]
    async fn a_panic_gives_its_place_back() {
        let threads = Threads::new(1, Duration::from_secs(60));
        let failed = threads.run("a", || panic!("on purpose")).await;
        assert!(matches!(failed, Err::<(), _>(Error::Failed(_))));
        until_free(&threads, "a").await;
    }
}
