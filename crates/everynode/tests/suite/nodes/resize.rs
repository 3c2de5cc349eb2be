//! Pods that get other resources while they run: in the kernel, in their status, in events.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::Cluster;
use crate::support::cluster::{container, groups_below, pod};

/// So many processors no node has.
const NEVER: &str = "100k";

#[test]
fn running_pods_are_resized() {
    let Some(cluster) = Cluster::start_or_skip("resize", 0) else { return };
    let mut steady = pod("steady", "exec sleep 44000");
    steady["spec"]["containers"][0]["resources"] = resources("100m", "64Mi");
    let mut anew = pod("anew", "exec sleep 44000");
    anew["spec"]["containers"][0]["resources"] = resources("100m", "64Mi");
    anew["spec"]["containers"][0]["resizePolicy"] = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    for pod in [&steady, &anew] {
        cluster.create_pod(pod);
    }
    let before = cluster.wait_ready("steady");
    cluster.wait_ready("anew");
    goes_on_running(&cluster, &before);
    is_made_anew(&cluster);
    is_refused_and_keeps_what_it_has(&cluster);
    outlives_the_agent(&cluster);
}

fn resources(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
}

fn resize(cluster: &Cluster, name: &str, resources: &Value) {
    let patch = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}).to_string();
    cluster.kubectl().args(&["patch", "pod", name, "--subresource", "resize", "--patch", &patch]);
}

/// Whether the status says that the container has that, and nothing is under way any more.
fn has(pod: &Value, resources: &Value) -> bool {
    let status = container(pod);
    let is_settled = ["PodResizePending", "PodResizeInProgress"].iter().all(|kind| !has_condition(pod, kind));
    is_settled && status["resources"] == *resources && status["allocatedResources"] == resources["requests"]
}

fn has_condition(pod: &Value, kind: &str) -> bool {
    pod["status"]["conditions"].as_array().into_iter().flatten().any(|condition| condition["type"] == kind)
}

fn goes_on_running(cluster: &Cluster, before: &Value) {
    for wanted in [resources("200m", "128Mi"), resources("50m", "32Mi")] {
        resize(cluster, "steady", &wanted);
        let now = cluster.wait_pod("steady", "resized", |pod| has(pod, &wanted));
        assert_eq!(container(&now)["containerID"], container(before)["containerID"], "it is the same container");
        assert_eq!(now["status"]["observedGeneration"], now["metadata"]["generation"]);
        let memory = wanted["limits"]["memory"].as_str().and_then(|text| text.strip_suffix("Mi")).and_then(|text| text.parse::<u64>().ok());
        // Of the container and of its pod.
        assert_eq!(memory_limits(cluster, uid(&now)), vec![memory.expect("it is a number") << 20; 2]);
    }
    let told = |what: &str| cluster.events("steady").iter().any(|event| event.starts_with(what));
    cluster.wait_pod("steady", "reported", |_| {
        told("ResizeStarted: Pod resize started: {") && told("ResizeCompleted: Pod resize completed: {")
    });
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().expect("pods have uids")
}

/// Of the groups of the pod and of what is in it that have a limit.
fn memory_limits(cluster: &Cluster, uid: &str) -> Vec<u64> {
    let groups = groups_below(&cluster.group(&cluster.control_plane()));
    let groups = groups.iter().filter(|group| group.to_string_lossy().contains(uid));
    let files = groups.flat_map(|group| ["memory.limit_in_bytes", "memory.max"].map(|name| group.join(name)));
    let limit = |file: PathBuf| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    files.filter_map(limit).filter(|limit| *limit < 1 << 40).collect()
}

fn is_made_anew(cluster: &Cluster) {
    let wanted = resources("150m", "64Mi");
    resize(cluster, "anew", &wanted);
    let now = cluster.wait_pod("anew", "resized", |pod| has(pod, &wanted));
    assert_eq!(container(&now)["restartCount"], 0, "the processor's share needs no restart");
    let wanted = resources("150m", "96Mi");
    resize(cluster, "anew", &wanted);
    let now = cluster.wait_pod("anew", "made anew", |pod| has(pod, &wanted) && container(pod)["restartCount"] == 1);
    assert_eq!(memory_limits(cluster, uid(&now)), vec![96 << 20; 2], "the pod's limit grew, too");
}

fn is_refused_and_keeps_what_it_has(cluster: &Cluster) {
    let (has_now, wants) = (resources("50m", "32Mi"), resources(NEVER, "32Mi"));
    resize(cluster, "steady", &wants);
    let refused = cluster.wait_pod("steady", "refused", |pod| has_condition(pod, "PodResizePending"));
    let conditions = refused["status"]["conditions"].as_array().into_iter().flatten();
    let told = conditions.into_iter().find(|condition| condition["type"] == "PodResizePending").expect("it was there");
    let message = told["message"].as_str().unwrap_or_default();
    assert_eq!((&told["status"], &told["reason"]), (&json!("True"), &json!("Infeasible")));
    assert!(message.starts_with("Node didn't have enough capacity: cpu, requested: 100000000, capacity: "), "{message}");
    assert_eq!((&container(&refused)["resources"], &refused["spec"]["containers"][0]["resources"]), (&has_now, &wants));
    resize(cluster, "steady", &has_now);
    cluster.wait_pod("steady", "settled", |pod| has(pod, &has_now));
}

/// Another agent finds what the pod was given, and does not give what was refused.
fn outlives_the_agent(cluster: &Cluster) {
    let has_now = resources("50m", "32Mi");
    resize(cluster, "steady", &resources(NEVER, "32Mi"));
    let before = cluster.wait_pod("steady", "refused", |pod| has_condition(pod, "PodResizePending"));
    cluster.kill_agent(&cluster.control_plane());
    let wanted = resources("60m", "32Mi");
    resize(cluster, "steady", &wanted);
    let now = cluster.wait_pod("steady", "resized by the next agent", |pod| has(pod, &wanted));
    assert_eq!(container(&now)["containerID"], container(&before)["containerID"]);
    assert_ne!(has_now, wanted);
}
