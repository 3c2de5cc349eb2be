//! Decoding in place: brings a tree into the form that `decode` gives without building another one.
//!
//! Most trees are nearly in that form already, so this mostly looks. It knows no error texts: at
//! the first thing that `decode` would report or refuse it gives up, and the caller goes the long
//! way, which finds the words.

use serde_json::{Map, Value};

use crate::decode::{bytes, emit_zeros, is_zero, micro_time, quantity, time, zero};
use crate::schema::{Shape, Type, TypeId, schema};

/// The tree has something that `decode` would report or refuse. What was settled before it is
/// right.
#[derive(Debug, PartialEq)]
pub struct Irregular;

type Settled<T> = Result<T, Irregular>;

/// Brings `value` into the form of the type.
pub fn settle(value: &mut Value, type_id: TypeId) -> Settled<()> {
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(fields) => settle_fields(fields, schema().get(type_id)),
        _ => Err(Irregular),
    }
}

fn settle_fields(fields: &mut Map<String, Value>, owner: &Type) -> Settled<()> {
    let mut outcome = Ok(());
    // Both are sorted by name.
    let mut declared = owner.fields.iter();
    fields.retain(|name, value| {
        if outcome.is_err() {
            return true;
        }
        let Some(field) = declared.find(|field| field.name >= name.as_str()).filter(|field| field.name == name) else {
            outcome = Err(Irregular);
            return true;
        };
        match settle_value(value, &field.shape) {
            Ok(Presence::There) => field.pointer || field.emits_zero() || !is_zero(value, &field.shape),
            Ok(Presence::Null) => false,
            Err(irregular) => {
                outcome = Err(irregular);
                true
            }
        }
    });
    outcome?;
    emit_zeros(owner, fields);
    Ok(())
}

enum Presence {
    There,
    Null,
}

