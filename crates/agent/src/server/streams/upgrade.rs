//! How a request becomes a connection: which protocol the client offers, and the answer that
//! accepts one.

use http::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::Duplex;
use crate::server::answer::{Body, Refusal, full};

/// SPDY clients offer the protocols that they speak within its streams here, and the answer names
/// the one that the server took.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_STREAM_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

const WEBSOCKET_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
const WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");

/// Appended to the client's key before it is digested (RFC 6455, section 1.3).
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Spdy,
    WebSocket,
}

/// What a request asks to become, or why it cannot.
pub fn transport(headers: &HeaderMap) -> Result<Transport, Refusal> {
    let upgrades: Vec<String> = tokens(headers, &UPGRADE).map(|token| token.to_ascii_lowercase()).collect();
    if !tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        let connection = headers.get(CONNECTION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let offered = headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        return Err(Refusal::bad_request(format!(
            "unable to upgrade: missing upgrade headers in request: Connection [{connection}], Upgrade [{offered}]"
        )));
    }
    if upgrades.iter().any(|token| token == "websocket") {
        Ok(Transport::WebSocket)
    } else if upgrades.iter().any(|token| token == "spdy/3.1") {
        Ok(Transport::Spdy)
    } else {
        Err(Refusal::bad_request(format!("unable to upgrade: unknown protocol {upgrades:?}")))
    }
}

fn tokens<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// The protocol to speak: of the server's, which has the best first, the first that the client
/// offers. A client that offers none means `""`.
fn choose(headers: &HeaderMap, name: &HeaderName, served: &[&'static str]) -> Result<&'static str, Vec<String>> {
    let offered: Vec<&str> = tokens(headers, name).collect();
    if offered.is_empty() {
        return Ok("");
    }
    let chosen = served.iter().find(|protocol| !protocol.is_empty() && offered.contains(protocol));
    chosen.copied().ok_or_else(|| offered.iter().map(|&protocol| protocol.to_owned()).collect())
}

/// The answer to a SPDY client, and the protocol of its streams.
pub fn accept_spdy(headers: &HeaderMap, served: &[&'static str]) -> Result<(&'static str, Response<Body>), Box<Response<Body>>> {
    let protocol = choose(headers, &STREAM_PROTOCOL, served).map_err(|offered| {
        let text = format!("unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {served:?}");
        let mut response = Refusal::new(403, text).into_response();
        for protocol in served {
            response.headers_mut().append(ACCEPTED_STREAM_PROTOCOLS, HeaderValue::from_static(protocol));
        }
        Box::new(response)
    })?;
    let mut response = switching("SPDY/3.1");
    if !protocol.is_empty() {
        response.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok((protocol, response))
}

/// The answer to a WebSocket client, and the protocol of its messages.
pub fn accept_websocket(headers: &HeaderMap, served: &[&'static str]) -> Result<(&'static str, Response<Body>), Refusal> {
    let key = headers.get(WEBSOCKET_KEY).ok_or_else(|| Refusal::bad_request("the request has no Sec-WebSocket-Key"))?;
    if headers.get(WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::bad_request("this WebSocket version is not served"));
    }
    let protocol = choose(headers, &WEBSOCKET_PROTOCOL, served).map_err(|offered| {
        Refusal::new(403, format!("unable to negotiate protocol: client supports {offered:?}, server accepts {served:?}"))
    })?;
    let mut response = switching("websocket");
    response.headers_mut().insert(WEBSOCKET_ACCEPT, digest(key.as_bytes()));
    if !protocol.is_empty() {
        response.headers_mut().insert(WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok((protocol, response))
}

fn digest(key: &[u8]) -> HeaderValue {
    use base64::Engine as _;
    let mut context = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(WEBSOCKET_GUID.as_bytes());
    let text = base64::engine::general_purpose::STANDARD.encode(context.finish());
    HeaderValue::from_str(&text).expect("base64 is allowed in headers")
}

fn switching(protocol: &'static str) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// The bytes after the answer, once it is sent.
pub async fn upgraded(request: &mut Request<Incoming>) -> Option<Box<dyn Duplex>> {
    let upgraded = hyper::upgrade::on(request).await.ok()?;
    Some(Box::new(TokioIo::new(upgraded)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_the_rfc() {
        assert_eq!(digest(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_best_common_protocol_is_taken() {
        let mut headers = HeaderMap::new();
        assert_eq!(choose(&headers, &STREAM_PROTOCOL, &["v4", "v1"]), Ok(""));
        headers.append(STREAM_PROTOCOL, HeaderValue::from_static("v1, v2"));
        headers.append(STREAM_PROTOCOL, HeaderValue::from_static("v4"));
        assert_eq!(choose(&headers, &STREAM_PROTOCOL, &["v4", "v1"]), Ok("v4"));
        assert_eq!(choose(&headers, &STREAM_PROTOCOL, &["v9"]), Err(vec!["v1".to_owned(), "v2".to_owned(), "v4".to_owned()]));
    }
}
