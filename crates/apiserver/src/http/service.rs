//! The way of a request: authenticate, impersonate, route, authorize, handle; and whatever goes wrong becomes a Status.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body as HttpBody;
use kinds::status::Status;
use tokio::sync::watch;

use super::body::{Body, BoxError};
use super::options::{Query, decode_path};
use super::path::{self, Target};
use super::{answer, meta, resources};
use crate::auth::User;
use crate::auth::authenticate::Authenticator;
use crate::auth::authorize::{Attributes, What, forbidden};
use crate::metrics::Metrics;
use crate::nodes::NodeConnector;
use crate::nodes::usage::Usage;
use crate::registry::Registry;

/// The API server: a service for requests from the network and from within the process. Clones share everything.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub registry: Arc<Registry>,
    pub authenticator: Authenticator,
    pub metrics: Metrics,
    /// None: what only nodes can answer is not served.
    pub nodes: Option<NodeConnector>,
    /// What nodes and pods use, as far as it was collected.
    pub usage: Usage,
    /// Turns true when the server is to stop; ends watches.
    pub shutdown: watch::Receiver<bool>,
}

/// A request that was let in.
pub(crate) struct Call {
    pub parts: Parts,
    pub query: Query,
    pub user: User,
}

impl Call {
    pub fn header(&self, name: http::header::HeaderName) -> Option<&str> {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl ApiServer {
    pub fn new(registry: Arc<Registry>, authenticator: Authenticator, shutdown: watch::Receiver<bool>) -> ApiServer {
        ApiServer::with_nodes(registry, authenticator, None, shutdown)
    }

    /// A server that can ask the agents of nodes; [`crate::nodes::usage::run`] collects what they use.
    pub fn with_nodes(
        registry: Arc<Registry>,
        authenticator: Authenticator,
        nodes: Option<NodeConnector>,
        shutdown: watch::Receiver<bool>,
    ) -> ApiServer {
        let inner = Inner { registry, authenticator, metrics: Metrics::default(), nodes, usage: Usage::default(), shutdown };
        ApiServer { inner: Arc::new(inner) }
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.inner.registry
    }

    /// The same server for callers within the process, who act as `user` without credentials.
    pub fn as_user(&self, user: User) -> LocalService {
        LocalService { server: self.clone(), user }
    }

    /// Answers a request; never fails, not even by a panic.
    pub async fn respond<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let started = std::time::Instant::now();
        let (parts, body) = request.into_parts();
        let (method, uri) = (parts.method.clone(), parts.uri.clone());
        // What a panic leaves behind is dropped with the request; shared state is only ever changed by whole transactions.
        let handled = AssertUnwindSafe(self.handle(parts, body)).catch_unwind().await;
        let response = match handled {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => answer::status(&status),
            Err(_) => {
                tracing::error!(%method, path = uri.path(), "a request panicked");
                answer::status(&Status::internal(format!("this request caused a bug in the server: {method} {}", uri.path())))
            }
        };
        self.inner.metrics.observe(&method, response.status(), started.elapsed());
        tracing::debug!(%method, path = uri.path(), code = response.status().as_u16(), "request");
        response
    }

    async fn handle<B>(&self, parts: Parts, body: B) -> Result<Response<Body>, Status>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let path = decode_path(parts.uri.path());
        let query = Query::parse(parts.uri.query());
        let authenticated = self.inner.authenticator.authenticate(&parts, &self.inner.registry)?;
        let user = self.impersonated(&parts, authenticated)?;
        let target = path::parse(&path);
        let verb = match &target {
            Target::Resource(resource) => path::verb(&parts.method, resource, query.flag("watch")).to_owned(),
            Target::Other => parts.method.as_str().to_lowercase(),
        };
        let attributes =
            Attributes { user: &user, verb: &verb, what: asked(&target, &path, query.get("fieldSelector").unwrap_or_default()) };
        let decision = self.inner.registry.authorize(&attributes);
        if !decision.allowed {
            return Err(forbidden(&attributes, &decision.reason));
        }
        let call = Call { parts, query, user };
        match target {
            Target::Other => meta::handle(self, &call, &path).await,
            Target::Resource(resource) => resources::handle(self, &call, &resource, &verb, body).await,
        }
    }

    /// Impersonate-User and its companions, for those who may.
    fn impersonated(&self, parts: &Parts, user: User) -> Result<User, Status> {
        let Some(wanted) = crate::auth::impersonate::requested(&parts.headers)? else { return Ok(user) };
        for attributes in wanted.permissions(&user) {
            let decision = self.inner.registry.authorize(&attributes);
            if !decision.allowed {
                return Err(forbidden(&attributes, &decision.reason));
            }
        }
        Ok(wanted.into_user())
    }
}

fn asked<'a>(target: &'a Target, path: &'a str, field_selector: &'a str) -> What<'a> {
    match target {
        Target::Other => What::Path(path),
        Target::Resource(r) => What::Resource {
            group: &r.group,
            version: &r.version,
            resource: &r.resource,
            subresource: &r.subresource,
            namespace: &r.namespace,
            name: if r.name.is_empty() { selected_name(field_selector) } else { &r.name },
            field_selector,
        },
    }
}

/// A list or watch of the one object that a selector names is about that object, as in Kubernetes.
fn selected_name(field_selector: &str) -> &str {
    match field_selector.strip_prefix("metadata.name=").map(|rest| rest.strip_prefix('=').unwrap_or(rest)) {
        Some(name) if !name.contains([',', '=', '\\', '!']) => name,
        _ => "",
    }
}

type Responding = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<B> tower_service::Service<Request<B>> for ApiServer
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Responding;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Responding {
        let server = self.clone();
        Box::pin(async move { Ok(server.respond(request).await) })
    }
}

/// The API within the process: no socket, no TLS, a fixed user.
#[derive(Clone)]
pub struct LocalService {
    server: ApiServer,
    user: User,
}

impl<B> tower_service::Service<Request<B>> for LocalService
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Responding;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Responding {
        let server = self.server.clone();
        request.extensions_mut().insert(crate::auth::authenticate::Local(self.user.clone()));
        Box::pin(async move { Ok(server.respond(request).await) })
    }
}
