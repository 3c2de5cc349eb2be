//! A queue of keys, and the barrier that keeps a plan from resting on a picture that is older than
//! the writes of the plan before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::model::Key;
use crate::picture::{Kind, Picture, Progress};

/// A write that was accepted: what a picture must have seen before it may be planned upon.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub kind: Kind,
    pub key: Key,
    /// Empty if the answer did not say.
    pub uid: Arc<str>,
    pub what: Wrote,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrote {
    /// Created or changed, to that resourceVersion.
    Version(u64),
    Deleted,
}

/// Has the picture seen the write? It has when it shows it, when it shows something later, and when
/// a list that was begun after the write is complete. `lists_started`: lists of the kind that had
/// been begun when the answer came.
pub fn has_seen(picture: &Picture, written: &Written, lists_started: u64) -> bool {
    let Progress { revision, lists_finished, .. } = picture.progress(written.kind);
    if lists_finished > lists_started {
        return true;
    }
    let now_there = picture.meta(written.kind, &written.key);
    match written.what {
        Wrote::Version(version) => revision >= version || now_there.is_some_and(|meta| meta.resource_version >= version),
        Wrote::Deleted => now_there.is_none_or(|meta| meta.is_deleted() || *meta.uid != *written.uid),
    }
}

/// The pause after work that failed, doubling between these.
const BACKOFF_MIN: SignedDuration = SignedDuration::from_millis(100);
const BACKOFF_MAX: SignedDuration = SignedDuration::from_secs(30);
const BACKOFF_DOUBLINGS_MAX: u32 = 9;

/// Keys to be planned: each at most once at a time, never before its last writes are in the
/// picture, after failures not at once, and not more often than it may.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// Something changed for these.
    changed: BTreeSet<Key>,
    /// Under way.
    busy: BTreeSet<Key>,
    /// Writes of the last work that the picture has not shown yet, after the number of lists of
    /// their kind that had been begun by then.
    unseen: BTreeMap<Key, Vec<(u64, Written)>>,
    /// To be planned at that time, changed or not.
    wake: BTreeMap<Key, Timestamp>,
    /// Not to be planned before that time.
    rest: BTreeMap<Key, Timestamp>,
    failures: BTreeMap<Key, u32>,
}

/// How work ended.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    pub written: Vec<Written>,
    pub failed: bool,
    pub wake_at: Option<Timestamp>,
    pub more: bool,
    pub rest: SignedDuration,
}

impl Queue {
    /// Something changed for a key.
    pub fn add(&mut self, key: Key) {
        self.changed.insert(key);
    }

