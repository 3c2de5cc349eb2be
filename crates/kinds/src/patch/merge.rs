//! JSON merge patch (RFC 7386): objects merge, null deletes, everything else replaces.

use serde_json::{Map, Value};

use super::{Findings, Opened, PatchError, Patched, Shown, duplicates, json_type};
use crate::document::{Node, parse_json, parse_plain};
use crate::status::Status;

/// Merges `patch` into `current`.
pub fn apply(current: &Value, patch: &[u8], findings: Findings) -> Result<Patched, PatchError> {
    let (patch, found) = parse(patch, findings)?;
    let mut document = current.clone();
    let mut opened = Opened::root();
    open_objects(&patch, &mut opened);
    merge(&mut document, patch);
    Ok(Patched { document, findings: found, shown: Shown::Document { opened } })
}

/// The patch, and which of its fields are there twice.
fn parse(patch: &[u8], findings: Findings) -> Result<(Value, Vec<String>), PatchError> {
    if let Some(patch @ Value::Object(_)) = parse_plain(patch) {
        return Ok((patch, Vec::new()));
    }
    let node = parse_json(patch).map_err(|e| match findings {
        Findings::Listed => Status::bad_request(format!("error decoding patch: {}", e.0)),
        Findings::Ignored => invalid_patch(),
    })?;
    match &node {
        Node::Object(_) => {
            let found = if findings == Findings::Listed { duplicates(&node) } else { Vec::new() };
            Ok((node.into_value(), found))
        }
        Node::Null => Err(invalid_patch().into()),
        other => {
            let why = format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", json_type(other));
            Err(Status::bad_request(format!("error decoding patch: {why}")).into())
        }
    }
}

fn open_objects(patch: &Value, opened: &mut Opened) {
    for (name, value) in patch.as_object().into_iter().flatten().filter(|(_, value)| value.is_object()) {
        open_objects(value, opened.open(name));
    }
}

fn invalid_patch() -> Status {
    Status::bad_request("Invalid JSON Patch")
}

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => merge_fields(target, patch),
        (target, patch) => *target = without_nulls(patch),
    }
}

fn merge_fields(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        match (target.get_mut(&name), value) {
            (_, Value::Null) => {
                target.remove(&name);
            }
            (Some(current), value) => merge(current, value),
            (None, value) => {
                target.insert(name, without_nulls(value));
            }
        }
    }
}

/// Nulls of new objects delete nothing and are not kept.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name, without_nulls(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        scalar => scalar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use proptest::prelude::*;
    use serde_json::json;

    fn check(patch: &str, expected: Expect) {
        let current = json!({"a": {"x": 1, "y": 2}, "l": [1], "s": "t"});
        let text = match apply(&current, patch.as_bytes(), Findings::Listed) {
            Ok(patched) => format!("{} {:?}", patched.document, patched.findings),
            Err(error) => format!("{} {}", error.0.code, error.0.message),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn objects_merge_nulls_delete_and_the_rest_replaces() {
        check(r#"{"a":{"x":null,"z":3},"l":[2,3],"n":{"k":null},"s":null}"#, expect![[r#"{"a":{"y":2,"z":3},"l":[2,3],"n":{}} []"#]]);
        check(r#"{"s":{"a":{"b":null}},"s":{}}"#, expect![[r#"{"a":{"x":1,"y":2},"l":[1],"s":{}} ["duplicate field \"s\""]"#]]);
    }

    #[test]
    fn other_bodies_are_refused() {
        check("[1]", expect!["400 error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"]);
        check("null", expect!["400 Invalid JSON Patch"]);
        check("{", expect!["400 error decoding patch: unexpected end of JSON input"]);
    }

    /// The patch that makes `to` of `from`.
    fn diff(from: &Value, to: &Value) -> Value {
        let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
        let gone = from.keys().filter(|name| !to.contains_key(*name)).map(|name| (name.clone(), Value::Null));
        let changed = to.iter().filter(|(name, value)| from.get(*name) != Some(value));
        gone.chain(changed.map(|(name, value)| (name.clone(), diff(from.get(name).unwrap_or(&Value::Null), value)))).collect()
    }

    proptest! {
        #[test]
        fn the_patch_of_a_difference_makes_it(from in super::super::tests::object(), to in super::super::tests::object()) {
            let patched = apply(&from, diff(&from, &to).to_string().as_bytes(), Findings::Listed).unwrap();
            prop_assert_eq!(patched.document, to);
        }
    }
}
