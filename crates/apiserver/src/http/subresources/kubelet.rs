//! pods/log, exec, attach, portforward: what can be refused is refused here, the rest is asked of
//! the agent of the pod's node.

use std::fmt::Write as _;

use http::{Method, Response, StatusCode};
use kinds::field::{FieldError, Path};
use kinds::status::Status;
use serde_json::Value;

use super::super::resources::ResourceCall;
use super::{log_socket, not_served};
use crate::body::{Body, full};
use crate::nodes::forward::{self, Outgoing};
use crate::nodes::{self, Endpoint, NodeConnector};
use crate::registry::encoding::parse_stored;
use crate::request::{Attributes, What};

/// The options of a log that its agent reads.
const LOG_OPTIONS: [&str; 8] = ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];

/// Flags of exec and attach, and the agent's names for them.
const STREAMS: [(&str, &str); 4] = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];

/// GET pods/NAME/log, as text or over a WebSocket.
pub async fn log(request: &ResourceCall<'_>) -> Result<Response<Body>, Status> {
    let pod = pod(request)?;
    check_log_options(request)?;
    let container = choose_container(request, &pod)?;
    if node_of(&pod).is_empty() {
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let (connector, endpoint) = endpoint(request, node_of(&pod))?;
    let given = LOG_OPTIONS.iter().flat_map(|name| request.query().all(name).map(move |value| (*name, value)));
    let path = format!("/containerLogs/{}/{}/{container}{}", request.path.namespace, request.path.name, query(given));
    let answered =
        connector.request(&endpoint, Outgoing::get(&path)).await.map_err(|error| forward::unreachable(&endpoint, &path, &error))?;
    let response = forward::checked(answered, request.kind.resource(), &request.path.name).await?;
    let client = &request.call.parts;
    if log_socket::is_asked_for(&client.headers) {
        return log_socket::switch(response.into_body(), client, request.server.inner.shutdown.clone());
    }
    Ok(response)
}

/// The streaming connections.
pub async fn connect(request: &ResourceCall<'_>) -> Result<Response<Body>, Status> {
    check_permission(request)?;
    let pod = pod(request)?;
    let (namespace, name) = (&request.path.namespace, &request.path.name);
    let is_forward = request.path.subresource == "portforward";
    let container = if is_forward { String::new() } else { choose_container(request, &pod)? };
    if node_of(&pod).is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let (connector, endpoint) = endpoint(request, node_of(&pod))?;
    let path = if is_forward {
        let ports = request.query().all("ports").chain(request.query().all("port")).map(|port| ("port", port));
        format!("/portForward/{namespace}/{name}{}", query(ports))
    } else {
        let flags = STREAMS.iter().filter(|(flag, _)| request.query().flag(flag)).map(|(_, theirs)| (*theirs, "1"));
        let command = request.query().all("command").map(|word| ("command", word));
        format!("/{}/{namespace}/{name}/{container}{}", request.path.subresource, query(flags.chain(command)))
    };
    forward::upgrade(connector, &endpoint, &path, &request.call.parts, request.server.inner.shutdown.clone()).await
}

/// A WebSocket begins with GET; running something takes the permission to create all the same.
pub(super) fn check_permission(request: &ResourceCall<'_>) -> Result<(), Status> {
    if request.call.parts.method != Method::GET {
        return Ok(());
    }
    let path = request.path;
    let what = What::Resource {
        group: &path.group,
        version: &path.version,
        resource: &path.resource,
        subresource: &path.subresource,
        namespace: &path.namespace,
        name: &path.name,
        field_selector: "",
    };
    request.server.inner.authorizer.check(&Attributes { user: &request.call.user, verb: "create", what })
}

/// The way to the agent of a node. Simulated nodes have none.
pub(super) fn endpoint<'a>(request: &ResourceCall<'a>, node: &str) -> Result<(&'a NodeConnector, Endpoint), Status> {
    let refused = || not_served(&format!("{}/{}", request.kind.plural, request.path.subresource));
    let connector = request.server.inner.nodes.as_ref().ok_or_else(refused)?;
    let node = parse_stored(&request.registry().get(nodes::kind(), "", node)?.value);
    if nodes::is_simulated(&node) {
        return Err(refused());
    }
    Ok((connector, Endpoint::of(&node)?))
}

fn query<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        let separator = if out.is_empty() { '?' } else { '&' };
        write!(out, "{separator}{name}={}", escape(value)).expect("writing to a String cannot fail");
    }
    out
}

fn escape(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

fn pod(request: &ResourceCall<'_>) -> Result<Value, Status> {
    Ok(parse_stored(&request.registry().get(request.kind, &request.path.namespace, &request.path.name)?.value))
}

fn node_of(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

fn check_log_options(request: &ResourceCall<'_>) -> Result<(), Status> {
    let query = request.query();
    let mut errors = Vec::new();
    if let Some(lines) = query.integer("tailLines")?.filter(|&n| n < 0) {
        errors.push(FieldError::invalid(&Path::new("tailLines"), lines, "must be greater than or equal to 0"));
    }
    for name in ["limitBytes", "sinceSeconds"] {
        if let Some(n) = query.integer(name)?.filter(|&n| n < 1) {
            errors.push(FieldError::invalid(&Path::new(name), n, "must be greater than 0"));
        }
    }
    if query.get("stream").is_some_and(|stream| !matches!(stream, "" | "All")) && query.has("tailLines") {
        errors.push(FieldError::forbidden(&Path::root(), "`tailLines` and specific `stream` are mutually exclusive for now"));
    }
    if query.has("sinceSeconds") && query.has("sinceTime") {
        errors.push(FieldError::forbidden(&Path::root(), "at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("", "PodLogOptions", &request.path.name, &errors)) }
}

/// The container that is meant; with several, the client has to say.
fn choose_container(request: &ResourceCall<'_>, pod: &Value) -> Result<String, Status> {
    let names =
        |list: &str| -> Vec<&str> { pod["spec"][list].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect() };
    let (containers, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let asked = request.query().get("container").unwrap_or_default();
    let pod_name = &request.path.name;
    if asked.is_empty() {
        return match containers.as_slice() {
            [only] => Ok((*only).to_owned()),
            several => {
                let mut why = format!("a container name must be specified for pod {pod_name}, choose one of: [{}]", several.join(" "));
                if !init.is_empty() {
                    why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                if !ephemeral.is_empty() {
                    why.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
                }
                Err(Status::bad_request(why))
            }
        };
    }
    if [&containers, &init, &ephemeral].iter().any(|list| list.contains(&asked)) {
        return Ok(asked.to_owned());
    }
    Err(Status::bad_request(format!("container {asked} is not valid for pod {pod_name}")))
}