    /// A key to plan now; it is busy until [`Queue::done`].
    pub fn take(&mut self, picture: &Picture, now: Timestamp) -> Option<Key> {
        let due: Vec<Key> = self.wake.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.wake.remove(&key);
            self.changed.insert(key);
        }
        let key = self.changed.iter().find(|key| self.may_plan(picture, key, now))?.clone();
        self.changed.remove(&key);
        self.unseen.remove(&key);
        self.rest.remove(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    fn may_plan(&self, picture: &Picture, key: &Key, now: Timestamp) -> bool {
        !self.busy.contains(key)
            && self.rest.get(key).is_none_or(|until| *until <= now)
            && self.unseen.get(key).is_none_or(|writes| writes.iter().rev().all(|(lists, written)| has_seen(picture, written, *lists)))
    }

    /// The work for a key ended. `picture` is the picture as it is when its last answer is taken
    /// in.
    pub fn done(&mut self, key: Key, outcome: Outcome, picture: &Picture, now: Timestamp) {
        self.busy.remove(&key);
        self.wake.remove(&key);
        if !outcome.written.is_empty() {
            let lists = |written: &Written| picture.progress(written.kind).lists_started;
            let unseen = outcome.written.into_iter().map(|written| (lists(&written), written));
            self.unseen.insert(key.clone(), unseen.collect());
        }
        let pause = if outcome.failed {
            let failures = self.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            (BACKOFF_MIN * (1 << (*failures - 1).min(BACKOFF_DOUBLINGS_MAX))).min(BACKOFF_MAX)
        } else {
            self.failures.remove(&key);
            outcome.rest
        };
        if !pause.is_zero() {
            self.rest.insert(key.clone(), now + pause);
        }
        if let Some(at) = outcome.wake_at {
            self.wake.insert(key.clone(), at);
        }
        if outcome.failed || outcome.more {
            self.changed.insert(key);
        }
    }

    /// When to look again if nothing changes. Rests that nothing waits for are forgotten on the
    /// way.
    pub fn next_wake(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.rest.retain(|_, until| *until > now);
        let rests = self.changed.iter().filter(|key| !self.busy.contains(*key)).filter_map(|key| self.rest.get(key));
        rests.chain(self.wake.values()).min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pod;
    use crate::picture::Object;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a small number of seconds is a time")
    }

    fn key() -> Key {
        Key::new("ns", "a")
    }

    fn pod(version: u64) -> Pod {
        let mut pod = Pod::default();
        pod.meta.namespace = "ns".into();
        pod.meta.name = "p".into();
        pod.meta.uid = "u1".into();
        pod.meta.resource_version = version;
        pod
    }

    fn wrote(what: Wrote) -> Outcome {
        let written = Written { kind: Kind::Pod, key: Key::new("ns", "p"), uid: "u1".into(), what };
        Outcome { written: vec![written], ..Outcome::default() }
    }

    #[test]
    fn a_key_is_planned_once_at_a_time() {
        let (picture, mut queue) = (Picture::default(), Queue::default());
        queue.add(key());
        assert_eq!(queue.take(&picture, at(1)), Some(key()));
        queue.add(key());
        assert_eq!(queue.take(&picture, at(1)), None);
        queue.done(key(), Outcome::default(), &picture, at(1));
        assert_eq!(queue.take(&picture, at(1)), Some(key()));
    }

    #[test]
    fn a_key_waits_until_the_picture_shows_its_creation() {
        let (mut picture, mut queue) = (Picture::default(), Queue::default());
        queue.add(key());
        queue.take(&picture, at(1));
        queue.done(key(), wrote(Wrote::Version(7)), &picture, at(1));
        queue.add(key());
        picture.put(Object::Pod(Arc::new(pod(6))));
        assert_eq!(queue.take(&picture, at(1)), None);
        picture.put(Object::Pod(Arc::new(pod(7))));
        assert_eq!(queue.take(&picture, at(1)), Some(key()));
    }

    #[test]
    fn a_pod_that_came_and_went_unseen_does_not_block_after_a_new_list() {
        let (mut picture, mut queue) = (Picture::default(), Queue::default());
        picture.list_started(Kind::Pod);
        queue.add(key());
        queue.take(&picture, at(1));
        queue.done(key(), wrote(Wrote::Version(7)), &picture, at(1));
        queue.add(key());
        picture.list_finished(Kind::Pod);
        assert_eq!(queue.take(&picture, at(1)), None, "that list was begun before the write");
        picture.list_started(Kind::Pod);
        picture.list_finished(Kind::Pod);
        assert_eq!(queue.take(&picture, at(1)), Some(key()));
    }

    #[test]
    fn a_deletion_is_seen_when_the_pod_is_marked_or_gone_or_another() {
        let mut picture = Picture::default();
        picture.put(Object::Pod(Arc::new(pod(5))));
        let written = wrote(Wrote::Deleted).written.remove(0);
        assert!(!has_seen(&picture, &written, 1));
        let mut marked = pod(6);
        marked.meta.deletion_timestamp = Some(at(1));
        picture.put(Object::Pod(Arc::new(marked)));
        assert!(has_seen(&picture, &written, 1));
        let mut other = pod(8);
        other.meta.uid = "u2".into();
        picture.put(Object::Pod(Arc::new(other)));
        assert!(has_seen(&picture, &written, 1));
        picture.remove(Kind::Pod, &Key::new("ns", "p"), 9);
        assert!(has_seen(&picture, &written, 1));
    }

    #[test]
    fn failures_pause_a_key_longer_and_longer() {
        let (picture, mut queue) = (Picture::default(), Queue::default());
        queue.add(key());
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..11 {
            assert_eq!(queue.take(&picture, now), Some(key()));
            queue.done(key(), Outcome { failed: true, ..Outcome::default() }, &picture, now);
            queue.add(key());
            assert_eq!(queue.take(&picture, now), None);
            let next = queue.next_wake(now).expect("it is tried again");
            pauses.push(next.duration_since(now).as_millis());
            now = next;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
    }
}
