//! Forwards requests to agents: what it passes on, what it makes of the answers, and bytes
//! in both directions after an upgrade.

use std::sync::{Arc, Mutex, PoisonError};

use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use kinds::status::{GroupResource, Status};
use tokio::sync::watch;

use super::{ConnectError, Endpoint, NodeConnector};
use crate::body::{Body, full};

/// What is read of an agent's refusal.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// A request to an agent.
pub struct Outgoing<'a> {
    pub method: Method,
    /// With its query.
    pub path: &'a str,
    pub headers: HeaderMap,
    pub body: Body,
}

impl<'a> Outgoing<'a> {
    pub fn get(path: &'a str) -> Outgoing<'a> {
        Outgoing { method: Method::GET, path, headers: HeaderMap::new(), body: full("") }
    }
}

/// The client's headers without what is between it and the API server: its credentials above all.
pub fn headers(client: &HeaderMap) -> HeaderMap {
    let stays = |name: &str| name.starts_with("impersonate-") || [AUTHORIZATION, COOKIE, HOST].iter().any(|own| own == name);
    client.iter().filter(|(name, _)| !stays(name.as_str())).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The answer to a request that did not reach the agent.
pub fn unreachable(endpoint: &Endpoint, path: &str, error: &ConnectError) -> Status {
    Status::new(500, "", format!("Get \"https://{endpoint}{path}\": {error}"))
}

/// An answer as it is.
pub fn passed(answered: Response<Incoming>) -> Response<Body> {
    answered.map(|body| body.map_err(Into::into).boxed_unsync())
}

/// An answer whose refusals become a Status about an object.
pub async fn checked(answered: Response<Incoming>, resource: GroupResource<'_>, name: &str) -> Result<Response<Body>, Status> {
    let code = answered.status();
    if code.is_success() {
        let mut response = Response::new(answered.into_body().map_err(Into::into).boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        return Ok(response);
    }
    let read = Limited::new(answered.into_body(), REFUSAL_BYTES_MAX).collect().await;
    let text = read.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
    Err(match code {
        StatusCode::INTERNAL_SERVER_ERROR => Status::internal(text),
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => {
            let message = format!("the server could not find the requested resource ( {} {name})", resource.resource);
            Status { message, ..Status::not_found(resource, name) }
        }
        StatusCode::FORBIDDEN => Status::forbidden(resource, name, &text),
        _ => Status::internal(format!("the node answered {code}: {text}")),
    })
}

/// What lives as long as a connection that was handed on, though its answer has been given: an
/// extension of that answer.
#[derive(Clone, Default)]
pub struct Carried(Arc<Mutex<Vec<Box<dyn Send>>>>);

impl Carried {
    /// Keeps something until the connection has ended.
    pub fn hold(&self, held: impl Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(held));
    }
}

/// Hands an upgrade on and carries the bytes of both sides, whatever they mean, until both have
/// closed or the server stops. An agent that refuses is heard as it is.
pub async fn upgrade(
    connector: &NodeConnector,
    endpoint: &Endpoint,
    path: &str,
    client: &Parts,
    shutdown: watch::Receiver<bool>,
) -> Result<Response<Body>, Status> {
    let outgoing = Outgoing { method: client.method.clone(), path, headers: headers(&client.headers), body: full("") };
    let answered = connector.request(endpoint, outgoing).await;
    let mut answered = answered.map_err(|error| Status::new(500, "", format!("error dialing backend: {error}")))?;
    if answered.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(passed(answered));
    }
    let Some(client) = client.extensions.get::<OnUpgrade>().cloned() else {
        return Err(Status::bad_request("this connection cannot be upgraded"));
    };
    let carried = Carried::default();
    tokio::spawn(carry(client, hyper::upgrade::on(&mut answered), shutdown, carried.clone()));
    let mut response = Response::new(full(""));
    response.extensions_mut().insert(carried);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answered.headers().clone();
    Ok(response)
}

async fn carry(client: OnUpgrade, agent: OnUpgrade, mut shutdown: watch::Receiver<bool>, _carried: Carried) {
    let carrying = async {
        let Ok((client, agent)) = tokio::try_join!(client, agent) else { return };
        // Errors are the end of one side, which is all there is to know.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(agent)).await;
    };
    // Dropping the first arm closes both sides.
    tokio::select! {
        () = carrying => {}
        _ = shutdown.wait_for(|&stopping| stopping) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::Request;
    use hyper::service::service_fn;
    use hyper::upgrade::Upgraded;
    use tokio::sync::mpsc;

    use super::*;

    /// Both ends of a connection that was upgraded: as `carry` gets it, and as the other side has
    /// it.
    async fn upgraded() -> (OnUpgrade, Upgraded) {
        let (near, far) = tokio::io::duplex(1024);
        let (found, mut upgrade) = mpsc::unbounded_channel();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let _ = found.send(hyper::upgrade::on(&mut request));
            let answer = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header("upgrade", "x").body(full(""));
            async move { Ok::<_, Infallible>(answer.unwrap()) }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(near), service).with_upgrades());
        let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(far)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let request = Request::get("/").header("connection", "upgrade").header("upgrade", "x").body(full("")).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        (upgrade.recv().await.unwrap(), hyper::upgrade::on(answer).await.unwrap())
    }

    #[tokio::test]
    async fn what_a_connection_holds_lives_until_both_sides_have_gone() {
        let ((client, far_client), (agent, far_agent)) = (upgraded().await, upgraded().await);
        let (held, carried) = (Arc::new(()), Carried::default());
        let (_stop, shutdown) = watch::channel(false);
        let carrying = tokio::spawn(carry(client, agent, shutdown, carried.clone()));
        carried.hold(held.clone());
        drop((carried, far_client));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(Arc::strong_count(&held), 2);
        drop(far_agent);
        carrying.await.unwrap();
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
