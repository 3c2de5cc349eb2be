//! Ports of the node pass from a pod to its successor.
//!
//! What went wrong: a pod that was reported as ended still had its port for its node, which turned
//! the next pod of its set away.

use serde_json::json;

use crate::support::Cluster;
use crate::support::cluster::pod;

const ROLLOUTS: usize = 6;

#[test]
fn a_set_with_a_port_of_the_node_is_rolled_out() {
    let Some(cluster) = Cluster::start_or_skip("hostports", 1) else { return };
    let labels = json!({"app": "ports"});
    let mut spec = pod("ports", "trap 'exit 0' TERM; while :; do sleep 0.1; done")["spec"].clone();
    spec["containers"][0]["ports"] = json!([{"containerPort": 9100, "hostPort": 9100}]);
    let set = json!({
        "metadata": {"name": "ports"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    });
    cluster.api().create("/apis/apps/v1/namespaces/default/daemonsets", &set);
    let kubectl = cluster.kubectl();
    for round in 0..ROLLOUTS {
        kubectl.run("rollout status daemonset/ports --timeout=120s");
        kubectl.run(&format!("set env daemonset/ports ROUND={round}"));
    }
    kubectl.run("rollout status daemonset/ports --timeout=120s");
    let events = cluster.api().get("/api/v1/namespaces/default/events").json();
    let reasons: Vec<&str> = events["items"].as_array().unwrap().iter().filter_map(|event| event["reason"].as_str()).collect();
    assert!(reasons.contains(&"Started"), "{reasons:?}");
    for failure in ["NodePorts", "FailedDaemonPod", "FailedCreatePodSandBox"] {
        assert!(!reasons.contains(&failure), "{failure} among {reasons:?}");
    }
}
