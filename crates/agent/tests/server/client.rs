//! Clients: plain HTTP requests, and the streaming protocols from the client's side.

use std::net::SocketAddr;

use agent::server::streams::spdy;
use agent::server::streams::{Duplex, Inlet};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::cluster::{Authority, Cluster};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Spdy,
    V5,
    V4,
    Base64,
    /// A WebSocket that asks for no protocol.
    Plain,
    /// SPDY in a WebSocket.
    Tunnel,
}

impl Transport {
    fn protocol(self) -> &'static str {
        match self {
            Transport::Spdy | Transport::V4 => "v4.channel.k8s.io",
            Transport::V5 => "v5.channel.k8s.io",
            Transport::Base64 => "v4.base64.channel.k8s.io",
            Transport::Plain => "",
            Transport::Tunnel => "SPDY/3.1+portforward.k8s.io",
        }
    }
}

pub async fn request(
    address: SocketAddr,
    authority: &Authority,
    user: Option<&str>,
    request: http::request::Builder,
    body: String,
) -> Response<Incoming> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let stream = TlsConnector::from(authority.client(user)).connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request.body(Full::<Bytes>::from(body)).unwrap()).await.unwrap()
}

pub async fn send(cluster: &Cluster, user: &str, method: &str, path: &str, body: String) -> (u16, String) {
    let builder = http::Request::builder().method(method).uri(path).header("host", "api").header("content-type", "application/json");
    let response = request(cluster.api, &cluster.authority, Some(user), builder, body).await;
    let code = response.status().as_u16();
    (code, String::from_utf8_lossy(&response.into_body().collect().await.unwrap().to_bytes()).into_owned())
}

/// The next piece of a body; None at its end.
pub async fn frame(body: &mut Incoming) -> Option<Bytes> {
    let next = tokio::time::timeout(std::time::Duration::from_secs(10), body.frame()).await.expect("something comes in time");
    Some(next?.unwrap().into_data().unwrap())
}

/// A connection after the upgrade.
pub async fn upgrade(cluster: &Cluster, transport: Transport, path: &str) -> Box<dyn Duplex> {
    let builder = http::Request::builder().uri(path).header("host", "api").header("connection", "Upgrade");
    let builder = if transport == Transport::Spdy {
        let protocol = if path.contains("portforward") { "portforward.k8s.io" } else { transport.protocol() };
        builder.method("POST").header("upgrade", "SPDY/3.1").header("x-stream-protocol-version", protocol)
    } else {
        let builder = builder.method("GET").header("upgrade", "websocket").header("sec-websocket-version", "13");
        let builder = builder.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        if transport == Transport::Plain { builder } else { builder.header("sec-websocket-protocol", transport.protocol()) }
    };
    let mut response = request(cluster.api, &cluster.authority, Some("admin"), builder, String::new()).await;
    if response.status() != 101 {
        let code = response.status();
        panic!("{code}: {:?}", response.into_body().collect().await.unwrap().to_bytes());
    }
    Box::new(TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap()))
}

/// A process to run; without a command, the container's to attach to.
#[derive(Clone, Default)]
pub struct Exec {
    pub command: Vec<String>,
    pub input: Option<Vec<u8>>,
    /// With a terminal of these sizes.
    pub sizes: Option<String>,
}

/// What came of it.
#[derive(Default)]
pub struct Done {
    pub stdout: String,
    pub stderr: String,
    pub error: String,
}

impl Exec {
    pub fn new(command: &[&str]) -> Exec {
        Exec { command: command.iter().map(|&word| word.to_owned()).collect(), ..Exec::default() }
    }

    pub fn path(&self) -> String {
        let escape = |word: &String| word.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let command: String = self.command.iter().map(|word| format!("&command={}", escape(word))).collect();
        let (stdin, tty) = (self.input.is_some(), self.sizes.is_some());
        let what = if self.command.is_empty() { "attach" } else { "exec" };
        format!("/api/v1/namespaces/default/pods/p/{what}?stdout=true&stderr={}&stdin={stdin}&tty={tty}{command}", !tty)
    }
}

pub async fn exec(cluster: &Cluster, transport: Transport, exec: &Exec) -> Done {
    let running = async {
        match transport {
            Transport::Spdy => exec_spdy(cluster, exec).await,
            _ => exec_websocket(cluster, transport, exec).await,
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), running).await.expect("the process ends in time")
}

