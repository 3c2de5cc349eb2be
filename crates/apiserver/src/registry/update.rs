//! Changing objects: PUT, PATCH and every write that reads first.

use kinds::patch::managed_fields::{self, ManagerEntry, Operation};
use kinds::rules::Part;
use kinds::status::Status;
use serde_json::Value;
use store::{CommitError, Entry, Expect, Txn, Write as StoreWrite};

use super::create::{metadata_mut, set_namespace, text_at};
use super::object::store_key;
use super::{Registry, WRITE_ATTEMPTS_MAX, Write, Written, at_revision, commit_failed, encoded, normalized, parse_stored, template};
use crate::admission;

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
    pub async fn replace(&self, write: &Write<'_>, mut object: Value, warnings: Vec<String>) -> Result<Written, Status> {
        let kind = write.kind;
        kind.rules.default(&mut object);
        set_namespace(write, &mut object)?;
        let name = text_at(&object, "name");
        if !name.is_empty() && name != write.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                write.name
            )));
        }
        if name.is_empty() && write.part == Some(Part::Main) {
            let errors = [kinds::field::FieldError::required(&kinds::field::Path::new("metadata").child("name"), "name is required")];
            return Err(Status::bad_request(errors[0].to_string()).with_details(Default::default()));
        }
        let version = expected_version(&object)?;
        if self.entry(kind, write.namespace, write.name)?.is_none() && kind.create_on_update && write.part == Some(Part::Main) {
            return self.create_by_put(write, object, version).await;
        }
        if version.is_none() && !kind.unconditional_update {
            let path = kinds::field::Path::new("metadata").child("resourceVersion");
            let error = kinds::field::FieldError::invalid(&path, 0i64, "must be specified for an update");
            return Err(Status::invalid(kind.group, kind.kind, write.name, &[error]));
        }
        self.update(write, |_| Ok(Changed { object: object.clone(), warnings: warnings.clone(), managed: false })).await
    }

    async fn create_by_put(&self, write: &Write<'_>, mut object: Value, version: Option<u64>) -> Result<Written, Status> {
        let kind = write.kind;
        let uid = text_at(&object, "uid");
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
        metadata_mut(&mut object).remove("resourceVersion");
        self.create(write, object).await
    }

    /// Reads the object, lets `change` make the new one, checks and stores it; again when another writer was faster.
    ///
    /// A change that sets metadata.resourceVersion insists on that version.
    pub async fn update<F>(&self, write: &Write<'_>, change: F) -> Result<Written, Status>
    where
        F: Fn(&Value) -> Result<Changed, Status>,
    {
        let kind = write.kind;
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let entry = self.get(kind, write.namespace, write.name)?;
            let old = parse_stored(&entry.value);
            let changed = change(&old)?;
            let insists = self.check_version(write, &changed.object, &entry)?;
            match self.store_change(write, changed, &old, &entry).await {
                Err(Race::Lost) if insists => return Err(Status::stale(kind.resource(), write.name)),
                Err(Race::Lost) => {}
                Err(Race::Refused(status)) => return Err(status),
                Ok(written) => return Ok(written),
            }
        }
        Err(Status::stale(kind.resource(), write.name))
    }

    fn check_version(&self, write: &Write<'_>, object: &Value, entry: &Entry) -> Result<bool, Status> {
        match expected_version(object)? {
            Some(version) if version != entry.modified.0 => Err(Status::stale(write.kind.resource(), write.name)),
            version => Ok(version.is_some()),
        }
    }

    async fn store_change(&self, write: &Write<'_>, changed: Changed, old: &Value, entry: &Entry) -> Result<Written, Race> {
        let kind = write.kind;
        let Changed { mut object, mut warnings, managed } = changed;
        check_uid(write, &object, old)?;
        keep_metadata(&mut object, old);
        // Validation wants to see which version is updated.
        metadata_mut(&mut object).insert("resourceVersion".to_owned(), entry.modified.to_string().into());
        if !managed {
            managed_fields::record_update(kind, Some(old), &mut object, &manager_entry(write));
        }
        admission::admit_update(self, write, &mut object, old)?;
        if let Some(part) = write.part {
            kind.rules.prepare_update(&mut object, old, part);
            admission::complete_update(write, &mut object, old);
            object = normalized(kind, object)?;
            let errors = kind.rules.validate_update(&object, old, part);
            if !errors.is_empty() {
                return Err(Status::invalid(kind.group, kind.kind, write.name, &errors).into());
            }
        }
        admission::check_update(self, write, &object, old)?;
        let allocation = admission::allocate::on_update(self, write, &mut object, old)?;
        kind.rules.canonicalize(&mut object);
        if write.part == Some(Part::Main) {
            warnings.extend(kind.rules.warnings_update(&object, old));
        }
        metadata_mut(&mut object).remove("resourceVersion");
        managed_fields::keep_times_if_unchanged(&mut object, old);
        if same_but_for_version(&object, old) {
            return Ok(Written { bytes: entry.value.clone(), created: false, warnings });
        }
        let key = store_key(kind, write.namespace, write.name);
        if write.options.dry_run {
            metadata_mut(&mut object).insert("resourceVersion".to_owned(), entry.modified.to_string().into());
            return Ok(Written { bytes: encoded(kind, &object), created: false, warnings });
        }
        let finished = super::delete::is_finished(&object);
        let change = match finished {
            // Watchers see the state that was stored last.
            true => StoreWrite::Delete { key, last: Some(template(kind, old)?) },
            false => StoreWrite::Put { key, value: template(kind, &object)? },
        };
        match self.store.commit(Txn::one(Some(Expect::Modified(entry.modified)), change)).await {
            Ok(mut committed) => {
                allocation.keep();
                let stored = committed.values.pop().flatten().expect("a put, and a delete with a last state, yield bytes");
                let bytes = if finished { at_revision(kind, object, committed.revision) } else { stored };
                Ok(Written { bytes, created: false, warnings })
            }
            Err(CommitError::Conflict { .. }) => Err(Race::Lost),
            Err(error) => Err(commit_failed(error).into()),
        }
    }
}

