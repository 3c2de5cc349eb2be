//! What the printers share: an object with the time of the request, and the usual texts of cells.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age;
use crate::cursor::Cursor;

/// Elements of a list that a cell shows before it only counts.
const SHOWN_MAX: usize = 3;

/// An object that is printed, and when.
pub struct Subject<'a> {
    object: Cursor<'a>,
    now: Timestamp,
}

impl<'a> Subject<'a> {
    pub fn new(object: &'a Value, now: Timestamp) -> Subject<'a> {
        Subject { object: Cursor::root(object), now }
    }

    pub fn field(&self, name: &'static str) -> Cursor<'a> {
        self.object.field(name)
    }

    pub fn spec(&self) -> Cursor<'a> {
        self.field("spec")
    }

    pub fn status(&self) -> Cursor<'a> {
        self.field("status")
    }

    pub fn metadata(&self) -> Cursor<'a> {
        self.field("metadata")
    }

    pub fn name(&self) -> Value {
        json!(self.metadata().field("name").str())
    }

    pub fn age(&self) -> Value {
        json!(self.since(&self.metadata().field("creationTimestamp")))
    }

    /// The time since a point in time; bookmarks and bare events have none.
    pub fn since(&self, time: &Cursor<'_>) -> String {
        moment(time).map_or_else(|| "<unknown>".to_owned(), |then| self.since_moment(then))
    }

    pub fn since_moment(&self, then: Timestamp) -> String {
        age::since(then, self.now)
    }
}

/// The point in time, if one is set.
pub fn moment(time: &Cursor<'_>) -> Option<Timestamp> {
    time.str().parse().ok()
}

/// The text, or a stand-in for nothing.
pub fn or(text: &str, placeholder: &str) -> Value {
    json!(if text.is_empty() { placeholder } else { text })
}

pub fn or_none(text: &str) -> Value {
    or(text, "<none>")
}

/// Labels, or any other map of strings: `a=b,c=d`.
pub fn labels(map: &Cursor<'_>) -> Value {
    let mut pairs: Vec<String> = map.entries().map(|(key, value)| format!("{key}={}", value.str())).collect();
    pairs.sort();
    or_none(&pairs.join(","))
}

/// A LabelSelector. Unlike [`crate::selector::Selector`] this tells a label from an expression with
/// one value: `a=b`, `a in (b)`.
pub fn label_selector(selector: &Cursor<'_>) -> Value {
    let labels = selector.field("matchLabels");
    let equalities = labels.entries().map(|(key, value)| (key, format!("{key}={}", value.str())));
    let expressions = selector.field("matchExpressions");
    let mut terms: Vec<(&str, String)> = equalities.chain(expressions.items().map(|item| expression(&item))).collect();
    terms.sort_by_key(|(key, _)| *key);
    let texts: Vec<String> = terms.into_iter().map(|(_, text)| text).collect();
    or_none(&texts.join(","))
}

fn expression<'a>(item: &Cursor<'a>) -> (&'a str, String) {
    let key = item.field("key").str();
    let mut values: Vec<&str> = item.field("values").strs().collect();
    values.sort_unstable();
    let text = match item.field("operator").str() {
        "In" => format!("{key} in ({})", values.join(",")),
        "NotIn" => format!("{key} notin ({})", values.join(",")),
        "DoesNotExist" => format!("!{key}"),
        _ => key.to_owned(),
    };
    (key, text)
}

/// One text of every element, with commas between.
pub fn joined(list: &Cursor<'_>, name: &'static str) -> Value {
    let texts: Vec<&str> = list.items().map(|item| item.field(name).str()).collect();
    json!(texts.join(","))
}

/// The first elements, and how many more there are.
pub fn shortened(texts: &[String]) -> String {
    let shown = &texts[..texts.len().min(SHOWN_MAX)];
    match texts.len() - shown.len() {
        0 => shown.join(","),
        hidden => format!("{} + {hidden} more...", shown.join(",")),
    }
}
