//! The objects that simulated nodes write: nodes, leases, statuses.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::behaviour::{Report, Running};
use super::pod::{Container, SimulatedPod};

const POD_CIDR_NODES_MAX: usize = 256 * 256;

/// What a simulated machine has.
fn capacity() -> Value {
    json!({"cpu": "4", "memory": "8Gi", "ephemeral-storage": "100Gi", "pods": "110"})
}

fn address(at: usize) -> String {
    let at = at % POD_CIDR_NODES_MAX;
    format!("172.20.{}.{}", at / 256, at % 256)
}

/// A node with its status: it is Ready from the start.
pub fn node(at: usize, name: &str, now: Timestamp) -> Value {
    let at_cidr = at % POD_CIDR_NODES_MAX;
    let cidr = format!("10.{}.{}.0/24", 128 + at_cidr / 256 % 128, at_cidr % 256);
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
            super::SIMULATED: "true",
        }},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr], "providerID": format!("everynode://simulated/{name}")},
        "status": node_status(at, name, now)["status"],
    })
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

/// The promise to renew four times as often as the lease lasts.
pub fn lease(name: &str, period: Duration, now: Timestamp) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 4 * period.as_secs(), "renewTime": micro_time(now)},
    })
}

/// A strategic merge patch that reports the containers of a pod.
pub fn pod_status(pod: &SimulatedPod, report: &Report, now: Timestamp) -> Value {
    let now = time(now);
    let flag = |on: bool| if on { "True" } else { "False" };
    let condition = |kind: &str, on: bool| json!({"type": kind, "status": flag(on), "lastProbeTime": null, "lastTransitionTime": now});
    let started = !matches!(report.running, Running::Waits(_));
    let phase = match report.running {
        Running::Runs => "Running",
        Running::Waits(_) => "Pending",
        Running::Ended(phase) => phase,
    };
    let statuses: Vec<Value> = pod.spec.containers.iter().map(|container| container_status(pod, container, report, &now)).collect();
    let host = pod.spec.node_name.bytes().fold(0usize, |sum, byte| (sum * 31 + usize::from(byte)) % POD_CIDR_NODES_MAX);
    let mine = pod.uid().bytes().fold(0usize, |sum, byte| (sum * 31 + usize::from(byte)) % 65_000);
    let pod_ip = format!("10.{}.{}.{}", 128 + mine % 128, mine / 256, 1 + mine % 254);
    json!({"status": {
        "phase": phase,
        "startTime": now,
        "hostIP": address(host),
        "hostIPs": [{"ip": address(host)}],
        "podIP": pod_ip,
        "podIPs": [{"ip": pod_ip}],
        "conditions": [
            condition("PodReadyToStartContainers", started),
            condition("Initialized", true),
            condition("Ready", report.ready),
            condition("ContainersReady", report.ready),
        ],
        "containerStatuses": statuses,
    }})
}

fn container_status(pod: &SimulatedPod, container: &Container, report: &Report, now: &str) -> Value {
    let id = format!("everynode-simulated://{}/{}", pod.uid(), container.name);
    let (state, id) = match &report.running {
        Running::Runs => (json!({"running": {"startedAt": now}}), id),
        Running::Waits(reason) => (json!({"waiting": {"reason": reason, "message": format!("simulated: {reason}")}}), String::new()),
        Running::Ended(phase) => {
            let (code, reason) = if *phase == "Succeeded" { (0, "Completed") } else { (1, "Error") };
            let ended = json!({"exitCode": code, "reason": reason, "startedAt": now, "finishedAt": now, "containerID": id});
            (json!({"terminated": ended}), id)
        }
    };
    json!({
        "name": container.name, "image": container.image, "imageID": container.image, "ready": report.ready, "restartCount": 0,
        "started": report.running == Running::Runs, "containerID": id, "state": state,
    })
}

fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Times of leases have microseconds.
pub fn micro_time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
