//! Roles of the controllers, `system:controller:NAME`, bound to the service account NAME of
//! kube-system.
//!
//! The controllers of this server do not need them: they act as the server. A controller that runs
//! outside it needs its role. After `bootstrappolicy/controller_policy.go`, for the controllers
//! that exist here and the resources that are served.

use serde_json::{Value, json};

use super::default_roles::{APPS, CORE, RBAC, READ, binding, events, role, rule};

const PREFIX: &str = "system:controller:";

const DISCOVERY: &str = "discovery.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const POLICY: &str = "policy";
const ANY: &[&str] = &["*"];

/// Name and rules of each.
fn controllers() -> Vec<(&'static str, Vec<Value>)> {
    let report = || events(&["create", "patch", "update"]);
    let keep = &["create", "delete", "get", "list", "update", "watch"];
    vec![
        (
            "clusterrole-aggregation-controller",
            vec![rule(RBAC, &["clusterroles"], &["escalate", "get", "list", "patch", "update", "watch"])],
        ),
        ("daemon-set-controller", daemon_set_rules()),
        (
            "disruption-controller",
            vec![
                rule(POLICY, &["poddisruptionbudgets"], READ),
                rule(POLICY, &["poddisruptionbudgets/status"], &["update"]),
                rule(CORE, &["pods/status"], &["patch", "update"]),
                rule("*", &["*/scale"], &["get"]),
                report(),
            ],
        ),
        (
            "endpoint-controller",
            vec![
                rule(CORE, &["pods", "services"], READ),
                rule(CORE, &["endpoints"], keep),
                rule(CORE, &["endpoints/restricted"], &["create"]),
                report(),
            ],
        ),
        (
            "endpointslice-controller",
            vec![
                rule(CORE, &["nodes", "pods", "services"], READ),
                rule(CORE, &["services/finalizers"], &["update"]),
                rule(DISCOVERY, &["endpointslices"], keep),
                report(),
            ],
        ),
        (
            "endpointslicemirroring-controller",
            vec![
                rule(CORE, &["endpoints", "services"], READ),
                rule(CORE, &["services/finalizers"], &["update"]),
                rule(CORE, &["endpoints/finalizers"], &["update"]),
                rule(DISCOVERY, &["endpointslices"], keep),
                report(),
            ],
        ),
        ("generic-garbage-collector", vec![rule("*", ANY, &["delete", "get", "list", "patch", "update", "watch"]), report()]),
        (
            "namespace-controller",
            vec![
                rule(CORE, &["namespaces"], &["delete", "get", "list", "watch"]),
                rule(CORE, &["namespaces/finalize", "namespaces/status"], &["update"]),
                rule("*", ANY, &["delete", "deletecollection", "get", "list", "watch"]),
            ],
        ),
        (
            "node-controller",
            vec![
                rule(CORE, &["nodes"], &["delete", "get", "list", "patch", "update", "watch"]),
                rule(CORE, &["nodes/status"], &["patch", "update"]),
                rule(CORE, &["pods/status"], &["patch", "update"]),
                rule(CORE, &["pods"], &["delete", "get", "list", "watch"]),
                report(),
            ],
        ),
        (
            "pod-garbage-collector",
            vec![
                rule(CORE, &["pods"], &["delete", "list", "watch"]),
                rule(CORE, &["nodes"], READ),
                rule(CORE, &["pods/status"], &["patch"]),
            ],
        ),
        (
            "resourcequota-controller",
            vec![rule("*", ANY, &["list", "watch"]), rule(CORE, &["resourcequotas/status"], &["update"]), report()],
        ),
        ("root-ca-cert-publisher", vec![rule(CORE, &["configmaps"], &["create", "update"]), report()]),
        ("service-account-controller", vec![rule(CORE, &["serviceaccounts"], &["create"]), report()]),
        (
            "service-cidrs-controller",
            vec![
                rule(NETWORKING, &["servicecidrs"], &["get", "list", "patch", "update", "watch"]),
                rule(NETWORKING, &["servicecidrs/finalizers", "servicecidrs/status"], &["patch", "update"]),
                rule(NETWORKING, &["ipaddresses"], READ),
                report(),
            ],
        ),
        ("ttl-controller", vec![rule(CORE, &["nodes"], &["list", "patch", "update", "watch"]), report()]),
    ]
}

/// Ours patches, where Kubernetes' updates.
fn daemon_set_rules() -> Vec<Value> {
    vec![
        rule(APPS, &["daemonsets"], READ),
        rule(APPS, &["daemonsets/status"], &["update", "patch"]),
        rule(APPS, &["daemonsets/finalizers"], &["update"]),
        rule(CORE, &["nodes"], &["list", "watch"]),
        rule(CORE, &["pods"], &["create", "delete", "list", "patch", "watch", "get"]),
        rule(CORE, &["pods/binding"], &["create"]),
        rule(APPS, &["controllerrevisions"], &["create", "delete", "get", "list", "patch", "update", "watch"]),
        events(&["create", "patch", "update"]),
    ]
}

pub fn cluster_roles() -> Vec<Value> {
    controllers().into_iter().map(|(name, rules)| role(&format!("{PREFIX}{name}"), &[], rules)).collect()
}

pub fn bindings() -> Vec<Value> {
    let bound = |(name, _): (&str, Vec<Value>)| {
        let role = format!("{PREFIX}{name}");
        let mut binding = binding(&role, &role, "ServiceAccount", &[]);
        binding["subjects"] = json!([{"kind": "ServiceAccount", "name": name, "namespace": "kube-system"}]);
        binding
    };
    controllers().into_iter().map(bound).collect()
}
