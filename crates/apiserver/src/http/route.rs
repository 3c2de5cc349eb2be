//! From a path of the API to what answers it: the kind, the verb, and whether they fit.

use http::{Method, Response};
use jiff::Timestamp;
use kinds::rules::Part;
use kinds::status::Status;
use kinds::table::{self, KINDS, Kind, Subresource};

use super::answer::{self, IncludeObject, Presenter};
use super::path::ResourcePath;
use super::resources::ResourceCall;
use super::server::{ApiServer, Call};
use super::{negotiate, patches, subresources};
use crate::body::{Body, RequestBody};

pub(crate) async fn handle(
    server: &ApiServer,
    call: &Call,
    path: &ResourcePath,
    verb: &str,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let response = dispatch(server, call, path, verb, body).await;
    let deprecation = table::by_resource(&path.group, &path.version, &path.resource).and_then(|kind| kind.deprecation);
    let Some(deprecation) = deprecation else { return response };
    let mut response = response.unwrap_or_else(|status| answer::status(&status));
    answer::warn(&mut response, &[deprecation.to_owned()]);
    Ok(response)
}

async fn dispatch(server: &ApiServer, call: &Call, path: &ResourcePath, verb: &str, body: RequestBody) -> Result<Response<Body>, Status> {
    let Some(kind) = table::by_resource(&path.group, &path.version, &path.resource) else {
        return match KINDS.iter().any(|k| k.group == path.group) {
            true => Err(Status::no_such_resource()),
            false => Ok(answer::page_not_found()),
        };
    };
    let subresource = check_shape(kind, path, &call.parts.method, verb)?;
    let accepted = negotiate::accepted(&call.parts.headers, call.query.get("pretty"))?;
    let include = IncludeObject::parse(call.query.get("includeObject"))?;
    let request = ResourceCall { server, call, path, kind, presenter: Presenter { kind, accepted, include }, now: Timestamp::now() };
    if let Some(subresource) = subresource {
        return subresources::handle(&request, subresource, verb, body).await;
    }
    if !kind.is_stored() {
        return subresources::handle_unstored(&request, verb, body).await;
    }
    match verb {
        "get" => request.get().await,
        "list" => request.list().await,
        "watch" => request.watch().await,
        "create" => request.create(body.whole()?).await,
        "update" => request.update(Part::Main, body.whole()?).await,
        "patch" => patches::handle(&request, Part::Main, body.whole()?).await,
        "delete" => request.delete(body.whole()?).await,
        "deletecollection" => request.delete_collection(body.whole()?).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// Holds the path's shape and the verb against the kind.
fn check_shape(kind: &'static Kind, path: &ResourcePath, method: &Method, verb: &str) -> Result<Option<&'static Subresource>, Status> {
    let about_a_namespace = kind.plural == "namespaces" && kind.group.is_empty();
    let all_namespaces = kind.namespaced && path.namespace.is_empty();
    if !kind.namespaced && !path.namespace.is_empty() && !about_a_namespace {
        return Err(Status::no_such_resource());
    }
    if all_namespaces && !path.name.is_empty() {
        return Err(Status::no_such_resource());
    }
    if !path.subresource.is_empty() {
        let subresource = kind.subresource(&path.subresource).ok_or_else(Status::no_such_resource)?;
        return if subresource.verbs.contains(&verb) { Ok(Some(subresource)) } else { Err(Status::method_not_allowed()) };
    }
    let on_collection = path.name.is_empty();
    let fits = match *method {
        Method::POST => on_collection && !all_namespaces,
        Method::DELETE => !on_collection || !all_namespaces,
        Method::PUT | Method::PATCH => !on_collection,
        _ => true,
    };
    if !fits || !kind.has_verb(verb) { Err(Status::method_not_allowed()) } else { Ok(None) }
}
