//! Decides transactions one after another against the latest accepted state.
//!
//! Accepted is ahead of published: a backend that syncs to disk accepts further transactions
//! meanwhile, and they are checked against what is on its way. The sequencer holds that difference
//! only. It does no I/O and keeps no queue; its caller calls [`Sequencer::decide`] under one lock,
//! so that the order of the calls is the order of revisions.

use std::collections::HashMap;

use bytes::Bytes;

use crate::change::{Batch, Change, Event};
use crate::commit::CommitResult;
use crate::objects::Objects;
use crate::{CommitError, Committed, Entry, Expect, Guard, Revision, Template, Txn, Write};

/// Largest key plus value. Kubernetes refuses requests over 3 MiB; the limit only keeps a bug from
/// reaching the disk with something redb would refuse (over 3 GiB) in the middle of a batch, which
/// would fail the whole store.
const OBJECT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Digits of the largest revision, `u64::MAX`.
const REVISION_DIGITS_MAX: usize = 20;

pub(crate) enum Decision {
    /// No change of state: refused, or without effect.
    Settled {
        result: CommitResult,
        /// Whether the outcome rests on a change that may not be durable yet. Then the caller gets
        /// it only after all transactions decided before, else it would know of a change that a
        /// crash can still undo.
        after_earlier: bool,
    },
    /// A change, to be made durable and then published, in order.
    Effective { batch: Batch, committed: Committed },
}

#[derive(Debug)]
pub(crate) struct Sequencer {
    /// The latest accepted revision.
    latest: Revision,
    /// Accepted state of keys where it may differ from the published one. Never iterated.
    unpublished: HashMap<Bytes, Unpublished>,
}

#[derive(Debug)]
struct Unpublished {
    entry: Option<Entry>,
    /// The revision of the change that made it so.
    revision: Revision,
}

/// The state of a key as the next transaction meets it.
struct Found<'a> {
    entry: Option<&'a Entry>,
    published: bool,
}

impl Sequencer {
    pub(crate) fn new(published: Revision) -> Sequencer {
        Sequencer { latest: published, unpublished: HashMap::new() }
    }

    pub(crate) fn decide(&mut self, objects: &Objects, txn: Txn) -> Decision {
        if let Err(error) = check_shape(&txn) {
            return Decision::Settled { result: Err(error), after_earlier: false };
        }
        let mut after_earlier = false;
        if let Err(error) = self.check_guards(objects, &txn.guards, &mut after_earlier) {
            return Decision::Settled { result: Err(error), after_earlier };
        }
        let revision = self.latest.next();
        let mut events = Vec::with_capacity(txn.writes.len());
        let mut values = Vec::with_capacity(txn.writes.len());
        for write in txn.writes {
            let found = self.find(objects, write.key());
            after_earlier |= !found.published;
            let (event, value) = build(revision, write, found.entry);
            events.extend(event);
            values.push(value);
        }
        if events.is_empty() {
            let revision = if after_earlier { self.latest } else { objects.revision };
            return Decision::Settled { result: Ok(Committed { revision, values }), after_earlier };
        }
        self.latest = revision;
        Decision::Effective { batch: Batch { revision, events }, committed: Committed { revision, values } }
    }

    /// Remembers a decided batch until [`Sequencer::forget`]. A backend that publishes under the
    /// lock of the decision needs neither.
    pub(crate) fn remember(&mut self, batch: &Batch) {
        for event in &batch.events {
            let entry = match &event.change {
                Change::Put { value, created, .. } => Some(Entry { value: value.clone(), created: *created, modified: batch.revision }),
                Change::Delete { .. } => None,
            };
            let unpublished = Unpublished { entry, revision: batch.revision };
            self.unpublished.insert(event.key.clone(), unpublished);
        }
    }

    /// A key's change at this revision is published. Later changes of the key stay remembered.
    pub(crate) fn forget(&mut self, key: &Bytes, revision: Revision) {
        if self.unpublished.get(key).is_some_and(|unpublished| unpublished.revision == revision) {
            self.unpublished.remove(key);
        }
    }

