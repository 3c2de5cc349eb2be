//! Running a probe once: exec, httpGet, tcpSocket, grpc. The texts are those of the kubelet, which
//! speaks Go.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use brain::podsync::is_host_network;
use brain::podsync::probe::Outcome;
use bytes::{BufMut, Bytes, BytesMut};
use containers::Error;
use http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, Pod, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use crate::node::Context;
use crate::unverified;

/// What is read of an answer, and shown of it.
const BODY_MAX: usize = 10 * 1024;
const REDIRECTS_MAX: usize = 10;

pub async fn run(context: &Context, pod: &Pod, container: &Container, id: &str, probe: &Probe, timeout: Duration) -> Outcome {
    if let Some(exec) = &probe.exec {
        return run_exec(context, container, id, exec, timeout).await;
    }
    if let Some(get) = &probe.http_get {
        return match http_request(context, pod, container, get) {
            Ok(request) => request.probe(timeout).await,
            Err(error) => Outcome::Error(error),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        return run_tcp(context, pod, container, tcp, timeout).await;
    }
    match &probe.grpc {
        Some(grpc) => run_grpc(context, pod, grpc, timeout).await,
        None => Outcome::Error("missing probe handler".to_owned()),
    }
}

async fn run_exec(context: &Context, container: &Container, id: &str, exec: &ExecAction, timeout: Duration) -> Outcome {
    let command = brain::podsync::environment::expand_static(exec.command.as_deref().unwrap_or_default(), container);
    match context.runtime.exec_sync(context.observer.bare(id), &command, Some(timeout)).await {
        Ok(output) if output.exit_code == 0 => Outcome::Success,
        Ok(mut output) => {
            output.stdout.extend(output.stderr);
            output.stdout.truncate(BODY_MAX);
            Outcome::Failure(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(Error::DeadlineExceeded(_)) => {
            Outcome::Failure(format!("command timed out: \"{}\" timed out after {}", command.join(" "), go_seconds(timeout)))
        }
        Err(error) => Outcome::Error(format!("rpc error: {error}")),
    }
}

fn go_seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// Where a pod is reached when a probe names no host: its address, or the node's.
fn pod_host(context: &Context, pod: &Pod) -> Option<String> {
    if is_host_network(pod) {
        return context.node_addresses.first().cloned();
    }
    let observed = context.observer.observed(brain::podsync::uid(pod));
    observed.sandbox().and_then(|sandbox| sandbox.addresses.first().cloned())
}

fn port_number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|&number| number > 0)
        .ok_or_else(|| format!("couldn't find port: {}", text(port)))
}

fn text(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

/// A GET to be sent, once or again.
pub struct HttpGet {
    tls: bool,
    host: String,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
}

pub fn http_request(context: &Context, pod: &Pod, container: &Container, get: &HTTPGetAction) -> Result<HttpGet, String> {
    let host = match get.host.as_deref().filter(|host| !host.is_empty()) {
        Some(host) => host.to_owned(),
        None => pod_host(context, pod).ok_or("the pod has no address")?,
    };
    let headers = get.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone())).collect();
    let path = get.path.clone().unwrap_or_default();
    Ok(HttpGet {
        tls: get.scheme.as_deref() == Some("HTTPS"),
        port: port_number(&get.port, container)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        host,
        headers,
    })
}

