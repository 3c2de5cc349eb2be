//! Serving the API over TLS: HTTP/1.1 and HTTP/2 on one port, client certificates, a clean stop.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::service::ApiServer;
use crate::auth::User;
use crate::auth::authenticate::Certificate;

/// A client that opens a connection and says nothing is cut off.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Handshakes cost CPU; more than this many at a time wait for their turn.
const HANDSHAKES_AT_ONCE_MAX: usize = 64;

/// Idle HTTP/2 connections are pinged, so that dead ones go away.
const PING_PERIOD: Duration = Duration::from_secs(30);

/// A peer that is gone without a word (its machine died) is noticed by the kernel after idle + probes * interval.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES_MAX: u32 = 4;

/// How long running requests get at a stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Bounds of what one HTTP/2 client may have open, and of header sizes.
const STREAMS_PER_CONNECTION_MAX: u32 = 1000;
const HEADER_BYTES_MAX: u32 = 64 * 1024;

/// Accepts connections until `shutdown` turns true, then lets running requests end.
pub async fn serve(server: ApiServer, listener: TcpListener, tls: Arc<ServerConfig>, mut shutdown: watch::Receiver<bool>) {
    let acceptor = TlsAcceptor::from(tls);
    let graceful = Arc::new(GracefulShutdown::new());
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE_MAX));
    loop {
        // Both arms only wait; an accepted connection is never lost, because the other arm ends the loop.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|&stopping| stopping) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(server.clone(), acceptor.clone(), stream, graceful.clone(), handshakes.clone());
                tokio::spawn(connection);
            }
            // Out of file descriptors or the like: others may free some.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if let Some(graceful) = Arc::into_inner(graceful) {
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
    }
}

async fn connection(
    server: ApiServer,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    graceful: Arc<GracefulShutdown>,
    handshakes: Arc<Semaphore>,
) {
    // Answers are written whole; waiting for more to send only delays them.
    let _ = stream.set_nodelay(true);
    keep_alive(&stream);
    let shaken = {
        let Ok(_permit) = handshakes.acquire_owned().await else { return };
        tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await
    };
    let Ok(Ok(stream)) = shaken else { return };
    let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let user = stream.get_ref().1.peer_certificates().and_then(|chain| certificate_user(chain.first()?));
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        if let Some(user) = &user {
            request.extensions_mut().insert(Certificate(user.clone()));
        }
        let server = server.clone();
        async move { Ok::<_, std::convert::Infallible>(server.respond(request).await) }
    });
    // Told by the handshake: waiting for the first bytes to tell would have no deadline.
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if speaks_http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_PERIOD)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(HEADER_BYTES_MAX);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    let watched = graceful.watch(connection);
    // The watcher must not keep the collection of all connections alive.
    drop(graceful);
    // An error here is the client's: it went away or spoke no HTTP.
    let _ = watched.await;
}

/// Streams that say nothing for hours are usual (a shell that waits, a followed log); dead ones must end all the same.
fn keep_alive(stream: &TcpStream) {
    use rustix::net::sockopt;
    // A kernel that refuses one of these does without.
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES_MAX);
}

/// The user that a certificate stands for: common name and organizations.
fn certificate_user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    let fingerprint: String = Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect();
    let extra = [("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={fingerprint}")])].into();
    Some(User { name, groups, extra, ..User::default() })
}
