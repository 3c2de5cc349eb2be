//! The table of everything that is served: one row for each kind, with all there is to say about
//! it.
//!
//! Discovery, paths, storage keys, verbs, selectors and rules come from here; adding a kind means
//! adding a row, its types in `schema/types.txt` and a file of `rules/`.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::outline::Outline;
use crate::rules::{self, Rules};
use crate::schema::{TypeId, schema};
use crate::status::GroupResource;

/// A kind that the API serves.
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// The resource's name in paths: plural, lower case.
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
    /// The type's short name in the schema.
    pub type_name: &'static str,
    /// First part of the storage key. Two rows with the same one are two views of the same objects
    /// (events).
    pub storage: &'static str,
    /// Field selectors besides metadata.name and metadata.namespace.
    pub selectable: Selectable,
    /// PUT of a name that does not exist creates it.
    pub create_on_update: bool,
    /// PUT without a resourceVersion overwrites.
    pub unconditional_update: bool,
    /// DELETE answers with the object rather than with a Status.
    pub delete_returns_object: bool,
    /// An annotation that Kubernetes makes from an internal field when it converts an object, with
    /// that field's zero value. Bookmarks, which are converted from nothing, have it; metadata on
    /// its own, which is not converted, lacks it.
    pub converted_annotation: Option<(&'static str, &'static str)>,
    /// Warns every request for the resource.
    pub deprecation: Option<&'static str>,
    /// How the stored objects look in this group, where another row's form is the stored one.
    pub view: Option<View>,
    pub rules: &'static dyn Rules,
}

/// Two-way conversion between the stored form of an object and a row's own.
#[derive(Copy, Clone)]
pub struct View {
    pub from_stored: fn(Value) -> Value,
    pub to_stored: fn(Value) -> Value,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kind({}/{})", self.api_version(), self.plural)
    }
}

/// A path below an object: `pods/NAME/binding`.
#[derive(Debug, PartialEq)]
pub struct Subresource {
    pub name: &'static str,
    /// Group and version where they differ from the parent's.
    pub group_version: Option<(&'static str, &'static str)>,
    pub kind: &'static str,
    pub verbs: &'static [&'static str],
}

/// Which fields a field selector may name, and what an unknown one is answered.
#[derive(Debug, Copy, Clone, PartialEq)]
pub enum Selectable {
    /// Only name and namespace; the refusal of an unknown field names the two.
    MetadataOnly,
    /// A list of its own in Kubernetes.
    Fields(&'static [&'static str]),
}

const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NO_COLLECTION_DELETE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
const GET: &[&str] = &["get"];
const UPDATE: &[&str] = &["update"];
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];
const CONNECT: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

const fn sub(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, group_version: None, kind, verbs }
}

const fn status_of(kind: &'static str) -> Subresource {
    sub("status", kind, STATUS_VERBS)
}

/// A row with what most kinds have; the table overrides the rest.
const fn kind(group: &'static str, kind: &'static str, plural: &'static str, singular: &'static str, rules: &'static dyn Rules) -> Kind {
    Kind {
        group,
        version: "v1",
        kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        type_name: kind,
        storage: plural,
        selectable: Selectable::MetadataOnly,
        create_on_update: false,
        unconditional_update: true,
        delete_returns_object: false,
        converted_annotation: None,
        deprecation: None,
        view: None,
        rules,
    }
}

/// A kind that is only ever created, and not stored: reviews and bindings.
const fn review(group: &'static str, name: &'static str, plural: &'static str, singular: &'static str, namespaced: bool) -> Kind {
    Kind { namespaced, verbs: CREATE, ..kind(group, name, plural, singular, &rules::review::RULES) }
}

const APPS: &str = "apps";
const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";
const COORDINATION: &str = "coordination.k8s.io";
const DISCOVERY: &str = "discovery.k8s.io";
const EVENTS: &str = "events.k8s.io";
const METRICS: &str = "metrics.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const NODE: &str = "node.k8s.io";
const POLICY: &str = "policy";
const RBAC: &str = "rbac.authorization.k8s.io";
const SCHEDULING: &str = "scheduling.k8s.io";

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

const NEW_EVENT_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];

const POD_SUBRESOURCES: &[Subresource] = &[
    sub("attach", "PodAttachOptions", CONNECT),
    sub("binding", "Binding", CREATE),
    sub("ephemeralcontainers", "Pod", STATUS_VERBS),
    Subresource { name: "eviction", group_version: Some((POLICY, "v1")), kind: "Eviction", verbs: CREATE },
    sub("exec", "PodExecOptions", CONNECT),
    sub("log", "Pod", GET),
    sub("portforward", "PodPortForwardOptions", CONNECT),
    sub("proxy", "PodProxyOptions", PROXY),
    sub("resize", "Pod", STATUS_VERBS),
    status_of("Pod"),
];

