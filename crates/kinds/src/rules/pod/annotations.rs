//! Annotations that mean something to Kubernetes: mirror pods, deletion cost, and the predecessors
//! of profile fields.

use std::collections::BTreeSet;

use crate::cursor::Cursor;
use crate::field::{FieldError, Path, go_quote};
use crate::rules::check::Errors;

use super::{all_containers, paths};

pub const MIRROR_POD: &str = "kubernetes.io/config.mirror";
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
pub const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub const SECCOMP_CONTAINER_PREFIX: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub const APP_ARMOR_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
const LOCALHOST_PREFIX: &str = "localhost/";

pub fn validate(annotations: &Cursor<'_>, spec: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    let mirror = annotations.key(MIRROR_POD);
    if mirror.exists() && spec.field("nodeName").str().is_empty() {
        errors.push(mirror.invalid("must set spec.nodeName if mirror pod annotation is set"));
    }
    let cost = annotations.key(DELETION_COST);
    if cost.exists() && !is_cost(cost.str()) {
        errors.push(cost.invalid("must be a 32bit integer"));
    }
    errors.extend(validate_seccomp(annotations));
    errors.extend(validate_app_armor(annotations, spec));
    errors
}

/// A number without plus sign or leading zeros.
fn is_cost(text: &str) -> bool {
    text.parse::<i32>().is_ok_and(|number| number.to_string() == text)
}

fn validate_seccomp(annotations: &Cursor<'_>) -> Errors {
    let is_seccomp = |key: &str| key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER_PREFIX);
    let mut errors = Vec::new();
    for (key, profile) in annotations.entries().filter(|(key, _)| is_seccomp(key)) {
        let text = profile.str();
        match text.strip_prefix(LOCALHOST_PREFIX) {
            Some(path) => errors.extend(validate_local_profile(path, annotations.path(), key)),
            None if matches!(text, "runtime/default" | "docker/default" | "unconfined") => {}
            None => errors.push(as_field(annotations.path(), key, text, "must be a valid seccomp profile")),
        }
    }
    errors
}

fn validate_local_profile(path: &str, annotations: &Path, key: &str) -> Errors {
    let mut errors = Vec::new();
    if path.starts_with('/') {
        errors.push(as_field(annotations, key, path, "must be a relative path"));
    }
    if paths::has_backsteps(path) {
        errors.push(as_field(annotations, key, path, "must not contain '..'"));
    }
    errors
}

/// Upstream names the annotation as if it were a field.
fn as_field(annotations: &Path, key: &str, shown: &str, detail: &str) -> FieldError {
    let mut error = FieldError::invalid(annotations, shown, detail);
    error.field = format!("{annotations}.{key}");
    error
}

fn validate_app_armor(annotations: &Cursor<'_>, spec: &Cursor<'_>) -> Errors {
    let containers: BTreeSet<&str> = all_containers(spec).map(|container| container.field("name").str()).collect();
    let mut errors = Vec::new();
    for (key, profile) in annotations.entries() {
        let Some(container) = key.strip_prefix(APP_ARMOR_PREFIX) else { continue };
        if !containers.contains(container) {
            errors.push(profile.invalid_value(container, "container not found"));
        }
        let is_known = matches!(profile.str(), "" | "runtime/default" | "unconfined");
        if !is_known && !profile.str().starts_with(LOCALHOST_PREFIX) {
            errors.push(profile.invalid(format!("invalid AppArmor profile name: {}", go_quote(profile.str()))));
        }
    }
    errors
}

/// Where both an annotation and its successor are there, they say the same.
pub fn validate_match_with_fields(annotations: &Cursor<'_>, spec: &Cursor<'_>) -> Errors {
    let of_pod = spec.field("securityContext").field("seccompProfile");
    let mut errors: Errors = mismatch(&annotations.key(SECCOMP_POD), &of_pod, &of_pod, "seccomp").into_iter().collect();
    for container in all_containers(spec) {
        let profile = container.field("securityContext").field("seccompProfile");
        let annotation = annotations.key(&format!("{SECCOMP_CONTAINER_PREFIX}{}", container.field("name").str()));
        errors.extend(mismatch(&annotation, &profile, &profile, "seccomp"));
    }
    if spec.field("os").field("name").str() != "windows" {
        let of_pod = spec.field("securityContext").field("appArmorProfile");
        for container in all_containers(spec) {
            let own = container.field("securityContext").field("appArmorProfile");
            let annotation = annotations.key(&format!("{APP_ARMOR_PREFIX}{}", container.field("name").str()));
            errors.extend(mismatch(&annotation, if own.exists() { &own } else { &of_pod }, &own, "apparmor"));
        }
    }
    errors
}

/// `blamed` is where the profile would be if the container had its own.
fn mismatch(annotation: &Cursor<'_>, profile: &Cursor<'_>, blamed: &Cursor<'_>, what: &str) -> Option<FieldError> {
    if !annotation.exists() || !profile.exists() {
        return None;
    }
    let local = annotation.str().strip_prefix(LOCALHOST_PREFIX);
    let is_docker_default = what == "seccomp" && annotation.str() == "docker/default";
    let is_same_type = match profile.field("type").str() {
        "Unconfined" => annotation.str() == "unconfined",
        "RuntimeDefault" => annotation.str() == "runtime/default" || is_docker_default,
        "Localhost" => local.is_some(),
        _ => true,
    };
    let path = profile.field("localhostProfile");
    let is_same_path = path.exists() && local == Some(path.str());
    if !is_same_type {
        Some(blamed.field("type").forbidden(format!("{what} type in annotation and field must match")))
    } else if profile.field("type").str() == "Localhost" && !is_same_path {
        Some(blamed.field("localhostProfile").forbidden(format!("{what} profile in annotation and field must match")))
    } else {
        None
    }
}

/// Changes of annotations that a running pod cannot follow.
pub fn validate_update(new: &Cursor<'_>, old: &Cursor<'_>, spec: &Cursor<'_>) -> Errors {
    let changed = old.entries().filter(|(key, value)| new.key(key).value() != value.value());
    let mut errors: Errors = changed.filter_map(|(key, _)| unchangeable(new, key, "remove or update")).collect();
    let added = new.entries().filter(|(key, _)| !old.key(key).exists());
    errors.extend(added.filter_map(|(key, _)| unchangeable(new, key, "add")));
    errors.extend(validate(new, spec));
    errors
}

fn unchangeable(annotations: &Cursor<'_>, key: &str, change: &str) -> Option<FieldError> {
    let what = match key {
        MIRROR_POD => "mirror pod annotation",
        _ if key.starts_with(APP_ARMOR_PREFIX) => "AppArmor annotations",
        _ => return None,
    };
    Some(annotations.key(key).forbidden(format!("may not {change} {what}")))
}
