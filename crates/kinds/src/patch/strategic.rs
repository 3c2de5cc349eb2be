//! Strategic merge patch: a merge patch that knows, from the schema, which lists merge element by
//! element.
//!
//! Directives: `$patch` (replace, delete), `$retainKeys`, `$setElementOrder/FIELD`,
//! `$deleteFromPrimitiveList/FIELD`. The patch is taken apart while it is applied, because error
//! texts show what is left of it.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{Findings, PatchError, Patched, Shown, duplicates, go_text, inapplicable, json_type};
use crate::decode::bytes;
use crate::document::{Node, parse_json, parse_plain};
use crate::schema::{Field, PatchStrategy, Shape, Type, TypeId, schema};
use crate::status::Status;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ELEMENT_ORDER: &str = "$setElementOrder";
const DELETE_FROM_PRIMITIVE_LIST: &str = "$deleteFromPrimitiveList";

/// Structs with the patch strategy "replace"; for the schema that is the same as none, which
/// merges.
const REPLACED_STRUCTS: &[(&str, &str)] = &[("PodDisruptionBudgetSpec", "selector")];

/// Merges `patch` into `current`.
pub fn apply(current: &Value, patch: &[u8], type_id: TypeId, findings: Findings) -> Result<Patched, PatchError> {
    let (mut patch, found) = parse(patch, findings)?;
    let original = current.as_object().cloned().unwrap_or_default();
    let merged = merge_map(original, &mut patch, Scope::Struct(schema().get(type_id)))?;
    let shown = Shown::Patch(Value::Object(patch));
    Ok(Patched { document: Value::Object(merged), findings: found, shown })
}

/// The fields of a patch, and which of them are there twice.
fn parse(patch: &[u8], findings: Findings) -> Result<(Map<String, Value>, Vec<String>), PatchError> {
    if let Some(Value::Object(fields)) = parse_plain(patch) {
        return Ok((fields, Vec::new()));
    }
    let node = parse_json(patch).map_err(|e| Status::bad_request(e.0))?;
    let found = if findings == Findings::Listed { duplicates(&node) } else { Vec::new() };
    match node {
        Node::Null => Ok((Map::new(), found)),
        Node::Object(_) => Ok((into_fields(node), found)),
        other => {
            let why = format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", json_type(&other));
            Err(Status::bad_request(why).into())
        }
    }
}