/// Every kind, in the order of group and resource in which discovery lists them.
pub static KINDS: &[Kind] = &[
    review("", "Binding", "bindings", "binding", true),
    Kind { short_names: &["cm"], ..kind("", "ConfigMap", "configmaps", "configmap", &rules::configmap::RULES) },
    Kind {
        short_names: &["ep"],
        create_on_update: true,
        deprecation: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        ..kind("", "Endpoints", "endpoints", "endpoints", &rules::endpoints::RULES)
    },
    Kind {
        short_names: &["ev"],
        selectable: Selectable::Fields(EVENT_FIELDS),
        create_on_update: true,
        ..kind("", "Event", "events", "event", &rules::event::RULES)
    },
    Kind {
        short_names: &["limits"],
        create_on_update: true,
        ..kind("", "LimitRange", "limitranges", "limitrange", &rules::limitrange::RULES)
    },
    Kind {
        short_names: &["ns"],
        namespaced: false,
        verbs: NO_COLLECTION_DELETE,
        subresources: &[sub("finalize", "Namespace", UPDATE), status_of("Namespace")],
        selectable: Selectable::Fields(&["status.phase"]),
        ..kind("", "Namespace", "namespaces", "namespace", &rules::namespace::RULES)
    },
    Kind {
        short_names: &["no"],
        namespaced: false,
        subresources: &[sub("proxy", "NodeProxyOptions", PROXY), status_of("Node")],
        selectable: Selectable::Fields(&["spec.unschedulable"]),
        ..kind("", "Node", "nodes", "node", &rules::node::RULES)
    },
    Kind {
        short_names: &["po"],
        categories: &["all"],
        subresources: POD_SUBRESOURCES,
        selectable: Selectable::Fields(POD_FIELDS),
        delete_returns_object: true,
        ..kind("", "Pod", "pods", "pod", &rules::pod::RULES)
    },
    Kind {
        short_names: &["quota"],
        subresources: &[status_of("ResourceQuota")],
        delete_returns_object: true,
        ..kind("", "ResourceQuota", "resourcequotas", "resourcequota", &rules::resourcequota::RULES)
    },
    Kind { selectable: Selectable::Fields(&["type"]), ..kind("", "Secret", "secrets", "secret", &rules::secret::RULES) },
    Kind {
        short_names: &["sa"],
        subresources: &[Subresource { name: "token", group_version: Some((AUTHENTICATION, "v1")), kind: "TokenRequest", verbs: CREATE }],
        delete_returns_object: true,
        ..kind("", "ServiceAccount", "serviceaccounts", "serviceaccount", &rules::serviceaccount::RULES)
    },
    Kind {
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[sub("proxy", "ServiceProxyOptions", PROXY), status_of("Service")],
        selectable: Selectable::Fields(&["spec.clusterIP", "spec.type"]),
        create_on_update: true,
        delete_returns_object: true,
        ..kind("", "Service", "services", "service", &rules::service::RULES)
    },
    kind(APPS, "ControllerRevision", "controllerrevisions", "controllerrevision", &rules::controllerrevision::RULES),
    Kind {
        short_names: &["ds"],
        categories: &["all"],
        subresources: &[status_of("DaemonSet")],
        converted_annotation: Some(("deprecated.daemonset.template.generation", "0")),
        ..kind(APPS, "DaemonSet", "daemonsets", "daemonset", &rules::daemonset::RULES)
    },
    Kind {
        type_name: "events.Event",
        short_names: &["ev"],
        selectable: Selectable::Fields(NEW_EVENT_FIELDS),
        create_on_update: true,
        view: Some(rules::event::NEW_VIEW),
        ..kind(EVENTS, "Event", "events", "event", &rules::event::NEW_RULES)
    },
    review(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview", false),
    review(AUTHENTICATION, "TokenReview", "tokenreviews", "tokenreview", false),
    Kind {
        rules: &rules::review::LOCAL_SUBJECT_ACCESS,
        ..review(AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews", "localsubjectaccessreview", true)
    },
    Kind {
        rules: &rules::review::SELF_SUBJECT_ACCESS,
        ..review(AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview", false)
    },
    review(AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview", false),
    Kind {
        rules: &rules::review::SUBJECT_ACCESS,
        ..review(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview", false)
    },
    Kind {
        short_names: &["csr"],
        namespaced: false,
        subresources: &[sub("approval", "CertificateSigningRequest", STATUS_VERBS), status_of("CertificateSigningRequest")],
        selectable: Selectable::Fields(&["spec.signerName"]),
        ..kind(CERTIFICATES, "CertificateSigningRequest", "certificatesigningrequests", "certificatesigningrequest", &rules::csr::RULES)
    },
    Kind {
        short_names: &["ip"],
        namespaced: false,
        ..kind(NETWORKING, "IPAddress", "ipaddresses", "ipaddress", &rules::ip_address::RULES)
    },
    Kind {
        namespaced: false,
        subresources: &[status_of("ServiceCIDR")],
        ..kind(NETWORKING, "ServiceCIDR", "servicecidrs", "servicecidr", &rules::service_cidr::RULES)
    },
    Kind {
        short_names: &["pdb"],
        subresources: &[status_of("PodDisruptionBudget")],
        unconditional_update: false,
        ..kind(POLICY, "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget", &rules::pdb::RULES)
    },
    Kind {
        namespaced: false,
        create_on_update: true,
        ..kind(RBAC, "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding", &rules::rbac::CLUSTER_ROLE_BINDING)
    },
    Kind {
        namespaced: false,
        create_on_update: true,
        ..kind(RBAC, "ClusterRole", "clusterroles", "clusterrole", &rules::rbac::CLUSTER_ROLE)
    },
    Kind { create_on_update: true, ..kind(RBAC, "RoleBinding", "rolebindings", "rolebinding", &rules::rbac::ROLE_BINDING) },
    Kind { create_on_update: true, ..kind(RBAC, "Role", "roles", "role", &rules::rbac::ROLE) },
    Kind {
        short_names: &["pc"],
        namespaced: false,
        ..kind(SCHEDULING, "PriorityClass", "priorityclasses", "priorityclass", &rules::priorityclass::RULES)
    },
    Kind { create_on_update: true, unconditional_update: false, ..kind(COORDINATION, "Lease", "leases", "lease", &rules::lease::RULES) },
    Kind {
        namespaced: false,
        unconditional_update: false,
        ..kind(NODE, "RuntimeClass", "runtimeclasses", "runtimeclass", &rules::runtimeclass::RULES)
    },
    kind(DISCOVERY, "EndpointSlice", "endpointslices", "endpointslice", &rules::endpointslice::RULES),
    Kind {
        version: "v1beta1",
        namespaced: false,
        verbs: &["get", "list"],
        singular: "",
        ..kind(METRICS, "NodeMetrics", "nodes", "", &rules::review::RULES)
    },
    Kind { version: "v1beta1", verbs: &["get", "list"], ..kind(METRICS, "PodMetrics", "pods", "", &rules::review::RULES) },
];

impl Kind {
    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    pub fn resource(&self) -> GroupResource<'static> {
        GroupResource { group: self.group, resource: self.plural }
    }

    /// Group and kind, as messages about an object's contents name it.
    pub fn group_kind(&self) -> GroupResource<'static> {
        GroupResource { group: self.group, resource: self.kind }
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Are objects of it kept? Reviews and metrics are not.
    pub fn is_stored(&self) -> bool {
        self.has_verb("list") && self.group != METRICS
    }

    /// The row in whose form the objects are stored; itself, except for second views.
    pub fn stored(&'static self) -> &'static Kind {
        match self.view {
            None => self,
            Some(_) => KINDS.iter().find(|k| k.storage == self.storage && k.view.is_none()).unwrap_or(self),
        }
    }

    /// The schema of its objects.
    pub fn type_id(&self) -> TypeId {
        schema().named(self.type_name).expect("a test walks the table and looks up every type")
    }

    /// The name that a selectable field has in the stored form of the objects.
    pub fn stored_field<'a>(&self, field: &'a str) -> std::borrow::Cow<'a, str> {
        match field.strip_prefix("regarding.") {
            Some(rest) if self.group == EVENTS => format!("involvedObject.{rest}").into(),
            None if self.group == EVENTS && field == "reportingController" => "reportingComponent".into(),
            _ => field.into(),
        }
    }

    /// The text that a field selector compares; None for a field that cannot be selected. For
    /// single objects: caches keep an [`Outline`].
    pub fn field_value(&self, object: &Value, field: &str) -> Option<String> {
        let json = object.to_string();
        let outline = Outline::of(self, json.as_bytes()).filter(|_| self.is_selectable(field))?;
        Some(outline.field(self, field, json.as_bytes()).to_owned())
    }

    /// May a field selector name the field?
    pub fn is_selectable(&self, field: &str) -> bool {
        match field {
            "metadata.name" => true,
            "metadata.namespace" => self.namespaced || self.selectable == Selectable::MetadataOnly,
            _ => matches!(self.selectable, Selectable::Fields(fields) if fields.contains(&field)),
        }
    }
}

/// The row for a resource of a group and version.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    type Rows = HashMap<(&'static str, &'static str, &'static str), &'static Kind>;
    static ROWS: LazyLock<Rows> = LazyLock::new(|| KINDS.iter().map(|kind| ((kind.group, kind.version, kind.plural), kind)).collect());
    let rows: &HashMap<(&str, &str, &str), &'static Kind> = &ROWS;
    rows.get(&(group, version, plural)).copied()
}

/// The row for a kind, by group and name.
pub fn by_kind(group: &str, kind: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.group == group && k.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_kind_and_review_has_a_type() {
        for kind in KINDS.iter().filter(|k| k.group != METRICS) {
            assert!(schema().named(kind.type_name).is_some(), "{} is not in types.txt", kind.type_name);
        }
    }

    #[test]
    fn resources_are_unique_in_their_group() {
        for (at, kind) in KINDS.iter().enumerate() {
            assert!(!KINDS[..at].iter().any(|k| k.group == kind.group && k.plural == kind.plural), "{}", kind.plural);
        }
    }
}
