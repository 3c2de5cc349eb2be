//! Environment variables and what they, and files of the downward API, take from the pod.

use crate::cursor::Cursor;
use crate::field::{FieldError, Path};
use crate::names;
use crate::rules::check::{self, Errors};

use super::paths;

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const FILE_FIELDS: &[&str] = &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Field paths that can at least be converted; others are no paths at all.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] =
    &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];
const BYTE_DIVISORS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub fn validate(env: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    for variable in env.items() {
        let name = variable.field("name");
        match check::required(&name) {
            Some(error) => errors.push(error),
            None => errors.extend(check::named(&name, names::env_var_name)),
        }
        if variable.field("valueFrom").exists() {
            errors.extend(value_from(&variable));
        }
    }
    errors
}

type Validator = fn(&Cursor<'_>) -> Errors;

const SOURCES: [(&str, Validator); 5] = [
    ("fieldRef", |source| field_ref(source, ENV_FIELDS)),
    ("resourceFieldRef", |source| resource_field_ref(source, Owner::Container)),
    ("configMapKeyRef", key_ref),
    ("secretKeyRef", key_ref),
    ("fileKeyRef", file_key_ref),
];

fn value_from(variable: &Cursor<'_>) -> Errors {
    let from = variable.field("valueFrom");
    let mut errors = Vec::new();
    let mut sources = 0;
    for (name, validate) in SOURCES {
        let source = from.field(name);
        if source.exists() {
            sources += 1;
            errors.extend(validate(&source));
        }
    }
    if sources == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(from.invalid_value("", detail));
    } else if !variable.field("value").str().is_empty() {
        errors.push(from.invalid_value("", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(from.invalid_value("", "may not have more than one field specified at a time"));
    }
    errors
}

/// The string is there and follows a rule.
fn required_name(text: &Cursor<'_>, rule: fn(&str) -> Vec<String>) -> Errors {
    match check::required(text) {
        Some(error) => vec![error],
        None => check::named(text, rule),
    }
}

fn key_ref(source: &Cursor<'_>) -> Errors {
    let mut errors = check::named(&source.field("name"), names::dns1123_subdomain);
    errors.extend(required_name(&source.field("key"), names::config_map_key));
    errors
}

fn file_key_ref(source: &Cursor<'_>) -> Errors {
    let mut errors = required_name(&source.field("key"), names::env_var_name);
    errors.extend(required_name(&source.field("volumeName"), names::dns1123_label));
    let path = source.field("path");
    match check::required(&path) {
        Some(error) => errors.push(error),
        None => errors.extend(paths::local_non_reserved(&path)),
    }
    errors
}

fn field_ref(source: &Cursor<'_>, supported: &[&str]) -> Errors {
    for name in ["apiVersion", "fieldPath"] {
        if let Some(error) = check::required(&source.field(name)) {
            return vec![error];
        }
    }
    let (version, field) = (source.field("apiVersion").str(), source.field("fieldPath"));
    if version != "v1" {
        return vec![field.invalid(format!("error converting fieldPath: unsupported pod version: {version}"))];
    }
    if let Some((path, key)) = split_subscript(field.str()) {
        return subscripted_field(source, path, key);
    }
    let path = if field.str() == "spec.host" { "spec.nodeName" } else { field.str() };
    if !KNOWN_FIELDS.contains(&path) {
        return vec![field.invalid(format!("error converting fieldPath: field label not supported: {path}"))];
    }
    if supported.contains(&path) { Vec::new() } else { vec![FieldError::not_supported(field.path(), path, supported)] }
}

fn subscripted_field(source: &Cursor<'_>, path: &str, key: &str) -> Errors {
    let field = source.field("fieldPath");
    let is_annotation = path == "metadata.annotations";
    if !is_annotation && path != "metadata.labels" {
        let detail = format!("error converting fieldPath: field label does not support subscript: {}", field.str());
        return vec![field.invalid(detail)];
    }
    let key = if is_annotation { key.to_lowercase() } else { key.to_owned() };
    names::qualified_name(&key).into_iter().map(|finding| source.invalid_value(key.as_str(), finding)).collect()
}

/// Takes `metadata.labels['app']` apart.
fn split_subscript(text: &str) -> Option<(&str, &str)> {
    let (path, key) = text.strip_suffix("']")?.split_once("['")?;
    (!path.is_empty()).then_some((path, key))
}

/// Whose resources are meant if none is named: files are made for the pod, so there must be a name.
#[derive(Clone, Copy, PartialEq)]
enum Owner {
    Container,
    Pod,
}

fn resource_field_ref(source: &Cursor<'_>, owner: Owner) -> Errors {
    let (container, resource) = (source.field("containerName"), source.field("resource"));
    let is_huge = resource.str().starts_with("requests.hugepages-") || resource.str().starts_with("limits.hugepages-");
    let mut errors = Vec::new();
    if owner == Owner::Pod && container.str().is_empty() {
        errors.push(container.required(""));
    } else if resource.str().is_empty() {
        errors.push(resource.required(""));
    } else if !RESOURCES.contains(&resource.str()) && !is_huge {
        errors.push(resource.not_supported(RESOURCES));
    }
    errors.extend(divisor(&source.field("divisor"), resource.str()));
    errors
}

fn divisor(divisor: &Cursor<'_>, resource: &str) -> Option<FieldError> {
    let amount = check::quantity(divisor);
    let (supported, unit): (&[&str], &str) = match resource {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"], "cpu"),
        "limits.memory" | "requests.memory" => (BYTE_DIVISORS, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (BYTE_DIVISORS, "local ephemeral storage"),
        _ if resource.contains(".hugepages-") => (BYTE_DIVISORS, "hugepages"),
        _ => return None,
    };
    let is_supported = amount.is_zero() || supported.contains(&amount.to_string().as_str());
    let list = if unit == "cpu" { "1m and 1".to_owned() } else { supported.join(", ") };
    (!is_supported).then(|| divisor.invalid_value(resource, format!("only divisor's values {list} are supported with the {unit} resource")))
}

/// A file of the downward API; upstream blames the source, not the item.
pub fn downward_api_file(file: &Cursor<'_>, path: &Path) -> Errors {
    let file = &Cursor::at(file.value(), path.clone());
    let (field, resource) = (file.field("fieldRef"), file.field("resourceFieldRef"));
    let mut errors: Errors = check::required(&file.field("path")).into_iter().collect();
    errors.extend(paths::local_non_reserved(&file.field("path")));
    if field.exists() {
        errors.extend(field_ref(&field, FILE_FIELDS));
        if resource.exists() {
            errors.push(file.invalid_value("resource", "fieldRef and resourceFieldRef can not be specified simultaneously"));
        }
    } else if resource.exists() {
        errors.extend(resource_field_ref(&resource, Owner::Pod));
    } else {
        errors.push(file.required("one of fieldRef and resourceFieldRef is required"));
    }
    errors.extend(paths::file_mode(&file.field("mode")));
    errors
}

/// Errors about the number of sources blame the list.
pub fn validate_from(env_from: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    for entry in env_from.items() {
        errors.extend(check::named_if_set(&entry.field("prefix"), names::env_var_name));
        let sources = ["configMapRef", "secretRef"].map(|name| entry.field(name));
        let set = || sources.iter().filter(|source| source.exists());
        for name in set().map(|source| source.field("name")) {
            match check::required(&name) {
                Some(error) => errors.push(error),
                None => errors.extend(check::findings(&name, names::name_is_dns_subdomain(name.str(), true))),
            }
        }
        match set().count() {
            0 => errors.push(env_from.invalid_value("", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => errors.push(env_from.invalid_value("", "may not have more than one field specified at a time")),
        }
    }
    errors
}
