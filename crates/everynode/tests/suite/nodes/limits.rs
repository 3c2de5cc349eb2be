//! What a container may use, and what happens when it takes more; and how the status reports
//! containers' ends.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::Cluster;
use crate::support::cluster::{container, groups_below, pod, wait_long};

/// So many of the kernel's periods of 100 ms that parts of one do not matter.
const PERIODS: u64 = 30;

#[test]
fn limits_hold_and_ends_are_told() {
    let Some(cluster) = Cluster::start_or_skip("limits", 0) else { return };
    create_ends(&cluster);
    create_memory(&cluster);
    create_processor(&cluster);
    create_storage(&cluster);
    check_ends(&cluster);
    check_memory(&cluster);
    check_processor(&cluster);
    check_storage(&cluster);
}

/// Name, script, and how the container is said to have ended.
const ENDS: [(&str, &str, i64, &str); 5] = [
    ("exit-0", "exit 0", 0, "Completed"),
    ("exit-3", "exit 3", 3, "Error"),
    ("exit-255", "exit 255", 255, "Error"),
    ("signal-usr1", "sh -c 'kill -USR1 $$$$'; exit $?", 138, "Error"),
    ("signal-kill", "sleep 1000 & kill -KILL $!; wait $!; exit $?", 137, "Error"),
];

fn create_ends(cluster: &Cluster) {
    for (name, script, ..) in ENDS {
        let mut pod = pod(name, script);
        pod["spec"]["restartPolicy"] = "Never".into();
        cluster.create_pod(&pod);
    }
    // The main process itself, ended from inside its pod by one that sees it.
    let mut killed = pod("killed", "exec sleep 1000");
    killed["spec"]["restartPolicy"] = "Never".into();
    cluster.create_pod(&killed);
}

fn check_ends(cluster: &Cluster) {
    for (name, _, code, reason) in ENDS {
        let pod = cluster.wait_pod(name, "ended", has_ended);
        let end = &container(&pod)["state"]["terminated"];
        assert_eq!((&end["exitCode"], &end["reason"]), (&json!(code), &json!(reason)), "{name}: {end}");
    }
    let running = cluster.wait_pod("killed", "running", |pod| container(pod)["state"]["running"].is_object());
    let id = bare_id(&running);
    let pids = cluster.processes_with(&cluster.control_plane(), "sleep 1000");
    let pid = pids.into_iter().find(|&pid| cgroup_of(pid).contains(&id)).expect("the container's process is there");
    cluster.kill(pid);
    let pod = cluster.wait_pod("killed", "ended", has_ended);
    let end = &container(&pod)["state"]["terminated"];
    assert_eq!((&end["exitCode"], &end["reason"]), (&json!(137), &json!("Error")), "{end}");
    assert_eq!(pod["status"]["phase"], "Failed");
}

/// One container takes more memory than it may, the other one does not notice.
fn create_memory(cluster: &Cluster) {
    let mut pod = pod("hog", "sleep 1; tail /dev/zero");
    pod["spec"]["restartPolicy"] = "Never".into();
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "24Mi"}});
    let neighbour = json!({
        "name": "neighbour", "image": "busybox:test", "command": ["sh", "-c", "exec sleep 1000"], "resources": {"limits": {"memory": "24Mi"}},
    });
    pod["spec"]["containers"].as_array_mut().expect("it is a list").push(neighbour);
    cluster.create_pod(&pod);
}

fn check_memory(cluster: &Cluster) {
    let pod = cluster.wait_pod("hog", "half ended", |pod| container(pod)["state"]["terminated"].is_object());
    let end = &container(&pod)["state"]["terminated"];
    assert_eq!((&end["exitCode"], &end["reason"]), (&json!(137), &json!("OOMKilled")), "{end}");
    let neighbour = &pod["status"]["containerStatuses"][1];
    assert_eq!((&neighbour["ready"], &neighbour["restartCount"]), (&json!(true), &json!(0)), "{neighbour}");
    assert_eq!(pod["status"]["phase"], "Running");
    cluster.delete_pod("hog");
    cluster.wait_gone("hog");
}

fn create_processor(cluster: &Cluster) {
    let mut pod = pod("busy", "while :; do :; done");
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "200m"}});
    cluster.create_pod(&pod);
}

