//! Changing objects: PUT, PATCH and every write that reads first.

use std::collections::BTreeMap;

use kinds::encode::Encoded;
use kinds::patch::managed_fields;
use kinds::rules::Part;
use kinds::status::Status;
use serde_json::{Map, Value};
use store::{CommitError, Entry, Expect, Write};

use super::allocate;
use super::create::set_namespace;
use super::encoding::{deletion_answer, dry_run_answer, normalized, parse_folded, parse_stored, to_store, to_store_again};
use super::metadata::{is_finished, metadata_mut, metadata_text};
use super::object::store_key;
use super::port::{Admission, QuotaVerdict};
use super::turns::WriteTurn;
use super::{Registry, WRITE_ATTEMPTS_MAX, Written, commit_failed};
use crate::request::WriteRequest;

/// Fields of metadata that no write may change.
const KEPT_METADATA: &[&str] = &["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "uid"];

/// What a change makes of the current object.
pub struct Changed {
    pub object: Value,
    pub warnings: Vec<String>,
    /// Managed fields are already right (server-side apply works on them itself).
    pub managed: bool,
}

impl Changed {
    pub fn to(object: Value) -> Changed {
        Changed { object, warnings: Vec::new(), managed: false }
    }
}

impl Registry {
    /// PUT: replaces the object by `object`, which was decoded but not defaulted.
    pub async fn replace(
        &self,
        admission: &dyn Admission,
        write: &WriteRequest<'_>,
        mut object: Value,
        warnings: Vec<String>,
    ) -> Result<Written, Status> {
        let kind = write.kind;
        kind.rules.default(&mut object);
        set_namespace(write, &mut object)?;
        let name = metadata_text(&object, "name");
        if !name.is_empty() && name != write.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                write.name
            )));
        }
        if name.is_empty() && write.part == Some(Part::Main) {
            return Err(Status::bad_request(format!(
                "the name of the object ({} based on URL) was undeterminable: name must be provided",
                write.name
            )));
        }
        let version = expected_version(&object)?;
        if self.entry(kind, write.namespace, write.name)?.is_none() && kind.create_on_update && write.part == Some(Part::Main) {
            return self.create_by_put(admission, write, object, version).await;
        }
        if version.is_none() && !kind.unconditional_update {
            let path = kinds::field::Path::new("metadata").child("resourceVersion");
            let error = kinds::field::FieldError::invalid(&path, 0i64, "must be specified for an update");
            return Err(Status::invalid(kind.group, kind.kind, write.name, &[error]));
        }
        // Hardly ever is there a second attempt; as text a copy for it costs a tenth of one as a
        // tree.
        let copy = object.to_string();
        let mut first = Some(object);
        let change = |_: &Value| {
            let object = first.take().unwrap_or_else(|| parse_stored(copy.as_bytes()));
            Ok(Changed { object, warnings: warnings.clone(), managed: false })
        };
        self.update(admission, write, change).await
    }

    async fn create_by_put(
        &self,
        admission: &dyn Admission,
        write: &WriteRequest<'_>,
        mut object: Value,
        version: Option<u64>,
    ) -> Result<Written, Status> {
        let kind = write.kind;
        let uid = metadata_text(&object, "uid");
        if !uid.is_empty() {
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: /registry/{}/{}/{}, ResourceVersion: 0, AdditionalErrorMsg: \
                 Precondition failed: UID in precondition: {uid}, UID in object meta: ",
                kind.plural, write.namespace, write.name
            );
            return Err(Status::conflict(kind.resource(), write.name, &why));
        }
        if version.is_some_and(|v| v != 0) {
            return Err(Status::not_found(kind.resource(), write.name));
        }
        admission.authorize_create(write)?;
        metadata_mut(&mut object).remove("resourceVersion");
        self.create(admission, write, object).await
    }

    /// Reads the object, lets `change` make the new one, checks and stores it; again when another
    /// writer was faster.
    ///
    /// A change that sets metadata.resourceVersion insists on that version.
    pub async fn update<F>(&self, admission: &dyn Admission, write: &WriteRequest<'_>, change: F) -> Result<Written, Status>
    where
        F: FnMut(&Value) -> Result<Changed, Status>,
    {
        self.update_seen(admission, write, parse_stored, change).await
    }

    /// [`Registry::update`] for a change that does not look at managedFields; it sees them folded.
    pub async fn update_folded<F>(&self, admission: &dyn Admission, write: &WriteRequest<'_>, change: F) -> Result<Written, Status>
    where
        F: FnMut(&Value) -> Result<Changed, Status>,
    {
        self.update_seen(admission, write, parse_folded, change).await
    }

    async fn update_seen<F>(
        &self,
        admission: &dyn Admission,
        write: &WriteRequest<'_>,
        parse: fn(&[u8]) -> Value,
        mut change: F,
    ) -> Result<Written, Status>
    where
        F: FnMut(&Value) -> Result<Changed, Status>,
    {
        let kind = write.kind;
        let mut turn = None;
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let entry = self.get(kind, write.namespace, write.name)?;
            let Plan { change, last_answer, mut allocation, warnings, annotations, insists } =
                match self.plan_update(admission, write, &parse(&entry.value), &mut change, &entry, turn.as_ref())? {
                    Planned::Settled(written) => return Ok(written),
                    Planned::AwaitsTurn => {
                        turn = Some(self.take_turn(write.namespace).await);
                        continue;
                    }
                    Planned::Commit(plan) => *plan,
                };
            match self.store.commit(allocation.transaction(Expect::Modified(entry.modified), change)).await {
                Ok(mut committed) => {
                    allocation.keep();
                    let stored = committed.values.pop().flatten().expect("a put, and a delete with a last state, yield bytes");
                    let bytes = last_answer.map_or(stored, |answer| answer.at_revision(committed.revision.0).into());
                    return Ok(Written { bytes, created: false, warnings, annotations });
                }
                Err(CommitError::Conflict { key, .. }) if insists && key == store_key(kind, write.namespace, write.name) => {
                    return Err(Status::stale(kind.resource(), write.name));
                }
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(commit_failed(error)),
            }
        }
        Err(Status::stale(kind.resource(), write.name))
    }

    fn check_version(&self, write: &WriteRequest<'_>, object: &Value, entry: &Entry) -> Result<bool, Status> {
        match expected_version(object)? {
            Some(version) if version != entry.modified.0 => Err(Status::stale(write.kind.resource(), write.name)),
            version => Ok(version.is_some()),
        }
    }

    /// Everything but the commit. Trees live no longer than this: dropping them after the wait for
    /// the disk, among those of all other writes and perhaps on another thread, costs as much as
    /// making them.
    fn plan_update<F>(
        &self,
        admission: &dyn Admission,
        write: &WriteRequest<'_>,
        old: &Value,
        change: &mut F,
        entry: &Entry,
        turn: Option<&WriteTurn>,
    ) -> Result<Planned, Status>
    where
        F: FnMut(&Value) -> Result<Changed, Status>,
    {
        let kind = write.kind;
        let Changed { mut object, mut warnings, managed } = change(old)?;
        let insists = self.check_version(write, &object, entry)?;
        check_uid(write, &object, old)?;
        keep_metadata(&mut object, old);
        // Validation wants to see which version is updated.
        metadata_mut(&mut object).insert("resourceVersion".to_owned(), entry.modified.to_string().into());
        if !managed {
            managed_fields::record_update(kind, Some(old), &mut object, &write.manager_entry());
        }
        admission.admit(write, &mut object, Some(old))?;
        if let Some(part) = write.part {
            kind.rules.prepare_update(&mut object, old, part);
            admission.complete(write, &mut object, Some(old));
            object = normalized(kind, object)?;
            let errors = kind.rules.validate_update(&object, old, part);
            if !errors.is_empty() {
                return Err(Status::invalid(kind.group, kind.kind, write.name, &errors));
            }
        }
        let remarks = admission.check(write, &object, Some(old))?;
        if admission.check_quota(write, &object, Some(old), turn)? == QuotaVerdict::AwaitsTurn {
            return Ok(Planned::AwaitsTurn);
        }
        warnings.extend(remarks.warnings);
        let annotations = remarks.annotations;
        let allocation = allocate::on_update(self, write, &mut object, old)?;
        kind.rules.canonicalize(&mut object);
        if write.part == Some(Part::Main) {
            warnings.extend(kind.rules.warnings_update(&object, old));
        }
        metadata_mut(&mut object).remove("resourceVersion");
        managed_fields::keep_times_if_unchanged(&mut object, old);
        if same_but_for_version(&object, old) {
            return Ok(Planned::Settled(Written { bytes: entry.value.clone(), created: false, warnings, annotations }));
        }
        if write.options.dry_run {
            metadata_mut(&mut object).insert("resourceVersion".to_owned(), entry.modified.to_string().into());
            return Ok(Planned::Settled(Written { bytes: dry_run_answer(kind, &object), created: false, warnings, annotations }));
        }
        let key = store_key(kind, write.namespace, write.name);
        let finished = is_finished(&object);
        let change = match finished {
            // Watchers see the state that was stored last.
            true => Write::Delete { key, last: Some(to_store_again(kind, entry)?) },
            false => Write::Put { key, value: to_store(kind, &object)? },
        };
        let last_answer = finished.then(|| deletion_answer(kind, &object));
        Ok(Planned::Commit(Box::new(Plan { change, last_answer, allocation, warnings, annotations, insists })))
    }
}

