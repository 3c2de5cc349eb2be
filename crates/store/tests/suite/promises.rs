//! The six promises of a watch, as judges over what a watch was seen to yield.
//!
//! After etcd's tests/robustness/validate/watch.go. The truth is the model's history of everything
//! that happened.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use store::{Batch, Revision, Watch, WatchError};

use crate::model::only_matching;

pub type Truth = BTreeMap<Revision, Batch>;

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Seen {
    Batch(Batch),
    Bookmark(Revision),
}

/// What one watch yielded from its start to its end.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub prefix: Bytes,
    pub after: Revision,
    pub seen: Vec<Seen>,
}

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Broken {
    Ordered,
    Unique,
    Atomic,
    Bookmarkable,
    Reliable,
    Resumable,
}

impl Recorded {
    pub fn new(prefix: &Bytes, after: Revision) -> Recorded {
        Recorded { prefix: prefix.clone(), after, seen: Vec::new() }
    }

    /// Takes what is there, with a bookmark after each batch.
    pub fn drain(&mut self, watch: &mut Watch) -> Result<(), WatchError> {
        while let Some(batch) = watch.try_next()? {
            self.seen.push(Seen::Batch(batch));
            self.seen.push(Seen::Bookmark(watch.progress()));
        }
        self.seen.push(Seen::Bookmark(watch.progress()));
        Ok(())
    }

    pub fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.seen.iter().filter_map(|seen| match seen {
            Seen::Batch(batch) => Some(batch),
            Seen::Bookmark(_) => None,
        })
    }

    /// The last revision the watch claims to be complete up to.
    pub fn complete_to(&self) -> Revision {
        let claim = |seen: &Seen| match seen {
            Seen::Batch(batch) => batch.revision,
            Seen::Bookmark(revision) => *revision,
        };
        self.seen.iter().map(claim).max().unwrap_or(self.after)
    }
}

pub fn judge(truth: &Truth, recorded: &Recorded) -> Result<(), Broken> {
    let promises = [
        (is_ordered(recorded), Broken::Ordered),
        (is_unique(recorded), Broken::Unique),
        (is_atomic(truth, recorded), Broken::Atomic),
        (is_bookmarkable(truth, recorded), Broken::Bookmarkable),
        (is_reliable(truth, recorded), Broken::Reliable),
    ];
    match promises.iter().find(|(kept, _)| !kept) {
        Some((_, broken)) => Err(*broken),
        None => Ok(()),
    }
}

/// A watch that took over at `resumed.after` yields what the first one yielded from there on.
pub fn judge_resumed(first: &Recorded, resumed: &Recorded) -> Result<(), Broken> {
    let common = first.complete_to().min(resumed.complete_to());
    let within = |batch: &&Batch| batch.revision > resumed.after && batch.revision <= common;
    let same = first.batches().filter(within).eq(resumed.batches().filter(within));
    if same { Ok(()) } else { Err(Broken::Resumable) }
}

fn is_ordered(recorded: &Recorded) -> bool {
    let mut last = recorded.after;
    recorded.seen.iter().all(|seen| match seen {
        Seen::Batch(batch) => {
            let later = batch.revision >= last && batch.revision > recorded.after;
            last = batch.revision;
            later
        }
        Seen::Bookmark(revision) => {
            let later = *revision >= last;
            last = *revision;
            later
        }
    })
}

fn is_unique(recorded: &Recorded) -> bool {
    let mut known = BTreeSet::new();
    recorded.batches().flat_map(|batch| &batch.events).all(|event| known.insert((event.revision, event.key.clone())))
}

fn is_atomic(truth: &Truth, recorded: &Recorded) -> bool {
    recorded
        .batches()
        .all(|batch| truth.get(&batch.revision).and_then(|whole| only_matching(whole, &recorded.prefix)).as_ref() == Some(batch))
}

fn is_bookmarkable(truth: &Truth, recorded: &Recorded) -> bool {
    let mut yielded = 0;
    recorded.seen.iter().all(|seen| match seen {
        Seen::Batch(_) => {
            yielded += 1;
            true
        }
        Seen::Bookmark(revision) => expected(truth, recorded, *revision) == yielded,
    })
}

fn is_reliable(truth: &Truth, recorded: &Recorded) -> bool {
    expected(truth, recorded, recorded.complete_to()) == recorded.batches().count()
}

/// How many batches a watch has to yield up to this revision.
fn expected(truth: &Truth, recorded: &Recorded, up_to: Revision) -> usize {
    truth
        .values()
        .filter(|batch| batch.revision > recorded.after && batch.revision <= up_to)
        .filter(|batch| only_matching(batch, &recorded.prefix).is_some())
        .count()
}

/// The judges must be able to find against a watch.
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::support::{bytes, delete, put, write};
    use store::Txn;

    fn honest() -> (Truth, Recorded) {
        let mut model = Model::unbounded();
        let both = Txn { guards: vec![], writes: vec![write("a/1", "x"), write("a/2", "y")] };
        for txn in [put("a/1", "v"), both, put("b/1", "z"), delete("a/1")] {
            model.commit(&txn).expect("no guards");
        }
        let mut recorded = Recorded::new(&bytes("a/"), Revision(1));
        for batch in model.history.values() {
            if let Some(batch) = only_matching(batch, b"a/") {
                let revision = batch.revision;
                recorded.seen.push(Seen::Batch(batch));
                recorded.seen.push(Seen::Bookmark(revision));
            }
        }
        (model.history, recorded)
    }

    fn check(spoil: impl FnOnce(&mut Vec<Seen>), broken: Result<(), Broken>) {
        let (truth, mut recorded) = honest();
        spoil(&mut recorded.seen);
        assert_eq!(judge(&truth, &recorded), broken, "{recorded:?}");
    }

    #[test]
    fn each_judge_finds_its_fault() {
        check(|_| {}, Ok(()));
        check(|seen| seen.swap(0, 2), Err(Broken::Ordered));
        check(|seen| seen.insert(1, seen[0].clone()), Err(Broken::Unique));
        check(
            |seen| match &mut seen[2] {
                Seen::Batch(batch) => batch.events.truncate(1),
                Seen::Bookmark(_) => unreachable!("the second batch is the third thing seen"),
            },
            Err(Broken::Atomic),
        );
        check(|seen| seen[1] = Seen::Bookmark(Revision(3)), Err(Broken::Bookmarkable));
        let forget_second = |seen: &mut Vec<Seen>| {
            seen.retain(|seen| matches!(seen, Seen::Batch(batch) if batch.revision != Revision(3)));
        };
        check(forget_second, Err(Broken::Reliable));
    }

    #[test]
    fn a_resumed_watch_that_misses_something_is_found() {
        let (_, first) = honest();
        let mut resumed = first.clone();
        resumed.after = Revision(2);
        resumed.seen.drain(..2);
        assert_eq!(judge_resumed(&first, &resumed), Ok(()));
        resumed.seen.drain(..2);
        assert_eq!(judge_resumed(&first, &resumed), Err(Broken::Resumable));
    }
}
