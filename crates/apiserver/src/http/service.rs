//! The way of a request: authenticate, impersonate, route, authorize, handle; and whatever goes
//! wrong becomes a Status.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use kinds::status::Status;
use tokio::sync::watch;

use super::fairness::{Flow, Permit, Share};
use super::finishing::Finishing;
use super::options;
use super::path::{self, Target};
use super::server::{ApiServer, Call};
use super::subresources::log_socket;
use super::{answer, audited, meta, route};
use crate::audit::{Record, Stage};
use crate::auth::authenticate::Local;
use crate::auth::authorize::forbidden;
use crate::body::{self, Body, BoxError, RequestBody};
use crate::nodes::forward::Carried;
use crate::request::{Attributes, User, What};
use wire::query::Query;
use wire::query::decode_path;

/// How long a request may take that is answered at once, its body and its wait for a seat not
/// counted; Kubernetes' `--request-timeout`.
const REQUEST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

impl ApiServer {
    /// The same server for callers within the process, who act as `user` without credentials.
    pub fn as_user(&self, user: User) -> LocalService {
        LocalService { server: self.clone(), user }
    }

    /// Answers a request to its end, though the client may go before: what is written has its audit
    /// event, and what was allocated for it is kept or given back. What has not begun, and what
    /// would go on, ends when the client goes.
    pub fn respond_to_the_end<B>(&self, mut request: Request<B>) -> Responding
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (here, client) = watch::channel(());
        request.extensions_mut().insert(Client(client));
        let server = self.clone();
        Responding { _here: here, work: Finishing::new(async move { server.respond(request).await }) }
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
        let mut record = None;
        // What a panic leaves behind is dropped with the request; shared state is only ever changed
        // by whole transactions.
        let handled = AssertUnwindSafe(self.handle(parts, body, &mut record)).catch_unwind().await;
        let (response, refusal) = match handled {
            Ok(Ok(response)) => (response, None),
            Ok(Err(status)) => (answer::status(&status), Some(status)),
            Err(_) => {
                tracing::error!(%method, path = uri.path(), "a request panicked");
                let status = Status::internal(format!("this request caused a bug in the server: {method} {}", uri.path()));
                if let Some(record) = &mut record {
                    record.answered(status.code, Some(&status));
                    record.write(Stage::Panic).await;
                }
                (answer::status(&status), Some(status))
            }
        };
        self.inner.metrics.observe(&method, response.status(), started.elapsed());
        tracing::debug!(%method, path = uri.path(), code = response.status().as_u16(), "request");
        match record {
            Some(record) => audited::answer(record, response, refusal.as_ref()).await,
            None => response,
        }
    }

    async fn handle<B>(&self, parts: Parts, body: B, record: &mut Option<Record>) -> Result<Response<Body>, Status>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let path = decode_path(parts.uri.path());
        let query = Query::parse(parts.uri.query());
        let target = path::parse(&path);
        let verb = match &target {
            Target::Resource(resource) => path::verb(&parts.method, resource, query.flag("watch")).to_owned(),
            Target::Other => parts.method.as_str().to_lowercase(),
        };
        let what = asked(&target, &path, query.get("fieldSelector").unwrap_or_default());
        let authenticated = self.inner.authenticator.authenticate(&parts, &self.inner.registry);
        if let Some(audit) = &self.inner.audit {
            *record = audit.begin(&parts, authenticated.as_ref().unwrap_or(&User::default()), &verb, &what);
        }
        if let Some(record) = record {
            record.write(Stage::RequestReceived).await;
        }
        let caller = authenticated?;
        let user = self.impersonated(&parts, &caller)?.unwrap_or(caller);
        if let Some(record) = record.as_mut().filter(|_| parts.headers.contains_key("impersonate-user")) {
            record.impersonates(&user);
        }
        let attributes = Attributes { user: &user, verb: &verb, what };
        let decision = self.inner.authorizer.authorize(&attributes);
        if let Some(record) = record {
            record.decided(decision.allowed, &decision.reason);
        }
        if !decision.allowed {
            return Err(forbidden(&attributes, &decision.reason));
        }
        let flow = if is_exempt(&parts, &path) { None } else { Flow::of(&attributes) };
        let client = parts.extensions.get::<Client>().cloned();
        let call = Call { parts, query, user: user.clone() };
        let course = Course::of(&target, &verb, &call);
        match course {
            Course::HandedOn => {
                let open = flow.map(|flow| self.inner.fairness.open(&flow)).transpose()?;
                let answering = self.dispatch(&call, &path, &target, &verb, RequestBody::stream(body));
                Ok(held_open(while_there(&client, answering).await?, open))
            }
            Course::Open => {
                let open = flow.as_ref().map(|flow| self.inner.fairness.open(flow)).transpose()?;
                let _seat = while_there(&client, self.seat(flow.as_ref(), 0)).await?;
                let answering = self.dispatch(&call, &path, &target, &verb, RequestBody::Whole(Bytes::new()));
                Ok(held_open(while_there(&client, answering).await?, open))
            }
            Course::Short => {
                let patience = options::timeout(&call.query)?.map_or(REQUEST_TIMEOUT, |asked| asked.min(REQUEST_TIMEOUT));
                let room = flow.as_ref().map(|flow| self.inner.fairness.body(flow, body::announced_bytes(&body))).transpose()?;
                let bytes = if has_body(&call.parts.method) { while_there(&client, body::read(body)).await? } else { Bytes::new() };
                let seat = while_there(&client, self.seat(flow.as_ref(), bytes.len())).await?;
                if let Some(record) = record.as_mut().filter(|record| record.wants_request()) {
                    audited::request(record, &call, &target, &bytes);
                }
                let (server, may_change) = (self.clone(), has_body(&call.parts.method));
                let answering = async move {
                    let _held = (room, seat);
                    server.dispatch(&call, &path, &target, &verb, RequestBody::Whole(bytes)).await
                };
                // The store does not take back what it was given, and what was allocated for it
                // must not be given back either.
                let answered = if may_change {
                    tokio::time::timeout(patience, Finishing::new(answering)).await
                } else {
                    tokio::time::timeout(patience, answering).await
                };
                answered.unwrap_or_else(|_| Err(Status::timeout("request did not complete within the allotted timeout", 0)))
            }
        }
    }

    async fn seat(&self, flow: Option<&Flow>, body_bytes: usize) -> Result<Option<Permit>, Status> {
        match flow {
            Some(flow) => self.inner.fairness.seat(flow, body_bytes).await.map(Some),
            None => Ok(None),
        }
    }

    async fn dispatch(&self, call: &Call, path: &str, target: &Target, verb: &str, body: RequestBody) -> Result<Response<Body>, Status> {
        match target {
            Target::Other => meta::handle(self, call, path).await,
            Target::Resource(resource) => route::handle(self, call, resource, verb, body).await,
        }
    }

    /// Impersonate-User and its companions, for users who may impersonate.
    fn impersonated(&self, parts: &Parts, user: &User) -> Result<Option<User>, Status> {
        let Some(wanted) = crate::auth::impersonate::requested(&parts.headers)? else { return Ok(None) };
        for attributes in wanted.permissions(user) {
            self.inner.authorizer.check(&attributes)?;
        }
        Ok(Some(wanted.into_user()))
    }
}

