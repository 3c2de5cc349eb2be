//! A set of paths into an object, kept in the form in which managedFields store it (`FieldsV1`): a
//! tree of JSON objects whose keys are path elements (`f:NAME`, `k:{KEY}`, `v:VALUE`, `i:INDEX`). A
//! node without children is a member of the set; one with children is a member only if it has a
//! `.`. Working on that form saves parsing and printing on every write.

use serde_json::{Map, Value};

/// The mark of a node that has children and is a member itself.
const SELF: &str = ".";

/// A set of paths. The root is no path.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FieldSet(Map<String, Value>);

impl FieldSet {
    /// None for a tree that is not well-formed.
    pub fn parse(tree: &Value) -> Option<FieldSet> {
        match tree {
            Value::Null => Some(FieldSet::default()),
            Value::Object(root) => canonical(root).map(FieldSet),
            _ => None,
        }
    }

    /// A tree that this module built.
    pub fn trusted(tree: Value) -> FieldSet {
        match tree {
            Value::Object(mut root) => {
                root.remove(SELF);
                FieldSet(root)
            }
            _ => FieldSet::default(),
        }
    }

    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tree, whose root is no path.
    pub fn root(&self) -> &Map<String, Value> {
        &self.0
    }

    /// For changes that keep the tree well-formed.
    pub fn root_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.0
    }

    pub fn insert<S: AsRef<str>>(&mut self, path: &[S]) {
        insert(&mut self.0, path);
    }

    pub fn has(&self, path: &[String]) -> bool {
        let mut at = &self.0;
        for element in path {
            match at.get(element) {
                Some(Value::Object(node)) => at = node,
                _ => return false,
            }
        }
        !path.is_empty() && is_member(at)
    }

    pub fn nodes(&self) -> Nodes<'_> {
        Nodes(&self.0)
    }

    pub fn union(&mut self, other: FieldSet) {
        union(&mut self.0, other.0);
    }

    /// Takes the members of `other` away; what lies below a member stays.
    pub fn subtract(&mut self, other: &FieldSet) {
        subtract(&mut self.0, &other.0);
    }

    /// Takes the members of `other` away with all that lies below them.
    pub fn subtract_below(&mut self, other: &FieldSet) {
        subtract_below(&mut self.0, &other.0);
    }

    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        FieldSet(intersection(&self.0, &other.0))
    }

    /// Keeps what a pattern, a path with `*` for any element, is a prefix of.
    pub fn retain_below(&mut self, patterns: &[&[&str]]) {
        retain_below(&mut self.0, patterns);
    }

    /// Visits every path: those of a level before those below it.
    pub fn each(&self, visit: &mut impl FnMut(&[String])) {
        each(&self.0, &mut Vec::new(), visit);
    }
}

/// The children of a node.
#[derive(Copy, Clone)]
pub struct Nodes<'a>(&'a Map<String, Value>);

impl<'a> Nodes<'a> {
    pub fn is_member(self, element: &str) -> bool {
        matches!(self.0.get(element), Some(Value::Object(node)) if is_member(node))
    }

    /// What lies below an element; None when nothing does.
    pub fn below(self, element: &str) -> Option<Nodes<'a>> {
        match self.0.get(element) {
            Some(Value::Object(node)) if node.keys().any(|key| key != SELF) => Some(Nodes(node)),
            _ => None,
        }
    }

    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        self.0.keys().map(String::as_str).filter(|key| *key != SELF)
    }
}

/// Is a key of a node its mark rather than an element?
pub fn is_mark(element: &str) -> bool {
    element == SELF
}

pub fn is_member(node: &Map<String, Value>) -> bool {
    node.is_empty() || node.contains_key(SELF)
}

fn is_leaf(node: &Map<String, Value>) -> bool {
    node.keys().all(|key| key == SELF)
}

/// Puts the mark where it is needed: the node is a member or not, whatever its children are now.
fn mark(node: &mut Map<String, Value>, member: bool) {
    if member && !is_leaf(node) {
        make_member(node);
    } else {
        node.remove(SELF);
    }
}

