//! Many pods on one node: they start, the agent dies, they are still the same, they end.

use std::collections::BTreeMap;

use crate::support::Cluster;
use crate::support::cluster::{LONG, PODS, container, is_ready, pod, wait_long};

/// `EVERYNODE_PODS_AT_ONCE` asks for others.
const PODS_AT_ONCE: usize = 100;

fn pods_at_once() -> usize {
    std::env::var("EVERYNODE_PODS_AT_ONCE").ok().and_then(|text| text.parse().ok()).unwrap_or(PODS_AT_ONCE)
}

/// In each pod's command line, and in no other's.
const ARGUMENT: &str = "sleep 55";

#[test]
fn many_pods_survive_the_agent() {
    let Some(cluster) = Cluster::start_or_skip("many", 0) else { return };
    let node = cluster.control_plane();
    for at in 0..pods_at_once() {
        cluster.create_pod(&pod(&format!("many-{at}"), &format!("exec {ARGUMENT}{at:03}")));
    }
    let before = wait_all_ready(&cluster);
    cluster.kill_agent(&node);
    // What the next agent starts runs: it has begun to work.
    cluster.create_pod(&pod("after", "exec sleep 1000"));
    cluster.wait_ready("after");
    cluster.delete_pod("after");
    cluster.wait_gone("after");
    assert_eq!(wait_all_ready(&cluster), before, "ids and restart counts after the agent was killed");
    for at in 0..pods_at_once() {
        let running = cluster.processes_with(&node, &format!("{ARGUMENT}{at:03}"));
        assert_eq!(running.len(), 1, "{ARGUMENT}{at:03}: {running:?}");
    }
    assert_eq!(cluster.api().delete(PODS).code, 200);
    wait_long("the end of all pods", || cluster.pods().is_empty().then_some(()));
    wait_long("the end of all containers", || cluster.processes_with(&node, ARGUMENT).is_empty().then_some(()));
}

/// Container ids and restart counts, by pod.
fn wait_all_ready(cluster: &Cluster) -> BTreeMap<String, String> {
    let deadline = std::time::Instant::now() + LONG;
    loop {
        let pods = cluster.pods();
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        if ready == pods_at_once() {
            let name = |pod: &serde_json::Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            return pods
                .iter()
                .map(|pod| (name(pod), format!("{} {}", container(pod)["containerID"], container(pod)["restartCount"])))
                .collect();
        }
        assert!(std::time::Instant::now() < deadline, "only {ready} of {} pods are ready", pods_at_once());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}
