//! pods/log, exec, attach, portforward: what a node's agent answers. Today only what can be refused before an agent is asked.

use http::{Response, StatusCode};
use kinds::field::{FieldError, Path};
use kinds::status::Status;
use serde_json::Value;

use super::super::body::{Body, full};
use super::super::resources::ResourceCall;
use super::not_served;
use crate::registry::parse_stored;

/// GET pods/NAME/log.
pub fn log(request: &ResourceCall<'_>) -> Result<Response<Body>, Status> {
    let pod = pod(request)?;
    check_log_options(request)?;
    choose_container(request, &pod)?;
    if node_of(&pod).is_empty() {
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    Err(not_served("pods/log"))
}

/// The streaming connections.
pub fn connect(request: &ResourceCall<'_>) -> Result<Response<Body>, Status> {
    let pod = pod(request)?;
    if request.path.subresource != "portforward" {
        choose_container(request, &pod)?;
    }
    if node_of(&pod).is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", request.path.name)));
    }
    Err(not_served(&format!("pods/{}", request.path.subresource)))
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
