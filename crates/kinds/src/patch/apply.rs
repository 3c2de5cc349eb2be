//! Server-side apply: merges a configuration into an object, removes what its manager no longer
//! mentions and no other manager owns, and refuses to change what others own unless forced.

use serde_json::{Map, Value};

use super::compare::Comparison;
use super::field_set::{FieldSet, path_text};
use super::managed_fields;
use super::managers::ManagerEntry;
use super::managers::{self, Manager};
use super::reset_fields::Ownable;
use super::typed::{self, Atom};
use super::{PatchError, typed_merge};
use crate::status::{CAUSES_MAX, Cause, Details, Status};
use crate::table::Kind;
use crate::yaml;

/// What `kubectl apply` without --server-side leaves on an object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manager that takes objects over from client-side apply.
const KUBECTL: &str = "kubectl";

/// What a manager wants an object to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub object: Value,
    /// What strict parsing of the text found.
    pub findings: Vec<String>,
}

/// Reads a configuration and holds it against its kind. `kind_name` is the kind that the path
/// expects.
pub fn parse_config(kind: &Kind, text: &[u8], kind_name: &str) -> Result<Config, Status> {
    let undecodable = |why: &str| Status::bad_request(format!("error decoding YAML: {why}"));
    let text = std::str::from_utf8(text).map_err(|_| undecodable("yaml: control characters are not allowed"))?;
    let (node, duplicates) = yaml::parse(text).map_err(|e| undecodable(&format!("error converting YAML to JSON: {}", e.0)))?;
    let object = match node.into_value() {
        Value::Null => Value::Object(Map::new()),
        object @ Value::Object(_) => object,
        other => {
            let why = format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", super::json_type(&other.into()));
            return Err(undecodable(&format!("error unmarshaling JSON: while decoding JSON: {why}")));
        }
    };
    check_kind(kind, &object, kind_name)?;
    if !object["metadata"]["managedFields"].is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    typed::check(&object, kind.type_id())
        .map_err(|why| Status::unclassified(format!("failed to create typed patch object ({}): {why}", subject(kind, &object))))?;
    let findings = match duplicates.as_slice() {
        [] => Vec::new(),
        lines => vec![format!("error converting YAML to JSON: yaml: unmarshal errors:\n  {}", lines.join("\n  "))],
    };
    Ok(Config { object, findings })
}

fn check_kind(kind: &Kind, object: &Value, kind_name: &str) -> Result<(), Status> {
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    if text("apiVersion") == kind.api_version() && text("kind") == kind_name {
        return Ok(());
    }
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    Err(Status::bad_request(format!("invalid object type: {group}/{version}, Kind={}", text("kind"))))
}

/// The object as errors name it: `NAMESPACE/NAME; GROUP/VERSION, Kind=KIND`.
fn subject(kind: &Kind, object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}; {}/{}, Kind={}", text("namespace"), text("name"), kind.group, kind.version, kind.kind)
}

/// Makes of `live` (None: there is none yet) what `config` wants; the result carries its managed
/// fields.
pub fn apply(kind: &Kind, live: Option<&Value>, config: &Value, entry: &ManagerEntry, force: bool) -> Result<Value, PatchError> {
    let mut live = match (live, kind.view) {
        (Some(live), Some(view)) => (view.from_stored)(live.clone()),
        (Some(live), None) => live.clone(),
        (None, _) => managed_fields::empty_object(kind),
    };
    let entries = managed_fields::take_entries(&mut live);
    let mut managers = entries.map_or_else(Vec::new, managers::trusted);
    if managers.is_empty() {
        managers = managed_fields::before_first_apply(kind, &live, entry);
        managers::cap(&mut managers);
    }
    let merge = Merge { kind, atom: Atom::of_type(kind.type_id()), live: &live, config, entry };
    let merged = match merge.run(managers.clone(), force) {
        Err(conflicts) => {
            let left = merge.conflicts_left(conflicts);
            if !left.is_empty() {
                return Err(conflict(&left).into());
            }
            merge.run(managers, true).map_err(|conflicts| PatchError(conflict(&conflicts)))?
        }
        Ok(merged) => merged,
    };
    merge.finish(merged)
}

