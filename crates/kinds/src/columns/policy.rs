//! Tables of what limits and ranks pods: disruption budgets, resource quotas, priority classes.

use serde_json::{Value, json};

use super::cells::Subject;
use super::{AGE, Column, NAME, Printer, integer, text};
use crate::cursor::Cursor;

pub static DISRUPTION_BUDGETS: Printer = Printer::new(
    &[
        NAME,
        text("Min Available", "How many pods must stay available."),
        text("Max Unavailable", "How many pods may be unavailable."),
        integer("Allowed Disruptions", "How many pods may be evicted now."),
        AGE,
    ],
    disruption_budget,
);

pub static RESOURCE_QUOTAS: Printer = Printer::new(
    &[NAME, text("Request", "Used and allowed requests and objects."), text("Limit", "Used and allowed limits."), AGE],
    resource_quota,
);

pub static PRIORITY_CLASSES: Printer = Printer::new(
    &[
        NAME,
        integer("Value", "Priority of the class's pods."),
        Column { r#type: "boolean", ..text("Global-Default", "Do pods without a class belong to this one?") },
        AGE,
        // Last in the row, but not only for `-o wide`.
        text("PreemptionPolicy", "May the class's pods take the place of others?"),
    ],
    priority_class,
);

fn disruption_budget(object: &Subject<'_>) -> Vec<Value> {
    let (spec, allowed) = (object.spec(), object.status().field("disruptionsAllowed"));
    vec![
        object.name(),
        json!(number_or_percentage(&spec.field("minAvailable"))),
        json!(number_or_percentage(&spec.field("maxUnavailable"))),
        json!(allowed.int_or_zero()),
        object.age(),
    ]
}

fn number_or_percentage(field: &Cursor<'_>) -> String {
    match field.int() {
        Some(number) => number.to_string(),
        None if field.exists() => field.str().to_owned(),
        None => "N/A".to_owned(),
    }
}

fn resource_quota(object: &Subject<'_>) -> Vec<Value> {
    let status = object.status();
    let (hard, used) = (status.field("hard"), status.field("used"));
    let mut resources: Vec<(&str, &str)> = hard.entries().map(|(resource, allowed)| (resource, allowed.str())).collect();
    resources.sort_unstable();
    let (limits, requests): (Vec<_>, Vec<_>) = resources.into_iter().partition(|(resource, _)| resource.starts_with("limits."));
    let show = |resources: Vec<(&str, &str)>| {
        let texts: Vec<String> =
            resources.into_iter().map(|(resource, allowed)| format!("{resource}: {}/{allowed}", amount(&used.key(resource)))).collect();
        texts.join(", ")
    };
    vec![object.name(), json!(show(requests)), json!(show(limits)), object.age()]
}

fn amount<'a>(used: &Cursor<'a>) -> &'a str {
    if used.exists() { used.str() } else { "0" }
}

fn priority_class(object: &Subject<'_>) -> Vec<Value> {
    vec![
        object.name(),
        json!(object.field("value").int_or_zero()),
        json!(object.field("globalDefault").is_true()),
        object.age(),
        json!(object.field("preemptionPolicy").str()),
    ]
}
