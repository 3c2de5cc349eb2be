//! Writers, watchers and a compactor at once; afterwards the six promises are judged against what
//! was committed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use bytes::Bytes;
use store::file::Options;
use store::{Backend, CommitError, Committed, Expect, Guard, Page, Revision, Template, Txn, WatchError, WindowLimits, Write, file, mem};

use crate::disk::Disk;
use crate::model::Model;
use crate::promises::{Recorded, Seen, judge};
use crate::support::{Rng, bytes};

const WRITERS: u64 = 4;
const COMMITS_EACH: u64 = 300;
const PREFIXES: &[&str] = &["", "a/", "a/1", "b/", "c/"];

/// Small, so that watches are cut while they run.
const WINDOW: WindowLimits = WindowLimits { events_max: 64, bytes_max: usize::MAX };

type Store = Arc<dyn Backend>;
type Log = Mutex<Vec<(Committed, Txn)>>;

/// What a watcher saw: its lists, and its watches between them.
#[derive(Default)]
struct Diary {
    pages: Vec<(Bytes, Page)>,
    watches: Vec<Recorded>,
}

fn random_txn(rng: &mut Rng, store: &Store) -> Txn {
    let key = |rng: &mut Rng| {
        let folder = ["a", "b"][rng.below(2) as usize];
        bytes(format!("{folder}/{}", rng.below(12)))
    };
    let first = key(rng);
    let mut writes = vec![random_write(rng, first.clone())];
    let second = key(rng);
    if rng.below(3) == 0 && second != first {
        writes.push(random_write(rng, second));
    }
    let expect = match (rng.below(3), store.get(&first).expect("works")) {
        (0, Some(entry)) => Some(Expect::Modified(entry.modified)),
        (0, None) => Some(Expect::Absent),
        _ => None,
    };
    let guards = expect.map(|expect| Guard { key: first, expect });
    Txn { guards: guards.into_iter().collect(), writes }
}

fn random_write(rng: &mut Rng, key: Bytes) -> Write {
    let template = Template { bytes: rng.next().to_string().into_bytes(), revision_at: Some(0) };
    match rng.below(3) {
        0 => Write::Delete { key, last: Some(template) },
        _ => Write::Put { key, value: template },
    }
}

fn write_all(store: &Store, seed: u64, log: &Log) {
    let mut rng = Rng(seed);
    for _ in 0..COMMITS_EACH {
        let txn = random_txn(&mut rng, store);
        match store.commit(txn.clone()).wait() {
            Ok(committed) => {
                assert!(store.revision() >= committed.revision, "answered before visible");
                log.lock().expect("not poisoned").push((committed, txn));
            }
            Err(CommitError::Conflict { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

/// Lists, watches, lists again when cut off: as a cache does, at a pace of its own.
fn follow(store: &Weak<dyn Backend>, prefix: &str, seed: u64) -> Diary {
    let mut rng = Rng(seed);
    let mut diary = Diary::default();
    let prefix = bytes(prefix);
    loop {
        let (page, watch) = {
            let Some(store) = store.upgrade() else {
                return diary;
            };
            let page = store.range(&prefix, None, None).expect("works");
            let watch = store.watch(&prefix, page.revision);
            (page, watch)
        };
        let mut recorded = Recorded::new(&prefix, page.revision);
        diary.pages.push((prefix.clone(), page));
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(WatchError::Compacted { .. }) => continue,
            // Above all, a list's revision is never in the future of watches.
            Err(other) => panic!("{other}"),
        };
        let end = loop {
            let lazy = rng.below(4) == 0;
            let next = if lazy {
                (0..rng.below(200)).for_each(|_| thread::yield_now());
                watch.try_next()
            } else {
                watch.next_blocking().map(Some)
            };
            match next {
                Ok(batch) => recorded.seen.extend(batch.map(Seen::Batch)),
                Err(error) => break error,
            }
            recorded.seen.push(Seen::Bookmark(watch.progress()));
        };
        diary.watches.push(recorded);
        if matches!(end, WatchError::Failed(_)) {
            return diary;
        }
    }
}

fn compact_until(store: &Store, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let revision = store.revision();
        let up_to = Revision(revision.0.saturating_sub(3));
        store.compact(up_to).expect("not in the future");
        (0..2_000).for_each(|_| thread::yield_now());
    }
}

fn check(store: Store, seed: u64) {
    let log = Log::default();
    let stop = AtomicBool::new(false);
    let diaries: Vec<Diary> = thread::scope(|scope| {
        let watchers: Vec<_> = PREFIXES
            .iter()
            .zip(seed..)
            .map(|(prefix, seed)| {
                let store = Arc::downgrade(&store);
                scope.spawn(move || follow(&store, prefix, seed))
            })
            .collect();
        let compactor = {
            let (store, stop) = (Arc::clone(&store), &stop);
            scope.spawn(move || compact_until(&store, stop))
        };
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| {
                let (store, log) = (Arc::clone(&store), &log);
                scope.spawn(move || write_all(&store, seed * 100 + n, log))
            })
            .collect();
        let written: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        // Before anything is asserted: the others run until the test stops them, and a panic here
        // waits for them.
        stop.store(true, Ordering::Relaxed);
        drop(store);
        compactor.join().expect("the compactor does not panic");
        assert!(written.iter().all(Result::is_ok), "writers do not panic");
        watchers.into_iter().map(|watcher| watcher.join().expect("watchers do not panic")).collect()
    });
    judge_all(log.into_inner().expect("not poisoned"), &diaries, seed);
}

/// Replays the commits in revision order: each must succeed in the model and get the same revision.
fn judge_all(mut log: Vec<(Committed, Txn)>, diaries: &[Diary], seed: u64) {
    log.sort_by_key(|(committed, _)| committed.revision);
    // All deletions here show a last state, so a transaction had no effect when it has no value to
    // answer with.
    let (effective, without_effect): (Vec<_>, Vec<_>) =
        log.into_iter().partition(|(committed, _)| committed.values.iter().any(Option::is_some));
    let mut model = Model::unbounded();
    let mut states = vec![model.clone()];
    for (committed, txn) in &effective {
        assert_eq!(model.commit(txn).as_ref(), Ok(committed), "seed {seed}");
        states.push(model.clone());
    }
    let state_at = |revision: Revision| &states[revision.0 as usize - 1];
    for (committed, txn) in &without_effect {
        let mut state = state_at(committed.revision).clone();
        assert_eq!(state.commit(txn).as_ref(), Ok(committed), "seed {seed}");
    }
    for diary in diaries {
        for recorded in &diary.watches {
            let judgement = judge(&model.history, recorded);
            assert_eq!(judgement, Ok(()), "seed {seed}: {recorded:?}");
        }
        for (prefix, page) in &diary.pages {
            let state = state_at(page.revision).range(prefix, None, None);
            assert_eq!(*page, state, "seed {seed}");
        }
    }
    assert!(diaries.iter().any(|diary| !diary.watches.is_empty()));
}

#[test]
fn mem_keeps_the_promises_under_concurrency() {
    for seed in 1..=4 {
        check(Arc::new(mem::open_with(WINDOW)), seed);
    }
}

#[test]
fn file_keeps_the_promises_under_concurrency() {
    for seed in 1..=2 {
        let options = Options { window: WINDOW, ..Options::default() };
        let store = file::open_storage(Disk::default(), options).expect("opens");
        check(Arc::new(store), seed);
    }
}
