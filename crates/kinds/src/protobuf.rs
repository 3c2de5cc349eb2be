//! Kubernetes' protobuf form of objects to the trees of `document`: what clients built on client-go
//! send.
//!
//! The field numbers stand in the schema (`wire=`), so that one walk decodes any kind. Structs that
//! Go embeds are messages of their own on the wire: such a field has a path of numbers. Unknown
//! fields are skipped, as protobuf wants. Bodies only; answers are JSON.

use serde_json::Number;

use crate::decode::{format_micro_time, format_time};
use crate::document::{Node, SyntaxError, parse_json};
use crate::schema::{Field, Shape, TypeId, schema};

/// The first bytes of every message.
const MAGIC: &[u8] = b"k8s\0";

/// Messages nested deeper are refused.
const DEPTH_MAX: usize = 64;

/// Numbers of the envelope's fields (`runtime.Unknown`) and of the type inside it.
const ENVELOPE_TYPE: u64 = 1;
const ENVELOPE_RAW: u64 = 2;
const TYPE_API_VERSION: u64 = 1;
const TYPE_KIND: u64 = 2;

/// Is this a message in Kubernetes' envelope?
pub fn has_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Decodes a message that should hold an object of the given type. Its kind and apiVersion are
/// those of the envelope.
pub fn parse(bytes: &[u8], type_id: TypeId) -> Result<Node, SyntaxError> {
    let body = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("the envelope is missing"))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for (number, value) in fields(body)? {
        match (number, value) {
            (ENVELOPE_TYPE, Wire::Bytes(inner)) => {
                for (number, value) in fields(inner)? {
                    match (number, value) {
                        (TYPE_API_VERSION, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (TYPE_KIND, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (ENVELOPE_RAW, Wire::Bytes(inner)) => raw = inner,
            _ => {}
        }
    }
    let mut object = message(raw, type_id, 0)?;
    for (name, text) in [("kind", kind), ("apiVersion", api_version)] {
        if !text.is_empty() {
            object.insert(0, (name.to_owned(), Node::String(text)));
        }
    }
    Ok(Node::Object(object))
}

/// A value as it stands on the wire.
#[derive(Debug, Copy, Clone)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn damaged(what: &str) -> SyntaxError {
    SyntaxError(format!("the protobuf message is damaged: {what}"))
}

fn utf8(bytes: &[u8]) -> Result<String, SyntaxError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| damaged("a text is no UTF-8"))
}

/// The fields of a message, in their order.
fn fields(mut rest: &[u8]) -> Result<Vec<(u64, Wire<'_>)>, SyntaxError> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let value = match key & 7 {
            0 => Wire::Number(varint(&mut rest)?),
            1 => Wire::Number(u64::from_le_bytes(take(&mut rest, 8)?.try_into().map_err(|_| damaged("a number is cut off"))?)),
            2 => {
                let len = usize::try_from(varint(&mut rest)?).map_err(|_| damaged("a length is too large"))?;
                Wire::Bytes(take(&mut rest, len)?)
            }
            5 => Wire::Number(u64::from(u32::from_le_bytes(take(&mut rest, 4)?.try_into().map_err(|_| damaged("a number is cut off"))?))),
            other => return Err(damaged(&format!("wire type {other} is not in use"))),
        };
        found.push((key >> 3, value));
    }
    Ok(found)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], SyntaxError> {
    if len > rest.len() {
        return Err(damaged("a field is cut off"));
    }
    let (head, tail) = rest.split_at(len);
    *rest = tail;
    Ok(head)
}

fn varint(rest: &mut &[u8]) -> Result<u64, SyntaxError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *take(rest, 1)?.first().expect("took one byte");
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(damaged("a number is too long"))
}

type Fields = Vec<(String, Node)>;

fn message(bytes: &[u8], type_id: TypeId, depth: usize) -> Result<Fields, SyntaxError> {
    let mut object = Fields::new();
    let known: Vec<&Field> = schema().get(type_id).fields.iter().filter(|field| !field.wire.is_empty()).collect();
    level(bytes, &known, 0, depth, &mut object)?;
    Ok(object)
}