fn into_fields(node: Node) -> Map<String, Value> {
    match node.into_value() {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The answer to an error that Kubernetes does not classify.
fn failure(message: String) -> PatchError {
    Status::unclassified(message).into()
}

fn malformed(what: &str) -> PatchError {
    Status::bad_request(format!("invalid patch format of {what}")).into()
}

fn no_merge_key(element: &Map<String, Value>, key: &str) -> PatchError {
    failure(format!("map: {} does not contain declared merge key: {key}", print(element)))
}

fn wrong_type(expected: &str, value: &Value) -> PatchError {
    failure(format!("expected a {expected}, but received a {}", go_text::type_name(value)))
}

fn print(fields: &Map<String, Value>) -> String {
    go_text::print(&Value::Object(fields.clone()))
}

/// The type around a field.
#[derive(Debug, Copy, Clone)]
enum Scope {
    Struct(&'static Type),
    /// A map; the shape of its values.
    Map(&'static Shape),
    /// JSON that the API keeps as it is.
    Raw,
}

/// How a field is merged.
#[derive(Debug, Copy, Clone)]
struct Place {
    shape: &'static Shape,
    strategy: &'static PatchStrategy,
}

impl Scope {
    fn of(shape: &'static Shape) -> Scope {
        match shape {
            Shape::Struct(id) => Scope::Struct(schema().get(*id)),
            Shape::Map(value) => Scope::Map(value),
            _ => Scope::Raw,
        }
    }

    /// Is the field a struct that a patch replaces as a whole?
    fn replaces(self, name: &str) -> bool {
        matches!(self, Scope::Struct(of) if REPLACED_STRUCTS.contains(&(of.name, name)))
    }

    fn place(self, name: &str) -> Result<Place, PatchError> {
        let unknown = |of: &str| failure(format!("unable to find api field in struct {of} for the json field {name:?}"));
        match self {
            Scope::Struct(of) => {
                let field: &'static Field = of.field(name).ok_or_else(|| unknown(of.full_name.rsplit('.').next().unwrap_or(of.name)))?;
                Ok(Place { shape: &field.shape, strategy: &field.patch })
            }
            Scope::Map(shape) => Ok(Place { shape, strategy: &PatchStrategy::Replace }),
            Scope::Raw => Err(unknown("RawExtension")),
        }
    }
}

/// Merges `patch` into `original`. What was merged by `$setElementOrder` is taken out of `patch`.
fn merge_map(mut original: Map<String, Value>, patch: &mut Map<String, Value>, scope: Scope) -> Result<Map<String, Value>, PatchError> {
    match patch.get(PATCH) {
        None => {}
        Some(Value::String(directive)) if directive == "replace" => {
            patch.remove(PATCH);
            return Ok(patch.clone());
        }
        Some(Value::String(directive)) if directive == "delete" => return Ok(Map::new()),
        Some(directive) => {
            return Err(failure(format!("unknown patch type: {} in map: {}", go_text::print(directive), print(patch))));
        }
    }
    retain_keys(&mut original, patch)?;
    merge_ordered_lists(&mut original, patch, scope)?;
    for (key, value) in patch.iter_mut() {
        merge_field(&mut original, key, value, scope)?;
    }
    Ok(original)
}

fn merge_field(original: &mut Map<String, Value>, key: &str, value: &mut Value, scope: Scope) -> Result<(), PatchError> {
    let deletes = key.starts_with(DELETE_FROM_PRIMITIVE_LIST);
    let name = if deletes { directive_target(key, DELETE_FROM_PRIMITIVE_LIST).ok_or_else(|| malformed("primitive list"))? } else { key };
    if value.is_null() {
        original.remove(name);
        return Ok(());
    }
    let merged = match (original.remove(name), value) {
        (Some(Value::Object(_)), patch @ Value::Object(_)) if scope.replaces(name) => patch.clone(),
        (Some(Value::Object(current)), Value::Object(patch)) => {
            let place = scope.place(name)?;
            Value::Object(merge_map(current, patch, Scope::of(place.shape))?)
        }
        (Some(Value::Array(current)), Value::Array(patch)) => {
            let place = scope.place(name)?;
            let what = if deletes { ListPatch::Delete } else { ListPatch::Merge };
            Value::Array(merge_list(current, patch, place, what)?)
        }
        (Some(current), value) if go_text::type_name(&current) == go_text::type_name(value) => {
            scope.place(name)?;
            value.clone()
        }
        (_, value) => value.clone(),
    };
    original.insert(name.to_owned(), merged);
    Ok(())
}

fn directive_target<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    key.strip_prefix(prefix)?.strip_prefix('/')
}

/// `$retainKeys`: fields that are not listed are cleared first.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), PatchError> {
    let Some(listed) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(listed) = listed else { return Err(malformed("retainKeys")) };
    let listed: HashSet<&str> = listed.iter().filter_map(Value::as_str).collect();
    let is_listed = |key: &String| listed.contains(key.as_str());
    for (key, value) in patch.iter() {
        let directive = key.starts_with(DELETE_FROM_PRIMITIVE_LIST) || key.starts_with(SET_ELEMENT_ORDER);
        if !value.is_null() && !directive && !is_listed(key) {
            return Err(malformed("retainKeys"));
        }
    }
    original.retain(|key, _| is_listed(key));
    Ok(())
}

/// `$setElementOrder/FIELD`: merges FIELD and brings its elements into that order.
fn merge_ordered_lists(original: &mut Map<String, Value>, patch: &mut Map<String, Value>, scope: Scope) -> Result<(), PatchError> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let order = match patch.remove(&directive) {
            Some(Value::Array(order)) => order,
            other => return Err(wrong_type("[]interface {}", &other.unwrap_or_default())),
        };
        let name = directive_target(&directive, SET_ELEMENT_ORDER).ok_or_else(|| malformed("setElementOrder list"))?;
        let list = |value: Option<&Value>| match value {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items.clone())),
            Some(other) => Err(wrong_type("[]interface {}", other)),
        };
        let (current, changes) = (list(original.get(name))?, list(patch.get(name))?);
        let place = scope.place(name)?;
        let key = place.merge_key();
        check_order(changes.as_deref().unwrap_or_default(), &order, key)?;
        let merged = match (&current, &changes) {
            (None, None) => continue,
            (Some(current), None) => current.clone(),
            (None, Some(changes)) => changes.clone(),
            (Some(current), Some(changes)) => merge_list(current.clone(), &mut changes.clone(), place, ListPatch::Merge)?,
        };
        let current = current.unwrap_or_default();
        element_kind(&[&current, changes.as_deref().unwrap_or_default()])?;
        let (listed, others) = partition(merged, &order, key)?;
        original.insert(name.to_owned(), Value::Array(in_order(listed, others, &order, &current, key)?));
        patch.remove(name);
    }
    Ok(())
}

