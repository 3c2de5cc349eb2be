//! Answers: objects, lists, tables and errors as the client accepts them.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use kinds::encode::encode;
use kinds::status::Status;
use kinds::table::Kind;
use kinds::yaml;
use serde_json::{Value, json};

use super::negotiate::{Accepted, Encoding, Form};
use super::pieces::{Around, Pieces, WriteItem, grows_by_indenting};
use crate::body::{Body, full};
use crate::registry::cache::{CacheEvent, event_line};
use crate::registry::encoding::parse_stored;
use crate::registry::list::{Listed, list_metadata};
use crate::registry::object::Object;
use crate::registry::watch::{Show, ShowObjects};

/// An answer with JSON, or what the client accepts instead.
pub fn value(code: u16, value: &Value, encoding: Encoding) -> Response<Body> {
    json_bytes(code, value.to_string().into(), encoding)
}

/// Same, for JSON that is encoded already.
pub fn json_bytes(code: u16, json: Bytes, encoding: Encoding) -> Response<Body> {
    let (content_type, body) = match encoding {
        Encoding::Json => ("application/json", json),
        Encoding::PrettyJson if grows_by_indenting(&json) => ("application/json", json),
        Encoding::PrettyJson => ("application/json", pretty(&json).into()),
        // JSON is YAML, too.
        Encoding::Yaml if grows_by_indenting(&json) => ("application/yaml", json),
        Encoding::Yaml => ("application/yaml", yaml::write(&parse_stored(&json)).into()),
    };
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn pretty(json: &[u8]) -> String {
    let mut text = serde_json::to_string_pretty(&parse_stored(json)).unwrap_or_default();
    text.push('\n');
    text
}

fn around(kind: String, api_version: String, listed: &Listed, items: &'static str) -> Around {
    Around { fields: vec![("kind", kind.into()), ("apiVersion", api_version.into()), ("metadata", list_metadata(listed))], items }
}

fn append(piece: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(piece, value).expect("writing to memory cannot fail");
}

/// Plain text.
pub fn text(code: u16, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert("X-Content-Type-Options", HeaderValue::from_static("nosniff"));
    response
}

/// What a path outside all groups is answered.
pub fn page_not_found() -> Response<Body> {
    text(404, "404 page not found\n")
}

/// A refusal.
pub fn status(status: &Status) -> Response<Body> {
    let mut response = value(status.code, &status.to_value(), Encoding::Json);
    if let Some(seconds) = status.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Warnings of more characters than this together are cut, each to a length of its own, and left
/// out when that does not help: Kubernetes' limits.
const WARNING_CHARS_MAX: usize = 4 * 1024;
const CUT_WARNING_CHARS_MAX: usize = 256;

/// Adds one `Warning` header for each text, as far as there is room. Texts that no header can have
/// are left out.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    let mut seen = HashSet::new();
    let distinct: Vec<&str> = warnings.iter().map(String::as_str).filter(|text| !text.is_empty() && seen.insert(*text)).collect();
    let is_cut = distinct.iter().map(|text| text.chars().count()).sum::<usize>() > WARNING_CHARS_MAX;
    let mut written = 0;
    for text in distinct.into_iter().filter(|text| !text.contains(char::is_control)) {
        if written >= WARNING_CHARS_MAX {
            break;
        }
        let cut: String = text.chars().take(if is_cut { CUT_WARNING_CHARS_MAX } else { usize::MAX }).collect();
        written += cut.chars().count();
        let quoted = cut.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append("Warning", value);
        }
    }
}

/// How tables treat the objects behind their rows.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    Metadata,
    Object,
}

impl IncludeObject {
    pub fn parse(text: Option<&str>) -> Result<IncludeObject, Status> {
        match text {
            None | Some("" | "Metadata") => Ok(IncludeObject::Metadata),
            Some("None") => Ok(IncludeObject::None),
            Some("Object") => Ok(IncludeObject::Object),
            Some(other) => {
                let path = kinds::field::Path::new("includeObject");
                let error = kinds::field::FieldError::invalid(&path, other, "must be 'Metadata', 'Object', 'None', or empty");
                Err(Status::bad_request(format!("Unable to convert to Table as requested: {error}")))
            }
        }
    }
}

/// Presents objects of one kind in the form that a client accepts.
#[derive(Debug, Clone)]
pub struct Presenter {
    pub kind: &'static Kind,
    pub accepted: Accepted,
    pub include: IncludeObject,
}

