//! Unary calls of gRPC over HTTP/2: a message in, a message out.
//!
//! [`connect`] speaks over any stream (a unix socket, TCP), [`call`] asks once. Compression,
//! deadlines sent to the server and streaming calls are not here: a caller that stops waiting drops
//! the future, which resets the stream and lets the server stop.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::query::decode_path;

/// Before each message: whether it is compressed, and its length.
const FRAME_HEAD_BYTES: usize = 5;

/// Sends calls. Clones share the connection.
pub type Sender = SendRequest<Full<Bytes>>;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection ended or was reset, with its causes.
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the answer is not understood: {0}")]
    Malformed(String),
    /// What the server says.
    #[error("{message}")]
    Status { code: Code, message: String },
}

/// The codes of gRPC that make a difference to callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    PermissionDenied,
    FailedPrecondition,
    Unimplemented,
    Unauthenticated,
    Other(u32),
}

impl Code {
    fn new(number: u32) -> Self {
        match number {
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            7 => Self::PermissionDenied,
            9 => Self::FailedPrecondition,
            12 => Self::Unimplemented,
            16 => Self::Unauthenticated,
            other => Self::Other(other),
        }
    }

    pub fn number(self) -> u32 {
        match self {
            Self::InvalidArgument => 3,
            Self::DeadlineExceeded => 4,
            Self::NotFound => 5,
            Self::PermissionDenied => 7,
            Self::FailedPrecondition => 9,
            Self::Unimplemented => 12,
            Self::Unauthenticated => 16,
            Self::Other(number) => number,
        }
    }
}

/// Speaks HTTP/2 over the stream. The connection ends with its last sender, or when the server
/// goes.
pub async fn connect(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Sender, CallError> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(broken)?;
    // Callers get its errors.
    tokio::spawn(async move { drop(connection.await) });
    sender.ready().await.map_err(broken)?;
    Ok(sender)
}

/// Where and how to call.
#[derive(Debug, Clone, Copy)]
pub struct Method<'a> {
    /// Host and port, for the server's eyes.
    pub authority: &'a str,
    /// `runtime.v1.RuntimeService/Version`.
    pub name: &'a str,
    pub answer_bytes_max: usize,
}

/// Asks and reads the answer.
pub async fn call<A: Message + Default>(sender: &mut Sender, method: Method<'_>, question: Bytes) -> Result<A, CallError> {
    let request = Request::post(format!("http://{}/{}", method.authority, method.name))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(question))
        .map_err(|e| CallError::Malformed(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let message = answer(response, method.answer_bytes_max).await?;
    A::decode(message).map_err(|e| CallError::Malformed(e.to_string()))
}

/// A message as it is sent.
pub fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(FRAME_HEAD_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("requests are far below 4 GiB"));
    message.encode(&mut frame).expect("the buffer grows as needed");
    frame.freeze()
}

fn broken(error: hyper::Error) -> CallError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    CallError::Broken(text)
}

async fn answer(response: Response<Incoming>, bytes_max: usize) -> Result<Bytes, CallError> {
    let (head, body) = response.into_parts();
    // A failure without a message has its status in the head.
    check(&head.headers)?;
    let collected = Limited::new(body, bytes_max).collect().await.map_err(|e| CallError::Broken(e.to_string()))?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    check(&trailers)?;
    let is_answered = head.headers.contains_key("grpc-status") || trailers.contains_key("grpc-status");
    if !is_answered {
        return Err(CallError::Malformed(format!("HTTP status {}, none of gRPC", head.status)));
    }
    unframed(collected.to_bytes())
}

fn unframed(mut frame: Bytes) -> Result<Bytes, CallError> {
    let length = frame.get(1..FRAME_HEAD_BYTES).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let is_whole = length.is_some_and(|l| frame.len() - FRAME_HEAD_BYTES == l as usize) && frame[0] == 0;
    if !is_whole {
        return Err(CallError::Malformed(format!("{} bytes are not one message", frame.len())));
    }
    Ok(frame.split_off(FRAME_HEAD_BYTES))
}

fn check(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name: &str| headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    match text("grpc-status").as_deref() {
        None | Some("0") => Ok(()),
        Some(code) => {
            let code = Code::new(code.parse().unwrap_or(2));
            Err(CallError::Status { code, message: decode_path(&text("grpc-message").unwrap_or_default()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_one_message() {
        assert_eq!(unframed(Bytes::from_static(&[0, 0, 0, 0, 2, 7, 8])).unwrap(), Bytes::from_static(&[7, 8]));
        for bad in [&[][..], &[0, 0, 0, 0], &[0, 0, 0, 0, 2, 7], &[1, 0, 0, 0, 1, 7]] {
            assert!(unframed(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_status_has_its_number_and_its_message_unescaped() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", "5".parse().unwrap());
        headers.insert("grpc-message", "100%25 of %C3%A4%0Aline, 5% more".parse().unwrap());
        let Err(CallError::Status { code, message }) = check(&headers) else { panic!("5 is a failure") };
        assert_eq!((code, message.as_str()), (Code::NotFound, "100% of ä\nline, 5% more"));
        for number in 0..20 {
            assert_eq!(Code::new(number).number(), number);
        }
    }
}
