//! What answers a committer gets, and when.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use store::file::{FileStore, Options};
use store::{Backend, Commit, CommitError, Expect, Revision, StoreError, Template, Txn, WatchError, Write, file, mem};

use crate::disk::{Disk, Fault};
use crate::support::{bytes, delete, put, put_if};

fn on(disk: &Disk) -> FileStore {
    file::open_storage(disk.clone(), Options::default()).expect("opens")
}

fn is_pending(commit: &mut Commit) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(pin!(commit).poll(&mut context), Poll::Pending)
}

#[test]
fn the_revision_is_written_into_the_value_and_all_share_one_allocation() {
    let store = mem::open();
    let value = Template { bytes: b"{\"resourceVersion\":\"\"}".to_vec(), revision_at: Some(20) };
    let mut watch = store.watch(b"", Revision(0)).expect("watches");
    let key = bytes("k");
    let txn = Txn::one(None, Write::Put { key, value });
    let committed = store.commit(txn).wait().expect("commits");
    let answered = committed.values[0].clone().expect("a put has a value");
    assert_eq!(answered, "{\"resourceVersion\":\"2\"}");
    let read = store.get(b"k").expect("works").expect("is there").value;
    let batch = watch.try_next().expect("works").expect("is there");
    let store::Change::Put { value: seen, .. } = &batch.events[0].change else {
        panic!("a put is seen as a put");
    };
    assert_eq!(answered.as_ptr(), read.as_ptr());
    assert_eq!(answered.as_ptr(), seen.as_ptr());
}

#[test]
fn nothing_is_visible_or_answered_before_the_sync() {
    let disk = Disk::default();
    let store = on(&disk);
    let mut watch = store.watch(b"", Revision(1)).expect("watches");
    let held = disk.hold_syncs();
    let mut commit = store.commit(put("k", "v"));
    disk.wait_for_sync();
    assert!(is_pending(&mut commit));
    assert_eq!(store.revision(), Revision(1));
    assert_eq!(store.get(b"k").expect("works"), None);
    assert_eq!(watch.try_next().expect("works"), None);
    assert_eq!(watch.progress(), Revision(1));
    held.release();
    assert_eq!(commit.wait().expect("commits").revision, Revision(2));
    assert!(store.get(b"k").expect("works").is_some());
    assert!(watch.try_next().expect("works").is_some());
}

#[test]
fn guards_meet_writes_that_are_not_durable_yet() {
    let disk = Disk::default();
    let store = on(&disk);
    let held = disk.hold_syncs();
    let first = store.commit(put_if(Expect::Absent, "k", "1"));
    let second = store.commit(put_if(Expect::Modified(Revision(2)), "k", "2"));
    let third = store.commit(put_if(Expect::Modified(Revision(2)), "k", "3"));
    held.release();
    first.wait().expect("was absent");
    second.wait().expect("was at 2");
    let error = third.wait().expect_err("is at 3");
    assert_eq!(error.to_string(), "guard on key k does not hold: it was last modified at revision 3");
}

#[test]
fn a_conflict_with_a_write_in_flight_is_told_only_once_that_is_durable() {
    let disk = Disk::default();
    let store = on(&disk);
    store.commit(put("old", "v")).wait().expect("commits");
    let held = disk.hold_syncs();
    let mut first = store.commit(put("k", "v"));
    disk.wait_for_sync();
    let mut conflict = store.commit(put_if(Expect::Absent, "k", "w"));
    let mut without_effect = store.commit(Txn { guards: vec![store::Guard { key: bytes("k"), expect: Expect::Present }], writes: vec![] });
    // This one rests on durable state alone, and its answer can come at once.
    let known = store.commit(put_if(Expect::Absent, "old", "w"));
    assert!(matches!(known.wait(), Err(CommitError::Conflict { .. })));
    assert!(is_pending(&mut first));
    assert!(is_pending(&mut conflict));
    assert!(is_pending(&mut without_effect));
    held.release();
    let Err(CommitError::Conflict { found, .. }) = conflict.wait() else {
        panic!("the key is there");
    };
    assert_eq!(found, Some(Revision(3)));
    let committed = without_effect.wait().expect("the guard holds");
    assert_eq!(committed.revision, Revision(3));
    first.wait().expect("commits");
}

