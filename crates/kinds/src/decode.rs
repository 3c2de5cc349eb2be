//! Holds a document against the schema: what Go's strict JSON decoder into versioned structs, and
//! its encoder, make of it.
//!
//! In: a [`Node`] and a type. Out: the object as Kubernetes would store it (nulls, unknown fields
//! and the zero values that `omitempty` drops are gone, those that Go always writes are there,
//! quantities and times are canonical), with the unknown and duplicate fields found on the way; or
//! the first type error, in Go's words.

use std::fmt::Write as _;

use base64::Engine as _;
use serde_json::{Map, Value};

use crate::document::Node;
use crate::quantity::Quantity;
use crate::schema::go_names::{embedded, go_type};
use crate::schema::{Field, Shape, Type, TypeId, schema};
use crate::settle::{Irregular, settle};

/// Findings past this number are not listed; a hostile document could name millions.
const FINDINGS_MAX: usize = 100;

/// A decoded object and what strict decoding would have refused.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.bar"`, in the order of the text.
    pub findings: Vec<String>,
}

/// A value of the wrong JSON type, or one that its type refuses to parse.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct TypeError(pub String);

/// Decodes `node` as the type `type_id`.
pub fn decode(node: Node, type_id: TypeId) -> Result<Decoded, TypeError> {
    let mut walk = Walk { path: Vec::new(), findings: Vec::new(), mismatch: None };
    let value = match node {
        Node::Null => walk.object(Vec::new(), type_id)?,
        Node::Object(fields) => walk.object(fields, type_id)?,
        other => {
            let go_type = schema().get(type_id).go_name();
            return Err(TypeError(format!("json: cannot unmarshal {} into Go value of type {go_type}", json_type(&other))));
        }
    };
    match walk.mismatch {
        Some(mismatch) => Err(mismatch),
        None => Ok(Decoded { value, findings: walk.findings }),
    }
}

/// Brings a tree that our own code built or patched into the form that decoding gives, without
/// looking for findings.
pub fn normalize(value: Value, type_id: TypeId) -> Result<Value, TypeError> {
    decode_tree(value, type_id).map(|decoded| decoded.value)
}

/// Decodes a tree; in place, unless there is something to say about it.
pub fn decode_tree(mut value: Value, type_id: TypeId) -> Result<Decoded, TypeError> {
    match settle(&mut value, type_id) {
        Ok(()) => Ok(Decoded { value, findings: Vec::new() }),
        Err(Irregular) => decode(Node::from(value), type_id),
    }
}

/// Decodes a JSON text that nothing is to be said about. None for all others, which [`decode`]
/// finds the words for.
pub fn decode_plain(json: &[u8], type_id: TypeId) -> Option<Value> {
    let mut value = crate::document::parse_plain(json)?;
    settle(&mut value, type_id).ok()?;
    Some(value)
}

#[derive(Debug)]
enum Step {
    Field(&'static str),
    /// A struct that Go embeds: part of the path in Go, not in JSON.
    Embedded(&'static str),
    Index(usize),
    Key(String),
}

struct Walk {
    path: Vec<Step>,
    findings: Vec<String>,
    /// Go goes on after a mismatch and reports the first.
    mismatch: Option<TypeError>,
}

/// Where a value stands, for error texts: the struct around it.
#[derive(Copy, Clone)]
struct Place<'a> {
    owner: &'a Type,
    field: &'a Field,
}

impl Walk {
    fn object(&mut self, fields: Vec<(String, Node)>, type_id: TypeId) -> Result<Value, TypeError> {
        let owner = schema().get(type_id);
        let mut seen: Vec<&'static str> = Vec::with_capacity(fields.len());
        let mut object = Map::new();
        for (name, node) in fields {
            let Some(field) = owner.field(&name) else {
                self.report("unknown", &name);
                continue;
            };
            if seen.contains(&field.name) {
                self.report("duplicate", &name);
            } else {
                seen.push(field.name);
            }
            let depth = self.path.len();
            self.path.extend(embedded(owner, field).map(Step::Embedded));
            self.path.push(Step::Field(field.name));
            let value = self.value(node, &field.shape, Place { owner, field });
            self.path.truncate(depth);
            match value? {
                Some(value) if field.pointer || field.emits_zero() || !is_zero(&value, &field.shape) => {
                    object.insert(name, value);
                }
                _ => {
                    object.remove(&name);
                }
            }
        }
        emit_zeros(owner, &mut object);
        Ok(Value::Object(object))
    }

