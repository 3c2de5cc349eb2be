//! Requests for resources: from path, parameters and body to a call of the registry, and its
//! outcome to an answer.

use bytes::Bytes;
use futures::StreamExt;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::Timestamp;
use kinds::rules::Part;
use kinds::schema::schema;
use kinds::status::Status;
use kinds::table::Kind;
use serde_json::{Value, json};

use super::answer::{self, Presenter};
use super::decode::{self, Expected};
use super::negotiate::{self, Encoding};
use super::options::{Query, WriteKind};
use super::path::ResourcePath;
use super::server::{ApiServer, Call};
use crate::admission::Plugins;
use crate::audit::Annotations;
use crate::body::{Body, BoxError};
use crate::registry::Written;
use crate::registry::delete::{Deleted, success};
use crate::request::WriteRequest;
use crate::request::options::{DeleteOptions, FieldValidation, ListOptions, WriteOptions};

/// A request for a resource of the table.
pub(crate) struct ResourceCall<'a> {
    pub server: &'a ApiServer,
    pub call: &'a Call,
    pub path: &'a ResourcePath,
    pub kind: &'static Kind,
    pub presenter: Presenter,
    pub now: Timestamp,
}

impl<'a> ResourceCall<'a> {
    pub fn registry(&self) -> &'a std::sync::Arc<crate::registry::Registry> {
        &self.server.inner.registry
    }

    pub fn admission(&self) -> &'a Plugins {
        self.server.admission()
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

    pub fn write<'b>(&'b self, part: impl Into<Option<Part>>, options: &'b WriteOptions) -> WriteRequest<'b> {
        WriteRequest {
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
    pub fn decode(&self, bytes: &[u8], expected: Expected<'_>, validation: FieldValidation) -> Result<decode::DecodedBody, Status> {
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

    pub async fn list(&self) -> Result<Response<Body>, Status> {
        let options = ListOptions::parse(self.query(), self.kind, false)?;
        let listed = self.registry().list(self.kind, self.namespace(), &options).await?;
        self.presenter.list(listed)
    }

    pub async fn watch(&self) -> Result<Response<Body>, Status> {
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

    pub async fn create(&self, bytes: Bytes) -> Result<Response<Body>, Status> {
        let options = WriteOptions::parse(self.query(), WriteKind::Create)?;
        let decoded = self.decode(&bytes, Expected::of(self.kind), options.field_validation)?;
        let written = self.registry().create(self.admission(), &self.write(Part::Main, &options), decoded.object).await?;
        self.written(written, decoded.warnings)
    }

    pub async fn update(&self, part: Part, bytes: Bytes) -> Result<Response<Body>, Status> {
        let options = WriteOptions::parse(self.query(), WriteKind::Update)?;
        let decoded = self.decode(&bytes, Expected::of(self.kind), options.field_validation)?;
        let written = self.registry().replace(self.admission(), &self.write(part, &options), decoded.object, decoded.warnings).await?;
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

    pub async fn delete(&self, bytes: Bytes) -> Result<Response<Body>, Status> {
        let options = self.delete_options(&bytes)?;
        let write_options = WriteOptions { dry_run: options.dry_run, ..WriteOptions::INTERNAL };
        let deleted = self.registry().delete(self.admission(), &self.write(Part::Main, &write_options), &options).await?;
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

    pub async fn delete_collection(&self, bytes: Bytes) -> Result<Response<Body>, Status> {
        let list_options = ListOptions::parse(self.query(), self.kind, false)?;
        let options = self.delete_options(&bytes)?;
        let listed = self.registry().list(self.kind, self.namespace(), &list_options).await?;
        let write_options = WriteOptions { dry_run: options.dry_run, ..WriteOptions::INTERNAL };
        for object in &listed.objects {
            let write = WriteRequest { name: object.name(), namespace: object.namespace(), ..self.write(Part::Main, &write_options) };
            match self.registry().delete(self.admission(), &write, &options).await {
                Ok(_) => {}
                Err(status) if status.reason == "NotFound" => {}
                Err(status) => return Err(status),
            }
        }
        self.presenter.list(listed)
    }
}
