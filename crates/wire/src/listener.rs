//! Accepting connections, and the life of each: first bytes, handshake, requests, end.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::activity::{Activity, Guarded, Verdict};
use crate::peers::{Id, Peer, Peers};

/// How many connections there may be.
#[derive(Debug, Copy, Clone)]
pub struct Limits {
    /// All together.
    pub connections: usize,
    /// That have not shown yet that they speak TLS.
    pub handshakes: usize,
    /// The same of one peer.
    pub handshakes_per_peer: usize,
    /// Of one peer, without a client certificate. (Those with one are known, and count only for
    /// `connections`.)
    pub unproven_per_peer: usize,
}

/// How long each phase of a connection may take.
#[derive(Debug, Copy, Clone)]
pub struct Deadlines {
    pub handshake: Duration,
    /// From the handshake to the first request.
    pub first_request: Duration,
    /// From the first byte of a request to the end of its head.
    pub header: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For a part of an answer to be taken by the client.
    pub unread: Duration,
    /// For requests under way when the server stops, and for an idle connection to say goodbye.
    pub drain: Duration,
}

impl Default for Deadlines {
    /// Kubernetes' figures where it has them (`ReadHeaderTimeout`, `IdleTimeout`).
    fn default() -> Deadlines {
        Deadlines {
            handshake: Duration::from_secs(10),
            first_request: Duration::from_secs(30),
            header: Duration::from_secs(32),
            idle: Duration::from_secs(90),
            unread: Duration::from_secs(120),
            drain: Duration::from_secs(5),
        }
    }
}

/// Idle HTTP/2 connections are pinged, so that dead ones go away.
const PING_PERIOD: Duration = Duration::from_secs(30);

/// A peer that is gone without a word (its machine died) is noticed by the kernel after idle +
/// probes * interval.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES_MAX: u32 = 4;

/// Bounds of what one HTTP/2 client may have open, and of header sizes.
const STREAMS_PER_CONNECTION_MAX: u32 = 1000;
const HEADER_BYTES_MAX: u32 = 64 * 1024;

/// Bytes of answers that wait in one HTTP/2 stream for its client to read.
const UNREAD_BYTES_MAX: usize = 256 * 1024;

/// What is known of a client once its connection stands.
pub struct Client<'a> {
    pub address: SocketAddr,
    /// The certificate that it has shown, already verified.
    pub certificate: Option<&'a CertificateDer<'a>>,
}

struct Shared<M> {
    tls: Arc<ServerConfig>,
    deadlines: Deadlines,
    peers: Mutex<Peers>,
    make: M,
}

/// Accepts connections until `shutdown` turns true, then lets running requests end.
///
/// `make` gives what answers the requests of a connection.
pub async fn serve<M, S, F, B>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    limits: Limits,
    deadlines: Deadlines,
    mut shutdown: watch::Receiver<bool>,
    make: M,
) where
    M: Fn(&Client<'_>) -> S + Send + Sync + 'static,
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let shared = Arc::new(Shared { tls, deadlines, peers: Mutex::new(Peers::new(limits)), make });
    // Closed when the last connection has ended.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    loop {
        // Both arms only wait; an accepted connection is never lost, because the other arm ends the
        // loop.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|&stopping| stopping) => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let activity = Arc::new(Activity::new());
                let admitted = lock(&shared.peers).admit(Peer::of(address.ip()), activity.clone());
                // Dropping the stream closes it.
                let Ok(id) = admitted else { continue };
                let (shared, alive, shutdown) = (shared.clone(), alive.clone(), shutdown.clone());
                tokio::spawn(async move {
                    let ended = activity.ended();
                    // Whichever ends first: dropping a connection closes it.
                    tokio::select! {
                        () = connection(&shared, (id, address), &activity, stream, shutdown) => {}
                        () = ended => {}
                    }
                    lock(&shared.peers).remove(id);
                    drop(alive);
                });
            }
            // Out of file descriptors or the like: others may free some.
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop((listener, alive));
    let _ = timeout(deadlines.drain, all_gone.recv()).await;
}

fn lock(peers: &Mutex<Peers>) -> std::sync::MutexGuard<'_, Peers> {
    peers.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn connection<M, S, F, B>(
    shared: &Shared<M>,
    (id, address): (Id, SocketAddr),
    activity: &Arc<Activity>,
    stream: TcpStream,
    mut shutdown: watch::Receiver<bool>,
) where
    M: Fn(&Client<'_>) -> S,
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Answers are written whole, keystrokes are small: waiting for more to send only delays them.
    let _ = stream.set_nodelay(true);
    keep_alive(&stream);
    let Ok(Some(stream)) = timeout(shared.deadlines.handshake, shake_hands(shared.tls.clone(), stream)).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    if lock(&shared.peers).shaken(id, certificate.is_some()).is_err() {
        return;
    }
    let respond = (shared.make)(&Client { address, certificate });
    let service = hyper::service::service_fn(|request| {
        let (under_way, answering) = (activity.begin(), respond(request));
        async move { Ok::<_, Infallible>(answering.await.map(|body| Guarded::new(body, under_way))) }
    });
    // The handshake tells it: waiting for the first bytes to tell would have no deadline.
    let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if speaks_http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(shared.deadlines.header).max_buf_size(HEADER_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_PERIOD)
        .max_send_buf_size(UNREAD_BYTES_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(HEADER_BYTES_MAX);
    let mut served = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let mut look_again = Instant::now() + shared.deadlines.first_request;
    loop {
        // None of the arms takes anything that another would miss: the connection goes on where it
        // was.
        tokio::select! {
            // An error here is the client's: it went away or spoke no HTTP.
            _ = served.as_mut() => return,
            () = sleep_until(look_again) => match activity.verdict(Instant::now(), &shared.deadlines) {
                Verdict::Stays(until) => {
                    look_again = until;
                    continue;
                }
                Verdict::Unread => return,
                Verdict::Idle => {}
            },
            _ = shutdown.wait_for(|&stopping| stopping) => {}
        }
        served.as_mut().graceful_shutdown();
        let _ = timeout(shared.deadlines.drain, served).await;
        return;
    }
}

/// None when the client went away or does not speak TLS.
async fn shake_hands(tls: Arc<ServerConfig>, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await.ok()?;
    hello.into_stream(tls).await.ok()
}

/// Streams that say nothing for hours are usual (a shell that waits, a followed log); dead ones
/// must end all the same.
fn keep_alive(stream: &TcpStream) {
    use rustix::net::sockopt;
    // A kernel that refuses one of these does without.
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES_MAX);
}
