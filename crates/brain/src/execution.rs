//! Work on its way: which requests go out next, what their answers mean, and how the work ends. The
//! senders of the requests (the shell, the simulator, a forecast) follow what this says.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

use crate::controller::{Step, Work};
use crate::model::Key;
use crate::queue::{Outcome, Written, Wrote};
use crate::request::{Request, Verb};

/// The first batch of a slow start; each next one is twice as large.
const SLOW_START_FIRST: usize = 1;

/// Work whose requests are independent of each other is planned again this long after one of them
/// was refused.
const INDEPENDENT_RETRY: SignedDuration = SignedDuration::from_secs(1);

/// The requests of a [`Work`], batch by batch. Its events are the sender's.
#[derive(Debug, Clone, Default)]
pub struct Execution {
    /// The first one is under way.
    steps: VecDeque<Step>,
    last: Option<Request>,
    /// So many requests of a slow start go out at once.
    batch_max: usize,
    /// Requests of the batch that have no answer yet.
    unanswered: usize,
    /// One of the batch was refused.
    refused: bool,
    outcome: Outcome,
}

impl Execution {
    pub fn new(work: Work) -> Execution {
        let outcome = Outcome { wake_at: work.wake_at, more: work.more, rest: work.rest, ..Outcome::default() };
        Execution { steps: work.steps.into(), last: work.last, batch_max: SLOW_START_FIRST, outcome, ..Execution::default() }
    }

    /// The next requests, which may be sent at the same time, once the batch before has been
    /// answered. None: the work has ended.
    pub fn next_batch(&mut self) -> Option<Vec<Request>> {
        debug_assert_eq!(self.unanswered, 0, "the batch before has been answered");
        self.refused = false;
        while self.steps.front().is_some_and(|step| step.requests.is_empty()) {
            self.end_step();
        }
        let batch = match self.steps.front_mut() {
            Some(step) => {
                let size = if step.slow_start { self.batch_max.min(step.requests.len()) } else { step.requests.len() };
                self.batch_max = self.batch_max.saturating_mul(2);
                step.requests.drain(..size).collect()
            }
            None => vec![self.last.take()?],
        };
        self.unanswered = batch.len();
        Some(batch)
    }

    /// The answer to a request of the batch: what was written, or that it was refused or lost.
    pub fn answered<E>(&mut self, answer: Result<Option<Written>, E>, now: Timestamp) {
        match answer {
            Ok(written) => self.outcome.written.extend(written),
            Err(_) => self.refused = true,
        }
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.unanswered > 0 || !self.refused {
            return;
        }
        match self.steps.front() {
            Some(step) if step.independent => {
                let again = now.saturating_add(INDEPENDENT_RETRY).unwrap_or(Timestamp::MAX);
                self.outcome.wake_at = Some(self.outcome.wake_at.map_or(again, |at| at.min(again)));
                self.end_step();
            }
            _ => {
                self.outcome.failed = true;
                self.steps.clear();
            }
        }
    }

    pub fn outcome(self) -> Outcome {
        self.outcome
    }

    fn end_step(&mut self) {
        self.steps.pop_front();
        self.batch_max = SLOW_START_FIRST;
    }
}

/// Metadata of the object in an answer; empty where the answer has none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    pub uid: Arc<str>,
    pub resource_version: Option<u64>,
    pub is_deleted: bool,
}

/// A check whose answer is not the one that the plan rests on.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Unmet {
    #[error("{0} is not there any more")]
    Gone(Key),
    #[error("{0} is still there")]
    StillThere(Key),
}

/// What an accepted request wrote: what the picture must show before it is planned upon again.
pub fn judge(request: &Request, answer: &Answer) -> Result<Option<Written>, Unmet> {
    let written =
        |uid: &Arc<str>, what| Some(Written { kind: request.resource.followed(), key: request.key.clone(), uid: uid.clone(), what });
    match &request.verb {
        Verb::Check { uid } if answer.uid != *uid || answer.is_deleted => Err(Unmet::Gone(request.key.clone())),
        // Without a uid nothing may be there at all.
        Verb::CheckGone { uid } if !answer.uid.is_empty() && (uid.is_empty() || answer.uid == *uid) => {
            Err(Unmet::StillThere(request.key.clone()))
        }
        Verb::Check { .. } | Verb::CheckGone { .. } | Verb::DeleteCollection => Ok(None),
        Verb::Delete { uid, .. } => Ok(written(uid.as_ref().unwrap_or(&answer.uid), Wrote::Deleted)),
        // Answers of subresources are not always the object itself.
        _ => Ok(answer.resource_version.and_then(|version| written(&answer.uid, Wrote::Version(version)))),
    }
}

/// Whether a refusal with that HTTP code says that nothing is left to do: what was to be deleted is
/// gone, or is another object by now.
pub fn is_done_already(request: &Request, code: u16) -> bool {
    match &request.verb {
        // A refused resourceVersion is another matter: the object may still be there.
        Verb::Delete { resource_version: None, .. } => matches!(code, 404 | 409),
        Verb::Delete { .. } | Verb::CheckGone { .. } => code == 404,
        _ => false,
    }
}