async fn exec_spdy(cluster: &Cluster, exec: &Exec) -> Done {
    let mut client = spdy::Client::new(upgrade(cluster, Transport::Spdy, &exec.path()).await);
    let (_, error) = client.open(&[("streamtype", "error")]).await.unwrap();
    let input = match &exec.input {
        Some(input) => Some((client.open(&[("streamtype", "stdin")]).await.unwrap().0, input.clone())),
        None => None,
    };
    let (_, stdout) = client.open(&[("streamtype", "stdout")]).await.unwrap();
    let stderr = if exec.sizes.is_none() { Some(client.open(&[("streamtype", "stderr")]).await.unwrap().1) } else { None };
    if let Some(sizes) = &exec.sizes {
        client.open(&[("streamtype", "resize")]).await.unwrap().0.send(sizes.clone()).await.unwrap();
    }
    let sending = async {
        let Some((outlet, input)) = input else { return };
        for piece in input.chunks(30_000) {
            let _ = outlet.send(piece.to_vec()).await;
        }
        let _ = outlet.end().await;
    };
    let stderr = async { if let Some(stderr) = stderr { all(stderr).await } else { String::new() } };
    let ((), stdout, stderr, error) = tokio::join!(sending, all(stdout), stderr, all(error));
    Done { stdout, stderr, error }
}

/// Everything until the end of a stream.
pub async fn all(mut inlet: Inlet) -> String {
    let mut out = Vec::new();
    while let Some(Ok(bytes)) = inlet.recv().await {
        out.extend_from_slice(&bytes);
    }
    String::from_utf8(out).unwrap()
}

async fn websocket(cluster: &Cluster, transport: Transport, path: &str) -> WebSocketStream<Box<dyn Duplex>> {
    WebSocketStream::from_raw_socket(upgrade(cluster, transport, path).await, Role::Client, None).await
}

async fn exec_websocket(cluster: &Cluster, transport: Transport, exec: &Exec) -> Done {
    let (mut sink, mut messages) = websocket(cluster, transport, &exec.path()).await.split();
    let sending = async {
        if let Some(sizes) = &exec.sizes {
            let _ = sink.send(Message::binary([&[4], sizes.as_bytes()].concat())).await;
        }
        if let Some(input) = &exec.input {
            for piece in input.chunks(30_000) {
                let _ = sink.send(Message::binary([&[0], piece].concat())).await;
            }
            let _ = sink.send(Message::binary(vec![255, 0])).await;
        }
    };
    let receiving = async {
        let mut channels: [Vec<u8>; 4] = Default::default();
        while let Some(Ok(message)) = messages.next().await {
            let (channel, data) = match message {
                Message::Binary(bytes) => (usize::from(bytes[0]), bytes[1..].to_vec()),
                Message::Text(text) => {
                    use base64::Engine as _;
                    let bytes = text.as_bytes();
                    (usize::from(bytes[0] - b'0'), base64::engine::general_purpose::STANDARD.decode(&bytes[1..]).unwrap())
                }
                _ => continue,
            };
            channels[channel].extend(data);
        }
        let [_, stdout, stderr, error] = channels.map(|bytes| String::from_utf8(bytes).unwrap());
        Done { stdout, stderr, error }
    };
    tokio::join!(sending, receiving).1
}

/// SPDY, alone or in a WebSocket.
pub async fn spdy(cluster: &Cluster, transport: Transport, path: &str) -> spdy::Client {
    if transport == Transport::Spdy {
        return spdy::Client::new(upgrade(cluster, transport, path).await);
    }
    let (stream, carrying) = agent::server::streams::tunnel::open(websocket(cluster, transport, path).await);
    tokio::spawn(carrying);
    spdy::Client::new(Box::new(stream))
}

/// The channels of a WebSocket, as the client has them.
pub struct Channels {
    connection: agent::server::streams::Connection,
    inlets: std::collections::BTreeMap<u8, Inlet>,
}

impl Channels {
    pub fn outlet(&self, channel: u32) -> agent::server::streams::Outlet {
        self.connection.outlet(channel)
    }

    pub async fn next(&mut self, channel: u8) -> Option<Bytes> {
        self.inlets.get_mut(&channel)?.recv().await?.ok()
    }
}

pub async fn channels(cluster: &Cluster, transport: Transport, path: &str, wanted: &[u8]) -> Channels {
    use agent::server::streams::websocket::{Dialect, channels};
    let socket = websocket(cluster, transport, path).await;
    let (connection, inlets) = channels(socket, Dialect { base64: false, has_close_channel: false }, wanted);
    Channels { connection, inlets: wanted.iter().copied().zip(inlets).collect() }
}
