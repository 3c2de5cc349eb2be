//! The controller of the model: what `controllers::engine`, its queue and its memory are to the
//! real one, in values that hash.

use std::sync::Arc;

use super::translate::{Pause, Translator};
use super::world::{Event, Id, NODES_MAX, Name, Objects, PODS, REVISIONS, STREAMS};
use crate::model::Key;
use crate::picture::{Kind, Object, Picture};
use crate::queue::{Written, Wrote, has_seen};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Memory {
    pub begun: bool,
    pub pauses: [Pause; NODES_MAX],
    pub made: [Option<(u32, Name)>; NODES_MAX],
    pub unseen: [bool; NODES_MAX],
    pub doomed: Vec<Id>,
}

/// A plan, as writes in the order of their steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub writes: Vec<(u8, PlannedWrite)>,
    pub memory: Memory,
    pub wakes: bool,
    pub more: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlannedWrite {
    /// Is the set still there?
    Check,
    Revision {
        template: u8,
        number: u8,
        is_new: bool,
    },
    Adopt(Id),
    Delete {
        id: Id,
        node: u8,
        why: Why,
    },
    Create {
        node: u8,
        name: Name,
        template: u8,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    Misfit,
    Ended,
    Duplicate,
    Outdated,
    Broken,
    Surged,
    NodeGone,
}

/// An accepted write that the barrier waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accepted {
    /// The picture shows it after so many more events of its stream.
    Change {
        stream: usize,
        after: u8,
    },
    Gone(Id),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Controller {
    /// Something changed since the last plan.
    pub due: bool,
    /// A plan is being performed.
    pub busy: bool,
    /// What is left of it.
    pub writes: Vec<(u8, PlannedWrite)>,
    pub failed: bool,
    pub more: bool,
    /// Of the plan that is being performed.
    pub accepted: Vec<Accepted>,
    /// Of the last plan, not shown yet.
    pub unseen: Vec<Accepted>,
    pub wakes: bool,
    pub memory: Memory,
    /// Nodes that the last plan counted as desired: what a percentage was a percentage of.
    pub desired: u8,
}

impl Controller {
    /// Takes up a plan.
    pub fn begin(&mut self, planned: &Planned, desired: usize) {
        self.due = false;
        self.unseen.clear();
        self.busy = true;
        self.writes = planned.writes.clone();
        self.failed = false;
        self.more = planned.more;
        self.wakes = planned.wakes;
        self.memory = planned.memory.clone();
        self.desired = desired as u8;
    }

    /// The server refused a write, or its answer was lost: the others of its step were sent with
    /// it, later steps are not. Creations start slowly: none is sent after one that was refused.
    pub fn refused(&mut self, step: u8, write: PlannedWrite) {
        self.failed = true;
        let alone = matches!(write, PlannedWrite::Create { .. });
        self.writes.retain(|(other, _)| *other == step && !alone);
    }

    /// Ends the work when nothing is left of it.
    pub fn end_if_done(&mut self) {
        if self.busy && self.writes.is_empty() {
            self.busy = false;
            self.unseen = std::mem::take(&mut self.accepted);
            self.due |= self.failed || self.more;
            self.failed = false;
            self.more = false;
        }
    }

    /// One more event of a stream was shown.
    pub fn shown(&mut self, of: usize) {
        for accepted in self.unseen.iter_mut().chain(&mut self.accepted) {
            if let Accepted::Change { stream, after } = accepted
                && *stream == of
            {
                *after = after.saturating_sub(1);
            }
        }
    }

    /// Does the barrier let the next plan through? Asks the real rule.
    pub fn may_plan(&self, seen: &Objects, translator: &Translator) -> bool {
        self.unseen.iter().all(|accepted| match *accepted {
            Accepted::Change { stream, after } => {
                // Versions that say the same: the picture is at 1000, the events to come follow one
                // by one.
                let kind = if stream == PODS { Kind::Pod } else { Kind::ControllerRevision };
                let mut picture = Picture::default();
                picture.remove(kind, &Key::default(), 1000);
                has_seen(&picture, &written(kind, Key::default(), "".into(), Wrote::Version(1000 + u64::from(after))), 0)
            }
            Accepted::Gone(id) => {
                let mut picture = Picture::default();
                if let Some(pod) = seen.pod(id.name) {
                    picture.put(Object::Pod(translator.pod(*pod)));
                }
                let key = Key { namespace: "ns".into(), name: translator.text(id.name) };
                has_seen(&picture, &written(Kind::Pod, key, translator.uid(id), Wrote::Deleted), 0)
            }
        })
    }

    /// Forgets what cannot matter any more, so that equal situations are equal states.
    pub fn tidy(&mut self, seen: &Objects, translator: &Translator) {
        if !self.busy && !self.unseen.is_empty() && self.may_plan(seen, translator) {
            // Once the picture showed a write it never shows less.
            self.unseen.clear();
        }
        if !self.busy {
            self.desired = 0;
        }
    }
}

fn written(kind: Kind, key: Key, uid: Arc<str>, what: Wrote) -> Written {
    Written { kind, key, uid, what }
}

/// The events that a picture has not shown yet, stream by stream.
pub type Pending = [Vec<Event>; STREAMS];

/// What the answer to a write says.
pub fn accepted(write: PlannedWrite, pending: &Pending) -> Option<Accepted> {
    let last = |stream: usize| Accepted::Change { stream, after: pending[stream].len() as u8 };
    match write {
        PlannedWrite::Check => None,
        PlannedWrite::Revision { .. } => Some(last(REVISIONS)),
        PlannedWrite::Adopt(_) | PlannedWrite::Create { .. } => Some(last(PODS)),
        PlannedWrite::Delete { id, .. } => Some(Accepted::Gone(id)),
    }
}
