//! JSON patch (RFC 6902), with the deviations of the library that Kubernetes uses: `replace` adds a missing key, negative
//! indices count from the end, a missing `value` is null. An operation that does not apply refuses the whole patch.

use serde_json::Value;

use super::{Findings, PatchError, Patched, Shown, duplicates, inapplicable, json_type};
use crate::document::{Node, parse_json};
use crate::status::Status;

/// More operations than this are refused, as in Kubernetes.
const OPERATIONS_MAX: usize = 10_000;

/// Copies may blow a document up exponentially; Kubernetes stops at its request limit of 3 MiB.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

/// An operation that cannot be performed. Kubernetes does not say which one it was.
#[derive(Debug)]
struct Refused;

/// Applies the operations of `patch` to `current`, one after another.
pub fn apply(current: &Value, patch: &[u8], findings: Findings) -> Result<Patched, PatchError> {
    let node = parse_json(patch).map_err(|e| undecodable(&e.0, findings))?;
    let operations = operations(&node, findings)?;
    if operations.len() > OPERATIONS_MAX {
        let count = operations.len();
        let message = format!("Request entity too large: The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}");
        return Err(Status::payload_too_large(message).into());
    }
    let mut document = current.clone();
    let mut copied_bytes = 0;
    let mut opened = vec![Vec::new()];
    for operation in operations {
        perform(&mut document, operation, &mut copied_bytes).map_err(|Refused| PatchError(inapplicable()))?;
        opened.extend(["path", "from"].into_iter().filter_map(|name| operation.get(name)?.as_str()).flat_map(containers));
    }
    let findings = if findings == Findings::Listed { strict_findings(&node) } else { Vec::new() };
    Ok(Patched { document, findings, shown: Shown::Document { opened } })
}

fn undecodable(why: &str, findings: Findings) -> PatchError {
    let prefix = if findings == Findings::Listed { "error decoding patch: " } else { "" };
    Status::bad_request(format!("{prefix}{why}")).into()
}

fn operations(node: &Node, findings: Findings) -> Result<&[Node], PatchError> {
    let (list_type, item_type) = match findings {
        Findings::Listed => ("[]handlers.jsonPatchOp", "handlers.jsonPatchOp"),
        Findings::Ignored => ("jsonpatch.Patch", "jsonpatch.Operation"),
    };
    let mismatch = |node: &Node, go_type: &str| {
        undecodable(&format!("json: cannot unmarshal {} into Go value of type {go_type}", json_type(node)), findings)
    };
    let items = match node {
        Node::Null => return Ok(&[]),
        Node::List(items) => items,
        other => return Err(mismatch(other, list_type)),
    };
    for item in items {
        match item {
            Node::Object(_) if findings == Findings::Listed => check_texts(item)?,
            Node::Object(_) | Node::Null => {}
            other => return Err(mismatch(other, item_type)),
        }
    }
    Ok(items)
}

fn check_texts(operation: &Node) -> Result<(), PatchError> {
    for name in ["op", "path", "from"] {
        match operation.get(name) {
            None | Some(Node::Null | Node::String(_)) => {}
            Some(other) => {
                let why = format!("json: cannot unmarshal {} into Go struct field jsonPatchOp.{name} of type string", json_type(other));
                return Err(undecodable(&why, Findings::Listed));
            }
        }
    }
    Ok(())
}

fn strict_findings(node: &Node) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    if let Node::List(items) = node {
        for (at, item) in items.iter().enumerate() {
            let Node::Object(fields) = item else { continue };
            let unknown = fields.iter().filter(|(name, _)| !matches!(name.as_str(), "op" | "path" | "from" | "value"));
            found.extend(unknown.map(|(name, _)| format!("json patch unknown field \"[{at}].{name}\"")));
        }
    }
    found.extend(duplicates(node).into_iter().map(|finding| format!("json patch {finding}")));
    found.truncate(super::FINDINGS_MAX);
    found
}

fn perform(document: &mut Value, operation: &Node, copied_bytes: &mut usize) -> Result<(), Refused> {
    let text = |name: &str| operation.get(name).and_then(Node::as_str).ok_or(Refused);
    let value = || operation.get("value").cloned().map_or(Value::Null, Node::into_value);
    match text("op")? {
        "add" => add(document, text("path")?, value()),
        "remove" => remove(document, text("path")?).map(drop),
        "replace" => replace(document, text("path")?, value()),
        "move" => {
            let moved = remove(document, text("from")?)?;
            add(document, text("path")?, moved)
        }
        "copy" => {
            let copied = get(document, text("from")?)?.cloned().unwrap_or(Value::Null);
            *copied_bytes += copied.to_string().len();
            if *copied_bytes > COPIED_BYTES_MAX {
                return Err(Refused);
            }
            add(document, text("path")?, copied)
        }
        "test" => {
            let path = text("path")?;
            let found = if path.is_empty() { Some(&*document) } else { get(document, path)? };
            if found.unwrap_or(&Value::Null) == &value() { Ok(()) } else { Err(Refused) }
        }
        _ => Err(Refused),
    }
}

/// Splits a pointer into the keys of the containers on the way and the last key.
fn split(path: &str) -> Result<(Vec<String>, String), Refused> {
    let mut keys: Vec<String> = path.split('/').skip(1).map(|key| key.replace("~1", "/").replace("~0", "~")).collect();
    let last = keys.pop().ok_or(Refused)?;
    Ok((keys, last))
}

