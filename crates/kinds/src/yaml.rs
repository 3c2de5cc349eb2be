//! YAML text to and from the trees of `document`.
//!
//! Reading resolves plain scalars by the rules of YAML 1.1, because Kubernetes does: `yes` and `off` are booleans, `0644` is octal;
//! anchors, aliases and merge keys work. Duplicate keys are reported, the last one wins. Writing gives block style with sorted keys.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Number, Value};

use crate::document::{Node, SyntaxError};

/// Bounds what aliases may blow a document up to (a "billion laughs" text).
const ALIAS_NODES_MAX: usize = 200_000;

/// Collections nested deeper than this are refused, as in JSON.
const DEPTH_MAX: usize = 128;

/// Parses the first document of a YAML text. Also returns one sentence for each duplicate key.
pub fn parse(text: &str) -> Result<(Node, Vec<String>), SyntaxError> {
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), duplicates: Vec::new(), alias_nodes: 0 };
    let node = reader.document()?;
    Ok((node, reader.duplicates))
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    duplicates: Vec<String>,
    alias_nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            // Go's parser has one text for a tab where none may be.
            Some(Err(error)) if error.info().contains("tab") => {
                Err(syntax_error(error.marker().line(), "found character that cannot start any token"))
            }
            Some(Err(error)) => Err(syntax_error(error.marker().line(), error.info())),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Result<Node, SyntaxError> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
                (Event::StreamEnd | Event::DocumentEnd, _) => return Ok(Node::Null),
                (event, span) => return self.node(event, &span, 0),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, SyntaxError> {
        if depth > DEPTH_MAX {
            return Err(syntax_error(span.start.line(), "exceeded max depth"));
        }
        let (anchor, node) = match event {
            Event::Alias(anchor) => return self.alias(anchor, span),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                (anchor, if plain { resolve_plain(&text) } else { Node::String(text.into_owned()) })
            }
            Event::SequenceStart(anchor, _) => (anchor, self.sequence(depth)?),
            Event::MappingStart(anchor, _) => (anchor, self.mapping(depth)?),
            _ => return Err(syntax_error(span.start.line(), "did not find expected node content")),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, span: &Span) -> Result<Node, SyntaxError> {
        let node = self.anchors.get(&anchor).ok_or_else(|| syntax_error(span.start.line(), "unknown anchor referenced"))?;
        self.alias_nodes += count_nodes(node);
        if self.alias_nodes > ALIAS_NODES_MAX {
            return Err(SyntaxError("yaml: document contains excessive aliasing".to_owned()));
        }
        Ok(node.clone())
    }

    fn sequence(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Node::List(items)),
                (event, span) => items.push(self.node(event, &span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        let mut fields: Vec<(String, Node)> = Vec::new();
        let mut merged: Vec<(String, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                merged.retain(|(key, _)| !fields.iter().any(|(own, _)| own == key));
                fields.extend(merged);
                return Ok(Node::Object(fields));
            }
            let key = key_text(self.node(event, &span, depth + 1)?, &span)?;
            let (event, value_span) = self.next()?;
            let value = self.node(event, &value_span, depth + 1)?;
            if key == "<<" {
                merge_into(&mut merged, value);
            } else if let Some(at) = fields.iter().position(|(own, _)| *own == key) {
                self.duplicates.push(format!("line {}: key {key:?} already set in map", span.start.line()));
                fields[at].1 = value;
            } else {
                fields.push((key, value));
            }
        }
    }
}

fn syntax_error(line: usize, what: &str) -> SyntaxError {
    SyntaxError(format!("yaml: line {line}: {what}"))
}

fn count_nodes(node: &Node) -> usize {
    match node {
        Node::List(items) => 1 + items.iter().map(count_nodes).sum::<usize>(),
        Node::Object(fields) => 1 + fields.iter().map(|(_, value)| count_nodes(value)).sum::<usize>(),
        _ => 1,
    }
}

/// `<<: *anchor` and `<<: [*a, *b]`; earlier ones win.
fn merge_into(merged: &mut Vec<(String, Node)>, value: Node) {
    match value {
        Node::Object(fields) => {
            for (key, node) in fields {
                if !merged.iter().any(|(own, _)| *own == key) {
                    merged.push((key, node));
                }
            }
        }
        Node::List(items) => items.into_iter().for_each(|item| merge_into(merged, item)),
        _ => {}
    }
}

/// JSON has text keys only; YAML's other scalars become their text.
fn key_text(key: Node, span: &Span) -> Result<String, SyntaxError> {
    match key {
        Node::String(text) => Ok(text),
        Node::Bool(b) => Ok(b.to_string()),
        Node::Number(n) => Ok(n.to_string()),
        Node::Null => Ok("null".to_owned()),
        Node::List(_) | Node::Object(_) => Err(syntax_error(span.start.line(), "invalid map key")),
    }
}

fn resolve_plain(text: &str) -> Node {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Node::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => return Node::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => return Node::Bool(false),
        _ => {}
    }
    resolve_number(text).map_or_else(|| Node::String(text.to_owned()), Node::Number)
}

fn resolve_number(text: &str) -> Option<Number> {
    let starts_numeric = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    if !starts_numeric {
        return None;
    }
    let digits = text.replace('_', "");
    resolve_integer(&digits).or_else(|| resolve_float(&digits))
}

fn resolve_integer(text: &str) -> Option<Number> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match unsigned.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &unsigned[2..]),
        [b'0', b'b' | b'B', ..] => (2, &unsigned[2..]),
        [b'0', b'o' | b'O', ..] => (8, &unsigned[2..]),
        [b'0', _, ..] => (8, &unsigned[1..]),
        _ => (10, unsigned),
    };
    let well_formed = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_alphanumeric());
    let magnitude = well_formed.then(|| u64::from_str_radix(digits, radix).ok()).flatten()?;
    if negative { 0i64.checked_sub_unsigned(magnitude).map(Number::from) } else { Some(Number::from(magnitude)) }
}