/// Reads the fields whose number at position `at` of their path is in this message; embedded
/// messages are read in place.
fn level(bytes: &[u8], known: &[&Field], at: usize, depth: usize, object: &mut Fields) -> Result<(), SyntaxError> {
    if depth > DEPTH_MAX {
        return Err(damaged("messages are nested too deep"));
    }
    for (number, value) in fields(bytes)? {
        let here: Vec<&Field> = known.iter().filter(|field| field.wire.get(at) == Some(&number)).copied().collect();
        match (here.as_slice(), value) {
            ([], _) => {}
            ([field], value) if field.wire.len() == at + 1 => put(object, field, value, depth)?,
            (embedded, Wire::Bytes(inner)) => level(inner, embedded, at + 1, depth + 1, object)?,
            (_, Wire::Number(_)) => return Err(damaged("a number stands where a message belongs")),
        }
    }
    Ok(())
}

fn put(object: &mut Fields, field: &Field, value: Wire<'_>, depth: usize) -> Result<(), SyntaxError> {
    let existing = object.iter().position(|(name, _)| name == field.name);
    match &field.shape {
        Shape::List(item) => {
            let items = list_items(item, value, depth)?;
            match existing.map(|at| &mut object[at].1) {
                Some(Node::List(list)) => list.extend(items),
                _ => object.push((field.name.to_owned(), Node::List(items))),
            }
        }
        Shape::Map(inner) => {
            let entry = map_entry(inner, value, depth)?;
            match existing.map(|at| &mut object[at].1) {
                Some(Node::Object(entries)) => entries.push(entry),
                _ => object.push((field.name.to_owned(), Node::Object(vec![entry]))),
            }
        }
        shape => {
            let node = single(shape, value, depth)?;
            // The last one counts, as in protobuf.
            match existing {
                Some(at) => object[at].1 = node,
                None => object.push((field.name.to_owned(), node)),
            }
        }
    }
    Ok(())
}

/// One item, or several numbers packed together.
fn list_items(item: &Shape, value: Wire<'_>, depth: usize) -> Result<Vec<Node>, SyntaxError> {
    match (item, value) {
        (Shape::Int32 | Shape::Int64 | Shape::Bool, Wire::Bytes(mut packed)) => {
            let mut items = Vec::new();
            while !packed.is_empty() {
                items.push(single(item, Wire::Number(varint(&mut packed)?), depth)?);
            }
            Ok(items)
        }
        _ => Ok(vec![single(item, value, depth)?]),
    }
}

/// An entry of a map is a message of key and value.
fn map_entry(shape: &Shape, value: Wire<'_>, depth: usize) -> Result<(String, Node), SyntaxError> {
    let Wire::Bytes(entry) = value else { return Err(damaged("a number stands where an entry of a map belongs")) };
    let (mut key, mut node) = (String::new(), empty(shape));
    for (number, value) in fields(entry)? {
        match (number, value) {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            (2, value) => node = single(shape, value, depth)?,
            _ => {}
        }
    }
    Ok((key, node))
}

fn empty(shape: &Shape) -> Node {
    match shape {
        Shape::String | Shape::Bytes => Node::String(String::new()),
        _ => Node::Null,
    }
}

fn single(shape: &Shape, value: Wire<'_>, depth: usize) -> Result<Node, SyntaxError> {
    Ok(match (shape, value) {
        (Shape::String, Wire::Bytes(text)) => Node::String(utf8(text)?),
        (Shape::Bytes, Wire::Bytes(raw)) => Node::String(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, raw)),
        (Shape::Bool, Wire::Number(n)) => Node::Bool(n != 0),
        (Shape::Int32 | Shape::Int64, Wire::Number(n)) => Node::Number(n.cast_signed().into()),
        (Shape::Float64, Wire::Number(bits)) => Number::from_f64(f64::from_bits(bits)).map_or(Node::Null, Node::Number),
        (Shape::Time, Wire::Bytes(raw)) => time(raw, false)?,
        (Shape::MicroTime, Wire::Bytes(raw)) => time(raw, true)?,
        (Shape::Quantity, Wire::Bytes(raw)) => first_text(raw)?.map_or(Node::Null, Node::String),
        (Shape::IntOrString, Wire::Bytes(raw)) => int_or_string(raw)?,
        (Shape::Any, Wire::Bytes(raw)) => raw_json(raw)?,
        (Shape::Struct(id), Wire::Bytes(raw)) => Node::Object(message(raw, *id, depth + 1)?),
        // A list inside a map is a message with the items as its only field.
        (Shape::List(item), Wire::Bytes(raw)) => {
            let mut items = Vec::new();
            for (_, value) in fields(raw)? {
                items.extend(list_items(item, value, depth)?);
            }
            Node::List(items)
        }
        _ => return Err(damaged("a field has another type than its kind says")),
    })
}

