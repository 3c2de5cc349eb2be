//! The table of role bindings and cluster role bindings. Roles have the plain one.

use serde_json::{Value, json};

use super::cells::Subject;
use super::{AGE, NAME, Printer, text, wide};

pub static BINDINGS: Printer = Printer::new(
    &[
        NAME,
        text("Role", "The role that is given."),
        AGE,
        wide("Users", "Users who have it."),
        wide("Groups", "Groups whose members have it."),
        wide("ServiceAccounts", "Service accounts that have it."),
    ],
    cells,
);

fn cells(object: &Subject<'_>) -> Vec<Value> {
    let role = object.field("roleRef");
    vec![
        object.name(),
        json!(format!("{}/{}", role.field("kind").str(), role.field("name").str())),
        object.age(),
        json!(subjects(object, "User")),
        json!(subjects(object, "Group")),
        json!(subjects(object, "ServiceAccount")),
    ]
}

/// Names of the subjects of one kind; a service account's with its namespace.
fn subjects(object: &Subject<'_>, kind: &str) -> String {
    let subjects = object.field("subjects");
    let names: Vec<String> = subjects
        .items()
        .filter(|subject| subject.field("kind").str() == kind)
        .map(|subject| match (kind, subject.field("name").str()) {
            ("ServiceAccount", name) => format!("{}/{name}", subject.field("namespace").str()),
            (_, name) => name.to_owned(),
        })
        .collect();
    names.join(", ")
}
