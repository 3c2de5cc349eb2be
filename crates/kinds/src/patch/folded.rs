//! Objects with the field sets of metadata.managedFields left as text.
//!
//! The sets are a third of a pod's tree, and most writes read none of them: a manager whose fields
//! a write does not touch keeps them as they are. In a folded object each `fieldsV1` is a string
//! that holds its JSON; `encode` writes that JSON out. Only the code that asks for folded objects
//! meets them: the writes that cannot see managedFields.

use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::compare::Comparison;
use super::field_set;

pub const FIELDS: &str = "fieldsV1";

/// The folded tree of a stored object; the plain one where there is nothing to fold.
pub fn parse(stored: &[u8]) -> serde_json::Result<Value> {
    let spans = spans(stored).unwrap_or_default();
    if spans.is_empty() {
        return serde_json::from_slice(stored);
    }
    let Ok(mut object) = serde_json::from_slice::<Value>(&without(stored, &spans)) else {
        return serde_json::from_slice(stored);
    };
    let mut texts = spans.into_iter().map(|span| String::from_utf8_lossy(&stored[span]).into_owned());
    for fields in fields_of(&mut object["metadata"]["managedFields"]) {
        *fields = texts.next().map_or(Value::Null, Value::String);
    }
    Ok(object)
}

/// The plain form of a folded object.
pub fn unfolded(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(entries) = object.get_mut("metadata").and_then(|metadata| metadata.get_mut("managedFields")) {
        unfold_entries(entries);
    }
    object
}

/// The plain form of entries.
pub fn unfold_entries(entries: &mut Value) {
    for fields in fields_of(entries) {
        if let Value::String(text) = fields {
            *fields = serde_json::from_str(text).unwrap_or_default();
        }
    }
}

/// The folded form of entries.
pub fn fold_entries(entries: &mut Value) {
    for fields in fields_of(entries).filter(|fields| fields.is_object()) {
        *fields = Value::String(fields.to_string());
    }
}

pub fn is_folded(entries: &Value) -> bool {
    entries.as_array().into_iter().flatten().any(|entry| entry[FIELDS].is_string())
}

/// Might a change take fields from the manager of a folded entry, or give it some?
pub fn touches(changed: &Comparison, entry: &Value) -> bool {
    let Some(text) = entry[FIELDS].as_str() else { return true };
    [&changed.added, &changed.modified, &changed.removed].into_iter().filter(|set| !set.is_empty()).any(|set| {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        Meeting(set.root()).deserialize(&mut deserializer).unwrap_or(true)
    })
}

fn fields_of(entries: &mut Value) -> impl Iterator<Item = &mut Value> {
    entries.as_array_mut().into_iter().flatten().filter_map(|entry| entry.get_mut(FIELDS))
}

/// The text with a number in place of each span.
fn without(text: &[u8], spans: &[Range<usize>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut from = 0;
    for span in spans {
        out.extend_from_slice(&text[from..span.start]);
        out.push(b'0');
        from = span.end;
    }
    out.extend_from_slice(&text[from..]);
    out
}

/// Where the field sets stand in the compact JSON of a stored object; None where it is not as our
/// encoder writes it.
fn spans(text: &[u8]) -> Option<Vec<Range<usize>>> {
    const METADATA: &[u8] = b",\"metadata\":{";
    let metadata = text.windows(METADATA.len()).position(|window| window == METADATA)? + METADATA.len() - 1;
    let mut spans = Vec::new();
    object_end(text, metadata, |name, value| match name {
        b"managedFields" => list_end(text, value, |entry| {
            object_end(text, entry, |name, value| {
                let end = value_end(text, value)?;
                if name == FIELDS.as_bytes() {
                    spans.push(value..end);
                }
                Some(end)
            })
        }),
        _ => value_end(text, value),
    })?;
    Some(spans)
}

/// Visits name and place of the fields of the object at a place; the visitor tells where the
/// field's value ends.
fn object_end(text: &[u8], start: usize, mut visit: impl FnMut(&[u8], usize) -> Option<usize>) -> Option<usize> {
    let mut at = start + 1;
    while *text.get(at)? == b'"' {
        let name_end = string_end(text, at)?;
        let end = visit(&text[at + 1..name_end - 1], name_end + 1)?;
        at = end + usize::from(*text.get(end)? == b',');
    }
    Some(at + 1)
}

/// Same for the items of the list at a place.
fn list_end(text: &[u8], start: usize, mut visit: impl FnMut(usize) -> Option<usize>) -> Option<usize> {
    let mut at = start + 1;
    while *text.get(at)? != b']' {
        let end = visit(at)?;
        at = end + usize::from(*text.get(end)? == b',');
    }
    Some(at + 1)
}

fn value_end(text: &[u8], start: usize) -> Option<usize> {
    let (mut at, mut depth) = (start, 0usize);
    loop {
        match text.get(at)? {
            b'"' => at = string_end(text, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' | b',' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            _ => at += 1,
        }
        if depth == 0 && matches!(text.get(at)?, b',' | b'}' | b']') {
            return Some(at);
        }
    }
}

fn string_end(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Looks whether a member of a set has a place in the field set that is read.
struct Meeting<'s>(&'s Map<String, Value>);

impl<'de> DeserializeSeed<'de> for Meeting<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Meeting<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field set")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut meets = false;
        while let Some(element) = map.next_key::<String>()? {
            match self.0.get(&element) {
                Some(Value::Object(node)) if !meets && !field_set::is_mark(&element) => {
                    if field_set::is_member(node) {
                        meets = true;
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        meets = map.next_value_seed(Meeting(node))?;
                    }
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(meets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{encode, encode_to_store};
    use serde_json::json;

    fn pod() -> Value {
        json!({"metadata": {
            "annotations": {"a": "\"managedFields\":[{\"fieldsV1\":{}}]\\"}, "finalizers": [], "generation": 1,
            "managedFields": [
                {"apiVersion": "v1", "fieldsV1": {"f:spec": {"k:{\"name\":\"a\"}": {".": {}, "f:x]}": {}}}}, "manager": "a"},
                {"manager": "none"},
                {"fieldsV1": {}, "manager": "b"},
            ], "name": "x"},
            "data": {"managedFields": [{"fieldsV1": {}}]}})
    }

    #[test]
    fn a_folded_object_is_the_same_object() {
        let stored = encode_to_store("v1", "Pod", &pod()).at_revision(7);
        let plain: Value = serde_json::from_slice(&stored).unwrap();
        let folded = parse(&stored).unwrap();
        assert_eq!(folded["metadata"]["managedFields"][0][FIELDS], r#"{"f:spec":{"k:{\"name\":\"a\"}":{".":{},"f:x]}":{}}}}"#);
        assert!(is_folded(&folded["metadata"]["managedFields"]) && !is_folded(&plain["metadata"]["managedFields"]));
        assert_eq!(folded["data"], plain["data"]);
        assert_eq!(unfolded(&folded), plain);
        assert_eq!(encode("v1", "Pod", &folded), encode("v1", "Pod", &plain));
        assert_eq!(encode_to_store("v1", "Pod", &folded).at_revision(7), stored);
        let without = encode_to_store("v1", "Pod", &json!({"metadata": {"name": "a"}, "data": {"managedFields": [{"fieldsV1": {}}]}}));
        assert_eq!(parse(&without.bytes).unwrap(), serde_json::from_slice::<Value>(&without.bytes).unwrap());
    }
}
