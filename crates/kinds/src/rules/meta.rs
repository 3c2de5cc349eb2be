//! The rules of `metadata`, the same for all kinds but for the name.
//!
//! A new object is checked by its kind ([`validate`]); a changed one first generally
//! ([`validate_update_generally`], with which every `validate_update` starts) and then by its kind
//! again, so that a bad label of a changed object is reported two to four times, as Kubernetes
//! does.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::cursor::Cursor;
use crate::field::{BadValue, FieldError, Path, go_quote};
use crate::names::{self, NameRule};

const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
const FIELD_MANAGER_BYTES_MAX: usize = 128;
const SUBRESOURCE_BYTES_MAX: usize = 256;

const FINALIZER_ORPHAN: &str = "orphan";
const FINALIZER_FOREGROUND: &str = "foregroundDeletion";

pub const FIELD_IMMUTABLE: &str = "field is immutable";
pub const MUST_NOT_BE_NEGATIVE: &str = "must be greater than or equal to 0";

/// What is particular to a kind's metadata.
#[derive(Clone, Copy)]
pub struct MetaRule {
    pub namespaced: bool,
    pub name: NameRule,
}

pub const NAMESPACED: MetaRule = MetaRule { namespaced: true, name: names::name_is_dns_subdomain };
pub const CLUSTER_WIDE: MetaRule = MetaRule { namespaced: false, name: names::name_is_dns_subdomain };

/// The kind's own check of `metadata`, for new objects and for those updates whose kind checks
/// everything again.
pub fn validate(object: &Value, rule: MetaRule) -> Vec<FieldError> {
    let meta = Cursor::root(object).field("metadata");
    let mut errors = validate_without_finalizer_names(&meta, rule);
    errors.extend(validate_finalizer_names(&meta));
    errors
}

/// [`validate`] as kinds outside the core and apps groups do it: finalizers need no domain.
pub fn validate_leniently(object: &Value, rule: MetaRule) -> Vec<FieldError> {
    validate_without_finalizer_names(&Cursor::root(object).field("metadata"), rule)
}

/// What every new object is checked for after its kind has found nothing, if the kind does not look
/// at `metadata` itself.
pub fn validate_generally(object: &Value, namespaced: bool) -> Vec<FieldError> {
    validate_leniently(object, MetaRule { namespaced, name: names::name_is_path_segment })
}

/// The kind's own check of a change of `metadata`.
pub fn validate_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = validate_update_leniently(object, old);
    errors.extend(validate_finalizer_names(&Cursor::root(object).field("metadata")));
    errors
}

/// What every update is checked for before its kind is asked.
pub fn validate_update_generally(object: &Value, old: &Value) -> Vec<FieldError> {
    let namespaced = !Cursor::root(old).field("metadata").field("namespace").str().is_empty();
    let mut errors = validate_generally(object, namespaced);
    errors.extend(validate_update_leniently(object, old));
    errors
}

/// [`validate_update`] as kinds outside the core and apps groups do it.
pub fn validate_update_leniently(object: &Value, old: &Value) -> Vec<FieldError> {
    let (new, old) = (Cursor::root(object).field("metadata"), Cursor::root(old).field("metadata"));
    let mut errors = Vec::new();
    if old.field("deletionTimestamp").exists() {
        errors.extend(validate_no_new_finalizers(&new.field("finalizers"), &old.field("finalizers")));
    }
    if new.field("resourceVersion").str().is_empty() {
        errors.push(new.field("resourceVersion").invalid_str("must be specified for an update"));
    }
    let generation = new.field("generation");
    if generation.int_or_zero() < old.field("generation").int_or_zero() {
        errors.push(generation.invalid_value(generation.int_or_zero(), "must not be decremented"));
    }
    errors.extend(["name", "namespace", "uid"].into_iter().filter_map(|name| immutable_str(&new.field(name), &old.field(name))));
    let times = ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];
    errors.extend(times.into_iter().filter_map(|name| immutable(&new.field(name), &old.field(name))));
    errors.extend(validate_labels(&new.field("labels")));
    errors.extend(validate_annotations(&new.field("annotations")));
    errors.extend(validate_owner_references(&new.field("ownerReferences")));
    errors.extend(validate_managed_fields(&new.field("managedFields")));
    errors
}

