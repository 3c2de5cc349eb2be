//! Media types: what a request body is, and in which form the client wants its answer.

use http::HeaderMap;
use http::header::ACCEPT;
use kinds::status::Status;

/// How an answer is written.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Encoding {
    Json,
    PrettyJson,
    Yaml,
}

/// What an answer shows of objects.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Form {
    Object,
    Table,
    PartialObjectMetadata,
    PartialObjectMetadataList,
}

/// The answer that a client accepts.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    pub encoding: Encoding,
    pub form: Form,
    /// `meta.k8s.io` version of tables and partial metadata: v1 or v1beta1.
    pub version: String,
}

impl Accepted {
    pub const JSON: Accepted = Accepted { encoding: Encoding::Json, form: Form::Object, version: String::new() };
}

/// The media types of request bodies.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum BodyType {
    Json,
    Yaml,
    Protobuf,
}

const MEDIA_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// A clause of an Accept header.
struct Clause<'a> {
    media_type: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Clause<'a> {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let parameters: Vec<_> = parts.filter_map(|p| p.split_once('=')).collect();
        let quality = parameters.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse().ok()).unwrap_or(1.0);
        Clause { media_type, parameters, quality }
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(k, _)| *k == name).map(|(_, v)| *v)
    }

    fn encoding(&self) -> Option<Encoding> {
        match self.media_type {
            "application/json" if self.parameter("pretty").is_some_and(is_true) => Some(Encoding::PrettyJson),
            "application/json" | "*/*" | "application/*" => Some(Encoding::Json),
            "application/yaml" => Some(Encoding::Yaml),
            _ => None,
        }
    }

    /// None when the clause asks for a form that does not exist.
    fn form(&self) -> Option<(Form, &'a str)> {
        let Some(name) = self.parameter("as") else { return Some((Form::Object, "")) };
        let version = self.parameter("v").unwrap_or_default();
        let known_version = self.parameter("g") == Some("meta.k8s.io") && matches!(version, "v1" | "v1beta1");
        let form = match name {
            "Table" => Form::Table,
            "PartialObjectMetadata" => Form::PartialObjectMetadata,
            "PartialObjectMetadataList" => Form::PartialObjectMetadataList,
            _ => return None,
        };
        known_version.then_some((form, version))
    }
}

fn is_true(text: &str) -> bool {
    !matches!(text, "" | "0" | "false")
}

/// Chooses the form of the answer from the Accept header and the `pretty` parameter.
pub fn accepted(headers: &HeaderMap, pretty: Option<&str>) -> Result<Accepted, Status> {
    let header = headers.get(ACCEPT).and_then(|h| h.to_str().ok()).unwrap_or("");
    let mut accepted = match header.trim() {
        "" => Accepted::JSON,
        text => best_clause(text)?,
    };
    if accepted.encoding == Encoding::Json && pretty.is_some_and(is_true) {
        accepted.encoding = Encoding::PrettyJson;
    }
    Ok(accepted)
}

fn best_clause(header: &str) -> Result<Accepted, Status> {
    let mut clauses: Vec<Clause<'_>> = header.split(',').map(Clause::parse).collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    let mut any_known_media_type = false;
    for clause in &clauses {
        let Some(encoding) = clause.encoding() else { continue };
        if clause.media_type != "application/*" {
            any_known_media_type = true;
        } else {
            // The outermost filter of a Kubernetes server knows no partial wildcard.
            continue;
        }
        if let Some((form, version)) = clause.form() {
            return Ok(Accepted { encoding, form, version: version.to_owned() });
        }
    }
    if any_known_media_type {
        return Err(Status::not_acceptable(format!("only the following media types are accepted: {MEDIA_TYPES}")));
    }
    let message = format!("406: Not Acceptable\n\nAvailable representations: {MEDIA_TYPES}");
    Err(Status::not_acceptable(message).with_details(kinds::status::Details::default()))
}

/// The media type of a request body; none counts as JSON.
pub fn body_type(content_type: Option<&str>) -> Result<BodyType, Status> {
    match content_type.unwrap_or("").split(';').next().unwrap_or("").trim() {
        "" | "application/json" => Ok(BodyType::Json),
        "application/yaml" => Ok(BodyType::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(BodyType::Protobuf),
        _ => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: {MEDIA_TYPES}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> Result<Accepted, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, text.parse().unwrap());
        accepted(&headers, None).map_err(|s| s.code)
    }

    #[test]
    fn kubectl_gets_a_table() {
        let accepted = accept("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").unwrap();
        assert_eq!((accepted.form, accepted.version.as_str()), (Form::Table, "v1"));
    }

    #[test]
    fn unknown_forms_fall_through_to_the_next_clause() {
        assert_eq!(accept("application/json;as=Nope;v=v1;g=meta.k8s.io,application/json").unwrap().form, Form::Object);
        assert_eq!(accept("application/json;as=Nope;v=v1;g=meta.k8s.io"), Err(406));
        assert_eq!(accept("application/vnd.kubernetes.protobuf,application/json").unwrap(), Accepted::JSON);
        assert_eq!(accept("application/xml"), Err(406));
        assert_eq!(accept("application/*"), Err(406));
    }
}
