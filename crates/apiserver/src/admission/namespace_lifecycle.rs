//! NamespaceLifecycle: nothing new in namespaces that do not exist or are going away; some
//! namespaces stay forever.

use kinds::status::{Cause, Status};
use kinds::table;
use serde_json::Value;

use super::refuse;
use crate::registry::Registry;
use crate::registry::encoding::parse_stored;
use crate::request::WriteRequest;

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub fn admit_create(registry: &Registry, write: &WriteRequest<'_>, object: &Value) -> Result<(), Status> {
    if !write.kind.namespaced {
        return Ok(());
    }
    let namespaces = table::by_resource("", "v1", "namespaces").expect("the table has namespaces");
    // Not from the cache: it may be a moment behind the namespace's deletion, which a client was
    // told about.
    let entry = registry.get(namespaces, "", write.namespace)?;
    let stored = parse_stored(&entry.value);
    let phase = stored["status"]["phase"].as_str().unwrap_or_default();
    if phase != "Terminating" {
        return Ok(());
    }
    let namespace = write.namespace;
    let mut status =
        refuse(write, object, &format!("unable to create new content in namespace {namespace} because it is being terminated"));
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        });
    }
    Err(status)
}

pub fn admit_delete(write: &WriteRequest<'_>) -> Result<(), Status> {
    if super::is_core(write.kind, "Namespace") && IMMORTAL.contains(&write.name) {
        return Err(Status::forbidden(write.kind.resource(), write.name, "this namespace may not be deleted"));
    }
    Ok(())
}