/// What is to be done for an update.
enum Planned {
    /// Nothing: the object stays as it is.
    Settled(Written),
    /// Quotas limit it: to be planned again in the turn of the namespace.
    AwaitsTurn,
    Commit(Box<Plan>),
}

struct Plan {
    change: Write,
    /// For an object that goes: its last state, which the client sees and the store does not.
    last_answer: Option<Encoded>,
    allocation: allocate::Pending,
    warnings: Vec<String>,
    annotations: BTreeMap<String, String>,
    /// The client named the version that it changes.
    insists: bool,
}

/// The version that a write insists on.
pub fn expected_version(object: &Value) -> Result<Option<u64>, Status> {
    match metadata_text(object, "resourceVersion") {
        "" => Ok(None),
        text => match text.parse() {
            Ok(0) => Ok(None),
            Ok(version) => Ok(Some(version)),
            Err(_) => Err(Status::unclassified(format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))),
        },
    }
}

fn check_uid(write: &WriteRequest<'_>, object: &Value, old: &Value) -> Result<(), Status> {
    let (wanted, is) = (metadata_text(object, "uid"), metadata_text(old, "uid"));
    if wanted.is_empty() || wanted == is {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {is}");
    Err(Status::conflict(write.kind.resource(), write.name, &why))
}

fn keep_metadata(object: &mut Value, old: &Value) {
    let old = old["metadata"].as_object();
    let metadata = metadata_mut(object);
    for &field in KEPT_METADATA {
        match (old.and_then(|old| old.get(field)), metadata.get(field)) {
            (Some(value), Some(own)) if own == value => {}
            (Some(value), _) => drop(metadata.insert(field.to_owned(), value.clone())),
            (None, _) => drop(metadata.remove(field)),
        }
    }
    for field in ["name", "generateName", "namespace"] {
        if let (false, Some(value)) = (metadata.contains_key(field), old.and_then(|old| old.get(field))) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    metadata.remove("selfLink");
}

fn same_but_for_version(object: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (object.as_object(), old.as_object()) else { return false };
    let metadata_equal = match [new, old].map(|object| object.get("metadata").and_then(Value::as_object)) {
        [Some(new), Some(old)] => same_fields(new, old, |key| key != "resourceVersion"),
        _ => new.get("metadata") == old.get("metadata"),
    };
    metadata_equal && same_fields(new, old, |key| !matches!(key, "kind" | "apiVersion" | "metadata"))
}

fn same_fields(new: &Map<String, Value>, old: &Map<String, Value>, significant: impl Fn(&str) -> bool) -> bool {
    let of = |fields: &'_ Map<String, Value>| fields.iter().filter(|(key, _)| significant(key)).count();
    of(new) == of(old) && new.iter().filter(|(key, _)| significant(key)).all(|(key, value)| old.get(key) == Some(value))
}
