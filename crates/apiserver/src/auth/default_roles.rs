//! The roles and bindings that every cluster has: who may do what before a user changes anything.
//!
//! Names, aggregation and subjects are Kubernetes'; the rules cover the resources that everynode
//! serves.

use serde_json::{Value, json};

use super::controller_roles;

pub(super) const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const ALL: &[&str] = &["*"];

pub(super) const CORE: &str = "";
pub(super) const APPS: &str = "apps";
pub(super) const RBAC: &str = "rbac.authorization.k8s.io";

/// A rule over resources.
pub(super) fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

/// A rule over paths.
fn paths(paths: &[&str]) -> Value {
    json!({"nonResourceURLs": paths, "verbs": ["get"]})
}

pub(super) fn events(verbs: &[&str]) -> Value {
    json!({"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": verbs})
}

/// A ClusterRole with the labels of the built-in ones, and more.
pub(super) fn role(name: &str, labels: &[(&str, &str)], rules: Vec<Value>) -> Value {
    let mut metadata = meta(name);
    for (label, value) in labels {
        metadata["labels"][*label] = (*value).into();
    }
    json!({"metadata": metadata, "rules": rules})
}

fn meta(name: &str) -> Value {
    json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    })
}

const AGGREGATE_TO_ADMIN: (&str, &str) = ("rbac.authorization.k8s.io/aggregate-to-admin", "true");
const AGGREGATE_TO_EDIT: (&str, &str) = ("rbac.authorization.k8s.io/aggregate-to-edit", "true");
const AGGREGATE_TO_VIEW: (&str, &str) = ("rbac.authorization.k8s.io/aggregate-to-view", "true");

/// A role that is the sum of those with a label; its rules are written out as well, for people to
/// read.
fn aggregate(name: &str, own: &[(&str, &str)], label: (&str, &str), parts: &[Value]) -> Value {
    let mut aggregated = role(name, own, parts.iter().filter_map(|part| part["rules"].as_array().cloned()).flatten().collect());
    aggregated["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label.0: label.1}}]});
    aggregated
}

/// Resources of a namespace that people work with.
fn edit_rules() -> Vec<Value> {
    vec![
        rule(CORE, &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"], READ),
        rule(CORE, &["serviceaccounts"], &["impersonate"]),
        rule(CORE, &["pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"], WRITE),
        rule(CORE, &["pods/eviction"], &["create"]),
        rule(CORE, &["configmaps", "events", "secrets", "serviceaccounts", "services", "services/proxy"], WRITE),
        rule(CORE, &["serviceaccounts/token"], &["create"]),
        rule(APPS, &["daemonsets"], WRITE),
        rule("policy", &["poddisruptionbudgets"], WRITE),
        rule("coordination.k8s.io", &["leases"], &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]),
    ]
}

fn view_rules() -> Vec<Value> {
    vec![
        rule(CORE, &["configmaps", "endpoints", "pods", "serviceaccounts", "services", "services/status"], READ),
        rule(
            CORE,
            &[
                "bindings",
                "events",
                "limitranges",
                "namespaces/status",
                "pods/log",
                "pods/status",
                "resourcequotas",
                "resourcequotas/status",
            ],
            READ,
        ),
        rule(CORE, &["namespaces"], READ),
        rule("discovery.k8s.io", &["endpointslices"], READ),
        rule(APPS, &["controllerrevisions", "daemonsets", "daemonsets/status"], READ),
        rule("policy", &["poddisruptionbudgets", "poddisruptionbudgets/status"], READ),
        rule("metrics.k8s.io", &["pods", "nodes"], READ),
    ]
}

/// All ClusterRoles.
pub fn cluster_roles() -> Vec<Value> {
    let admin_part = role(
        "system:aggregate-to-admin",
        &[AGGREGATE_TO_ADMIN],
        vec![
            rule("authorization.k8s.io", &["localsubjectaccessreviews"], &["create"]),
            rule(RBAC, &["rolebindings", "roles"], &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]),
        ],
    );
    let edit_part = role("system:aggregate-to-edit", &[AGGREGATE_TO_EDIT], edit_rules());
    let view_part = role("system:aggregate-to-view", &[AGGREGATE_TO_VIEW], view_rules());
    let discovery =
        ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"];
    let public = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    let mut roles = vec![
        role("cluster-admin", &[], vec![rule("*", ALL, ALL), json!({"nonResourceURLs": ["*"], "verbs": ["*"]})]),
        aggregate("admin", &[], AGGREGATE_TO_ADMIN, &[edit_part.clone(), view_part.clone(), admin_part.clone()]),
        aggregate("edit", &[AGGREGATE_TO_ADMIN], AGGREGATE_TO_EDIT, &[edit_part.clone(), view_part.clone()]),
        aggregate("view", &[AGGREGATE_TO_EDIT], AGGREGATE_TO_VIEW, std::slice::from_ref(&view_part)),
        admin_part,
        edit_part,
        view_part,
        role("system:discovery", &[], vec![paths(&discovery)]),
        role("system:public-info-viewer", &[], vec![paths(&public)]),
        role(
            "system:basic-user",
            &[],
            vec![
                rule("authentication.k8s.io", &["selfsubjectreviews"], &["create"]),
                rule("authorization.k8s.io", &["selfsubjectaccessreviews", "selfsubjectrulesreviews"], &["create"]),
            ],
        ),
        role(
            "system:service-account-issuer-discovery",
            &[],
            vec![paths(&[
                "/.well-known/openid-configuration",
                "/.well-known/openid-configuration/",
                "/openid/v1/jwks",
                "/openid/v1/jwks/",
            ])],
        ),
        role("system:monitoring", &[], vec![paths(&["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/readyz", "/readyz/*"])]),
        role(
            "system:auth-delegator",
            &[],
            vec![
                rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
                rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
            ],
        ),
        role(
            "system:node-bootstrapper",
            &[],
            vec![rule("certificates.k8s.io", &["certificatesigningrequests"], &["create", "get", "list", "watch"])],
        ),
        role("system:node", &[], node_rules()),
        role(
            "system:node-proxier",
            &[],
            vec![
                rule(CORE, &["services", "endpoints", "nodes"], READ),
                rule("discovery.k8s.io", &["endpointslices"], READ),
                rule("networking.k8s.io", &["servicecidrs"], &["list", "watch"]),
                events(&["create", "patch", "update"]),
            ],
        ),
        role("system:kube-scheduler", &[], scheduler_rules()),
        role(
            "system:kube-controller-manager",
            &[],
            vec![
                events(&["create", "patch", "update"]),
                rule("coordination.k8s.io", &["leases"], &["create", "get", "list", "update", "watch"]),
                rule("*", ALL, READ),
                rule(CORE, &["serviceaccounts"], &["create"]),
                rule(CORE, &["serviceaccounts/token"], &["create"]),
                rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
                rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
            ],
        ),
    ];
    roles.extend(controller_roles::cluster_roles());
    roles
}

