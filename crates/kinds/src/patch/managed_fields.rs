//! metadata.managedFields: which manager set which fields.
//!
//! In: the object before and after a write, and who writes. Out: the entries of the new object.
//! This runs on every write, so what did not change costs no more than a comparison.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::compare::Comparison;
use super::field_set::FieldSet;
use super::folded;
use super::managers::{self, Manager, ManagerEntry, Operation};
use super::reset_fields::Ownable;
use super::typed::Atom;
use crate::table::Kind;

/// Records that the manager changed `old` (None: created) to `new`.
pub fn record_update(kind: &Kind, old: Option<&Value>, new: &mut Value, entry: &ManagerEntry) {
    let given = take_entries(new);
    let old_entries = old.map_or(&Value::Null, |old| &old["metadata"]["managedFields"]);
    let current = match Source::of(given, old_entries, entry) {
        // No manager owns fields of the object: the next apply begins again.
        Source::Nobody if old.is_some() => return,
        Source::Nobody => Current::Parsed(Vec::new()),
        Source::Old(entries) => Current::Stored(entries),
        Source::Given(managers) => Current::Parsed(managers),
    };
    let changed = difference(kind, old, new);
    let mut managers = match current {
        Current::Stored(entries) if changed.is_empty() => return put_entries(new, Some(entries)),
        Current::Stored(entries) if folded::is_folded(&entries) => {
            return put_entries(new, take_over_folded(entries, kind, changed, entry));
        }
        Current::Stored(entries) => managers::trusted(entries),
        Current::Parsed(managers) => managers,
    };
    take_over(&mut managers, kind, changed, entry);
    managers::cap(&mut managers);
    put_entries(new, managers::to_value(managers));
}

/// Where the managers before the write come from.
enum Source {
    Nobody,
    Old(Value),
    Given(Vec<Manager>),
}

enum Current {
    Stored(Value),
    Parsed(Vec<Manager>),
}

impl Source {
    /// A client may send entries of its own, but not through a subresource; what makes no sense is
    /// ignored.
    fn of(given: Option<Value>, old: &Value, entry: &ManagerEntry) -> Source {
        let stored = || if old.as_array().is_some_and(|entries| !entries.is_empty()) { Source::Old(old.clone()) } else { Source::Nobody };
        match given {
            None => stored(),
            // Nearly always; what was given then saves a copy of what is stored.
            Some(given) if &given == old && !is_reset(&given) => Source::Old(given),
            _ if !entry.subresource.is_empty() => stored(),
            Some(given) if is_reset(&given) => Source::Nobody,
            Some(given) => match managers::parse(&given) {
                Some(managers) if !managers.is_empty() => Source::Given(managers),
                _ => stored(),
            },
        }
    }
}

/// An empty list, or one empty entry, means: forget the managers.
fn is_reset(entries: &Value) -> bool {
    match entries.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(entry)]) => entry.is_empty(),
        _ => false,
    }
}

fn difference(kind: &Kind, old: Option<&Value>, new: &Value) -> Comparison {
    let atom = Atom::of_type(kind.type_id());
    match (kind.view, old) {
        (None, Some(old)) => Comparison::of_objects(old, &as_versioned(kind, new), atom),
        (None, None) => Comparison::of_objects(&empty_object(kind), &as_versioned(kind, new), atom),
        // Managers know the fields of the version that they wrote.
        (Some(view), old) => {
            let old = old.map_or_else(|| empty_object(kind), |old| (view.from_stored)(old.clone()));
            Comparison::of_objects(&old, &(view.from_stored)(new.clone()), atom)
        }
    }
}

/// Kubernetes keeps a number of its own behind this annotation, so that an object without it still
/// has it, as `0`.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// The object as Kubernetes compares it.
fn as_versioned<'a>(kind: &Kind, object: &'a Value) -> Cow<'a, Value> {
    if kind.kind != "DaemonSet" || !object["metadata"]["annotations"][TEMPLATE_GENERATION].is_null() || !object["metadata"].is_object() {
        return Cow::Borrowed(object);
    }
    let mut object = object.clone();
    let annotations = &mut object["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = Value::Object(Map::new());
    }
    annotations[TEMPLATE_GENERATION] = "0".into();
    Cow::Owned(object)
}

/// What Go's zero value of the kind looks like: structs that are always there are not "added" by a
/// create.
pub(super) fn empty_object(kind: &Kind) -> Value {
    crate::decode::normalize(Value::Object(Map::new()), kind.type_id()).unwrap_or_default()
}