    /// None stands for null and for values that did not fit.
    fn value(&mut self, node: Node, shape: &Shape, place: Place<'_>) -> Result<Option<Value>, TypeError> {
        let value = match (shape, node) {
            (_, Node::Null) => return Ok(None),
            (Shape::Any, node) => node.into_value(),
            (Shape::String, Node::String(text)) => Value::String(text),
            (Shape::Bool, Node::Bool(b)) => Value::Bool(b),
            (Shape::Int32, Node::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Value::Number(n),
            (Shape::Int64, Node::Number(n)) if n.is_i64() => Value::Number(n),
            (Shape::Float64, Node::Number(n)) => Value::Number(n),
            (Shape::Bytes, Node::String(text)) => bytes(&text)?,
            (Shape::Time, Node::String(text)) => time(&text)?,
            (Shape::MicroTime, Node::String(text)) => micro_time(&text)?,
            (Shape::Quantity, Node::String(text)) => quantity(&text)?,
            (Shape::Quantity, Node::Number(n)) => quantity(&n.to_string())?,
            (Shape::IntOrString, Node::String(text)) => Value::String(text),
            (Shape::IntOrString, Node::Number(n)) => return int_or_string(n).map(Some),
            (Shape::Struct(id), Node::Object(fields)) => self.object(fields, *id)?,
            (Shape::List(item), Node::List(nodes)) => self.list(nodes, item, place)?,
            (Shape::Map(value), Node::Object(fields)) => self.map(fields, value, place)?,
            (Shape::Time | Shape::MicroTime, other) => {
                return Err(TypeError(format!("json: cannot unmarshal {} into Go value of type string", json_type(&other))));
            }
            (Shape::Quantity, Node::Bool(_) | Node::List(_) | Node::Object(_)) => return Err(quantity_format()),
            (Shape::IntOrString, other) => {
                self.mismatched(&other, &Shape::Int32, place);
                return Ok(None);
            }
            (shape, other) => {
                self.mismatched(&other, shape, place);
                return Ok(None);
            }
        };
        Ok(Some(value))
    }

    fn list(&mut self, nodes: Vec<Node>, item: &Shape, place: Place<'_>) -> Result<Value, TypeError> {
        let mut items = Vec::with_capacity(nodes.len());
        for (at, node) in nodes.into_iter().enumerate() {
            self.path.push(Step::Index(at));
            let value = self.value(node, item, place);
            self.path.pop();
            items.push(value?.unwrap_or_else(|| zero(item, false)));
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, fields: Vec<(String, Node)>, shape: &Shape, place: Place<'_>) -> Result<Value, TypeError> {
        let mut object = Map::new();
        for (key, node) in fields {
            if object.contains_key(&key) {
                self.report("duplicate", &key);
            }
            self.path.push(Step::Key(key.clone()));
            let value = self.value(node, shape, place);
            self.path.pop();
            object.insert(key, value?.unwrap_or_else(|| zero(shape, false)));
        }
        Ok(Value::Object(object))
    }

    fn report(&mut self, what: &str, name: &str) {
        if self.findings.len() < FINDINGS_MAX {
            let mut path = String::new();
            for step in &self.path {
                match step {
                    Step::Field(name) => push_dotted(&mut path, name),
                    Step::Key(key) => push_dotted(&mut path, key),
                    Step::Embedded(_) => {}
                    Step::Index(at) => write!(path, "[{at}]").expect("writing to a String cannot fail"),
                }
            }
            push_dotted(&mut path, name);
            self.findings.push(format!("{what} field \"{path}\""));
        }
    }

    fn mismatched(&mut self, node: &Node, shape: &Shape, place: Place<'_>) {
        if self.mismatch.is_some() {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            if let Step::Field(name) | Step::Embedded(name) = step {
                push_dotted(&mut path, name);
            }
        }
        let numeric = matches!(shape, Shape::Int32 | Shape::Int64 | Shape::Float64);
        let written = match node {
            Node::Number(n) if numeric => format!("number {n}"),
            other => json_type(other).to_owned(),
        };
        debug_assert!(path.ends_with(place.field.name));
        let go_type = go_type(place.owner, place.field, shape);
        self.mismatch = Some(TypeError(format!(
            "json: cannot unmarshal {written} into Go struct field {}.{path} of type {go_type}",
            place.owner.name_in_go()
        )));
    }
}

impl Type {
    fn name_in_go(&self) -> &'static str {
        self.full_name.rsplit('.').next().unwrap_or(self.name)
    }
}

fn push_dotted(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// The JSON type of a value, as Go's decoder names it.
pub fn json_type(node: &Node) -> &'static str {
    match node {
        Node::Null => "null",
        Node::Bool(_) => "bool",
        Node::Number(_) => "number",
        Node::String(_) => "string",
        Node::List(_) => "array",
        Node::Object(_) => "object",
    }
}

pub(crate) fn is_zero(value: &Value, shape: &Shape) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        // An IntOrString is a struct in Go, optional ones are pointers; a quantity is a struct as
        // well.
        Value::Number(n) => !matches!(shape, Shape::IntOrString) && n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty() && !matches!(shape, Shape::IntOrString),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty() && matches!(shape, Shape::Map(_)),
    }
}