/// Takes over from `old` what a client need not send, and may not change silently, in an update.
pub fn keep_system_fields(object: &mut Value, old: &Value) {
    let metadata = child(object, "metadata");
    for name in ["uid", "creationTimestamp"] {
        if !metadata.contains_key(name) {
            copy(metadata, &old["metadata"], name);
        }
    }
    copy(metadata, &old["metadata"], "generation");
    if old["metadata"].get("deletionTimestamp").is_some() {
        copy(metadata, &old["metadata"], "deletionTimestamp");
        copy(metadata, &old["metadata"], "deletionGracePeriodSeconds");
    }
}

/// Starts counting: a new object of a kind with generations has the first one.
pub fn start_generation(object: &mut Value) {
    child(object, "metadata").insert("generation".into(), 1.into());
}

/// Counts a change of what is wanted; without one the generation stays.
pub fn count_generation(object: &mut Value, old: &Value, is_changed: bool) {
    let generation = old["metadata"]["generation"].as_i64().unwrap_or_default() + i64::from(is_changed);
    let metadata = child(object, "metadata");
    metadata.insert("generation".into(), generation.into());
    if generation == 0 {
        metadata.remove("generation");
    }
}

/// The map under a key, made if need be.
pub fn child<'a>(object: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let slot = &mut object[name];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("was just made a map")
}

/// Puts a key as it is in `from`, absence included.
pub fn copy(to: &mut Map<String, Value>, from: &Value, name: &str) {
    match (from.get(name), to.get(name)) {
        // Most things are as they were, and looking costs less than copying.
        (Some(value), Some(own)) if own == value => {}
        (Some(value), _) => drop(to.insert(name.to_owned(), value.clone())),
        (None, _) => drop(to.remove(name)),
    }
}

/// [`copy`] for the top level of an object: `spec` or `status` as it was.
pub fn keep(object: &mut Value, old: &Value, name: &str) {
    if let Some(object) = object.as_object_mut() {
        copy(object, old, name);
    }
}

/// Refuses any change of a value; an absent one prints as `null`.
pub fn immutable(new: &Cursor<'_>, old: &Cursor<'_>) -> Option<FieldError> {
    (new.value() != old.value()).then(|| new.invalid(FIELD_IMMUTABLE))
}

/// Refuses any change of a string; an absent one prints as `""`.
pub fn immutable_str(new: &Cursor<'_>, old: &Cursor<'_>) -> Option<FieldError> {
    (new.str() != old.str()).then(|| new.invalid_str(FIELD_IMMUTABLE))
}

/// Refuses a negative number; absent is zero.
pub fn non_negative(number: &Cursor<'_>) -> Option<FieldError> {
    (number.int_or_zero() < 0).then(|| number.invalid(MUST_NOT_BE_NEGATIVE))
}

fn validate_without_finalizer_names(meta: &Cursor<'_>, rule: MetaRule) -> Vec<FieldError> {
    let mut errors = validate_name(meta, rule.name);
    errors.extend(validate_namespace(&meta.field("namespace"), rule.namespaced));
    errors.extend(non_negative(&meta.field("generation")));
    errors.extend(validate_labels(&meta.field("labels")));
    errors.extend(validate_annotations(&meta.field("annotations")));
    errors.extend(validate_owner_references(&meta.field("ownerReferences")));
    errors.extend(validate_finalizers(&meta.field("finalizers")));
    errors.extend(validate_managed_fields(&meta.field("managedFields")));
    errors
}

fn validate_name(meta: &Cursor<'_>, rule: NameRule) -> Vec<FieldError> {
    let (prefix, name) = (meta.field("generateName"), meta.field("name"));
    let mut errors = Vec::new();
    if !prefix.str().is_empty() {
        errors.extend(rule(prefix.str(), true).into_iter().map(|finding| prefix.invalid(finding)));
    }
    if name.str().is_empty() {
        errors.push(name.required("name or generateName is required"));
    } else {
        errors.extend(rule(name.str(), false).into_iter().map(|finding| name.invalid(finding)));
    }
    errors
}

fn validate_namespace(namespace: &Cursor<'_>, namespaced: bool) -> Vec<FieldError> {
    match (namespaced, namespace.str()) {
        (true, "") => vec![namespace.required("")],
        (true, name) => names::dns1123_label(name).into_iter().map(|finding| namespace.invalid(finding)).collect(),
        (false, "") => Vec::new(),
        (false, _) => vec![namespace.forbidden("not allowed on this type")],
    }
}

