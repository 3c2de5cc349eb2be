//! OpenAPI: the shape of every kind, as far as `kubectl apply`, `explain` and `diff` look at it.
//!
//! Shapes, list types and merge keys come from our schema; the sentences that describe fields come
//! from `k8s-openapi`. Documents are made when first asked for and kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use bytes::Bytes;
use http::Response;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use kinds::schema::{Field, ListKind, PatchStrategy, Shape, Type, schema};
use kinds::status::Status;
use kinds::table::{KINDS, Kind};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::answer;
use super::negotiate::Encoding;
use super::openapi_protobuf;
use super::server::Call;
use crate::body::{Body, full};

/// What the names of that media type have in common: old clients write `@v1.0` at its end, new ones
/// `.v1.0`.
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2";

/// A document with the digest that its address carries.
struct Document {
    json: Bytes,
    hash: String,
}

/// GET below /openapi.
pub(crate) fn handle(call: &Call, path: &str) -> Result<Response<Body>, Status> {
    match path.trim_end_matches('/') {
        "/openapi/v3" => {
            let mut response = answer::value(200, &index(), Encoding::Json);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            Ok(response)
        }
        "/openapi/v2" => {
            let accept = call.header(ACCEPT).unwrap_or("*/*");
            if accept.split(',').any(|clause| clause.contains("json") || clause.contains("*/*")) {
                return Ok(answer::json_bytes(200, v2().json.clone(), Encoding::Json));
            }
            if !accept.contains(V2_PROTOBUF) {
                return Err(Status::not_acceptable("OpenAPI v2 is available as application/json and in gnostic's protobuf"));
            }
            let mut response = Response::new(full(v2_protobuf()));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/com.github.proto-openapi.spec.v2.v1.0+protobuf"));
            Ok(response)
        }
        path => match path.strip_prefix("/openapi/v3/").and_then(|group| documents().get(group)) {
            Some(document) => Ok(answer::json_bytes(200, document.json.clone(), Encoding::Json)),
            None => Ok(answer::page_not_found()),
        },
    }
}

fn index() -> Value {
    let paths: Map<String, Value> = documents()
        .iter()
        .map(|(group, document)| (group.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{group}?hash={}", document.hash)})))
        .collect();
    json!({"paths": paths})
}

/// One document for each group and version, by the path below /openapi/v3.
fn documents() -> &'static BTreeMap<String, Document> {
    static DOCUMENTS: OnceLock<BTreeMap<String, Document>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let descriptions = Descriptions::collect();
        let served: BTreeSet<(&str, &str)> =
            KINDS.iter().filter(|k| k.is_stored() || k.verbs == ["create"]).map(|k| (k.group, k.version)).collect();
        served
            .into_iter()
            .map(|(group, version)| {
                let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
                (path, document(group, version, &descriptions))
            })
            .collect()
    })
}

fn finished(document: &Value) -> Document {
    let json = document.to_string();
    let hash: String = Sha256::digest(&json).iter().map(|byte| format!("{byte:02X}")).collect();
    Document { json: json.into(), hash }
}

fn document(group: &str, version: &str, descriptions: &Descriptions) -> Document {
    let kinds: Vec<&'static Kind> = KINDS.iter().filter(|k| k.group == group && k.version == version && has_schema(k)).collect();
    let mut writer = Writer { descriptions, prefix: "#/components/schemas/", schemas: BTreeMap::new() };
    let mut paths = Map::new();
    for kind in kinds {
        writer.add_kind(kind);
        for (path, item) in paths_of(kind) {
            paths.insert(path, item);
        }
    }
    finished(&json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "1.36"},
        "paths": paths,
        "components": {"schemas": writer.schemas},
    }))
}

fn v2() -> &'static Document {
    static V2: OnceLock<Document> = OnceLock::new();
    V2.get_or_init(|| finished(&v2_value()))
}

fn v2_protobuf() -> Bytes {
    static V2: OnceLock<Bytes> = OnceLock::new();
    V2.get_or_init(|| openapi_protobuf::document(&v2_value()).into()).clone()
}

/// The same as one document of the older version.
fn v2_value() -> Value {
    let descriptions = Descriptions::collect();
    let mut writer = Writer { descriptions: &descriptions, prefix: "#/definitions/", schemas: BTreeMap::new() };
    let mut paths = Map::new();
    for kind in KINDS.iter().filter(|k| has_schema(k)) {
        writer.add_kind(kind);
        paths.extend(paths_of(kind));
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "1.36"},
        "paths": paths,
        "definitions": writer.schemas,
    })
}

fn has_schema(kind: &Kind) -> bool {
    schema().named(kind.type_name).is_some()
}

