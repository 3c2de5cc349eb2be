//! Unary calls of gRPC over HTTP/2 on a unix socket: a message in, a message out, a limit of time
//! for each.
//!
//! There is one connection; when the runtime restarts, the next call makes another. Compression,
//! deadlines told to the server and streaming calls are not here: a call that takes too long is
//! given up, which resets its stream and lets the server stop.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// A command's output of 16 MiB on both streams is the largest answer that runtimes give.
const ANSWER_BYTES_MAX: usize = 40 * 1024 * 1024;

/// A socket on this machine answers at once or has nobody behind it.
const CONNECT_SECONDS_MAX: u64 = 5;

/// Before each message: whether it is compressed, and its length.
const FRAME_HEAD_BYTES: usize = 5;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("connect to {}: {cause}", path.display())]
    Connect { path: PathBuf, cause: String },
    #[error("the connection to the container runtime broke: {0}")]
    Broken(String),
    #[error("no answer from the container runtime within {} seconds", .0.as_secs())]
    TooLate(Duration),
    #[error("the container runtime's answer is not understood: {0}")]
    Malformed(String),
    /// What the server says.
    #[error("{message}")]
    Status { code: Code, message: String },
}

/// The codes of gRPC that make a difference here.
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
}

/// How a method is called.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// `runtime.v1.RuntimeService/Version`.
    pub name: &'static str,
    pub limit: Duration,
    /// Changes nothing: it may be asked again when the connection broke.
    pub is_read: bool,
}

pub struct Channel {
    path: PathBuf,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Channel {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), connection: Mutex::new(None) }
    }

    pub async fn call<A: Message + Default>(&self, method: Method, question: &impl Message) -> Result<A, CallError> {
        let body = framed(question);
        let tried = timeout(method.limit, async {
            match self.try_call(method, body.clone()).await {
                Err(CallError::Broken(_)) if method.is_read => self.try_call(method, body).await,
                tried => tried,
            }
        });
        let answer = tried.await.map_err(|_| CallError::TooLate(method.limit))??;
        A::decode(answer).map_err(|e| CallError::Malformed(e.to_string()))
    }

    async fn try_call(&self, method: Method, body: Bytes) -> Result<Bytes, CallError> {
        let mut connection = self.connection().await?;
        let request = Request::post(format!("http://localhost/{}", method.name))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body))
            .map_err(|e| CallError::Malformed(e.to_string()))?;
        let response = connection.send_request(request).await.map_err(broken)?;
        answer(response).await
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, CallError> {
        let mut known = self.connection.lock().await;
        if let Some(connection) = known.as_mut().filter(|c| !c.is_closed())
            && connection.ready().await.is_ok()
        {
            return Ok(connection.clone());
        }
        let connect = timeout(Duration::from_secs(CONNECT_SECONDS_MAX), self.connect());
        let connection = connect.await.unwrap_or_else(|_| Err(self.unreachable("timed out")))?;
        *known = Some(connection.clone());
        Ok(connection)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, CallError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|e| self.unreachable(e))?;
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| self.unreachable(e))?;
        // Ends when the last sender is dropped or the server goes away; whoever calls finds out
        // why.
        tokio::spawn(async move { drop(connection.await) });
        sender.ready().await.map_err(|e| self.unreachable(e))?;
        Ok(sender)
    }

    fn unreachable(&self, cause: impl std::fmt::Display) -> CallError {
        CallError::Connect { path: self.path.clone(), cause: cause.to_string() }
    }
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

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(FRAME_HEAD_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("requests are made of configurations, which are far below 4 GiB"));
    message.encode(&mut frame).expect("the buffer grows as needed");
    frame.freeze()
}

async fn answer(response: Response<Incoming>) -> Result<Bytes, CallError> {
    let (head, body) = response.into_parts();
    // A failure without a message has its status in the head.
    check(&head.headers)?;
    let collected = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| CallError::Broken(e.to_string()))?;
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
            Err(CallError::Status { code, message: plain(&unescaped(&text("grpc-message").unwrap_or_default())) })
        }
    }
}

/// Bytes outside printable ASCII come as `%0A`.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|c| std::str::from_utf8(c).ok()).and_then(|c| u8::from_str_radix(c, 16).ok());
        match code.filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Servers that are clients of others repeat what those said with `rpc error: code = Unknown desc =
/// ` before it, which tells users nothing.
fn plain(message: &str) -> String {
    const HEAD: &str = "rpc error: code = ";
    const DESCRIPTION: &str = " desc = ";
    let mut text = message.to_owned();
    while let Some(begin) = text.find(HEAD) {
        let Some(length) = text[begin..].find(DESCRIPTION) else { break };
        text.replace_range(begin..begin + length + DESCRIPTION.len(), "");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_unescaped_and_freed_of_boilerplate() {
        assert_eq!(unescaped("100%25 of %C3%A4%0Aline, 5% more"), "100% of ä\nline, 5% more");
        assert_eq!(
            plain("failed: rpc error: code = Unknown desc = create: rpc error: code = NotFound desc = no x"),
            "failed: create: no x"
        );
        assert_eq!(plain("rpc error: code = odd"), "rpc error: code = odd");
    }

    #[test]
    fn frames_are_one_message() {
        assert_eq!(unframed(Bytes::from_static(&[0, 0, 0, 0, 2, 7, 8])).unwrap(), Bytes::from_static(&[7, 8]));
        for bad in [&[][..], &[0, 0, 0, 0], &[0, 0, 0, 0, 2, 7], &[1, 0, 0, 0, 1, 7]] {
            assert!(unframed(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }
}
