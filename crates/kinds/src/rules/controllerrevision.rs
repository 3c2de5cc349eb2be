//! ControllerRevisions: versions of a template that can be gone back to.
//!
//! Known difference: Kubernetes compares the bytes of `data`, so that a PATCH of data that was
//! created with blanks in it is refused; here trees are compared.

use serde_json::Value;

use crate::cursor::Cursor;

use super::check::Errors;
use super::meta::{self, NAMESPACED};
use super::{Part, Rules};

pub static RULES: ControllerRevisionRules = ControllerRevisionRules;

pub struct ControllerRevisionRules;

impl Rules for ControllerRevisionRules {
    fn default(&self, _object: &mut Value) {}

    fn validate_create(&self, object: &Value) -> Errors {
        let data = Cursor::root(object).field("data");
        let mut errors = meta::validate(object, NAMESPACED);
        if !data.exists() {
            errors.push(data.required("data is mandatory"));
        }
        errors.extend(meta::non_negative(&Cursor::root(object).field("revision")));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(meta::validate_update(object, old));
        errors.extend(self.validate_create(object));
        errors.extend(meta::immutable(&Cursor::root(object).field("data"), &Cursor::root(old).field("data")));
        errors
    }
}