pub(crate) fn emit_zeros(owner: &Type, object: &mut Map<String, Value>) {
    for field in owner.fields.iter().filter(|f| f.emits_zero()) {
        if !object.contains_key(field.name) {
            object.insert(field.name.to_owned(), zero(&field.shape, field.pointer));
        }
    }
}

pub(crate) fn zero(shape: &Shape, pointer: bool) -> Value {
    match shape {
        _ if pointer => Value::Null,
        Shape::String => Value::String(String::new()),
        Shape::Int32 | Shape::Int64 | Shape::Float64 | Shape::IntOrString => Value::from(0),
        Shape::Bool => Value::Bool(false),
        Shape::Quantity => Value::from("0"),
        Shape::Bytes | Shape::Time | Shape::MicroTime | Shape::Any | Shape::List(_) | Shape::Map(_) => Value::Null,
        Shape::Struct(id) => {
            let mut object = Map::new();
            emit_zeros(schema().get(*id), &mut object);
            Value::Object(object)
        }
    }
}

fn quantity_format() -> TypeError {
    TypeError("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".to_owned())
}

pub(crate) fn quantity(text: &str) -> Result<Value, TypeError> {
    let quantity = Quantity::parse(text).map_err(|_| quantity_format())?;
    Ok(Value::String(quantity.to_string()))
}

fn int_or_string(number: serde_json::Number) -> Result<Value, TypeError> {
    match number.as_i64().map(i32::try_from) {
        Some(Ok(_)) => Ok(Value::Number(number)),
        _ => Err(TypeError(format!("json: cannot unmarshal number {number} into Go value of type int32"))),
    }
}

/// Go's decoder skips line ends inside base64 text.
pub(crate) fn bytes(text: &str) -> Result<Value, TypeError> {
    let compact: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match base64::engine::general_purpose::STANDARD.decode(&compact) {
        Ok(decoded) => Ok(Value::String(base64::engine::general_purpose::STANDARD.encode(decoded))),
        Err(error) => Err(TypeError(format!("illegal base64 data at input byte {}", base64_error_at(&error, &compact)))),
    }
}

fn base64_error_at(error: &base64::DecodeError, text: &str) -> usize {
    match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => *at,
        // Go names where the group of four begins that has no padding.
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding if !text.ends_with('=') => text.len() / 4 * 4,
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => text.len(),
    }
}

const RFC3339_LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const RFC3339_MICRO_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

pub(crate) fn time(text: &str) -> Result<Value, TypeError> {
    let parsed = parse_time(text, RFC3339_LAYOUT)?;
    Ok(Value::String(format_time(parsed)))
}

pub(crate) fn micro_time(text: &str) -> Result<Value, TypeError> {
    let seconds_end = 19;
    if let Some(rest) = text.get(seconds_end..).filter(|rest| !has_six_decimals(rest)) {
        return Err(time_error(text, RFC3339_MICRO_LAYOUT, rest, ".000000"));
    }
    let parsed = parse_time(text, RFC3339_MICRO_LAYOUT)?;
    Ok(Value::String(format_micro_time(parsed)))
}

