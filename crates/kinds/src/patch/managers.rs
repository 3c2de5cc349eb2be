//! The entries of metadata.managedFields: reading, writing, order, and the limit on their number.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::field_set::FieldSet;
use crate::table::Kind;

/// More managers that only update than this are merged, the oldest first.
pub const UPDATE_MANAGERS_MAX: usize = 10;

/// The manager that merged entries go to.
const ANCIENT_CHANGES: &str = "ancient-changes";

/// How a manager writes.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    pub fn text(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }

    pub fn parse(text: &str) -> Option<Operation> {
        [Operation::Apply, Operation::Update].into_iter().find(|operation| operation.text() == text)
    }
}

/// Who writes, how and when: an entry of metadata.managedFields without its fields.
#[derive(Debug, Clone, PartialEq)]
pub struct ManagerEntry {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// RFC 3339 with seconds.
    pub time: String,
}

/// Who manages which fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Manager {
    pub name: String,
    pub operation: Operation,
    pub api_version: String,
    pub subresource: String,
    /// RFC 3339; None for an apply that changed nothing but who owns what.
    pub time: Option<String>,
    pub fields: FieldSet,
}

impl Manager {
    pub fn of_entry(entry: &ManagerEntry, fields: FieldSet) -> Manager {
        Manager {
            name: entry.manager.clone(),
            operation: entry.operation,
            api_version: entry.api_version.clone(),
            subresource: entry.subresource.clone(),
            time: None,
            fields,
        }
    }

    /// An applier is the same whatever version it applies.
    pub fn is(&self, name: &str, operation: Operation, api_version: &str, subresource: &str) -> bool {
        self.operation == operation
            && self.name == name
            && self.subresource == subresource
            && (operation == Operation::Apply || self.api_version == api_version)
    }

    pub fn is_entry(&self, entry: &ManagerEntry) -> bool {
        self.is(&entry.manager, entry.operation, &entry.api_version, &entry.subresource)
    }

    fn same(&self, other: &Manager) -> bool {
        self.is(&other.name, other.operation, &other.api_version, &other.subresource)
    }

    /// Equal for managers that are the [same](Manager::is).
    fn identity(&self) -> (String, String, Option<String>) {
        let version = (self.operation == Operation::Update).then(|| self.api_version.clone());
        (self.name.clone(), self.subresource.clone(), version)
    }

    fn absorb(&mut self, other: Manager) {
        self.fields.union(other.fields);
        self.time = other.time;
    }

    /// Who it is, as conflicts name it.
    pub fn text(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            text += &format!(" using {}", self.api_version);
        }
        text
    }

    pub fn into_value(self) -> Value {
        let mut out = Map::new();
        let mut put = |key: &str, text: String| {
            if !text.is_empty() {
                out.insert(key.to_owned(), Value::String(text));
            }
        };
        put("manager", self.name);
        put("operation", self.operation.text().to_owned());
        put("apiVersion", self.api_version);
        put("time", self.time.unwrap_or_default());
        put("fieldsType", "FieldsV1".to_owned());
        put("subresource", self.subresource);
        out.insert("fieldsV1".to_owned(), self.fields.into_value());
        Value::Object(out)
    }
}

/// Reads entries that a client sent; None if one of them is not valid.
pub fn parse(entries: &Value) -> Option<Vec<Manager>> {
    let mut managers: Vec<Option<Manager>> = Vec::new();
    let mut places = HashMap::new();
    for entry in entries.as_array()? {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let manager = Manager {
            name: text("manager"),
            operation: Operation::parse(&text("operation"))?,
            api_version: Some(text("apiVersion")).filter(|version| !version.is_empty())?,
            subresource: text("subresource"),
            time: entry["time"].as_str().map(str::to_owned),
            fields: FieldSet::parse(&entry["fieldsV1"])?,
        };
        if text("fieldsType") != "FieldsV1" {
            return None;
        }
        // The last of several entries of one manager counts.
        if let Some(earlier) = places.insert(manager.identity(), managers.len()) {
            managers[earlier] = None;
        }
        managers.push(Some(manager));
    }
    Some(managers.into_iter().flatten().collect())
}

