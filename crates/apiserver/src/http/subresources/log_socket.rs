//! A log over a WebSocket: each piece of it is a message, as bytes (`binary.k8s.io`, or no protocol
//! at all) or as base64 for browsers (`base64.binary.k8s.io`). What the client sends means nothing;
//! that it goes ends the log.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::{Sink, SinkExt, StreamExt};
use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use kinds::status::Status;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::body::{Body, full};
use crate::nodes::forward::Carried;

/// Appended to the client's key before it is digested (RFC 6455, section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A message of ours has no more, and one of the client's neither.
const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// How long a client gets to answer our goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// How pieces of the log are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Binary,
    Base64,
}

const DIALECTS: [(&str, Dialect); 2] = [("binary.k8s.io", Dialect::Binary), ("base64.binary.k8s.io", Dialect::Base64)];

/// Does a request ask for a WebSocket?
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    let has = |name: &HeaderName, token: &str| tokens(headers, name).any(|own| own.eq_ignore_ascii_case(token));
    has(&CONNECTION, "upgrade") && has(&UPGRADE, "websocket")
}

fn tokens<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// WriteTurns the answer with a log into one that goes on as a WebSocket.
pub fn switch(log: Body, client: &Parts, shutdown: watch::Receiver<bool>) -> Result<Response<Body>, Status> {
    let (dialect, mut response) = accept(&client.headers)?;
    let Some(upgrade) = client.extensions.get::<OnUpgrade>().cloned() else {
        return Err(Status::bad_request("this connection cannot be upgraded"));
    };
    let carried = Carried::default();
    response.extensions_mut().insert(carried.clone());
    tokio::spawn(carry(upgrade, log, dialect, shutdown, carried));
    Ok(response)
}

/// The first protocol that the client offers and we speak; a client that offers none gets bytes.
fn accept(headers: &HeaderMap) -> Result<(Dialect, Response<Body>), Status> {
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("the request has no Sec-WebSocket-Key"))?;
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Status::bad_request("this WebSocket version is not served"));
    }
    let offered: Vec<&str> = tokens(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
    let chosen = offered.iter().find_map(|offered| DIALECTS.iter().find(|(name, _)| name == offered));
    if chosen.is_none() && !offered.is_empty() {
        let served = DIALECTS.map(|(name, _)| name).join(", ");
        let why = format!("none of the protocols {} is supported: logs come as {served}", offered.join(", "));
        return Err(Status::new(403, "Forbidden", why));
    }
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, digest(key.as_bytes()));
    if let Some((name, _)) = chosen {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((chosen.map_or(Dialect::Binary, |(_, dialect)| *dialect), response))
}

fn digest(key: &[u8]) -> HeaderValue {
    let mut context = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID.as_bytes());
    HeaderValue::from_str(&BASE64.encode(context.finish())).expect("base64 is allowed in headers")
}

async fn carry(client: OnUpgrade, log: Body, dialect: Dialect, mut shutdown: watch::Receiver<bool>, _carried: Carried) {
    let carrying = async {
        let Ok(upgraded) = client.await else { return };
        let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        let (mut sink, mut stream) = socket.split();
        let mut gone = std::pin::pin!(async { while let Some(Ok(_)) = stream.next().await {} });
        // Writing is not taken up again after the client has gone.
        tokio::select! {
            written = write(&mut sink, log, dialect) => {
                // Closing at once could take from the client what it has not read yet.
                if written.is_ok() {
                    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, gone).await;
                }
            }
            () = gone.as_mut() => {}
        }
    };
    // Dropping the first arm closes the connection, and the agent's.
    tokio::select! {
        () = carrying => {}
        _ = shutdown.wait_for(|&stopping| stopping) => {}
    }
}

/// The first message is empty: it says that the log is open, which may have nothing to say for a
/// while.
async fn write(sink: &mut (impl Sink<Message, Error = Error> + Unpin), mut log: Body, dialect: Dialect) -> Result<(), Error> {
    sink.send(message(dialect, &Bytes::new())).await?;
    while let Some(Ok(frame)) = log.frame().await {
        let Ok(mut data) = frame.into_data() else { continue };
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MESSAGE_BYTES_MAX / 2));
            sink.send(message(dialect, &piece)).await?;
        }
    }
    // Clients take a closing without the code of a normal one for an error.
    sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await
}

fn message(dialect: Dialect, piece: &Bytes) -> Message {
    match dialect {
        Dialect::Binary => Message::Binary(piece.clone()),
        Dialect::Base64 => Message::text(BASE64.encode(piece)),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Request;
    use hyper::body::Incoming;
    use hyper::service::service_fn;

    use super::*;

    /// The answer to a client that offers these protocols, and the messages that follow it.
    async fn read(offered: &[&'static str], log: &'static str) -> (Response<Incoming>, Vec<Message>) {
        let (near, far) = tokio::io::duplex(4096);
        let (_stop, shutdown) = watch::channel(false);
        let service = service_fn(move |request: Request<Incoming>| {
            let parts = request.into_parts().0;
            assert!(is_asked_for(&parts.headers));
            let answer = switch(full(log), &parts, shutdown.clone());
            async move { Ok::<_, Infallible>(answer.unwrap_or_else(|status| super::super::answer::status(&status))) }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(near), service).with_upgrades());
        let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(far)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::get("/").header("connection", "keep-alive, Upgrade").header("upgrade", "WebSocket");
        request = request.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        for protocol in offered {
            request = request.header("sec-websocket-protocol", *protocol);
        }
        let mut answer = sender.send_request(request.body(full("")).unwrap()).await.unwrap();
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return (answer, Vec::new());
        }
        let upgraded = hyper::upgrade::on(&mut answer).await.unwrap();
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
        let mut messages = Vec::new();
        while let Some(Ok(message)) = socket.next().await {
            messages.push(message);
        }
        (answer, messages)
    }

    /// What Kubernetes' test "should support retrieving logs from the container over websockets"
    /// asks for.
    #[tokio::test]
    async fn a_log_comes_in_messages_after_an_empty_one_and_is_closed() {
        let (answer, messages) = read(&["binary.k8s.io"], "container is alive\n").await;
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "binary.k8s.io");
        assert_eq!(messages[..2], [Message::Binary(Bytes::new()), Message::Binary(Bytes::from_static(b"container is alive\n"))]);
        assert!(matches!(&messages[2..], [Message::Close(Some(frame))] if frame.code == CloseCode::Normal), "{messages:?}");
    }

    #[tokio::test]
    async fn protocols_are_chosen_as_they_are_offered() {
        let (answer, messages) = read(&[], "x").await;
        assert!(!answer.headers().contains_key("sec-websocket-protocol"));
        assert_eq!(messages[1], Message::Binary(Bytes::from_static(b"x")));
        let (_, messages) = read(&["v9.k8s.io, base64.binary.k8s.io"], "x").await;
        assert_eq!(messages[1], Message::text("eA=="));
        assert_eq!(read(&["v4.channel.k8s.io"], "x").await.0.status(), 403);
    }
}
