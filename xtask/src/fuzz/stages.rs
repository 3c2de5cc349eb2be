//! What the server does with a request, without I/O: from bytes to a stored object, from a patch to
//! a changed one, texts of queries.

use std::cell::{Cell, RefCell};

use std::time::Duration;

use jiff::Timestamp;
use kinds::columns;
use kinds::decode::{Decoded, decode, normalize};
use kinds::document::{Node, parse_json};
use kinds::patch::managed_fields;
use kinds::patch::managers::{ManagerEntry, Operation};
use kinds::patch::{self, Findings};
use kinds::quantity::Quantity;
use kinds::rules::Part;
use kinds::selector::{FieldSelector, Selector, node_selector_matches};
use kinds::status::Status;
use kinds::table::Kind;
use kinds::{encode, protobuf, yaml};
use serde_json::{Value, json};

const PARTS: &[Part] = &[Part::Main, Part::Status, Part::EphemeralContainers, Part::Resize, Part::Finalize, Part::Approval];

/// Where a case is, for the report of a panic.
#[derive(Default)]
pub struct Trace {
    pub stage: Cell<&'static str>,
    pub subject: RefCell<String>,
    pub input: RefCell<Vec<u8>>,
    /// A case that takes longer is worth a look.
    pub slow: Cell<Duration>,
}

impl Trace {
    pub fn begin(&self, subject: String, input: &[u8]) {
        self.stage.set("begin");
        *self.subject.borrow_mut() = subject;
        *self.input.borrow_mut() = input.to_vec();
    }
}

#[derive(Debug, Copy, Clone, PartialEq)]
pub enum Format {
    Json,
    Yaml,
    Protobuf,
}

#[derive(Debug, Copy, Clone, PartialEq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// A body to the tree of an object, in its stored form.
fn read(kind: &'static Kind, format: Format, body: &[u8], trace: &Trace) -> Option<Value> {
    trace.stage.set("parse");
    let node: Node = match format {
        Format::Json => parse_json(body).ok()?,
        Format::Yaml => yaml::parse(std::str::from_utf8(body).ok()?).ok()?.0,
        Format::Protobuf => protobuf::parse(body, kind.type_id()).ok()?,
    };
    trace.stage.set("decode");
    let Decoded { value, .. } = decode(node, kind.type_id()).ok()?;
    Some(stored_form(kind, value))
}

fn stored_form(kind: &Kind, object: Value) -> Value {
    kind.view.map_or_else(|| object.clone(), |view| (view.to_stored)(object.clone()))
}

/// A body to a stored object, as POST does it. None: refused.
pub fn create(kind: &'static Kind, format: Format, body: &[u8], trace: &Trace) -> Option<Value> {
    let mut object = read(kind, format, body, trace)?;
    trace.stage.set("default");
    kind.rules.default(&mut object);
    place(kind, &mut object);
    trace.stage.set("managed fields");
    managed_fields::record_update(kind, None, &mut object, &manager(kind, Operation::Update, ""));
    trace.stage.set("prepare_create");
    kind.rules.prepare_create(&mut object);
    trace.stage.set("normalize");
    let mut object = normalize(object, kind.stored().type_id()).ok()?;
    trace.stage.set("validate_create");
    let errors = kind.rules.validate_create(&object);
    trace.stage.set("show");
    if !errors.is_empty() {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        Status::invalid(kind.group, kind.kind, name, &errors).to_value();
        return None;
    }
    trace.stage.set("canonicalize");
    kind.rules.canonicalize(&mut object);
    trace.stage.set("warnings_create");
    kind.rules.warnings_create(&object);
    show(kind, &object, trace);
    Some(object)
}

