//! Namespaces.

use serde_json::{Value, json};

use crate::cursor::Cursor;
use crate::field::Path;
use crate::names;

use super::check::{self, Errors};
use super::meta::{self, MetaRule};
use super::{Part, Rules};

/// The label with its name that every namespace has.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Keeps a namespace until everything in it is gone.
pub const FINALIZER: &str = "kubernetes";

const META: MetaRule = MetaRule { namespaced: false, name: names::name_is_dns_label };

pub static RULES: NamespaceRules = NamespaceRules;

pub struct NamespaceRules;

impl Rules for NamespaceRules {
    fn default(&self, object: &mut Value) {
        label_with_name(object);
        let status = meta::child(object, "status");
        status.entry("phase").or_insert_with(|| "Active".into());
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"phase": "Active"});
        let finalizers = meta::child(object, "spec").entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = finalizers.as_array_mut().filter(|list| !list.iter().any(|name| name == FINALIZER)) {
            list.push(FINALIZER.into());
        }
    }

    fn validate_create(&self, object: &Value) -> Errors {
        let finalizers = Cursor::root(object).field("spec").field("finalizers");
        let mut errors = meta::validate(object, META);
        // Errors name the list.
        errors.extend(finalizers.items().flat_map(|name| validate_finalizer(&name, finalizers.path())));
        errors
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, part: Part) {
        match part {
            Part::Status => meta::keep(object, old, "spec"),
            Part::Finalize => meta::keep(object, old, "status"),
            _ => {
                meta::keep(object, old, "status");
                let spec = meta::child(object, "spec");
                meta::copy(spec, &old["spec"], "finalizers");
            }
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        if part == Part::Main {
            errors.extend(self.validate_create(object));
        }
        errors.extend(meta::validate_update(object, old));
        match part {
            Part::Status => errors.extend(validate_phase(object)),
            Part::Finalize => {
                let finalizers = Cursor::root(object).field("spec").field("finalizers");
                errors.extend(finalizers.items().flat_map(|name| validate_finalizer(&name, name.path())));
            }
            _ => {}
        }
        errors
    }

    /// A generated name is known only now.
    fn canonicalize(&self, object: &mut Value) {
        label_with_name(object);
    }
}

fn label_with_name(object: &mut Value) {
    let metadata = meta::child(object, "metadata");
    let Some(name) = metadata.get("name").filter(|name| *name != "").cloned() else { return };
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    labels[NAME_LABEL] = name;
}

fn validate_finalizer(name: &Cursor<'_>, blamed: &Path) -> Errors {
    let name = Cursor::at(name.value(), blamed.clone());
    let mut errors = check::named(&name, names::qualified_name);
    let is_standard = matches!(name.str(), FINALIZER | "orphan" | "foregroundDeletion");
    if !name.str().contains('/') && !is_standard {
        errors.push(name.invalid_str("name is neither a standard finalizer name nor is it fully qualified"));
    }
    errors
}

fn validate_phase(object: &Value) -> Errors {
    let namespace = Cursor::root(object);
    let is_deleted = namespace.field("metadata").field("deletionTimestamp").exists();
    let (wanted, when) = if is_deleted { ("Terminating", "is not empty") } else { ("Active", "is empty") };
    let phase = Cursor::at(namespace.field("status").field("phase").value(), Path::new("status").child("Phase"));
    if phase.str() == wanted {
        return Vec::new();
    }
    vec![phase.invalid_str(format!("may only be '{wanted}' if `deletionTimestamp` {when}"))]
}
