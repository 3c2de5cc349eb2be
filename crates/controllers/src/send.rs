//! Sending one request, and what its answer means.

use std::sync::Arc;

use brain::execution::{Answer, Unmet, is_done_already, judge};
use brain::queue::Written;
use brain::request::Request;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use thiserror::Error;

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