/// Makes the place of a node a member of the set.
pub fn make_member(node: &mut Map<String, Value>) {
    if !node.is_empty() && !node.contains_key(SELF) {
        node.insert(SELF.to_owned(), Value::Object(Map::new()));
    }
}

fn insert<S: AsRef<str>>(node: &mut Map<String, Value>, path: &[S]) {
    let Some((element, rest)) = path.split_first() else { return };
    let element = element.as_ref();
    let is_new = !node.contains_key(element);
    if is_new {
        node.insert(element.to_owned(), Value::Object(Map::new()));
    }
    let Some(Value::Object(child)) = node.get_mut(element) else { return };
    if rest.is_empty() {
        if !is_new && !child.is_empty() {
            mark(child, true);
        }
        return;
    }
    let member = !is_new && is_member(child);
    insert(child, rest);
    if member {
        mark(child, true);
    }
}

fn union(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (element, node) in from {
        let Value::Object(node) = node else { continue };
        match into.get_mut(&element) {
            Some(Value::Object(own)) if element != SELF => {
                let member = is_member(own) || is_member(&node);
                union(own, node);
                mark(own, member);
            }
            _ => {
                into.insert(element, Value::Object(node));
            }
        }
    }
}

/// Costs what the smaller of the two has: a change of many fields is taken from each of many
/// managers of a few.
fn subtract(from: &mut Map<String, Value>, other: &Map<String, Value>) {
    if from.len() < other.len() {
        from.retain(|element, own| match (own, other.get(element)) {
            (Value::Object(own), Some(Value::Object(node))) if element != SELF => subtract_node(own, node),
            _ => true,
        });
        return;
    }
    for (element, node) in other.iter().filter(|(element, _)| *element != SELF) {
        let (Some(Value::Object(own)), Value::Object(node)) = (from.get_mut(element), node) else { continue };
        if !subtract_node(own, node) {
            from.remove(element);
        }
    }
}

/// Says whether the node stays.
fn subtract_node(own: &mut Map<String, Value>, node: &Map<String, Value>) -> bool {
    let member = is_member(own) && !is_member(node);
    subtract(own, node);
    let stays = !is_leaf(own) || member;
    if stays {
        mark(own, member);
    }
    stays
}

fn subtract_below(from: &mut Map<String, Value>, other: &Map<String, Value>) {
    for (element, node) in other.iter().filter(|(element, _)| *element != SELF) {
        let (Some(Value::Object(own)), Value::Object(node)) = (from.get_mut(element), node) else { continue };
        if is_member(node) {
            from.remove(element);
            continue;
        }
        let member = is_member(own);
        subtract_below(own, node);
        if is_leaf(own) && !member {
            from.remove(element);
        } else {
            mark(own, member);
        }
    }
}

fn retain_below(node: &mut Map<String, Value>, patterns: &[&[&str]]) {
    node.retain(|element, below| {
        let fitting = patterns.iter().filter_map(|pattern| pattern.split_first()).filter(|(first, _)| ["*", element].contains(first));
        let rest: Vec<&[&str]> = fitting.map(|(_, rest)| rest).collect();
        if element == SELF || rest.is_empty() {
            return false;
        }
        let Value::Object(below) = below else { return false };
        let is_whole = rest.iter().any(|rest| rest.is_empty());
        if !is_whole {
            retain_below(below, &rest);
        }
        is_whole || !below.is_empty()
    });
}

fn intersection(a: &Map<String, Value>, b: &Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::new();
    for (element, node) in a.iter().filter(|(element, _)| *element != SELF) {
        let (Value::Object(left), Some(Value::Object(right))) = (node, b.get(element)) else { continue };
        let member = is_member(left) && is_member(right);
        let mut both = intersection(left, right);
        if member || !both.is_empty() {
            mark(&mut both, member);
            out.insert(element.clone(), Value::Object(both));
        }
    }
    out
}

