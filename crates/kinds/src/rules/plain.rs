//! Kinds that have no rules of their own beyond their metadata.

use serde_json::Value;

use super::meta::{self, MetaRule};
use super::{Part, Rules};
use crate::field::FieldError;

pub struct PlainRules(pub MetaRule);

impl Rules for PlainRules {
    fn default(&self, _object: &mut Value) {}

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        meta::validate_leniently(object, self.0)
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Vec<FieldError> {
        meta::validate_update_generally(object, old)
    }
}