/// A machine that is busy gives less; more than the limit is never given.
fn check_processor(cluster: &Cluster) {
    let pod = cluster.wait_ready("busy");
    let file = usage_file(cluster, &bare_id(&pod));
    let held_back = || periods_held_back(cluster, &bare_id(&pod));
    let (before, held_back_before, start) = (processor_seconds(&file), held_back(), Instant::now());
    wait_long("periods in which the container is held back", || (held_back() >= held_back_before + PERIODS).then_some(()));
    let used = (processor_seconds(&file) - before) / start.elapsed().as_secs_f64();
    assert!(used <= 0.2 * 1.1, "used {used:.3} of a processor, may use 0.2");
    cluster.delete_pod("busy");
    cluster.wait_gone("busy");
}

fn create_storage(cluster: &Cluster) {
    let mut volume = pod("full-volume", "dd if=/dev/zero of=/v/big bs=1M count=8; exec sleep 1000");
    volume["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {"sizeLimit": "4Mi"}}]);
    volume["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    cluster.create_pod(&volume);
    let mut root = pod("full-root", "dd if=/dev/zero of=/big bs=1M count=8; exec sleep 1000");
    root["spec"]["containers"][0]["resources"] = json!({"limits": {"ephemeral-storage": "4Mi"}});
    cluster.create_pod(&root);
    // Memory is not the disk: this one is stopped by the size of its file system instead.
    let mut memory = pod("full-memory", "dd if=/dev/zero of=/v/big bs=1M count=8 2>&1; exec sleep 1000");
    memory["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {"sizeLimit": "4Mi", "medium": "Memory"}}]);
    memory["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    cluster.create_pod(&memory);
}

fn check_storage(cluster: &Cluster) {
    let evicted = |pod: &Value| pod["status"]["reason"] == "Evicted";
    let volume = cluster.wait_pod("full-volume", "evicted", evicted);
    assert_eq!(volume["status"]["phase"], "Failed");
    assert_eq!(volume["status"]["message"], "Usage of EmptyDir volume \"v\" exceeds the limit \"4Mi\". ");
    let root = cluster.wait_pod("full-root", "evicted", evicted);
    assert_eq!(root["status"]["message"], "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. ");
    // The cluster has no resolver of its own.
    assert!(cluster.events("full-root").iter().any(|event| event.starts_with("MissingClusterDNS: pod: \"full-root_default(")));
    cluster.wait_pod("full-root", "told of", |_| cluster.events("full-root").iter().any(|event| event.starts_with("Evicted: ")));
    let memory = cluster.wait_ready("full-memory");
    assert!(cluster.log(&memory, "c", 0).contains("No space left on device"), "{}", cluster.log(&memory, "c", 0));
}

fn has_ended(pod: &Value) -> bool {
    container(pod)["state"]["terminated"].is_object() && ["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or(""))
}

fn bare_id(pod: &Value) -> String {
    let id = container(pod)["containerID"].as_str().expect("the container has an id");
    id.rsplit_once("://").expect("the id has a scheme").1.to_owned()
}

fn cgroup_of(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default()
}

/// Where the kernel counts what a container has used of processors.
fn usage_file(cluster: &Cluster, id: &str) -> PathBuf {
    let groups = groups_below(&cluster.group(&cluster.control_plane()));
    let mut files = groups
        .iter()
        .filter(|dir| dir.to_string_lossy().contains(id))
        .flat_map(|dir| [dir.join("cpuacct.usage"), dir.join("cpu.stat")].into_iter().filter(|path| path.exists() && is_usage(path)));
    files.next().expect("the container's use of processors is counted")
}

/// How often the container wanted more of the processors than it may use.
fn periods_held_back(cluster: &Cluster, id: &str) -> u64 {
    let groups = groups_below(&cluster.group(&cluster.control_plane()));
    let files = groups.iter().filter(|dir| dir.to_string_lossy().contains(id)).map(|dir| dir.join("cpu.stat"));
    let texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
    let counts = texts.filter_map(|text| text.lines().find_map(|line| line.strip_prefix("nr_throttled "))?.parse().ok());
    counts.max().expect("the kernel counts them")
}

fn is_usage(path: &std::path::Path) -> bool {
    path.ends_with("cpuacct.usage") || std::fs::read_to_string(path).is_ok_and(|text| text.contains("usage_usec"))
}

fn processor_seconds(path: &std::path::Path) -> f64 {
    let text = std::fs::read_to_string(path).expect("the container runs");
    match text.lines().find_map(|line| line.strip_prefix("usage_usec ")) {
        Some(microseconds) => microseconds.trim().parse::<f64>().expect("it is a number") / 1e6,
        None => text.trim().parse::<f64>().expect("it is a number") / 1e9,
    }
}
