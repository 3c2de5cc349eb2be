//! Secrets: ConfigMaps of bytes, with types that promise certain keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::cursor::Cursor;
use crate::field::FieldError;

use super::check::Errors;
use super::configmap::{self, DATA_BYTES_MAX};
use super::meta::{self, NAMESPACED};
use super::{Part, Rules};

pub const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

pub static RULES: SecretRules = SecretRules;

pub struct SecretRules;

impl Rules for SecretRules {
    fn default(&self, object: &mut Value) {
        encode_string_data(object);
        if let Some(object) = object.as_object_mut() {
            object.entry("type").or_insert_with(|| "Opaque".into());
        }
    }

    fn validate_create(&self, object: &Value) -> Errors {
        let secret = Cursor::root(object);
        let data = secret.field("data");
        let mut errors = meta::validate(object, NAMESPACED);
        errors.extend(configmap::validate_keys(&data));
        let bytes: usize = data.entries().map(|(_, value)| configmap::decoded_len(value.str())).sum();
        if bytes > DATA_BYTES_MAX {
            errors.push(data.too_long(DATA_BYTES_MAX));
        }
        errors.extend(validate_type(&secret));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(meta::validate_update(object, old));
        errors.extend(meta::immutable_str(&Cursor::root(object).field("type"), &Cursor::root(old).field("type")));
        errors.extend(configmap::validate_unchanged(object, old, &["data"]));
        errors.extend(self.validate_create(object));
        errors
    }

    fn warnings_create(&self, object: &Value) -> Vec<String> {
        warn_of_key_pair(&Cursor::root(object)).into_iter().collect()
    }

    fn warnings_update(&self, object: &Value, _old: &Value) -> Vec<String> {
        self.warnings_create(object)
    }
}

/// `stringData` is a way to write `data`, never a way to store it.
fn encode_string_data(secret: &mut Value) {
    let Some(Value::Object(texts)) = secret.as_object_mut().and_then(|secret| secret.remove("stringData")) else { return };
    let data = meta::child(secret, "data");
    for (key, text) in texts {
        data.insert(key, STANDARD.encode(text.as_str().unwrap_or_default()).into());
    }
}

fn validate_type(secret: &Cursor<'_>) -> Errors {
    let data = secret.field("data");
    let missing = |key: &str| (!data.key(key).exists()).then(|| data.key(key).required(""));
    match secret.field("type").str() {
        "kubernetes.io/service-account-token" => {
            let name = secret.field("metadata").field("annotations").key(SERVICE_ACCOUNT_NAME);
            name.str().is_empty().then(|| name.required("")).into_iter().collect()
        }
        "kubernetes.io/dockercfg" => validate_json(&data.key(".dockercfg")).into_iter().collect(),
        "kubernetes.io/dockerconfigjson" => validate_json(&data.key(".dockerconfigjson")).into_iter().collect(),
        "kubernetes.io/basic-auth" if missing("username").is_some() && missing("password").is_some() => {
            ["username", "password"].into_iter().filter_map(missing).collect()
        }
        "kubernetes.io/ssh-auth" if data.key("ssh-privatekey").str().is_empty() => {
            vec![data.key("ssh-privatekey").required("")]
        }
        "kubernetes.io/tls" => ["tls.crt", "tls.key"].into_iter().filter_map(missing).collect(),
        _ => Vec::new(),
    }
}

/// The value is not shown: it is secret.
fn validate_json(value: &Cursor<'_>) -> Option<FieldError> {
    if !value.exists() {
        return Some(value.required(""));
    }
    let bytes = STANDARD.decode(value.str()).unwrap_or_default();
    let detail = match serde_json::from_slice(&bytes) {
        Ok(Value::Object(_) | Value::Null) => return None,
        Ok(other) => format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", json_type(&other)),
        Err(error) => crate::document::json_error_of(&bytes).unwrap_or_else(|| error.to_string()),
    };
    Some(value.invalid_value("<secret contents redacted>", detail))
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether certificate and key belong together is not checked, only that there is something like
/// them.
fn warn_of_key_pair(secret: &Cursor<'_>) -> Option<String> {
    if secret.field("type").str() != "kubernetes.io/tls" {
        return None;
    }
    let is_pem = |key: &str| {
        let bytes = STANDARD.decode(secret.field("data").key(key).str()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains("-----BEGIN ")
    };
    let what = match (is_pem("tls.crt"), is_pem("tls.key")) {
        (false, _) => "certificate",
        (true, false) => "key",
        (true, true) => return None,
    };
    Some(format!("tls: failed to find any PEM data in {what} input"))
}