/// The elements of the patch must come in the order that the directive gives.
fn check_order(changes: &[Value], order: &[Value], key: &str) -> Result<(), PatchError> {
    if changes.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for change in changes.iter().filter(|change| change.get(PATCH).is_none()) {
        loop {
            let Some(next) = wanted.next() else {
                let texts = [changes, order].map(|list| go_text::print(&Value::Array(list.to_vec())));
                return Err(failure(format!(
                    "The order in patch list:\n{}\n doesn't match {SET_ELEMENT_ORDER} list:\n{}\n",
                    texts[0], texts[1]
                )));
            };
            if identity(change, key)? == identity(next, key)? {
                break;
            }
        }
    }
    Ok(())
}

/// What tells an element of a merging list from others.
fn identity<'a>(element: &'a Value, key: &str) -> Result<&'a Value, PatchError> {
    match element {
        _ if key.is_empty() => Ok(element),
        Value::Object(fields) => fields.get(key).ok_or_else(|| no_merge_key(fields, key)),
        other => Err(wrong_type("map[string]interface {}", other)),
    }
}

#[derive(Debug, Copy, Clone, PartialEq)]
enum ListPatch {
    Merge,
    /// The patch lists what goes.
    Delete,
}

impl Place {
    /// Empty for lists of scalars.
    fn merge_key(self) -> &'static str {
        match self.strategy {
            PatchStrategy::MergeByKey { key, .. } => key,
            _ => "",
        }
    }

    fn item_scope(self) -> Scope {
        match self.shape {
            Shape::List(item) => Scope::of(item),
            _ => Scope::Raw,
        }
    }
}

fn merge_list(current: Vec<Value>, patch: &mut [Value], place: Place, what: ListPatch) -> Result<Vec<Value>, PatchError> {
    if *place.strategy == PatchStrategy::Replace {
        return Ok(patch.to_vec());
    }
    if current.is_empty() && patch.is_empty() {
        return Ok(current);
    }
    let key = place.merge_key();
    if element_kind(&[&current, patch])? != "map[string]interface {}" {
        if what == ListPatch::Delete {
            let gone: HashSet<&Value> = patch.iter().collect();
            return Ok(current.into_iter().filter(|item| !gone.contains(item)).collect());
        }
        let mut seen = HashSet::new();
        let merged = current.iter().chain(patch.iter()).filter(|item| seen.insert(*item)).cloned().collect();
        let (listed, others) = partition(merged, patch, key)?;
        return in_order(listed, others, patch, &current, key);
    }
    if key.is_empty() {
        return Err(failure("cannot merge lists without merge key for type string".to_owned()));
    }
    let (current, mut patch) = apply_element_directives(current, patch, key)?;
    let order = patch.clone();
    let merged = merge_elements(current.clone(), &mut patch, key, place.item_scope())?;
    let (listed, others) = partition(merged, &order, key)?;
    in_order(listed, others, &order, &current, key)
}