/// What reading the object makes of it: bytes, a table, the values of field selectors, YAML, the
/// form of another group.
fn show(kind: &'static Kind, object: &Value, trace: &Trace) {
    trace.stage.set("encode");
    let stored = kind.stored();
    let encoded = encode::encode_to_store(&stored.api_version(), stored.kind, object);
    let mut bytes = encoded.bytes;
    bytes.splice(encoded.revision_at..encoded.revision_at, *b"42");
    let again: Value = serde_json::from_slice(&bytes).expect("an encoded object is JSON");
    assert_eq!(again["metadata"]["resourceVersion"], "42", "the place of the resourceVersion is another");
    trace.stage.set("columns");
    columns::definitions(kind);
    columns::row(kind, &again, Timestamp::UNIX_EPOCH);
    columns::row(kind, &again, Timestamp::MAX);
    trace.stage.set("field values");
    if let kinds::table::Selectable::Fields(fields) = kind.selectable {
        for field in fields {
            kind.field_value(&again, field);
        }
    }
    trace.stage.set("yaml");
    let text = yaml::write(&again);
    if let Err(error) = yaml::parse(&text) {
        panic!("what yaml::write wrote does not parse: {}", error.0);
    }
    trace.stage.set("view");
    if let Some(view) = kind.view {
        (view.from_stored)(again);
    }
}

fn place(kind: &Kind, object: &mut Value) {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
    object["metadata"]["creationTimestamp"] = "2026-01-02T03:04:05Z".into();
    if kind.namespaced {
        object["metadata"]["namespace"] = "d".into();
    }
}

fn manager(kind: &Kind, operation: Operation, subresource: &str) -> ManagerEntry {
    ManagerEntry {
        manager: "fuzz".to_owned(),
        operation,
        api_version: kind.api_version(),
        subresource: subresource.to_owned(),
        time: "2026-01-02T03:04:05Z".to_owned(),
    }
}

/// Replaces `old`, as PUT does it.
pub fn replace(kind: &'static Kind, old: &Value, format: Format, body: &[u8], part: Part, trace: &Trace) {
    let Some(mut object) = read(kind, format, body, trace) else { return };
    trace.stage.set("default");
    kind.rules.default(&mut object);
    place(kind, &mut object);
    change(kind, old, object, part, trace);
}

/// Patches `old`, as PATCH does it.
pub fn patch(kind: &'static Kind, old: &Value, patch_type: PatchType, body: &[u8], part: Part, trace: &Trace) {
    let viewed = kind.view.map_or_else(|| old.clone(), |view| (view.from_stored)(old.clone()));
    trace.stage.set("patch");
    let patched = match patch_type {
        PatchType::Json => patch::json::apply(&viewed, body, Findings::Listed),
        PatchType::Merge => patch::merge::apply(&viewed, body, Findings::Listed),
        PatchType::Strategic => patch::strategic::apply(&viewed, body, kind.type_id(), Findings::Listed),
        PatchType::Apply => return apply(kind, old, body, part, trace),
    };
    let Ok(patched) = patched else { return };
    trace.stage.set("decode");
    let object = match decode(patched.document.clone().into(), kind.type_id()) {
        Ok(Decoded { value, .. }) => stored_form(kind, value),
        Err(error) => {
            trace.stage.set("misfit");
            patched.unfit(&patched.misfit(&error.0, kind.type_id()), kind.type_id()).to_value();
            return;
        }
    };
    let mut object = object;
    trace.stage.set("default");
    kind.rules.default(&mut object);
    place(kind, &mut object);
    change(kind, old, object, part, trace);
}

/// Server-side apply, twice: the second time by another manager and with force, on what the first
/// made of it.
fn apply(kind: &'static Kind, old: &Value, body: &[u8], part: Part, trace: &Trace) {
    trace.stage.set("parse_config");
    let Ok(config) = patch::apply::parse_config(kind, body, kind.kind) else { return };
    trace.stage.set("apply to nothing");
    let entry = manager(kind, Operation::Apply, "");
    if let Ok(mut object) = patch::apply::apply(kind, None, &config.object, &entry, false) {
        trace.stage.set("default");
        kind.rules.default(&mut object);
    }
    trace.stage.set("apply");
    let Ok(mut object) = patch::apply::apply(kind, Some(old), &config.object, &entry, true) else { return };
    trace.stage.set("default");
    kind.rules.default(&mut object);
    place(kind, &mut object);
    trace.stage.set("apply again");
    let other = ManagerEntry { manager: "other".to_owned(), ..entry };
    // A conflict is an answer like others.
    let _ = patch::apply::apply(kind, Some(&object), &config.object, &other, false);
    change(kind, old, object, part, trace);
}