    fn check_guards(&self, objects: &Objects, guards: &[Guard], after_earlier: &mut bool) -> Result<(), CommitError> {
        for guard in guards {
            let found = self.find(objects, &guard.key);
            *after_earlier |= !found.published;
            if !holds(guard.expect, found.entry) {
                return Err(CommitError::Conflict { key: guard.key.clone(), found: found.entry.map(|entry| entry.modified) });
            }
        }
        Ok(())
    }

    fn find<'a>(&'a self, objects: &'a Objects, key: &Bytes) -> Found<'a> {
        match self.unpublished.get(key) {
            Some(unpublished) => Found { entry: unpublished.entry.as_ref(), published: false },
            None => Found { entry: objects.get(key), published: true },
        }
    }
}

fn holds(expect: Expect, found: Option<&Entry>) -> bool {
    match expect {
        Expect::Absent => found.is_none(),
        Expect::Present => found.is_some(),
        Expect::Modified(revision) => found.is_some_and(|entry| entry.modified == revision),
    }
}

/// The event of one write (none when it has no effect) and the bytes to answer with.
fn build(revision: Revision, write: Write, found: Option<&Entry>) -> (Option<Event>, Option<Bytes>) {
    let (key, change, value) = match (write, found) {
        (Write::Put { key, value }, found) => {
            let value = complete(value, revision);
            let change = Change::Put {
                value: value.clone(),
                created: found.map_or(revision, |entry| entry.created),
                previous: found.map(|entry| entry.value.clone()),
            };
            (key, change, Some(value))
        }
        (Write::Delete { key, last }, Some(found)) => {
            let last = last.map(|template| complete(template, revision));
            let change = Change::Delete { previous: found.value.clone(), last: last.clone() };
            (key, change, last)
        }
        (Write::Delete { .. }, None) => return (None, None),
    };
    let event = Event { revision, key, change };
    (Some(event), value)
}

/// Writes the revision into the bytes. The result has no spare capacity: it may live as long as the
/// object.
fn complete(template: Template, revision: Revision) -> Bytes {
    let Some(at) = template.revision_at else {
        return Bytes::from(template.bytes.into_boxed_slice());
    };
    let mut digits = [0u8; REVISION_DIGITS_MAX];
    let digits = decimal(revision, &mut digits);
    let (head, tail) = template.bytes.split_at(at);
    let mut bytes = Vec::with_capacity(template.bytes.len() + digits.len());
    bytes.extend_from_slice(head);
    bytes.extend_from_slice(digits);
    bytes.extend_from_slice(tail);
    Bytes::from(bytes)
}

fn decimal(revision: Revision, digits: &mut [u8; REVISION_DIGITS_MAX]) -> &[u8] {
    let mut rest = revision.0;
    let mut start = REVISION_DIGITS_MAX;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return &digits[start..];
        }
    }
}

/// What is wrong with a transaction whatever the state of the store.
fn check_shape(txn: &Txn) -> Result<(), CommitError> {
    txn.writes.iter().try_for_each(check_write)?;
    if txn.writes.len() > 1 {
        check_distinct(&txn.writes)?;
    }
    Ok(())
}

fn check_write(write: &Write) -> Result<(), CommitError> {
    let template = write.template();
    let length = template.map_or(0, |template| template.bytes.len());
    if let Some(revision_at) = template.and_then(|template| template.revision_at)
        && revision_at > length
    {
        return Err(CommitError::TemplateOffset { key: write.key().clone(), revision_at, length });
    }
    let bytes = write.key().len() + length;
    if bytes > OBJECT_BYTES_MAX {
        return Err(CommitError::TooLarge { key: write.key().clone(), bytes, bytes_max: OBJECT_BYTES_MAX });
    }
    Ok(())
}

fn check_distinct(writes: &[Write]) -> Result<(), CommitError> {
    let mut keys: Vec<&Bytes> = writes.iter().map(Write::key).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(CommitError::DuplicateKey { key: pair[0].clone() }),
        None => Ok(()),
    }
}