/// The Go type of the elements, which must be one.
fn element_kind(lists: &[&[Value]]) -> Result<&'static str, PatchError> {
    let mut kind = None;
    for list in lists {
        for item in *list {
            if item.is_array() {
                return Err(inapplicable().into());
            }
            let own = go_text::type_name(item);
            if kind.is_some_and(|kind| kind != own) {
                let text = go_text::print(&lists.iter().map(|list| Value::Array(list.to_vec())).collect());
                return Err(failure(format!("list element types are not identical: {text}")));
            }
            kind = Some(own);
        }
    }
    kind.ok_or_else(|| failure("no elements in any of the given slices".to_owned()))
}

/// Elements with `$patch`: deletes those of that key, or replaces the list. Returns what remains of
/// both lists.
fn apply_element_directives(current: Vec<Value>, patch: &[Value], key: &str) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut gone = HashSet::new();
    let mut changes = Vec::new();
    let mut replace = false;
    for element in patch {
        let Value::Object(fields) = element else { continue };
        match fields.get(PATCH) {
            None => changes.push(element.clone()),
            Some(Value::String(directive)) if directive == "delete" => {
                gone.insert(fields.get(key).ok_or_else(|| no_merge_key(fields, key))?);
            }
            Some(Value::String(directive)) if directive == "replace" => replace = true,
            Some(Value::String(directive)) if directive == "merge" => {
                return Err(failure("merging lists cannot yet be specified in the patch".to_owned()));
            }
            Some(directive) => {
                return Err(failure(format!("unknown patch type: {} in map: {}", go_text::print(directive), print(fields))));
            }
        }
    }
    if replace {
        return Ok((changes, Vec::new()));
    }
    let mut current = current;
    current.retain(|item| !item.get(key).is_some_and(|own| gone.contains(own)));
    Ok((current, changes))
}

fn merge_elements(mut current: Vec<Value>, patch: &mut [Value], key: &str, scope: Scope) -> Result<Vec<Value>, PatchError> {
    let mut places: HashMap<Value, usize> = HashMap::with_capacity(current.len());
    for (at, item) in current.iter().enumerate() {
        if let Some(own) = item.get(key) {
            places.entry(own.clone()).or_insert(at);
        }
    }
    for element in patch {
        let Value::Object(fields) = element else { continue };
        let value = fields.get(key).ok_or_else(|| no_merge_key(fields, key))?.clone();
        match places.get(&value).map(|at| &mut current[*at]) {
            Some(Value::Object(own)) => *own = merge_map(std::mem::take(own), fields, scope)?,
            _ => {
                places.insert(value, current.len());
                current.push(element.clone());
            }
        }
    }
    Ok(current)
}

/// Where in a list each element is first, by what tells it from others.
struct Places<'a> {
    key: &'a str,
    first: HashMap<Option<&'a Value>, usize>,
}

impl<'a> Places<'a> {
    fn of(list: &'a [Value], key: &'a str) -> Places<'a> {
        let mut first = HashMap::with_capacity(list.len());
        for (at, element) in list.iter().enumerate() {
            first.entry(mark(element, key)).or_insert(at);
        }
        Places { key, first }
    }

    fn get(&self, element: &Value) -> Option<usize> {
        self.first.get(&mark(element, self.key)).copied()
    }
}

/// [`identity`] of elements that may have none.
fn mark<'a>(element: &'a Value, key: &str) -> Option<&'a Value> {
    if key.is_empty() { Some(element) } else { element.get(key) }
}

/// Splits elements into those that `by` has too and the others.
fn partition(items: Vec<Value>, by: &[Value], key: &str) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let places = Places::of(by, key);
    let (mut listed, mut others) = (Vec::new(), Vec::new());
    for item in items {
        identity(&item, key)?;
        if places.get(&item).is_some() { listed.push(item) } else { others.push(item) }
    }
    Ok((listed, others))
}

