//! ServiceAccounts: the identities of pods.

use serde_json::{Value, json};

use crate::cursor::Cursor;

use super::check::Errors;
use super::meta::{self, NAMESPACED};
use super::{Part, Rules};

const MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

pub static RULES: ServiceAccountRules = ServiceAccountRules;

pub struct ServiceAccountRules;

impl Rules for ServiceAccountRules {
    fn default(&self, _object: &mut Value) {}

    fn prepare_create(&self, object: &mut Value) {
        keep_names_of_secrets(object);
    }

    fn validate_create(&self, object: &Value) -> Errors {
        meta::validate(object, NAMESPACED)
    }

    fn prepare_update(&self, object: &mut Value, _old: &Value, _part: Part) {
        keep_names_of_secrets(object);
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(meta::validate_update(object, old));
        errors.extend(self.validate_create(object));
        errors
    }

    fn warnings_create(&self, object: &Value) -> Vec<String> {
        let annotation = Cursor::root(object).field("metadata").field("annotations").key(MOUNTABLE_SECRETS);
        let text = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets";
        if annotation.exists() { vec![format!("{}: {text}", annotation.path())] } else { Vec::new() }
    }

    fn warnings_update(&self, object: &Value, old: &Value) -> Vec<String> {
        if self.warnings_create(old).is_empty() { self.warnings_create(object) } else { Vec::new() }
    }
}

/// References to secrets are names; what else they may say is dropped.
fn keep_names_of_secrets(object: &mut Value) {
    for secret in object.get_mut("secrets").and_then(Value::as_array_mut).into_iter().flatten() {
        *secret = match secret.get("name") {
            Some(name) => json!({"name": name}),
            None => json!({}),
        };
    }
}
