//! The node's endpoints, as the kubelet serves them on port 10250: logs, exec, attach,
//! port-forward, figures.
//!
//! In: HTTPS requests of the API server, of metrics collectors, of operators. Each is authenticated
//! and authorized by the API server's word ([`auth`]), then answered from the agent's parts and the
//! container runtime. What a connection starts ends with it.

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

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::watch;
use wire::{Client, Deadlines, Limits};

use crate::node::Agent;
use answer::{Body, Refusal};
use auth::{Auth, User};
use route::Route;

/// A node serves an API server, a metrics collector and some operators.
const LIMITS: Limits = Limits { connections: 1000, handshakes: 200, handshakes_per_peer: 50, unproven_per_peer: 100 };

/// What all requests share.
pub(crate) struct Shared {
    pub agent: Arc<Agent>,
    pub auth: Auth,
    pub stats: stats::Collector,
    pub shutdown: watch::Receiver<bool>,
}

/// Serves until `shutdown` turns true.
///
/// `tls` asks for client certificates of the cluster's CA and also lets in those who have none:
/// they may come with a token.
pub async fn serve(agent: Arc<Agent>, listener: TcpListener, tls: Arc<rustls::ServerConfig>, auth: Auth, shutdown: watch::Receiver<bool>) {
    let stats = stats::Collector::new(agent.context.clone());
    let shared = Arc::new(Shared { agent, auth, stats, shutdown: shutdown.clone() });
    let make = move |client: &Client<'_>| {
        let (shared, user) = (shared.clone(), client.certificate.and_then(auth::certificate_user));
        move |request: Request<Incoming>| {
            let (shared, user) = (shared.clone(), user.clone());
            async move { respond(&shared, user, request).await }
        }
    };
    wire::serve(listener, tls, LIMITS, Deadlines::default(), shutdown, make).await;
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
