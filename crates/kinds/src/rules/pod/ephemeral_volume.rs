//! Generic ephemeral volumes: a volume claim made for the pod.
//!
//! Simplifying assumption: no provisioner runs here, so the claim's template is only checked for
//! form.

use crate::cursor::Cursor;
use crate::field::{FieldError, go_quote};
use crate::names;
use crate::rules::check::{self, Errors};
use crate::rules::meta;

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// Metadata that a claim's template may not have: all but labels and annotations.
const OTHER_METADATA: &[&str] = &["name", "generateName", "namespace", "uid", "ownerReferences", "finalizers"];

pub fn validate(source: &Cursor<'_>, volume: &Cursor<'_>, pod_name: &str) -> Errors {
    let template = source.field("volumeClaimTemplate");
    let mut errors = if template.exists() { validate_template(&template) } else { vec![template.required("")] };
    let name = volume.field("name");
    if !pod_name.is_empty() && !name.str().is_empty() {
        let claim = format!("{pod_name}-{}", name.str());
        let findings = names::dns1123_subdomain(&claim);
        errors.extend(findings.iter().map(|finding| name.invalid(format!("PVC name {}: {finding}", go_quote(&claim)))));
    }
    errors
}

fn validate_template(template: &Cursor<'_>) -> Errors {
    let metadata = template.field("metadata");
    let mut errors = meta::validate_annotations(&metadata.field("annotations"));
    errors.extend(meta::validate_labels(&metadata.field("labels")));
    let others = OTHER_METADATA.iter().map(|name| metadata.field(name)).filter(Cursor::exists);
    errors.extend(others.map(|field| field.forbidden("cannot be set")));
    errors.extend(validate_claim(&template.field("spec")));
    errors
}

fn validate_claim(spec: &Cursor<'_>) -> Errors {
    let modes = spec.field("accessModes");
    let mut errors = Vec::new();
    if modes.is_empty() {
        errors.push(modes.required("at least 1 access mode is required"));
    }
    errors.extend(check::label_selector(&spec.field("selector")));
    let unknown = modes.strs().filter(|mode| !ACCESS_MODES.contains(mode));
    errors.extend(unknown.map(|mode| FieldError::not_supported(modes.path(), mode, ACCESS_MODES)));
    let has = |wanted: bool| modes.strs().any(|mode| ACCESS_MODES.contains(&mode) && (mode == "ReadWriteOncePod") == wanted);
    if has(true) && has(false) {
        errors.push(modes.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
    errors.extend(storage(spec));
    errors.extend(check::named_if_set(&spec.field("storageClassName"), names::dns1123_subdomain));
    errors.extend(check::one_of_if_set(&spec.field("volumeMode"), &["Block", "Filesystem"]));
    let sources = ["dataSource", "dataSourceRef"].map(|name| spec.field(name));
    errors.extend(sources.iter().filter(|source| source.exists()).flat_map(data_source));
    errors.extend(check::named_if_set(&spec.field("volumeAttributesClassName"), names::dns1123_subdomain));
    errors
}

fn storage(spec: &Cursor<'_>) -> Option<FieldError> {
    let request = spec.field("resources").field("requests").key("storage");
    let path = spec.path().child("resources").key("storage");
    let amount = check::quantity(&request);
    if !request.exists() {
        return Some(FieldError::required(&path, ""));
    }
    let is_positive = !amount.is_negative() && !amount.is_zero();
    (!is_positive).then(|| FieldError::invalid(&path, amount.to_string(), "must be greater than zero"))
}

fn data_source(source: &Cursor<'_>) -> Errors {
    let mut errors = check::required_fields(source, &["name", "kind"]);
    let group = source.field("apiGroup");
    if group.str().is_empty() && source.field("kind").str() != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(source.invalid_value(source.field("kind").str(), detail));
    }
    errors.extend(check::named_if_set(&group, names::dns1123_subdomain));
    errors.extend(check::named_if_set(&source.field("namespace"), names::dns1123_label));
    errors
}
