//! Deleting objects: grace periods, finalizers, propagation, preconditions.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use kinds::status::{Details, Status};
use kinds::table::Kind;
use serde_json::{Value, json};
use store::{CommitError, Entry, Expect, Txn, Write};

use super::allocate;
use super::encoding::{deletion_answer, dry_run_answer, parse_folded, to_store, to_store_again};
use super::metadata::{is_finished, metadata_mut, metadata_text};
use super::object::store_key;
use super::port::Admission;
use super::{Registry, WRITE_ATTEMPTS_MAX, commit_failed};
use crate::request::WriteRequest;
use crate::request::options::{DeleteOptions, Propagation};

const ORPHAN_FINALIZER: &str = "orphan";
const FOREGROUND_FINALIZER: &str = "foregroundDeletion";

/// What became of the object.
#[derive(Debug)]
pub enum Deleted {
    /// It is gone; its last state.
    Gone { bytes: Bytes, uid: String },
    /// It stays for now: finalizers or a grace period.
    Pending(Bytes),
}

impl Registry {
    /// Deletes an object, or marks it where something has to happen before it may go.
    pub async fn delete(&self, admission: &dyn Admission, write: &WriteRequest<'_>, options: &DeleteOptions) -> Result<Deleted, Status> {
        let kind = write.kind;
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let entry = self.get(kind, write.namespace, write.name)?;
            let object = parse_folded(&entry.value);
            check_preconditions(kind, write.name, options, &object)?;
            admission.admit_delete(write, &object)?;
            if needs_last_notice(write, options, &object) {
                self.give_last_notice(write, object, &entry).await?;
                continue;
            }
            if let Some(deleted) = self.delete_version(write, options, object, &entry).await? {
                return Ok(deleted);
            }
        }
        Err(Status::stale(kind.resource(), write.name))
    }

    /// Stores a terminating pod once more, with no time left. When another client changed the pod
    /// first, that write wins; the caller looks again.
    async fn give_last_notice(&self, write: &WriteRequest<'_>, mut object: Value, entry: &Entry) -> Result<(), Status> {
        shorten_grace(&mut object, 0);
        metadata_mut(&mut object).remove("resourceVersion");
        let put = Write::Put { key: store_key(write.kind, write.namespace, write.name), value: to_store(write.kind, &object)? };
        drop(object);
        match self.store.commit(Txn::one(Some(Expect::Modified(entry.modified)), put)).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(error) => Err(commit_failed(error)),
        }
    }

    /// None when another writer was faster.
    async fn delete_version(
        &self,
        write: &WriteRequest<'_>,
        options: &DeleteOptions,
        mut object: Value,
        entry: &Entry,
    ) -> Result<Option<Deleted>, Status> {
        let kind = write.kind;
        let key = store_key(kind, write.namespace, write.name);
        let uid = metadata_text(&object, "uid").to_owned();
        let removes = mark(kind, options, &mut object, write.now);
        if options.dry_run {
            let is_unchanged = !removes && to_store_again(kind, entry)?.bytes == to_store(kind, &object)?.bytes;
            let bytes = if is_unchanged { entry.value.clone() } else { dry_run_answer(kind, &object) };
            return Ok(Some(if removes { Deleted::Gone { bytes, uid } } else { Deleted::Pending(bytes) }));
        }
        let change = match removes {
            // Watchers see the state that was stored last.
            true => Write::Delete { key, last: Some(to_store_again(kind, entry)?) },
            false => Write::Put { key, value: to_store(kind, &object)? },
        };
        if matches!(&change, Write::Put { value, .. } if value.bytes == to_store_again(kind, entry)?.bytes) {
            return Ok(Some(Deleted::Pending(entry.value.clone())));
        }
        let answer = removes.then(|| deletion_answer(kind, &object));
        let mut allocation = if removes { allocate::on_delete(self, write, &object)? } else { allocate::unchanged(self) };
        // Trees are dropped before the wait for the disk; see `plan_update`.
        drop(object);
        match self.store.commit(allocation.transaction(Expect::Modified(entry.modified), change)).await {
            Ok(mut committed) => match answer {
                Some(answer) => {
                    allocation.keep();
                    Ok(Some(Deleted::Gone { bytes: answer.at_revision(committed.revision.0).into(), uid }))
                }
                None => Ok(Some(Deleted::Pending(committed.values.pop().flatten().expect("a put yields its bytes")))),
            },
            Err(CommitError::Conflict { .. }) => Ok(None),
            Err(error) => Err(commit_failed(error)),
        }
    }
}