impl HttpGet {
    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", address_text(&self.host, self.port), self.path)
    }

    async fn probe(self, timeout: Duration) -> Outcome {
        match self.send(timeout).await {
            Ok((status, _)) if (200..400).contains(&status) => Outcome::Success,
            Ok((status, _)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
            Err(error) => Outcome::Failure(error),
        }
    }

    /// Sends it and follows redirects on the same host; answers the status and the beginning of the
    /// body.
    pub async fn send(mut self, timeout: Duration) -> Result<(u16, Bytes), String> {
        let shown = self.url();
        let exchange = async {
            for _ in 0..REDIRECTS_MAX {
                let (status, location, body) = self.exchange().await?;
                let Some(next) = location.filter(|_| (300..400).contains(&status)) else { return Ok((status, body)) };
                if !self.redirect(&next) {
                    // To another host: it answered, that is enough.
                    return Ok((status, body));
                }
            }
            Err(format!("stopped after {REDIRECTS_MAX} redirects"))
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("Get \"{shown}\": {error}")),
            Err(_) => Err(format!("Get \"{shown}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)")),
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

    async fn exchange(&self) -> Result<(u16, Option<String>, Bytes), String> {
        let stream = dial(&self.host, self.port).await?;
        let stream: Box<dyn Stream> = if self.tls { Box::new(unverified::connect(stream, &self.host).await?) } else { Box::new(stream) };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // Ends with the exchange: the connection is asked to close.
        let driver = tokio::spawn(connection);
        let response = sender.send_request(self.request()?).await.map_err(|error| go_http_error(&error))?;
        let status = response.status().as_u16();
        let location = response.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        driver.abort();
        Ok((status, location, body))
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, String> {
        let mut builder = Request::get(self.path.as_str());
        let mut own_host = None;
        let mut set = Vec::new();
        for (name, value) in &self.headers {
            if name.eq_ignore_ascii_case("host") {
                own_host = Some(value.clone());
                continue;
            }
            let (Ok(header), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str())) else {
                return Err(format!("invalid header {name:?}"));
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
        builder.header("host", host).body(Full::default()).map_err(|error| error.to_string())
    }
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

fn go_http_error(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() { "EOF".to_owned() } else { error.to_string() }
}

fn address_text(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Connects; errors as Go's dialer words them.
async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let result = match host.parse::<IpAddr>() {
        Ok(ip) => TcpStream::connect(SocketAddr::new(ip, port)).await,
        Err(_) => TcpStream::connect((host, port)).await,
    };
    result.map_err(|error| format!("dial tcp {}: {}", address_text(host, port), go_dial_error(&error)))
}

fn go_dial_error(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

async fn run_tcp(context: &Context, pod: &Pod, container: &Container, tcp: &TCPSocketAction, timeout: Duration) -> Outcome {
    let host = match tcp.host.clone().filter(|host| !host.is_empty()).or_else(|| pod_host(context, pod)) {
        Some(host) => host,
        None => return Outcome::Error("the pod has no address".to_owned()),
    };
    let port = match port_number(&tcp.port, container) {
        Ok(port) => port,
        Err(error) => return Outcome::Error(error),
    };
    match tokio::time::timeout(timeout, dial(&host, port)).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(error)) => Outcome::Failure(error),
        Err(_) => Outcome::Failure(format!("dial tcp {}: i/o timeout", address_text(&host, port))),
    }
}

/// `grpc.health.v1.Health/Check` without a library for it: one message of one field each way.
async fn run_grpc(context: &Context, pod: &Pod, grpc: &GRPCAction, timeout: Duration) -> Outcome {
    let Some(host) = pod_host(context, pod) else { return Outcome::Error("the pod has no address".to_owned()) };
    let Ok(port) = u16::try_from(grpc.port) else { return Outcome::Error(format!("couldn't find port: {}", grpc.port)) };
    let service = grpc.service.clone().unwrap_or_default();
    match tokio::time::timeout(timeout, check_health(&host, port, &service)).await {
        Ok(Ok(())) => Outcome::Success,
        Ok(Err(error)) => Outcome::Failure(error),
        Err(_) => {
            Outcome::Failure(format!("timeout: failed to connect service \"{}\" within {}", address_text(&host, port), go_seconds(timeout)))
        }
    }
}

const SERVING: u8 = 1;

async fn check_health(host: &str, port: u16, service: &str) -> Result<(), String> {
    let address = address_text(host, port);
    let unreachable = |error: String| format!("timeout: failed to connect service \"{address}\": {error}");
    let stream = dial(host, port).await.map_err(&unreachable)?;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(health_request(service)))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| unreachable(error.to_string()))?;
    let early = grpc_status(response.headers());
    let body = Limited::new(response.into_body(), BODY_MAX).collect().await.map_err(|error| error.to_string())?;
    let code = early.or_else(|| body.trailers().and_then(grpc_status)).unwrap_or(0);
    let bytes = body.to_bytes();
    driver.abort();
    match code {
        0 if serving_status(&bytes) == SERVING => Ok(()),
        0 => Err(format!("service unhealthy (responded with \"{}\")", status_name(serving_status(&bytes)))),
        12 => Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned()),
        code => Err(format!("health rpc probe failed: rpc error: code = {code}")),
    }
}

/// Length-prefixed HealthCheckRequest; field 1 is the service's name.
fn health_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    framed.freeze()
}

fn grpc_status(headers: &http::HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Field 1 of HealthCheckResponse, after the five bytes of the frame; absent means unknown.
fn serving_status(frame: &[u8]) -> u8 {
    match frame.get(5..7) {
        Some([0x08, status]) => *status,
        _ => 0,
    }
}

fn status_name(status: u8) -> &'static str {
    match status {
        SERVING => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}
