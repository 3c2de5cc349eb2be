//! The objects that simulated nodes write: nodes, leases, statuses.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Container, Node, Pod};
use serde_json::{Value, from_value, json};

const POD_CIDR_NODES_MAX: usize = 256 * 256;

/// What a simulated machine has.
fn capacity() -> Value {
    json!({"cpu": "4", "memory": "8Gi", "ephemeral-storage": "100Gi", "pods": "110"})
}

fn address(at: usize) -> String {
    let at = at % POD_CIDR_NODES_MAX;
    format!("172.20.{}.{}", at / 256, at % 256)
}

pub fn node(at: usize, name: &str) -> Node {
    let at_cidr = at % POD_CIDR_NODES_MAX;
    let cidr = format!("10.{}.{}.0/24", 128 + at_cidr / 256 % 128, at_cidr % 256);
    from_value(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
            "everynode.dev/simulated": "true",
        }},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr], "providerID": format!("everynode://simulated/{name}")},
    }))
    .expect("the object above is a Node")
}

/// A strategic merge patch.
pub fn node_status(at: usize, name: &str, now: Timestamp) -> Value {
    let now = time(now);
    let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": now, "lastTransitionTime": now});
    json!({"status": {
        "capacity": capacity(),
        "allocatable": capacity(),
        "addresses": [{"type": "InternalIP", "address": address(at)}, {"type": "Hostname", "address": name}],
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
        "nodeInfo": {
            "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "simulated", "osImage": "everynode simulated node",
            "containerRuntimeVersion": concat!("everynode-simulated://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": "v1.36.0", "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64",
        },
    }})
}

pub fn lease(name: &str, now: Timestamp) -> Lease {
    from_value(json!({
        "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": micro_time(now)},
    }))
    .expect("the object above is a Lease")
}

/// A strategic merge patch that reports the containers of a pod.
pub fn pod_status(pod: &Pod, running: Result<(), String>, ready: bool, now: Timestamp) -> Value {
    let now = time(now);
    let flag = |on: bool| if on { "True" } else { "False" };
    let condition = |kind: &str, on: bool| json!({"type": kind, "status": flag(on), "lastProbeTime": null, "lastTransitionTime": now});
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let statuses: Vec<Value> = containers.iter().map(|container| container_status(pod, container, &running, ready, &now)).collect();
    let node_at = pod.metadata.uid.as_deref().unwrap_or_default().bytes().fold(0usize, |sum, byte| (sum * 31 + usize::from(byte)) % 65_000);
    let pod_ip = format!("10.{}.{}.{}", 128 + node_at % 128, node_at / 256, 1 + node_at % 254);
    json!({"status": {
        "phase": if running.is_ok() { "Running" } else { "Pending" },
        "startTime": now,
        "hostIP": address(0),
        "hostIPs": [{"ip": address(0)}],
        "podIP": pod_ip,
        "podIPs": [{"ip": pod_ip}],
        "conditions": [
            condition("PodReadyToStartContainers", running.is_ok()),
            condition("Initialized", true),
            condition("Ready", ready),
            condition("ContainersReady", ready),
        ],
        "containerStatuses": statuses,
    }})
}

fn container_status(pod: &Pod, container: &Container, running: &Result<(), String>, ready: bool, now: &str) -> Value {
    let image = container.image.clone().unwrap_or_default();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let state = match running {
        Ok(()) => json!({"running": {"startedAt": now}}),
        Err(reason) => json!({"waiting": {"reason": reason, "message": format!("simulated: {reason}")}}),
    };
    json!({
        "name": container.name, "image": image, "imageID": image, "ready": ready, "restartCount": 0, "started": running.is_ok(),
        "containerID": if running.is_ok() { format!("everynode-simulated://{uid}/{}", container.name) } else { String::new() },
        "state": state,
    })
}

fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Times of leases have microseconds.
pub fn micro_time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
