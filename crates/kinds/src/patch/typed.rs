//! Objects as server-side apply sees them: which values are owned as a whole, which field by field, and by what list elements
//! are told apart. Includes the check of an applied configuration and the set of the fields that an object has.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::field_set::{FieldSet, Nodes, element_text};
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
    /// A list of structs, told apart by keys.
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

/// What stands for a key that an element leaves out: the default that the schema declares, or the zero value that Go always writes.
fn key_default(field: &Field) -> Option<Value> {
    let declared = field.key_default.map(Value::from);
    declared.or_else(|| (field.emits_zero() && !field.pointer).then(|| crate::decode::zero(&field.shape, false)))
}

/// Every field and item that the object mentions.
pub fn field_set(object: &Value, atom: Atom) -> FieldSet {
    let mut set = FieldSet::default();
    collect(object, atom, &mut Vec::new(), &mut set);
    set
}

fn collect(value: &Value, atom: Atom, path: &mut Vec<String>, set: &mut FieldSet) {
    match (atom, value) {
        (Atom::Leaf, _) => set.insert(path),
        (Atom::Struct(_) | Atom::Map(_), Value::Object(fields)) => {
            for (name, value) in fields {
                let Some(child) = atom.child(name) else { continue };
                path.push(format!("f:{name}"));
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if empty || matches!(atom, Atom::Map(_)) {
                    set.insert(path);
                }
                collect(value, child, path, set);
                path.pop();
            }
        }
        (Atom::Set | Atom::Keyed(..), Value::Array(items)) => collect_items(items, atom, path, set),
        _ => {}
    }
}

fn collect_items(items: &[Value], list: Atom, path: &mut Vec<String>, set: &mut FieldSet) {
    let elements: Vec<String> = items.iter().map(|item| item_element(item, list).unwrap_or_default()).collect();
    for (item, element) in items.iter().zip(&elements).filter(|(_, element)| !element.is_empty()) {
        path.push(element.clone());
        set.insert(path);
        // Elements that are there twice are owned as a whole.
        if elements.iter().filter(|other| *other == element).count() == 1 {
            collect(item, list.item(), path, set);
        }
        path.pop();
    }
}

/// The set with every declared field on the way to a member made a member.
pub fn with_named_fields(set: &FieldSet, atom: Atom) -> FieldSet {
    let mut out = set.clone();
    add_named_fields(set.nodes(), atom, &mut Vec::new(), &mut out);
    out
}

fn add_named_fields(nodes: Nodes<'_>, atom: Atom, path: &mut Vec<String>, out: &mut FieldSet) {
    for element in nodes.iter() {
        let Some(below) = nodes.below(element) else { continue };
        let child = match (element.strip_prefix("f:"), atom) {
            (Some(name), Atom::Struct(_) | Atom::Map(_)) => atom.child(name).unwrap_or(Atom::Leaf),
            _ => atom.item(),
        };
        path.push(element.to_owned());
        if matches!(atom, Atom::Struct(of) if element.strip_prefix("f:").is_some_and(|name| of.field(name).is_some())) {
            out.insert(path);
        }
        add_named_fields(below, child, path, out);
        path.pop();
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
    let mut errors = Vec::new();
    match object {
        Value::Null => {}
        Value::Object(fields) => check_fields(fields, schema().get(id), "", &mut errors),
        other => errors.push(format!("expected map, got &{{{}}}", go_text::print(other))),
    }
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(many.iter().fold("errors:".to_owned(), |text, error| text + "\n  " + error)),
    }
}

#[derive(Copy, Clone)]
struct Place {
    shape: &'static Shape,
    list: &'static ListKind,
}

fn check_shape(value: &Value, place: Place, path: &str, errors: &mut Vec<String>) {
    let mut report = |why: String| errors.push(if path.is_empty() { why } else { format!("{path}: {why}") });
    match (place.shape, value) {
        (_, Value::Null) | (Shape::Any, _) => {}
        (Shape::Struct(id), Value::Object(fields)) => check_fields(fields, schema().get(*id), path, errors),
        (Shape::Map(shape), Value::Object(fields)) => {
            for (name, value) in fields {
                check_shape(value, Place { shape, list: &ListKind::Atomic }, &format!("{path}.{name}"), errors);
            }
        }
        (Shape::List(item), Value::Array(items)) => check_items(items, item, place.list, path, errors),
        (Shape::Struct(_) | Shape::Map(_), other) => report(format!("expected map, got &{{{}}}", go_text::print(other))),
        (Shape::List(_), other) => report(format!("expected list, got &{{{}}}", go_text::print(other))),
        (Shape::String | Shape::Bytes, Value::String(_)) | (Shape::Bool, Value::Bool(_)) => {}
        (Shape::String | Shape::Bytes, other) => {
            report(format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_text::print_as_source(other)));
        }
        (Shape::Bool, other) => report(format!("expected boolean, got &{{{}}}", go_text::print(other))),
        (Shape::Int32 | Shape::Int64 | Shape::Float64, Value::Number(_)) => {}
        (Shape::Int32 | Shape::Int64 | Shape::Float64, other) => {
            report(format!("expected numeric (int or float), got {}", go_text::type_name(other)));
        }
        (_, Value::Object(_) | Value::Array(_)) => report(format!("expected any scalar, got &{{{}}}", go_text::print(value))),
        _ => {}
    }
}

fn check_fields(fields: &Map<String, Value>, of: &'static Type, path: &str, errors: &mut Vec<String>) {
    for (name, value) in fields {
        let at = format!("{path}.{name}");
        let Some(field) = of.field(name) else {
            errors.push(format!("{at}: field not declared in schema"));
            return;
        };
        check_shape(value, Place { shape: &field.shape, list: &field.list }, &at, errors);
    }
}

fn check_items(items: &[Value], shape: &'static Shape, list: &'static ListKind, path: &str, errors: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    for (at, item) in items.iter().enumerate() {
        let element = match item_place(list, shape).map(|place| item_element(item, place)) {
            None => format!("i:{at}"),
            Some(Ok(element)) => element,
            Some(Err(why)) => {
                errors.push(format!("{path}: element {at}: {why}"));
                return;
            }
        };
        let text = element_text(&element);
        if !seen.insert(element) {
            errors.push(format!("{path}: duplicate entries for key {text}"));
        }
        check_shape(item, Place { shape, list: &ListKind::Atomic }, &format!("{path}{text}"), errors);
    }
}

/// How elements are told apart; None for atomic lists, by index.
fn item_place(list: &'static ListKind, shape: &'static Shape) -> Option<Atom> {
    match (list, shape) {
        (ListKind::Set, _) => Some(Atom::Set),
        (ListKind::Map(keys), Shape::Struct(id)) => Some(Atom::Keyed(keys, schema().get(*id))),
        _ => None,
    }
}
