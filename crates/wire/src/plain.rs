//! HTTP without TLS for health checks, load balancers and scrapers of figures: small answers, and
//! limits that a slow or greedy client cannot get past.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Quota;

/// Connections at once, and those of one peer; more are closed. A connection has one answer.
const CONNECTIONS_MAX: usize = 512;
const CONNECTIONS_PER_PEER_MAX: usize = 8;
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
const CONNECTION_DEADLINE: Duration = Duration::from_secs(8);
/// A failed accept is for want of files, say; the next one would fail, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers GET and HEAD until `shutdown` turns true. `answer` gets the path.
pub async fn serve<A>(listener: TcpListener, mut shutdown: watch::Receiver<bool>, answer: A)
where
    A: Fn(&str) -> Response<Full<Bytes>> + Send + Sync + 'static,
{
    let answer = Arc::new(answer);
    let quota = Quota::new(CONNECTIONS_MAX, CONNECTIONS_PER_PEER_MAX);
    loop {
        // Both arms only wait; an accepted connection is never lost, because the other arm ends the
        // loop.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|&stopping| stopping) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Dropping the stream closes it.
                let Some(place) = quota.take(peer.ip()) else { continue };
                let answer = answer.clone();
                tokio::spawn(async move {
                    // A client that goes away or is slow is its own matter.
                    let _ = timeout(CONNECTION_DEADLINE, connection(stream, answer)).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection<A>(stream: TcpStream, answer: Arc<A>) -> hyper::Result<()>
where
    A: Fn(&str) -> Response<Full<Bytes>> + Send + Sync + 'static,
{
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let response = match *request.method() {
            Method::GET | Method::HEAD => answer(request.uri().path()),
            _ => text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n"),
        };
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(HEADER_DEADLINE)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// An answer of plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}
