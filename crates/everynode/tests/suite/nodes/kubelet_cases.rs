//! Pods that were recorded on Kubernetes: the same pods here go through the same statuses, have the
//! same events, write the same logs.
//!
//! All run at once on one node, with the embedded runtime and with containerd. What cannot be the
//! same (ids, times, addresses) is masked. Two sequences of statuses agree when one is the
//! beginning of the other, but for states that are over so soon that either side may miss them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::recorded::{self, Case, Step};
use crate::support::cluster::wait_long;
use crate::support::{Cluster, CriNode};

const NAMESPACE: &str = "/api/v1/namespaces/rec";

/// Back-offs of 10 and 20 s have been seen by then, and probes that fail slowly.
const WATCHED: Duration = Duration::from_secs(62);

/// A container takes less, and those that cannot be made are not waited for longer.
const MADE: Duration = Duration::from_secs(3);

/// A pod is deleted so long after it came into the state in which it was deleted.
const SETTLED_SECONDS: f64 = 2.0;

/// What a pod went through.
#[derive(Default)]
struct Seen {
    uid: String,
    steps: Vec<Step>,
    is_deleted: bool,
}

/// Differences in what is compared, and why they are right. A line of a difference that holds the
/// text is not counted.
const KNOWN_DIFFERENCES: &[(&str, &str, &str)] = &[
    ("host-network", "log", "the recorded node was called otherwise than its machine"),
    ("env-downward", "SA=", "there was no admission of service accounts"),
    ("security", "Seccomp_filters", "how many filters there are is the runtime's own affair"),
    ("security", "/sys/fs/cgroup/blkio", "containers see the controllers that limit them"),
    ("security", "/sys/fs/cgroup/devices", "same"),
    ("security", "/sys/fs/cgroup/freezer", "same"),
    ("security", "/sys/fs/cgroup/systemd", "same"),
    ("security", "/dev/termination-log", "the file system below is the machine's"),
    ("share-process", "log b/0.log", "process ids, and the program that keeps the namespaces"),
    ("out-of-cpu", "used: ", "what other pods request by then depends on which were created before"),
    ("volumes", "kubernetes.io/config.", "annotations that the kubelet keeps to itself, and shows by mistake"),
    ("volumes", "<time> stdout F 25", "the memory of the machine"),
];

/// Where containerd makes the containers, besides. It was the recorded node's, too, in another
/// version.
const KNOWN_DIFFERENCES_OF_CONTAINERD: &[(&str, &str, &str)] = &[
    ("deadline", "status", "it may live for three seconds, which containerd sometimes needs to start it"),
    ("probe-tcp-http-ok", "Startup probe failed", "its server may listen before the first probe comes"),
];

/// Where the pods run.
struct Place<'a> {
    node: &'a str,
    /// The folder of all pods' logs.
    logs: &'a Path,
    known: &'a [(&'a str, &'a str, &'a str)],
    /// So many are created before their containers have been started.
    together: usize,
    /// A state that is over in so many seconds may be missing in the recording.
    brief: f64,
}

#[test]
fn recorded_pods_live_as_recorded() {
    let Some(cases) = cases_or_skip() else { return };
    let Some(cluster) = Cluster::start_or_skip("recorded", 0) else { return };
    let node = cluster.control_plane();
    let logs = cluster.node_dir(&node).join("log/pods");
    compare(&cluster, &cases, &Place { node: &node, logs: &logs, known: KNOWN_DIFFERENCES, together: cases.len(), brief: 3.0 });
}

#[test]
fn recorded_pods_live_as_recorded_with_containerd() {
    let Some(cases) = cases_or_skip() else { return };
    let Some(cluster) = Cluster::start_or_skip("containerd", 0) else { return };
    let Some(node) = CriNode::start_or_skip(&cluster) else { return };
    let known = [KNOWN_DIFFERENCES, KNOWN_DIFFERENCES_OF_CONTAINERD].concat();
    // containerd needs seconds to start and stop sandboxes while other tests run; a state in
    // between lasts as long.
    compare(&cluster, &cases, &Place { node: &node.name, logs: &node.pod_logs(), known: &known, together: 6, brief: 10.0 });
}

fn cases_or_skip() -> Option<Vec<Case>> {
    let golden = testing::variable("EVERYNODE_GOLDEN")?;
    Some(recorded::read(&Path::new(&golden).join("kubelet")))
}

