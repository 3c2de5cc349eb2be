//! Sessions: commands with streams, attachments, forwarded ports.
//!
//! The runtime answers such a call with a URL of its streaming server, which is good for one
//! request within a minute. The request turns into SPDY; each stream tells in its headers what it
//! is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::errors::Failure;
use super::messages as cri;
use super::spdy::{self, Stream};
use super::{Client, calls, errors};
use crate::port::{Reader, Session, Writer};
use crate::words::failed;
use containers::{Result, StreamRequest, TerminalSize};
use wire::spdy::Headers;

/// The server is on this machine.
const UPGRADE_SECONDS_MAX: u64 = 30;

/// People resize windows slowly; the last size counts.
const RESIZES_MAX: usize = 16;

/// The server says nothing when it has connected to the port, only when it cannot; it says that
/// within a few milliseconds, or else a read of the stream returns the error.
const REFUSAL_MILLISECONDS_MAX: u64 = 30;

/// A status is a few hundred bytes; errors may quote commands.
const STATUS_BYTES_MAX: u64 = 1024 * 1024;

impl Client {
    pub(super) async fn exec_session(&self, id: &str, request: &StreamRequest) -> Result<Session> {
        let question = cri::ExecRequest {
            container_id: id.to_owned(),
            cmd: request.command.clone(),
            tty: request.tty,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr && !request.tty,
        };
        let answer = self.shared.channel.call(calls::EXEC, &question).await;
        session(&answer.map_err(|e| errors::container(id).error(e))?.url, request).await
    }

    pub(super) async fn attach_session(&self, id: &str, request: &StreamRequest) -> Result<Session> {
        let question = cri::AttachRequest {
            container_id: id.to_owned(),
            stdin: request.stdin,
            tty: request.tty,
            stdout: request.stdout,
            stderr: request.stderr && !request.tty,
        };
        let answer = self.shared.channel.call(calls::ATTACH, &question).await;
        session(&answer.map_err(|e| errors::container(id).error(e))?.url, request).await
    }

    pub(super) async fn forward(&self, sandbox_id: &str, port: u16) -> Result<(Reader, Writer)> {
        let question = cri::PortForwardRequest { pod_sandbox_id: sandbox_id.to_owned(), port: vec![port.into()] };
        let answer = self.shared.channel.call(calls::PORT_FORWARD, &question).await;
        let url = answer.map_err(|e| errors::sandbox(sandbox_id).error(e))?.url;
        let socket = upgraded(&url, "portforward.k8s.io").await?;
        let port = port.to_string();
        let of = |kind| headers(&[("streamtype", kind), ("port", port.as_str()), ("requestid", "0")]);
        let (connection, streams) = spdy::open(socket, &[of("error"), of("data")]).await.map_err(Failure::Broken)?;
        let [error, data] = <[Stream; 2]>::try_from(streams).unwrap_or_else(|_| unreachable!("as many streams as were opened"));
        let mut connections = JoinSet::new();
        connections.spawn(connection.run());
        drop(error.writer);
        let mut failure = async move { whole(error.reader).await.unwrap_or_default() }.boxed();
        let failure = match timeout(Duration::from_millis(REFUSAL_MILLISECONDS_MAX), &mut failure).await {
            Ok(text) if text.is_empty() => None,
            Ok(text) => return Err(Failure::Told(cause(&text).to_owned()).into()),
            Err(_) => Some(failure),
        };
        Ok((Box::new(Forwarded { data: data.reader, failure, _connection: connections }), Box::new(data.writer)))
    }
}

/// Without `error forwarding port 80 to pod ..., uid : `, which callers say themselves.
fn cause(text: &str) -> &str {
    text.split_once(", uid : ").map_or(text, |(_, cause)| cause)
}

/// What comes back through a forwarded port; in the end, why it ended if that was a failure.
struct Forwarded {
    data: DuplexStream,
    failure: Option<futures::future::BoxFuture<'static, String>>,
    /// Ends with this: a program in the pod that keeps silent would hold it forever.
    _connection: JoinSet<io::Result<()>>,
}

impl AsyncRead for Forwarded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.data).poll_read(context, buffer);
        let has_ended = matches!(polled, Poll::Ready(Ok(()))) && buffer.filled().len() == before && buffer.remaining() > 0;
        let Some(failure) = self.failure.as_mut().filter(|_| has_ended) else { return polled };
        let text = std::task::ready!(failure.as_mut().poll(context));
        self.failure = None;
        Poll::Ready(if text.is_empty() { Ok(()) } else { Err(io::Error::other(cause(&text).to_owned())) })
    }
}