/// Reads entries that this program wrote.
pub fn trusted(entries: Value) -> Vec<Manager> {
    let Value::Array(entries) = entries else { return Vec::new() };
    let read = |entry: Value| {
        let Value::Object(mut entry) = entry else { return None };
        let mut text = |name: &str| match entry.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        Some(Manager {
            name: text("manager").unwrap_or_default(),
            operation: Operation::parse(&text("operation")?)?,
            api_version: text("apiVersion")?,
            subresource: text("subresource").unwrap_or_default(),
            time: text("time"),
            fields: FieldSet::trusted(entry.remove("fieldsV1").unwrap_or_default()),
        })
    };
    entries.into_iter().filter_map(read).collect()
}

/// The entries in Kubernetes' order; None when there are none.
pub fn to_value(mut managers: Vec<Manager>) -> Option<Value> {
    managers.sort_by(|a, b| order(a).cmp(&order(b)));
    (!managers.is_empty()).then(|| managers.into_iter().map(Manager::into_value).collect())
}

/// [`to_value`] for entries.
pub fn sort_entries(entries: &mut [Value]) {
    fn order(entry: &Value) -> (&str, Option<&str>, &str, &str, &str) {
        let text = |name: &str| entry[name].as_str();
        let or_empty = |name: &str| text(name).unwrap_or_default();
        (or_empty("operation"), text("time"), or_empty("manager"), or_empty("apiVersion"), or_empty("subresource"))
    }
    entries.sort_by(|a, b| order(a).cmp(&order(b)));
}

fn order(manager: &Manager) -> (&'static str, &Option<String>, &str, &str, &str) {
    (manager.operation.text(), &manager.time, &manager.name, &manager.api_version, &manager.subresource)
}

/// Forgets managers of versions that the kind never had.
pub fn drop_unknown_versions(managers: &mut Vec<Manager>, kind: &Kind) {
    let own = kind.api_version();
    managers.retain(|manager| manager.api_version == own || is_known(&manager.api_version, kind));
}

/// Versions of groups that Kubernetes still decodes, though everynode serves only the newest.
fn is_known(api_version: &str, kind: &Kind) -> bool {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let sibling = kind.storage == "events" && matches!(group, "" | "events.k8s.io");
    let known = if group.is_empty() { version == "v1" } else { version.len() > 1 && version.starts_with('v') };
    known && (group == kind.group || sibling)
}

/// Merges the oldest update managers until there are at most [`UPDATE_MANAGERS_MAX`].
pub fn cap(managers: &mut Vec<Manager>) {
    let updates = managers.iter().filter(|manager| manager.operation == Operation::Update).count();
    let mut excess = updates.saturating_sub(UPDATE_MANAGERS_MAX);
    if excess == 0 {
        return;
    }
    managers.sort_by(|a, b| (&a.time, &a.name, &a.api_version).cmp(&(&b.time, &b.name, &b.api_version)));
    let mut firsts: Vec<Manager> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut kept = Vec::new();
    for manager in std::mem::take(managers) {
        if manager.operation == Operation::Apply || excess == 0 {
            kept.push(manager);
        } else if let Some(bucket) = places.get(&manager.api_version).map(|at| &mut firsts[*at]) {
            bucket.name = ANCIENT_CHANGES.to_owned();
            bucket.subresource.clear();
            bucket.fields.union(manager.fields);
            bucket.time = manager.time;
            excess -= 1;
        } else {
            places.insert(manager.api_version.clone(), firsts.len());
            firsts.push(manager);
        }
    }
    let mut places: HashMap<_, usize> = kept.iter().enumerate().map(|(at, manager)| (manager.identity(), at)).collect();
    for first in firsts {
        match places.get(&first.identity()) {
            Some(at) => kept[*at].absorb(first),
            None => {
                places.insert(first.identity(), kept.len());
                kept.push(first);
            }
        }
    }
    *managers = kept;
}

/// Adds a manager, or its fields to those it has.
pub fn add(managers: &mut Vec<Manager>, manager: Manager) {
    match managers.iter_mut().find(|own| own.same(&manager)) {
        Some(own) => own.absorb(manager),
        None => managers.push(manager),
    }
}
