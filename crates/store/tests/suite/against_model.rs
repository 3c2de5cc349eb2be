//! Random requests to both backends, compared with the model answer by answer.

use proptest::prelude::*;
use proptest::sample::Index;
use store::file::Options;
use store::{
    Backend, Commit, CommitError, Committed, Expect, Guard, Revision, StoreError, Template, Txn, Watch, WatchError, WindowLimits, Write,
    file, mem,
};

use crate::disk::Disk;
use crate::model::{Model, ModelWatch, Refused};
use crate::promises::{Recorded, Seen, judge, judge_resumed};
use crate::support::bytes;

/// Small enough for random histories to run out of it all the time.
const WINDOW: WindowLimits = WindowLimits { events_max: 12, bytes_max: usize::MAX };

/// Prefixes of one another, neighbours, the empty key, bytes above ASCII.
const KEYS: &[&[u8]] = &[b"", b"a", b"a/", b"a/1", b"a/2", b"a/10", b"a0", b"b/1", b"b/2", b"\xff", b"\xff\xff"];

#[derive(Clone, Debug)]
enum Request {
    /// All sent before the first answer is waited for.
    Commits(Vec<TxnPlan>),
    Range {
        prefix: usize,
        after: Option<usize>,
        limit: Option<usize>,
    },
    Compact {
        back: u64,
    },
    Watch {
        prefix: usize,
        back: u64,
    },
    Drain {
        watch: Index,
        batches: usize,
    },
    Unwatch {
        watch: Index,
    },
    Reopen,
}

/// A transaction whose guards are about the revisions of the moment.
#[derive(Clone, Debug)]
struct TxnPlan {
    guards: Vec<(usize, ExpectPlan)>,
    writes: Vec<WritePlan>,
}

#[derive(Clone, Debug)]
enum ExpectPlan {
    Absent,
    Present,
    /// At the revision the model knows, when there is one.
    Right,
    Modified(u64),
}

#[derive(Clone, Debug)]
enum WritePlan {
    Put(usize, Vec<u8>, Option<Index>),
    Delete(usize, Option<Vec<u8>>),
}

fn key() -> impl Strategy<Value = usize> {
    0..KEYS.len()
}

fn txn_plan() -> impl Strategy<Value = TxnPlan> {
    let expect = prop_oneof![
        2 => Just(ExpectPlan::Absent),
        2 => Just(ExpectPlan::Present),
        4 => Just(ExpectPlan::Right),
        1 => (0u64..20).prop_map(ExpectPlan::Modified),
    ];
    let value = prop::collection::vec(any::<u8>(), 0..4);
    let write = prop_oneof![
        3 => (key(), value.clone(), any::<Option<Index>>())
            .prop_map(|(key, value, at)| WritePlan::Put(key, value, at)),
        2 => (key(), prop::option::of(value))
            .prop_map(|(key, last)| WritePlan::Delete(key, last)),
    ];
    (
        prop::collection::vec((key(), expect), 0..2),
        prop_oneof![
            6 => prop::collection::vec(write.clone(), 1..2),
            3 => prop::collection::vec(write, 0..4),
        ],
    )
        .prop_map(|(guards, writes)| TxnPlan { guards, writes })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        10 => prop::collection::vec(txn_plan(), 1..2).prop_map(Request::Commits),
        4 => prop::collection::vec(txn_plan(), 2..8).prop_map(Request::Commits),
        3 => (key(), prop::option::of(key()), prop::option::of(0usize..4))
            .prop_map(|(prefix, after, limit)| Request::Range { prefix, after, limit }),
        3 => (0u64..8).prop_map(|back| Request::Compact { back }),
        6 => (key(), 0u64..14).prop_map(|(prefix, back)| Request::Watch { prefix, back }),
        6 => (any::<Index>(), 0usize..6)
            .prop_map(|(watch, batches)| Request::Drain { watch, batches }),
        1 => any::<Index>().prop_map(|watch| Request::Unwatch { watch }),
        1 => Just(Request::Reopen),
    ]
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    prop::collection::vec(request(), 1..60)
}

