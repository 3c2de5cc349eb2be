//! Request and response bodies.

use bytes::Bytes;
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use kinds::status::Status;

/// What the server accepts in one request body; Kubernetes' limit.
const REQUEST_BYTES_MAX: usize = 3 * 1024 * 1024;

/// A client gets this long to send a body.
const REQUEST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// What a client sends with its request: read already, or handed on as it comes.
pub enum RequestBody {
    Whole(Bytes),
    Stream(Body),
}

impl RequestBody {
    pub fn stream<B>(body: B) -> RequestBody
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        RequestBody::Stream(body.map_err(Into::into).boxed_unsync())
    }

    /// The whole body. One that is handed on cannot be read here.
    pub fn whole(self) -> Result<Bytes, Status> {
        match self {
            RequestBody::Whole(bytes) => Ok(bytes),
            RequestBody::Stream(_) => Err(Status::internal("the body of this request is handed on")),
        }
    }

    pub fn into_stream(self) -> Body {
        match self {
            RequestBody::Whole(bytes) => full(bytes),
            RequestBody::Stream(body) => body,
        }
    }
}

/// How many bytes of a body there may be, as far as its head says.
pub fn announced_bytes(body: &impl HttpBody) -> usize {
    let announced = body.size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
    announced.unwrap_or(REQUEST_BYTES_MAX).min(REQUEST_BYTES_MAX)
}

/// Reads a request body to its end, within the limit.
pub async fn read<B>(body: B) -> Result<Bytes, Status>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let reading = Limited::new(body, REQUEST_BYTES_MAX).collect();
    let Ok(read) = tokio::time::timeout(REQUEST_TIMEOUT, reading).await else {
        return Err(Status::timeout("request did not complete within the allotted timeout", 0));
    };
    match read {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Status::payload_too_large(format!("Request entity too large: limit is {REQUEST_BYTES_MAX}")))
        }
        Err(error) => Err(Status::bad_request(format!("cannot read the request body: {error}"))),
    }
}