/// Gives the changed fields to the writer and takes them from all other managers.
fn take_over(managers: &mut Vec<Manager>, kind: &Kind, mut changed: Comparison, entry: &ManagerEntry) {
    let ownable = Ownable::of(kind, &entry.subresource);
    for set in [&mut changed.added, &mut changed.modified, &mut changed.removed] {
        ownable.filter(set);
    }
    managers::drop_unknown_versions(managers, kind);
    let mut own = changed.added;
    own.union(changed.modified);
    for manager in managers.iter_mut() {
        manager.fields.subtract(&own);
        manager.fields.subtract(&changed.removed);
    }
    managers.retain(|manager| !manager.fields.is_empty() || (manager.is_entry(entry) && !own.is_empty()));
    strip(&mut own);
    if !own.is_empty() {
        managers::add(managers, Manager { time: Some(entry.time.clone()), ..Manager::of_entry(entry, own) });
    }
    managers.retain(|manager| !manager.fields.is_empty());
}

/// [`take_over`] for folded entries: those that the change does not touch stay as they are.
fn take_over_folded(entries: Value, kind: &Kind, changed: Comparison, entry: &ManagerEntry) -> Option<Value> {
    let Value::Array(entries) = entries else { return None };
    let own_version = kind.api_version();
    // Too many managers, and those of other versions, are dealt with together.
    let concerns_all = entries.len() >= managers::UPDATE_MANAGERS_MAX || entries.iter().any(|own| own["apiVersion"] != own_version);
    let is_own = |own: &Value| own["manager"] == entry.manager && own["operation"] == entry.operation.text();
    let (concerned, mut kept): (Vec<Value>, Vec<Value>) =
        entries.into_iter().partition(|own| concerns_all || is_own(own) || folded::touches(&changed, own));
    let mut concerned = Value::Array(concerned);
    folded::unfold_entries(&mut concerned);
    let mut managers = managers::trusted(concerned);
    take_over(&mut managers, kind, changed, entry);
    managers::cap(&mut managers);
    let mut changed = Value::Array(managers.into_iter().map(Manager::into_value).collect());
    folded::fold_entries(&mut changed);
    kept.extend(changed.as_array_mut().map(std::mem::take).unwrap_or_default());
    managers::sort_entries(&mut kept);
    (!kept.is_empty()).then_some(Value::Array(kept))
}

static UNMANAGED: LazyLock<FieldSet> = LazyLock::new(|| {
    let mut unmanaged = FieldSet::default();
    for name in ["f:apiVersion", "f:kind", "f:metadata"] {
        unmanaged.insert(&[name]);
    }
    for name in super::compare::UNMANAGED_METADATA {
        unmanaged.insert(&["f:metadata".to_owned(), format!("f:{name}")]);
    }
    unmanaged
});

/// Takes away the fields that no manager can own.
pub(super) fn strip(set: &mut FieldSet) {
    set.subtract(&UNMANAGED);
}

/// The managers before the first apply: one for everything that is there.
pub(super) fn before_first_apply(kind: &Kind, live: &Value, entry: &ManagerEntry) -> Vec<Manager> {
    let before = ManagerEntry { manager: "before-first-apply".to_owned(), operation: Operation::Update, ..entry.clone() };
    let mut managers = Vec::new();
    let changed = Comparison::of_objects(&empty_object(kind), live, Atom::of_type(kind.type_id()));
    take_over(&mut managers, kind, changed, &before);
    managers
}

pub(super) fn take_entries(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields").filter(|entries| !entries.is_null())
}

pub(super) fn put_entries(object: &mut Value, entries: Option<Value>) {
    if let (Some(entries), Some(metadata)) = (entries, object.get_mut("metadata").and_then(Value::as_object_mut)) {
        metadata.insert("managedFields".to_owned(), entries);
    }
}

/// A write that changes nothing but times of managers counts as no change.
pub fn keep_times_if_unchanged(new: &mut Value, old: &Value) {
    let old_entries = &old["metadata"]["managedFields"];
    let entries = &new["metadata"]["managedFields"];
    if entries == old_entries || !same_but_for_times(entries, old_entries) || !same_but_for_managers(new, old) {
        return;
    }
    let kept = old_entries.clone();
    put_entries(new, Some(kept));
}

fn same_but_for_times(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_array(), old.as_array()) else { return false };
    let same = |new: &Value, old: &Value| match (new.as_object(), old.as_object()) {
        (Some(new), Some(old)) => same_fields(new, old, |name| name != "time"),
        _ => false,
    };
    new.len() == old.len() && new.iter().zip(old).all(|(new, old)| same(new, old))
}

fn same_but_for_managers(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    same_fields(new, old, |name| !matches!(name, "kind" | "apiVersion" | "metadata"))
        && match (new.get("metadata").and_then(Value::as_object), old.get("metadata").and_then(Value::as_object)) {
            (Some(new), Some(old)) => same_fields(new, old, |name| !matches!(name, "managedFields" | "resourceVersion")),
            _ => false,
        }
}

fn same_fields(new: &Map<String, Value>, old: &Map<String, Value>, significant: impl Fn(&str) -> bool) -> bool {
    let of = |fields: &Map<String, Value>| fields.keys().filter(|name| significant(name)).count();
    of(new) == of(old) && new.iter().filter(|(name, _)| significant(name)).all(|(name, value)| old.get(name) == Some(value))
}
