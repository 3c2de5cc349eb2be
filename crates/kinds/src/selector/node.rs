//! Node selectors (of node affinity): terms are alternatives, the expressions of a term all hold.

use serde_json::Value;

use super::{Operator, Requirement};

/// Whether any term of a `NodeSelector` object matches the node.
pub fn node_selector_matches(selector: &Value, node: &Value) -> bool {
    let terms = selector.get("nodeSelectorTerms").and_then(Value::as_array);
    terms.into_iter().flatten().any(|term| node_selector_term_matches(term, node))
}

/// Whether one term matches the node. A term that asks for nothing matches nothing.
pub fn node_selector_term_matches(term: &Value, node: &Value) -> bool {
    let (expressions, fields) = (list(term, "matchExpressions"), list(term, "matchFields"));
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let labels = node.pointer("/metadata/labels");
    let label = |key: &str| labels?.get(key)?.as_str();
    // `metadata.name` is the only field that validation lets through.
    let field = |key: &str| (key == "metadata.name").then(|| node.pointer("/metadata/name")?.as_str()).flatten();
    expressions.iter().all(|expression| expression_matches(expression, label))
        && fields.iter().all(|expression| expression_matches(expression, field))
}

/// The preference of a `preferredDuringScheduling…` entry; unlike a required term, an empty one
/// matches everything.
pub fn preferred_term_matches(term: &Value, node: &Value) -> bool {
    let is_empty = list(term, "matchExpressions").is_empty() && list(term, "matchFields").is_empty();
    is_empty || node_selector_term_matches(term, node)
}

fn list<'a>(term: &'a Value, name: &str) -> &'a [Value] {
    term.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn expression_matches<'a>(expression: &Value, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
    let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
    let operator = match text("operator") {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return false,
    };
    let values = list(expression, "values").iter().filter_map(|value| Some(value.as_str()?.to_owned())).collect();
    Requirement { key: text("key").to_owned(), operator, values }.matches(lookup(text("key")))
}