/// The paths of a kind with what clients look for: its group, version and kind, and which patches
/// and parameters it takes.
fn paths_of(kind: &'static Kind) -> Vec<(String, Value)> {
    let base = if kind.group.is_empty() { format!("/api/{}", kind.version) } else { format!("/apis/{}/{}", kind.group, kind.version) };
    let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", kind.plural);
    let operation = |action: &str| operation(kind, action);
    let mut items =
        vec![(collection.clone(), pick(kind, &[("list", "get"), ("create", "post"), ("deletecollection", "delete")], operation))];
    if kind.has_verb("get") {
        let verbs = [("get", "get"), ("update", "put"), ("patch", "patch"), ("delete", "delete")];
        items.push((format!("{collection}/{{name}}"), pick(kind, &verbs, operation)));
    }
    items
}

fn pick(kind: &Kind, verbs: &[(&str, &str)], operation: impl Fn(&str) -> Value) -> Value {
    verbs.iter().filter(|(verb, _)| kind.has_verb(verb)).map(|(verb, method)| ((*method).to_owned(), operation(verb))).collect()
}

fn operation(kind: &Kind, verb: &str) -> Value {
    let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let parameters: Vec<Value> = match verb {
        "create" | "update" | "patch" => ["dryRun", "fieldManager", "fieldValidation"].iter().map(|name| query(name)).collect(),
        "list" => {
            ["continue", "fieldSelector", "labelSelector", "limit", "resourceVersion", "watch"].iter().map(|name| query(name)).collect()
        }
        _ => Vec::new(),
    };
    let action = match verb {
        "create" => "post",
        "update" => "put",
        other => other,
    };
    let mut operation = json!({
        "operationId": format!("{verb}{}", kind.kind),
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "kind": kind.kind, "version": kind.version},
    });
    if verb == "patch" {
        let content: Map<String, Value> = [
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ]
        .iter()
        .map(|media_type| ((*media_type).to_owned(), json!({"schema": {"type": "object"}})))
        .collect();
        operation["requestBody"] = json!({"content": content, "required": true});
        operation["consumes"] = json!(content.keys().collect::<Vec<_>>());
    }
    operation
}

/// What the fields of types are for, by type and field.
struct Descriptions(Map<String, Value>);

impl Descriptions {
    fn collect() -> Descriptions {
        use k8s_openapi::api;
        let mut generator = schemars::generate::SchemaSettings::draft07().into_generator();
        macro_rules! collect {
            ($($kind:ty),* $(,)?) => { $( generator.subschema_for::<$kind>(); )* };
        }
        collect!(
            api::apps::v1::ControllerRevision,
            api::apps::v1::DaemonSet,
            api::authentication::v1::SelfSubjectReview,
            api::authentication::v1::TokenRequest,
            api::authentication::v1::TokenReview,
            api::authorization::v1::LocalSubjectAccessReview,
            api::authorization::v1::SelfSubjectAccessReview,
            api::authorization::v1::SelfSubjectRulesReview,
            api::authorization::v1::SubjectAccessReview,
            api::certificates::v1::CertificateSigningRequest,
            api::coordination::v1::Lease,
            api::core::v1::Binding,
            api::core::v1::ConfigMap,
            api::core::v1::Endpoints,
            api::core::v1::Event,
            api::core::v1::LimitRange,
            api::core::v1::Namespace,
            api::core::v1::Node,
            api::core::v1::Pod,
            api::core::v1::ResourceQuota,
            api::core::v1::Secret,
            api::core::v1::Service,
            api::core::v1::ServiceAccount,
            api::discovery::v1::EndpointSlice,
            api::events::v1::Event,
            api::networking::v1::IPAddress,
            api::networking::v1::ServiceCIDR,
            api::node::v1::RuntimeClass,
            api::policy::v1::Eviction,
            api::policy::v1::PodDisruptionBudget,
            api::rbac::v1::ClusterRole,
            api::rbac::v1::ClusterRoleBinding,
            api::rbac::v1::Role,
            api::rbac::v1::RoleBinding,
            api::scheduling::v1::PriorityClass,
        );
        Descriptions(generator.take_definitions(true))
    }

    fn of_type(&self, name: &str) -> Option<&Value> {
        self.0.get(name)?.get("description")
    }

    fn of_field(&self, type_name: &str, field: &str) -> Option<&Value> {
        self.0.get(type_name)?.get("properties")?.get(field)?.get("description")
    }
}

/// Writes types as JSON schemas, with all that they refer to.
struct Writer<'a> {
    descriptions: &'a Descriptions,
    prefix: &'static str,
    schemas: BTreeMap<String, Value>,
}

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";

