//! Text to tree: JSON and YAML documents as they were written, with the order of their fields and
//! with duplicates.
//!
//! In: bytes of a request. Out: a [`Node`], or a syntax error in the words of Go's decoders. What a
//! field means is not known here; `decode` holds the tree against the schema.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Documents nested deeper are refused, whatever their form.
///
/// Readers of JSON, our own among them, stop at 127: an object that could be stored and not be read
/// again would break every list and watch that it is in. What lies between the two is for what is
/// put around an object: lists, watch events, managedFields.
pub const DEPTH_MAX: usize = 100;

/// Objects that are stored are not nested deeper, whatever way they came: managedFields are a few
/// levels deeper than what they are about.
pub const STORED_DEPTH_MAX: usize = 120;

/// A document's value. Objects keep their fields in the order of the text, duplicates included.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    /// The last field of that name.
    pub fn get(&self, name: &str) -> Option<&Node> {
        match self {
            Node::Object(fields) => fields.iter().rev().find(|(key, _)| key == name).map(|(_, node)| node),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Node::String(text) => Some(text),
            _ => None,
        }
    }

    /// The tree without knowledge of a schema; the last of duplicate fields wins.
    pub fn into_value(self) -> Value {
        match self {
            Node::Null => Value::Null,
            Node::Bool(b) => Value::Bool(b),
            Node::Number(n) => Value::Number(n),
            Node::String(s) => Value::String(s),
            Node::List(items) => Value::Array(items.into_iter().map(Node::into_value).collect()),
            Node::Object(fields) => Value::Object(fields.into_iter().map(|(k, v)| (k, v.into_value())).collect::<Map<_, _>>()),
        }
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Node {
        match value {
            Value::Null => Node::Null,
            Value::Bool(b) => Node::Bool(b),
            Value::Number(n) => Node::Number(n),
            Value::String(s) => Node::String(s),
            Value::Array(items) => Node::List(items.into_iter().map(Node::from).collect()),
            Value::Object(fields) => Node::Object(fields.into_iter().map(|(k, v)| (k, Node::from(v))).collect()),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Number::from_f64(value).map_or(Node::Null, Node::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Object(fields))
    }
}

/// Text that is no JSON; the message is Go's.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct SyntaxError(pub String);

/// Parses a JSON document. Nesting deeper than [`DEPTH_MAX`] is refused.
pub fn parse_json(bytes: &[u8]) -> Result<Node, SyntaxError> {
    if nesting(bytes) > DEPTH_MAX {
        return Err(SyntaxError("exceeded max depth".to_owned()));
    }
    serde_json::from_slice(bytes).map_err(|e| json_syntax_error(bytes, &e))
}

/// Parses a JSON document whose objects have each field once, without keeping their order; None for
/// all others.
pub fn parse_plain(bytes: &[u8]) -> Option<Value> {
    if nesting(bytes) > DEPTH_MAX {
        return None;
    }
    serde_json::from_slice(bytes).ok().map(|Plain(value)| value)
}

/// How deep a JSON text is nested; of a text that is no JSON, how deep a reader could get in it.
pub fn nesting(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => skip_text(&mut rest),
            _ => {}
        }
    }
    deepest
}

/// About how many bytes a JSON text has with a line for each value, indented by two spaces a level.
pub fn indented_bytes(json: &[u8]) -> usize {
    let (mut depth, mut bytes) = (0usize, json.len());
    let mut rest = json.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                skip_text(&mut rest);
                continue;
            }
            b',' => {}
            _ => continue,
        }
        bytes = bytes.saturating_add(1 + 2 * depth);
    }
    bytes
}

/// Reads on behind the quotation mark that ends a text.
fn skip_text(rest: &mut std::slice::Iter<'_, u8>) {
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest.as_slice()) {
        let is_end = rest.as_slice()[at] == b'"';
        // A character that follows a backslash is the text's.
        let read = if is_end { at + 1 } else { at + 2 };
        *rest = rest.as_slice().get(read..).unwrap_or_default().iter();
        if is_end {
            return;
        }
    }
    *rest = [].iter();
}

