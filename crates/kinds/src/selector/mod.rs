//! Which objects are meant: label selectors (as query text and as objects), node selectors, field
//! selectors.
//!
//! Parsing refuses with Go's texts. Matching takes label maps as they are in objects.

mod fields;
mod lexer;
mod node;

pub use fields::{FieldRequirement, FieldSelector};
pub use node::{node_selector_matches, node_selector_term_matches, preferred_term_matches};

use std::fmt;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::field::{FieldError, Path, aggregate};
use crate::names;
use lexer::{Lexer, Token};

/// The text answered to a selector that cannot be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct SelectorError(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted, each once.
    pub values: Vec<String>,
}

/// All requirements hold; or nothing matches at all (Go's nil LabelSelector).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    requirements: Option<Vec<Requirement>>,
}

impl Selector {
    pub fn everything() -> Selector {
        Selector { requirements: Some(Vec::new()) }
    }

    pub fn nothing() -> Selector {
        Selector { requirements: None }
    }

    /// Reads the text of a `labelSelector` query parameter.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        let mut requirements = Parser { tokens: Lexer::tokens(text), position: 0 }.parse().map_err(SelectorError)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Selector { requirements: Some(requirements) })
    }

    /// Reads a LabelSelector object. Absent selects nothing, empty everything.
    pub fn from_object(object: Option<&Value>) -> Result<Selector, SelectorError> {
        let Some(object) = object.filter(|object| !object.is_null()) else {
            return Ok(Selector::nothing());
        };
        let mut requirements = Vec::new();
        for (key, value) in object.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            requirements.push(Requirement::new(key, Operator::In, vec![text_of(value)]).map_err(SelectorError)?);
        }
        for expression in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(Requirement::from_expression(expression)?);
        }
        Ok(Selector { requirements: Some(requirements) })
    }

    /// A map of labels that must all be there (`nodeSelector`, a Service's selector).
    pub fn from_labels(labels: Option<&Map<String, Value>>) -> Selector {
        let equals =
            |(key, value): (&String, &Value)| Requirement { key: key.clone(), operator: Operator::Equals, values: vec![text_of(value)] };
        Selector { requirements: Some(labels.into_iter().flatten().map(equals).collect()) }
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.as_ref().is_some_and(Vec::is_empty)
    }

    pub fn requirements(&self) -> &[Requirement] {
        self.requirements.as_deref().unwrap_or_default()
    }

    pub fn matches(&self, labels: &Map<String, Value>) -> bool {
        self.matches_lookup(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Like [`Selector::matches`] for objects that may have no labels.
    pub fn matches_labels_of(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        self.matches_lookup(|key| labels?.get(key)?.as_str())
    }

    /// For labels that are kept in another form: takes what gives the value of a key.
    pub fn matches_lookup<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        match &self.requirements {
            Some(requirements) => requirements.iter().all(|requirement| requirement.matches(lookup(&requirement.key))),
            None => false,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.requirements().iter().map(Requirement::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

const BINARY_OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

impl Requirement {
    fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Requirement, String> {
        values.sort();
        values.dedup();
        let errors = requirement_errors(key, operator, &values);
        if !errors.is_empty() {
            return Err(aggregate(&errors));
        }
        Ok(Requirement { key: key.to_owned(), operator, values })
    }

    fn from_expression(expression: &Value) -> Result<Requirement, SelectorError> {
        let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
        let operator = match text("operator") {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => return Err(SelectorError(format!("{} is not a valid label selector operator", crate::field::go_quote(other)))),
        };
        let values = expression.get("values").and_then(Value::as_array);
        Requirement::new(text("key"), operator, values.into_iter().flatten().map(text_of).collect()).map_err(SelectorError)
    }

    pub fn matches(&self, value: Option<&str>) -> bool {
        let is_listed = |value: &str| self.values.binary_search_by(|listed| listed.as_str().cmp(value)).is_ok();
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(is_listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(is_listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compares(value, |value, bound| value > bound),
            Operator::LessThan => self.compares(value, |value, bound| value < bound),
        }
    }

    fn compares(&self, value: Option<&str>, compare: impl Fn(i64, i64) -> bool) -> bool {
        let [bound] = self.values.as_slice() else { return false };
        match (value.and_then(|value| value.parse().ok()), bound.parse().ok()) {
            (Some(value), Some(bound)) => compare(value, bound),
            _ => false,
        }
    }
}

fn requirement_errors(key: &str, operator: Operator, values: &[String]) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> = label_key_error(key, &Path::new("key")).into_iter().collect();
    let path = Path::new("values");
    let list = || Value::from(values);
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            errors.push(FieldError::invalid(&path, list(), "for 'in', 'notin' operators, values set can't be empty"));
        }
        Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
            errors.push(FieldError::invalid(&path, list(), "exact-match compatibility requires one single value"));
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            errors.push(FieldError::invalid(&path, list(), "values set must be empty for exists and does not exist"));
        }
        Operator::GreaterThan | Operator::LessThan => {
            if values.len() != 1 {
                errors.push(FieldError::invalid(&path, list(), "for 'Gt', 'Lt' operators, exactly one value is required"));
            }
            let bad = values.iter().enumerate().filter(|(_, value)| value.parse::<i64>().is_err());
            errors.extend(bad.map(|(i, value)| {
                FieldError::invalid(&path.index(i), value.as_str(), "for 'Gt', 'Lt' operators, the value must be an integer")
            }));
        }
        _ => {}
    }
    for (i, value) in values.iter().enumerate() {
        let findings = names::label_value(value);
        if !findings.is_empty() {
            errors.push(FieldError::invalid(&path.index(i).key(key), value.as_str(), findings.join("; ")));
        }
    }
    errors
}

fn label_key_error(key: &str, path: &Path) -> Option<FieldError> {
    let findings = names::qualified_name(key);
    (!findings.is_empty()).then(|| FieldError::invalid(path, key, findings.join("; ")))
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    position: usize,
}

impl<'a> Parser<'a> {
    fn parse(mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                (Token::Identifier | Token::Not, _) => {
                    let requirement = self.requirement().map_err(|error| format!("unable to parse requirement: {error}"))?;
                    requirements.push(requirement);
                }
                (Token::End, _) => return Ok(requirements),
                (_, found) => return Err(format!("found '{found}', expected: !, identifier, or 'end of string'")),
            }
            match self.next() {
                (Token::End, _) => return Ok(requirements),
                (Token::Comma, _) => {
                    let (token, found) = self.peek();
                    if !matches!(token, Token::Identifier | Token::Not) {
                        return Err(format!("found '{found}', expected: identifier after ','"));
                    }
                }
                (_, found) => return Err(format!("found '{found}', expected: ',' or 'end of string'")),
            }
        }
    }

    /// Where a value may stand, `in` and `notin` are plain words.
    fn peek(&self) -> (Token, &'a str) {
        let (token, text) = self.peek_operator();
        (if matches!(token, Token::In | Token::NotIn) { Token::Identifier } else { token }, text)
    }

    fn peek_operator(&self) -> (Token, &'a str) {
        self.tokens.get(self.position).copied().unwrap_or((Token::End, ""))
    }

    fn next(&mut self) -> (Token, &'a str) {
        let next = self.peek();
        self.position += 1;
        next
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let is_negated = self.peek().0 == Token::Not;
        if is_negated {
            self.position += 1;
        }
        let (token, key) = self.next();
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        if let Some(error) = label_key_error(key, &Path::root()) {
            return Err(error.to_string());
        }
        if is_negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, String> {
        let (token, found) = self.peek_operator();
        self.position += 1;
        Ok(match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::GreaterThan => Operator::GreaterThan,
            Token::LessThan => Operator::LessThan,
            _ => return Err(format!("found '{found}', expected: {BINARY_OPERATORS}")),
        })
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let (token, found) = self.next();
        if token != Token::Open {
            return Err(format!("found '{found}' expected: '('"));
        }
        match self.peek() {
            (Token::Identifier | Token::Comma, found) => {
                let values = self.value_list()?;
                match self.next().0 {
                    Token::Close => Ok(values),
                    _ => Err(format!("found '{found}', expected: ')'")),
                }
            }
            (Token::Close, _) => {
                self.position += 1;
                Ok(vec![String::new()])
            }
            (_, found) => Err(format!("found '{found}', expected: ',', ')' or identifier")),
        }
    }

    /// Up to the closing parenthesis; nothing between two commas is an empty value.
    fn value_list(&mut self) -> Result<Vec<String>, String> {
        let mut values: Vec<String> = Vec::new();
        loop {
            match self.next() {
                (Token::Identifier, value) => {
                    values.push(value.to_owned());
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, found) => return Err(format!("found '{found}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    let after = self.peek().0;
                    if values.is_empty() || matches!(after, Token::Close | Token::Comma) {
                        values.push(String::new());
                    }
                    if after == Token::Close {
                        return Ok(values);
                    }
                }
                (_, found) => return Err(format!("found '{found}', expected: ',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next() {
            (Token::Identifier, value) => Ok(value.to_owned()),
            (_, found) => Err(format!("found '{found}', expected: identifier")),
        }
    }
}

#[cfg(test)]
mod tests;
