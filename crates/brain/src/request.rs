//! Requests to the API as data: what deciders plan, what shells and the simulator send.
//!
//! Every request that changes something carries its own precondition (a uid, a resourceVersion, or
//! a name that is derived), so that one that comes too late is refused and does no harm.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::model::{Key, Meta};

/// A resource of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
}

const fn core(plural: &'static str, kind: &'static str) -> Resource {
    Resource { group: "", version: "v1", plural, kind }
}

pub const PODS: Resource = core("pods", "Pod");
pub const NODES: Resource = core("nodes", "Node");
pub const EVENTS: Resource = core("events", "Event");
pub const DAEMON_SETS: Resource = Resource { group: "apps", version: "v1", plural: "daemonsets", kind: "DaemonSet" };
pub const REVISIONS: Resource = Resource { group: "apps", version: "v1", plural: "controllerrevisions", kind: "ControllerRevision" };
pub const LEASES: Resource = Resource { group: "coordination.k8s.io", version: "v1", plural: "leases", kind: "Lease" };
pub const CONFIG_MAPS: Resource = core("configmaps", "ConfigMap");
pub const SERVICE_ACCOUNTS: Resource = core("serviceaccounts", "ServiceAccount");
pub const NAMESPACES: Resource = core("namespaces", "Namespace");
pub const PRIORITY_CLASSES: Resource =
    Resource { group: "scheduling.k8s.io", version: "v1", plural: "priorityclasses", kind: "PriorityClass" };
pub const BUDGETS: Resource = Resource { group: "policy", version: "v1", plural: "poddisruptionbudgets", kind: "PodDisruptionBudget" };

pub const SERVICES: Resource = core("services", "Service");
pub const ENDPOINTS: Resource = core("endpoints", "Endpoints");
pub const ENDPOINT_SLICES: Resource =
    Resource { group: "discovery.k8s.io", version: "v1", plural: "endpointslices", kind: "EndpointSlice" };
pub const QUOTAS: Resource = core("resourcequotas", "ResourceQuota");
pub const CLUSTER_ROLES: Resource =
    Resource { group: "rbac.authorization.k8s.io", version: "v1", plural: "clusterroles", kind: "ClusterRole" };

pub const SERVICE_CIDRS: Resource = networking("servicecidrs", "ServiceCIDR");
pub const IP_ADDRESSES: Resource = networking("ipaddresses", "IPAddress");

const fn networking(plural: &'static str, kind: &'static str) -> Resource {
    Resource { group: "networking.k8s.io", version: "v1", plural, kind }
}

impl Resource {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    Create(Arc<Value>),
    /// PUT.
    Replace(Value),
    /// `application/merge-patch+json`.
    Merge(Value),
    /// `application/strategic-merge-patch+json`.
    Strategic(Value),
    /// All objects of the resource in the key's namespace.
    DeleteCollection,
    /// GET: is it there, with that uid, and not deleted by any client?
    Check {
        uid: Arc<str>,
    },
    /// GET: is nothing there with that uid?
    CheckGone {
        uid: Arc<str>,
    },
    Delete {
        uid: Option<Arc<str>>,
        resource_version: Option<u64>,
        grace_seconds: Option<i64>,
        /// `Background`, `Foreground` or `Orphan`; the server's choice otherwise.
        propagation: Option<&'static str>,
    },
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub resource: Resource,
    pub key: Key,
    pub subresource: Option<&'static str>,
    pub verb: Verb,
    /// What to tell people about it, when it was accepted and when it was refused.
    pub report: Option<Report>,
}

/// Events to send after a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub accepted: Option<Event>,
    /// The message gets the error's text appended.
    pub refused: Option<Event>,
}

/// `type` of an Event: whether it says that something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    pub fn text(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// An Event object to be, without time and name.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub about: Regarding,
    pub event_type: EventType,
    pub reason: Cow<'static, str>,
    pub message: String,
    /// What was done: events of the scheduler have it.
    pub action: Option<&'static str>,
    /// Who says so: `daemonset-controller`.
    pub component: &'static str,
    /// The node that says so, for what nodes say.
    pub host: Option<Arc<str>>,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Regarding {
    pub resource: Resource,
    pub key: Key,
    pub uid: Arc<str>,
    pub resource_version: u64,
    /// Which part of it: `spec.containers{c}`.
    pub field_path: Option<Arc<str>>,
}

impl Regarding {
    pub fn of(resource: Resource, meta: &Meta) -> Regarding {
        Regarding { resource, key: meta.key(), uid: meta.uid.clone(), resource_version: meta.resource_version, field_path: None }
    }
}

impl Request {
    pub fn new(resource: Resource, key: Key, verb: Verb) -> Request {
        Request { resource, key, subresource: None, verb, report: None }
    }

    /// Deletes exactly this object, with the grace that the object asks for.
    pub fn delete(resource: Resource, meta: &Meta) -> Request {
        let verb = Verb::Delete { uid: Some(meta.uid.clone()), resource_version: None, grace_seconds: None, propagation: None };
        Request::new(resource, meta.key(), verb)
    }

    pub fn on(mut self, subresource: &'static str) -> Request {
        self.subresource = Some(subresource);
        self
    }

    pub fn reporting(mut self, accepted: Option<Event>, refused: Option<Event>) -> Request {
        self.report = Some(Report { accepted, refused });
        self
    }

    /// Path and query of its URL.
    pub fn path(&self) -> String {
        let root = if self.resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", self.resource.group) };
        let mut path = format!("{root}/{}", self.resource.version);
        if !self.key.namespace.is_empty() {
            path += &format!("/namespaces/{}", self.key.namespace);
        }
        path += &format!("/{}", self.resource.plural);
        let names_none = matches!(self.verb, Verb::Create(_) | Verb::DeleteCollection);
        if !names_none || self.subresource.is_some() {
            path += &format!("/{}", self.key.name);
        }
        if let Some(subresource) = self.subresource {
            path += &format!("/{subresource}");
        }
        path
    }

    /// Method, content type and body.
    pub fn body(&self) -> (&'static str, &'static str, Value) {
        match &self.verb {
            Verb::Create(object) => ("POST", "application/json", Value::clone(object)),
            Verb::Replace(object) => ("PUT", "application/json", object.clone()),
            Verb::Merge(patch) => ("PATCH", "application/merge-patch+json", patch.clone()),
            Verb::Strategic(patch) => ("PATCH", "application/strategic-merge-patch+json", patch.clone()),
            Verb::DeleteCollection => ("DELETE", "application/json", Value::Null),
            Verb::Check { .. } | Verb::CheckGone { .. } => ("GET", "application/json", Value::Null),
            Verb::Delete { uid, resource_version, grace_seconds, propagation } => {
                let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
                if let Some(uid) = uid {
                    options["preconditions"]["uid"] = json!(uid);
                }
                if let Some(version) = resource_version {
                    options["preconditions"]["resourceVersion"] = json!(version.to_string());
                }
                if let Some(seconds) = grace_seconds {
                    options["gracePeriodSeconds"] = json!(seconds);
                }
                if let Some(propagation) = propagation {
                    options["propagationPolicy"] = json!(propagation);
                }
                ("DELETE", "application/json", options)
            }
        }
    }
}
