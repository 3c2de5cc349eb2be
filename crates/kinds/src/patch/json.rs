//! JSON patch (RFC 6902), with the deviations of the library that Kubernetes uses: `replace` adds a
//! missing key, negative indices count from the end, a missing `value` is null. An operation that
//! does not apply refuses the whole patch.

use serde_json::Value;

use super::{Findings, Opened, PatchError, Patched, Shown, duplicates, inapplicable, json_type};
use crate::document::{DEPTH_MAX, Node, parse_json};
use crate::status::Status;

/// More operations than this are refused, as in Kubernetes.
const OPERATIONS_MAX: usize = 10_000;

/// Copies may blow a document up exponentially; Kubernetes stops at its request limit of 3 MiB.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Steps that the operations of a patch may take together: elements of lists that are moved up or
/// down, values whose depth is looked at. Ten thousand operations on a list of a hundred thousand
/// elements would hold up the server for minutes.
const STEPS_MAX: usize = 50_000_000;

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
    let mut patching = Patching { document: current.clone(), copied_bytes: 0, steps: 0 };
    let mut opened = Opened::root();
    for operation in operations {
        patching.perform(operation).map_err(|Refused| PatchError(inapplicable()))?;
        let paths = ["path", "from"].into_iter().filter_map(|name| operation.get(name)?.as_str());
        paths.for_each(|path| open_containers(path, &mut opened));
    }
    let findings = if findings == Findings::Listed { strict_findings(&node) } else { Vec::new() };
    Ok(Patched { document: patching.document, findings, shown: Shown::Document { opened } })
}

/// A document in the middle of its operations, and what they have cost.
struct Patching {
    document: Value,
    copied_bytes: usize,
    steps: usize,
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

impl Patching {
    fn perform(&mut self, operation: &Node) -> Result<(), Refused> {
        let text = |name: &str| operation.get(name).and_then(Node::as_str).ok_or(Refused);
        let value = || operation.get("value").cloned().map_or(Value::Null, Node::into_value);
        match text("op")? {
            "add" => self.put(text("path")?, value(), add),
            "remove" => self.remove(text("path")?).map(drop),
            "replace" => self.put(text("path")?, value(), replace),
            "move" => {
                let moved = self.remove(text("from")?)?;
                self.put(text("path")?, moved, add)
            }
            "copy" => {
                let copied = get(&mut self.document, text("from")?)?.cloned().unwrap_or(Value::Null);
                self.copied_bytes += copied.to_string().len();
                if self.copied_bytes > COPIED_BYTES_MAX {
                    return Err(Refused);
                }
                self.put(text("path")?, copied, add)
            }
            "test" => {
                let path = text("path")?;
                let found = if path.is_empty() { Some(&self.document) } else { get(&mut self.document, path)? };
                if found.unwrap_or(&Value::Null) == &value() { Ok(()) } else { Err(Refused) }
            }
            _ => Err(Refused),
        }
    }

    /// Puts a value in its place by `how`, unless the document would be nested deeper than
    /// documents may be. Operations make a document deeper than any text of a patch is: each can
    /// put what the last one made one level further down.
    fn put(&mut self, path: &str, value: Value, how: fn(&mut Value, &str, Value) -> Result<usize, Refused>) -> Result<(), Refused> {
        let (depth, nodes) = measured(&value);
        self.spend(nodes)?;
        if path.matches('/').count() + depth > DEPTH_MAX {
            return Err(Refused);
        }
        let steps = how(&mut self.document, path, value)?;
        self.spend(steps)
    }

    fn remove(&mut self, path: &str) -> Result<Value, Refused> {
        let (removed, steps) = remove(&mut self.document, path)?;
        self.spend(steps)?;
        Ok(removed)
    }