/// Labels of an object or a template; errors name the whole map.
pub fn validate_labels(labels: &Cursor<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels.entries() {
        errors.extend(names::qualified_name(key).into_iter().map(|finding| labels.invalid_value(key, finding)));
        errors.extend(names::label_value(value.str()).into_iter().map(|finding| labels.invalid_value(value.str(), finding)));
    }
    errors
}

pub fn validate_annotations(annotations: &Cursor<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for (key, value) in annotations.entries() {
        // Upper case is let through in annotation keys, unlike in label keys.
        let findings = names::qualified_name(&key.to_lowercase());
        errors.extend(findings.into_iter().map(|finding| annotations.invalid_value(key, finding)));
        bytes += key.len() + value.str().len();
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(annotations.too_long(ANNOTATIONS_BYTES_MAX));
    }
    errors
}

/// Findings about owners past this number are left out.
const OWNER_FINDINGS_MAX: usize = 20;

fn validate_owner_references(references: &Cursor<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    for reference in references.items() {
        errors.extend(validate_owner_reference(&reference, references.path()));
        if reference.field("controller").is_true() {
            let current = format!("{}/{}", reference.field("kind").str(), reference.field("name").str());
            match &controller {
                // The finding shows the whole list: for each of thousands of references it would be
                // gigabytes.
                Some(_) if errors.len() >= OWNER_FINDINGS_MAX => {}
                Some(first) => errors.push(references.invalid(format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {current}"
                ))),
                None => controller = Some(current),
            }
        }
    }
    errors
}

/// Errors name the list, not the element.
fn validate_owner_reference(reference: &Cursor<'_>, path: &Path) -> Vec<FieldError> {
    let api_version = reference.field("apiVersion").str();
    let version = api_version.rsplit('/').next().unwrap_or_default();
    let mut errors = Vec::new();
    let mut check = |name: &'static str, is_empty: bool, detail: &str| {
        if is_empty {
            errors.push(FieldError::invalid(&path.child(name), reference.field(name).str(), detail));
        }
    };
    // A text with two slashes has no version that Go would read.
    check("apiVersion", version.is_empty() || api_version.matches('/').count() > 1, "version must not be empty");
    for name in ["kind", "name", "uid"] {
        check(name, reference.field(name).str().is_empty(), "must not be empty");
    }
    if (api_version, reference.field("kind").str()) == ("v1", "Event") {
        errors.push(FieldError::invalid(path, reference.value(), "/v1, Kind=Event is disallowed from being an owner"));
    }
    errors
}

fn validate_finalizers(finalizers: &Cursor<'_>) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> = finalizers
        .strs()
        .flat_map(|name| names::qualified_name(name).into_iter().map(move |finding| (name, finding)))
        .map(|(name, finding)| finalizers.invalid_value(name, finding))
        .collect();
    let has = |wanted: &str| finalizers.strs().any(|name| name == wanted);
    if has(FINALIZER_ORPHAN) && has(FINALIZER_FOREGROUND) {
        let detail = format!("finalizer {FINALIZER_ORPHAN} and {FINALIZER_FOREGROUND} cannot be both set");
        errors.push(finalizers.invalid(detail));
    }
    errors
}

fn validate_finalizer_names(meta: &Cursor<'_>) -> Vec<FieldError> {
    let is_standard = |name: &str| matches!(name, "kubernetes" | FINALIZER_ORPHAN | FINALIZER_FOREGROUND);
    let bad = meta.field("finalizers").items().filter(|name| !name.str().contains('/') && !is_standard(name.str()));
    bad.map(|name| name.invalid("name is neither a standard finalizer name nor is it fully qualified")).collect()
}