/// An apply and what it is about.
struct Merge<'a> {
    kind: &'a Kind,
    atom: Atom,
    live: &'a Value,
    config: &'a Value,
    entry: &'a ManagerEntry,
}

/// Conflicts past this number, or with paths of more than these bytes in all, are counted only.
const CONFLICTS_MAX: usize = CAUSES_MAX;
const CONFLICT_BYTES_MAX: usize = 1 << 20;

struct Merged {
    /// None when the object stays as it is.
    object: Option<Value>,
    managers: Vec<Manager>,
}

/// A field that another manager owns.
#[derive(Debug, Clone, PartialEq)]
struct Conflict {
    manager: String,
    path: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Conflicts {
    shown: Vec<Conflict>,
    more: usize,
}

impl Conflicts {
    fn is_empty(&self) -> bool {
        self.shown.is_empty() && self.more == 0
    }
}

impl Merge<'_> {
    fn run(&self, mut managers: Vec<Manager>, force: bool) -> Result<Merged, Conflicts> {
        managers::drop_unknown_versions(&mut managers, self.kind);
        let ownable = Ownable::of(self.kind, &self.entry.subresource);
        let mut applied = typed::field_set(self.config, self.atom);
        ownable.filter(&mut applied);
        let at = managers.iter().position(|manager| manager.is_entry(self.entry));
        let last = at.map(|at| managers.remove(at));
        let mut object = typed_merge::merge(Some(self.live), Some(self.config), self.atom).unwrap_or_default();
        if let Some(last) = last.as_ref().filter(|last| !last.fields.is_empty()) {
            object = self.prune(&object, &managers, &applied, &last.fields);
        }
        let mut changed = Comparison::of_objects(self.live, &object, self.atom);
        for set in [&mut changed.added, &mut changed.modified, &mut changed.removed] {
            ownable.filter(set);
        }
        let mut taken = changed.added;
        taken.union(changed.modified);
        if !force {
            let conflicts = conflicts(&managers, &taken);
            if !conflicts.is_empty() {
                return Err(conflicts);
            }
        }
        for manager in &mut managers {
            manager.fields.subtract(&taken);
            manager.fields.subtract(&changed.removed);
        }
        managers.retain(|manager| !manager.fields.is_empty());
        let object = (&object != self.live).then_some(object);
        managed_fields::strip(&mut applied);
        if !applied.is_empty() {
            // The time says when the manager changed the object, not when it last looked.
            let time = if object.is_some() { Some(self.entry.time.clone()) } else { last.and_then(|last| last.time) };
            managers.push(Manager { time, ..Manager::of_entry(self.entry, applied) });
        }
        Ok(Merged { object, managers })
    }

    /// Removes what the manager applied last time, unless it or another manager still owns it.
    fn prune(&self, merged: &Value, managers: &[Manager], applied: &FieldSet, last: &FieldSet) -> Value {
        let named = |set: &FieldSet| typed::with_named_fields(set, self.atom);
        let all = named(&typed::field_set(merged, self.atom));
        let last = named(last);
        let mut pruned = typed::without(merged, last.nodes(), self.atom);

        let mut owned = applied.clone();
        managers.iter().for_each(|manager| owned.union(manager.fields.clone()));
        let mut unowned = all.clone();
        let mut kept = named(&typed::field_set(&pruned, self.atom));
        kept.union(named(&owned));
        unowned.subtract(&kept);
        pruned = typed::without(merged, unowned.nodes(), self.atom);

        // Fields without an owner stay when they are not the manager's own.
        let mut dangling = all;
        dangling.subtract(&named(&typed::field_set(&pruned, self.atom)));
        typed::without(merged, dangling.intersection(&last).nodes(), self.atom)
    }

    /// What remains of conflicts when kubectl takes fields over that its client-side apply has set.
    fn conflicts_left(&self, mut conflicts: Conflicts) -> Conflicts {
        if let Some(allowed) = self.last_applied_fields().filter(|_| self.entry.manager == KUBECTL) {
            conflicts.shown.retain(|conflict| !allowed.has(&conflict.path));
        }
        conflicts
    }

