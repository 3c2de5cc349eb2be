//! What the audit log gets of requests and answers: their bodies, as far as a policy asks for them,
//! and the end of answers that go on.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderName, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use kinds::status::Status;
use kinds::{protobuf, table};
use serde_json::Value;

use super::decode;
use super::negotiate::{self, BodyType};
use super::path::Target;
use super::server::Call;
use crate::audit::{Annotations, Record, Stage};
use crate::body::{Body, BoxError, full};
use crate::nodes::forward::Carried;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Notes the body of a request.
pub fn request(record: &mut Record, call: &Call, target: &Target, bytes: &Bytes) {
    if bytes.is_empty() {
        return;
    }
    record.request_object(|| object(call, target, bytes), bytes.len());
}

/// The body as JSON, whatever it was sent as. None when it cannot be read; the request is then
/// refused, too.
fn object(call: &Call, target: &Target, bytes: &Bytes) -> Option<Value> {
    let content_type = call.header(CONTENT_TYPE).unwrap_or_default();
    let body_type = match content_type.split(';').next().unwrap_or_default().trim() {
        "application/apply-patch+yaml" => BodyType::Yaml,
        patch if patch.ends_with("-patch+json") => BodyType::Json,
        _ => negotiate::body_type(Some(content_type).filter(|text| !text.is_empty())).ok()?,
    };
    match (body_type, target) {
        (BodyType::Protobuf, Target::Resource(path)) if protobuf::has_magic(bytes) => {
            let kind = table::by_resource(&path.group, &path.version, &path.resource)?;
            Some(protobuf::parse(bytes, kind.type_id()).ok()?.into_value())
        }
        _ => Some(decode::parse(bytes, body_type).ok()?.0.into_value()),
    }
}

/// Writes the answer of a request down, and gives it on.
pub async fn answer(mut record: Record, mut response: Response<Body>, refusal: Option<&Status>) -> Response<Body> {
    if let Ok(id) = HeaderValue::from_str(record.id()) {
        response.headers_mut().insert(AUDIT_ID, id);
    }
    if let Some(annotations) = response.extensions_mut().remove::<Annotations>() {
        record.annotate(annotations);
    }
    record.answered(response.status().as_u16(), refusal);
    if response.extensions_mut().remove::<GoesOn>().is_some() {
        record.write(Stage::ResponseStarted).await;
        let ending = Ending(record);
        if let Some(carried) = response.extensions_mut().remove::<Carried>() {
            carried.hold(ending);
            return response;
        }
        return response.map(|body| Followed { body, _ending: ending }.boxed_unsync());
    }
    if record.wants_response() {
        response = noted(&mut record, response).await;
    }
    record.write(Stage::ResponseComplete).await;
    response
}

/// Marks an answer that goes on after it began.
#[derive(Debug, Clone)]
pub struct GoesOn;

/// Notes the body of an answer, which is read for it.
async fn noted(record: &mut Record, response: Response<Body>) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let is_json = parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if !is_json {
        return Response::from_parts(parts, body);
    }
    let bytes = match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => {
            tracing::warn!(%error, "an answer could not be read for the audit log");
            Bytes::new()
        }
    };
    record.response_object(|| serde_json::from_slice(&bytes).ok(), bytes.len());
    Response::from_parts(parts, full(bytes))
}

/// The end of an answer that goes on, however it comes, is the last event.
struct Ending(Record);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.write_now(Stage::ResponseComplete);
    }
}

/// The body of an answer that goes on.
struct Followed {
    body: Body,
    _ending: Ending,
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
