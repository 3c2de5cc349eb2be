//! Merges an applied configuration into an object: what the configuration mentions wins, field by
//! field, element by element.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::typed::{Atom, item_element};

/// None when nothing is left. `config` must have been checked against its type.
pub fn merge(live: Option<&Value>, config: Option<&Value>, atom: Atom) -> Option<Value> {
    match atom {
        Atom::Struct(_) | Atom::Map(_) if !is_empty(live) || !is_empty(config) => merge_fields(live, config, atom),
        Atom::Set | Atom::Keyed(..) if !is_empty(live) || !is_empty(config) => merge_items(live, config, atom),
        _ => config.or(live).cloned(),
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Object(fields)) => fields.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        _ => true,
    }
}

fn merge_fields(live: Option<&Value>, config: Option<&Value>, atom: Atom) -> Option<Value> {
    let (live, config) = (live.and_then(Value::as_object), config.and_then(Value::as_object));
    let mut out = Map::new();
    for name in live.into_iter().chain(config).flat_map(Map::keys) {
        if out.contains_key(name) {
            continue;
        }
        let (left, right) = (live.and_then(|fields| fields.get(name)), config.and_then(|fields| fields.get(name)));
        if let Some(value) = merge(left, right, atom.child(name).unwrap_or(Atom::Leaf)) {
            out.insert(name.clone(), value);
        }
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

struct Items<'a> {
    list: &'a [Value],
    elements: Vec<String>,
    /// The only item of each element; None for those that are there several times.
    only: HashMap<String, Option<&'a Value>>,
}

impl<'a> Items<'a> {
    fn of(value: Option<&'a Value>, list: Atom) -> Items<'a> {
        let items = value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let elements: Vec<String> = items.iter().map(|item| item_element(item, list).unwrap_or_default()).collect();
        let mut only: HashMap<String, Option<&Value>> = HashMap::with_capacity(items.len());
        for (element, item) in elements.iter().zip(items) {
            only.entry(element.clone()).and_modify(|only| *only = None).or_insert(Some(item));
        }
        Items { list: items, elements, only }
    }

    fn has(&self, element: &str) -> bool {
        self.only.contains_key(element)
    }

    /// The only item of that element; none when there are several.
    fn only(&self, element: &str) -> Option<&'a Value> {
        self.only.get(element).copied().flatten()
    }
}

/// Elements of the configuration keep its order, those of the object alone stay next to where they
/// were.
fn merge_items(live: Option<&Value>, config: Option<&Value>, list: Atom) -> Option<Value> {
    let (live, config) = (Items::of(live, list), Items::of(config, list));
    let mut shared = config.elements.iter().filter(|element| live.has(element));
    let mut next_shared = shared.next();
    let mut merged: HashSet<&str> = HashSet::new();
    let mut out = Vec::new();
    let (mut left, mut right) = (0, 0);
    while left < live.list.len() || right < config.list.len() {
        let element = live.elements.get(left);
        match (element, config.elements.get(right)) {
            (Some(own), Some(wanted)) if own == wanted => {
                merged.insert(own);
                out.extend(merge(live.only(own), Some(&config.list[right]), list.item()));
                (left, right) = (left + 1, right + 1);
                next_shared = shared.next();
                continue;
            }
            (Some(own), Some(_)) if config.has(own) && next_shared.is_some_and(|next| next != own) => {
                left += 1;
                continue;
            }
            (Some(own), _) if !config.has(own) => {
                out.extend(merge(Some(&live.list[left]), None, list.item()));
                left += 1;
                continue;
            }
            (Some(own), _) if merged.contains(own.as_str()) => left += 1,
            _ => {}
        }
        if let Some(wanted) = config.elements.get(right) {
            merged.insert(wanted);
            out.extend(merge(live.only(wanted), Some(&config.list[right]), list.item()));
            right += 1;
            if next_shared == Some(wanted) {
                next_shared = shared.next();
            }
        }
    }
    (!out.is_empty()).then_some(Value::Array(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::schema;
    use serde_json::json;

    fn names(live: &[&str], config: &[&str]) -> String {
        let list = |names: &[&str]| json!({"spec": {"containers": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()}});
        let merged = merge(Some(&list(live)), Some(&list(config)), Atom::of_type(schema().named("Pod").unwrap())).unwrap();
        merged["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn the_configuration_gives_the_order() {
        assert_eq!(names(&["a", "b", "c"], &["c", "a"]), "bca");
        assert_eq!(names(&["a", "b"], &["c", "b"]), "acb");
        assert_eq!(names(&["a", "b"], &[]), "ab");
        assert_eq!(names(&[], &["b", "a"]), "ba");
        assert_eq!(names(&["a"], &["b", "a", "c"]), "bac");
    }

    #[test]
    fn an_unfinished_shared_element_does_not_loop() {
        for live in [&["a", "b", "c", "d"][..], &["d", "c"], &["b"]] {
            for config in [&["d", "a"][..], &["c", "x", "b"], &["a", "b", "c", "d"], &["d", "c", "b", "a"]] {
                let mut all: Vec<&str> = live.iter().chain(config).copied().collect();
                all.sort_unstable();
                all.dedup();
                let mut got: Vec<char> = names(live, config).chars().collect();
                got.sort_unstable();
                assert_eq!(got.len(), all.len(), "{live:?} {config:?}");
            }
        }
    }
}
