//! ConfigMaps: small files and settings, as text or as bytes.

use serde_json::Value;

use crate::cursor::Cursor;
use crate::field::{FieldError, Path};
use crate::names;

use super::check::Errors;
use super::meta::{self, NAMESPACED};
use super::{Part, Rules};

/// Of all values together; Secrets have the same limit.
pub const DATA_BYTES_MAX: usize = 1024 * 1024;
const FIELD_IMMUTABLE: &str = "field is immutable when `immutable` is set";

pub static RULES: ConfigMapRules = ConfigMapRules;

pub struct ConfigMapRules;

impl Rules for ConfigMapRules {
    fn default(&self, _object: &mut Value) {}

    fn validate_create(&self, object: &Value) -> Errors {
        let mut errors = meta::validate(object, NAMESPACED);
        errors.extend(validate_data(&Cursor::root(object)));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(meta::validate_update(object, old));
        errors.extend(validate_unchanged(object, old, &["data", "binaryData"]));
        errors.extend(self.validate_create(object));
        errors
    }
}

/// What was declared immutable stays so, and as it is.
pub fn validate_unchanged(object: &Value, old: &Value, fields: &[&'static str]) -> Errors {
    let (new, old) = (Cursor::root(object), Cursor::root(old));
    if !old.field("immutable").is_true() {
        return Vec::new();
    }
    let immutable = new.field("immutable");
    let mut errors = Vec::new();
    if !immutable.is_true() {
        errors.push(immutable.forbidden(FIELD_IMMUTABLE));
    }
    let changed = fields.iter().filter(|name| new.field(name).value() != old.field(name).value());
    errors.extend(changed.map(|name| new.field(name).forbidden(FIELD_IMMUTABLE)));
    errors
}

/// The keys of a ConfigMap or Secret.
pub fn validate_keys(data: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    for (key, value) in data.entries() {
        errors.extend(names::config_map_key(key).into_iter().map(|finding| value.invalid_value(key, finding)));
    }
    errors
}

/// The length of what base64 text stands for.
pub fn decoded_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn validate_data(object: &Cursor<'_>) -> Errors {
    let (data, binary) = (object.field("data"), object.field("binaryData"));
    let mut errors = Vec::new();
    for (key, value) in data.entries() {
        errors.extend(names::config_map_key(key).into_iter().map(|finding| value.invalid_value(key, finding)));
        if binary.key(key).exists() {
            errors.push(value.invalid_value(key, "duplicate of key present in binaryData"));
        }
    }
    errors.extend(validate_keys(&binary));
    let text_bytes: usize = data.entries().map(|(_, value)| value.str().len()).sum();
    let binary_bytes: usize = binary.entries().map(|(_, value)| decoded_len(value.str())).sum();
    if text_bytes + binary_bytes > DATA_BYTES_MAX {
        // The object as a whole is too long.
        errors.push(FieldError::too_long(&Path::new(""), DATA_BYTES_MAX));
    }
    errors
}