/// Opens the streams that the request to the runtime named: it waits for just these.
async fn session(url: &str, request: &StreamRequest) -> Result<Session> {
    let socket = upgraded(url, "v4.channel.k8s.io").await?;
    let wanted = [
        ("error", true),
        ("stdin", request.stdin),
        ("stdout", request.stdout),
        ("stderr", request.stderr && !request.tty),
        ("resize", request.tty),
    ];
    let kinds: Vec<&str> = wanted.into_iter().filter(|(_, is_wanted)| *is_wanted).map(|(kind, _)| kind).collect();
    let all: Vec<Headers> = kinds.iter().map(|kind| headers(&[("streamtype", *kind)])).collect();
    let (connection, streams) = spdy::open(socket, &all).await.map_err(Failure::Broken)?;
    let mut session = Session { stdin: None, stdout: None, stderr: None, resize: None, exit: futures::future::pending().boxed() };
    let mut status = None;
    for (kind, Stream { reader, writer }) in kinds.into_iter().zip(streams) {
        match kind {
            "stdin" => session.stdin = Some(Box::new(writer)),
            "stdout" => session.stdout = Some(Box::new(reader)),
            "stderr" => session.stderr = Some(Box::new(reader)),
            "resize" => session.resize = Some(resizes(writer)),
            _ => status = Some(reader),
        }
    }
    let status = status.expect("the error stream is always wanted");
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(attended(connection.run(), status, sender));
    session.exit = receiver.map(|exit| exit.unwrap_or_else(|_| Err(Failure::SessionGone.into()))).boxed();
    Ok(session)
}

/// The session lasts while a caller waits for its end; what was sent before the end is still read
/// after it.
async fn attended(running: impl Future<Output = io::Result<()>>, status: DuplexStream, mut exit: oneshot::Sender<Result<i32>>) {
    let mut running = std::pin::pin!(running);
    let mut status = std::pin::pin!(whole(status));
    let (text, has_ended) = tokio::select! {
        // Both futures live outside and are polled on afterwards.
        text = &mut status => (text, false),
        // The connection's end drops the stream's other end, and so ends the reading of the status.
        _ = &mut running => (status.await, true),
        // The caller gave the session up.
        () = exit.closed() => return,
    };
    let _ = exit.send(text.map_err(|e| Failure::Broken(e).into()).and_then(|text| parse_exit(&text)));
    if !has_ended {
        let _ = running.await;
    }
}

async fn whole(stream: DuplexStream) -> io::Result<String> {
    let mut text = String::new();
    stream.take(STATUS_BYTES_MAX).read_to_string(&mut text).await?;
    Ok(text)
}

/// A `Status` of Kubernetes: an exit code is among the causes of a failure for the reason
/// `NonZeroExitCode`. Nothing at all means that the streams ended without a word, as those of an
/// attachment may.
fn parse_exit(text: &str) -> Result<i32> {
    if text.is_empty() {
        return Ok(0);
    }
    let Ok(status) = serde_json::from_str::<serde_json::Value>(text) else { return Err(Failure::Told(text.to_owned()).into()) };
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes.filter(|c| c["reason"] == "ExitCode").find_map(|c| c["message"].as_str()?.parse().ok());
    code.filter(|_| status["reason"] == "NonZeroExitCode")
        .ok_or_else(|| Failure::Told(status["message"].as_str().unwrap_or(text).to_owned()).into())
}

fn resizes(mut writer: DuplexStream) -> mpsc::Sender<TerminalSize> {
    let (sender, mut sizes) = mpsc::channel::<TerminalSize>(RESIZES_MAX);
    tokio::spawn(async move {
        while let Some(TerminalSize { columns, rows }) = sizes.recv().await {
            let size = format!("{{\"Width\":{columns},\"Height\":{rows}}}\n");
            if writer.write_all(size.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    sender
}

async fn upgraded(url: &str, protocol: &'static str) -> Result<TokioIo<Upgraded>> {
    let upgrade = timeout(Duration::from_secs(UPGRADE_SECONDS_MAX), upgrade(url, protocol)).await;
    upgrade.unwrap_or_else(|_| Err(Failure::Silent(url.to_owned()).into()))
}

async fn upgrade(url: &str, protocol: &'static str) -> Result<TokioIo<Upgraded>> {
    let uri: Uri = url.parse().map_err(|source| Failure::Url { url: url.to_owned(), source })?;
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    if uri.scheme_str() != Some("http") || uri.port_u16().is_none() {
        return Err(Failure::Scheme(url.to_owned()).into());
    }
    let socket = TcpStream::connect(&authority).await.map_err(failed(format!("connect to {authority}")))?;
    let _ = socket.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(Failure::Server)?;
    tokio::spawn(connection.with_upgrades());
    let request = Request::post(uri.path_and_query().map_or("/", |p| p.as_str()))
        .header(header::HOST, authority)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header("x-stream-protocol-version", protocol)
        .body(Empty::<Bytes>::new())
        .map_err(Failure::Request)?;
    let response = sender.send_request(request).await.map_err(Failure::Server)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let text = response.into_body().collect().await.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned());
        return Err(Failure::Refused { status, text: text.unwrap_or_default().trim().to_owned() }.into());
    }
    Ok(TokioIo::new(hyper::upgrade::on(response).await.map_err(Failure::Server)?))
}

fn headers(pairs: &[(&str, &str)]) -> Headers {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_as_servers_tell_them() {
        assert_eq!(parse_exit(""), Ok(0));
        assert_eq!(parse_exit(r#"{"metadata":{},"status":"Success"}"#), Ok(0));
        let failure =
            r#"{"status":"Failure","reason":"NonZeroExitCode","message":"m","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(parse_exit(failure), Ok(3));
        assert_eq!(
            parse_exit(r#"{"status":"Failure","message":"no such program"}"#),
            Err(containers::Error::Failed("no such program".into()))
        );
    }
}