/// The client that waits for the answer: closed when it goes.
#[derive(Debug, Clone)]
struct Client(watch::Receiver<()>);

/// Work that is useless when the client is gone.
async fn while_there<T>(client: &Option<Client>, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let Some(Client(client)) = client else { return work.await };
    let mut client = client.clone();
    // Dropping the work undoes it: it has changed nothing yet. What is ready at once is done,
    // client or not.
    tokio::select! {
        biased;
        done = work => done,
        _ = client.changed() => Err(Status::new(CLIENT_GONE, "", "the client went away")),
    }
}

/// For the audit log; no client reads the answer.
const CLIENT_GONE: u16 = 499;

/// How a request goes on after it was let in.
enum Course {
    /// It is read, worked on and answered.
    Short,
    /// Its answer goes on: a watch, a log. Until it begins it takes a seat as others do.
    Open,
    /// It goes through to a node or a pod, its body too.
    HandedOn,
}

impl Course {
    fn of(target: &Target, verb: &str, call: &Call) -> Course {
        match target {
            Target::Resource(resource) => match resource.subresource.as_str() {
                "exec" | "attach" | "portforward" | "proxy" => Course::HandedOn,
                "log" if call.query.flag("follow") || log_socket::is_asked_for(&call.parts.headers) => Course::Open,
                _ if verb == "watch" => Course::Open,
                _ => Course::Short,
            },
            Target::Other => Course::Short,
        }
    }
}

/// Requests of the server's own parts, and the questions whether it is well, are never held up.
fn is_exempt(parts: &Parts, path: &str) -> bool {
    let asks_for_health = ["/healthz", "/livez", "/readyz"].iter().any(|health| path.starts_with(health));
    asks_for_health || parts.extensions.get::<Local>().is_some()
}

fn has_body(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// An answer that goes on, and holds its share until its body, or the connection that it became,
/// ends.
fn held_open(mut answer: Response<Body>, share: Option<Share>) -> Response<Body> {
    answer.extensions_mut().insert(audited::GoesOn);
    let Some(share) = share else { return answer };
    if let Some(carried) = answer.extensions().get::<Carried>() {
        carried.hold(share);
        return answer;
    }
    answer.map(|body| {
        let frames = body.map_frame(move |frame| {
            let _held = &share;
            frame
        });
        frames.boxed_unsync()
    })
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

/// A request that is being answered, to its end: where it is dropped before, the client went.
pub struct Responding {
    /// Dropped when the client goes, and before the work, which looks at it.
    _here: watch::Sender<()>,
    work: Finishing<Response<Body>>,
}

impl Future for Responding {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.work).poll(context).map(Ok)
    }
}

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
        self.respond_to_the_end(request)
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
        request.extensions_mut().insert(Local(self.user.clone()));
        self.server.respond_to_the_end(request)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fairness::Fairness;
    use super::*;

    /// The share of a shell ended when it began.
    #[test]
    fn a_connection_that_was_handed_on_holds_its_share() {
        let fairness = Fairness::default();
        let user = User::system("ann", &["system:authenticated"]);
        let flow = Flow::of(&Attributes { user: &user, verb: "create", what: What::Path("/") }).unwrap();
        let carried = Carried::default();
        let mut answer = Response::new(body::full(""));
        answer.extensions_mut().insert(carried.clone());
        drop(held_open(answer, Some(fairness.open(&flow).unwrap())));
        assert_eq!(fairness.open_requests(), 1);
        drop(carried);
        assert_eq!(fairness.open_requests(), 0);
    }
}
