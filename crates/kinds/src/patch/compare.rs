//! What changed between two states of an object, as sets of fields. Equal subtrees are passed over
//! without building anything: this runs on every write.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::field_set::{self, FieldSet};
use super::typed::{Atom, item_element};

/// Fields that appeared, vanished or have another value.
#[derive(Debug, Default, PartialEq)]
pub struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

/// Fields of metadata that no manager can own.
pub const UNMANAGED_METADATA: &[&str] =
    &["name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields", "resourceVersion"];

impl Comparison {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Of two whole objects, without the fields that no manager can own.
    pub fn of_objects(old: &Value, new: &Value, atom: Atom) -> Comparison {
        let mut out = Delta::default();
        each_name(fields(Some(old)), fields(Some(new)), |name, left, right| {
            let child = match name {
                "kind" | "apiVersion" => return,
                _ => atom.child(name),
            };
            let Some(child) = child else { return };
            let below = if name == "metadata" { compare_metadata(left, right, child) } else { compare(left, right, child) };
            out.put(below, || field_element(name));
        });
        out.into_comparison()
    }

    /// Of two values, everything.
    pub fn of_values(old: &Value, new: &Value, atom: Atom) -> Comparison {
        compare(Some(old), Some(new), atom).into_comparison()
    }
}

/// What changed at one place and below it: for each of the three sets the node of that place, if it
/// has one.
#[derive(Default)]
struct Delta {
    added: Option<Map<String, Value>>,
    modified: Option<Map<String, Value>>,
    removed: Option<Map<String, Value>>,
}

impl Delta {
    /// Puts what changed below an element there.
    fn put(&mut self, below: Delta, element: impl Fn() -> String) {
        let Delta { added, modified, removed } = below;
        for (own, node) in [(&mut self.added, added), (&mut self.modified, modified), (&mut self.removed, removed)] {
            if let Some(node) = node {
                own.get_or_insert_default().insert(element(), Value::Object(node));
            }
        }
    }

    /// The place itself changed, too.
    fn mark(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, _) => field_set::make_member(self.added.get_or_insert_default()),
            (_, None) => field_set::make_member(self.removed.get_or_insert_default()),
            _ => {}
        }
    }

    fn into_comparison(self) -> Comparison {
        let set = |node: Option<Map<String, Value>>| FieldSet::trusted(Value::Object(node.unwrap_or_default()));
        Comparison { added: set(self.added), modified: set(self.modified), removed: set(self.removed) }
    }
}

fn field_element(name: &str) -> String {
    ["f:", name].concat()
}

fn compare_metadata(old: Option<&Value>, new: Option<&Value>, atom: Atom) -> Delta {
    let mut out = Delta::default();
    each_name(fields(old), fields(new), |name, left, right| {
        if UNMANAGED_METADATA.contains(&name) {
            return;
        }
        if let Some(child) = atom.child(name) {
            out.put(compare(left, right, child), || field_element(name));
        }
    });
    out
}

fn compare(old: Option<&Value>, new: Option<&Value>, atom: Atom) -> Delta {
    let mut out = Delta::default();
    if old == new {
        return out;
    }
    match atom {
        Atom::Struct(_) | Atom::Map(_) if fields(old).is_some() || fields(new).is_some() => {
            each_name(fields(old), fields(new), |name, left, right| {
                let Some(child) = atom.child(name) else { return };
                out.put(compare(left, right, child), || field_element(name));
            });
        }
        Atom::Set | Atom::Keyed(..) if !items(old).is_empty() || !items(new).is_empty() => compare_items(old, new, atom, &mut out),
        _ if old.is_some() && new.is_some() => out.modified = Some(Map::new()),
        _ => {}
    }
    out.mark(old, new);
    out
}

fn compare_items(old: Option<&Value>, new: Option<&Value>, list: Atom, out: &mut Delta) {
    let (old, new) = (by_element(items(old), list), by_element(items(new), list));
    for element in distinct(&old, &new) {
        let below = match (values_of(&old, element), values_of(&new, element)) {
            (Values::Several(left), Values::Several(right)) if left == right => continue,
            // Elements that are there twice are owned as a whole.
            (Values::Several(_), Values::Several(_)) => Delta { modified: Some(Map::new()), ..Delta::default() },
            (Values::Several(_), Values::One(right)) => {
                let mut below = right.map_or_else(Delta::default, |one| compare(None, Some(one), list.item()));
                field_set::make_member(below.removed.get_or_insert_default());
                below
            }
            (Values::One(left), Values::Several(_)) => {
                let mut below = left.map_or_else(Delta::default, |one| compare(Some(one), None, list.item()));
                field_set::make_member(below.added.get_or_insert_default());
                below
            }
            (Values::One(left), Values::One(right)) => compare(left, right, list.item()),
        };
        out.put(below, || element.to_owned());
    }
}

/// Lists up to this length are searched from their beginning, which costs less than a table of
/// them.
const SEARCHED_MAX: usize = 16;

/// The elements of a list with their values, in the order of the list. Elements without a key are
/// left out.
#[derive(Default)]
struct ByElement<'a> {
    /// Each element once.
    elements: Vec<(String, Vec<&'a Value>)>,
    /// Where the elements of a long list are.
    places: HashMap<String, usize>,
}

impl<'a> ByElement<'a> {
    fn place(&self, element: &str) -> Option<usize> {
        if self.places.is_empty() {
            self.elements.iter().position(|(other, _)| other == element)
        } else {
            self.places.get(element).copied()
        }
    }

    fn values(&self, element: &str) -> &[&'a Value] {
        self.place(element).map_or(&[], |at| &self.elements[at].1)
    }
}

fn by_element(items: &[Value], list: Atom) -> ByElement<'_> {
    let mut found = ByElement::default();
    for item in items {
        let Ok(element) = item_element(item, list) else { continue };
        match found.place(&element) {
            Some(at) => found.elements[at].1.push(item),
            None => {
                if items.len() > SEARCHED_MAX {
                    found.places.insert(element.clone(), found.elements.len());
                }
                found.elements.push((element, vec![item]));
            }
        }
    }
    found
}

/// The values of an element: several where a key is not unique.
#[derive(PartialEq)]
enum Values<'a> {
    One(Option<&'a Value>),
    Several(Vec<&'a Value>),
}

fn values_of<'a>(items: &ByElement<'a>, element: &str) -> Values<'a> {
    match items.values(element) {
        [] => Values::One(None),
        [one] => Values::One(Some(one)),
        several => Values::Several(several.to_vec()),
    }
}

/// The elements of both lists, each once: those of the old one first.
fn distinct<'e>(old: &'e ByElement<'_>, new: &'e ByElement<'_>) -> Vec<&'e str> {
    let added = new.elements.iter().filter(|(element, _)| old.place(element).is_none());
    old.elements.iter().chain(added).map(|(element, _)| element.as_str()).collect()
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
