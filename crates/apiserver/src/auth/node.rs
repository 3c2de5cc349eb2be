//! Node authorization: what a node's agent may do with its own certificate.
//!
//! An agent may see what the pods of its node need (their Secrets, ConfigMaps, service accounts),
//! and write what is its own.

use serde_json::Value;

use crate::registry::Registry;
use crate::registry::encoding::parse_stored;
use crate::request::{Attributes, User, What};

const NODES_GROUP: &str = "system:nodes";
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The annotation of mirrors: pods that stand for static pods of a node.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// The node that a user is the agent of.
pub fn node_of(user: &User) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|_| user.is_in(NODES_GROUP))
}

/// May the agent of `node` do this?
pub fn allows(registry: &Registry, node: &str, attributes: &Attributes<'_>) -> bool {
    let What::Resource { group, resource, subresource, namespace, name, field_selector, .. } = attributes.what else { return false };
    let verb = attributes.verb;
    let reads = matches!(verb, "get" | "list" | "watch");
    let own = name == node;
    match (group, resource, subresource) {
        ("", "nodes", "") => match verb {
            "create" => true,
            "get" | "list" | "watch" | "update" | "patch" => own,
            _ => false,
        },
        ("", "nodes", "status") => own && matches!(verb, "update" | "patch"),
        ("", "pods", "") => match verb {
            "list" | "watch" => selects(field_selector, "spec.nodeName", node) || is_on(registry, node, namespace, name),
            "get" => is_on(registry, node, namespace, name),
            // NodeRestriction sees which pods.
            "create" | "delete" => true,
            _ => false,
        },
        ("", "pods", "status") => matches!(verb, "update" | "patch"),
        ("", "pods", "eviction") => verb == "create",
        ("", "services", "") | ("node.k8s.io", "runtimeclasses", "") => reads,
        ("", "events", "") | ("events.k8s.io", "events", "") => matches!(verb, "create" | "update" | "patch"),
        ("", "secrets" | "configmaps", "") => {
            reads && !name.is_empty() && !namespace.is_empty() && is_needed(registry, node, namespace, resource, name)
        }
        ("", "serviceaccounts", "token") => verb == "create" && is_needed(registry, node, namespace, resource, name),
        ("", "serviceaccounts", "") => verb == "get" && is_needed(registry, node, namespace, resource, name),
        ("coordination.k8s.io", "leases", "") => {
            namespace == LEASE_NAMESPACE && (verb == "create" || own && matches!(verb, "get" | "update" | "patch" | "delete"))
        }
        ("authentication.k8s.io", "tokenreviews", "") => verb == "create",
        ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "") => verb == "create",
        ("certificates.k8s.io", "certificatesigningrequests", "") => matches!(verb, "create" | "get" | "list" | "watch"),
        _ => false,
    }
}

fn selects(field_selector: &str, field: &str, value: &str) -> bool {
    field_selector.split(',').any(|term| term.split_once('=').is_some_and(|(f, v)| f == field && v.trim_start_matches('=') == value))
}

/// Is there such a pod on the node?
fn is_on(registry: &Registry, node: &str, namespace: &str, name: &str) -> bool {
    let pods = kinds::table::by_resource("", "v1", "pods").expect("the table has pods");
    let entry = registry.entry(pods, namespace, name).ok().flatten();
    !name.is_empty() && entry.is_some_and(|entry| parse_stored(&entry.value)["spec"]["nodeName"] == node)
}

/// Does a pod of the node refer to the object? Mirror pods do not count: an agent makes them
/// itself.
fn is_needed(registry: &Registry, node: &str, namespace: &str, resource: &str, name: &str) -> bool {
    let pods = kinds::table::by_resource("", "v1", "pods").expect("the table has pods");
    let snapshot = registry.caches.of(pods).snapshot(&format!("{namespace}/"), 0);
    let on_node = snapshot.objects.iter().filter(|pod| pod.field("spec.nodeName") == node);
    let is_mirror = |pod: &Value| !pod["metadata"]["annotations"][MIRROR].is_null();
    on_node.map(|pod| pod.value()).any(|pod| !is_mirror(&pod) && refers_to(&pod["spec"], resource, name))
}

fn refers_to(spec: &Value, resource: &str, name: &str) -> bool {
    match resource {
        "serviceaccounts" => spec["serviceAccountName"] == name,
        _ => is_referred_to(spec, resource, &|found| found == name),
    }
}

/// Does a pod refer to any object of the resource, `secrets` or `configmaps`?
pub fn refers_to_any(spec: &Value, resource: &str) -> bool {
    is_referred_to(spec, resource, &|_| true)
}

fn is_referred_to(spec: &Value, resource: &str, is_meant: &dyn Fn(&Value) -> bool) -> bool {
    match resource {
        "secrets" => {
            spec["imagePullSecrets"].as_array().into_iter().flatten().any(|secret| is_meant(&secret["name"]))
                || ["secretRef", "secretKeyRef", "nodePublishSecretRef"].iter().any(|key| mentions(spec, key, "name", is_meant))
                || mentions(&spec["volumes"], "secret", "secretName", is_meant)
                || mentions(&spec["volumes"], "azureFile", "secretName", is_meant)
                || mentions(&spec["volumes"], "secret", "name", is_meant)
        }
        _ => ["configMap", "configMapRef", "configMapKeyRef"].iter().any(|key| mentions(spec, key, "name", is_meant)),
    }
}

/// Is there a `key: {field: VALUE}` anywhere in the tree?
fn mentions(tree: &Value, key: &str, field: &str, is_meant: &dyn Fn(&Value) -> bool) -> bool {
    match tree {
        Value::Object(fields) => {
            fields.iter().any(|(k, v)| k == key && v[field].is_string() && is_meant(&v[field]) || mentions(v, key, field, is_meant))
        }
        Value::Array(items) => items.iter().any(|item| mentions(item, key, field, is_meant)),
        _ => false,
    }
}