fn has_six_decimals(rest: &str) -> bool {
    let bytes = rest.as_bytes();
    bytes.len() >= 7 && bytes[0] == b'.' && bytes[1..7].iter().all(u8::is_ascii_digit)
}

/// Parses RFC 3339; which part Go would complain about is found on failure only.
fn parse_time(text: &str, layout: &str) -> Result<jiff::Timestamp, TypeError> {
    let shaped = text.len() >= 20 && text.as_bytes()[10] == b'T' && !text.contains('[');
    let parsed = if shaped { text.parse::<jiff::Timestamp>().ok() } else { None };
    parsed.ok_or_else(|| {
        let (rest, part) = unparsable_part(text);
        time_error(text, layout, rest, part)
    })
}

fn unparsable_part(text: &str) -> (&str, &'static str) {
    const PARTS: [(usize, usize, &str, bool); 11] = [
        (0, 4, "2006", true),
        (4, 5, "-", false),
        (5, 7, "01", true),
        (7, 8, "-", false),
        (8, 10, "02", true),
        (10, 11, "T", false),
        (11, 13, "15", true),
        (13, 14, ":", false),
        (14, 16, "04", true),
        (16, 17, ":", false),
        (17, 19, "05", true),
    ];
    for (from, to, part, digits) in PARTS {
        let fits = text.get(from..to).is_some_and(|piece| if digits { piece.bytes().all(|b| b.is_ascii_digit()) } else { piece == part });
        if !fits {
            return (text.get(from..).unwrap_or(""), part);
        }
    }
    (text.get(19..).unwrap_or(""), "Z07:00")
}

fn time_error(text: &str, layout: &str, rest: &str, part: &str) -> TypeError {
    TypeError(format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {part:?}"))
}

/// `metav1.Time`: whole seconds in UTC.
pub fn format_time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime`: microseconds in UTC.
pub fn format_micro_time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::parse_json;

    fn daemon_set(text: &str) -> Result<Decoded, TypeError> {
        decode(parse_json(text.as_bytes()).unwrap(), schema().named("DaemonSet").unwrap())
    }

    #[test]
    fn zero_values_that_go_writes_are_there_and_those_it_omits_are_gone() {
        let decoded = daemon_set(
            r#"{"spec":{"minReadySeconds":0,"template":{"spec":{"containers":[{"name":"c","env":[],"tty":false}],"hostUsers":false}}}}"#,
        )
        .unwrap();
        assert_eq!(
            decoded.value["spec"]["template"]["spec"].to_string(),
            r#"{"containers":[{"name":"c","resources":{}}],"hostUsers":false}"#
        );
        assert_eq!(
            decoded.value["status"].to_string(),
            r#"{"currentNumberScheduled":0,"desiredNumberScheduled":0,"numberMisscheduled":0,"numberReady":0}"#
        );
        assert!(decoded.value["spec"].get("minReadySeconds").is_none());
    }

    #[test]
    fn unknown_and_duplicate_fields_are_found_in_the_order_of_the_text() {
        let decoded =
            daemon_set(r#"{"x":1,"metadata":{"name":"a","name":"b"},"spec":{"template":{"spec":{"containers":[{"nam":1}]}}}}"#).unwrap();
        assert_eq!(
            decoded.findings,
            [r#"unknown field "x""#, r#"duplicate field "metadata.name""#, r#"unknown field "spec.template.spec.containers[0].nam""#]
        );
    }

    #[test]
    fn type_errors_name_the_struct_and_the_path() {
        let error = daemon_set(r#"{"spec":{"template":{"spec":{"containers":[{"env":[{"value":1}]}]}}}}"#).unwrap_err();
        assert_eq!(
            error.0,
            "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string"
        );
    }

    #[test]
    fn micro_times_need_six_decimals() {
        let lease = schema().named("Lease").unwrap();
        let node = parse_json(br#"{"spec":{"renewTime":"2024-01-02T03:04:05Z"}}"#).unwrap();
        assert_eq!(
            decode(node, lease).unwrap_err().0,
            r#"parsing time "2024-01-02T03:04:05Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#
        );
    }
}
