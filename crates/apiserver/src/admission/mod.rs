//! Admission: what Kubernetes' default plugins add to requests and refuse, between authorization
//! and storage.
//!
//! One file for each plugin, named after it; the order of calls is Kubernetes'. The registry calls
//! them through its port [`Admission`].

mod certificates;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod own_node;
mod pod_security;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod taint_nodes;

use std::sync::Arc;

use ipnet::IpNet;
use kinds::rules::Part;
use kinds::status::Status;
use kinds::table::Kind;
use serde_json::Value;

use crate::auth::authorize::Authorizer;
use crate::auth::escalation;
use crate::registry::Registry;
use crate::registry::port::{Admission, QuotaVerdict, Remarks};
use crate::registry::turns::WriteTurn;
use crate::request::{Attributes, What, WriteRequest};

/// What the operator chose.
#[derive(Debug, Clone, Default)]
pub struct AdmissionSettings {
    /// Admission of ServiceAccounts (default account, token volume) can be switched off, as in
    /// Kubernetes.
    pub service_account_admission: bool,
    /// What nodes may claim for their pods; anything where there is none.
    pub pod_ranges: Vec<PodRange>,
}

/// A range of which each node has a share.
#[derive(Debug, Clone, Copy)]
pub struct PodRange {
    pub range: IpNet,
    /// Length of the prefix of a share.
    pub node_prefix: u8,
}

impl PodRange {
    fn has_share(&self, claim: &IpNet) -> bool {
        claim.prefix_len() == self.node_prefix && self.range.contains(claim)
    }
}

/// The plugins, with what they look at.
pub struct Plugins {
    registry: Arc<Registry>,
    authorizer: Arc<Authorizer>,
    settings: AdmissionSettings,
}

impl Plugins {
    pub fn new(registry: Arc<Registry>, authorizer: Arc<Authorizer>, settings: AdmissionSettings) -> Plugins {
        Plugins { registry, authorizer, settings }
    }

    /// Checks a request for a token of a service account.
    pub fn check_token(&self, write: &WriteRequest<'_>, request: &Value) -> Result<(), Status> {
        node_restriction::check_token(&self.registry, &self.authorizer, write, request)
    }

    fn admit_create(&self, write: &WriteRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let registry = &*self.registry;
        namespace_lifecycle::admit_create(registry, write, object)?;
        if is_core(write.kind, "Pod") {
            limit_ranger::admit(registry, write, object)?;
            if self.settings.service_account_admission {
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

    fn admit_update(&self, write: &WriteRequest<'_>, object: &mut Value, old: &Value) -> Result<(), Status> {
        if is_limited_resize(write, old) {
            limit_ranger::admit(&self.registry, write, object)?;
        }
        if is_core(write.kind, "Pod") && write.part == Some(Part::Main) {
            default_toleration_seconds::admit(object);
        }
        Ok(())
    }

    fn check_create(&self, write: &WriteRequest<'_>, object: &Value) -> Result<Remarks, Status> {
        let registry = &*self.registry;
        escalation::check(&self.authorizer, write, object, None)?;
        node_restriction::check(registry, write, object, None)?;
        node_restriction::check_pod_ranges(&self.settings.pod_ranges, write, object, None)?;
        own_node::check(registry, write, object, None)?;
        certificates::check_subject(write, object)?;
        priority::check_class(registry, write, object)?;
        if is_core(write.kind, "Pod") {
            limit_ranger::check(registry, write, object)?;
            service_account::check(write, object)?;
        }
        pod_security::check(registry, write, object, None)
    }

    fn check_update(&self, write: &WriteRequest<'_>, object: &Value, old: &Value) -> Result<Remarks, Status> {
        let registry = &*self.registry;
        escalation::check(&self.authorizer, write, object, Some(old))?;
        priority::check_class(registry, write, object)?;
        if certificates::is_request(write) {
            certificates::check_approval(&self.authorizer, write, object)?;
            certificates::check_signing(&self.authorizer, write, object, old)?;
        }
        node_restriction::check(registry, write, object, Some(old))?;
        node_restriction::check_pod_ranges(&self.settings.pod_ranges, write, object, Some(old))?;
        own_node::check(registry, write, object, Some(old))?;
        if is_limited_resize(write, old) {
            limit_ranger::check(registry, write, object)?;
        }
        pod_security::check(registry, write, object, Some(old))
    }
}

impl Admission for Plugins {
    fn authorize_create(&self, write: &WriteRequest<'_>) -> Result<(), Status> {
        let WriteRequest { kind, namespace, name, user, .. } = *write;
        let (group, version, resource) = (kind.group, kind.version, kind.plural);
        let what = What::Resource { group, version, resource, subresource: "", namespace, name, field_selector: "" };
        self.authorizer.check(&Attributes { user, verb: "create", what })
    }

    fn admit(&self, write: &WriteRequest<'_>, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        match old {
            None => self.admit_create(write, object),
            Some(old) => self.admit_update(write, object, old),
        }
    }

    fn complete(&self, write: &WriteRequest<'_>, object: &mut Value, old: Option<&Value>) {
        match old {
            None => complete_create(write, object),
            Some(old) => complete_update(write, object, old),
        }
    }

    fn check(&self, write: &WriteRequest<'_>, object: &Value, old: Option<&Value>) -> Result<Remarks, Status> {
        match old {
            None => self.check_create(write, object),
            Some(old) => self.check_update(write, object, old),
        }
    }

    fn check_quota(
        &self,
        write: &WriteRequest<'_>,
        object: &Value,
        old: Option<&Value>,
        turn: Option<&WriteTurn>,
    ) -> Result<QuotaVerdict, Status> {
        resource_quota::check(&self.registry, write, object, old, turn)
    }

    fn admit_delete(&self, write: &WriteRequest<'_>, object: &Value) -> Result<(), Status> {
        node_restriction::check_delete(write, object)?;
        namespace_lifecycle::admit_delete(write)?;
        priority::admit_delete(write)
    }
}

/// LimitRanges are about resizes too, but for pods that go away.
fn is_limited_resize(write: &WriteRequest<'_>, old: &Value) -> bool {
    write.part == Some(Part::Resize) && old["metadata"]["deletionTimestamp"].is_null()
}

fn complete_create(write: &WriteRequest<'_>, object: &mut Value) {
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

fn complete_update(write: &WriteRequest<'_>, object: &mut Value, old: &Value) {
    if certificates::is_request(write) {
        certificates::fill_times(write, object, old);
    }
}

fn is_core(kind: &Kind, name: &str) -> bool {
    kind.group.is_empty() && kind.kind == name
}

/// The refusal of an object by a plugin.
fn refuse(write: &WriteRequest<'_>, object: &Value, why: &str) -> Status {
    Status::forbidden(write.kind.resource(), object["metadata"]["name"].as_str().unwrap_or_default(), why)
}

/// A list of the object at a pointer, made if it is not there.
fn list_mut<'a>(object: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    if !object[field].is_array() {
        object[field] = Value::Array(Vec::new());
    }
    object[field].as_array_mut().expect("made an array above")
}
