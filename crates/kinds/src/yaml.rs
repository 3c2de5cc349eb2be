//! YAML text to and from the trees of `document`.
//!
//! Reading resolves plain scalars by the rules of YAML 1.1, because Kubernetes does: `yes` and
//! `off` are booleans, `0644` is octal; anchors, aliases and merge keys work. Duplicate keys are
//! reported, the last one wins. Writing gives block style with sorted keys.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Number, Value};

use crate::document::{DEPTH_MAX, Node, SyntaxError};

/// Bounds what anchors and aliases may blow a document up to, in values (a "billion laughs" text)
/// and in bytes of text (a long text that is named often). Without aliases no request may have more
/// bytes than [`ALIAS_BYTES_MAX`] either.
const ALIAS_NODES_MAX: usize = 200_000;
const ALIAS_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Duplicate keys past this number are not listed, as in JSON.
const DUPLICATES_MAX: usize = 100;

/// Parses the first document of a YAML text. Also returns one sentence for each duplicate key.
pub fn parse(text: &str) -> Result<(Node, Vec<String>), SyntaxError> {
    let mut reader =
        Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), duplicates: Vec::new(), copied: Size::default() };
    let node = reader.document()?;
    Ok((node, reader.duplicates))
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, (Node, Size)>,
    duplicates: Vec<String>,
    /// What was copied for anchors and aliases so far.
    copied: Size,
}

/// What a tree costs.
#[derive(Debug, Copy, Clone, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
    /// Levels of collections.
    depth: usize,
}

impl Size {
    fn of(node: &Node) -> Size {
        let mut size = Size { nodes: 1, ..Size::default() };
        match node {
            Node::String(text) => size.bytes = text.len(),
            Node::List(items) => items.iter().for_each(|item| size.add(Size::of(item))),
            Node::Object(fields) => {
                for (key, value) in fields {
                    size.bytes += key.len();
                    size.add(Size::of(value));
                }
            }
            Node::Null | Node::Bool(_) | Node::Number(_) => {}
        }
        size.depth += usize::from(matches!(node, Node::List(_) | Node::Object(_)));
        size
    }

    /// Adds what stands beside the rest.
    fn add(&mut self, other: Size) {
        self.nodes += other.nodes;
        self.bytes += other.bytes;
        self.depth = self.depth.max(other.depth);
    }
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
        // The collection that starts here is one more level than those around it.
        let is_collection = matches!(event, Event::SequenceStart(..) | Event::MappingStart(..));
        if is_collection && depth == DEPTH_MAX {
            return Err(syntax_error(span.start.line(), "exceeded max depth"));
        }
        let (anchor, node) = match event {
            Event::Alias(anchor) => return self.alias(anchor, span, depth),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                (anchor, if plain { resolve_plain(&text) } else { Node::String(text.into_owned()) })
            }
            Event::SequenceStart(anchor, _) => (anchor, self.sequence(depth)?),
            Event::MappingStart(anchor, _) => (anchor, self.mapping(depth)?),
            _ => return Err(syntax_error(span.start.line(), "did not find expected node content")),
        };
        if anchor > 0 {
            let size = Size::of(&node);
            self.pay_for_copy(size)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    fn pay_for_copy(&mut self, size: Size) -> Result<(), SyntaxError> {
        self.copied.add(size);
        if self.copied.nodes > ALIAS_NODES_MAX || self.copied.bytes > ALIAS_BYTES_MAX {
            return Err(SyntaxError("yaml: document contains excessive aliasing".to_owned()));
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, span: &Span, depth: usize) -> Result<Node, SyntaxError> {
        let known = self.anchors.get(&anchor).map(|(_, size)| *size);
        let size = known.ok_or_else(|| syntax_error(span.start.line(), "unknown anchor referenced"))?;
        self.pay_for_copy(size)?;
        if depth + size.depth > DEPTH_MAX {
            return Err(syntax_error(span.start.line(), "exceeded max depth"));
        }
        Ok(self.anchors[&anchor].0.clone())
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
        let mut own = Fields::default();
        let mut merged = Fields::default();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                merged.list.into_iter().for_each(|(key, value)| own.insert_new(key, value));
                return Ok(Node::Object(own.list));
            }
            let key = key_text(self.node(event, &span, depth + 1)?, &span)?;
            let (event, value_span) = self.next()?;
            let value = self.node(event, &value_span, depth + 1)?;
            if key == "<<" {
                merge_into(&mut merged, value);
            } else if let Some(at) = own.position(&key) {
                if self.duplicates.len() < DUPLICATES_MAX {
                    self.duplicates.push(format!("line {}: key {key:?} already set in map", span.start.line()));
                }
                own.list[at].1 = value;
            } else {
                own.push(key, value);
            }
        }
    }
}

