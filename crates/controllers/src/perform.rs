//! Sending what was planned: steps in order, the requests of a step at the same time within a
//! bound.

use std::sync::Arc;

use brain::controller::Work;
use brain::execution::{Answer, Execution, Unmet, ends_with_its_namespace, is_done_already, judge};
use brain::queue::{Outcome, Written};
use brain::request::{Event, Request};
use futures::{StreamExt, stream};
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use thiserror::Error;

use crate::report::Reporter;

/// Requests of one step under way at once; the server commits together what arrives together.
const REQUESTS_AT_ONCE_MAX: usize = 128;

/// Why a request was not accepted.
#[derive(Debug, Error)]
pub enum RequestError {
    #[error("{0}")]
    Refused(Box<kube::core::Status>),
    #[error("cannot send a request")]
    Send(#[source] kube::Error),
    #[error("cannot build a request")]
    Build(#[source] http::Error),
    #[error(transparent)]
    Unmet(#[from] Unmet),
}

/// What the answers to writes are read for.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Body {
    metadata: BodyMeta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct BodyMeta {
    uid: Arc<str>,
    resource_version: Box<str>,
    deletion_timestamp: Option<Timestamp>,
}

/// Does the work of a controller.
pub async fn perform(client: Client, name: &'static str, mut work: Work, reporter: Reporter) -> Outcome {
    for event in std::mem::take(&mut work.events) {
        reporter.send(event);
    }
    let mut execution = Execution::new(work);
    while let Some(batch) = execution.next_batch() {
        // Each in a task of its own: in process, the sender does the server's work.
        let sent = stream::iter(batch).map(|request| {
            let (client, reporter) = (client.clone(), reporter.clone());
            tokio::spawn(async move { send_and_report(&client, name, request, &reporter).await })
        });
        let mut sent = sent.buffer_unordered(REQUESTS_AT_ONCE_MAX);
        while let Some(result) = sent.next().await {
            let answer = result.unwrap_or_else(|error| {
                tracing::error!(%error, controller = name, "a request failed badly");
                Err(())
            });
            execution.answered(answer, Timestamp::now());
        }
    }
    execution.outcome()
}

async fn send_and_report(client: &Client, name: &'static str, mut request: Request, reporter: &Reporter) -> Result<Option<Written>, ()> {
    let report = request.report.take();
    match send(client, name, &request).await {
        Ok(written) => {
            report.and_then(|report| report.accepted).into_iter().for_each(|event| reporter.send(event));
            Ok(written)
        }
        Err(RequestError::Refused(status)) if ends_with_its_namespace(causes(&status)) => Ok(None),
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
    let answer = match client.request::<Body>(http.map_err(RequestError::Build)?).await {
        Ok(answer) => answer.metadata,
        Err(kube::Error::Api(status)) if is_done_already(request, status.code) => BodyMeta::default(),
        Err(kube::Error::Api(status)) => return Err(RequestError::Refused(status)),
        Err(error) => return Err(RequestError::Send(error)),
    };
    Ok(judge(
        request,
        &Answer {
            uid: answer.uid,
            resource_version: answer.resource_version.parse().ok(),
            is_deleted: answer.deletion_timestamp.is_some(),
        },
    )?)
}

fn causes(status: &kube::core::Status) -> impl Iterator<Item = &str> {
    status.details.iter().flat_map(|details| &details.causes).map(|cause| cause.reason.as_str())
}
