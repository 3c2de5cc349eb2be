//! `Status`: how the API says what went wrong. One constructor for each reason, with Kubernetes'
//! messages.

use serde_json::{Map, Value, json};

use crate::field::FieldError;

/// A refused request: the HTTP code and the body that says why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// Boxed, because every fallible function returns a Status.
    pub details: Option<Box<Details>>,
}

/// Causes past this number are counted only: an object of a megabyte can have a hundred thousand
/// things wrong.
pub const CAUSES_MAX: usize = 1000;

/// What a [`Status`] is about.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource for most reasons, the kind for Invalid.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// A resource of a group, as messages name it: `daemonsets.apps`.
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct GroupResource<'a> {
    pub group: &'a str,
    pub resource: &'a str,
}

impl std::fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

impl GroupResource<'_> {
    fn details(&self, name: &str) -> Option<Box<Details>> {
        Some(Box::new(Details {
            name: name.to_owned(),
            group: self.group.to_owned(),
            kind: self.resource.to_owned(),
            ..Details::default()
        }))
    }
}

impl Status {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Status {
        Status { code, reason, message: message.into(), details: None }
    }

    pub fn with_details(mut self, details: Details) -> Status {
        self.details = Some(Box::new(details));
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Status {
        Status::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn forbidden(resource: GroupResource<'_>, name: &str, why: &str) -> Status {
        let message = match (resource.resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{resource} is forbidden: {why}"),
            _ => format!("{resource} {name:?} is forbidden: {why}"),
        };
        let details = resource.details(name);
        Status { code: 403, reason: "Forbidden", message, details }
    }

    pub fn not_found(resource: GroupResource<'_>, name: &str) -> Status {
        let details = resource.details(name);
        Status { code: 404, reason: "NotFound", message: format!("{resource} {name:?} not found"), details }
    }

    /// The path names no resource.
    pub fn no_such_resource() -> Status {
        Status::new(404, "NotFound", "the server could not find the requested resource").with_details(Details::default())
    }

    pub fn method_not_allowed() -> Status {
        Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .with_details(Details::default())
    }

    pub fn already_exists(resource: GroupResource<'_>, name: &str) -> Status {
        let details = resource.details(name);
        Status { code: 409, reason: "AlreadyExists", message: format!("{resource} {name:?} already exists"), details }
    }

    pub fn conflict(resource: GroupResource<'_>, name: &str, why: &str) -> Status {
        let details = resource.details(name);
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Status { code: 409, reason: "Conflict", message, details }
    }

    /// A write that was based on an older version of the object.
    pub fn stale(resource: GroupResource<'_>, name: &str) -> Status {
        Status::conflict(resource, name, "the object has been modified; please apply your changes to the latest version and try again")
    }

    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(410, "Expired", message)
    }

    /// `errors` must not be empty. `group` and `kind` are those of the object.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Status {
        let subject = GroupResource { group, resource: kind };
        let (shown, left) = errors.split_at(errors.len().min(CAUSES_MAX));
        let more = (!left.is_empty()).then(|| Cause::more(left.len()));
        let texts = shown.iter().map(FieldError::to_string).chain(more.iter().map(|more| more.message.clone()));
        let message = format!("{subject} {name:?} is invalid: {}", joined(texts));
        let causes = shown.iter().map(|e| Cause { reason: e.cause_reason().to_owned(), message: e.message(), field: e.field.clone() });
        let causes = causes.chain(more.clone()).collect();
        let details = Details { causes, ..*subject.details(name).unwrap_or_default() };
        Status { code: 422, reason: "Invalid", message, details: Some(Box::new(details)) }
    }