fn resolve_float(text: &str) -> Option<Number> {
    let looks_like_float = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    let value = looks_like_float.then(|| text.parse::<f64>().ok()).flatten()?;
    Number::from_f64(value)
}

/// Writes a value as YAML, as `Accept: application/yaml` answers do.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => write_object(&mut out, fields, 0),
        Value::Array(items) if !items.is_empty() => write_list(&mut out, items, 0),
        scalar => {
            write_scalar(&mut out, scalar, 0);
            out.push('\n');
        }
    }
    out
}

fn write_object(out: &mut String, fields: &serde_json::Map<String, Value>, indent: usize) {
    for (at, (key, value)) in fields.iter().enumerate() {
        // The first field of a list item stands on the line of its dash.
        if at > 0 || !out.ends_with("- ") {
            push_indent(out, indent);
        }
        write_key(out, key, indent);
        out.push(':');
        write_field_value(out, value, indent);
    }
}

/// A key stands on one line, so that a line end in it is escaped.
fn write_key(out: &mut String, key: &str, indent: usize) {
    if key.contains('\n') {
        out.push_str(&Value::from(key).to_string());
    } else {
        write_text(out, key, indent);
    }
}

fn write_field_value(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            out.push('\n');
            write_object(out, fields, indent + 2);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            write_list(out, items, indent);
        }
        scalar => {
            out.push(' ');
            write_scalar(out, scalar, indent + 2);
            out.push('\n');
        }
    }
}

fn write_list(out: &mut String, items: &[Value], indent: usize) {
    for (at, item) in items.iter().enumerate() {
        if at > 0 || !out.ends_with("- ") {
            push_indent(out, indent);
        }
        out.push_str("- ");
        match item {
            Value::Object(fields) if !fields.is_empty() => write_object(out, fields, indent + 2),
            Value::Array(inner) if !inner.is_empty() => write_list(out, inner, indent + 2),
            scalar => {
                write_scalar(out, scalar, indent + 2);
                out.push('\n');
            }
        }
    }
}

fn push_indent(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn write_scalar(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::String(text) => write_text(out, text, indent),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        other => out.push_str(&other.to_string()),
    }
}

fn write_text(out: &mut String, text: &str, indent: usize) {
    if text.contains('\n') && text.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()) && !text.starts_with([' ', '\n']) {
        write_block(out, text, indent);
    } else if text.chars().any(char::is_control) {
        out.push_str(&Value::String(text.to_owned()).to_string());
    } else if needs_quotes(text) {
        let mark =
            if resolve_plain(text) != Node::String(text.to_owned()) && !text.is_empty() && !text.contains('\'') { '"' } else { '\'' };
        push_quoted(out, text, mark);
    } else {
        out.push_str(text);
    }
}

fn push_quoted(out: &mut String, text: &str, mark: char) {
    out.push(mark);
    match mark {
        '"' => out.push_str(&text.replace('\\', "\\\\").replace('"', "\\\"")),
        _ if text.is_empty() => {
            out.pop();
            out.push_str("\"\"");
            return;
        }
        _ => out.push_str(&text.replace('\'', "''")),
    }
    out.push(mark);
}

fn write_block(out: &mut String, text: &str, indent: usize) {
    out.push('|');
    let body = match text.strip_suffix('\n') {
        None => {
            out.push('-');
            text
        }
        Some(body) if body.ends_with('\n') => {
            out.push('+');
            body
        }
        Some(body) => body,
    };
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            push_indent(out, indent.max(2));
            out.push_str(line);
        }
    }
}

fn needs_quotes(text: &str) -> bool {
    let special_start = text.starts_with(|c: char| "-?:,[]{}#&*!|>'\"%@` ".contains(c));
    let dash_word = text.starts_with('-') && text.len() > 1 && !text.starts_with("- ");
    (special_start && !dash_word)
        || text.is_empty()
        || text.ends_with([' ', ':'])
        || text.contains(": ")
        || text.contains(" #")
        || resolve_plain(text) != Node::String(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        parse(text).unwrap().0.into_value()
    }

    #[test]
    fn plain_scalars_follow_yaml_1_1() {
        assert_eq!(value("[yes, 0644, 1.5, '1', ~, 0x10, 1e3, -7, v1.2]").to_string(), r#"[true,420,1.5,"1",null,16,1000.0,-7,"v1.2"]"#);
    }

    #[test]
    fn anchors_and_merge_keys_work() {
        assert_eq!(value("a: &l {x: 1}\nb: {<<: *l, z: 2}\nc: *l\n").to_string(), r#"{"a":{"x":1},"b":{"x":1,"z":2},"c":{"x":1}}"#);
    }

    #[test]
    fn a_duplicate_key_is_reported_with_its_line() {
        let (node, duplicates) = parse("a:\n  name: x\n  name: z\n").unwrap();
        assert_eq!(duplicates, ["line 3: key \"name\" already set in map"]);
        assert_eq!(node.into_value().to_string(), r#"{"a":{"name":"z"}}"#);
    }

    #[test]
    fn aliases_cannot_blow_up() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..9 {
            text += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
        }
        assert!(parse(&text).unwrap_err().0.contains("excessive aliasing"));
    }

    #[test]
    fn writing_and_reading_agree() {
        let original = serde_json::json!({"two\nlines": 1, "a": [{"b": "yes", "c": [1, 2]}, {}, "- x"], "d": "l1\nl2\n", "e": "", "f": {"g": null, "h": "a: b"}, "i": "'"});
        let text = write(&original);
        assert_eq!(value(&text), original, "{text}");
    }
}
