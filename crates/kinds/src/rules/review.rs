//! Questions that the API server answers and does not store: may a user do something, who is this,
//! a token please.
//!
//! Handlers call the rules of a review's kind: `default`, then `validate_create`; [`bad_request`]
//! are the refusals that Kubernetes gives without naming a field.

use serde_json::{Value, json};

use crate::cursor::Cursor;
use crate::field::{FieldError, Path};

use super::check::Errors;
use super::pod::go;
use super::{Part, Rules};

const TOKEN_SECONDS: i64 = 60 * 60;
const TOKEN_SECONDS_MIN: i64 = 10 * 60;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

/// Reviews without rules: bindings, evictions, metrics, TokenReview, SelfSubjectReview,
/// SelfSubjectRulesReview.
pub static RULES: ReviewRules = ReviewRules { default: |_| (), validate: |_| Vec::new() };

pub static SUBJECT_ACCESS: ReviewRules = ReviewRules { default: |_| (), validate: validate_subject_access };
pub static SELF_SUBJECT_ACCESS: ReviewRules = ReviewRules { default: |_| (), validate: validate_self_subject_access };
pub static LOCAL_SUBJECT_ACCESS: ReviewRules = ReviewRules { default: |_| (), validate: validate_local_subject_access };
pub static TOKEN_REQUEST: ReviewRules = ReviewRules { default: default_token_request, validate: validate_token_request };

pub struct ReviewRules {
    default: fn(&mut Value),
    validate: fn(&Value) -> Errors,
}

impl Rules for ReviewRules {
    fn default(&self, object: &mut Value) {
        (self.default)(object);
    }

    fn validate_create(&self, object: &Value) -> Errors {
        (self.validate)(object)
    }

    /// There is nothing stored that could change.
    fn validate_update(&self, _object: &Value, _old: &Value, _part: Part) -> Errors {
        Vec::new()
    }
}

/// What Kubernetes answers with 400 rather than with findings.
pub fn bad_request(kind: &str, object: &Value) -> Option<&'static str> {
    let spec = Cursor::root(object).field("spec");
    match kind {
        "TokenReview" if spec.field("token").str().is_empty() => Some("token is required for TokenReview in authentication"),
        "SelfSubjectRulesReview" if spec.field("namespace").str().is_empty() => Some("no namespace on request"),
        _ => None,
    }
}

fn validate_subject_access(review: &Value) -> Errors {
    let mut errors = validate_subject(&Cursor::root(review).field("spec"));
    errors.extend(validate_no_metadata(review, "must be empty"));
    errors
}

fn validate_self_subject_access(review: &Value) -> Errors {
    let mut errors = validate_attributes(&Cursor::root(review).field("spec"));
    errors.extend(validate_no_metadata(review, "must be empty"));
    errors
}

/// About one namespace: the one it is posted to.
fn validate_local_subject_access(review: &Value) -> Errors {
    let spec = Cursor::root(review).field("spec");
    let mut errors = validate_subject(&spec);
    let mut without_namespace = review.clone();
    if let Some(metadata) = without_namespace["metadata"].as_object_mut() {
        metadata.remove("namespace");
    }
    errors.extend(validate_no_metadata(&without_namespace, "must be empty except for namespace"));
    let (resource, other) = (spec.field("resourceAttributes"), spec.field("nonResourceAttributes"));
    let namespace = resource.field("namespace").str();
    if resource.exists() && namespace != review["metadata"]["namespace"].as_str().unwrap_or_default() {
        errors.push(FieldError::invalid(&Path::new("spec.resourceAttributes.namespace"), namespace, "must match metadata.namespace"));
    }
    if other.exists() {
        let shown = go::print("NonResourceAttributes", other.value());
        errors.push(FieldError::invalid(&Path::new("spec.nonResourceAttributes"), shown, "disallowed on this kind of request"));
    }
    errors
}

fn validate_subject(spec: &Cursor<'_>) -> Errors {
    let mut errors = validate_attributes(spec);
    let user = spec.field("user");
    if user.str().is_empty() && spec.field("groups").is_empty() {
        errors.push(user.invalid_str("at least one of user or group must be specified"));
    }
    errors
}

/// Exactly one kind of thing is asked about.
fn validate_attributes(spec: &Cursor<'_>) -> Errors {
    let (resource, other) = (spec.field("resourceAttributes"), spec.field("nonResourceAttributes"));
    let mut errors = Vec::new();
    match (resource.exists(), other.exists()) {
        (true, true) => {
            let shown = go::print("NonResourceAttributes", other.value());
            errors.push(other.invalid_value(shown, "cannot be specified in combination with resourceAttributes"));
        }
        (false, false) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            // A pointer to nothing prints as this text.
            errors.push(resource.invalid_value("null", detail));
        }
        _ => {}
    }
    errors.extend(["fieldSelector", "labelSelector"].iter().filter_map(|name| validate_selector(&resource.field(name))));
    errors
}

/// A selector comes raw or taken apart, not both.
fn validate_selector(selector: &Cursor<'_>) -> Option<FieldError> {
    let (raw, requirements) = (selector.field("rawSelector"), selector.field("requirements"));
    match (raw.str().is_empty(), requirements.is_empty()) {
        _ if !selector.exists() => None,
        (false, false) => Some(raw.invalid("may not specified at the same time as requirements")),
        (true, true) => {
            Some(requirements.required(&format!("when {} is specified, requirements or rawSelector is required", selector.path())))
        }
        _ => None,
    }
}

fn validate_no_metadata(review: &Value, detail: &str) -> Option<FieldError> {
    let metadata = Cursor::root(review).field("metadata");
    let is_set = metadata.entries().any(|(name, value)| name != "managedFields" && value.exists());
    is_set.then(|| metadata.invalid(detail))
}

fn default_token_request(request: &mut Value) {
    let spec = super::meta::child(request, "spec");
    if spec.get("expirationSeconds").is_none_or(Value::is_null) {
        spec.insert("expirationSeconds".into(), json!(TOKEN_SECONDS));
    }
}

fn validate_token_request(request: &Value) -> Errors {
    let seconds = Cursor::root(request).field("spec").field("expirationSeconds");
    let mut errors = Vec::new();
    if seconds.int_or_zero() < TOKEN_SECONDS_MIN {
        errors.push(seconds.invalid_value(seconds.int_or_zero(), "may not specify a duration less than 10 minutes"));
    }
    if seconds.int_or_zero() > TOKEN_SECONDS_MAX {
        errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
    }
    errors
}
