//! Paths below an object (status, binding, eviction, token, log ...) and the kinds that are answered, not stored (reviews, metrics).

mod binding;
mod eviction;
mod kubelet;
mod proxy;
mod reviews;
mod token;
mod usage;

use bytes::Bytes;
use http::Response;
use http_body::Body as HttpBody;
use kinds::rules::Part;
use kinds::status::Status;
use kinds::table::Subresource;
use serde_json::json;

use super::answer;
use super::body::{self, Body, BoxError};
use super::negotiate::Encoding;
use super::patches;
use super::resources::ResourceCall;

pub(crate) async fn handle<B>(request: &ResourceCall<'_>, subresource: &Subresource, verb: &str, body: B) -> Result<Response<Body>, Status>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    match (request.kind.plural, subresource.name) {
        (_, "status") => part(request, Part::Status, verb, body).await,
        ("pods", "ephemeralcontainers") => part(request, Part::EphemeralContainers, verb, body).await,
        ("pods", "resize") => part(request, Part::Resize, verb, body).await,
        ("namespaces", "finalize") => request.update(Part::Finalize, body::read(body).await?).await,
        ("pods", "binding") => binding::bind(request, &request.path.name, body::read(body).await?).await,
        ("pods", "eviction") => eviction::evict(request, body::read(body).await?).await,
        ("serviceaccounts", "token") => token::create(request, body::read(body).await?).await,
        ("certificatesigningrequests", "approval") => part(request, Part::Approval, verb, body).await,
        ("pods", "log") => kubelet::log(request).await,
        ("pods", "exec" | "attach" | "portforward") => kubelet::connect(request).await,
        ("nodes", "proxy") => proxy::node(request, body).await,
        ("pods", "proxy") => proxy::pod(request, body).await,
        (plural, other) => Err(not_served(&format!("{plural}/{other}"))),
    }
}

/// A part of the object that is read and written like the object itself.
async fn part<B>(request: &ResourceCall<'_>, part: Part, verb: &str, body: B) -> Result<Response<Body>, Status>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    match verb {
        "get" => request.get().await,
        "update" => request.update(part, body::read(body).await?).await,
        _ => patches::handle(request, part, body::read(body).await?).await,
    }
}

/// Reviews, metrics and the old collection of bindings.
pub(crate) async fn handle_unstored<B>(request: &ResourceCall<'_>, verb: &str, body: B) -> Result<Response<Body>, Status>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    match request.kind.plural {
        "bindings" => binding::bind_by_body(request, body::read(body).await?).await,
        _ if verb == "create" => reviews::review(request, body::read(body).await?).await,
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