    fn spend(&mut self, steps: usize) -> Result<(), Refused> {
        self.steps += steps;
        if self.steps > STEPS_MAX { Err(Refused) } else { Ok(()) }
    }
}

/// How many levels and how many values a tree has.
fn measured(value: &Value) -> (usize, usize) {
    let inside = |values: &mut dyn Iterator<Item = &Value>| {
        values.map(measured).fold((1, 1), |(depth, nodes), (below, more)| (depth.max(below + 1), nodes + more))
    };
    match value {
        Value::Array(items) => inside(&mut items.iter()),
        Value::Object(fields) => inside(&mut fields.values()),
        _ => (0, 1),
    }
}

/// Splits a pointer into the keys of the containers on the way and the last key.
fn split(path: &str) -> Result<(Vec<String>, String), Refused> {
    let mut keys: Vec<String> = path.split('/').skip(1).map(|key| key.replace("~1", "/").replace("~0", "~")).collect();
    let last = keys.pop().ok_or(Refused)?;
    Ok((keys, last))
}

/// Notes the containers that a pointer leads through.
fn open_containers(path: &str, opened: &mut Opened) {
    let (keys, _) = split(path).unwrap_or_default();
    keys.iter().fold(opened, |at, key| at.open(key));
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

/// Adds a value; says how many elements of a list moved up.
fn add(document: &mut Value, path: &str, value: Value) -> Result<usize, Refused> {
    let (keys, last) = split(path)?;
    match container(document, &keys)? {
        Value::Object(fields) => {
            fields.insert(last, value);
            Ok(1)
        }
        Value::Array(items) => {
            let end = items.len();
            let at = if last == "-" { end } else { index(&last, end + 1).filter(|&at| at <= end).ok_or(Refused)? };
            items.insert(at, value);
            Ok(end - at)
        }
        _ => Err(Refused),
    }
}

/// Takes a value away; says how many elements of a list moved down.
fn remove(document: &mut Value, path: &str) -> Result<(Value, usize), Refused> {
    let (keys, last) = split(path)?;
    match container(document, &keys)? {
        Value::Object(fields) => fields.remove(&last).map(|removed| (removed, 1)).ok_or(Refused),
        Value::Array(items) => {
            let at = existing(&last, items.len())?;
            Ok((items.remove(at), items.len() - at))
        }
        _ => Err(Refused),
    }
}

/// Puts a value in the place of another; moves nothing.
fn replace(document: &mut Value, path: &str, value: Value) -> Result<usize, Refused> {
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return Err(Refused);
        }
        *document = value;
        return Ok(0);
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
    Ok(0)
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

    /// Each operation may put what the last one made further down: the document became so deep that
    /// dropping it filled the stack.
    #[test]
    fn operations_cannot_nest_a_document_deeper_than_documents_may_be() {
        let nest = |value: &str, how: &str| {
            let one = format!(
                r#"{{"op":"add","path":"/b","value":{value}}},{{"op":"{how}","from":"/a","path":"/b/c"}},{{"op":"move","from":"/b","path":"/a"}}"#
            );
            format!("[{}]", vec![one; 3000].join(","))
        };
        for patch in [nest("{}", "move"), nest("{}", "copy")] {
            check(&patch, expect!["422 the server rejected our request due to an error in our request"]);
        }
    }

    #[test]
    fn operations_on_long_lists_have_a_limit_of_steps() {
        let current = json!({"l": vec![0; 400_000]});
        let patch = format!("[{}]", vec![r#"{"op":"remove","path":"/l/0"}"#; 9_000].join(","));
        assert_eq!(apply(&current, patch.as_bytes(), Findings::Ignored).unwrap_err().0.code, 422);
    }

    /// The prefixes of a long path take the square of its length.
    #[test]
    fn what_a_patch_went_through_costs_no_more_than_its_paths() {
        let patch = format!(r#"[{{"op":"test","path":"{}"}}]"#, "/a".repeat(1_400_000));
        assert_eq!(apply(&json!({}), patch.as_bytes(), Findings::Listed).unwrap_err().0.code, 422);
        let objects = vec!["{}"; 400_000].iter().enumerate().map(|(i, object)| format!("\"{i}\":{object}")).collect::<Vec<_>>().join(",");
        let deep = format!("{}{{{objects}}}{}", "{\"a\":".repeat(90), "}".repeat(90));
        assert!(crate::patch::merge::apply(&json!({}), deep.as_bytes(), Findings::Listed).is_ok());
    }
}
