//! The table of kinds that Kubernetes has no printer for: roles, cluster roles, limit ranges.

use serde_json::{Value, json};

use super::cells::Subject;
use super::{Column, NAME, Printer, text};

/// What Go writes for a time that was never set.
const NEVER: &str = "0001-01-01T00:00:00Z";

const CREATED_AT: Column = Column { r#type: "date", ..text("Created At", "When the object was created.") };

pub static PLAIN: Printer = Printer::new(&[NAME, CREATED_AT], cells);

fn cells(object: &Subject<'_>) -> Vec<Value> {
    let created = object.metadata().field("creationTimestamp");
    vec![object.name(), if created.exists() { json!(created.str()) } else { json!(NEVER) }]
}