impl Presenter {
    /// One object.
    pub fn object(&self, code: u16, bytes: Bytes) -> Result<Response<Body>, Status> {
        let json = match self.accepted.form {
            Form::Object => self.view(&bytes),
            Form::Table => self.table(&parse_stored(&bytes), true).to_string().into(),
            Form::PartialObjectMetadata => self.partial(&parse_stored(&bytes)).to_string().into(),
            Form::PartialObjectMetadataList => {
                return Err(Status::not_acceptable(format!(
                    "you requested PartialObjectMetadataList, but the requested object is not a list (*{}.{})",
                    self.internal_group(),
                    self.kind.kind
                )));
            }
        };
        Ok(json_bytes(code, json, self.accepted.encoding))
    }

    /// The bytes of a stored object as this kind's group shows them.
    fn view(&self, bytes: &Bytes) -> Bytes {
        match self.kind.view {
            None => bytes.clone(),
            Some(view) => encode(&self.kind.api_version(), self.kind.kind, &(view.from_stored)(parse_stored(bytes))).into(),
        }
    }

    /// A list, made while it is sent.
    pub fn list(&self, listed: Listed) -> Result<Response<Body>, Status> {
        let (around, size, write) = match self.accepted.form {
            Form::Object => self.object_list(&listed),
            Form::Table => self.table_list(&listed),
            Form::PartialObjectMetadataList => self.partial_list(&listed),
            Form::PartialObjectMetadata => {
                return Err(Status::not_acceptable(format!(
                    "you requested PartialObjectMetadata, but the requested object is a list (*{}.{}List)",
                    self.internal_group(),
                    self.kind.kind
                )));
            }
        };
        let (content_type, pieces) = match self.accepted.encoding {
            Encoding::Json => ("application/json", Pieces::json(&around, listed.objects, size, write)),
            Encoding::PrettyJson => ("application/json", Pieces::pretty(&around, listed.objects, write)),
            Encoding::Yaml => ("application/yaml", Pieces::yaml(&around, listed.objects, write)),
        };
        let mut response = Response::new(pieces.map_err(|never| match never {}).boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Ok(response)
    }

    /// The package that Go's error texts name.
    fn internal_group(&self) -> &'static str {
        if self.kind.group.is_empty() { "core" } else { self.kind.group.split('.').next().unwrap_or_default() }
    }

    /// Concatenates the stored bytes, less each object's kind and apiVersion.
    fn object_list(&self, listed: &Listed) -> (Around, Option<usize>, WriteItem) {
        let (kind, api_version) = (format!("{}List", self.kind.kind), self.kind.api_version());
        let prefix_len = kinds::encode::type_prefix_len(&api_version, self.kind.kind);
        // The brace that an item keeps of its prefix.
        let size = || listed.objects.iter().map(|object| object.bytes.len() - prefix_len + 1).sum();
        let size = self.kind.view.is_none().then(size);
        let presenter = self.clone();
        let write = move |object: &Object, piece: &mut Vec<u8>| {
            piece.push(b'{');
            piece.extend_from_slice(&presenter.view(&object.bytes)[prefix_len..]);
        };
        (around(kind, api_version, listed, "items"), size, Box::new(write))
    }

    fn table_list(&self, listed: &Listed) -> (Around, Option<usize>, WriteItem) {
        let mut around = around("Table".to_owned(), format!("meta.k8s.io/{}", self.accepted.version), listed, "rows");
        around.fields.push(("columnDefinitions", kinds::columns::definitions(self.kind)));
        let (presenter, now) = (self.clone(), jiff::Timestamp::now());
        let write = move |object: &Object, piece: &mut Vec<u8>| append(piece, &presenter.row(&object.value(), now));
        (around, None, Box::new(write))
    }

    fn partial_list(&self, listed: &Listed) -> (Around, Option<usize>, WriteItem) {
        let presenter = self.clone();
        let write = move |object: &Object, piece: &mut Vec<u8>| append(piece, &presenter.partial(&object.value()));
        let api_version = format!("meta.k8s.io/{}", self.accepted.version);
        (around("PartialObjectMetadataList".to_owned(), api_version, listed, "items"), None, Box::new(write))
    }

