//! The OpenAPI v2 document in protobuf, as kubectl before 1.29 reads it before `apply`, `create`
//! and `explain`: it asks for nothing else.
//!
//! The messages are gnostic's (`openapiv2/OpenAPIv2.proto`). Written is what clients look at:
//! shapes, descriptions and extensions of types, and which operations take which parameters. What
//! JSON schema calls `allOf` one type is here the reference itself, and `oneOf` is the string that
//! Kubernetes makes of it in this version.

use serde_json::{Map, Value};

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.number(u64::from(field << 3 | 2));
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u32, message: Message) {
        self.bytes(field, &message.0);
    }

    /// Nothing, if the value is no text.
    fn text(&mut self, field: u32, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u32, values: &Value) {
        for value in values.as_array().into_iter().flatten() {
            self.text(field, value);
        }
    }

    /// In groups of seven bits, the lowest first.
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// `x-...` fields; their values are YAML, which JSON is.
    fn extensions(&mut self, field: u32, object: &Value) {
        let all = object.as_object().into_iter().flatten();
        for (name, value) in all.filter(|(name, _)| name.starts_with("x-")) {
            let mut any = Message::default();
            any.bytes(2, value.to_string().as_bytes());
            self.message(field, named(name, any));
        }
    }
}

/// A pair of a map.
fn named(name: &str, value: Message) -> Message {
    let mut pair = Message::default();
    pair.bytes(1, name.as_bytes());
    pair.message(2, value);
    pair
}

/// The whole document.
pub fn document(json: &Value) -> Vec<u8> {
    let mut info = Message::default();
    info.text(1, &json["info"]["title"]);
    info.text(2, &json["info"]["version"]);
    let mut paths = Message::default();
    for (path, item) in json["paths"].as_object().into_iter().flatten() {
        paths.message(2, named(path, path_item(item)));
    }
    let mut document = Message::default();
    document.text(1, &json["swagger"]);
    document.message(2, info);
    document.message(8, paths);
    document.message(9, schemas(json["definitions"].as_object()));
    document.0
}

/// Definitions, and the properties of a type.
fn schemas(named_schemas: Option<&Map<String, Value>>) -> Message {
    let mut message = Message::default();
    for (name, value) in named_schemas.into_iter().flatten() {
        message.message(1, named(name, schema(value)));
    }
    message
}

fn schema(json: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, if json["$ref"].is_string() { &json["$ref"] } else { &json["allOf"][0]["$ref"] });
    message.text(2, &json["format"]);
    message.text(4, &json["description"]);
    message.texts(19, &json["required"]);
    if json["additionalProperties"].is_object() {
        let mut item = Message::default();
        item.message(1, schema(&json["additionalProperties"]));
        message.message(21, item);
    }
    let kind = if json["oneOf"].is_array() { "string" } else { json["type"].as_str().unwrap_or_default() };
    if !kind.is_empty() {
        let mut item = Message::default();
        item.bytes(1, kind.as_bytes());
        message.message(22, item);
    }
    if json["items"].is_object() {
        let mut item = Message::default();
        item.message(1, schema(&json["items"]));
        message.message(23, item);
    }
    if json["properties"].is_object() {
        message.message(25, schemas(json["properties"].as_object()));
    }
    message.extensions(31, json);
    message
}

fn path_item(json: &Value) -> Message {
    let mut message = Message::default();
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if json[method].is_object() {
            message.message(field, operation(&json[method]));
        }
    }
    message
}

fn operation(json: &Value) -> Message {
    let mut message = Message::default();
    message.text(5, &json["operationId"]);
    message.texts(7, &json["consumes"]);
    for parameter in json["parameters"].as_array().into_iter().flatten() {
        message.message(8, query_parameter(parameter));
    }
    message.extensions(13, json);
    message
}

/// Query parameters are a choice within a choice within a choice.
fn query_parameter(json: &Value) -> Message {
    let mut query = Message::default();
    query.text(2, &json["in"]);
    query.text(4, &json["name"]);
    query.text(6, &json["schema"]["type"]);
    [3, 2, 1].into_iter().fold(query, |inner, field| {
        let mut outer = Message::default();
        outer.message(field, inner);
        outer
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_take_as_many_bytes_as_they_need() {
        let mut message = Message::default();
        message.number(1);
        message.number(300);
        assert_eq!(message.0, [1, 0xac, 2]);
    }

    #[test]
    fn references_and_choices_are_as_in_version_2() {
        let reference = schema(&json!({"allOf": [{"$ref": "#/definitions/T"}], "description": "d"})).0;
        assert_eq!(reference, b"\x0a\x0f#/definitions/T\x22\x01d");
        let choice = schema(&json!({"format": "f", "oneOf": [{"type": "integer"}, {"type": "string"}]})).0;
        assert_eq!(choice, b"\x12\x01f\xb2\x01\x08\x0a\x06string");
    }

    #[test]
    fn a_document_names_its_types_and_their_kinds() {
        let written = document(&json!({
            "swagger": "2.0", "info": {"title": "t"}, "paths": {},
            "definitions": {"T": {"type": "object", "x-kind": ["k"]}},
        }));
        let schema = b"\xb2\x01\x08\x0a\x06object\xfa\x01\x11\x0a\x06x-kind\x12\x07\x12\x05[\"k\"]";
        let definitions = [b"\x4a\x26\x0a\x24\x0a\x01T\x12\x1f".as_slice(), schema].concat();
        assert_eq!(written, [b"\x0a\x032.0\x12\x03\x0a\x01t\x42\x00".as_slice(), &definitions].concat());
    }
}
