//! Node authorization: what a node's agent may do with its own certificate.
//!
//! An agent may see what the pods of its node need (their Secrets, ConfigMaps, service accounts), and write what is its own.

use serde_json::Value;

use super::User;
use super::authorize::{Attributes, What};
use crate::registry::Registry;

const NODES_GROUP: &str = "system:nodes";
const LEASE_NAMESPACE: &str = "kube-node-lease";

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
            "get" | "update" | "patch" => own,
            "list" | "watch" => selects(field_selector, "metadata.name", node),
            _ => false,
        },
        ("", "nodes", "status") => own && matches!(verb, "get" | "update" | "patch"),
        ("", "pods", "") => match verb {
            "list" | "watch" => selects(field_selector, "spec.nodeName", node),
            "get" => true,
            "create" | "delete" => true,
            _ => false,
        },
        ("", "pods", "status") => matches!(verb, "update" | "patch"),
        ("", "pods", "eviction") => verb == "create",
        ("", "services", "") | ("node.k8s.io", "runtimeclasses", "") => reads,
        ("", "events", "") | ("events.k8s.io", "events", "") => matches!(verb, "create" | "update" | "patch"),
        ("", "secrets" | "configmaps", "") => reads && !name.is_empty() && is_needed(registry, node, namespace, resource, name),
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

/// Does a pod of the node refer to the object?
fn is_needed(registry: &Registry, node: &str, namespace: &str, resource: &str, name: &str) -> bool {
    let pods = kinds::table::by_resource("", "v1", "pods").expect("the table has pods");
    let snapshot = registry.caches.of(pods).snapshot(&format!("{namespace}/"), 0);
    let on_node = snapshot.objects.iter().filter(|pod| pod.field("spec.nodeName") == node);
    on_node.map(|pod| pod.value()).any(|pod| refers_to(&pod, resource, name))
}

fn refers_to(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    match resource {
        "serviceaccounts" => spec["serviceAccountName"] == name,
        "secrets" => {
            spec["imagePullSecrets"].as_array().into_iter().flatten().any(|secret| secret["name"] == name)
                || mentions(&spec["volumes"], "secret", "secretName", name)
                || mentions(spec, "secretRef", "name", name)
                || mentions(spec, "secretKeyRef", "name", name)
                || mentions(&spec["volumes"], "secret", "name", name)
        }
        _ => ["configMap", "configMapRef", "configMapKeyRef"].iter().any(|key| mentions(spec, key, "name", name)),
    }
}

/// Is there a `key: {field: name}` anywhere in the tree?
fn mentions(tree: &Value, key: &str, field: &str, name: &str) -> bool {
    match tree {
        Value::Object(fields) => fields.iter().any(|(k, v)| k == key && v[field] == name || mentions(v, key, field, name)),
        Value::Array(items) => items.iter().any(|item| mentions(item, key, field, name)),
        _ => false,
    }
}