fn validate_no_new_finalizers(new: &Cursor<'_>, old: &Cursor<'_>) -> Option<FieldError> {
    let before: BTreeSet<&str> = old.strs().collect();
    let extra: BTreeSet<&str> = new.strs().filter(|name| !before.contains(name)).collect();
    let quoted: Vec<String> = extra.iter().map(|name| go_quote(name)).collect();
    (!extra.is_empty()).then(|| {
        let list = quoted.join(", ");
        new.forbidden(format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"))
    })
}

fn validate_managed_fields(entries: &Cursor<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for entry in entries.items() {
        let operation = entry.field("operation");
        if !matches!(operation.str(), "Apply" | "Update") {
            errors.push(operation.invalid_str("must be `Apply` or `Update`"));
        }
        let fields_type = entry.field("fieldsType");
        if !matches!(fields_type.str(), "" | "FieldsV1") {
            errors.push(fields_type.invalid("must be `FieldsV1`"));
        }
        errors.extend(validate_field_manager(entry.field("manager").str(), entry.field("manager").path()));
        if entry.field("subresource").str().len() > SUBRESOURCE_BYTES_MAX {
            errors.push(entry.field("subresource").too_long(SUBRESOURCE_BYTES_MAX));
        }
    }
    errors
}

/// The name of a field manager, from `managedFields` or from a query.
pub fn validate_field_manager(manager: &str, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if manager.len() > FIELD_MANAGER_BYTES_MAX {
        errors.push(FieldError::too_long(path, FIELD_MANAGER_BYTES_MAX));
    }
    if let Some((i, bad)) = manager.char_indices().find(|(_, c)| c.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {i}): should only contain printable characters", bad as u32);
        errors.push(FieldError::invalid(path, BadValue::from(manager), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn show(errors: &[FieldError]) -> String {
        errors.iter().map(|error| format!("{}\n", error.to_string().chars().take(130).collect::<String>())).collect()
    }

    fn check(metadata: Value, expect: Expect) {
        expect.assert_eq(&show(&validate(&json!({"metadata": metadata}), NAMESPACED)));
    }

    fn check_update(new: Value, old: Value, expect: Expect) {
        let (new, old) = (json!({"metadata": new}), json!({"metadata": old}));
        expect.assert_eq(&show(&validate_update(&new, &old)));
    }

    #[test]
    fn names_are_needed_and_checked() {
        check(json!({"namespace": "d"}), expect![["metadata.name: Required value: name or generateName is required\n"]]);
        check(
            json!({"generateName": "A-", "name": "web", "namespace": "a.b"}),
            expect![[r#"
                metadata.generateName: Invalid value: "A-": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-'
                metadata.namespace: Invalid value: "a.b": must not contain dots
            "#]],
        );
    }

    #[test]
    fn owners_and_finalizers() {
        check(
            json!({"name": "a", "namespace": "d", "finalizers": ["nodomain", "orphan", "foregroundDeletion"], "ownerReferences": [
                {"apiVersion": "v1", "kind": "Event", "name": "a", "uid": "u", "controller": true},
                {"apiVersion": "", "kind": "Pod", "name": "b", "controller": true},
            ]}),
            expect![[r#"
                metadata.ownerReferences: Invalid value: {"apiVersion":"v1","controller":true,"kind":"Event","name":"a","uid":"u"}: /v1, Kind=Even
                metadata.ownerReferences.apiVersion: Invalid value: "": version must not be empty
                metadata.ownerReferences.uid: Invalid value: "": must not be empty
                metadata.ownerReferences: Invalid value: [{"apiVersion":"v1","controller":true,"kind":"Event","name":"a","uid":"u"},{"apiVersion":
                metadata.finalizers: Invalid value: ["nodomain","orphan","foregroundDeletion"]: finalizer orphan and foregroundDeletion cannot be 
                metadata.finalizers[0]: Invalid value: "nodomain": name is neither a standard finalizer name nor is it fully qualified
            "#]],
        );
    }

    #[test]
    fn system_fields_do_not_change() {
        check_update(
            json!({"name": "b", "uid": "2", "generation": 1, "finalizers": ["x.io/new"]}),
            json!({"name": "a", "uid": "1", "generation": 2, "deletionTimestamp": "2024-01-01T00:00:00Z"}),
            expect![[r#"
                metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"x.io
                metadata.resourceVersion: Invalid value: "": must be specified for an update
                metadata.generation: Invalid value: 1: must not be decremented
                metadata.name: Invalid value: "b": field is immutable
                metadata.uid: Invalid value: "2": field is immutable
                metadata.deletionTimestamp: Invalid value: null: field is immutable
            "#]],
        );
    }

    #[test]
    fn an_update_keeps_what_the_client_left_out() {
        let mut new = json!({"metadata": {"name": "a", "generation": 9}});
        let old = json!({"metadata": {"name": "a", "uid": "1", "generation": 2, "creationTimestamp": "t"}});
        keep_system_fields(&mut new, &old);
        assert_eq!(new, old);
        count_generation(&mut new, &old, true);
        assert_eq!(new["metadata"]["generation"], 3);
    }
}
