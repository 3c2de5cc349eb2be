//! Values as Go prints them in error texts.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::Opened;
use crate::schema::{Shape, TypeId, schema};

/// `%v`: maps with sorted keys as `map[a:1 b:2]`, lists as `[1 2]`, texts without quotes.
pub fn print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => number(n),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(print).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let parts: Vec<String> = fields.iter().map(|(key, value)| format!("{key}:{}", print(value))).collect();
            format!("map[{}]", parts.join(" "))
        }
    }
}

/// `%#v`: as Go source would write it.
pub fn print_as_source(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => format!("[]interface {{}}{{{}}}", items.iter().map(print_as_source).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let parts: Vec<String> = fields.iter().map(|(key, value)| format!("{key:?}:{}", print_as_source(value))).collect();
            format!("map[string]interface {{}}{{{}}}", parts.join(", "))
        }
        scalar => print(scalar),
    }
}

/// The Go type that a JSON value decodes to.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn number(number: &serde_json::Number) -> String {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) if float != 0.0 && !(1e-4..1e21).contains(&float.abs()) => {
            let text = format!("{float:e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, digits) = exponent.strip_prefix('-').map_or(("+", exponent), |digits| ("-", digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        Some(float) => float.to_string(),
        None => number.to_string(),
    }
}

/// A patched document as JSON: objects that the patch went through have sorted fields, others those
/// of Go's structs in order.
pub fn document_text(document: &Value, type_id: TypeId, opened: &Opened) -> String {
    let mut writer = Writer { out: String::new() };
    writer.write(document, &Shape::Struct(type_id), Some(opened));
    writer.out
}

static ORDERS: LazyLock<HashMap<&'static str, Vec<&'static str>>> = LazyLock::new(|| {
    let lines = include_str!("go_order.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(name, fields)| (name, fields.split(' ').collect())).collect()
});

struct Writer {
    out: String,
}

impl Writer {
    fn write(&mut self, value: &Value, shape: &Shape, opened: Option<&Opened>) {
        match value {
            Value::Object(fields) => self.write_object(fields, shape, opened),
            Value::Array(items) => {
                let item_shape = if let Shape::List(item) = shape { item } else { &Shape::Any };
                self.out.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.separate(at);
                    self.write(item, item_shape, opened.and_then(|opened| opened.at(&at.to_string())));
                }
                self.out.push(']');
            }
            scalar => self.out.push_str(&escaped(&scalar.to_string())),
        }
    }

    fn write_object(&mut self, fields: &Map<String, Value>, shape: &Shape, opened: Option<&Opened>) {
        let is_opened = opened.is_some_and(Opened::is_opened);
        let mut names: Vec<&String> = fields.keys().collect();
        let of = if let Shape::Struct(id) = shape { Some(schema().get(*id)) } else { None };
        if names.iter().any(|name| name.starts_with("f:") || name.starts_with("k:{")) {
            names.sort_by(|a, b| element_order(a, b));
        } else if let Some(order) = of.and_then(|of| ORDERS.get(of.name)).filter(|_| !is_opened) {
            names.sort_by_key(|name| order.iter().position(|own| own == name).unwrap_or(usize::MAX));
        }
        self.out.push('{');
        for (at, name) in names.into_iter().enumerate() {
            self.separate(at);
            self.out.push_str(&escaped(&Value::from(name.as_str()).to_string()));
            self.out.push(':');
            let child = match (of, shape) {
                (Some(of), _) => of.field(name).map_or(&Shape::Any, |field| &field.shape),
                (None, Shape::Map(value)) => value,
                _ => &Shape::Any,
            };
            self.write(&fields[name], child, opened.and_then(|opened| opened.at(name)));
        }
        self.out.push('}');
    }

    fn separate(&mut self, at: usize) {
        if at > 0 {
            self.out.push(',');
        }
    }
}

/// Go's encoder escapes what HTML would read as markup.
fn escaped(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// The order of path elements: by the values of keys, numbers as numbers.
fn element_order(a: &str, b: &str) -> Ordering {
    let keys = [a, b].map(|element| element.strip_prefix("k:").and_then(|key| serde_json::from_str::<Map<String, Value>>(key).ok()));
    let [Some(left), Some(right)] = keys else { return a.cmp(b) };
    let by_value = left.values().zip(right.values()).map(|(left, right)| match (left.as_i64(), right.as_i64()) {
        (Some(left), Some(right)) => left.cmp(&right),
        _ => left.to_string().cmp(&right.to_string()),
    });
    by_value.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_print_as_in_go() {
        let value = json!({"b": [1, "x", null, true], "a": {"c": 1.5, "d": 1e21}});
        assert_eq!(print(&value), "map[a:map[c:1.5 d:1e+21] b:[1 x <nil> true]]");
    }

    #[test]
    fn every_name_of_the_order_is_a_field() {
        for (name, fields) in ORDERS.iter() {
            let of = schema().get(schema().named(name).unwrap_or_else(|| panic!("no type {name}")));
            for field in fields {
                assert!(of.field(field).is_some(), "{name} has no field {field}");
            }
        }
    }

    #[test]
    fn objects_that_a_patch_opened_are_sorted() {
        let pod = schema().named("Pod").unwrap();
        let document = json!({"kind": "Pod", "metadata": {"name": "<a>", "labels": {}}, "spec": {"containers": [{"name": "c", "image": "i"}], "bogus": 1}});
        let mut opened = Opened::root();
        opened.open("spec");
        assert_eq!(
            document_text(&document, pod, &opened),
            r#"{"kind":"Pod","metadata":{"name":"\u003ca\u003e","labels":{}},"spec":{"bogus":1,"containers":[{"name":"c","image":"i"}]}}"#
        );
    }
}
