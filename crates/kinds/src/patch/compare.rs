//! What changed between two states of an object, as sets of fields. Equal subtrees are passed over without building anything:
//! this runs on every write.

use serde_json::{Map, Value};

use super::field_set::FieldSet;
use super::typed::{Atom, item_element};

/// Fields that appeared, vanished or have another value.
#[derive(Debug, Default, PartialEq)]
pub struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

/// Fields of metadata that nobody manages.
pub const UNMANAGED_METADATA: &[&str] =
    &["name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields", "resourceVersion"];

impl Comparison {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Of two whole objects, without what nobody manages.
    pub fn of_objects(old: &Value, new: &Value, atom: Atom) -> Comparison {
        let mut out = Comparison::default();
        let mut path = Vec::new();
        let (old, new) = (fields(Some(old)), fields(Some(new)));
        each_name(old, new, |name, left, right| {
            let child = match name {
                "kind" | "apiVersion" => return,
                _ => atom.child(name),
            };
            let Some(child) = child else { return };
            path.push(format!("f:{name}"));
            if name == "metadata" {
                compare_metadata(left, right, child, &mut path, &mut out);
            } else {
                compare(left, right, child, &mut path, &mut out);
            }
            path.pop();
        });
        out
    }

    /// Of two values, everything.
    pub fn of_values(old: &Value, new: &Value, atom: Atom) -> Comparison {
        let mut out = Comparison::default();
        compare(Some(old), Some(new), atom, &mut Vec::new(), &mut out);
        out
    }
}

fn compare_metadata(old: Option<&Value>, new: Option<&Value>, atom: Atom, path: &mut Vec<String>, out: &mut Comparison) {
    each_name(fields(old), fields(new), |name, left, right| {
        if UNMANAGED_METADATA.contains(&name) {
            return;
        }
        if let Some(child) = atom.child(name) {
            path.push(format!("f:{name}"));
            compare(left, right, child, path, out);
            path.pop();
        }
    });
}

fn compare(old: Option<&Value>, new: Option<&Value>, atom: Atom, path: &mut Vec<String>, out: &mut Comparison) {
    if old == new {
        return;
    }
    match atom {
        Atom::Struct(_) | Atom::Map(_) if fields(old).is_some() || fields(new).is_some() => {
            each_name(fields(old), fields(new), |name, left, right| {
                let Some(child) = atom.child(name) else { return };
                path.push(format!("f:{name}"));
                compare(left, right, child, path, out);
                path.pop();
            });
        }
        Atom::Set | Atom::Keyed(..) if !items(old).is_empty() || !items(new).is_empty() => compare_items(old, new, atom, path, out),
        _ => {
            let into = match (old, new) {
                (None, _) => &mut out.added,
                (_, None) => &mut out.removed,
                _ => &mut out.modified,
            };
            into.insert(path);
            return;
        }
    }
    match (old, new) {
        (None, _) => out.added.insert(path),
        (_, None) => out.removed.insert(path),
        _ => {}
    }
}

fn compare_items(old: Option<&Value>, new: Option<&Value>, list: Atom, path: &mut Vec<String>, out: &mut Comparison) {
    let (old, new) = (by_element(items(old), list), by_element(items(new), list));
    let appeared = new.iter().filter(|(element, _)| !old.iter().any(|(own, _)| own == element));
    for (element, _) in old.iter().chain(appeared) {
        path.push(element.clone());
        match (values_of(&old, element), values_of(&new, element)) {
            (left @ ([] | [_]), right @ ([] | [_])) => compare(left.first().copied(), right.first().copied(), list.item(), path, out),
            // Elements that are there twice are owned as a whole.
            (left @ [_, _, ..], right @ [_, _, ..]) if left == right => {}
            ([_, _, ..], [_, _, ..]) => out.modified.insert(path),
            ([_, _, ..], rest) => {
                if let [one] = rest {
                    compare(None, Some(one), list.item(), path, out);
                }
                out.removed.insert(path);
            }
            (rest, [_, _, ..]) => {
                if let [one] = rest {
                    compare(Some(one), None, list.item(), path, out);
                }
                out.added.insert(path);
            }
        }
        path.pop();
    }
}

type ByElement<'a> = Vec<(String, Vec<&'a Value>)>;

fn values_of<'v, 'a>(items: &'v ByElement<'a>, element: &str) -> &'v [&'a Value] {
    items.iter().find(|(own, _)| own == element).map_or(&[], |(_, values)| values)
}

/// The elements of a list with their values, several where a key is not unique. Elements without a key are left out.
fn by_element(items: &[Value], list: Atom) -> ByElement<'_> {
    let mut out: ByElement<'_> = Vec::with_capacity(items.len());
    for item in items {
        let Ok(element) = item_element(item, list) else { continue };
        match out.iter_mut().find(|(own, _)| *own == element) {
            Some((_, values)) => values.push(item),
            None => out.push((element, vec![item])),
        }
    }
    out
}

/// The fields of an object that has some.
fn fields(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object).filter(|fields| !fields.is_empty())
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn each_name<'a>(
    old: Option<&'a Map<String, Value>>,
    new: Option<&'a Map<String, Value>>,
    mut visit: impl FnMut(&str, Option<&'a Value>, Option<&'a Value>),
) {
    for (name, left) in old.into_iter().flatten() {
        visit(name, Some(left), new.and_then(|new| new.get(name)));
    }
    for (name, right) in new.into_iter().flatten() {
        if !old.is_some_and(|old| old.contains_key(name)) {
            visit(name, None, Some(right));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::schema;
    use expect_test::{Expect, expect};

    fn check(old: &str, new: &str, expected: Expect) {
        let [old, new] = [old, new].map(|text| serde_json::from_str::<Value>(text).unwrap());
        let atom = Atom::of_type(schema().named("Pod").unwrap());
        let Comparison { added, modified, removed } = Comparison::of_objects(&old, &new, atom);
        expected.assert_eq(&format!("+{} ~{} -{}", added.into_value(), modified.into_value(), removed.into_value()));
    }

    #[test]
    fn elements_are_told_apart_by_key_and_atomic_values_are_one() {
        check(
            r#"{"metadata":{"labels":{"a":"1"},"name":"x"},"spec":{"containers":[{"name":"a","args":["1"]},{"name":"b"}]}}"#,
            r#"{"metadata":{"labels":{"a":"2"},"name":"y"},"spec":{"containers":[{"name":"b"},{"name":"a","args":["2"]},{"name":"c"}],"tolerations":[{"key":"k"}]}}"#,
            expect![[
                r#"+{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:name":{}}},"f:tolerations":{}}} ~{"f:metadata":{"f:labels":{"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{"f:args":{}}}}} -{}"#
            ]],
        );
    }

    #[test]
    fn a_vanished_map_is_removed_with_its_entries() {
        check(
            r#"{"metadata":{"labels":{"a":"1"}}}"#,
            r#"{"metadata":{}}"#,
            expect![[r#"+{} ~{} -{"f:metadata":{"f:labels":{".":{},"f:a":{}}}}"#]],
        );
    }
}
