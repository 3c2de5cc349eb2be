//! Pods that lived leave nothing: what a node has is counted before and after many lives.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::Cluster;
use crate::support::cluster::{LONG, PODS, command_line, groups_below, is_ready, pod, read_json, wait_long};

/// EVERYNODE_POD_LIVES asks for more.
const LIVES: usize = 150;

/// At the same time.
const BATCH: usize = 25;

/// The agent's sockets and the like come and go by a few.
const DESCRIPTORS_MAX: usize = 10;

#[test]
fn pods_that_lived_leave_nothing() {
    let Some(cluster) = Cluster::start_or_skip("leaks", 0) else { return };
    let lives = std::env::var("EVERYNODE_POD_LIVES").ok().and_then(|text| text.parse().ok()).unwrap_or(LIVES);
    let secret = json!({"metadata": {"name": "secret"}, "stringData": {"key": "value"}});
    cluster.api().create("/api/v1/namespaces/default/secrets", &secret);
    // What is made for the first pods and kept (caches, folders, the unpacked image) is no leak.
    live(&cluster, "first", BATCH);
    let node = cluster.control_plane();
    let agent = cluster.agent(&node);
    let (before, open_before) = (count(&cluster, &node), descriptors(agent));
    for batch in 0..lives.div_ceil(BATCH) {
        live(&cluster, &format!("b{batch}"), BATCH);
    }
    // Removing is not over when the pod is gone from the API: the last pieces go a moment later.
    let deadline = Instant::now() + LONG;
    let mut left = surplus(&before, &count(&cluster, &node));
    while !left.is_empty() {
        assert!(Instant::now() < deadline, "{lives} lives left behind: {left:#?}");
        std::thread::sleep(Duration::from_millis(200));
        left = surplus(&before, &count(&cluster, &node));
    }
    assert_eq!(cluster.agent(&node), agent, "the agent went on");
    // Idle connections and the folders of the last removals are closed a moment later, too.
    let mut open = descriptors(agent);
    while open.len() > open_before.len() + DESCRIPTORS_MAX {
        assert!(Instant::now() < deadline, "{lives} lives left the agent with {open:#?}, it had {open_before:#?}");
        std::thread::sleep(Duration::from_millis(200));
        open = descriptors(agent);
    }
}

/// Pods of three kinds, created and deleted: one that runs, one that ends, one with volumes, a
/// sidecar and a probe.
fn live(cluster: &Cluster, prefix: &str, pods: usize) {
    let names: Vec<String> = (0..pods).map(|at| format!("{prefix}-{at}")).collect();
    for (at, name) in names.iter().enumerate() {
        let mut pod = pod(name, if at % 3 == 1 { "echo done" } else { "exec sleep 44000" });
        if at % 3 == 1 {
            pod["spec"]["restartPolicy"] = "Never".into();
        }
        if at % 3 == 2 {
            pod["spec"]["volumes"] = json!([
                {"name": "memory", "emptyDir": {"medium": "Memory"}}, {"name": "disk", "emptyDir": {}},
                {"name": "secret", "secret": {"secretName": "secret"}},
            ]);
            pod["spec"]["containers"][0]["volumeMounts"] = json!([
                {"name": "memory", "mountPath": "/m"}, {"name": "disk", "mountPath": "/d"}, {"name": "secret", "mountPath": "/s/key", "subPath": "key"},
            ]);
            pod["spec"]["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
            pod["spec"]["initContainers"] =
                json!([{"name": "beside", "image": "busybox:test", "command": ["sleep", "44001"], "restartPolicy": "Always"}]);
        }
        cluster.create_pod(&pod);
    }
    let is_done = |pod: &serde_json::Value| is_ready(pod) || pod["status"]["phase"] == "Succeeded";
    wait_long("all pods of a batch", || (cluster.pods().iter().filter(|pod| is_done(pod)).count() == pods).then_some(()));
    assert_eq!(cluster.api().delete(PODS).code, 200);
    wait_long("the end of a batch", || cluster.pods().is_empty().then_some(()));
}

/// What a node has of everything, by name. Lists and not numbers: a failure names what is left.
pub fn count(cluster: &Cluster, node: &str) -> BTreeMap<&'static str, Vec<String>> {
    let dir = cluster.node_dir(node);
    let keeper = format!("/proc/{}", cluster.keeper(node));
    let mounts = std::fs::read_to_string(format!("{keeper}/mounts")).expect("the node runs");
    let mounts = mounts.lines().filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect();
    let groups = groups_below(&cluster.group(node)).iter().map(|path| path.display().to_string()).collect();
    let processes = cluster.processes(node).into_iter().map(command_line).collect();
    let links = std::fs::read_dir(format!("{keeper}/root/sys/class/net")).into_iter().flatten().flatten();
    let links = links.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let state = PathBuf::from(format!("{keeper}/root/run/everynode"));
    let mut all = BTreeMap::from([
        ("processes", processes),
        ("mounts", mounts),
        ("control groups", groups),
        ("network devices", links),
        ("addresses", addresses(&state)),
        ("sandboxes", entries(&state.join("sandboxes"))),
        ("containers", entries(&state.join("containers"))),
        ("files of the runtime", entries(&dir.join("lib/everynode/containers/containers"))),
        ("files of sandboxes", entries(&dir.join("lib/everynode/containers/sandboxes"))),
        ("files of pods", entries(&dir.join("lib/kubelet/pods"))),
        ("logs of pods", entries(&dir.join("log/pods"))),
        ("links to logs", entries(&dir.join("log/containers"))),
    ]);
    all.values_mut().for_each(|list: &mut Vec<String>| list.sort());
    all
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Sandboxes that have pod addresses.
fn addresses(state: &Path) -> Vec<String> {
    let given = read_json(&state.join("network.json"))["sandboxes"].clone();
    given.as_object().map(|given| given.keys().cloned().collect()).unwrap_or_default()
}

/// What the process has open: files by their paths, sockets by their kind.
fn descriptors(pid: i32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut open: Vec<String> = entries.filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.display().to_string())).collect();
    open.sort();
    open
}

/// What there is now that there was not before.
pub fn surplus(before: &BTreeMap<&str, Vec<String>>, after: &BTreeMap<&str, Vec<String>>) -> Vec<String> {
    let mut found = Vec::new();
    for (what, now) in after {
        let mut known = before[what].clone();
        for one in now {
            match known.iter().position(|other| other == one) {
                Some(at) => drop(known.swap_remove(at)),
                None => found.push(format!("{what}: {one}")),
            }
        }
    }
    found
}
