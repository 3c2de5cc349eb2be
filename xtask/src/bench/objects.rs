//! The objects that are written: pods like those of a node agent, with all that people put into
//! them.

use serde_json::{Value, json};

/// One pod in so many carries the label that the selector asks for.
pub const SELECTED_ONE_IN: usize = 10;

const TAINTS: &[&str] = &["not-ready", "unreachable", "disk-pressure", "memory-pressure", "pid-pressure", "unschedulable"];

/// A pod; defaults and managed fields make it about 6 KB in the store.
pub fn pod(number: usize) -> Value {
    let canary = if number.is_multiple_of(SELECTED_ONE_IN) { "yes" } else { "no" };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("node-agent-{number:06}"),
            "labels": {"app.kubernetes.io/name": "node-agent", "controller-revision-hash": "5d8f7c6b9d", "pod-template-generation": "1", "canary": canary},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9100"},
        },
        "spec": {
            "nodeName": format!("node-{number:06}"),
            "containers": [container("agent", 9100), container("relay", 9101)],
            "volumes": [
                {"name": "proc", "hostPath": {"path": "/proc", "type": "Directory"}},
                {"name": "state", "emptyDir": {}},
                {"name": "config", "configMap": {"name": "node-agent"}},
            ],
            "tolerations": TAINTS.iter().map(toleration).collect::<Vec<Value>>(),
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [format!("node-{number:06}")]}]},
            ]}}},
        },
    })
}

/// A Service as people write it.
pub fn service(number: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": format!("web-{number:06}"), "labels": {"app.kubernetes.io/name": "web"}},
        "spec": {"selector": {"app.kubernetes.io/name": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    })
}

fn toleration(taint: &&str) -> Value {
    json!({"key": format!("node.kubernetes.io/{taint}"), "operator": "Exists", "effect": "NoExecute"})
}

fn container(name: &str, port: u16) -> Value {
    json!({
        "name": name,
        "image": format!("registry.example.com/platform/node-{name}:1.42.0"),
        "args": ["--log-level=info", format!("--listen=0.0.0.0:{port}")],
        "env": [
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "ports": [{"name": name, "containerPort": port}],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": name}, "periodSeconds": 10},
        "volumeMounts": [{"name": "proc", "mountPath": "/host/proc", "readOnly": true}, {"name": "state", "mountPath": "/var/lib/agent"}],
    })
}

/// What a node reports about a pod that runs. `round` makes each patch a change.
pub fn pod_status(round: usize) -> Value {
    json!({"status": {
        "phase": "Running",
        "podIP": format!("10.{}.{}.{}", round >> 16 & 255, round >> 8 & 255, round & 255),
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"}],
    }})
}

/// A change for watchers to see; the name carries its number.
pub fn change(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("change-{number:06}")}, "data": {"settings": "x".repeat(256)}})
}

/// The number in the name of a change, if these bytes hold one.
pub fn change_number(event: &[u8]) -> Option<usize> {
    const MARK: &[u8] = b"\"name\":\"change-";
    const DIGITS: usize = 6;
    let at = event.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    std::str::from_utf8(event.get(at..at + DIGITS)?).ok()?.parse().ok()
}
