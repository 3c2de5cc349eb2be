//! Runs a kind's rules on examples, as the API server would but without admission and storage.

use serde_json::{Value, json};

use super::{Part, meta};
use crate::decode::normalize;
use crate::table::{self, Kind};

/// `Pod` with these fields: named `a`, in a namespace if it is of a kind that has them.
pub fn object(kind: &str, fields: Value) -> Value {
    let mut object = fields;
    let namespaced = table::by_kind(group(kind), kind).expect("the kind is served").namespaced;
    let metadata = meta::child(&mut object, "metadata");
    metadata.entry("name").or_insert_with(|| "a".into());
    if namespaced {
        metadata.entry("namespace").or_insert_with(|| "d".into());
    }
    object
}

fn group(kind: &str) -> &'static str {
    table::KINDS.iter().find(|row| row.kind == kind).map_or("", |row| row.group)
}

fn defaulted(kind: &Kind, mut object: Value) -> Value {
    object = normalize(object, kind.type_id()).expect("the example has the right types");
    kind.rules.default(&mut object);
    object
}

/// The object as it would be stored.
pub fn created(kind: &str, fields: Value) -> Value {
    let row = table::by_kind(group(kind), kind).expect("the kind is served");
    let mut object = defaulted(row, object(kind, fields));
    row.rules.prepare_create(&mut object);
    normalize(object, row.type_id()).expect("defaults have the right types")
}

/// What is wrong with creating it, a line each.
pub fn create(kind: &str, fields: Value) -> String {
    let row = table::by_kind(group(kind), kind).expect("the kind is served");
    let object = created(kind, fields);
    row.rules.validate_create(&object).iter().map(|error| format!("{error}\n")).collect()
}

/// An update of `old`, and what is wrong with it.
pub fn update(kind: &str, old: Value, part: Part, change: impl FnOnce(&mut Value)) -> (Value, String) {
    let row = table::by_kind(group(kind), kind).expect("the kind is served");
    let mut old = created(kind, old);
    old["metadata"]["resourceVersion"] = json!("1");
    let mut new = old.clone();
    change(&mut new);
    let mut new = defaulted(row, new);
    row.rules.prepare_update(&mut new, &old, part);
    let new = normalize(new, row.type_id()).expect("defaults have the right types");
    let errors = row.rules.validate_update(&new, &old, part);
    (new, errors.iter().map(|error| format!("{error}\n")).collect())
}
