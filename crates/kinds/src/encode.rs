//! An object's JSON as it is stored and served: `kind` and `apiVersion` first, so that a list can leave them out by cutting,
//! and the place of the resourceVersion known, so that the store can put its revision there.

use serde_json::{Map, Value};

/// An encoded object. `revision_at` is the offset in `bytes` where the digits of the resourceVersion belong; they are not there yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    pub bytes: Vec<u8>,
    pub revision_at: usize,
}

/// Length of `{"kind":"K","apiVersion":"V",`: what a list item does not repeat.
pub fn type_prefix_len(api_version: &str, kind: &str) -> usize {
    r#"{"kind":"","apiVersion":"","#.len() + kind.len() + api_version.len()
}

/// Encodes `object` without its resourceVersion, leaving the place for it.
pub fn encode_template(api_version: &str, kind: &str, object: &Value) -> Encoded {
    let (bytes, revision_at) = encode_parts(api_version, kind, object, Revision::Later);
    Encoded { bytes, revision_at: revision_at.expect("a template has a place for the revision") }
}

/// Encodes `object` as it is, with the resourceVersion it carries, if any.
pub fn encode(api_version: &str, kind: &str, object: &Value) -> Vec<u8> {
    encode_parts(api_version, kind, object, Revision::AsIs).0
}

#[derive(Copy, Clone, PartialEq)]
enum Revision {
    Later,
    AsIs,
}

fn encode_parts(api_version: &str, kind: &str, object: &Value, revision: Revision) -> (Vec<u8>, Option<usize>) {
    let mut out = Vec::with_capacity(1024);
    let mut revision_at = None;
    out.extend_from_slice(b"{\"kind\":");
    write_value(&mut out, &Value::from(kind));
    out.extend_from_slice(b",\"apiVersion\":");
    write_value(&mut out, &Value::from(api_version));
    out.extend_from_slice(b",\"metadata\":");
    let empty = Map::new();
    let metadata = object.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    write_metadata(&mut out, metadata, revision, &mut revision_at);
    for (key, value) in object.as_object().unwrap_or(&empty) {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            out.push(b',');
            write_value(&mut out, &Value::from(key.as_str()));
            out.push(b':');
            write_value(&mut out, value);
        }
    }
    out.push(b'}');
    (out, revision_at)
}

fn write_metadata(out: &mut Vec<u8>, metadata: &Map<String, Value>, revision: Revision, revision_at: &mut Option<usize>) {
    out.push(b'{');
    if revision == Revision::Later {
        out.extend_from_slice(b"\"resourceVersion\":\"");
        *revision_at = Some(out.len());
        out.push(b'"');
    }
    for (key, value) in metadata {
        if key == "resourceVersion" && revision == Revision::Later {
            continue;
        }
        if out.last() != Some(&b'{') {
            out.push(b',');
        }
        write_value(out, &Value::from(key.as_str()));
        out.push(b':');
        write_value(out, value);
    }
    out.push(b'}');
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
        let Encoded { mut bytes, revision_at } = encode_template("v1", "ConfigMap", &object);
        bytes.splice(revision_at..revision_at, *b"42");
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text, r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"42","name":"a"},"data":{"k":"v"}}"#);
        assert_eq!(&text[type_prefix_len("v1", "ConfigMap")..], r#""metadata":{"resourceVersion":"42","name":"a"},"data":{"k":"v"}}"#);
    }
}