/// A pod that was given time and now gets none is seen once more by watchers before it is gone, as
/// in Kubernetes.
fn needs_last_notice(write: &WriteRequest<'_>, options: &DeleteOptions, object: &Value) -> bool {
    let metadata = &object["metadata"];
    write.kind.kind == "Pod"
        && !options.dry_run
        && metadata["deletionTimestamp"].is_string()
        && metadata["deletionGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds > 0)
        && pod_grace_seconds(object, options) == 0
}

fn check_preconditions(kind: &Kind, name: &str, options: &DeleteOptions, object: &Value) -> Result<(), Status> {
    let subject = kind.group_kind();
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != metadata_text(object, "uid")) {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            metadata_text(object, "uid")
        );
        return Err(Status::conflict(subject, name, &why));
    }
    if let Some(version) = options.resource_version.as_deref().filter(|v| *v != metadata_text(object, "resourceVersion")) {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            metadata_text(object, "resourceVersion")
        );
        return Err(Status::conflict(subject, name, &why));
    }
    Ok(())
}

/// Makes of the object what the deletion makes of it. True if nothing holds it any more.
pub(super) fn mark(kind: &Kind, options: &DeleteOptions, object: &mut Value, now: Timestamp) -> bool {
    if kind.kind == "Namespace" && kind.group.is_empty() {
        return mark_namespace(object, now);
    }
    set_propagation_finalizers(object, options.propagation);
    let held = object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    let grace = if kind.kind == "Pod" { pod_grace_seconds(object, options) } else { 0 };
    let already = !metadata_text(object, "deletionTimestamp").is_empty();
    if grace > 0 || held {
        if already {
            shorten_grace(object, grace);
        } else {
            set_deletion(object, now, grace);
        }
        return false;
    }
    if kind.kind == "Pod" {
        // The last state that watchers see says that nothing was waited for.
        if already {
            metadata_mut(object).insert("deletionGracePeriodSeconds".to_owned(), 0.into());
        } else {
            set_deletion(object, now, 0);
        }
    }
    true
}

fn set_propagation_finalizers(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let metadata = metadata_mut(object);
    let mut finalizers: Vec<Value> = metadata.get("finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
    finalizers.retain(|f| f != ORPHAN_FINALIZER && f != FOREGROUND_FINALIZER);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND_FINALIZER.into()),
        Propagation::Orphan => finalizers.push(ORPHAN_FINALIZER.into()),
    }
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
}

/// Pods get time to end, unless they never ran or have ended.
fn pod_grace_seconds(pod: &Value, options: &DeleteOptions) -> i64 {
    let asked = options.grace_period_seconds.or(pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
    // Kubernetes treats a negative period as one second.
    let grace = if asked < 0 { 1 } else { asked };
    let scheduled = pod["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if scheduled && !ended { grace } else { 0 }
}

fn set_deletion(object: &mut Value, now: Timestamp, grace_seconds: i64) {
    let at = now.saturating_add(SignedDuration::from_secs(grace_seconds)).unwrap_or(now);
    let metadata = metadata_mut(object);
    metadata.insert("deletionTimestamp".to_owned(), kinds::decode::format_time(at).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace_seconds.into());
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|&g| g > 0) {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
}

/// A second deletion may shorten the period, never lengthen it.
fn shorten_grace(object: &mut Value, grace_seconds: i64) {
    let metadata = metadata_mut(object);
    let Some(current) = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64) else { return };
    let deadline = metadata.get("deletionTimestamp").and_then(Value::as_str).and_then(|t| t.parse::<Timestamp>().ok());
    if let (true, Some(deadline)) = (grace_seconds < current, deadline) {
        let earlier = deadline.saturating_sub(SignedDuration::from_secs(current - grace_seconds)).unwrap_or(deadline);
        metadata.insert("deletionTimestamp".to_owned(), kinds::decode::format_time(earlier).into());
        metadata.insert("deletionGracePeriodSeconds".to_owned(), grace_seconds.into());
    }
}

/// A namespace stays, terminating, until its contents are gone and spec.finalizers is empty.
fn mark_namespace(object: &mut Value, now: Timestamp) -> bool {
    if metadata_text(object, "deletionTimestamp").is_empty() {
        metadata_mut(object).insert("deletionTimestamp".to_owned(), kinds::decode::format_time(now).into());
        object["status"]["phase"] = "Terminating".into();
    }
    is_finished(object)
}

/// The answer to a deletion that took the object away at once.
pub fn success(kind: &Kind, name: &str, uid: &str) -> Value {
    let details = Details {
        name: name.to_owned(),
        group: kind.group.to_owned(),
        kind: kind.plural.to_owned(),
        uid: uid.to_owned(),
        ..Details::default()
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details.to_value()})
}