fn compare(cluster: &Cluster, cases: &[Case], place: &Place) {
    prepare_namespace(cluster);
    let until = Instant::now() + WATCHED;
    let seen = std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch(cluster, cases, until));
        for together in cases.chunks(place.together) {
            create(cluster, together, place.node);
        }
        watch.join().expect("the watch goes through")
    });
    let events = cluster.api().get(&format!("{NAMESPACE}/events")).json();
    let mut differences = Vec::new();
    for case in cases {
        let mut found = recorded::compare_statuses(case, &seen[&case.name].steps, place.brief);
        found.extend(recorded::compare_events(case, &events, place.node));
        found.extend(compare_logs(place, case, &seen[&case.name].uid));
        found.retain(|line| !is_known(place.known, &case.name, line));
        differences.extend(found.into_iter().map(|line| format!("{}: {line}", case.name)));
    }
    assert!(differences.is_empty(), "{} of {} recorded pods differ:\n{}", names(&differences), cases.len(), differences.join("\n"));
}

/// Waits until the runtime has done with them, one way or the other; some never get that far.
fn create(cluster: &Cluster, cases: &[Case], node: &str) {
    for case in cases {
        cluster.api().create(&format!("{NAMESPACE}/pods"), &case.pod_for(node));
    }
    let is_being_made = |case: &Case| {
        let pod = cluster.api().get(&format!("{NAMESPACE}/pods/{}", case.name)).json();
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"
    };
    let until = Instant::now() + MADE;
    while Instant::now() < until && cases.iter().any(is_being_made) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn names(differences: &[String]) -> usize {
    let mut names: Vec<&str> = differences.iter().filter_map(|line| line.split(':').next()).collect();
    names.dedup();
    names.len()
}

fn is_known(known: &[(&str, &str, &str)], case: &str, line: &str) -> bool {
    known.iter().any(|(name, text, _)| *name == case && line.contains(text))
}

fn prepare_namespace(cluster: &Cluster) {
    let api = cluster.api();
    api.create("/api/v1/namespaces", &json!({"metadata": {"name": "rec"}}));
    api.create(&format!("{NAMESPACE}/configmaps"), &json!({"metadata": {"name": "cm"}, "data": {"a": "1", "b.txt": "two\n"}}));
    api.create(&format!("{NAMESPACE}/secrets"), &json!({"metadata": {"name": "sec"}, "stringData": {"u": "admin", "p": "hunter2"}}));
    wait_long("the service account", || (api.get(&format!("{NAMESPACE}/serviceaccounts/default")).code == 200).then_some(()));
}

/// Follows all pods until then; deletes those that were deleted when they were recorded, in the
/// same state.
fn watch(cluster: &Cluster, cases: &[Case], until: Instant) -> BTreeMap<String, Seen> {
    let start = Instant::now();
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let mut version = "0".to_owned();
    while Instant::now() < until {
        let mut connection = cluster.api().connect().expect("the server takes connections");
        let path = format!("{NAMESPACE}/pods?watch=true&resourceVersion={version}&timeoutSeconds=1");
        connection.send("GET", &path, "", b"").expect("the server takes requests");
        assert_eq!(connection.head().expect("the server answers").0, 200);
        let mut buffer = Vec::new();
        while let Some(chunk) = connection.chunk().expect("the stream ends in good order") {
            buffer.extend(chunk);
            while let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).expect("every line is an event");
                let pod = &event["object"];
                version = pod["metadata"]["resourceVersion"].as_str().expect("objects have versions").to_owned();
                let entry = seen.entry(pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()).or_default();
                entry.uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
                recorded::push(&mut entry.steps, Step::of(pod, event["type"] == "DELETED", start.elapsed().as_secs_f64()));
            }
        }
        for case in cases {
            delete_when_due(cluster, case, seen.entry(case.name.clone()).or_default(), start.elapsed().as_secs_f64());
        }
    }
    seen
}

fn delete_when_due(cluster: &Cluster, case: &Case, seen: &mut Seen, now: f64) {
    let Some(before) = &case.before_deletion else { return };
    let reached = seen.steps.iter().find(|step| step.status == *before);
    if !seen.is_deleted && reached.is_some_and(|step| step.seconds + SETTLED_SECONDS < now) {
        let code = cluster.api().delete(&format!("{NAMESPACE}/pods/{}", case.name)).code;
        assert!(code == 200 || code == 202, "deleting {}: {code}", case.name);
        seen.is_deleted = true;
    }
}

fn compare_logs(place: &Place, case: &Case, uid: &str) -> Vec<String> {
    let mut differences = Vec::new();
    for (file, lines) in &case.logs {
        let (container, _) = file.split_once('/').expect("logs are named CONTAINER/RESTART.log");
        let dir = place.logs.join(format!("rec_{}_{uid}", case.name)).join(container);
        match recorded::newest_log(&dir) {
            Some(log) => {
                differences.extend(recorded::compare_log(file, lines, &std::fs::read_to_string(log).unwrap_or_default(), place.node));
            }
            None => differences.push(format!("log {file} is missing")),
        }
    }
    differences
}