/// Elements of the patch in its order; the object's own go before those that they stood before.
fn in_order(
    mut listed: Vec<Value>,
    mut others: Vec<Value>,
    order: &[Value],
    current: &[Value],
    key: &str,
) -> Result<Vec<Value>, PatchError> {
    for element in order {
        identity(element, key)?;
    }
    let (wanted, before) = (Places::of(order, key), Places::of(current, key));
    listed.sort_by_cached_key(|item| wanted.get(item));
    others.sort_by_cached_key(|item| before.get(item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(listed.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in listed {
        let at = before.get(&item);
        while let Some(other) = others.next_if(|other| matches!((before.get(other), at), (Some(other), Some(at)) if other < at)) {
            out.push(other);
        }
        out.push(item);
    }
    out.extend(others);
    Ok(out)
}

/// Why a patched document does not convert to its type, in the words of Kubernetes' converter from
/// maps to structs; None where it does.
pub fn misfit(document: &Value, type_id: TypeId) -> Option<String> {
    misfit_of(document, &Shape::Struct(type_id))
}

fn misfit_of(value: &Value, shape: &Shape) -> Option<String> {
    let got = go_text::type_name(value);
    match (shape, value) {
        (_, Value::Null) | (Shape::Any | Shape::Quantity | Shape::IntOrString | Shape::Time | Shape::MicroTime, _) => None,
        (Shape::Struct(id), Value::Object(fields)) => {
            let of = schema().get(*id);
            fields.iter().find_map(|(name, value)| of.field(name).and_then(|field| misfit_of(value, &field.shape)))
        }
        (Shape::Map(item), Value::Object(fields)) => fields.values().find_map(|value| misfit_of(value, item)),
        (Shape::List(item), Value::Array(items)) => items.iter().find_map(|value| misfit_of(value, item)),
        (Shape::Bytes, Value::String(text)) => bytes(text).err().map(|error| format!("error decoding from json: {}", error.0)),
        (Shape::String, Value::String(_)) | (Shape::Bool, Value::Bool(_)) => None,
        (Shape::Int32 | Shape::Int64, Value::Number(n)) if !n.is_f64() => None,
        (Shape::Float64, Value::Number(_)) => None,
        (Shape::Struct(_), _) => Some(format!("cannot restore struct from: {}", go_kind(got))),
        (Shape::Map(_), _) => Some(format!("cannot restore map from {}", go_kind(got))),
        (Shape::List(_) | Shape::Bytes, _) => Some(format!("cannot restore slice from {}", go_kind(got))),
        // Go converts between numbers, and numbers to texts; the converter then refuses what JSON
        // would.
        (Shape::Int32 | Shape::Int64, Value::Number(_)) | (Shape::String, Value::Number(_))
            if !(got == "float64" && *shape == Shape::String) =>
        {
            Some(format!("cannot convert {got} to {}", shape.go_name()))
        }
        (shape, _) => Some(format!("unrecognized type: {}", shape.go_name())),
    }
}

fn go_kind(type_name: &str) -> &str {
    if type_name.starts_with("map") {
        "map"
    } else if type_name.starts_with('[') {
        "slice"
    } else {
        type_name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn check(current: Value, patch: Value, expected: Expect) {
        let pod = schema().named("Pod").unwrap();
        let text = match apply(&current, patch.to_string().as_bytes(), pod, Findings::Listed) {
            Ok(patched) => patched.document.to_string(),
            Err(error) => format!("{} {}", error.0.code, error.0.message),
        };
        expected.assert_eq(&text);
    }

    fn containers(containers: Value) -> Value {
        json!({"spec": {"containers": containers}})
    }

    #[test]
    fn lists_merge_by_key_and_new_elements_come_first() {
        let current = || containers(json!([{"name": "a", "image": "1", "args": ["x"]}, {"name": "b"}]));
        check(
            current(),
            containers(json!([{"name": "c"}, {"name": "a", "args": ["y"]}])),
            expect![[r#"{"spec":{"containers":[{"name":"c"},{"args":["y"],"image":"1","name":"a"},{"name":"b"}]}}"#]],
        );
        check(current(), containers(json!([{"name": "a", "$patch": "delete"}])), expect![[r#"{"spec":{"containers":[{"name":"b"}]}}"#]]);
        check(current(), containers(json!([{"name": "z"}, {"$patch": "replace"}])), expect![[r#"{"spec":{"containers":[{"name":"z"}]}}"#]]);
        check(current(), containers(json!([{"image": "x"}])), expect!["500 map: map[image:x] does not contain declared merge key: name"]);
        check(
            current(),
            containers(json!([{"name": "a", "$patch": "explode"}])),
            expect!["500 unknown patch type: explode in map: map[$patch:explode name:a]"],
        );
        check(
            current(),
            containers(json!(["a"])),
            expect!["500 list element types are not identical: [[map[args:[x] image:1 name:a] map[name:b]] [a]]"],
        );
        check(current(), containers(json!(null)), expect![[r#"{"spec":{}}"#]]);
    }

    #[test]
    fn set_element_order_orders() {
        let current = || containers(json!([{"name": "a"}, {"name": "b"}, {"name": "s"}]));
        check(
            current(),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "n"}, {"name": "a"}], "containers": [{"name": "n"}]}}),
            expect![[r#"{"spec":{"containers":[{"name":"b"},{"name":"n"},{"name":"a"},{"name":"s"}]}}"#]],
        );
        check(
            current(),
            json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "n"}]}}),
            expect![[r#"
                500 The order in patch list:
                [map[name:n]]
                 doesn't match $setElementOrder list:
                [map[name:a]]
            "#]],
        );
    }

    #[test]
    fn scalars_merge_as_a_set_and_can_be_deleted() {
        let current = || json!({"metadata": {"finalizers": ["a", "b"]}});
        check(current(), json!({"metadata": {"finalizers": ["c", "a"]}}), expect![[r#"{"metadata":{"finalizers":["c","a","b"]}}"#]]);
        check(
            current(),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
            expect![[r#"{"metadata":{"finalizers":["b"]}}"#]],
        );
    }

    #[test]
    fn retain_keys_clears_what_is_not_listed() {
        let current = || json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        check(
            current(),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}}),
            expect![[r#"{"spec":{"volumes":[{"hostPath":{"path":"/"},"name":"v"}]}}"#]],
        );
        check(
            current(),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/"}}]}}),
            expect!["400 invalid patch format of retainKeys"],
        );
    }

    #[test]
    fn whole_objects_can_be_replaced_or_emptied() {
        let current = || json!({"metadata": {"labels": {"a": "1"}, "name": "x"}});
        check(
            current(),
            json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}}),
            expect![[r#"{"metadata":{"labels":{"b":"2"},"name":"x"}}"#]],
        );
        check(current(), json!({"metadata": {"labels": {"$patch": "delete"}}}), expect![[r#"{"metadata":{"labels":{},"name":"x"}}"#]]);
    }

    #[test]
    fn the_selector_of_a_disruption_budget_is_replaced() {
        let current = json!({"spec": {"selector": {"matchLabels": {"a": "1"}}}});
        let patch = r#"{"spec":{"selector":{"matchLabels":{"b":"2"}}}}"#;
        let budget = schema().named("PodDisruptionBudget").unwrap();
        let patched = apply(&current, patch.as_bytes(), budget, Findings::Listed).unwrap();
        assert_eq!(patched.document.to_string(), patch);
    }

    #[test]
    fn misfits_speak_as_the_converter_does() {
        let pod = schema().named("Pod").unwrap();
        assert_eq!(misfit(&json!({"metadata": {"labels": {"x": true}}}), pod).unwrap(), "unrecognized type: string");
        assert_eq!(misfit(&json!({"metadata": {"labels": {"x": 1}}}), pod).unwrap(), "cannot convert int64 to string");
        assert_eq!(misfit(&json!({"spec": {"containers": "x"}}), pod).unwrap(), "cannot restore slice from string");
        let secret = schema().named("Secret").unwrap();
        let why = misfit(&json!({"data": {"a": "eA==", "x": "delete"}}), secret).unwrap();
        assert_eq!(why, "error decoding from json: illegal base64 data at input byte 4");
    }
}