/// A tree whose objects had each field once.
struct Plain(Value);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Plain, D::Error> {
        deserializer.deserialize_any(PlainVisitor).map(Plain)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Plain(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((name, Plain(value))) = map.next_entry::<String, Plain>()? {
            if fields.insert(name, value).is_some() {
                return Err(serde::de::Error::custom("a field is there twice"));
            }
        }
        Ok(Value::Object(fields))
    }
}

/// Says what is wrong with a JSON text as Go's encoding/json does.
fn json_syntax_error(bytes: &[u8], error: &serde_json::Error) -> SyntaxError {
    let text = error.to_string();
    if text.starts_with("recursion limit") {
        return SyntaxError("exceeded max depth".to_owned());
    }
    if error.is_eof() {
        return SyntaxError("unexpected end of JSON input".to_owned());
    }
    match offending_char(bytes, error) {
        Some(c) => SyntaxError(format!("invalid character {} {}", quote_char(c), syntax_context(&text))),
        None => SyntaxError("unexpected end of JSON input".to_owned()),
    }
}

fn offending_char(bytes: &[u8], error: &serde_json::Error) -> Option<char> {
    let line_start: usize = bytes.split_inclusive(|&b| b == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let at = line_start + error.column().saturating_sub(1);
    let rest = bytes.get(at..)?;
    // Go reads bytes here, so that a multi-byte character shows as its first byte.
    rest.first().map(|&b| char::from(b))
}

fn quote_char(c: char) -> String {
    match c {
        '\'' => r"'\''".to_owned(),
        '"' => "'\"'".to_owned(),
        c if c.is_ascii_graphic() || c == ' ' => format!("'{c}'"),
        '\n' => r"'\n'".to_owned(),
        '\t' => r"'\t'".to_owned(),
        '\r' => r"'\r'".to_owned(),
        c if (c as u32) < 0x80 => format!(r"'\x{:02x}'", c as u32),
        c if (c as u32) < 0xa0 => format!(r"'\u{:04x}'", c as u32),
        c => format!("'{c}'"),
    }
}

fn syntax_context(serde_text: &str) -> &'static str {
    if serde_text.starts_with("trailing characters") {
        "after top-level value"
    } else if serde_text.starts_with("key must be a string") {
        "looking for beginning of object key string"
    } else if serde_text.starts_with("expected `:`") {
        "after object key"
    } else if serde_text.starts_with("expected `,` or `}`") {
        "after object key:value pair"
    } else if serde_text.starts_with("expected `,` or `]`") {
        "after array element"
    } else if serde_text.starts_with("control character") {
        "in string literal"
    } else if serde_text.starts_with("invalid escape") {
        "in string escape code"
    } else {
        "looking for beginning of value"
    }
}

/// The first JSON value in the text that Go's decoder would fail at; used where only the message
/// matters.
pub fn json_error_of(bytes: &[u8]) -> Option<String> {
    parse_json(bytes).err().map(|e| e.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_and_order_are_kept() {
        let node = parse_json(br#"{"b":1,"a":2,"b":3}"#).unwrap();
        let Node::Object(fields) = node else { panic!("an object") };
        assert_eq!(fields.iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>(), ["b", "a", "b"]);
    }

    #[test]
    fn syntax_errors_speak_as_go_does() {
        assert_eq!(json_error_of(b"").unwrap(), "unexpected end of JSON input");
        assert_eq!(json_error_of(b"{\"a\":").unwrap(), "unexpected end of JSON input");
        assert_eq!(json_error_of(b"apiVersion: v1").unwrap(), "invalid character 'a' looking for beginning of value");
        assert_eq!(json_error_of(b"{} x").unwrap(), "invalid character 'x' after top-level value");
        assert_eq!(json_error_of(b"{a}").unwrap(), "invalid character 'a' looking for beginning of object key string");
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = "[".repeat(100_000);
        assert_eq!(json_error_of(deep.as_bytes()).unwrap(), "exceeded max depth");
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(json_error_of(nested(DEPTH_MAX).as_bytes()), None);
        assert_eq!(json_error_of(nested(DEPTH_MAX + 1).as_bytes()).unwrap(), "exceeded max depth");
        assert_eq!(parse_plain(nested(DEPTH_MAX + 1).as_bytes()), None);
        assert_eq!(json_error_of(format!(r#"["\"{}"]"#, "[".repeat(1000)).as_bytes()), None);
    }
}