impl Writer<'_> {
    fn add_kind(&mut self, kind: &Kind) {
        let id = kind.type_id();
        self.add_type(schema().get(id));
        if let Some(written) = self.schemas.get_mut(schema().get(id).full_name) {
            written["x-kubernetes-group-version-kind"] = json!([{"group": kind.group, "kind": kind.kind, "version": kind.version}]);
        }
    }

    fn add_type(&mut self, subject: &Type) {
        if self.schemas.contains_key(subject.full_name) {
            return;
        }
        // Types may contain themselves.
        self.schemas.insert(subject.full_name.to_owned(), Value::Null);
        let properties: Map<String, Value> =
            subject.fields.iter().map(|field| (field.name.to_owned(), self.property(subject, field))).collect();
        let required: Vec<&str> = subject.fields.iter().filter(|f| f.required && f.name != "metadata").map(|f| f.name).collect();
        let mut written = json!({"type": "object", "properties": properties});
        if !required.is_empty() {
            written["required"] = json!(required);
        }
        if subject.atomic {
            written["x-kubernetes-map-type"] = "atomic".into();
        }
        if let Some(description) = self.descriptions.of_type(subject.full_name) {
            written["description"] = description.clone();
        }
        self.schemas.insert(subject.full_name.to_owned(), written);
    }

    fn property(&mut self, owner: &Type, field: &Field) -> Value {
        let mut written = self.shape(&field.shape);
        let description = self.descriptions.of_field(owner.full_name, field.name).cloned();
        if let (Some(reference), Some(_)) = (written.get("$ref").cloned(), &description) {
            // Beside a reference nothing else counts.
            written = json!({"allOf": [{"$ref": reference}]});
        }
        if let Some(description) = description {
            written["description"] = description;
        }
        if matches!(field.shape, Shape::List(_)) {
            match &field.list {
                ListKind::Atomic => written["x-kubernetes-list-type"] = "atomic".into(),
                ListKind::Set => written["x-kubernetes-list-type"] = "set".into(),
                ListKind::Map(keys) => {
                    written["x-kubernetes-list-type"] = "map".into();
                    written["x-kubernetes-list-map-keys"] = json!(keys);
                }
            }
        }
        if field.map_atomic {
            written["x-kubernetes-map-type"] = "atomic".into();
        }
        match &field.patch {
            PatchStrategy::Replace => {}
            PatchStrategy::MergeSet => written["x-kubernetes-patch-strategy"] = "merge".into(),
            PatchStrategy::MergeByKey { key, retain_keys } => {
                written["x-kubernetes-patch-strategy"] = if *retain_keys { "merge,retainKeys".into() } else { "merge".into() };
                written["x-kubernetes-patch-merge-key"] = (*key).into();
            }
        }
        written
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        match shape {
            Shape::String => json!({"type": "string"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Float64 => json!({"type": "number", "format": "double"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Time => self.leaf(TIME, json!({"type": "string", "format": "date-time"})),
            Shape::MicroTime => self.leaf(MICRO_TIME, json!({"type": "string", "format": "date-time"})),
            Shape::Quantity => self.leaf(QUANTITY, json!({"oneOf": [{"type": "string"}, {"type": "number"}]})),
            Shape::IntOrString => {
                self.leaf(INT_OR_STRING, json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}))
            }
            Shape::Any => self.leaf(RAW, json!({"type": "object"})),
            Shape::Struct(id) => {
                let subject = schema().get(*id);
                self.add_type(subject);
                json!({"$ref": format!("{}{}", self.prefix, subject.full_name)})
            }
            Shape::List(item) => json!({"type": "array", "items": self.shape(item)}),
            Shape::Map(value) => json!({"type": "object", "additionalProperties": self.shape(value)}),
        }
    }

    /// A type that is no struct in JSON.
    fn leaf(&mut self, name: &str, written: Value) -> Value {
        self.schemas.entry(name.to_owned()).or_insert(written);
        json!({"$ref": format!("{}{name}", self.prefix)})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_merge_by_name_and_are_described() {
        let document: Value = serde_json::from_slice(&documents()["apis/apps/v1"].json).unwrap();
        let containers = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert!(containers["description"].as_str().is_some_and(|text| text.contains("containers")));
    }

    /// The schema of ours and the one that `k8s-openapi` was generated from must name the same
    /// fields.
    #[test]
    fn our_types_have_the_fields_of_the_published_schema() {
        let published = Descriptions::collect();
        let mut compared = 0;
        for subject in schema().types() {
            let Some(properties) = published.0.get(subject.full_name).and_then(|s| s["properties"].as_object()) else { continue };
            let ours: Vec<&str> = subject.fields.iter().map(|f| f.name).filter(|n| !matches!(*n, "apiVersion" | "kind")).collect();
            let theirs: Vec<&str> = properties.keys().map(String::as_str).filter(|n| !matches!(*n, "apiVersion" | "kind")).collect();
            assert_eq!(ours, theirs, "{}", subject.full_name);
            compared += 1;
        }
        assert!(compared > 150, "only {compared} types were compared");
    }
}