fn node_rules() -> Vec<Value> {
    vec![
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("authorization.k8s.io", &["localsubjectaccessreviews", "subjectaccessreviews"], &["create"]),
        rule(CORE, &["services"], READ),
        rule(CORE, &["nodes"], &["create", "get", "list", "watch", "patch", "update"]),
        rule(CORE, &["nodes/status"], &["patch", "update"]),
        rule(CORE, &["events"], &["create", "patch", "update"]),
        rule(CORE, &["pods"], &["create", "delete", "get", "list", "watch"]),
        rule(CORE, &["pods/status"], &["patch", "update"]),
        rule(CORE, &["pods/eviction"], &["create"]),
        rule(CORE, &["configmaps", "secrets"], READ),
        rule(CORE, &["serviceaccounts/token"], &["create"]),
        rule("certificates.k8s.io", &["certificatesigningrequests"], &["create", "get", "list", "watch"]),
        rule("coordination.k8s.io", &["leases"], &["create", "delete", "get", "patch", "update"]),
        rule("node.k8s.io", &["runtimeclasses"], READ),
    ]
}

fn scheduler_rules() -> Vec<Value> {
    vec![
        events(&["create", "patch", "update"]),
        rule("coordination.k8s.io", &["leases"], &["create", "get", "list", "update", "watch"]),
        rule(CORE, &["nodes", "namespaces", "services"], READ),
        rule(CORE, &["pods"], &["delete", "get", "list", "watch"]),
        rule(CORE, &["bindings", "pods/binding"], &["create"]),
        rule(CORE, &["pods/status"], &["patch", "update"]),
        rule("policy", &["poddisruptionbudgets"], READ),
    ]
}

pub(super) fn binding(name: &str, role: &str, kind: &str, subjects: &[&str]) -> Value {
    let subjects: Vec<Value> = subjects.iter().map(|subject| json!({"apiGroup": RBAC, "kind": kind, "name": subject})).collect();
    json!({"metadata": meta(name), "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}, "subjects": subjects})
}

/// All ClusterRoleBindings.
pub fn cluster_role_bindings() -> Vec<Value> {
    let mut bindings = vec![
        binding("cluster-admin", "cluster-admin", "Group", &["system:masters"]),
        binding("system:discovery", "system:discovery", "Group", &["system:authenticated"]),
        binding("system:basic-user", "system:basic-user", "Group", &["system:authenticated"]),
        binding("system:public-info-viewer", "system:public-info-viewer", "Group", &["system:authenticated", "system:unauthenticated"]),
        binding("system:service-account-issuer-discovery", "system:service-account-issuer-discovery", "Group", &["system:serviceaccounts"]),
        binding("system:monitoring", "system:monitoring", "Group", &["system:monitoring"]),
        binding("system:kube-scheduler", "system:kube-scheduler", "User", &["system:kube-scheduler"]),
        binding("system:kube-controller-manager", "system:kube-controller-manager", "User", &["system:kube-controller-manager"]),
        binding("system:node-proxier", "system:node-proxier", "User", &["system:kube-proxy"]),
    ];
    bindings.extend(controller_roles::bindings());
    bindings
}
