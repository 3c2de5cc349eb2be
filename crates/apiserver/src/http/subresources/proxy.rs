//! nodes/proxy and pods/proxy: any request, handed on to a node's agent or to a port of a pod.

use bytes::Bytes;
use http::Response;
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use kinds::status::Status;

use super::super::body::{Body, BoxError};
use super::super::resources::ResourceCall;
use super::{kubelet, not_served};
use crate::nodes::forward::{self, Outgoing};
use crate::nodes::{Endpoint, NodeConnector};
use crate::registry::parse_stored;

pub async fn node<B>(request: &ResourceCall<'_>, body: B) -> Result<Response<Body>, Status>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let name = request.path.name.split(':').next().unwrap_or_default();
    let (connector, endpoint) = kubelet::endpoint(request, name)?;
    hand_on(request, connector, &endpoint, body).await
}

/// The pod is reached at its own address, which the API server must have a way to.
pub async fn pod<B>(request: &ResourceCall<'_>, body: B) -> Result<Response<Body>, Status>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let connector = request.server.inner.nodes.as_ref().ok_or_else(|| not_served("pods/proxy"))?;
    let (is_tls, name, port) = split_name(&request.path.name)?;
    let pod = parse_stored(&request.registry().get(request.kind, &request.path.namespace, name)?.value);
    let port = port.or_else(|| first_port(&pod)).unwrap_or(80);
    let Some(ip) = pod["status"]["podIP"].as_str().filter(|ip| !ip.is_empty()) else {
        return Err(Status::bad_request("address not allowed"));
    };
    if is_tls {
        return Err(not_served("pods/proxy to ports with TLS"));
    }
    hand_on(request, connector, &Endpoint::plain(ip, port), body).await
}

/// `NAME`, `NAME:PORT`, `http:NAME:PORT`.
fn split_name(text: &str) -> Result<(bool, &str, Option<u16>), Status> {
    let invalid = || Status::bad_request(format!("invalid pod request {text:?}"));
    let port = |text: &str| if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| invalid()) };
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [name] => Ok((false, name, None)),
        [name, number] => Ok((false, name, port(number)?)),
        [scheme @ ("http" | "https" | ""), name, number] => Ok((*scheme == "https", name, port(number)?)),
        _ => Err(invalid()),
    }
}

fn first_port(pod: &serde_json::Value) -> Option<u16> {
    let containers = pod["spec"]["containers"].as_array()?;
    let port = containers.iter().find_map(|container| container["ports"][0]["containerPort"].as_u64())?;
    u16::try_from(port).ok()
}

async fn hand_on<B>(request: &ResourceCall<'_>, connector: &NodeConnector, endpoint: &Endpoint, body: B) -> Result<Response<Body>, Status>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let parts = &request.call.parts;
    let path = path_below(parts.uri.path(), &request.path.name);
    let path = parts.uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    if parts.headers.contains_key(http::header::UPGRADE) {
        return forward::upgrade(connector, endpoint, &path, parts, request.server.inner.shutdown.clone()).await;
    }
    let body = body.map_err(Into::into).boxed_unsync();
    let outgoing = Outgoing { method: parts.method.clone(), path: &path, headers: forward::headers(&parts.headers), body };
    let answered = connector.request(endpoint, outgoing).await;
    let answered = answered.map_err(|error| Status::new(503, "ServiceUnavailable", format!("error trying to reach service: {error}")))?;
    Ok(forward::passed(answered))
}

/// What follows `proxy` in the path, with its slash.
fn path_below(path: &str, name: &str) -> String {
    let name = name.to_owned();
    let below = path.split_once(&format!("/{name}/proxy")).map(|(_, rest)| rest).unwrap_or_default();
    if below.starts_with('/') { below.to_owned() } else { format!("/{below}") }
}