    pub fn payload_too_large(message: impl Into<String>) -> Status {
        Status::new(413, "RequestEntityTooLarge", message)
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Status {
        Status::new(415, "UnsupportedMediaType", message)
    }

    pub fn not_acceptable(message: impl Into<String>) -> Status {
        Status::new(406, "NotAcceptable", message)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        Status::new(429, "TooManyRequests", message)
            .with_details(Details { retry_after_seconds: Some(retry_after_seconds), ..Details::default() })
    }

    pub fn internal(message: impl Into<String>) -> Status {
        let message = message.into();
        let cause = Cause { reason: String::new(), message: message.clone(), field: String::new() };
        Status::new(500, "InternalError", format!("Internal error occurred: {message}"))
            .with_details(Details { causes: vec![cause], ..Details::default() })
    }

    /// An error that Kubernetes does not classify: code 500, no reason.
    pub fn unclassified(message: impl Into<String>) -> Status {
        Status::new(500, "", message)
    }

    pub fn service_unavailable(message: impl Into<String>) -> Status {
        Status::new(503, "ServiceUnavailable", message)
    }

    pub fn timeout(message: &str, retry_after_seconds: u32) -> Status {
        Status::new(504, "Timeout", format!("Timeout: {message}"))
            .with_details(Details { retry_after_seconds: Some(retry_after_seconds), ..Details::default() })
    }

    /// The body of the answer.
    pub fn to_value(&self) -> Value {
        let mut body = Map::new();
        body.insert("kind".to_owned(), json!("Status"));
        body.insert("apiVersion".to_owned(), json!("v1"));
        body.insert("metadata".to_owned(), json!({}));
        body.insert("status".to_owned(), json!("Failure"));
        insert_text(&mut body, "message", &self.message);
        insert_text(&mut body, "reason", self.reason);
        if let Some(details) = &self.details {
            body.insert("details".to_owned(), details.to_value());
        }
        body.insert("code".to_owned(), json!(self.code));
        Value::Object(body)
    }
}

impl Details {
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        insert_text(&mut out, "name", &self.name);
        insert_text(&mut out, "group", &self.group);
        insert_text(&mut out, "kind", &self.kind);
        insert_text(&mut out, "uid", &self.uid);
        if !self.causes.is_empty() {
            out.insert("causes".to_owned(), self.causes.iter().map(Cause::to_value).collect());
        }
        if let Some(seconds) = self.retry_after_seconds.filter(|&s| s > 0) {
            out.insert("retryAfterSeconds".to_owned(), json!(seconds));
        }
        Value::Object(out)
    }
}

impl Cause {
    /// Stands for causes that are left out.
    pub fn more(count: usize) -> Cause {
        Cause { reason: String::new(), message: format!("{count} more"), field: String::new() }
    }

    fn to_value(&self) -> Value {
        let mut out = Map::new();
        insert_text(&mut out, "reason", &self.reason);
        insert_text(&mut out, "message", &self.message);
        insert_text(&mut out, "field", &self.field);
        Value::Object(out)
    }
}

fn insert_text(out: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        out.insert(key.to_owned(), Value::from(text));
    }
}

/// Go's aggregate: one text as it is, several in brackets, repeated ones once.
pub fn joined(texts: impl Iterator<Item = String>) -> String {
    let mut seen = std::collections::HashSet::new();
    let unique: Vec<String> = texts.filter(|text| seen.insert(text.clone())).collect();
    match unique.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Path;

    #[test]
    fn more_causes_than_anybody_reads_are_counted() {
        let errors: Vec<FieldError> = (0..CAUSES_MAX + 7).map(|at| FieldError::required(&Path::new("x").index(at), "")).collect();
        let status = Status::invalid("", "Pod", "a", &errors);
        let causes = &status.details.as_ref().unwrap().causes;
        assert_eq!((causes.len(), causes.last().unwrap().message.as_str()), (CAUSES_MAX + 1, "7 more"));
        assert!(status.message.ends_with("x[999]: Required value, 7 more]"), "{}", &status.message[status.message.len() - 60..]);
        let few = Status::invalid("", "Pod", "a", &errors[..1]);
        assert_eq!(few.message, "Pod \"a\" is invalid: x[0]: Required value");
    }
}
