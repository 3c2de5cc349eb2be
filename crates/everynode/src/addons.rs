//! The built-in DaemonSets of `kube-system`, as manifests.
//!
//! `everynode up` applies them to clusters with real nodes. Their pods run this program from the
//! built-in image. The version in the template makes an upgrade of everynode a rolling update of
//! them.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::builtin;

const NAMESPACE: &str = "kube-system";
const VERSION: &str = "everynode.dev/version";
const LABEL: &str = "k8s-app";

/// What the manifests depend on.
#[derive(Debug)]
pub struct Site {
    /// Where nodes reach the API server.
    pub server: SocketAddr,
    /// The pods of all nodes.
    pub cluster_cidr: String,
}

/// All objects, in the order in which they are applied.
pub fn manifests(site: &Site) -> Vec<Value> {
    kube_proxy(site)
}

fn kube_proxy(site: &Site) -> Vec<Value> {
    const NAME: &str = "kube-proxy";
    const HEALTH_PORT: u16 = 10256;
    let probe = json!({"httpGet": {"path": "/healthz", "port": HEALTH_PORT}, "periodSeconds": 2});
    let arguments = [format!("--server=https://{}", site.server), format!("--cluster-cidr={}", site.cluster_cidr)];
    let container = json!({
        "name": NAME,
        "image": builtin::IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": [NAME],
        "args": arguments,
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "resources": {"requests": {"cpu": "10m", "memory": "20Mi"}},
        "readinessProbe": probe,
        // Rules change in the node's own network, and nothing else of the node.
        "securityContext": {
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}, "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true, "seccompProfile": {"type": "RuntimeDefault"},
        },
    });
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(NAME)}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "everynode:node-proxier"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
        }),
        daemon_set(NAME, container),
    ]
}

fn meta(name: &str) -> Value {
    json!({"name": name, "namespace": NAMESPACE, "labels": {LABEL: name}})
}

/// On every node, whatever its taints, in the node's own network.
fn daemon_set(name: &str, container: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": meta(name),
        "spec": {
            "selector": {"matchLabels": {LABEL: name}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
            "template": {
                "metadata": {"labels": {LABEL: name}, "annotations": {VERSION: env!("CARGO_PKG_VERSION")}},
                "spec": {
                    "serviceAccountName": name,
                    "hostNetwork": true,
                    "priorityClassName": "system-node-critical",
                    "tolerations": [{"operator": "Exists"}],
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "terminationGracePeriodSeconds": 5,
                    "containers": [container],
                },
            },
        },
    })
}
