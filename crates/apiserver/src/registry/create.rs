//! Creating objects.

use kinds::status::Status;
use serde_json::Value;
use store::{CommitError, Expect, Write};

use super::allocate;
use super::encoding::{dry_run_answer, normalized, parse_stored, to_store};
use super::metadata::{metadata_mut, metadata_text};
use super::object::store_key;
use super::port::{Admission, QuotaVerdict};
use super::{Registry, Written, commit_failed};
use crate::request::WriteRequest;

/// Characters of generated name suffixes: no vowels, nothing that looks like another.
const NAME_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const NAME_SUFFIX_LEN: usize = 5;
/// Generated names are cut so that the suffix fits into what most kinds allow.
const GENERATED_BASE_LEN_MAX: usize = 58;

/// A generated name may collide with one that exists; Kubernetes tries this often.
const GENERATED_NAME_ATTEMPTS_MAX: usize = 8;

/// Has metadata.managedFields been brought up to date?
#[derive(Debug, Copy, Clone, PartialEq)]
enum ManagedFields {
    Due,
    Done,
}

impl Registry {
    /// Creates what server-side apply made; its managed fields are right already.
    pub async fn create_applied(&self, admission: &dyn Admission, write: &WriteRequest<'_>, mut object: Value) -> Result<Written, Status> {
        admission.authorize_create(write)?;
        write.kind.rules.default(&mut object);
        set_namespace(write, &mut object)?;
        metadata_mut(&mut object).remove("resourceVersion");
        self.create_once(admission, write, object, ManagedFields::Done).await
    }

    /// Creates `object`, which was decoded but not defaulted.
    pub async fn create(&self, admission: &dyn Admission, write: &WriteRequest<'_>, mut object: Value) -> Result<Written, Status> {
        write.kind.rules.default(&mut object);
        set_namespace(write, &mut object)?;
        let generated = metadata_text(&object, "name").is_empty() && !metadata_text(&object, "generateName").is_empty();
        if !generated {
            return self.create_once(admission, write, object, ManagedFields::Due).await;
        }
        // As text a copy costs a tenth of one as a tree, and hardly ever is it needed.
        let copy = object.to_string();
        for _ in 1..GENERATED_NAME_ATTEMPTS_MAX {
            match self.create_once(admission, write, object, ManagedFields::Due).await {
                Err(status) if status.reason == "AlreadyExists" => object = parse_stored(copy.as_bytes()),
                result => return result,
            }
        }
        self.create_once(admission, write, object, ManagedFields::Due).await
    }

    async fn create_once(
        &self,
        admission: &dyn Admission,
        write: &WriteRequest<'_>,
        mut object: Value,
        managed: ManagedFields,
    ) -> Result<Written, Status> {
        let kind = write.kind;
        if !metadata_text(&object, "resourceVersion").is_empty() {
            return Err(Status::unclassified("resourceVersion should not be set on objects to be created"));
        }
        generate_name(&mut object);
        if managed == ManagedFields::Due {
            kinds::patch::managed_fields::record_update(kind, None, &mut object, &write.manager_entry());
        }
        admission.admit(write, &mut object, None)?;
        fill_system_fields(write, &mut object);
        kind.rules.prepare_create(&mut object);
        admission.complete(write, &mut object, None);
        let mut object = normalized(kind, object)?;
        let errors = kind.rules.validate_create(&object);
        let name = metadata_text(&object, "name").to_owned();
        if !errors.is_empty() {
            return Err(Status::invalid(kind.group, kind.kind, &name, &errors));
        }
        let remarks = admission.check(write, &object, None)?;
        // Held until the object is stored.
        let _turn = match admission.check_quota(write, &object, None, None)? {
            QuotaVerdict::Passed => None,
            QuotaVerdict::AwaitsTurn => {
                let turn = self.take_turn(write.namespace).await;
                admission.check_quota(write, &object, None, Some(&turn))?;
                Some(turn)
            }
        };
        let mut allocation = allocate::on_create(self, write, &mut object)?;
        kind.rules.canonicalize(&mut object);
        let mut warnings = kind.rules.warnings_create(&object);
        warnings.extend(remarks.warnings);
        let annotations = remarks.annotations;
        if write.options.dry_run {
            if self.exists(kind, write.namespace, &name)? {
                return Err(self.taken(write, &name));
            }
            return Ok(Written { bytes: dry_run_answer(kind, &object), created: true, warnings, annotations });
        }
        let key = store_key(kind, write.namespace, &name);
        let put = Write::Put { key: key.clone(), value: to_store(kind, &object)? };
        // Trees are dropped before the wait for the disk; see `plan_update`.
        drop(object);
        match self.store.commit(allocation.transaction(Expect::Absent, put)).await {
            Ok(mut committed) => {
                allocation.keep();
                let bytes = committed.values.pop().flatten().expect("a put yields its bytes");
                Ok(Written { bytes, created: true, warnings, annotations })
            }
            // A client made, changed or deleted the IPAddress of the Service in the meantime.
            Err(CommitError::Conflict { key: lost, .. }) if lost != key => {
                Err(Status::too_many_requests("the address of the Service is being changed, please try again later", 1))
            }
            Err(CommitError::Conflict { .. }) => Err(self.taken(write, &name)),
            Err(error) => Err(commit_failed(error)),
        }
    }

    fn taken(&self, write: &WriteRequest<'_>, name: &str) -> Status {
        let mut status = Status::already_exists(write.kind.resource(), name);
        let entry = self.entry(write.kind, write.namespace, name).ok().flatten();
        if entry.is_some_and(|entry| !metadata_text(&parse_stored(&entry.value), "deletionTimestamp").is_empty()) {
            status.message = format!("object is being deleted: {}", status.message);
        }
        status
    }
}

/// The namespace of the path is the object's; one that differs is refused. Kinds without namespaces
/// pass over it.
pub fn set_namespace(write: &WriteRequest<'_>, object: &mut Value) -> Result<(), Status> {
    let own = metadata_text(object, "namespace");
    if !write.kind.namespaced && write.namespace.is_empty() {
        if !own.is_empty() {
            metadata_mut(object).remove("namespace");
        }
        return Ok(());
    }
    if !own.is_empty() && own != write.namespace {
        return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    if write.kind.namespaced {
        metadata_mut(object).insert("namespace".to_owned(), write.namespace.into());
    }
    Ok(())
}

fn generate_name(object: &mut Value) {
    let base = metadata_text(object, "generateName");
    if !metadata_text(object, "name").is_empty() || base.is_empty() {
        return;
    }
    let end = base.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= GENERATED_BASE_LEN_MAX).last().unwrap_or(0);
    let name = format!("{}{}", &base[..end], random_suffix());
    metadata_mut(object).insert("name".to_owned(), name.into());
}

/// Five characters as Kubernetes makes them.
pub fn random_suffix() -> String {
    let random = uuid::Uuid::new_v4().into_bytes();
    random.iter().take(NAME_SUFFIX_LEN).map(|&byte| char::from(NAME_ALPHABET[usize::from(byte) % NAME_ALPHABET.len()])).collect()
}

/// What only the server may say about a new object.
fn fill_system_fields(write: &WriteRequest<'_>, object: &mut Value) {
    let metadata = metadata_mut(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), kinds::decode::format_time(write.now).into());
}
