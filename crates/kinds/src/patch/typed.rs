//! Objects as server-side apply sees them: which values are owned as a whole, which field by field,
//! and what identifies list elements. Includes the check of an applied configuration and the set of
//! the fields that an object has.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::field_set::{self, FieldSet, Nodes, element_text};
use super::go_text;
use crate::schema::{Field, ListKind, Shape, Type, TypeId, schema};

/// How a value is owned.
#[derive(Debug, Copy, Clone)]
pub enum Atom {
    /// As a whole.
    Leaf,
    Struct(&'static Type),
    /// Key by key; the shape is that of the values.
    Map(&'static Shape),
    /// A list of scalars, owned value by value.
    Set,
    /// A list of structs, identified by keys.
    Keyed(&'static [&'static str], &'static Type),
}

impl Atom {
    pub fn of_type(id: TypeId) -> Atom {
        Atom::Struct(schema().get(id))
    }

    fn of_field(field: &'static Field) -> Atom {
        match (&field.shape, &field.list) {
            (Shape::List(item), ListKind::Map(keys)) => match **item {
                Shape::Struct(id) => Atom::Keyed(keys, schema().get(id)),
                _ => Atom::Leaf,
            },
            (Shape::List(_), ListKind::Set) => Atom::Set,
            (Shape::List(_), ListKind::Atomic) => Atom::Leaf,
            _ if field.map_atomic => Atom::Leaf,
            (shape, _) => Atom::of_shape(shape),
        }
    }

    fn of_shape(shape: &'static Shape) -> Atom {
        match shape {
            Shape::Struct(id) if !schema().get(*id).atomic => Atom::Struct(schema().get(*id)),
            Shape::Map(value) => Atom::Map(value),
            _ => Atom::Leaf,
        }
    }

    /// The child of that name in a struct or map; None for a field that is not declared.
    pub fn child(self, name: &str) -> Option<Atom> {
        match self {
            Atom::Struct(of) => of.field(name).map(Atom::of_field),
            Atom::Map(value) => Some(Atom::of_shape(value)),
            _ => None,
        }
    }

    /// An element of a list that is not owned as a whole.
    pub fn item(self) -> Atom {
        match self {
            Atom::Keyed(_, of) if !of.atomic => Atom::Struct(of),
            _ => Atom::Leaf,
        }
    }
}

/// The path element of a list's element.
pub fn item_element(item: &Value, list: Atom) -> Result<String, String> {
    match (list, item) {
        (Atom::Keyed(keys, of), Value::Object(fields)) => key_element(fields, keys, of),
        (Atom::Keyed(..), Value::Null) => Err("associative list with keys may not have a null element".to_owned()),
        (Atom::Keyed(..), _) => Err("associative list with keys may not have non-map elements".to_owned()),
        (_, Value::Object(_)) => Err("associative list without keys has an element that's a map type".to_owned()),
        (_, Value::Array(_)) => Err("not supported: associative list with lists as elements".to_owned()),
        (_, Value::Null) => Err("associative list without keys has an element that's an explicit null".to_owned()),
        (_, scalar) => Ok(format!("v:{scalar}")),
    }
}

fn key_element(fields: &Map<String, Value>, keys: &[&'static str], of: &Type) -> Result<String, String> {
    let mut parts: Vec<(&str, Cow<'_, Value>)> = Vec::with_capacity(keys.len());
    for &name in keys {
        let default = || of.field(name).and_then(key_default).map(Cow::Owned);
        let Some(value) = fields.get(name).map(Cow::Borrowed).or_else(default) else {
            return Err(format!(
                "associative list with keys has an element that omits key field {name:?} (and doesn't have default value)"
            ));
        };
        parts.push((name, value));
    }
    parts.sort_unstable_by_key(|(name, _)| *name);
    let mut element = String::from("k:{");
    for (at, (name, value)) in parts.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        write!(element, "{comma}\"{name}\":{value}").expect("writing to a String cannot fail");
    }
    element.push('}');
    Ok(element)
}

/// What stands for a key that an element leaves out: the default that the schema declares, or the
/// zero value that Go always writes.
fn key_default(field: &Field) -> Option<Value> {
    let declared = field.key_default.map(Value::from);
    declared.or_else(|| (field.emits_zero() && !field.pointer).then(|| crate::decode::zero(&field.shape, false)))
}

/// Every field and item that the object mentions.
pub fn field_set(object: &Value, atom: Atom) -> FieldSet {
    FieldSet::trusted(Value::Object(collect(object, atom, false).unwrap_or_default()))
}

/// The node of a place; None where the value mentions nothing. `is_member` says that the place
/// itself is mentioned.
fn collect(value: &Value, atom: Atom, is_member: bool) -> Option<Map<String, Value>> {
    let mut node = Map::new();
    match (atom, value) {
        (Atom::Struct(_) | Atom::Map(_), Value::Object(fields)) => {
            for (name, value) in fields {
                let Some(child) = atom.child(name) else { continue };
                let is_empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if let Some(below) = collect(value, child, is_empty || matches!(atom, Atom::Map(_))) {
                    node.insert(format!("f:{name}"), Value::Object(below));
                }
            }
        }
        (Atom::Set | Atom::Keyed(..), Value::Array(items)) => node = collect_items(items, atom),
        _ => {}
    }
    let is_member = is_member || matches!(atom, Atom::Leaf);
    if is_member {
        field_set::make_member(&mut node);
    }
    (is_member || !node.is_empty()).then_some(node)
}

fn collect_items(items: &[Value], list: Atom) -> Map<String, Value> {
    let elements: Vec<String> = items.iter().map(|item| item_element(item, list).unwrap_or_default()).collect();
    let mut counts: HashMap<&str, usize> = HashMap::with_capacity(elements.len());
    for element in &elements {
        *counts.entry(element).or_default() += 1;
    }
    let mut node = Map::new();
    for (item, element) in items.iter().zip(&elements).filter(|(_, element)| !element.is_empty()) {
        // Elements that are there twice are owned as a whole.
        let below = if counts[element.as_str()] == 1 { collect(item, list.item(), true) } else { None };
        node.insert(element.clone(), Value::Object(below.unwrap_or_default()));
    }
    node
}

/// The set with every declared field on the way to a member made a member.
pub fn with_named_fields(set: &FieldSet, atom: Atom) -> FieldSet {
    let mut out = set.clone();
    add_named_fields(out.root_mut(), atom);
    out
}

fn add_named_fields(node: &mut Map<String, Value>, atom: Atom) {
    for (element, below) in node.iter_mut().filter(|(element, _)| !field_set::is_mark(element)) {
        let Value::Object(below) = below else { continue };
        let child = match (element.strip_prefix("f:"), atom) {
            (Some(name), Atom::Struct(_) | Atom::Map(_)) => atom.child(name).unwrap_or(Atom::Leaf),
            _ => atom.item(),
        };
        add_named_fields(below, child);
        if matches!(atom, Atom::Struct(of) if element.strip_prefix("f:").is_some_and(|name| of.field(name).is_some())) {
            field_set::make_member(below);
        }
    }
}

/// The value without what is in the set. What becomes empty becomes null.
pub fn without(value: &Value, gone: Nodes<'_>, atom: Atom) -> Value {
    match (atom, value) {
        (Atom::Struct(_) | Atom::Map(_), Value::Object(fields)) => {
            let mut kept = Map::new();
            for (name, value) in fields {
                let element = format!("f:{name}");
                if gone.is_member(&element) {
                    continue;
                }
                let kept_value = match gone.below(&element) {
                    Some(below) => without(value, below, atom.child(name).unwrap_or(Atom::Leaf)),
                    None => value.clone(),
                };
                kept.insert(name.clone(), kept_value);
            }
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        (Atom::Set | Atom::Keyed(..), Value::Array(items)) => {
            let kept: Vec<Value> = items.iter().filter_map(|item| item_without(item, gone, atom)).collect();
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        (Atom::Leaf, Value::Object(_) | Value::Array(_)) => Value::Null,
        _ => value.clone(),
    }
}

fn item_without(item: &Value, gone: Nodes<'_>, list: Atom) -> Option<Value> {
    let element = item_element(item, list).unwrap_or_default();
    if gone.is_member(&element) {
        return None;
    }
    Some(match gone.below(&element) {
        Some(below) => without(item, below, list.item()),
        None => item.clone(),
    })
}

/// Everything in a configuration that does not fit its type, in the words of server-side apply.
pub fn check(object: &Value, id: TypeId) -> Result<(), String> {
    let mut errors = Errors::default();
    match object {
        Value::Null => {}
        Value::Object(fields) => check_fields(fields, schema().get(id), At::Root, &mut errors),
        other => errors.push(At::Root, format_args!("expected map, got &{{{}}}", go_text::print(other))),
    }
    match (errors.texts.as_slice(), errors.more) {
        ([], _) => Ok(()),
        ([one], 0) => Err(one.clone()),
        (many, more) => {
            let more = (more > 0).then(|| format!("{more} more"));
            Err(many.iter().chain(&more).fold("errors:".to_owned(), |text, error| text + "\n  " + error))
        }
    }
}

/// What was found. Past so many bytes findings are counted only: each repeats the keys on its path.
#[derive(Default)]
struct Errors {
    texts: Vec<String>,
    bytes: usize,
    more: usize,
}

const ERROR_BYTES_MAX: usize = 1 << 20;

impl Errors {
    fn push(&mut self, at: At<'_>, why: std::fmt::Arguments<'_>) {
        if self.bytes > ERROR_BYTES_MAX {
            self.more += 1;
            return;
        }
        let text = if matches!(at, At::Root) { why.to_string() } else { format!("{at}: {why}") };
        self.bytes += text.len();
        self.texts.push(text);
    }
}

/// The way to a value. Only errors write it down: a long key would cost its length for all that is
/// below it.
#[derive(Copy, Clone)]
enum At<'a> {
    Root,
    Field(&'a At<'a>, &'a str),
    Element(&'a At<'a>, &'a str),
}

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            At::Root => Ok(()),
            At::Field(above, name) => write!(f, "{above}.{name}"),
            At::Element(above, element) => write!(f, "{above}{element}"),
        }
    }
}

#[derive(Copy, Clone)]
struct Place {
    shape: &'static Shape,
    list: &'static ListKind,
}

fn check_shape(value: &Value, place: Place, at: At<'_>, errors: &mut Errors) {
    match (place.shape, value) {
        (_, Value::Null) | (Shape::Any, _) => {}
        (Shape::Struct(id), Value::Object(fields)) => check_fields(fields, schema().get(*id), at, errors),
        (Shape::Map(shape), Value::Object(fields)) => {
            for (name, value) in fields {
                check_shape(value, Place { shape, list: &ListKind::Atomic }, At::Field(&at, name), errors);
            }
        }
        (Shape::List(item), Value::Array(items)) => check_items(items, item, place.list, at, errors),
        (Shape::Struct(_) | Shape::Map(_), other) => errors.push(at, format_args!("expected map, got &{{{}}}", go_text::print(other))),
        (Shape::List(_), other) => errors.push(at, format_args!("expected list, got &{{{}}}", go_text::print(other))),
        (Shape::String | Shape::Bytes, Value::String(_)) | (Shape::Bool, Value::Bool(_)) => {}
        (Shape::String | Shape::Bytes, other) => {
            errors.push(at, format_args!("expected string, got &value.valueUnstructured{{Value:{}}}", go_text::print_as_source(other)));
        }
        (Shape::Bool, other) => errors.push(at, format_args!("expected boolean, got &{{{}}}", go_text::print(other))),
        (Shape::Int32 | Shape::Int64 | Shape::Float64, Value::Number(_)) => {}
        (Shape::Int32 | Shape::Int64 | Shape::Float64, other) => {
            errors.push(at, format_args!("expected numeric (int or float), got {}", go_text::type_name(other)));
        }
        (_, Value::Object(_) | Value::Array(_)) => {
            errors.push(at, format_args!("expected any scalar, got &{{{}}}", go_text::print(value)));
        }
        _ => {}
    }
}

fn check_fields(fields: &Map<String, Value>, of: &'static Type, at: At<'_>, errors: &mut Errors) {
    for (name, value) in fields {
        let here = At::Field(&at, name);
        let Some(field) = of.field(name) else {
            errors.push(here, format_args!("field not declared in schema"));
            return;
        };
        check_shape(value, Place { shape: &field.shape, list: &field.list }, here, errors);
    }
}

fn check_items(items: &[Value], shape: &'static Shape, list: &'static ListKind, at: At<'_>, errors: &mut Errors) {
    let mut seen = std::collections::BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let element = match item_place(list, shape).map(|place| item_element(item, place)) {
            None => format!("i:{index}"),
            Some(Ok(element)) => element,
            Some(Err(why)) => {
                errors.push(at, format_args!("element {index}: {why}"));
                return;
            }
        };
        let text = element_text(&element);
        if !seen.insert(element) {
            errors.push(at, format_args!("duplicate entries for key {text}"));
        }
        check_shape(item, Place { shape, list: &ListKind::Atomic }, At::Element(&at, &text), errors);
    }
}

/// What identifies elements; None for atomic lists, by index.
fn item_place(list: &'static ListKind, shape: &'static Shape) -> Option<Atom> {
    match (list, shape) {
        (ListKind::Set, _) => Some(Atom::Set),
        (ListKind::Map(keys), Shape::Struct(id)) => Some(Atom::Keyed(keys, schema().get(*id))),
        _ => None,
    }
}
