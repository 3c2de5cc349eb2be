//! Sending what was planned: steps in order, the requests of a step at the same time within a bound.

use std::sync::Arc;

use brain::controller::{Outcome, Step, Work, Written, Wrote};
use brain::model::Key;
use brain::request::{Event, Request, Verb};
use futures::{StreamExt, stream};
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use serde::Deserialize;
use thiserror::Error;

use crate::report::Reporter;

/// Requests of one step under way at once; the server commits together what arrives together.
const REQUESTS_AT_ONCE_MAX: usize = 128;

/// The first batch of a slow start; each next one is twice as large.
const SLOW_START_FIRST: usize = 1;

/// Work whose requests are independent of each other is looked at again this long after one of them was refused.
const INDEPENDENT_RETRY: SignedDuration = SignedDuration::from_secs(1);

/// Why a request was not accepted.
#[derive(Debug, Error)]
pub enum RequestError {
    #[error("{0}")]
    Refused(Box<kube::core::Status>),
    #[error("cannot send a request")]
    Send(#[source] kube::Error),
    #[error("cannot build a request")]
    Build(#[source] http::Error),
    #[error("{0} is not there any more")]
    Gone(Key),
    #[error("{0} is still there")]
    StillThere(Key),
}

/// What the answers to writes are read for.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    metadata: AnswerMeta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AnswerMeta {
    uid: Arc<str>,
    resource_version: Box<str>,
    deletion_timestamp: Option<Timestamp>,
}

/// Does the work of a controller.
pub async fn perform(client: Client, name: &'static str, work: Work, reporter: Reporter) -> Outcome {
    let mut outcome = Outcome { wake_at: work.wake_at, more: work.more, rest: work.rest, ..Outcome::default() };
    for event in work.events {
        reporter.send(event);
    }
    for step in work.steps {
        let independent = step.independent;
        let refused = perform_step(&client, name, step, &reporter, &mut outcome.written).await;
        if refused && independent {
            let again = Timestamp::now() + INDEPENDENT_RETRY;
            outcome.wake_at = Some(outcome.wake_at.map_or(again, |at| at.min(again)));
        } else if refused {
            outcome.failed = true;
            break;
        }
    }
    if let Some(request) = work.last {
        let step = Step::all_at_once(vec![request]);
        outcome.failed |= perform_step(&client, name, step, &reporter, &mut outcome.written).await;
    }
    outcome
}

/// Sends the requests of a step; says whether one of them was refused.
async fn perform_step(client: &Client, name: &'static str, step: Step, reporter: &Reporter, written: &mut Vec<Written>) -> bool {
    let mut size = if step.slow_start { SLOW_START_FIRST } else { usize::MAX };
    let mut requests = step.requests.into_iter().peekable();
    while requests.peek().is_some() {
        let batch: Vec<Request> = requests.by_ref().take(size).collect();
        if perform_batch(client, name, batch, reporter, written).await {
            return true;
        }
        size = size.saturating_mul(2);
    }
    false
}

async fn perform_batch(client: &Client, name: &'static str, batch: Vec<Request>, reporter: &Reporter, written: &mut Vec<Written>) -> bool {
    // Each in a task of its own: in process, the server's work is done by whoever sends.
    let sent = stream::iter(batch).map(|request| {
        let (client, reporter) = (client.clone(), reporter.clone());
        tokio::spawn(async move { send_and_report(&client, name, request, &reporter).await })
    });
    let mut sent = sent.buffer_unordered(REQUESTS_AT_ONCE_MAX);
    let mut refused = false;
    while let Some(result) = sent.next().await {
        match result {
            Ok(Ok(accepted)) => written.extend(accepted),
            Ok(Err(())) => refused = true,
            Err(error) => {
                tracing::error!(%error, controller = name, "a request failed badly");
                refused = true;
            }
        }
    }
    refused
}

async fn send_and_report(client: &Client, name: &'static str, mut request: Request, reporter: &Reporter) -> Result<Option<Written>, ()> {
    let report = request.report.take();
    match send(client, name, &request).await {
        Ok(written) => {
            report.and_then(|report| report.accepted).into_iter().for_each(|event| reporter.send(event));
            Ok(written)
        }
        Err(RequestError::Refused(status)) if ends_with_its_namespace(&status) => Ok(None),
        Err(error) => {
            tell(name, &request, &error);
            if let Some(event) = report.and_then(|report| report.refused) {
                // The client library puts the reason behind the server's words.
                let said = match &error {
                    RequestError::Refused(status) => status.message.clone(),
                    other => other.to_string(),
                };
                reporter.send(Event { message: format!("{}{said}", event.message), ..event });
            }
            Err(())
        }
    }
}

/// Conflicts are how plans from an older picture end; they are no news.
fn tell(name: &'static str, request: &Request, error: &RequestError) {
    let (path, cause) = (request.path(), error as &dyn std::error::Error);
    match error {
        RequestError::Refused(status) if matches!(status.code, 404 | 409) => {
            tracing::debug!(error = cause, controller = name, path, "a request came too late; it is planned anew");
        }
        _ => tracing::warn!(error = cause, controller = name, path, "a request was not accepted; it is planned anew"),
    }
}

/// Sends one request. What is done already counts as accepted.
pub async fn send(client: &Client, name: &'static str, request: &Request) -> Result<Option<Written>, RequestError> {
    let (method, content_type, body) = request.body();
    let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).expect("JSON values are JSON") };
    let mut path = request.path();
    if method != "GET" && method != "DELETE" {
        path += &format!("?fieldManager={name}");
    }
    let http = http::Request::builder().method(method).uri(path).header(ACCEPT, "application/json").header(USER_AGENT, name);
    let http = if body.is_empty() { http.body(body) } else { http.header(CONTENT_TYPE, content_type).body(body) };
    let answer = match client.request::<Answer>(http.map_err(RequestError::Build)?).await {
        Ok(answer) => answer.metadata,
        Err(kube::Error::Api(status)) if is_done_already(request, status.code) => AnswerMeta::default(),
        Err(kube::Error::Api(status)) => return Err(RequestError::Refused(status)),
        Err(error) => return Err(RequestError::Send(error)),
    };
    match &request.verb {
        Verb::Check { uid } if answer.uid != *uid || answer.deletion_timestamp.is_some() => Err(RequestError::Gone(request.key.clone())),
        // Without a uid nothing may be there at all.
        Verb::CheckGone { uid } if !answer.uid.is_empty() && (uid.is_empty() || answer.uid == *uid) => {
            Err(RequestError::StillThere(request.key.clone()))
        }
        Verb::Check { .. } | Verb::CheckGone { .. } | Verb::DeleteCollection => Ok(None),
        _ => Ok(written(request, &answer)),
    }
}

/// What was to be deleted is gone, or is another object by now.
fn is_done_already(request: &Request, code: u16) -> bool {
    match &request.verb {
        // A refused resourceVersion is another matter: the object may still be there.
        Verb::Delete { resource_version: None, .. } => matches!(code, 404 | 409),
        Verb::Delete { .. } => code == 404,
        Verb::CheckGone { .. } => code == 404,
        _ => false,
    }
}

/// What the picture must show before it is planned upon again. `lists_started` is filled in by who keeps the picture.
fn written(request: &Request, answer: &AnswerMeta) -> Option<Written> {
    let what = match &request.verb {
        Verb::Delete { .. } => Wrote::Deleted,
        // Answers of subresources are not always the object itself.
        _ => Wrote::Version(answer.resource_version.parse().ok()?),
    };
    let uid = match &request.verb {
        Verb::Delete { uid: Some(uid), .. } => uid.clone(),
        _ => answer.uid.clone(),
    };
    Some(Written { kind: request.resource.followed(), key: request.key.clone(), uid, what, lists_started: 0 })
}

/// Nothing can be made in a namespace that is going away, and nothing needs to be.
fn ends_with_its_namespace(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}
