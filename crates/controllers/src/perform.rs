//! Sending what was planned: steps in order, the requests of a step at the same time within a
//! bound.

use brain::controller::Work;
use brain::execution::{Execution, ends_with_its_namespace};
use brain::queue::{Outcome, Written};
use brain::request::{Event, Request};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::Client;

use crate::report::Reporter;
use crate::send::{RequestError, send};

/// Requests of one step under way at once; the server commits together what arrives together.
const REQUESTS_AT_ONCE_MAX: usize = 128;

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

fn causes(status: &kube::core::Status) -> impl Iterator<Item = &str> {
    status.details.iter().flat_map(|details| &details.causes).map(|cause| cause.reason.as_str())
}
