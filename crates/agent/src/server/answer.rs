//! Answers: plain texts, JSON, streams; and refusals, which are plain text with a code as the
//! kubelet gives them.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Why a request is not answered; the text reaches users.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    pub code: u16,
    pub text: String,
}

impl Refusal {
    pub fn new(code: u16, text: impl Into<String>) -> Refusal {
        Refusal { code, text: text.into() }
    }

    pub fn bad_request(text: impl Into<String>) -> Refusal {
        Refusal::new(400, text)
    }

    pub fn into_response(self) -> Response<Body> {
        typed(self.code, "text/plain; charset=utf-8", self.text)
    }
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn typed(code: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub fn text(body: impl Into<Bytes>) -> Response<Body> {
    typed(200, "text/plain; charset=utf-8", body)
}

pub fn json(value: &serde_json::Value) -> Response<Body> {
    typed(200, "application/json", value.to_string())
}

/// The text of Prometheus' exposition format.
pub fn metrics(body: String) -> Response<Body> {
    typed(200, "text/plain; version=0.0.4; charset=utf-8", body)
}