/// Seconds and nanoseconds; an empty message is no time.
fn time(raw: &[u8], micro: bool) -> Result<Node, SyntaxError> {
    let (mut seconds, mut nanos) = (0i64, 0i32);
    for (number, value) in fields(raw)? {
        match (number, value) {
            (1, Wire::Number(n)) => seconds = n.cast_signed(),
            (2, Wire::Number(n)) => nanos = i32::try_from(n.cast_signed()).unwrap_or(0),
            _ => {}
        }
    }
    // Go's zero time lies in the year 1; nothing means the same.
    if raw.is_empty() || seconds < 0 {
        return Ok(Node::Null);
    }
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| damaged("a time is out of range"))?;
    Ok(Node::String(if micro { format_micro_time(time) } else { format_time(time) }))
}

fn first_text(raw: &[u8]) -> Result<Option<String>, SyntaxError> {
    for (number, value) in fields(raw)? {
        if let (1, Wire::Bytes(text)) = (number, value) {
            return utf8(text).map(Some);
        }
    }
    Ok(None)
}

/// A type (0: number, 1: text), a number, a text.
fn int_or_string(raw: &[u8]) -> Result<Node, SyntaxError> {
    let (mut is_text, mut number_value, mut text_value) = (false, 0i64, String::new());
    for (number, value) in fields(raw)? {
        match (number, value) {
            (1, Wire::Number(n)) => is_text = n == 1,
            (2, Wire::Number(n)) => number_value = n.cast_signed(),
            (3, Wire::Bytes(text)) => text_value = utf8(text)?,
            _ => {}
        }
    }
    Ok(if is_text { Node::String(text_value) } else { Node::Number(number_value.into()) })
}

/// Raw JSON in a message.
fn raw_json(raw: &[u8]) -> Result<Node, SyntaxError> {
    for (number, value) in fields(raw)? {
        if let (1, Wire::Bytes(json)) = (number, value) {
            return parse_json(json).map_err(|_| damaged("embedded JSON is none, or nested too deep"));
        }
    }
    Ok(Node::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn config_map(bytes: &[u8]) -> Result<Value, SyntaxError> {
        parse(bytes, schema().named("ConfigMap").expect("types.txt has ConfigMap")).map(Node::into_value)
    }

    fn field(number: u8, body: &[u8]) -> Vec<u8> {
        let len = u8::try_from(body.len()).expect("short bodies in tests");
        [&[number << 3 | 2, len], body].concat()
    }

    #[test]
    fn metadata_and_maps_are_read() {
        let metadata = field(1, &field(1, b"cfg"));
        let data = field(2, &[field(1, b"k"), field(2, b"v")].concat());
        let type_meta = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
        let bytes = [MAGIC, &field(1, &type_meta), &field(2, &[metadata, data].concat())].concat();
        let expected = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cfg"}, "data": {"k": "v"}});
        assert_eq!(config_map(&bytes).unwrap(), expected);
    }

    #[test]
    fn a_message_that_is_cut_off_is_refused() {
        let bytes = [MAGIC, &field(2, &field(1, &field(1, b"cfg")))].concat();
        assert!(config_map(&bytes[..bytes.len() - 1]).unwrap_err().0.contains("cut off"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = config_map(&[MAGIC, &bytes].concat());
            let _ = parse(&[MAGIC, &field(2, &bytes[..bytes.len().min(120)])].concat(), schema().named("Pod").expect("types.txt has Pod"));
        }
    }

    /// What is embedded as JSON is bound to the depth of all documents: stored deeper, it could not
    /// be read again.
    #[test]
    fn embedded_json_is_no_deeper_than_documents_may_be() {
        let nested = |levels: usize| format!("{}{}", "{\"a\":".repeat(levels), "1".to_owned() + &"}".repeat(levels));
        let raw = |levels: usize| {
            let json = nested(levels);
            let mut raw = vec![0x0a];
            let mut length = json.len();
            while length >= 0x80 {
                raw.push((length as u8 & 0x7f) | 0x80);
                length >>= 7;
            }
            raw.push(length as u8);
            raw.extend_from_slice(json.as_bytes());
            raw_json(&raw)
        };
        assert!(raw(100).is_ok());
        assert!(raw(101).is_err());
    }
}
