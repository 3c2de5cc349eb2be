//! Where in an object something is wrong, and what: Go's `field.Path` and `field.Error`.
//!
//! The texts are the ones the Kubernetes API answers (`details.causes` of a `Status`), so clients
//! and people that know them find them here. Knows nothing about particular kinds.

use std::cell::OnceCell;
use std::fmt;
use std::rc::Rc;

use serde_json::Value;

/// A place in an object, as in `spec.containers[0].resources.limits[cpu]`.
///
/// Validation makes one for every field that it looks at, and most have nothing below them: only a
/// place that gets children is put where they can share it.
#[derive(Clone, Debug, Default)]
pub struct Path {
    /// None for the object itself.
    node: Option<Node>,
    shared: OnceCell<Rc<Node>>,
}

#[derive(Clone, Debug)]
struct Node {
    parent: Option<Rc<Node>>,
    segment: Segment,
}

#[derive(Clone, Debug)]
enum Segment {
    Name(&'static str),
    Index(usize),
    Key(String),
}

impl Path {
    /// The object itself; Go prints it as `<nil>`.
    pub fn root() -> Path {
        Path::default()
    }

    pub fn new(name: &'static str) -> Path {
        Path::root().child(name)
    }

    pub fn child(&self, name: &'static str) -> Path {
        self.join(Segment::Name(name))
    }

    pub fn index(&self, index: usize) -> Path {
        self.join(Segment::Index(index))
    }

    pub fn key(&self, key: &str) -> Path {
        self.join(Segment::Key(key.to_owned()))
    }

    fn join(&self, segment: Segment) -> Path {
        let parent = self.node.as_ref().map(|node| self.shared.get_or_init(|| Rc::new(node.clone())).clone());
        Path { node: Some(Node { parent, segment }), shared: OnceCell::new() }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            None => f.write_str("<nil>"),
            Some(node) => node.fmt(f),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = &self.parent {
            parent.fmt(f)?;
        }
        match &self.segment {
            // Go tells a name from a subscript by its being non-empty, so an empty name shows as
            // `[]`.
            Segment::Name("") => f.write_str("[]"),
            Segment::Name(name) if self.parent.is_some() => write!(f, ".{name}"),
            Segment::Name(name) => f.write_str(name),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

impl FieldErrorKind {
    /// The machine-readable reason of a cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// The refused value as it is printed in the message.
#[derive(Clone, Debug, PartialEq)]
pub enum BadValue {
    /// The kind of error shows no value.
    Omitted,
    Json(Value),
    /// Already printed; for Go structs, whose field order and names are not the JSON ones.
    Printed(String),
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadValue::Omitted => Ok(()),
            BadValue::Json(Value::String(text)) => f.write_str(&go_quote(text)),
            BadValue::Json(value) => write!(f, "{value}"),
            BadValue::Printed(text) => f.write_str(text),
        }
    }
}

impl From<&str> for BadValue {
    fn from(text: &str) -> Self {
        BadValue::Json(text.into())
    }
}

impl From<String> for BadValue {
    fn from(text: String) -> Self {
        BadValue::Json(text.into())
    }
}

impl From<i64> for BadValue {
    fn from(number: i64) -> Self {
        BadValue::Json(number.into())
    }
}

impl From<bool> for BadValue {
    fn from(flag: bool) -> Self {
        BadValue::Json(flag.into())
    }
}

impl From<Value> for BadValue {
    fn from(value: Value) -> Self {
        BadValue::Json(value)
    }
}

impl From<&Value> for BadValue {
    fn from(value: &Value) -> Self {
        BadValue::Json(value.clone())
    }
}

/// An absent value is Go's nil.
impl From<Option<&Value>> for BadValue {
    fn from(value: Option<&Value>) -> Self {
        BadValue::Json(value.cloned().unwrap_or_default())
    }
}

/// One finding of a validation: a cause of the `Status` that refuses the request.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: FieldErrorKind,
    pub field: String,
    pub bad_value: BadValue,
    pub detail: String,
}

impl FieldError {
    pub fn required(path: &Path, detail: impl Into<String>) -> FieldError {
        Self::new(FieldErrorKind::Required, path, BadValue::Omitted, detail.into())
    }

    pub fn invalid(path: &Path, value: impl Into<BadValue>, detail: impl Into<String>) -> FieldError {
        Self::new(FieldErrorKind::Invalid, path, value.into(), detail.into())
    }

