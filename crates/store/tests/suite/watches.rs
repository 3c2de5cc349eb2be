//! Watches and the window they share, by example.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use store::mem::MemStore;
use store::{Backend, Revision, WatchError, WindowLimits, mem};

use crate::support::{delete, put};

fn small_window() -> MemStore {
    mem::open_with(WindowLimits { events_max: 4, bytes_max: usize::MAX })
}

fn commit(store: &MemStore, keys: &[&str]) {
    for key in keys {
        store.commit(put(key, "v")).wait().expect("commits");
    }
}

#[test]
fn a_watch_of_a_quiet_prefix_is_not_cut_by_the_noise_of_others() {
    let store = small_window();
    let mut quiet = store.watch(b"quiet/", Revision(1)).expect("watches");
    commit(&store, &["noise"; 20]);
    assert_eq!(quiet.progress(), Revision(21));
    assert_eq!(quiet.try_next().expect("missed nothing"), None);
    commit(&store, &["quiet/1"]);
    let batch = quiet.try_next().expect("works").expect("is there");
    assert_eq!(batch.revision, Revision(22));
}

#[test]
fn a_watch_is_cut_when_a_change_it_has_not_seen_leaves_the_window() {
    let store = small_window();
    let mut slow = store.watch(b"slow/", Revision(1)).expect("watches");
    commit(&store, &["slow/1", "noise", "noise", "noise"]);
    assert_eq!(slow.progress(), Revision(1));
    commit(&store, &["noise"]);
    let error = slow.try_next().expect_err("revision 2 is gone");
    assert!(matches!(error, WatchError::Compacted { oldest } if oldest == Revision(2)));
    assert_eq!(error.to_string(), "history before revision 2 is forgotten; list again");
    assert!(slow.try_next().is_err(), "a cut watch stays cut");
}

#[test]
fn compaction_spares_watches_that_have_seen_everything() {
    let store = mem::open();
    let mut seen = store.watch(b"", Revision(1)).expect("watches");
    let mut unseen = store.watch(b"", Revision(1)).expect("watches");
    commit(&store, &["a", "b"]);
    store.commit(delete("a")).wait().expect("commits");
    while seen.try_next().expect("works").is_some() {}
    store.compact(Revision(4)).expect("compacts");
    assert_eq!(seen.try_next().expect("has seen all"), None);
    assert!(unseen.try_next().is_err());
    assert!(store.watch(b"", Revision(3)).is_err());
    assert!(store.watch(b"", Revision(4)).is_ok());
    assert!(matches!(
        store.watch(b"", Revision(5)),
        Err(WatchError::Future { current }) if current == Revision(4)
    ));
}

#[test]
fn the_window_is_bounded_by_bytes_that_only_it_holds() {
    let store = mem::open_with(WindowLimits { events_max: usize::MAX, bytes_max: 10_000 });
    let large = "x".repeat(3_000);
    for key in ["a", "b", "c", "d", "e"] {
        store.commit(put(key, &large)).wait().expect("commits");
    }
    assert!(store.watch(b"", Revision(1)).is_ok(), "current values cost the window nothing");
    for _ in 0..4 {
        store.commit(put("a", &large)).wait().expect("commits");
    }
    assert!(store.watch(b"", Revision(1)).is_err());
    assert!(store.watch(b"", Revision(8)).is_ok());
}

#[test]
fn the_newest_change_stays_however_large() {
    let store = mem::open_with(WindowLimits { events_max: 0, bytes_max: 0 });
    let mut watch = store.watch(b"", Revision(1)).expect("watches");
    commit(&store, &["a"]);
    assert!(watch.try_next().expect("works").is_some());
}

#[test]
fn only_watches_with_something_to_yield_are_woken() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let store = mem::open();
    let mut watch = store.watch(b"a/", Revision(1)).expect("watches");
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);
    {
        let mut next = pin!(watch.next());
        assert!(next.as_mut().poll(&mut context).is_pending());
        commit(&store, &["b/1", "b/2"]);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        commit(&store, &["a/1", "a/2"]);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(matches!(next.poll(&mut context), Poll::Ready(Ok(_))));
    }
    let second = watch.try_next().expect("works").expect("is there");
    assert_eq!(second.revision, Revision(5));
}

#[test]
fn a_cancelled_next_loses_nothing() {
    let store = mem::open();
    let mut watch = store.watch(b"", Revision(1)).expect("watches");
    {
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!(watch.next()).poll(&mut context).is_pending());
    }
    commit(&store, &["a"]);
    let batch = watch.next_blocking().expect("works");
    assert_eq!(batch.revision, Revision(2));
}