    /// The fields of the last client-side apply that still have the values it gave them.
    fn last_applied_fields(&self) -> Option<FieldSet> {
        let text = last_applied(self.live)?;
        let last: Value = serde_json::from_str(text).ok()?;
        if last["apiVersion"] != self.kind.api_version().as_str() || typed::check(&last, self.kind.type_id()).is_err() {
            return None;
        }
        let mut fields = typed::field_set(&last, self.atom);
        let changed = Comparison::of_values(&last, self.live, self.atom);
        for set in [changed.modified, changed.added, changed.removed] {
            fields.subtract(&set);
        }
        Some(fields)
    }

    fn finish(&self, merged: Merged) -> Result<Value, PatchError> {
        let mut object = match merged.object {
            None => self.live.clone(),
            Some(object) => crate::decode::normalize(object, self.kind.type_id()).map_err(|e| {
                let subject = subject(self.kind, self.config);
                Status::unclassified(format!(
                    "failed to convert new object ({subject}) to proper version: unable to convert unstructured object to {}: {}",
                    subject.split("; ").nth(1).unwrap_or_default(),
                    e.0
                ))
            })?,
        };
        if self.entry.manager == KUBECTL && last_applied(&object).is_some() {
            let text = last_applied_text(self.config);
            object["metadata"]["annotations"][LAST_APPLIED] = text.into();
        }
        if !object["metadata"].is_object() {
            object["metadata"] = Value::Object(Map::new());
        }
        managed_fields::put_entries(&mut object, managers::to_value(merged.managers));
        Ok(match self.kind.view {
            Some(view) => (view.to_stored)(object),
            None => object,
        })
    }
}

fn last_applied(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][LAST_APPLIED].as_str().filter(|text| !text.is_empty())
}

/// The configuration as client-side apply would note it.
fn last_applied_text(config: &Value) -> String {
    let mut config = config.clone();
    if let Some(annotations) = config["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    } else if let Some(metadata) = config["metadata"].as_object_mut() {
        metadata.remove("annotations");
    }
    format!("{config}\n")
}

fn conflicts(managers: &[Manager], taken: &FieldSet) -> Conflicts {
    let mut found = Conflicts::default();
    let mut room = CONFLICT_BYTES_MAX;
    for manager in managers {
        let text = manager.text();
        manager.fields.intersection(taken).each(&mut |path| {
            let bytes = text.len() + path.iter().map(String::len).sum::<usize>();
            if found.shown.len() < CONFLICTS_MAX && (bytes <= room || found.shown.is_empty()) {
                room = room.saturating_sub(bytes);
                found.shown.push(Conflict { manager: text.clone(), path: path.to_vec() });
            } else {
                found.more += 1;
            }
        });
    }
    found.shown.sort_by(|a, b| a.manager.cmp(&b.manager));
    found
}

/// The answer to an apply that would change what others own.
fn conflict(conflicts: &Conflicts) -> Status {
    let cause = |conflict: &Conflict| Cause {
        reason: "FieldManagerConflict".to_owned(),
        message: format!("conflict with {}", conflict.manager),
        field: path_text(&conflict.path),
    };
    let message = match (conflicts.shown.as_slice(), conflicts.more) {
        ([one], 0) => format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, path_text(&one.path)),
        (many, more) => format!("Apply failed with {} conflicts: {}", many.len() + more, by_manager(many)),
    };
    let more = (conflicts.more > 0).then(|| Cause::more(conflicts.more));
    let causes = conflicts.shown.iter().map(cause).chain(more).collect();
    Status::new(409, "Conflict", message).with_details(Details { causes, ..Details::default() })
}

fn by_manager(conflicts: &[Conflict]) -> String {
    let mut lines = Vec::new();
    let mut current = "";
    for conflict in conflicts {
        if conflict.manager != current {
            lines.push(format!("conflicts with {}:", conflict.manager));
            current = &conflict.manager;
        }
        lines.push(format!("- {}", path_text(&conflict.path)));
    }
    lines.join("\n")
}
