//! An object's JSON as it is stored and served: `kind` and `apiVersion` first, so that a list can
//! leave them out by cutting, and the place of the resourceVersion known, so that the store can put
//! its revision there.

use serde_json::{Map, Value};

use crate::patch::folded::FIELDS;

/// An encoded object. `revision_at` is the offset in `bytes` where the digits of the
/// resourceVersion belong; they are not there yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    pub bytes: Vec<u8>,
    pub revision_at: usize,
}

impl Encoded {
    /// The bytes with the resourceVersion in its place.
    pub fn at_revision(&self, revision: u64) -> Vec<u8> {
        let (head, tail) = self.bytes.split_at(self.revision_at);
        [head, revision.to_string().as_bytes(), tail].concat()
    }
}

/// Length of `{"kind":"K","apiVersion":"V",`: what a list item does not repeat.
pub fn type_prefix_len(api_version: &str, kind: &str) -> usize {
    r#"{"kind":"","apiVersion":"","#.len() + kind.len() + api_version.len()
}

/// Encodes `object` without its resourceVersion, leaving the place for it.
pub fn encode_to_store(api_version: &str, kind: &str, object: &Value) -> Encoded {
    let (bytes, revision_at) = encode_parts(api_version, kind, object, Revision::Later);
    Encoded { bytes, revision_at: revision_at.expect("only the encoding as it is leaves no place for the revision") }
}

/// Encodes `object` as it is, with the resourceVersion it carries, if any.
pub fn encode(api_version: &str, kind: &str, object: &Value) -> Vec<u8> {
    encode_parts(api_version, kind, object, Revision::AsIs).0
}

/// What [`encode_to_store`] made, from the bytes that the store made of it by putting a revision
/// there; None for other bytes.
pub fn without_revision(api_version: &str, kind: &str, bytes: &[u8]) -> Option<Encoded> {
    const BEFORE: &[u8] = b"\"metadata\":{\"resourceVersion\":\"";
    let prefix_len = type_prefix_len(api_version, kind);
    let rest = bytes.get(prefix_len..)?.strip_prefix(BEFORE)?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let revision_at = prefix_len + BEFORE.len();
    Some(Encoded { bytes: [&bytes[..revision_at], &rest[digits..]].concat(), revision_at })
}

/// Most objects fit; the store copies the bytes to their size.
const CAPACITY: usize = 8 * 1024;

/// Encodes `object` as [`encode`] does once it has a resourceVersion, leaving the place for it.
pub fn encode_answer(api_version: &str, kind: &str, object: &Value) -> Encoded {
    let (bytes, revision_at) = encode_parts(api_version, kind, object, Revision::InOrder);
    Encoded { bytes, revision_at: revision_at.expect("only the encoding as it is leaves no place for the revision") }
}

#[derive(Copy, Clone, PartialEq)]
enum Revision {
    /// Left out; its place is the first.
    Later,
    /// Left out; its place is that of its name.
    InOrder,
    AsIs,
}

fn encode_parts(api_version: &str, kind: &str, object: &Value, revision: Revision) -> (Vec<u8>, Option<usize>) {
    let mut out = Vec::with_capacity(CAPACITY);
    let mut revision_at = None;
    out.extend_from_slice(b"{\"kind\":");
    write_text(&mut out, kind);
    out.extend_from_slice(b",\"apiVersion\":");
    write_text(&mut out, api_version);
    out.extend_from_slice(b",\"metadata\":");
    let empty = Map::new();
    let metadata = object.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    write_metadata(&mut out, metadata, revision, &mut revision_at);
    for (key, value) in object.as_object().unwrap_or(&empty) {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            out.push(b',');
            write_text(&mut out, key);
            out.push(b':');
            write_value(&mut out, value);
        }
    }
    out.push(b'}');
    (out, revision_at)
}

fn write_metadata(out: &mut Vec<u8>, metadata: &Map<String, Value>, revision: Revision, revision_at: &mut Option<usize>) {
    out.push(b'{');
    let mut leave_place = |out: &mut Vec<u8>| {
        separate(out);
        out.extend_from_slice(b"\"resourceVersion\":\"");
        *revision_at = Some(out.len());
        out.push(b'"');
    };
    let mut due = revision == Revision::InOrder;
    if revision == Revision::Later {
        leave_place(out);
    }
    for (key, value) in metadata.iter().filter(|(key, _)| revision == Revision::AsIs || *key != "resourceVersion") {
        if due && key.as_str() > "resourceVersion" {
            leave_place(out);
            due = false;
        }
        separate(out);
        write_text(out, key);
        out.push(b':');
        match value {
            Value::Array(entries) if key == "managedFields" => write_entries(out, entries),
            value => write_value(out, value),
        }
    }
    if due {
        leave_place(out);
    }
    out.push(b'}');
}

/// The entries of managedFields, whose field sets may be folded.
fn write_entries(out: &mut Vec<u8>, entries: &[Value]) {
    out.push(b'[');
    for (at, entry) in entries.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let Value::Object(fields) = entry else {
            write_value(out, entry);
            continue;
        };
        out.push(b'{');
        for (key, value) in fields {
            separate(out);
            write_text(out, key);
            out.push(b':');
            match value {
                Value::String(folded) if key == FIELDS => out.extend_from_slice(folded.as_bytes()),
                value => write_value(out, value),
            }
        }
        out.push(b'}');
    }
    out.push(b']');
}

/// Puts a comma before every field but the first.
fn separate(out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a text always serialises into memory");
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a JSON value with text keys always serialises into memory");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_revision_has_a_place_and_the_type_can_be_cut_off() {
        let object = json!({"metadata": {"name": "a", "resourceVersion": "7"}, "data": {"k": "v"}});
        let encoded = encode_to_store("v1", "ConfigMap", &object);
        assert_eq!(encode_answer("v1", "ConfigMap", &object).at_revision(7), encode("v1", "ConfigMap", &object));
        let Encoded { mut bytes, revision_at } = encoded.clone();
        bytes.splice(revision_at..revision_at, *b"42");
        assert_eq!(without_revision("v1", "ConfigMap", &bytes), Some(encoded));
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text, r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"42","name":"a"},"data":{"k":"v"}}"#);
        assert_eq!(&text[type_prefix_len("v1", "ConfigMap")..], r#""metadata":{"resourceVersion":"42","name":"a"},"data":{"k":"v"}}"#);
    }
}
