//! The table of events. Both groups show the same one, made from the old form.

use serde_json::{Value, json};

use super::cells::Subject;
use super::{Column, NAME, Printer, text, wide};

pub static EVENTS: Printer = Printer::new(
    &[
        text("Last Seen", "Time since it happened last."),
        text("Type", "Normal or Warning."),
        text("Reason", "Why, in one word."),
        text("Object", "What it happened to."),
        wide("Subobject", "Which part of the object."),
        wide("Source", "Who reported it."),
        text("Message", "What happened."),
        wide("First Seen", "Time since it happened first."),
        wide("Count", "How often it happened."),
        Column { priority: 1, ..NAME },
    ],
    cells,
);

fn cells(object: &Subject<'_>) -> Vec<Value> {
    let text = |name| object.field(name).str();
    let about = object.field("involvedObject");
    vec![
        json!(last_seen(object)),
        json!(text("type")),
        json!(text("reason")),
        json!(target(about.field("kind").str(), about.field("name").str())),
        json!(about.field("fieldPath").str()),
        json!(source(object)),
        json!(text("message").trim()),
        json!(first_seen(object)),
        json!(count(object)),
        object.name(),
    ]
}

fn first_seen(object: &Subject<'_>) -> String {
    let first = object.field("firstTimestamp");
    object.since(&if first.exists() { first } else { object.field("eventTime") })
}

fn last_seen(object: &Subject<'_>) -> String {
    let (series, last) = (object.field("series"), object.field("lastTimestamp"));
    match (series.exists(), last.exists()) {
        (true, _) => object.since(&series.field("lastObservedTime")),
        (false, true) => object.since(&last),
        (false, false) => first_seen(object),
    }
}

/// An event of the new kind that happened once has no count.
fn count(object: &Subject<'_>) -> i64 {
    let (series, count) = (object.field("series"), object.field("count").int_or_zero());
    match (series.exists(), count) {
        (true, _) => series.field("count").int_or_zero(),
        (false, 0) => 1,
        (false, count) => count,
    }
}

fn target(kind: &str, name: &str) -> String {
    let kind = kind.to_lowercase();
    if name.is_empty() { kind } else { format!("{kind}/{name}") }
}

/// Component and host, each from the old field or else from the new one.
fn source(object: &Subject<'_>) -> String {
    let source = object.field("source");
    let first = |old: &'static str, new: &'static str| match source.field(old).str() {
        "" => object.field(new).str(),
        text => text,
    };
    let (component, host) = (first("component", "reportingComponent"), first("host", "reportingInstance"));
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}