fn each(node: &Map<String, Value>, path: &mut Vec<String>, visit: &mut impl FnMut(&[String])) {
    let children = || node.iter().filter(|(element, _)| *element != SELF);
    for (element, child) in children() {
        if child.as_object().is_some_and(is_member) {
            path.push(element.clone());
            visit(path);
            path.pop();
        }
    }
    for (element, child) in children() {
        if let Value::Object(child) = child {
            path.push(element.clone());
            each(child, path, visit);
            path.pop();
        }
    }
}

/// The tree with keys written as this program writes them; None if it is no field set.
fn canonical(node: &Map<String, Value>) -> Option<Map<String, Value>> {
    let mut out = Map::new();
    for (element, child) in node {
        let Value::Object(child) = child else { return None };
        let element = if element == SELF { element.clone() } else { canonical_element(element)? };
        out.insert(element, Value::Object(canonical(child)?));
    }
    Some(out)
}

fn canonical_element(element: &str) -> Option<String> {
    let (kind, rest) = element.split_once(':').filter(|(kind, _)| kind.len() == 1)?;
    match kind {
        "f" => Some(element.to_owned()),
        "i" => rest.parse::<i64>().ok().map(|index| format!("i:{index}")),
        "k" => match serde_json::from_str(rest).ok()? {
            key @ Value::Object(_) => Some(format!("k:{key}")),
            _ => None,
        },
        "v" => serde_json::from_str(rest).ok().map(|value: Value| format!("v:{value}")),
        _ => None,
    }
}

/// A path as error texts show it: `.spec.containers[name="c"].image`.
pub fn path_text<S: AsRef<str>>(path: &[S]) -> String {
    path.iter().map(|element| element_text(element.as_ref())).collect()
}

/// The value of a key as error texts show it: an object, which no key should be, without its
/// braces.
fn key_text(value: &Value) -> String {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| format!("{name}={}", key_text(value))).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A path element as error texts show it.
pub fn element_text(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", key)) => match serde_json::from_str(key) {
            Ok(Value::Object(fields)) => {
                let parts: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", key_text(value))).collect();
                format!("[{}]", parts.join(","))
            }
            _ => format!("[{key}]"),
        },
        Some(("v", value)) => format!("[={value}]"),
        Some(("i", index)) => format!("[{index}]"),
        _ => element.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn of(paths: &BTreeSet<Vec<String>>) -> FieldSet {
        let mut set = FieldSet::default();
        paths.iter().for_each(|path| set.insert(path));
        set
    }

    fn paths(set: &FieldSet) -> BTreeSet<Vec<String>> {
        let mut out = BTreeSet::new();
        set.each(&mut |path| {
            out.insert(path.to_vec());
        });
        out
    }

    fn some_paths() -> impl Strategy<Value = BTreeSet<Vec<String>>> {
        prop::collection::btree_set(prop::collection::vec("f:[ab]", 1..4), 0..8)
    }

    proptest! {
        #[test]
        fn sets_behave_as_sets(a in some_paths(), b in some_paths()) {
            prop_assert_eq!(paths(&of(&a)), a.clone());
            let mut union = of(&a);
            union.union(of(&b));
            prop_assert_eq!(paths(&union), a.union(&b).cloned().collect());
            let mut difference = of(&a);
            difference.subtract(&of(&b));
            prop_assert_eq!(&difference, &of(&a.difference(&b).cloned().collect()));
            prop_assert_eq!(of(&a).intersection(&of(&b)), of(&a.intersection(&b).cloned().collect()));
            let mut below = of(&a);
            below.subtract_below(&of(&b));
            let left = a.iter().filter(|path| !b.iter().any(|gone| path.starts_with(gone))).cloned().collect();
            prop_assert_eq!(below, of(&left));
            for path in &a {
                prop_assert!(of(&a).has(path));
            }
        }
    }

    #[test]
    fn paths_read_as_in_kubernetes() {
        let path = ["f:spec", "f:ports", r#"k:{"port":80,"protocol":"TCP"}"#, "f:name"];
        assert_eq!(path_text(&path), r#".spec.ports[port=80,protocol="TCP"].name"#);
        assert_eq!(path_text(&["f:metadata", "f:finalizers", r#"v:"a.io/x""#]), r#".metadata.finalizers[="a.io/x"]"#);
    }
}