/// The paths of the containers that a pointer leads through.
fn containers(path: &str) -> Vec<Vec<String>> {
    let (keys, _) = split(path).unwrap_or_default();
    (1..=keys.len()).map(|len| keys[..len].to_vec()).collect()
}

fn container<'a>(document: &'a mut Value, keys: &[String]) -> Result<&'a mut Value, Refused> {
    let mut at = document;
    for key in keys {
        at = match at {
            Value::Object(fields) => fields.get_mut(key).ok_or(Refused)?,
            Value::Array(items) => {
                let index = existing(key, items.len())?;
                &mut items[index]
            }
            _ => return Err(Refused),
        };
    }
    if at.is_object() || at.is_array() { Ok(at) } else { Err(Refused) }
}

/// The index of an element that exists.
fn existing(key: &str, len: usize) -> Result<usize, Refused> {
    index(key, len).filter(|&index| index < len).ok_or(Refused)
}

/// An index, negative ones counted from `len`.
fn index(key: &str, len: usize) -> Option<usize> {
    let number: i64 = key.parse().ok()?;
    if number >= 0 { usize::try_from(number).ok() } else { len.checked_sub(usize::try_from(number.unsigned_abs()).ok()?) }
}

fn get<'a>(document: &'a mut Value, path: &str) -> Result<Option<&'a Value>, Refused> {
    let (keys, last) = split(path)?;
    match container(document, &keys)? {
        Value::Array(items) => Ok(Some(&items[existing(&last, items.len())?])),
        fields => Ok(fields.get(&last)),
    }
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), Refused> {
    let (keys, last) = split(path)?;
    match container(document, &keys)? {
        Value::Object(fields) => {
            fields.insert(last, value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let at = index(&last, items.len() + 1).filter(|&at| at <= items.len()).ok_or(Refused)?;
            items.insert(at, value);
        }
        _ => return Err(Refused),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<Value, Refused> {
    let (keys, last) = split(path)?;
    match container(document, &keys)? {
        Value::Object(fields) => fields.remove(&last).ok_or(Refused),
        Value::Array(items) => {
            let at = existing(&last, items.len())?;
            Ok(items.remove(at))
        }
        _ => Err(Refused),
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), Refused> {
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return Err(Refused);
        }
        *document = value;
        return Ok(());
    }
    let (keys, last) = split(path)?;
    match container(document, &keys)? {
        Value::Object(fields) => {
            fields.insert(last, value);
        }
        Value::Array(items) => {
            let at = existing(&last, items.len())?;
            items[at] = value;
        }
        _ => return Err(Refused),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn check(patch: &str, expected: Expect) {
        let current = json!({"a": {"x": "1", "s/t": 2}, "l": [1, 2, 3]});
        let text = match apply(&current, patch.as_bytes(), Findings::Listed) {
            Ok(patched) => format!("{} {:?}", patched.document, patched.findings),
            Err(error) => format!("{} {}", error.0.code, error.0.message),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn operations_follow_the_library() {
        check(r#"[{"op":"replace","path":"/a/new","value":1}]"#, expect![[r#"{"a":{"new":1,"s/t":2,"x":"1"},"l":[1,2,3]} []"#]]);
        check(
            r#"[{"op":"add","path":"/l/-1","value":9},{"op":"remove","path":"/l/0"}]"#,
            expect![[r#"{"a":{"s/t":2,"x":"1"},"l":[2,3,9]} []"#]],
        );
        check(r#"[{"op":"move","from":"/a/s~1t","path":"/l/1"}]"#, expect![[r#"{"a":{"x":"1"},"l":[1,2,2,3]} []"#]]);
        check(
            r#"[{"op":"copy","from":"/a/zz","path":"/b"},{"op":"test","path":"/b"}]"#,
            expect![[r#"{"a":{"s/t":2,"x":"1"},"b":null,"l":[1,2,3]} []"#]],
        );
        check(r#"null"#, expect![[r#"{"a":{"s/t":2,"x":"1"},"l":[1,2,3]} []"#]]);
    }

    #[test]
    fn what_does_not_apply_is_422_without_a_reason() {
        for patch in [
            r#"[{"op":"remove","path":"/a/zz"}]"#,
            r#"[{"op":"test","path":"/a/x","value":2}]"#,
            r#"[{"op":"frob","path":"/a"}]"#,
            r#"[{"op":"add","path":"/l/4","value":1}]"#,
            r#"[{"op":"replace","path":"/l/3","value":1}]"#,
            r#"[{"op":"add","path":"/zz/a","value":1}]"#,
            r#"[{"op":"add","path":"","value":1}]"#,
            r#"[null]"#,
        ] {
            check(patch, expect!["422 the server rejected our request due to an error in our request"]);
        }
    }

    #[test]
    fn malformed_patches_speak_as_go_does() {
        check("{}", expect!["400 error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"]);
        check("[1]", expect!["400 error decoding patch: json: cannot unmarshal number into Go value of type handlers.jsonPatchOp"]);
        check(
            r#"[{"op":1}]"#,
            expect!["400 error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"],
        );
        check(
            r#"[{"op":"test","path":"/a/x","value":"1","foo":1}]"#,
            expect![[r#"{"a":{"s/t":2,"x":"1"},"l":[1,2,3]} ["json patch unknown field \"[0].foo\""]"#]],
        );
    }

    #[test]
    fn too_many_operations_are_413() {
        let patch = format!("[{}]", vec![r#"{"op":"test","path":"/a/x","value":"1"}"#; OPERATIONS_MAX + 1].join(","));
        check(&patch, expect!["413 Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"]);
    }
}