#[test]
fn a_conflict_with_a_write_that_never_becomes_durable_is_not_told() {
    let disk = Disk::default();
    let store = on(&disk);
    let held = disk.hold_syncs();
    let first = store.commit(put("k", "v"));
    disk.wait_for_sync();
    let conflict = store.commit(put_if(Expect::Absent, "k", "w"));
    disk.set_fault(Some(Fault { from: 0, until: 1 }));
    held.release();
    assert!(matches!(first.wait(), Err(CommitError::Failed(_))));
    assert!(matches!(conflict.wait(), Err(CommitError::Failed(_))));
}

#[test]
fn commits_past_the_bound_are_refused_and_may_be_tried_again() {
    let disk = Disk::default();
    let options = Options { pending_bytes_max: 2_000, ..Options::default() };
    let store = file::open_storage(disk.clone(), options).expect("opens");
    let held = disk.hold_syncs();
    let large = "x".repeat(1_000);
    let first = store.commit(put("a", &large));
    disk.wait_for_sync();
    let error = store.commit(put("b", &large)).wait().expect_err("full");
    assert!(error.is_retriable(), "{error}");
    let small = store.commit(put("c", "x"));
    held.release();
    first.wait().expect("commits");
    small.wait().expect("commits");
    // The bound itself does not stop a transaction that is larger than it.
    let huge = "x".repeat(5_000);
    store.commit(put("d", &huge)).wait().expect("commits");
    assert_eq!(store.get(b"b").expect("works"), None);
}

#[test]
fn many_commits_share_a_sync() {
    let disk = Disk::default();
    let store = on(&disk);
    let held = disk.hold_syncs();
    let first = store.commit(put("first", "v"));
    disk.wait_for_sync();
    let commits: Vec<Commit> = (0..500).map(|n| store.commit(put(&format!("k{n}"), "v"))).collect();
    disk.record();
    held.release();
    first.wait().expect("commits");
    for (commit, revision) in commits.into_iter().zip(3..) {
        assert_eq!(commit.wait().expect("commits").revision, Revision(revision));
    }
    let syncs = disk.take_journal().iter().filter(|operation| matches!(operation, crate::disk::Operation::Sync)).count();
    assert!(syncs <= 4, "{syncs} syncs for 501 commits");
}

#[test]
fn closing_finishes_what_waits() {
    let disk = Disk::default();
    let store = on(&disk);
    let mut watch = store.watch(b"", Revision(1)).expect("watches");
    let commits: Vec<Commit> = (0..100).map(|n| store.commit(put(&format!("k{n}"), "v"))).collect();
    drop(store);
    for commit in commits {
        commit.wait().expect("was accepted before the close");
    }
    for _ in 0..100 {
        assert!(watch.next_blocking().is_ok());
    }
    assert!(matches!(watch.next_blocking(), Err(WatchError::Failed(StoreError::Closed))));
    let store = on(&disk);
    assert_eq!(store.revision(), Revision(101));
}

#[test]
fn malformed_transactions_are_refused_whole() {
    let store = mem::open();
    let twice = Txn {
        guards: vec![],
        writes: vec![crate::support::write("k", "1"), crate::support::write("other", "1"), crate::support::erase("k")],
    };
    let outside = Txn::one(None, Write::Put { key: bytes("k"), value: Template { bytes: b"v".to_vec(), revision_at: Some(2) } });
    let too_large = put("k", &"x".repeat(17 * 1024 * 1024));
    let texts = [twice, outside, too_large].map(|txn| store.commit(txn).wait().expect_err("refused").to_string());
    assert_eq!(
        texts,
        [
            "key k is written twice in one transaction",
            "the revision's place 2 is outside the 1 bytes for key k",
            "key k and its value need 17825793 bytes, more than the 16777216 of one object",
        ]
    );
    assert_eq!(store.revision(), Revision(1));
}

#[test]
fn without_effect_no_revision_is_spent() {
    let store = mem::open();
    let committed = store.commit(delete("absent")).wait().expect("a no-op");
    assert_eq!(committed.revision, Revision(1));
    assert_eq!(committed.values, [None]);
    assert_eq!(store.revision(), Revision(1));
}
