//! Tables: the columns of each kind and the cells of an object, as `kubectl get` prints them.
//!
//! Takes objects in the form in which they are stored (events in the old form, for both groups) and
//! the time of the request; gives JSON for `meta.k8s.io` Tables. Every cell is filled, also those
//! of wide columns: the client leaves out what it does not show.

mod age;
mod cells;
mod plain;

mod daemonsets;
mod nodes;
mod pods;

mod events;
mod network;
mod rbac;

mod certificates;
mod config;
mod policy;

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::table::Kind;
use cells::Subject;

/// How one kind is printed. There are as many cells as columns.
struct Printer {
    columns: &'static [Column],
    cells: fn(&Subject<'_>) -> Vec<Value>,
    /// What the client should know of the whole row.
    conditions: fn(&Subject<'_>) -> Option<Value>,
}

impl Printer {
    const fn new(columns: &'static [Column], cells: fn(&Subject<'_>) -> Vec<Value>) -> Printer {
        Printer { columns, cells, conditions: |_| None }
    }
}

/// The head of a column.
struct Column {
    name: &'static str,
    r#type: &'static str,
    format: &'static str,
    description: &'static str,
    /// Columns above zero are for `-o wide`.
    priority: u8,
}

const NAME: Column = Column { format: "name", ..text("Name", "Name of the object, unique in its namespace.") };
const AGE: Column = text("Age", "Time since the object was created.");

const fn text(name: &'static str, description: &'static str) -> Column {
    Column { name, r#type: "string", format: "", description, priority: 0 }
}

const fn integer(name: &'static str, description: &'static str) -> Column {
    Column { r#type: "integer", ..text(name, description) }
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { priority: 1, ..text(name, description) }
}

/// The column definitions of a kind.
pub fn definitions(kind: &Kind) -> Value {
    printer(kind).columns.iter().map(Column::definition).collect()
}

/// The row of an object: its cells and, for pods that have ended, a condition.
pub fn row(kind: &Kind, object: &Value, now: Timestamp) -> Value {
    let printer = printer(kind);
    let subject = Subject::new(object, now);
    let mut row = json!({"cells": (printer.cells)(&subject)});
    if let Some(conditions) = (printer.conditions)(&subject) {
        row["conditions"] = conditions;
    }
    row
}

impl Column {
    fn definition(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.r#type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

/// Kinds that are not named here have the plain table, as in Kubernetes.
fn printer(kind: &Kind) -> &'static Printer {
    match (kind.group, kind.plural) {
        ("", "configmaps") => &config::CONFIG_MAPS,
        ("", "endpoints") => &network::ENDPOINTS,
        ("" | "events.k8s.io", "events") => &events::EVENTS,
        ("", "namespaces") => &config::NAMESPACES,
        ("", "nodes") => &nodes::NODES,
        ("", "pods") => &pods::PODS,
        ("", "resourcequotas") => &policy::RESOURCE_QUOTAS,
        ("", "secrets") => &config::SECRETS,
        ("", "serviceaccounts") => &config::SERVICE_ACCOUNTS,
        ("", "services") => &network::SERVICES,
        ("apps", "controllerrevisions") => &daemonsets::CONTROLLER_REVISIONS,
        ("apps", "daemonsets") => &daemonsets::DAEMON_SETS,
        ("certificates.k8s.io", "certificatesigningrequests") => &certificates::SIGNING_REQUESTS,
        ("coordination.k8s.io", "leases") => &config::LEASES,
        ("discovery.k8s.io", "endpointslices") => &network::ENDPOINT_SLICES,
        ("networking.k8s.io", "ipaddresses") => &network::IP_ADDRESSES,
        ("networking.k8s.io", "servicecidrs") => &network::SERVICE_CIDRS,
        ("node.k8s.io", "runtimeclasses") => &config::RUNTIME_CLASSES,
        ("policy", "poddisruptionbudgets") => &policy::DISRUPTION_BUDGETS,
        ("rbac.authorization.k8s.io", "clusterrolebindings" | "rolebindings") => &rbac::BINDINGS,
        ("scheduling.k8s.io", "priorityclasses") => &policy::PRIORITY_CLASSES,
        _ => &plain::PLAIN,
    }
}
