//! Pods that a node runs from files, and what becomes of pods when a node is shut down in order.

use serde_json::json;

use crate::support::Cluster;
use crate::support::cluster::{condition, container, pod, wait_long};

const MANIFEST: &str = "apiVersion: v1
kind: Pod
metadata: {name: static, namespace: default}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - {name: c, image: 'busybox:test', imagePullPolicy: IfNotPresent, command: [sh, -c, 'exec sleep 7654']}
";

#[test]
fn static_pods_follow_their_files() {
    let Some(cluster) = Cluster::start_or_skip("static", 0) else { return };
    let node = cluster.control_plane();
    let file = cluster.node_dir(&node).join("lib/everynode/manifests/static.yaml");
    std::fs::write(&file, MANIFEST).expect("the node's folder can be written to");
    let mirror = format!("static-{node}");
    let first = wait_long("the mirror of the static pod", || {
        let pod = cluster.api().get(&format!("/api/v1/namespaces/default/pods/{mirror}"));
        (pod.code == 200).then(|| cluster.wait_ready(&mirror))
    });
    // Its file is what counts: deleted in the API server, it comes back, and nothing was ended.
    cluster.delete_pod(&mirror);
    let again = wait_long("another mirror", || {
        let pod = cluster.pods().into_iter().find(|pod| pod["metadata"]["name"] == mirror.as_str())?;
        (pod["metadata"]["uid"] != first["metadata"]["uid"]).then(|| cluster.wait_ready(&mirror))
    });
    assert_eq!(container(&again)["containerID"], container(&first)["containerID"]);
    cluster.kill_agent(&node);
    std::fs::remove_file(&file).expect("the file is there");
    wait_long("the end of the static pod", || cluster.processes_with(&node, "sleep 7654").is_empty().then_some(()));
}

#[test]
fn a_node_that_is_shut_down_ends_its_pods_in_order() {
    let Some(cluster) = Cluster::start_or_skip("shutdown", 0) else { return };
    let node = cluster.control_plane();
    let mut polite = pod("polite", "trap 'echo bye; exit 0' TERM; touch /ready; while true; do sleep 0.1; done");
    polite["spec"]["terminationGracePeriodSeconds"] = 20.into();
    polite["spec"]["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["test", "-e", "/ready"]}, "periodSeconds": 1});
    cluster.create_pod(&polite);
    cluster.wait_ready("polite");
    cluster.succeed(&["node", "stop", "--graceful", &node]);
    let ended = cluster.pod("polite");
    assert_eq!(ended["status"]["reason"], "Terminated", "{}", ended["status"]);
    assert_eq!(ended["status"]["phase"], "Failed");
    assert!(condition(&ended, "DisruptionTarget").contains("True"), "{}", condition(&ended, "DisruptionTarget"));
    assert!(cluster.log(&ended, "c", 0).contains("bye"), "{}", cluster.log(&ended, "c", 0));
    assert!(cluster.processes(&node).is_empty());
}
