//! Requests for resources: from path, parameters and body to a call of the registry, and its
//! outcome to an answer.

use bytes::Bytes;
use futures::StreamExt;
use http::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::Timestamp;
use kinds::rules::Part;
use kinds::schema::schema;
use kinds::status::Status;
use kinds::table::{self, KINDS, Kind, Subresource};
use serde_json::{Value, json};

use super::answer::{self, IncludeObject, Presenter};
use super::body::{Body, BoxError, RequestBody};
use super::negotiate::{self, Encoding};
use super::options::{FieldValidation, ListOptions, Query, WriteKind, WriteOptions};
use super::path::ResourcePath;
use super::service::{ApiServer, Call};
use super::{patches, subresources};
use crate::audit::Annotations;
use crate::registry::decode::{self, Expected};
use crate::registry::delete::{DeleteOptions, Deleted, success};
use crate::registry::{Write, Written};

/// A request for a resource of the table.
pub(crate) struct ResourceCall<'a> {
    pub server: &'a ApiServer,
    pub call: &'a Call,
    pub path: &'a ResourcePath,
    pub kind: &'static Kind,
    pub presenter: Presenter,
    pub now: Timestamp,
}

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

impl<'a> ResourceCall<'a> {
    pub fn registry(&self) -> &'a std::sync::Arc<crate::registry::Registry> {
        &self.server.inner.registry
    }

    /// Does the client take nothing but tables, or metadata alone?
    pub fn wants_only_metadata_forms(&self) -> bool {
        let accepted = self.call.header(http::header::ACCEPT).unwrap_or_default();
        accepted.contains("as=") && accepted.split(',').all(|clause| clause.contains("as="))
    }

    pub fn query(&self) -> &'a Query {
        &self.call.query
    }

    /// The namespace of the object; a Namespace has none, though its path looks like it.
    pub fn namespace(&self) -> &'a str {
        if self.kind.namespaced { &self.path.namespace } else { "" }
    }

    pub fn write<'b>(&'b self, part: impl Into<Option<Part>>, options: &'b WriteOptions) -> Write<'b> {
        Write {
            kind: self.kind,
            namespace: self.namespace(),
            name: &self.path.name,
            part: part.into(),
            subresource: &self.path.subresource,
            user: &self.call.user,
            options,
            user_agent: self.call.header(USER_AGENT).unwrap_or_default(),
            now: self.now,
        }
    }

    /// Decodes a body that should be an object of the kind.
    pub fn decode(&self, bytes: &[u8], expected: Expected<'_>, validation: FieldValidation) -> Result<decode::Body, Status> {
        let content_type = self.call.header(CONTENT_TYPE);
        let mut decoded = decode::body(bytes, negotiate::body_type(content_type)?, expected, validation)?;
        if let Some(view) = self.kind.view.filter(|_| expected.type_id == self.kind.type_id()) {
            decoded.object = (view.to_stored)(decoded.object);
        }
        Ok(decoded)
    }

    pub async fn get(&self) -> Result<Response<Body>, Status> {
        if let Some(text) = self.query().get("resourceVersion").filter(|text| !text.is_empty() && *text != "0") {
            let revision: u64 = text.parse().map_err(|_| {
                let why = format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
                Status::bad_request(format!("invalid resource version: {why}"))
            })?;
            self.registry().wait_for_future(revision).await?;
        }
        let entry = self.registry().get(self.kind, self.namespace(), &self.path.name)?;
        self.presenter.object(200, entry.value)
    }

    async fn list(&self) -> Result<Response<Body>, Status> {
        let options = ListOptions::parse(self.query(), self.kind, false)?;
        let listed = self.registry().list(self.kind, self.namespace(), &options).await?;
        self.presenter.list(listed)
    }

    async fn watch(&self) -> Result<Response<Body>, Status> {
        let mut options = ListOptions::parse(self.query(), self.kind, true)?;
        if self.path.deprecated_watch && !self.path.name.is_empty() {
            options.select_name(&self.path.name);
        }
        let shutdown = self.server.inner.shutdown.clone();
        let watcher = self.registry().watch(self.kind, self.namespace(), options, self.presenter.show(), shutdown).await?;
        let frames = watcher.into_lines().map(|line| Ok::<_, BoxError>(Frame::data(line)));
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        let content_type = match self.presenter.accepted.encoding {
            Encoding::Yaml => return Err(Status::not_acceptable("watches are available as application/json only")),
            Encoding::Json | Encoding::PrettyJson => HeaderValue::from_static("application/json"),
        };
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        Ok(response)
    }

    async fn create(&self, bytes: Bytes) -> Result<Response<Body>, Status> {
        let options = WriteOptions::parse(self.query(), WriteKind::Create)?;
        let decoded = self.decode(&bytes, Expected::of(self.kind), options.field_validation)?;
        let written = self.registry().create(&self.write(Part::Main, &options), decoded.object).await?;
        self.written(written, decoded.warnings)
    }

    pub async fn update(&self, part: Part, bytes: Bytes) -> Result<Response<Body>, Status> {
        let options = WriteOptions::parse(self.query(), WriteKind::Update)?;
        let decoded = self.decode(&bytes, Expected::of(self.kind), options.field_validation)?;
        let written = self.registry().replace(&self.write(part, &options), decoded.object, decoded.warnings).await?;
        self.written(written, Vec::new())
    }

    /// The answer to a write.
    pub fn written(&self, written: Written, mut warnings: Vec<String>) -> Result<Response<Body>, Status> {
        let mut response = self.presenter.object(if written.created { 201 } else { 200 }, written.bytes)?;
        warnings.extend(written.warnings);
        answer::warn(&mut response, &warnings);
        if !written.annotations.is_empty() {
            response.extensions_mut().insert(Annotations(written.annotations));
        }
        Ok(response)
    }

    async fn delete(&self, bytes: Bytes) -> Result<Response<Body>, Status> {
        let options = self.delete_options(&bytes)?;
        let write_options = WriteOptions { dry_run: options.dry_run, ..WriteOptions::INTERNAL };
        let deleted = self.registry().delete(&self.write(Part::Main, &write_options), &options).await?;
        match deleted {
            Deleted::Pending(bytes) => self.presenter.object(200, bytes),
            Deleted::Gone { bytes, .. } if self.kind.delete_returns_object => self.presenter.object(200, bytes),
            Deleted::Gone { uid, .. } => {
                let status = success(self.kind, &self.path.name, &uid);
                Ok(answer::value(200, &status, self.presenter.accepted.encoding))
            }
        }
    }

    /// From the body, or from the query where there is none.
    fn delete_options(&self, bytes: &[u8]) -> Result<DeleteOptions, Status> {
        let type_id = schema().named("DeleteOptions").expect("types.txt has DeleteOptions");
        if bytes.is_empty() {
            return DeleteOptions::from_value(&self.delete_options_of_query()?);
        }
        let body_type = negotiate::body_type(self.call.header(CONTENT_TYPE))?;
        let (node, _) = match body_type {
            negotiate::BodyType::Protobuf if kinds::protobuf::has_magic(bytes) => {
                kinds::protobuf::parse(bytes, type_id).map(|node| (node, Vec::new()))
            }
            _ => decode::parse(bytes, body_type),
        }
        .map_err(|e| Status::bad_request(e.to_string()))?;
        if let Some(kind) = node.get("kind").and_then(kinds::document::Node::as_str).filter(|kind| *kind != "DeleteOptions") {
            let version = node.get("apiVersion").and_then(kinds::document::Node::as_str).unwrap_or_default();
            return Err(Status::bad_request(format!(
                "no kind {kind:?} is registered for version {version:?} in scheme \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\""
            )));
        }
        let decoded = kinds::decode::decode(node, type_id).map_err(|e| Status::bad_request(e.to_string()))?;
        DeleteOptions::from_value(&decoded.value)
    }

    fn delete_options_of_query(&self) -> Result<Value, Status> {
        let query = self.query();
        let mut options = json!({});
        if let Some(seconds) = query.integer("gracePeriodSeconds")? {
            options["gracePeriodSeconds"] = seconds.into();
        }
        if query.has("orphanDependents") {
            options["orphanDependents"] = query.flag("orphanDependents").into();
        }
        if let Some(policy) = query.get("propagationPolicy") {
            options["propagationPolicy"] = policy.into();
        }
        let dry_run: Vec<&str> = query.all("dryRun").collect();
        if !dry_run.is_empty() {
            options["dryRun"] = json!(dry_run);
        }
        Ok(options)
    }

    async fn delete_collection(&self, bytes: Bytes) -> Result<Response<Body>, Status> {
        let list_options = ListOptions::parse(self.query(), self.kind, false)?;
        let options = self.delete_options(&bytes)?;
        let listed = self.registry().list(self.kind, self.namespace(), &list_options).await?;
        let write_options = WriteOptions { dry_run: options.dry_run, ..WriteOptions::INTERNAL };
        for object in &listed.objects {
            let write = Write { name: object.name(), namespace: object.namespace(), ..self.write(Part::Main, &write_options) };
            match self.registry().delete(&write, &options).await {
                Ok(_) => {}
                Err(status) if status.reason == "NotFound" => {}
                Err(status) => return Err(status),
            }
        }
        self.presenter.list(listed)
    }
}
