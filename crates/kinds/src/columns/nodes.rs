//! The table of nodes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::cells::{Subject, or, or_none};
use super::{AGE, NAME, Printer, text, wide};

/// Labels whose key ends in the role. Their value says nothing.
const ROLE_LABEL_PREFIX: &str = "node-role.kubernetes.io/";
/// The older label, whose value is the role.
const ROLE_LABEL: &str = "kubernetes.io/role";

pub static NODES: Printer = Printer::new(
    &[
        NAME,
        text("Status", "Ready or not, and closed for new pods or not."),
        text("Roles", "Roles that labels give to the node."),
        AGE,
        text("Version", "Version of the kubelet."),
        wide("Internal-IP", "First address inside the cluster."),
        wide("External-IP", "First address outside the cluster."),
        wide("OS-Image", "Operating system."),
        wide("Kernel-Version", "Kernel and architecture."),
        wide("Container-Runtime", "Container runtime and its version."),
    ],
    cells,
);

fn cells(object: &Subject<'_>) -> Vec<Value> {
    let info = object.status().field("nodeInfo");
    let info = |name| info.field(name).str();
    vec![
        object.name(),
        json!(readiness(object)),
        or_none(&roles(object)),
        object.age(),
        json!(info("kubeletVersion")),
        or_none(address(object, "InternalIP")),
        or_none(address(object, "ExternalIP")),
        or(info("osImage"), "<unknown>"),
        or(&kernel(info("kernelVersion"), info("architecture")), "<unknown>"),
        or(info("containerRuntimeVersion"), "<unknown>"),
    ]
}

fn readiness(object: &Subject<'_>) -> String {
    let conditions = object.status().field("conditions");
    let ready = conditions.items().filter(|condition| condition.field("type").str() == "Ready").last();
    let status = match ready {
        None => "Unknown",
        Some(ready) if ready.field("status").str() == "True" => "Ready",
        Some(_) => "NotReady",
    };
    let suffix = if object.spec().field("unschedulable").is_true() { ",SchedulingDisabled" } else { "" };
    format!("{status}{suffix}")
}

fn roles(object: &Subject<'_>) -> String {
    let labels = object.metadata().field("labels");
    let roles: BTreeSet<&str> = labels
        .entries()
        .map(|(key, value)| match key.strip_prefix(ROLE_LABEL_PREFIX) {
            Some(role) => role,
            None if key == ROLE_LABEL => value.str(),
            None => "",
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn address<'a>(object: &Subject<'a>, kind: &str) -> &'a str {
    let addresses = object.status().field("addresses");
    let address = addresses.items().find(|address| address.field("type").str() == kind);
    address.map(|address| address.field("address").str()).unwrap_or_default()
}

fn kernel(version: &str, architecture: &str) -> String {
    if version.is_empty() || architecture.is_empty() { version.to_owned() } else { format!("{version} ({architecture})") }
}