/// Why a change was not stored.
enum Race {
    /// Another writer was faster.
    Lost,
    Refused(Status),
}

impl From<Status> for Race {
    fn from(status: Status) -> Race {
        Race::Refused(status)
    }
}

/// Who writes, for metadata.managedFields.
pub fn manager_entry(write: &Write<'_>) -> ManagerEntry {
    ManagerEntry {
        manager: write.manager().to_owned(),
        operation: Operation::Update,
        api_version: write.kind.api_version(),
        subresource: write.subresource.to_owned(),
        time: kinds::decode::format_time(write.now),
    }
}

/// The version that a write insists on.
pub fn expected_version(object: &Value) -> Result<Option<u64>, Status> {
    match text_at(object, "resourceVersion") {
        "" => Ok(None),
        text => match text.parse() {
            Ok(0) => Ok(None),
            Ok(version) => Ok(Some(version)),
            Err(_) => Err(Status::unclassified(format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))),
        },
    }
}

fn check_uid(write: &Write<'_>, object: &Value, old: &Value) -> Result<(), Status> {
    let (wanted, is) = (text_at(object, "uid"), text_at(old, "uid"));
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
        match old.and_then(|old| old.get(field)) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
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
    let significant = |key: &str| !matches!(key, "kind" | "apiVersion" | "metadata");
    let fields_equal = new.iter().filter(|(k, _)| significant(k)).eq(old.iter().filter(|(k, _)| significant(k)));
    let metadata = |object: &serde_json::Map<String, Value>| {
        let mut metadata = object.get("metadata").cloned().unwrap_or_default();
        if let Some(fields) = metadata.as_object_mut() {
            fields.remove("resourceVersion");
        }
        metadata
    };
    fields_equal && metadata(new) == metadata(old)
}
