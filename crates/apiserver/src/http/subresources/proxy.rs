//! nodes/proxy and pods/proxy: any request, handed on to a node's agent or to a port of a pod.

use std::net::IpAddr;

use http::Response;
use kinds::status::Status;

use super::super::resources::ResourceCall;
use super::{kubelet, not_served};
use crate::body::{Body, RequestBody};
use crate::nodes::forward::{self, Outgoing};
use crate::nodes::{Endpoint, NodeConnector};
use crate::registry::encoding::parse_stored;
use wire::query::decode_path;

pub async fn node(request: &ResourceCall<'_>, body: RequestBody) -> Result<Response<Body>, Status> {
    check_process(request)?;
    let name = request.path.name.split(':').next().unwrap_or_default();
    let (connector, endpoint) = kubelet::endpoint(request, name)?;
    hand_on(request, connector, &endpoint, body).await
}

/// The agent takes a GET with an upgrade for a request to run something, and asks who may `create`.
/// This server speaks to it with all rights, so it asks itself: `get` on nodes/proxy alone runs no
/// command in any pod of the node.
fn check_process(request: &ResourceCall<'_>) -> Result<(), Status> {
    let below = path_below(request.call.parts.uri.path(), &request.path.name);
    if starts_process(&below) { kubelet::check_permission(request) } else { Ok(()) }
}

/// Does a path of the agent lead into containers? However its first part is escaped: the agent
/// decodes parts, and skips empty ones.
fn starts_process(below: &str) -> bool {
    let mut decoded = decode_path(below);
    while decoded.contains('%') {
        let again = decode_path(&decoded);
        if again == decoded {
            break;
        }
        decoded = again;
    }
    let first = decoded.split(['/', '?']).find(|part| !matches!(*part, "" | "." | ".."));
    first.is_some_and(|first| ["exec", "attach", "run", "portForward", "cri"].iter().any(|what| what.eq_ignore_ascii_case(first)))
}

/// The pod is reached at its own address, which the API server must have a way to.
pub async fn pod(request: &ResourceCall<'_>, body: RequestBody) -> Result<Response<Body>, Status> {
    let connector = request.server.inner.nodes.as_ref().ok_or_else(|| not_served("pods/proxy"))?;
    let (is_tls, name, port) = split_name(&request.path.name)?;
    let pod = parse_stored(&request.registry().get(request.kind, &request.path.namespace, name)?.value);
    let port = port.or_else(|| first_port(&pod)).unwrap_or(if is_tls { 443 } else { 80 });
    let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok()).filter(may_be_a_pod);
    let ip = ip.ok_or_else(|| Status::bad_request("address not allowed"))?;
    hand_on(request, connector, &Endpoint::of_pod(ip, port, is_tls), body).await
}

/// A client that may write a pod's status must not reach what listens on the API server's own
/// machine only: Go's `IsGlobalUnicast`, which Kubernetes asks.
fn may_be_a_pod(ip: &IpAddr) -> bool {
    let is_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| !may_be_a_pod(&IpAddr::V4(ip))),
    };
    !is_local && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast()
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

async fn hand_on(
    request: &ResourceCall<'_>,
    connector: &NodeConnector,
    endpoint: &Endpoint,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let parts = &request.call.parts;
    let path = path_below(parts.uri.path(), &request.path.name);
    let path = parts.uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    if parts.headers.contains_key(http::header::UPGRADE) {
        return forward::upgrade(connector, endpoint, &path, parts, request.server.inner.shutdown.clone()).await;
    }
    let body = body.into_stream();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_a_scheme_and_a_port() {
        assert_eq!(split_name("web").unwrap(), (false, "web", None));
        assert_eq!(split_name("web:8080").unwrap(), (false, "web", Some(8080)));
        assert_eq!(split_name("https:web:8443").unwrap(), (true, "web", Some(8443)));
        assert_eq!(split_name("https:web:").unwrap(), (true, "web", None));
        assert_eq!(split_name(":web:80").unwrap(), (false, "web", Some(80)));
        for bad in ["ftp:web:21", "web:http", "a:b:c:d"] {
            assert_eq!(split_name(bad).unwrap_err().code, 400, "{bad}");
        }
    }

    #[test]
    fn paths_into_containers_are_found_however_they_are_written() {
        for path in [
            "/exec/ns/pod/c",
            "//exec/ns/pod/c",
            "/%65xec/ns/pod/c",
            "/%2565xec/a/b/c",
            "/%2Fexec/a/b/c",
            "/./run/a/b/c",
            "/portForward/a/b",
        ] {
            assert!(starts_process(path), "{path}");
        }
        for path in ["/", "/metrics", "/stats/summary", "/containerLogs/ns/exec/run", "/logs/exec", "/pods"] {
            assert!(!starts_process(path), "{path}");
        }
    }

    #[test]
    fn addresses_of_one_machine_are_no_pods() {
        let judged = |ip: &str| may_be_a_pod(&ip.parse().unwrap());
        assert!(["10.244.1.2", "172.30.0.2", "203.0.113.9", "fd00::1"].into_iter().all(judged));
        for bad in ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "::1", "fe80::1", "::ffff:127.0.0.1"] {
            assert!(!judged(bad), "{bad}");
        }
    }
}