/// Nothing can be made in a namespace that is going away, and nothing needs to be. `causes`: the
/// reasons of the refusal's causes.
pub fn ends_with_its_namespace<'a>(mut causes: impl Iterator<Item = &'a str>) -> bool {
    causes.any(|reason| reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::PODS;

    fn pod(name: &str) -> Request {
        Request::new(PODS, Key::new("ns", name), Verb::Merge(serde_json::json!({})))
    }

    fn step(names: &[&str]) -> Step {
        Step::all_at_once(names.iter().map(|name| pod(name)).collect())
    }

    /// Answers every batch, refusing the requests of these names. Returns the batches in the order
    /// in which they went out.
    fn run(work: Work, refused: &[&str]) -> (Vec<Vec<String>>, Outcome) {
        let mut execution = Execution::new(work);
        let mut batches = Vec::new();
        while let Some(batch) = execution.next_batch() {
            batches.push(batch.iter().map(|request| request.key.name.to_string()).collect());
            for request in batch {
                let refused = refused.contains(&&*request.key.name);
                execution.answered(if refused { Err(()) } else { Ok(None) }, Timestamp::UNIX_EPOCH);
            }
        }
        (batches, execution.outcome())
    }

    #[test]
    fn steps_follow_each_other_and_the_last_request_ends_them() {
        let work = Work { steps: vec![step(&["a", "b"]), step(&[]), step(&["c"])], last: Some(pod("status")), ..Work::default() };
        let (batches, outcome) = run(work, &[]);
        assert_eq!(batches, [vec!["a", "b"], vec!["c"], vec!["status"]]);
        assert_eq!(outcome, Outcome::default());
    }

    #[test]
    fn a_refused_request_ends_the_work_after_its_batch_but_the_last_request_is_sent() {
        let work = Work { steps: vec![step(&["a", "b"]), step(&["c"])], last: Some(pod("status")), ..Work::default() };
        let (batches, outcome) = run(work.clone(), &["a"]);
        assert_eq!(batches, [vec!["a", "b"], vec!["status"]]);
        assert!(outcome.failed);
        assert!(run(work, &["status"]).1.failed);
    }

    #[test]
    fn independent_requests_hold_up_nothing_and_are_planned_again_soon() {
        let independent = Step { independent: true, ..step(&["a", "b"]) };
        let late = Timestamp::from_second(100).expect("a small number of seconds is a time");
        let work = Work { steps: vec![independent, step(&["c"])], wake_at: Some(late), ..Work::default() };
        let (batches, outcome) = run(work, &["a"]);
        assert_eq!(batches, [vec!["a", "b"], vec!["c"]]);
        assert!(!outcome.failed);
        assert_eq!(outcome.wake_at, Timestamp::from_second(1).ok());
    }

    #[test]
    fn a_slow_start_doubles_and_stops_at_a_refusal() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
        let slow = |names: &[&str]| Step { slow_start: true, ..step(names) };
        let work = |last: &[&str]| Work { steps: vec![slow(&names), slow(last)], ..Work::default() };
        let sizes = |batches: &[Vec<String>]| batches.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(&run(work(&["x", "y"]), &[]).0), [1, 2, 4, 2, 1, 1], "the next slow start begins with one again");
        assert_eq!(sizes(&run(work(&[]), &["c"]).0), [1, 2]);
    }

    #[test]
    fn checks_hold_only_for_the_object_that_was_meant() {
        let request = |verb| Request::new(PODS, Key::new("ns", "a"), verb);
        let answer = |uid: &str, is_deleted| Answer { uid: uid.into(), resource_version: Some(3), is_deleted };
        let check = request(Verb::Check { uid: "u".into() });
        assert_eq!(judge(&check, &answer("u", false)), Ok(None));
        assert_eq!(judge(&check, &answer("u", true)), Err(Unmet::Gone(check.key.clone())));
        assert_eq!(judge(&check, &answer("v", false)), Err(Unmet::Gone(check.key.clone())));
        let gone = |uid: &str| request(Verb::CheckGone { uid: uid.into() });
        assert_eq!(judge(&gone("u"), &answer("v", false)), Ok(None));
        assert_eq!(judge(&gone("u"), &Answer::default()), Ok(None));
        assert_eq!(judge(&gone("u"), &answer("u", true)), Err(Unmet::StillThere(check.key.clone())));
        assert_eq!(judge(&gone(""), &answer("v", false)), Err(Unmet::StillThere(check.key)));
    }

    #[test]
    fn deletions_of_what_is_gone_are_done() {
        let delete = |resource_version| {
            let verb = Verb::Delete { uid: Some("u".into()), resource_version, grace_seconds: None, propagation: None };
            Request::new(PODS, Key::new("ns", "a"), verb)
        };
        assert!(is_done_already(&delete(None), 404) && is_done_already(&delete(None), 409));
        assert!(is_done_already(&delete(Some(3)), 404) && !is_done_already(&delete(Some(3)), 409));
        assert!(!is_done_already(&pod("a"), 404));
        let written = judge(&delete(None), &Answer::default()).expect("a deletion is accepted");
        assert_eq!(written.map(|written| (written.uid, written.what)), Some(("u".into(), Wrote::Deleted)));
    }
}
