//! Objects as Go prints Kubernetes' internal structs in error texts: fields in Go's order, zero
//! values included.
//!
//! The structs are a table, `go_types.txt`. Sources of volumes that are hardly ever used are
//! printed as they are.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::field::BadValue;

/// One struct, as a bad value.
pub fn print(kind: &str, value: Option<&Value>) -> BadValue {
    BadValue::Printed(compact(&tree(kind, value)))
}

/// A list of structs, as a bad value.
pub fn print_list(kind: &str, value: Option<&Value>) -> BadValue {
    BadValue::Printed(compact(&list(kind, value)))
}

/// One struct, indented by one space a level: what differences are computed of.
pub fn lines(kind: &str, value: Option<&Value>) -> Vec<String> {
    let mut text = String::new();
    indented(&tree(kind, value), 0, &mut text);
    text.lines().map(str::to_owned).collect()
}

struct Type {
    tagged: bool,
    fields: Vec<Field>,
}

struct Field {
    name: &'static str,
    json: String,
    shape: &'static str,
}

static TYPES: LazyLock<HashMap<&'static str, Type>> = LazyLock::new(|| parse(include_str!("go_types.txt")));

fn parse(text: &'static str) -> HashMap<&'static str, Type> {
    let mut types = HashMap::new();
    let mut current = "";
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("  ") {
            Some(field) => {
                let of: &mut Type = types.get_mut(current).expect("a field follows the name of its type");
                of.fields.push(parse_field(field));
            }
            None => {
                let (name, mark) = line.split_once(' ').unwrap_or((line, ""));
                types.insert(name, Type { tagged: mark == "tagged", fields: Vec::new() });
                current = name;
            }
        }
    }
    types
}

fn parse_field(text: &'static str) -> Field {
    let (names, shape) = text.split_once(' ').unwrap_or(("", text));
    let (name, json) = match names.split_once('=') {
        Some((name, json)) => (name, json.to_owned()),
        None => (names, small_first(names)),
    };
    Field { name, json, shape }
}

fn small_first(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

/// JSON whose maps keep their order.
enum Tree {
    Leaf(Value),
    List(Vec<Tree>),
    Struct(Vec<(String, Tree)>),
}

fn tree(kind: &str, value: Option<&Value>) -> Tree {
    let Some(of) = TYPES.get(kind) else { return Tree::Leaf(value.cloned().unwrap_or_default()) };
    let own = (kind == "PodSpec").then(|| with_internal_context(value));
    let value = own.as_ref().or(value);
    let mut fields = Vec::new();
    for field in &of.fields {
        if let Some(embedded) = field.shape.strip_prefix('+') {
            if let Tree::Struct(embedded) = tree(embedded, value) {
                fields.extend(embedded);
            }
            continue;
        }
        let inner = value.and_then(|value| value.get(&field.json));
        if !(of.tagged && inner.is_none() && field.shape != "string") {
            fields.push((field.name.to_owned(), shape(field.shape, inner)));
        }
    }
    Tree::Struct(fields)
}

fn shape(shape: &str, value: Option<&Value>) -> Tree {
    let or = |zero: Value| Tree::Leaf(value.cloned().unwrap_or(zero));
    match shape {
        "string" => or("".into()),
        "int" | "port" => or(0.into()),
        "bool" => or(false.into()),
        "quantity" => or("0".into()),
        "any" => or(Value::Null),
        _ => match (shape.strip_prefix('*'), shape.strip_prefix("[]")) {
            (Some(kind), _) if value.is_some() => tree(kind, value),
            (_, Some(kind)) if value.is_some() => list(kind, value),
            (None, None) => tree(shape, value),
            _ => Tree::Leaf(Value::Null),
        },
    }
}

fn list(kind: &str, value: Option<&Value>) -> Tree {
    match value.and_then(Value::as_array) {
        Some(items) => Tree::List(items.iter().map(|item| tree(kind, Some(item))).collect()),
        None => Tree::Leaf(Value::Null),
    }
}

/// Internally the namespaces that a pod shares with its host are part of the security context.
fn with_internal_context(spec: Option<&Value>) -> Value {
    let mut spec = spec.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    for name in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"] {
        if let Some(value) = spec.get(name).cloned() {
            crate::rules::meta::child(&mut spec, "securityContext").insert(name.to_owned(), value);
        }
    }
    spec
}

fn compact(tree: &Tree) -> String {
    match tree {
        Tree::Leaf(value) => html_escape(&value.to_string()),
        Tree::List(items) => format!("[{}]", items.iter().map(compact).collect::<Vec<_>>().join(",")),
        Tree::Struct(fields) => {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{}", compact(value))).collect();
            format!("{{{}}}", fields.join(","))
        }
    }
}

fn indented(tree: &Tree, depth: usize, text: &mut String) {
    match tree {
        Tree::Leaf(Value::Array(items)) if !items.is_empty() => {
            let items: Vec<Tree> = items.iter().cloned().map(Tree::Leaf).collect();
            indented(&Tree::List(items), depth, text);
        }
        Tree::Leaf(Value::Object(fields)) if !fields.is_empty() => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), Tree::Leaf(value.clone()))).collect();
            indented(&Tree::Struct(fields), depth, text);
        }
        Tree::Leaf(value) => text.push_str(&html_escape(&value.to_string())),
        Tree::List(items) if items.is_empty() => text.push_str("[]"),
        Tree::Struct(fields) if fields.is_empty() => text.push_str("{}"),
        Tree::List(items) => {
            let entries = items.iter().map(|item| (String::new(), item)).collect();
            block(('[', ']'), entries, depth, text);
        }
        Tree::Struct(fields) => {
            let entries = fields.iter().map(|(name, value)| (format!("{}: ", Value::from(name.as_str())), value)).collect();
            block(('{', '}'), entries, depth, text);
        }
    }
}

fn block((open, close): (char, char), entries: Vec<(String, &Tree)>, depth: usize, text: &mut String) {
    text.push(open);
    for (i, (label, value)) in entries.iter().enumerate() {
        text.push_str(if i == 0 { "\n" } else { ",\n" });
        text.push_str(&" ".repeat(depth + 1));
        text.push_str(label);
        indented(value, depth + 1, text);
    }
    text.push('\n');
    text.push_str(&" ".repeat(depth));
    text.push(close);
}

/// Go's encoder makes JSON safe to be put into a page.
fn html_escape(text: &str) -> String {
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn structs_print_in_go_s_order() {
        let taint = json!({"effect": "NoSchedule", "key": "a<b"});
        expect![[r#"{"Key":"a\u003cb","Value":"","Effect":"NoSchedule","TimeAdded":null}"#]]
            .assert_eq(&print("Taint", Some(&taint)).to_string());
        let selector = json!({"matchExpressions": [{"key": "k", "operator": "Exists"}], "matchLabels": {"a": "b"}});
        expect![[r#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"k","operator":"Exists"}]}"#]]
            .assert_eq(&print("LabelSelector", Some(&selector)).to_string());
    }

    #[test]
    fn every_type_of_the_table_is_in_it() {
        for field in TYPES.values().flat_map(|of| &of.fields) {
            let kind = field.shape.trim_start_matches(['*', '+', '[', ']']);
            let is_scalar = matches!(kind, "string" | "int" | "bool" | "any" | "quantity" | "port");
            assert!(is_scalar || TYPES.contains_key(kind), "{kind} of {}", field.name);
        }
    }
}