/// The common end of all updates.
fn change(kind: &'static Kind, old: &Value, mut object: Value, part: Part, trace: &Trace) {
    trace.stage.set("managed fields");
    managed_fields::record_update(kind, Some(old), &mut object, &manager(kind, Operation::Update, ""));
    trace.stage.set("prepare_update");
    kind.rules.prepare_update(&mut object, old, part);
    trace.stage.set("normalize");
    let Ok(mut object) = normalize(object, kind.stored().type_id()) else { return };
    trace.stage.set("validate_update");
    let errors = kind.rules.validate_update(&object, old, part);
    if !errors.is_empty() {
        trace.stage.set("show");
        Status::invalid(kind.group, kind.kind, "a", &errors).to_value();
        return;
    }
    trace.stage.set("canonicalize");
    kind.rules.canonicalize(&mut object);
    trace.stage.set("warnings_update");
    kind.rules.warnings_update(&object, old);
    trace.stage.set("keep times");
    managed_fields::keep_times_if_unchanged(&mut object, old);
    show(kind, &object, trace);
}

/// The parts of an object of this kind that requests can write.
pub fn parts_of(kind: &Kind) -> Vec<Part> {
    let name_of = |part: &Part| match part {
        Part::Main => "",
        Part::Status => "status",
        Part::EphemeralContainers => "ephemeralcontainers",
        Part::Resize => "resize",
        Part::Finalize => "finalize",
        Part::Approval => "approval",
    };
    PARTS.iter().filter(|part| **part == Part::Main || kind.subresource(name_of(part)).is_some()).copied().collect()
}

/// Selectors as they stand in queries and, as trees, in objects.
pub fn selector(text: &str, tree: &Value, trace: &Trace) {
    trace.stage.set("label selector");
    let labels = json!({"metadata": {"name": "n", "labels": {"a": "b", "b": "1"}}});
    if let Ok(selector) = Selector::parse(text) {
        selector.matches_labels_of(&labels);
        let shown = selector.to_string();
        Selector::parse(&shown).unwrap_or_else(|e| panic!("the selector shows as {shown:?}, which does not parse: {e}"));
    }
    trace.stage.set("field selector");
    if let Ok(selector) = FieldSelector::parse(text) {
        selector.matches(|field| field.to_owned());
    }
    trace.stage.set("selector in an object");
    if let Ok(selector) = Selector::from_object(Some(tree)) {
        selector.matches_labels_of(&labels);
    }
    trace.stage.set("node selector");
    node_selector_matches(tree, &labels);
}

/// Quantities and what is calculated with them.
pub fn quantity(text: &str, other: &str, trace: &Trace) {
    trace.stage.set("quantity");
    let (Ok(a), Ok(b)) = (Quantity::parse(text), Quantity::parse(other)) else { return };
    for quantity in [a.add(&b), a.sub(&b), a.round_up_to_milli()] {
        std::hint::black_box((quantity.value(), quantity.millis(), quantity.is_whole(), quantity.is_multiple_of(2 << 20)));
        let shown = quantity.to_string();
        assert!(Quantity::parse(&shown).is_ok(), "{text:?} and {other:?} give {shown:?}, which is no quantity");
    }
    let shown = a.to_string();
    assert!(Quantity::parse(&shown).is_ok_and(|again| again == a), "{text:?} is shown as {shown:?}, which reads as another");
}
