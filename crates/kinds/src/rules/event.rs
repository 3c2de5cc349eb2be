//! Events, in their old form (core) and their new one (events.k8s.io).
//!
//! They are stored in the old form and both groups show the same objects; rules and validation see
//! the old form, and errors name its fields, whichever group was asked. The new group is strict,
//! the old one lets nearly everything through.

use serde_json::{Map, Value};

use crate::cursor::Cursor;
use crate::decode::normalize;
use crate::field::{FieldError, Path};
use crate::names;
use crate::schema::schema;
use crate::table::View;

use super::check::{self, Errors};
use super::meta::{self, NAMESPACED};
use super::pod::go;
use super::{Part, Rules};

const SHORT_BYTES_MAX: usize = 128;
const MESSAGE_BYTES_MAX: usize = 1024;
const NAMESPACE_DIFFERS: &str = "does not match event.namespace";
const UNSET: &str = "needs to be unset";

/// Fields whose names differ: the old form's, the new one's.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

pub static RULES: EventRules = EventRules { is_strict: false };
pub static NEW_RULES: EventRules = EventRules { is_strict: true };

/// Stored events as events.k8s.io shows them.
pub const NEW_VIEW: View = View { from_stored: to_new_form, to_stored: to_old_form };

pub struct EventRules {
    is_strict: bool,
}

impl Rules for EventRules {
    fn default(&self, _object: &mut Value) {}

    fn validate_create(&self, object: &Value) -> Errors {
        let event = Cursor::root(object);
        let mut errors = validate_leniently(&event);
        if self.is_strict {
            errors.extend(meta::validate(object, NAMESPACED));
            errors.extend(validate_strictly(&event));
        } else if errors.is_empty() {
            errors = meta::validate_generally(object, true);
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Errors {
        let (new, before) = (Cursor::root(object), Cursor::root(old));
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(validate_leniently(&new));
        if self.is_strict {
            errors.extend(meta::validate_update(object, old));
            errors.extend(validate_unchanged(&new, &before));
        }
        errors
    }
}

fn to_new_form(event: Value) -> Value {
    rename(event, "events.Event", RENAMED.iter().copied())
}

fn to_old_form(event: Value) -> Value {
    rename(event, "Event", RENAMED.iter().map(|(old, new)| (*new, *old)))
}

fn rename(event: Value, form: &str, pairs: impl Iterator<Item = (&'static str, &'static str)>) -> Value {
    let Value::Object(mut fields) = event else { return event };
    let renamed: Map<String, Value> = pairs.filter_map(|(from, to)| Some((to.to_owned(), fields.remove(from)?))).collect();
    fields.extend(renamed);
    let type_id = schema().named(form).expect("types.txt has both forms of events");
    normalize(Value::Object(fields), type_id).expect("only names were changed")
}

/// What both groups check. An event with `eventTime` is of the new kind.
fn validate_leniently(event: &Cursor<'_>) -> Errors {
    let namespace = event.field("metadata").field("namespace").str();
    let about = event.field("involvedObject").field("namespace");
    let is_new = event.field("eventTime").exists();
    let is_misplaced = match (is_new, about.str()) {
        (false, "") => !matches!(namespace, "" | "default"),
        (false, other) => other != namespace,
        (true, "") => !matches!(namespace, "default" | "kube-system"),
        (true, _) => false,
    };
    let mut errors = Vec::new();
    if is_misplaced {
        errors.push(about.invalid_str(NAMESPACE_DIFFERS));
    }
    if is_new {
        errors.extend(validate_reporter(event));
        errors.extend(validate_texts(event));
    }
    let findings = names::dns1123_subdomain(namespace);
    errors.extend(findings.into_iter().map(|finding| FieldError::invalid(&Path::new("namespace"), namespace, finding)));
    errors
}

fn validate_reporter(event: &Cursor<'_>) -> Errors {
    // Errors use the new name of the field.
    let controller = Cursor::at(event.field("reportingComponent").value(), Path::new("reportingController"));
    let mut errors: Errors = check::required(&controller).into_iter().collect();
    errors.extend(check::named(&controller, names::qualified_name));
    errors
}

fn validate_texts(event: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    for (name, bytes_max) in
        [("reportingInstance", SHORT_BYTES_MAX), ("action", SHORT_BYTES_MAX), ("reason", SHORT_BYTES_MAX), ("message", MESSAGE_BYTES_MAX)]
    {
        let text = event.field(name);
        if name != "message" {
            errors.extend(check::required(&text));
        }
        if text.str().len() > bytes_max {
            errors.push(text.invalid_value("", format!("can have at most {bytes_max} characters")));
        }
    }
    errors
}

/// A new event of the new group.
fn validate_strictly(event: &Cursor<'_>) -> Errors {
    let (source, kind) = (event.field("source"), event.field("type"));
    let mut errors = validate_series(&event.field("series"));
    if !event.field("eventTime").exists() {
        errors.push(event.field("eventTime").required(""));
    }
    if !matches!(kind.str(), "Normal" | "Warning") {
        errors.push(kind.invalid_value("", format!("has invalid value: {}", kind.str())));
    }
    let times = ["firstTimestamp", "lastTimestamp"].map(|name| event.field(name));
    errors.extend(times.iter().filter(|time| time.exists()).map(|time| time.invalid_value("", UNSET)));
    if event.field("count").int_or_zero() != 0 {
        errors.push(event.field("count").invalid_value("", UNSET));
    }
    if ["component", "host"].iter().any(|name| !source.field(name).str().is_empty()) {
        errors.push(source.invalid_value("", UNSET));
    }
    errors
}

fn validate_series(series: &Cursor<'_>) -> Errors {
    if !series.exists() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    if series.field("count").int_or_zero() < 2 {
        errors.push(FieldError::invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    if !series.field("lastObservedTime").exists() {
        errors.push(FieldError::required(&Path::new("series.lastObservedTime"), ""));
    }
    errors
}

/// Of an event of the new group only the series may change.
fn validate_unchanged(new: &Cursor<'_>, old: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    if new.field("series").value() != old.field("series").value() {
        errors.extend(validate_series(&new.field("series")));
    }
    let names = [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "reason",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
    ];
    errors.extend(names.into_iter().filter_map(|name| immutable(&new.field(name), &old.field(name), name)));
    errors
}

fn immutable(new: &Cursor<'_>, old: &Cursor<'_>, name: &str) -> Option<FieldError> {
    if new.value() == old.value() {
        return None;
    }
    Some(match name {
        "involvedObject" => new.invalid_value(go::print("ObjectReference", new.value()), meta::FIELD_IMMUTABLE),
        "related" if new.exists() => new.invalid_value(go::print("ObjectReference", new.value()), meta::FIELD_IMMUTABLE),
        "related" => new.invalid_value("null", meta::FIELD_IMMUTABLE),
        "source" => new.invalid_value(go::print("EventSource", new.value()), meta::FIELD_IMMUTABLE),
        "firstTimestamp" | "lastTimestamp" | "eventTime" => new.invalid(meta::FIELD_IMMUTABLE),
        "count" => new.invalid_value(new.int_or_zero(), meta::FIELD_IMMUTABLE),
        "reportingComponent" => FieldError::invalid(&Path::new("reportingController"), new.str(), meta::FIELD_IMMUTABLE),
        _ => new.invalid_str(meta::FIELD_IMMUTABLE),
    })
}
