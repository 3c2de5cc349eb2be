//! A GET for a probe or a hook, and how Go's HTTP client and dialer word what goes wrong.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::unverified;

/// What is read of an answer, and shown of it.
pub const BODY_MAX: usize = 10 * 1024;
const REDIRECTS_MAX: usize = 10;

/// Why a GET has no answer.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    #[error("Get \"{url}\": {source}")]
    Exchange { url: String, source: ExchangeError },
    #[error("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    Late { url: String },
}

#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] unverified::ConnectError),
    #[error("{0}")]
    Handshake(#[source] hyper::Error),
    #[error("invalid header {0:?}")]
    Header(String),
    #[error("{0}")]
    Request(#[source] http::Error),
    #[error("{}", go_http_text(.0))]
    Send(#[source] hyper::Error),
    #[error("stopped after {REDIRECTS_MAX} redirects")]
    Redirects,
}

/// Nothing listens at an address, or it is out of reach.
#[derive(Debug, thiserror::Error)]
#[error("dial tcp {address}: {}", go_dial_text(.source))]
pub struct DialError {
    address: String,
    source: std::io::Error,
}

impl DialError {
    /// Of a caller that waited long enough.
    pub fn late(host: &str, port: u16) -> DialError {
        DialError { address: address_text(host, port), source: std::io::ErrorKind::TimedOut.into() }
    }
}

/// A GET to be sent, once or again.
pub struct HttpGet {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl HttpGet {
    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", address_text(&self.host, self.port), self.path)
    }

    /// Sends it and follows redirects on the same host; answers the status and the beginning of the
    /// body.
    pub async fn send(mut self, timeout: Duration) -> Result<(u16, Bytes), GetError> {
        let url = self.url();
        let exchange = async {
            for _ in 0..REDIRECTS_MAX {
                let (status, location, body) = self.exchange().await?;
                let Some(next) = location.filter(|_| (300..400).contains(&status)) else { return Ok((status, body)) };
                if !self.redirect(&next) {
                    // To another host: it answered, that is enough.
                    return Ok((status, body));
                }
            }
            Err(ExchangeError::Redirects)
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(answer) => answer.map_err(|source| GetError::Exchange { url, source }),
            Err(_) => Err(GetError::Late { url }),
        }
    }

    fn redirect(&mut self, location: &str) -> bool {
        let Ok(uri) = location.parse::<Uri>() else { return false };
        if let Some(host) = uri.host() {
            if host != self.host {
                return false;
            }
            self.tls = uri.scheme_str() == Some("https");
            self.port = uri.port_u16().unwrap_or(if self.tls { 443 } else { 80 });
        }
        self.path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        true
    }

    async fn exchange(&self) -> Result<(u16, Option<String>, Bytes), ExchangeError> {
        let stream = dial(&self.host, self.port).await?;
        let stream: Box<dyn Stream> = if self.tls { Box::new(unverified::connect(stream, &self.host).await?) } else { Box::new(stream) };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ExchangeError::Handshake)?;
        // Ends with the exchange: the connection is asked to close.
        let driver = tokio::spawn(connection);
        let response = sender.send_request(self.request()?).await.map_err(ExchangeError::Send)?;
        let status = response.status().as_u16();
        let location = response.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        driver.abort();
        Ok((status, location, body))
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, ExchangeError> {
        let mut builder = Request::get(self.path.as_str());
        let mut own_host = None;
        let mut set = Vec::new();
        for (name, value) in &self.headers {
            if name.eq_ignore_ascii_case("host") {
                own_host = Some(value.clone());
                continue;
            }
            let (Ok(header), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str())) else {
                return Err(ExchangeError::Header(name.clone()));
            };
            set.push(header.clone());
            builder = builder.header(header, value);
        }
        for (name, value) in [("user-agent", "kube-probe/1.36"), ("accept", "*/*"), ("connection", "close")] {
            if !set.iter().any(|header| header.as_str() == name) {
                builder = builder.header(name, value);
            }
        }
        let host = own_host.unwrap_or_else(|| address_text(&self.host, self.port));
        builder.header("host", host).body(Full::default()).map_err(ExchangeError::Request)
    }
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

fn go_http_text(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() { "EOF".to_owned() } else { error.to_string() }
}

pub fn address_text(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

pub async fn dial(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let result = match host.parse::<IpAddr>() {
        Ok(ip) => TcpStream::connect(SocketAddr::new(ip, port)).await,
        Err(_) => TcpStream::connect((host, port)).await,
    };
    result.map_err(|source| DialError { address: address_text(host, port), source })
}

fn go_dial_text(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(port: u16, headers: Vec<(String, String)>) -> HttpGet {
        HttpGet { tls: false, host: "127.0.0.1".to_owned(), port, path: "/x".to_owned(), headers }
    }

    #[tokio::test]
    async fn what_goes_wrong_has_gos_words() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let headers = vec![("a b".to_owned(), "c".to_owned())];
        let why = async |get: HttpGet, timeout| get.send(timeout).await.unwrap_err().to_string();
        let minute = Duration::from_secs(60);
        let place = format!("Get \"http://127.0.0.1:{port}/x\"");
        assert_eq!(why(get(port, headers), minute).await, format!("{place}: invalid header \"a b\""));
        let late = why(get(port, Vec::new()), Duration::from_millis(1)).await;
        assert_eq!(late, format!("{place}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"));
        drop(listener);
        let refused = why(get(port, Vec::new()), minute).await;
        assert_eq!(refused, format!("{place}: dial tcp 127.0.0.1:{port}: connect: connection refused"));
        assert_eq!(DialError::late("::1", 80).to_string(), "dial tcp [::1]:80: i/o timeout");
    }
}