struct Pair {
    real: Watch,
    model: ModelWatch,
    recorded: Recorded,
}

/// The store under test, and how to open it again.
struct Run<'a> {
    store: Option<Box<dyn Backend>>,
    open: &'a dyn Fn() -> Box<dyn Backend>,
    durable: bool,
    model: Model,
    watches: Vec<Pair>,
    ended: Vec<Recorded>,
}

impl Run<'_> {
    fn store(&self) -> &dyn Backend {
        self.store.as_deref().expect("open between requests")
    }

    fn step(&mut self, request: &Request) {
        match request {
            Request::Commits(plans) => self.commits(plans),
            Request::Range { prefix, after, limit } => {
                let (prefix, after) = (KEYS[*prefix], after.map(|after| KEYS[after]));
                let real = self.store().range(prefix, after, *limit).expect("works");
                assert_eq!(real, self.model.range(prefix, after, *limit));
            }
            Request::Compact { back } => {
                // One beyond the present now and then.
                let up_to = Revision((self.model.revision.0 + 1).saturating_sub(*back));
                match self.store().compact(up_to) {
                    Ok(()) => assert!(self.model.compact(up_to)),
                    Err(StoreError::FutureRevision { .. }) => assert!(!self.model.compact(up_to)),
                    Err(other) => panic!("{other}"),
                }
            }
            Request::Watch { prefix, back } => self.watch(&bytes(KEYS[*prefix]), *back),
            Request::Drain { watch, batches } => {
                if !self.watches.is_empty() {
                    let index = watch.index(self.watches.len());
                    self.drain(index, *batches);
                }
            }
            Request::Unwatch { watch } => {
                if !self.watches.is_empty() {
                    let index = watch.index(self.watches.len());
                    self.ended.push(self.watches.swap_remove(index).recorded);
                }
            }
            Request::Reopen => {
                if self.durable {
                    self.reopen();
                }
            }
        }
    }

    fn commits(&mut self, plans: &[TxnPlan]) {
        let before = self.model.revision;
        let mut awaited: Vec<(Commit, Result<Committed, Refused>)> = Vec::new();
        for plan in plans {
            let txn = self.txn(plan);
            let commit = self.store().commit(txn.clone());
            awaited.push((commit, self.model.commit(&txn)));
        }
        for (commit, expected) in awaited {
            match (commit.wait(), expected) {
                (Ok(real), Ok(expected)) => {
                    assert_eq!(real.values, expected.values);
                    // Without effect its answer may show any state its guards held in.
                    let no_effect = real.revision < expected.revision;
                    assert!(real.revision == expected.revision || no_effect && real.revision >= before);
                }
                (Err(CommitError::Conflict { key, found }), Err(Refused::Conflict { key: key_expected, found: found_expected })) => {
                    assert_eq!((key, found), (key_expected, found_expected))
                }
                (Err(CommitError::DuplicateKey { .. }), Err(Refused::DuplicateKey)) => {}
                (real, expected) => panic!("{real:?} instead of {expected:?}"),
            }
        }
        assert_eq!(self.store().revision(), self.model.revision);
        for key in KEYS {
            let real = self.store().get(key).expect("works");
            assert_eq!(real.as_ref(), self.model.entries.get(*key));
        }
    }

    fn txn(&self, plan: &TxnPlan) -> Txn {
        let guards = plan.guards.iter().map(|(key, expect)| {
            let key = bytes(KEYS[*key]);
            let expect = match expect {
                ExpectPlan::Absent => Expect::Absent,
                ExpectPlan::Present => Expect::Present,
                ExpectPlan::Modified(revision) => Expect::Modified(Revision(*revision)),
                ExpectPlan::Right => match self.model.entries.get(&key) {
                    Some(entry) => Expect::Modified(entry.modified),
                    None => Expect::Absent,
                },
            };
            Guard { key, expect }
        });
        let writes = plan.writes.iter().map(|write| match write {
            WritePlan::Put(key, value, at) => Write::Put {
                key: bytes(KEYS[*key]),
                value: Template { bytes: value.clone(), revision_at: at.map(|at| at.index(value.len() + 1)) },
            },
            WritePlan::Delete(key, last) => {
                Write::Delete { key: bytes(KEYS[*key]), last: last.clone().map(|last| Template { bytes: last, revision_at: Some(0) }) }
            }
        });
        Txn { guards: guards.collect(), writes: writes.collect() }
    }

    fn watch(&mut self, prefix: &bytes::Bytes, back: u64) {
        // One beyond the present now and then.
        let after = Revision((self.model.revision.0 + 1).saturating_sub(back));
        let real = self.store().watch(prefix, after);
        match (real, self.model.watch(prefix, after)) {
            (Ok(real), Ok(model)) => {
                let recorded = Recorded::new(prefix, after);
                self.watches.push(Pair { real, model, recorded });
            }
            (Err(real), Err(model)) => assert_eq!(real.to_string(), model.to_string()),
            (real, model) => panic!("{real:?} instead of {model:?}"),
        }
    }

    fn drain(&mut self, index: usize, batches: usize) {
        let pair = &mut self.watches[index];
        for _ in 0..batches {
            let real = pair.real.try_next();
            match (real, self.model.watch_next(&mut pair.model)) {
                (Ok(real), Ok(model)) => {
                    assert_eq!(real, model);
                    pair.recorded.seen.extend(real.map(Seen::Batch));
                }
                (Err(real), Err(model)) => assert_eq!(real.to_string(), model.to_string()),
                (real, model) => panic!("{real:?} instead of {model:?}"),
            }
            let progress = pair.real.progress();
            assert_eq!(progress, self.model.watch_progress(&pair.model));
            pair.recorded.seen.push(Seen::Bookmark(progress));
        }
    }

    fn reopen(&mut self) {
        drop(self.store.take());
        for mut pair in self.watches.drain(..) {
            // What is there is still yielded, then the watch ends or is found to be cut off.
            let end = pair.recorded.drain(&mut pair.real).expect_err("closed");
            assert!(matches!(end, WatchError::Failed(StoreError::Closed) | WatchError::Compacted { .. }));
            self.ended.push(pair.recorded);
        }
        self.store = Some((self.open)());
        self.model.reopen();
        assert_eq!(self.store().revision(), self.model.revision);
        let real = self.store().range(b"", None, None).expect("works");
        assert_eq!(real, self.model.range(b"", None, None));
    }

    fn finish(mut self) {
        self.ended.extend(self.watches.drain(..).map(|pair| pair.recorded));
        for recorded in &self.ended {
            assert_eq!(judge(&self.model.history, recorded), Ok(()), "{recorded:?}");
            for other in &self.ended {
                if other.prefix == recorded.prefix && other.after >= recorded.after {
                    assert_eq!(judge_resumed(recorded, other), Ok(()));
                }
            }
        }
    }
}

fn run(open: &dyn Fn() -> Box<dyn Backend>, durable: bool, requests: &[Request]) {
    let mut run = Run { store: Some(open()), open, durable, model: Model::new(WINDOW), watches: Vec::new(), ended: Vec::new() };
    for request in requests {
        run.step(request);
    }
    run.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mem_answers_as_the_model(requests in requests()) {
        run(&|| Box::new(mem::open_with(WINDOW)), false, &requests);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn file_answers_as_the_model(requests in requests()) {
        let disk = Disk::default();
        let open = || -> Box<dyn Backend> {
            let options = Options { window: WINDOW, ..Options::default() };
            Box::new(file::open_storage(disk.clone(), options).expect("opens"))
        };
        run(&open, true, &requests);
    }
}
