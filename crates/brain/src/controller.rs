//! What all controllers have in common: keys, and the work that is to be done about a key.

use jiff::{SignedDuration, Timestamp};

use crate::model::Key;
use crate::picture::{Change, Picture};
use crate::request::{Event, Request};

/// A decider with the keys it decides about.
pub trait Controller: Send {
    /// As logs and field managers name it: `daemonset-controller`.
    fn name(&self) -> &'static str;

    /// Which of its keys a change concerns. Called for every change, so it must be cheap. `picture`
    /// has the change already.
    fn concerns(&mut self, picture: &Picture, change: &Change, add: &mut dyn FnMut(Key));

    /// What to do about a key.
    fn plan(&mut self, picture: &Picture, key: &Key, now: Timestamp) -> Work;
}

/// What to do about a key.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Work {
    /// One after the other; a step that fails ends the work, and the key is planned again after a
    /// pause.
    pub steps: Vec<Step>,
    pub events: Vec<Event>,
    /// Done last, whether the steps succeeded or not: a status.
    pub last: Option<Request>,
    /// Plan again at that time, even if nothing changes.
    pub wake_at: Option<Timestamp>,
    /// Plan again at once when this is done: there is more than one plan may hold.
    pub more: bool,
    /// How long the key then rests, so that many changes are one plan.
    pub rest: SignedDuration,
}

impl Work {
    pub fn requests(requests: Vec<Request>) -> Work {
        Work { steps: vec![Step::all_at_once(requests)], ..Work::default() }
    }

    /// Nothing to be sent?
    pub fn is_empty(&self) -> bool {
        self.steps.iter().all(|step| step.requests.is_empty()) && self.events.is_empty() && self.last.is_none()
    }
}

/// Requests that may be sent at the same time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    pub requests: Vec<Request>,
    /// One first, then twice as many each time, and none any more after one was refused: what one
    /// is refused for, the others would be too.
    pub slow_start: bool,
    /// The requests have nothing to do with each other: that one was refused holds up none of the
    /// others and no later step.
    pub independent: bool,
}

impl Step {
    pub fn all_at_once(requests: Vec<Request>) -> Step {
        Step { requests, ..Step::default() }
    }
}