/// The fields of a mapping in their order, each once.
#[derive(Default)]
struct Fields {
    list: Vec<(String, Node)>,
    /// Where each key is; filled when the list is longer than [`Fields::SCANNED_MAX`].
    index: HashMap<String, usize>,
}

impl Fields {
    /// Up to this many keys a comparison with each is faster than a table.
    const SCANNED_MAX: usize = 16;

    fn position(&self, key: &str) -> Option<usize> {
        match self.list.len() {
            ..=Self::SCANNED_MAX => self.list.iter().position(|(own, _)| own == key),
            _ => self.index.get(key).copied(),
        }
    }

    /// Adds a key that is not there.
    fn push(&mut self, key: String, value: Node) {
        self.list.push((key, value));
        if self.list.len() > Self::SCANNED_MAX {
            for (at, (key, _)) in self.list.iter().enumerate().skip(self.index.len()) {
                self.index.insert(key.clone(), at);
            }
        }
    }

    fn insert_new(&mut self, key: String, value: Node) {
        if self.position(&key).is_none() {
            self.push(key, value);
        }
    }
}

fn syntax_error(line: usize, what: &str) -> SyntaxError {
    SyntaxError(format!("yaml: line {line}: {what}"))
}

/// `<<: *anchor` and `<<: [*a, *b]`; earlier ones win.
fn merge_into(merged: &mut Fields, value: Node) {
    match value {
        Node::Object(fields) => fields.into_iter().for_each(|(key, node)| merged.insert_new(key, node)),
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

    /// A text of 50,000 characters that is named 15,000 times has few values and many bytes.
    #[test]
    fn aliases_cannot_blow_up_by_long_texts() {
        let text = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(50_000), vec!["*a"; 15_000].join(","));
        assert!(parse(&text).unwrap_err().0.contains("excessive aliasing"));
        let merged = format!("a: &a {{{}: 1}}\n{}", "x".repeat(1000), "b: {<<: *a}\n".repeat(10_000));
        assert!(parse(&merged).unwrap_err().0.contains("excessive aliasing"));
        let anchors = format!("{}{}{}", "&a [".repeat(90), "x,".repeat(100_000), "]".repeat(90));
        assert!(parse(&anchors).unwrap_err().0.contains("excessive aliasing"));
    }

    #[test]
    fn aliases_count_as_deep_as_what_they_stand_for() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(&nested(DEPTH_MAX)).is_ok());
        assert!(parse(&nested(DEPTH_MAX + 1)).unwrap_err().0.ends_with("exceeded max depth"));
        let aliased = format!("a: &a {}\nb: {}*a{}\n", nested(60), "[".repeat(60), "]".repeat(60));
        assert!(parse(&aliased).unwrap_err().0.ends_with("exceeded max depth"));
    }

    #[test]
    fn keys_of_large_mappings_are_found_and_duplicates_reported_so_often() {
        let keys: String = (0..1000).map(|i| format!("k{}: {i}\n", i % 500)).collect();
        let (node, duplicates) = parse(&keys).unwrap();
        let Node::Object(fields) = node else { panic!("a mapping") };
        assert_eq!((fields.len(), fields[3].1.clone(), duplicates.len()), (500, Node::Number(503.into()), DUPLICATES_MAX));
    }

    #[test]
    fn writing_and_reading_agree() {
        let original = serde_json::json!({"two\nlines": 1, "a": [{"b": "yes", "c": [1, 2]}, {}, "- x"], "d": "l1\nl2\n", "e": "", "f": {"g": null, "h": "a: b"}, "i": "'"});
        let text = write(&original);
        assert_eq!(value(&text), original, "{text}");
    }
}
