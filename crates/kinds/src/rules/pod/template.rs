//! Pod templates: what controllers make Pods from. Defaults and rules are those of Pods but for
//! what only a Pod has.

use serde_json::Value;

use crate::cursor::Cursor;
use crate::field::Path;
use crate::rules::check::Errors;
use crate::rules::meta;

use super::{annotations, defaults, prepare, spec, volumes, warnings};

/// Fills the template's defaults; limits do not become requests here, nor ports host ports.
pub fn default(template: &mut Value) {
    if let Some(spec) = template.get_mut("spec") {
        defaults::default_spec(spec);
    }
}

/// See [`prepare::drop_disabled`].
pub fn drop_disabled(template: &mut Value) {
    if let Some(spec) = template.get_mut("spec") {
        prepare::drop_disabled(spec);
    }
}

pub fn validate(template: &Cursor<'_>) -> Errors {
    let (metadata, spec) = (template.field("metadata"), template.field("spec"));
    // Upstream names the labels and annotations as if they were not under `metadata`.
    let labels = Cursor::at(metadata.field("labels").value(), template.path().child("labels"));
    let annotations = Cursor::at(metadata.field("annotations").value(), template.path().child("annotations"));
    let mut errors = meta::validate_labels(&labels);
    errors.extend(meta::validate_annotations(&annotations));
    errors.extend(annotations::validate(&annotations, &spec));
    errors.extend(spec::validate(&spec, &volumes::Around { is_pod: false, pod_name: "" }));
    errors.extend(annotations::validate_match_with_fields(&annotations, &spec));
    let ephemeral = spec.field("ephemeralContainers");
    if !ephemeral.is_empty() {
        errors.push(ephemeral.forbidden("ephemeral containers not allowed in pod template"));
    }
    errors
}

/// `path`: where the template is, such as `spec.template`.
pub fn warnings(template: &Value, path: Path) -> Vec<String> {
    warnings::warnings_for_template(template, path)
}
