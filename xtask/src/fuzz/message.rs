//! Writes objects as Kubernetes' protobuf messages, so that there are some to damage.

use kinds::schema::{Field, Shape, TypeId, schema};
use kinds::table::Kind;
use serde_json::Value;

/// The message of an object; what does not fit its schema is left out.
pub fn write(kind: &Kind, object: &Value) -> Vec<u8> {
    let mut type_meta = Vec::new();
    put_bytes(&mut type_meta, 1, kind.api_version().as_bytes());
    put_bytes(&mut type_meta, 2, kind.kind.as_bytes());
    let mut message = b"k8s\0".to_vec();
    put_bytes(&mut message, 1, &type_meta);
    put_bytes(&mut message, 2, &fields(object, kind.type_id()));
    message
}

fn fields(object: &Value, type_id: TypeId) -> Vec<u8> {
    let mut out = Vec::new();
    for field in schema().get(type_id).fields.iter().filter(|field| !field.wire.is_empty()) {
        if let Some(value) = object.get(field.name) {
            put_field(&mut out, field, value);
        }
    }
    out
}

fn put_field(out: &mut Vec<u8>, field: &Field, value: &Value) {
    let (&number, around) = field.wire.split_last().expect("only fields with a number are written");
    let mut inner = Vec::new();
    put(&mut inner, number, &field.shape, value);
    for &number in around.iter().rev() {
        let mut outer = Vec::new();
        put_bytes(&mut outer, number, &inner);
        inner = outer;
    }
    out.extend(inner);
}

fn put(out: &mut Vec<u8>, number: u64, shape: &Shape, value: &Value) {
    match (shape, value) {
        (Shape::List(item), Value::Array(items)) => items.iter().for_each(|value| put(out, number, item, value)),
        (Shape::Map(inner), Value::Object(entries)) => {
            for (key, value) in entries {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                put(&mut entry, 2, inner, value);
                put_bytes(out, number, &entry);
            }
        }
        (Shape::Struct(id), value) => put_bytes(out, number, &fields(value, *id)),
        (Shape::Bool, Value::Bool(b)) => put_number(out, number, u64::from(*b)),
        (_, Value::Number(n)) => put_number(out, number, n.as_i64().unwrap_or_default().cast_unsigned()),
        (Shape::Quantity, Value::String(text)) => {
            let mut message = Vec::new();
            put_bytes(&mut message, 1, text.as_bytes());
            put_bytes(out, number, &message);
        }
        (Shape::IntOrString, Value::String(text)) => {
            let mut message = Vec::new();
            put_number(&mut message, 1, 1);
            put_bytes(&mut message, 3, text.as_bytes());
            put_bytes(out, number, &message);
        }
        (Shape::Time | Shape::MicroTime, Value::String(text)) => {
            let mut message = Vec::new();
            put_number(&mut message, 1, text.len() as u64 * 100_000_000);
            put_number(&mut message, 2, 6_000);
            put_bytes(out, number, &message);
        }
        (Shape::Any, value) => {
            let mut message = Vec::new();
            put_bytes(&mut message, 1, value.to_string().as_bytes());
            put_bytes(out, number, &message);
        }
        (_, Value::String(text)) => put_bytes(out, number, text.as_bytes()),
        _ => {}
    }
}

fn put_number(out: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(out, number << 3);
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