fn settle_value(value: &mut Value, shape: &Shape) -> Settled<Presence> {
    if value.is_null() {
        return Ok(Presence::Null);
    }
    match (shape, &mut *value) {
        (Shape::Any, _)
        | (Shape::String | Shape::IntOrString, Value::String(_))
        | (Shape::Bool, Value::Bool(_))
        | (Shape::Float64, Value::Number(_)) => {}
        (Shape::Int32 | Shape::IntOrString, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
        (Shape::Int64, Value::Number(n)) if n.is_i64() => {}
        (Shape::Time, Value::String(text)) if is_canonical_time(text, "Z") => {}
        (Shape::MicroTime, Value::String(text)) if is_canonical_time(text, ".000000Z") => {}
        (Shape::Struct(id), Value::Object(fields)) => settle_fields(fields, schema().get(*id))?,
        (Shape::List(item), Value::Array(items)) => items.iter_mut().try_for_each(|value| settle_element(value, item))?,
        (Shape::Map(shape), Value::Object(entries)) => entries.values_mut().try_for_each(|value| settle_element(value, shape))?,
        (shape, other) => *value = rewritten(shape, other)?,
    }
    Ok(Presence::There)
}

/// Null elements become zero values.
fn settle_element(value: &mut Value, shape: &Shape) -> Settled<()> {
    if let Presence::Null = settle_value(value, shape)? {
        *value = zero(shape, false);
    }
    Ok(())
}

/// Values whose text is made canonical.
fn rewritten(shape: &Shape, value: &mut Value) -> Settled<Value> {
    let rewritten = match (shape, value) {
        (Shape::Bytes, Value::String(text)) => bytes(text),
        (Shape::Time, Value::String(text)) => time(text),
        (Shape::MicroTime, Value::String(text)) => micro_time(text),
        (Shape::Quantity, Value::String(text)) => quantity(text),
        (Shape::Quantity, Value::Number(number)) => quantity(&number.to_string()),
        _ => return Err(Irregular),
    };
    rewritten.map_err(|_| Irregular)
}

/// A time that parsing and printing would not change; `end` shows what follows the seconds. Days
/// that some months lack, leap seconds and early years are left to the parser.
fn is_canonical_time(text: &str, end: &str) -> bool {
    const DATE: &str = "0000-00-00T00:00:00";
    let shape = DATE.bytes().chain(end.bytes());
    let fits = text.len() == DATE.len() + end.len()
        && text.bytes().zip(shape).all(|(own, shape)| if shape == b'0' { own.is_ascii_digit() } else { own == shape });
    let two = |at: usize| text[at..at + 2].parse::<u8>().unwrap_or(u8::MAX);
    fits && text.as_bytes()[0] != b'0'
        && (1..=12).contains(&two(5))
        && (1..=28).contains(&two(8))
        && two(11) < 24
        && two(14) < 60
        && two(17) < 60
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::decode;
    use crate::document::Node;
    use crate::table::KINDS;
    use proptest::prelude::*;
    use serde_json::json;

    /// Settling gives what decoding gives, or gives up where decoding has something to say, which
    /// is then as if nothing had been settled.
    fn check(value: Value, kind: &str) {
        let type_id = schema().named(kind).unwrap();
        let mut settled = value.clone();
        let outcome = settle(&mut settled, type_id);
        assert_eq!(
            crate::decode::decode_tree(value.clone(), type_id).map_err(|error| error.0),
            decode(Node::from(value.clone()), type_id).map_err(|error| error.0),
            "{value}"
        );
        match decode(Node::from(value.clone()), type_id) {
            Ok(decoded) if decoded.findings.is_empty() => assert_eq!((outcome, settled), (Ok(()), decoded.value), "{value}"),
            _ => assert_eq!(outcome, Err(Irregular), "{value}"),
        }
    }

    #[test]
    fn what_decoding_changes_is_changed_in_place() {
        check(
            json!({"spec": {"containers": [{"name": "c", "env": [], "tty": false, "command": [null, "a"]}, null], "hostUsers": false}}),
            "Pod",
        );
        check(json!({"spec": {"containers": [{"resources": {"limits": {"cpu": 0.5, "memory": "1024Ki"}}}], "nodeName": ""}}), "Pod");
        check(json!({"metadata": {"labels": {"a": null}, "creationTimestamp": "2024-02-30T00:00:00Z"}}), "Pod");
        check(json!({"metadata": {"labels": {}, "creationTimestamp": "2024-02-29T01:00:00+01:00"}, "status": null}), "Pod");
        check(json!({"metadata": null, "data": {"a": "YQ=\n="}}), "Secret");
        check(json!({"data": {"a": "?"}}), "Secret");
        check(json!({"spec": {"renewTime": "2024-02-29T01:00:00.000001Z", "leaseDurationSeconds": 1.5}}), "Lease");
        check(json!({"spec": {"renewTime": "2024-02-29T01:00:00Z"}}), "Lease");
        check(json!({"spec": {"unknown": 1}}), "Pod");
        check(json!({"spec": []}), "Pod");
        check(Value::Null, "Pod");
    }

    fn times() -> impl Strategy<Value = String> {
        let part = |max: u32| 0..=max;
        (part(9999), part(13), part(32), part(25), part(61), part(61), prop::sample::select(vec!["", ".000001", ".5", ".000000"])).prop_map(
            |(year, month, day, hour, minute, second, rest)| {
                format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{rest}Z")
            },
        )
    }

    proptest! {
        #[test]
        fn times_settle_as_they_decode(text in times()) {
            check(json!({"spec": {"renewTime": text}}), "Lease");
            check(json!({"metadata": {"creationTimestamp": text}}), "Lease");
        }
    }

    #[test]
    fn empty_objects_of_every_kind_get_their_zeros() {
        for kind in KINDS.iter().filter(|kind| kind.is_stored()) {
            check(json!({}), kind.type_name);
            check(json!({"metadata": {"name": "a"}, "spec": {}, "status": {}}), kind.type_name);
        }
    }

    /// The text was taken out of the tree before it was read, and what could not be read became an
    /// empty value.
    #[test]
    fn what_cannot_be_read_stays_in_the_tree() {
        check(json!({"data": {"a": "eA==", "x": "delete"}}), "Secret");
        check(json!({"data": {"x": "eA=\n="}}), "Secret");
    }
}
