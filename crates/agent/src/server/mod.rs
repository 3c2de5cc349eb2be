//! The node's endpoints, as the kubelet serves them on port 10250: logs, exec, attach, port-forward, figures.
//!
//! In: HTTPS requests of the API server, of metrics collectors, of operators. Each is authenticated and authorized by the API server's word
//! ([`auth`]), then answered from the agent's parts and the container runtime. What a connection starts ends with it.

pub mod auth;
mod route;

mod logs;
mod node_logs;
mod pods;
mod stats;

mod forward;
mod process;
pub mod streams;

mod answer;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::node::Agent;
use answer::{Body, Refusal};
use auth::{Auth, User};
use route::Route;

/// A client that opens a connection and says nothing is cut off.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// A node serves an API server, a metrics collector and some operators; more connections than this wait to be accepted.
const CONNECTIONS_MAX: usize = 1000;

/// A peer that is gone without a word (its machine died) is noticed by the kernel after idle + probes * interval.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES_MAX: u32 = 4;

/// How long answers under way get at a stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

const HEADER_BYTES_MAX: usize = 64 * 1024;
const STREAMS_PER_CONNECTION_MAX: u32 = 250;

/// What all requests share.
pub(crate) struct Shared {
    pub agent: Arc<Agent>,
    pub auth: Auth,
    pub stats: stats::Collector,
    pub shutdown: watch::Receiver<bool>,
}

/// Serves until `shutdown` turns true.
///
/// `tls` asks for client certificates of the cluster's CA and also lets in those who have none: they may come with a token.
pub async fn serve(
    agent: Arc<Agent>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    auth: Auth,
    mut shutdown: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let stats = stats::Collector::new(agent.context.clone());
    let shared = Arc::new(Shared { agent, auth, stats, shutdown: shutdown.clone() });
    let graceful = Arc::new(GracefulShutdown::new());
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { break };
        // Both arms only wait; an accepted connection is never lost, because the other arm ends the loop.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|&stopping| stopping) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(shared.clone(), acceptor.clone(), stream, graceful.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            // Out of file descriptors or the like: others may free some.
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if let Some(graceful) = Arc::into_inner(graceful) {
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
    }
}

async fn connection(shared: Arc<Shared>, acceptor: TlsAcceptor, stream: TcpStream, graceful: Arc<GracefulShutdown>) {
    // Keystrokes and their echoes are small; waiting for more to send only delays them.
    let _ = stream.set_nodelay(true);
    keep_alive(&stream);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
    let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let user = stream.get_ref().1.peer_certificates().and_then(|chain| auth::certificate_user(chain.first()?));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (shared, user) = (shared.clone(), user.clone());
        async move { Ok::<_, Infallible>(respond(&shared, user, request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if speaks_http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES_MAX);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_PER_CONNECTION_MAX);
    let watched = graceful.watch(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned());
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

async fn respond(shared: &Arc<Shared>, certificate: Option<User>, request: Request<Incoming>) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = handle(shared, certificate, request).await.unwrap_or_else(Refusal::into_response);
    tracing::debug!(%method, path, code = response.status().as_u16(), "request");
    response
}

async fn handle(shared: &Arc<Shared>, certificate: Option<User>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let user = shared.auth.authenticate(certificate, request.headers()).await?;
    let route = route::parse(request.uri().path());
    let subresource = route.as_ref().map_or("proxy", Route::subresource);
    let verb = route::verb(request.method(), route.as_ref());
    shared.auth.authorize(&user, verb, &shared.agent.context.settings.name, subresource).await?;
    let route = route.ok_or_else(|| Refusal::new(404, "404 page not found\n"))?;
    if !route.allows(request.method()) {
        return Err(Refusal::new(405, "405: Method Not Allowed"));
    }
    match route {
        Route::Health => Ok(answer::text("ok")),
        Route::Pods => Ok(pods::bound(shared)),
        Route::RunningPods => Ok(pods::running(shared)),
        Route::Summary => stats::summary::answer(shared).await,
        Route::Metrics(which) => stats::metrics::answer(shared, which).await,
        Route::NodeLogs(path) => node_logs::answer(&shared.agent.context.settings.log_dir, &path),
        Route::ContainerLogs(target) => logs::answer(shared, &target, request.uri().query()),
        Route::Exec(target) => process::exec(shared, &target, request),
        Route::Attach(target) => process::attach(shared, &target, request),
        Route::Run(target) => process::run(shared, &target, request.uri().query()).await,
        Route::PortForward(target) => forward::answer(shared, &target, request),
    }
}