    fn partial(&self, object: &Value) -> Value {
        let mut metadata = object["metadata"].clone();
        let annotations = metadata.get_mut("annotations").and_then(Value::as_object_mut);
        if let (Some((annotation, _)), Some(annotations)) = (self.kind.converted_annotation, annotations) {
            annotations.remove(annotation);
            if annotations.is_empty() {
                metadata.as_object_mut().and_then(|metadata| metadata.remove("annotations"));
            }
        }
        json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{}", self.accepted.version), "metadata": metadata})
    }

    /// A table of one object.
    fn table(&self, object: &Value, with_columns: bool) -> Value {
        let version = Some(&object["metadata"]["resourceVersion"]).filter(|version| version.is_string());
        let metadata = version.map_or_else(|| json!({}), |version| json!({"resourceVersion": version}));
        let rows = [self.row(object, jiff::Timestamp::now())];
        let columns = if with_columns { kinds::columns::definitions(self.kind) } else { Value::Null };
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{}", self.accepted.version),
            "metadata": metadata,
            "columnDefinitions": columns,
            "rows": rows,
        })
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Value {
        let mut row = kinds::columns::row(self.kind, object, now);
        match self.include {
            IncludeObject::None => row["object"] = Value::Null,
            IncludeObject::Metadata => row["object"] = self.partial(object),
            IncludeObject::Object => row["object"] = self.full(object),
        }
        row
    }

    /// The object behind a row, as this kind's group shows it.
    fn full(&self, object: &Value) -> Value {
        match self.kind.view {
            None => object.clone(),
            Some(_) => parse_stored(&self.view(&object.to_string().into())),
        }
    }

    /// How the events of a watch are shown.
    pub fn show(&self) -> Box<dyn Show> {
        match self.accepted.form {
            Form::Object if self.kind.view.is_none() => Box::new(ShowObjects),
            Form::Object => Box::new(ShowView(self.clone())),
            Form::Table => Box::new(ShowTables { presenter: self.clone(), columns_sent: Default::default() }),
            Form::PartialObjectMetadata | Form::PartialObjectMetadataList => Box::new(ShowMetadata(self.clone())),
        }
    }
}

/// Events as tables; only the first has the column definitions.
struct ShowTables {
    presenter: Presenter,
    columns_sent: std::sync::atomic::AtomicBool,
}

impl ShowTables {
    fn take_columns(&self) -> bool {
        !self.columns_sent.swap(true, std::sync::atomic::Ordering::Relaxed)
    }
}

impl Show for ShowTables {
    fn line(&self, name: &'static str, _event: &CacheEvent, object: &Arc<Object>) -> Bytes {
        let table = self.presenter.table(&object.value(), self.take_columns());
        event_line(name, table.to_string().as_bytes())
    }

    fn bookmark(&self, object: Vec<u8>) -> Bytes {
        let table = self.presenter.table(&parse_stored(&object), self.take_columns());
        event_line("BOOKMARK", table.to_string().as_bytes())
    }
}

struct ShowMetadata(Presenter);

impl Show for ShowMetadata {
    fn line(&self, name: &'static str, _event: &CacheEvent, object: &Arc<Object>) -> Bytes {
        event_line(name, self.0.partial(&object.value()).to_string().as_bytes())
    }

    fn bookmark(&self, object: Vec<u8>) -> Bytes {
        event_line("BOOKMARK", self.0.partial(&parse_stored(&object)).to_string().as_bytes())
    }
}

struct ShowView(Presenter);

impl Show for ShowView {
    fn line(&self, name: &'static str, _event: &CacheEvent, object: &Arc<Object>) -> Bytes {
        event_line(name, &self.0.view(&object.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(warnings: &[String]) -> Vec<String> {
        let mut response = Response::new(full(""));
        warn(&mut response, warnings);
        response.headers().get_all("Warning").iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    }

    #[test]
    fn warnings_are_there_once_and_together_no_longer_than_kubernetes_lets_them() {
        let few = ["a \"b\" \\".to_owned(), "é".to_owned(), "é".to_owned(), String::new(), "c\nd".to_owned()];
        assert_eq!(warned(&few), [r#"299 - "a \"b\" \\""#, "299 - \"é\""]);
        let long = "x".repeat(4000);
        assert_eq!(warned(std::slice::from_ref(&long))[0].len(), 4000 + 8);
        let many: Vec<String> = (0..10_000).map(|at| format!("{at:05}{long}")).collect();
        let cut = warned(&many);
        assert_eq!((cut.len(), cut[0].len()), (16, 256 + 8));
    }
}
