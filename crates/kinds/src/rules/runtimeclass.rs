//! RuntimeClasses: which of a node's container runtimes runs a pod.

use serde_json::Value;

use crate::cursor::Cursor;
use crate::names;

use super::check::{self, Errors};
use super::meta::{self, CLUSTER_WIDE};
use super::pod::{resources, round_list, tolerations};
use super::{Part, Rules};

pub static RULES: RuntimeClassRules = RuntimeClassRules;

pub struct RuntimeClassRules;

impl Rules for RuntimeClassRules {
    fn default(&self, object: &mut Value) {
        if let Some(overhead) = object.get_mut("overhead").filter(|overhead| overhead.is_object()) {
            round_list(overhead, "podFixed");
        }
    }

    fn validate_create(&self, object: &Value) -> Errors {
        let class = Cursor::root(object);
        let (overhead, scheduling) = (class.field("overhead"), class.field("scheduling"));
        let mut errors = meta::validate_leniently(object, CLUSTER_WIDE);
        errors.extend(check::named(&class.field("handler"), names::dns1123_label));
        if overhead.exists() {
            let amounts = Cursor::at(overhead.field("podFixed").value(), overhead.path().clone());
            errors.extend(resources::validate_overhead(&amounts));
        }
        errors.extend(meta::validate_labels(&scheduling.field("nodeSelector")));
        errors.extend(tolerations::validate(&scheduling.field("tolerations")));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(meta::validate_update_leniently(object, old));
        errors.extend(meta::immutable_str(&Cursor::root(object).field("handler"), &Cursor::root(old).field("handler")));
        errors
    }
}
