//! Peers that say nothing, say it slowly, or do not read: their connections end, and others are
//! served.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wire::{Client, Deadlines, Limits, serve};

/// No test waits longer for a connection to end; each deadline below is much shorter.
const PATIENCE: Duration = Duration::from_secs(60);

const LARGE: usize = 64 * 1024 * 1024;

struct Server {
    address: std::net::SocketAddr,
    roots: Arc<RootCertStore>,
    _shutdown: watch::Sender<bool>,
}

fn deadlines() -> Deadlines {
    let short = Duration::from_millis(500);
    Deadlines { handshake: short, first_request: short, header: short, idle: short, unread: short, drain: short }
}

async fn server(limits: Limits, deadlines: Deadlines) -> Server {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, stopped) = watch::channel(false);
    let make = |_: &Client<'_>| {
        |request: Request<Incoming>| async move {
            let body = if request.uri().path() == "/large" { Bytes::from(vec![b'x'; LARGE]) } else { Bytes::from_static(b"hello") };
            Response::new(Full::new(body))
        }
    };
    tokio::spawn(serve(listener, Arc::new(config), limits, deadlines, stopped, make));
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    Server { address, roots: Arc::new(roots), _shutdown: shutdown }
}

fn roomy() -> Limits {
    Limits { connections: 1000, handshakes: 1000, handshakes_per_peer: 1000, unproven_per_peer: 1000 }
}

impl Server {
    async fn connect(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(self.roots.clone()).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }

    /// Asks and reads the answer, by HTTP/2.
    async fn ask(&self) -> Bytes {
        let stream = TokioIo::new(self.connect(b"h2").await);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("https://localhost/").body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes()
    }
}

/// Waits until the other end closes.
async fn ends(mut stream: impl AsyncReadExt + Unpin) {
    let mut buffer = [0; 4096];
    let closed = async { while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(PATIENCE, closed).await.expect("the server ends the connection");
}

#[tokio::test]
async fn who_connects_and_says_nothing_keeps_nobody_out() {
    let patient = Deadlines { handshake: Duration::from_secs(600), ..deadlines() };
    let server = server(Limits { handshakes_per_peer: 50, ..roomy() }, patient).await;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert_eq!(tokio::time::timeout(PATIENCE, server.ask()).await.unwrap(), "hello");
    // The oldest made room.
    ends(silent.remove(0)).await;
}

#[tokio::test]
async fn a_connection_without_tls_ends() {
    let server = server(roomy(), deadlines()).await;
    ends(TcpStream::connect(server.address).await.unwrap()).await;
}

#[tokio::test]
async fn a_connection_without_requests_ends_in_both_protocols() {
    let server = server(roomy(), deadlines()).await;
    ends(server.connect(b"http/1.1").await).await;
    ends(server.connect(b"h2").await).await;
}

#[tokio::test]
async fn a_connection_that_was_used_and_is_idle_ends() {
    let server = server(roomy(), deadlines()).await;
    let mut stream = server.connect(b"http/1.1").await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    ends(stream).await;
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_ends_the_connection() {
    let server = server(roomy(), Deadlines { first_request: PATIENCE * 2, ..deadlines() }).await;
    let (reader, mut writer) = tokio::io::split(server.connect(b"http/1.1").await);
    let drip = async move {
        for byte in b"GET / HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
            if writer.write_all(&[*byte]).await.is_err() || writer.flush().await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = ends(reader) => {}
        () = drip => {}
    }
}

/// The client keeps the connection alive and takes nothing: the window of its stream stays closed.
#[tokio::test]
async fn an_answer_that_is_not_read_ends_the_connection() {
    let server = server(roomy(), deadlines()).await;
    let stream = TokioIo::new(server.connect(b"h2").await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("https://localhost/large").body(Empty::<Bytes>::new()).unwrap();
    let unread = sender.send_request(request).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, connection).await.expect("the server ends the connection");
    assert!(ended.unwrap().is_err() || unread.into_body().collect().await.is_err());
}

#[tokio::test]
async fn a_peer_without_a_certificate_has_so_many_connections() {
    let patient = Deadlines { first_request: PATIENCE * 2, ..deadlines() };
    let server = server(Limits { unproven_per_peer: 3, ..roomy() }, patient).await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(server.connect(b"h2").await);
    }
    ends(idle.remove(0)).await;
    assert_eq!(tokio::time::timeout(PATIENCE, server.ask()).await.unwrap(), "hello");
}
