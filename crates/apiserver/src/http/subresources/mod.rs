//! Paths below an object (status, binding, eviction, token, log ...) and the kinds that are
//! answered, not stored (reviews, metrics).

mod binding;
mod eviction;
mod kubelet;
pub(super) mod log_socket;
mod proxy;
mod reviews;
mod token;
mod usage;

use http::Response;
use kinds::rules::Part;
use kinds::status::Status;
use kinds::table::Subresource;
use serde_json::json;

use super::answer;
use super::negotiate::Encoding;
use super::patches;
use super::resources::ResourceCall;
use crate::body::{Body, RequestBody};

pub(crate) async fn handle(
    request: &ResourceCall<'_>,
    subresource: &Subresource,
    verb: &str,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    match (request.kind.plural, subresource.name) {
        (_, "status") => part(request, Part::Status, verb, body).await,
        ("pods", "ephemeralcontainers") => part(request, Part::EphemeralContainers, verb, body).await,
        ("pods", "resize") => part(request, Part::Resize, verb, body).await,
        ("namespaces", "finalize") => request.update(Part::Finalize, body.whole()?).await,
        ("pods", "binding") => binding::bind(request, &request.path.name, body.whole()?).await,
        ("pods", "eviction") => eviction::evict(request, body.whole()?).await,
        ("serviceaccounts", "token") => token::create(request, body.whole()?).await,
        ("certificatesigningrequests", "approval") => part(request, Part::Approval, verb, body).await,
        ("pods", "log") => kubelet::log(request).await,
        ("pods", "exec" | "attach" | "portforward") => kubelet::connect(request).await,
        ("nodes", "proxy") => proxy::node(request, body).await,
        ("pods", "proxy") => proxy::pod(request, body).await,
        (plural, other) => Err(not_served(&format!("{plural}/{other}"))),
    }
}

/// A part of the object that is read and written like the object itself.
async fn part(request: &ResourceCall<'_>, part: Part, verb: &str, body: RequestBody) -> Result<Response<Body>, Status> {
    match verb {
        "get" => request.get().await,
        "update" => request.update(part, body.whole()?).await,
        _ => patches::handle(request, part, body.whole()?).await,
    }
}

/// Reviews, metrics and the old collection of bindings.
pub(crate) async fn handle_unstored(request: &ResourceCall<'_>, verb: &str, body: RequestBody) -> Result<Response<Body>, Status> {
    match request.kind.plural {
        _ if verb == "create" && request.wants_only_metadata_forms() => {
            // What is answered has no metadata that a table or a partial object could show.
            Err(Status::not_acceptable("the server was unable to respond with a content type that the client supports"))
        }
        "bindings" => binding::bind_by_body(request, body.whole()?).await,
        _ if verb == "create" => reviews::review(request, body.whole()?).await,
        _ => usage::answer(request, verb),
    }
}

fn not_served(what: &str) -> Status {
    Status::new(501, "NotImplemented", format!("this server does not serve {what} yet"))
}

/// What a request that made nothing to show is answered.
fn created() -> Response<Body> {
    answer::value(201, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}), Encoding::Json)
}
