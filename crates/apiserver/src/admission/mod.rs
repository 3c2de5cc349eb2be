//! Admission: what Kubernetes' default plugins add to requests and refuse, between authorization
//! and storage.
//!
//! One file for each plugin, named after it; the order of calls is Kubernetes'.

pub mod allocate;
mod certificates;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod taint_nodes;

use std::collections::BTreeMap;

use kinds::rules::Part;
use kinds::status::Status;
use kinds::table::Kind;
use serde_json::Value;

use crate::auth::escalation;
use crate::registry::{Registry, Write};
use resource_quota::Verdict;

pub use node_restriction::MIRROR;
pub use node_restriction::check_token;
pub use resource_quota::{QuotaGuard, QuotaTurns, take_turn};

/// What plugins have to say about a write that they let through.
#[derive(Debug, Default, PartialEq)]
pub struct Remarks {
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// For the audit log, by name.
    pub annotations: BTreeMap<String, String>,
}

/// Mutating plugins, and those that refuse before validation, for a create.
pub fn admit_create(registry: &Registry, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
    namespace_lifecycle::admit_create(registry, write, object)?;
    if is_core(write.kind, "Pod") {
        limit_ranger::admit(registry, write, object)?;
        if registry.settings.service_account_admission {
            service_account::admit(registry, write, object)?;
        }
        priority::admit(registry, write, object)?;
        default_toleration_seconds::admit(object);
        runtime_class::admit(registry, write, object)?;
    }
    if is_core(write.kind, "Node") {
        taint_nodes::admit(object);
    }
    Ok(())
}

/// Same for an update.
pub fn admit_update(registry: &Registry, write: &Write<'_>, object: &mut Value, old: &Value) -> Result<(), Status> {
    if is_limited_resize(write, old) {
        limit_ranger::admit(registry, write, object)?;
    }
    if is_core(write.kind, "Pod") && write.part == Some(Part::Main) {
        default_toleration_seconds::admit(object);
    }
    Ok(())
}

/// LimitRanges are about resizes too, but for pods that go away.
fn is_limited_resize(write: &Write<'_>, old: &Value) -> bool {
    write.part == Some(Part::Resize) && old["metadata"]["deletionTimestamp"].is_null()
}

/// What the server adds after the kind's rules have dropped what clients may not say.
pub fn complete_create(write: &Write<'_>, object: &mut Value) {
    if certificates::is_request(write) {
        certificates::fill_requester(write, object);
    }
    if is_core(write.kind, "Pod") {
        for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
            if condition["lastTransitionTime"].is_null() {
                condition["lastTransitionTime"] = kinds::decode::format_time(write.now).into();
            }
        }
    }
}

/// Same for an update.
pub fn complete_update(write: &Write<'_>, object: &mut Value, old: &Value) {
    if certificates::is_request(write) {
        certificates::fill_times(write, object, old);
    }
}

/// Validating plugins for a create, after validation; the guard is held until the object is stored.
pub async fn check_create(registry: &Registry, write: &Write<'_>, object: &Value) -> Result<(QuotaGuard, Remarks), Status> {
    escalation::check(registry, write, object, None)?;
    node_restriction::check(registry, write, object, None)?;
    certificates::check_subject(write, object)?;
    priority::check_class(registry, write, object)?;
    if is_core(write.kind, "Pod") {
        limit_ranger::check(registry, write, object)?;
        service_account::check(write, object)?;
    }
    let remarks = pod_security::check(registry, write, object, None)?;
    // Events are not limited: they must not fail because there are many.
    let is_limited = write.kind.namespaced && write.kind.kind != "Event";
    let guard = if is_limited { resource_quota::check_create(registry, write, object).await? } else { QuotaGuard::none() };
    Ok((guard, remarks))
}

/// Validating plugins for an update. None: to be checked again in the turn of the namespace, see
/// [`take_turn`], which then is held until the object is stored.
pub fn check_update(
    registry: &Registry,
    write: &Write<'_>,
    object: &Value,
    old: &Value,
    turn: Option<&QuotaGuard>,
) -> Result<Option<Remarks>, Status> {
    escalation::check(registry, write, object, Some(old))?;
    priority::check_class(registry, write, object)?;
    if certificates::is_request(write) {
        certificates::check_approval(registry, write, object)?;
        certificates::check_signing(registry, write, object, old)?;
    }
    node_restriction::check(registry, write, object, Some(old))?;
    if is_limited_resize(write, old) {
        limit_ranger::check(registry, write, object)?;
    }
    let remarks = pod_security::check(registry, write, object, Some(old))?;
    let verdict = resource_quota::check_update(registry, write, object, old, turn)?;
    Ok((verdict == Verdict::Passed).then_some(remarks))
}

/// May the object be deleted?
pub fn admit_delete(_registry: &Registry, write: &Write<'_>, object: &Value) -> Result<(), Status> {
    node_restriction::check_delete(write, object)?;
    namespace_lifecycle::admit_delete(write)?;
    priority::admit_delete(write)
}

fn is_core(kind: &Kind, name: &str) -> bool {
    kind.group.is_empty() && kind.kind == name
}

/// The refusal of an object by a plugin.
fn refuse(write: &Write<'_>, object: &Value, why: &str) -> Status {
    Status::forbidden(write.kind.resource(), object["metadata"]["name"].as_str().unwrap_or_default(), why)
}

/// A list of the object at a pointer, made if it is not there.
fn list_mut<'a>(object: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    if !object[field].is_array() {
        object[field] = Value::Array(Vec::new());
    }
    object[field].as_array_mut().expect("made an array above")
}
