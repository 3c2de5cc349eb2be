//! The table of certificate signing requests.

use serde_json::{Value, json};

use super::cells::{Subject, or_none};
use super::{AGE, NAME, Printer, age, text};

pub static SIGNING_REQUESTS: Printer = Printer::new(
    &[
        NAME,
        AGE,
        text("SignerName", "Who should sign."),
        text("Requestor", "Who asks."),
        text("RequestedDuration", "How long the certificate should be valid."),
        text("Condition", "What has been decided and done."),
    ],
    cells,
);

fn cells(object: &Subject<'_>) -> Vec<Value> {
    let spec = object.spec();
    let duration = spec.field("expirationSeconds").int().map(age::human).unwrap_or_default();
    vec![
        object.name(),
        object.age(),
        or_none(spec.field("signerName").str()),
        json!(spec.field("username").str()),
        or_none(&duration),
        json!(condition(object)),
    ]
}

/// A denial outweighs an approval; failure and certificate are shown besides.
fn condition(object: &Subject<'_>) -> String {
    let status = object.status();
    let conditions = status.field("conditions");
    let has = |kind: &str| conditions.items().any(|condition| condition.field("type").str() == kind);
    let decision = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    };
    let failed = if has("Failed") { ",Failed" } else { "" };
    let issued = if status.field("certificate").str().is_empty() { "" } else { ",Issued" };
    format!("{decision}{failed}{issued}")
}
