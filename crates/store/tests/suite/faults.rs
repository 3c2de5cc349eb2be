//! A disk that fails: never an answer, never a read, that the disk does not back.

use store::file::Options;
use store::{Backend, Commit, CommitError, Revision, StoreError, WatchError, file};

use crate::disk::{Disk, Fault};
use crate::support::{delete, put};

const COMMITS: u64 = 12;
/// More operations than the workload has; a sweep that gets here tests nothing any more.
const OPERATIONS_MAX: u64 = 300;

/// One commit after the other until one is refused; returns how many were acknowledged.
fn commit_until_refused(store: &dyn Backend) -> u64 {
    for n in 0..COMMITS {
        let pair: [Commit; 2] = [store.commit(put(&format!("k{n}"), "v")), store.commit(put("counter", &n.to_string()))];
        for (commit, part) in pair.into_iter().zip(0..) {
            match commit.wait() {
                Ok(_) => {}
                Err(CommitError::Failed(_)) => return 2 * n + part,
                Err(other) => panic!("{other}"),
            }
        }
    }
    2 * COMMITS
}

fn check_refuses_everything(store: &dyn Backend) {
    let failed = |error: &StoreError| matches!(error, StoreError::Disk { .. });
    assert!(failed(&store.get(b"k0").expect_err("failed")));
    assert!(failed(&store.range(b"", None, None).expect_err("failed")));
    assert!(failed(&store.compact(Revision(1)).expect_err("failed")));
    let watch = store.watch(b"", Revision(1));
    assert!(matches!(watch, Err(WatchError::Failed(error)) if failed(&error)));
    let commit = store.commit(delete("k0")).wait();
    assert!(matches!(commit, Err(CommitError::Failed(error)) if failed(&error)));
}

/// The disk fails at operation `at`, for good or only once; what was acknowledged is there
/// afterwards.
fn check_fault(at: u64, until: u64) -> bool {
    let disk = Disk::default();
    let store = file::open_storage(disk.clone(), Options::default()).expect("opens");
    let mut watch = store.watch(b"", Revision(1)).expect("watches");
    disk.set_fault(Some(Fault { from: at, until }));
    let acknowledged = commit_until_refused(&store);
    let reached = acknowledged < 2 * COMMITS;
    if reached {
        check_refuses_everything(&store);
        // Watches yield what is durable, and then say why they end.
        let mut yielded = 0;
        let end = loop {
            match watch.next_blocking() {
                Ok(_) => yielded += 1,
                Err(end) => break end,
            }
        };
        assert!(matches!(end, WatchError::Failed(StoreError::Disk { .. })));
        assert_eq!(yielded, acknowledged, "fault at {at}");
    }
    drop(store);
    disk.set_fault(None);
    let store = file::open_storage(disk, Options::default()).expect("opens again");
    let revision = store.revision().0;
    assert!(revision > acknowledged, "fault at {at}");
    // The failed group may have reached the disk after all, but only whole and in order.
    assert!(revision <= acknowledged + 3, "fault at {at}");
    let count = store.range(b"k", None, None).expect("works").entries.len() as u64;
    assert_eq!(count, revision / 2, "fault at {at}");
    reached
}

#[test]
fn a_disk_that_dies_at_any_operation_costs_nothing_acknowledged() {
    let mut at = 0;
    while check_fault(at, u64::MAX) {
        at += 1;
        assert!(at < OPERATIONS_MAX, "the sweep passed the end of the workload");
    }
    assert!(at > COMMITS, "the sweep covered the workload");
}

#[test]
fn a_disk_that_fails_once_is_not_trusted_again() {
    let mut at = 0;
    while check_fault(at, at + 1) {
        at += 1;
        assert!(at < OPERATIONS_MAX, "the sweep passed the end of the workload");
    }
}

#[test]
fn the_error_says_what_failed_where_and_what_to_do() {
    let disk = Disk::default();
    let store = file::open_storage(disk.clone(), Options::default()).expect("opens");
    disk.set_fault(Some(Fault { from: 0, until: u64::MAX }));
    let error = store.commit(put("k", "v")).wait().expect_err("failed");
    let CommitError::Failed(cause) = &error else {
        panic!("{error}");
    };
    let source = std::error::Error::source(cause).expect("names its cause");
    let texts = [error.to_string(), cause.to_string(), source.to_string()];
    assert_eq!(
        texts,
        [
            "the store failed before it could confirm the transaction",
            "cannot write to the store (storage); it refuses all requests from here on, so check the disk and restart",
            "I/O error: the disk was told to fail",
        ]
    );
}