    pub fn type_invalid(path: &Path, value: impl Into<BadValue>, detail: impl Into<String>) -> FieldError {
        Self::new(FieldErrorKind::TypeInvalid, path, value.into(), detail.into())
    }

    /// `supported` is printed in the order given: sort it where Go keeps a set.
    pub fn not_supported(path: &Path, value: impl Into<BadValue>, supported: &[&str]) -> FieldError {
        let quoted: Vec<String> = supported.iter().map(|text| go_quote(text)).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        Self::new(FieldErrorKind::NotSupported, path, value.into(), detail)
    }

    pub fn duplicate(path: &Path, value: impl Into<BadValue>) -> FieldError {
        Self::new(FieldErrorKind::Duplicate, path, value.into(), String::new())
    }

    pub fn not_found(path: &Path, value: impl Into<BadValue>) -> FieldError {
        Self::new(FieldErrorKind::NotFound, path, value.into(), String::new())
    }

    pub fn forbidden(path: &Path, detail: impl Into<String>) -> FieldError {
        Self::new(FieldErrorKind::Forbidden, path, BadValue::Omitted, detail.into())
    }

    pub fn too_long(path: &Path, bytes_max: usize) -> FieldError {
        let detail = format!("may not be more than {bytes_max} bytes");
        Self::new(FieldErrorKind::TooLong, path, BadValue::Omitted, detail)
    }

    pub fn too_many(path: &Path, actual: usize, items_max: usize) -> FieldError {
        let detail = format!("must have at most {items_max} items");
        Self::new(FieldErrorKind::TooMany, path, (actual as i64).into(), detail)
    }

    pub fn internal(path: &Path, detail: impl Into<String>) -> FieldError {
        Self::new(FieldErrorKind::Internal, path, BadValue::Omitted, detail.into())
    }

    fn new(kind: FieldErrorKind, path: &Path, bad_value: BadValue, detail: String) -> FieldError {
        FieldError { kind, field: path.to_string(), bad_value, detail }
    }

    /// The `reason` of the cause.
    pub fn cause_reason(&self) -> &'static str {
        self.kind.reason()
    }

    /// The `message` of the cause: everything but the field.
    pub fn message(&self) -> String {
        let mut text = self.kind.label().to_owned();
        if self.bad_value != BadValue::Omitted {
            text.push_str(": ");
            text.push_str(&self.bad_value.to_string());
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message())
    }
}

/// Prints as Go's aggregate error does: one plainly, several distinct ones as `[a, b]`.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut seen = std::collections::HashSet::new();
    let texts: Vec<String> = errors.iter().map(FieldError::to_string).filter(|text| seen.insert(text.clone())).collect();
    match texts.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// Go's `%q`.
pub fn go_quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x0b' => quoted.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\x7f' => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() || (c.is_whitespace() && c != ' ') => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(error: FieldError, expect: Expect) {
        expect.assert_eq(&format!("{} | {error}", error.cause_reason()));
    }

    #[test]
    fn errors_print_as_the_api_does() {
        let limits = Path::new("spec").child("containers").index(0).child("resources").child("limits").key("cpu");
        check(FieldError::required(&limits, ""), expect!["FieldValueRequired | spec.containers[0].resources.limits[cpu]: Required value"]);
        let path = Path::new("x");
        check(
            FieldError::invalid(&path, "a\"b\n", "must be good"),
            expect![[r#"FieldValueInvalid | x: Invalid value: "a\"b\n": must be good"#]],
        );
        check(FieldError::invalid(&path, None, "is nil"), expect!["FieldValueInvalid | x: Invalid value: null: is nil"]);
        check(FieldError::invalid(&path, json!({"a": ["b"]}), ""), expect![[r#"FieldValueInvalid | x: Invalid value: {"a":["b"]}"#]]);
        check(
            FieldError::not_supported(&path, "X", &["A", "B"]),
            expect![[r#"FieldValueNotSupported | x: Unsupported value: "X": supported values: "A", "B""#]],
        );
        check(FieldError::too_long(&Path::new(""), 9), expect!["FieldValueTooLong | []: Too long: may not be more than 9 bytes"]);
        check(FieldError::too_many(&path, 4, 3), expect!["FieldValueTooMany | x: Too many: 4: must have at most 3 items"]);
    }
}
