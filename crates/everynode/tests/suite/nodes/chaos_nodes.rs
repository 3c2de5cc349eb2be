//! Nodes that are switched off and on, and nodes that the server cannot reach for a while.

use std::process::Command;

use crate::support::Cluster;
use crate::support::cluster::{condition, container, is_ready, pod, wait_long};

#[test]
fn nodes_go_away_and_come_back() {
    let Some(cluster) = Cluster::start_or_skip("away", 1) else { return };
    let (near, far) = (cluster.control_plane(), cluster.worker());
    for (name, node) in [("near", &near), ("far", &far)] {
        let mut pod = pod(name, "exec sleep 66000");
        pod["spec"]["nodeName"] = node.as_str().into();
        cluster.create_pod(&pod);
    }
    let far_before = cluster.wait_ready("far");
    cluster.wait_ready("near");

    // One is cut off while the other is switched off and on: the grace period is waited for once.
    let link = link_of(&cluster, &far);
    set_link(&link, "down");
    off_and_on(&cluster, &near);
    cluster.wait_node(&far, "Unknown");
    // Status and taints are written one after the other.
    let is_unreachable = || cluster.node(&far)["spec"]["taints"].to_string().contains("node.kubernetes.io/unreachable");
    wait_long("the taint of a node that is not heard of", || is_unreachable().then_some(()));
    cluster.wait_pod("far", "not ready", |pod| !is_ready(pod));
    assert_eq!(cluster.processes_with(&far, "sleep 66000").len(), 1, "it goes on running where nobody sees it");

    set_link(&link, "up");
    cluster.wait_node(&far, "True");
    let after = cluster.wait_ready("far");
    assert_eq!(container(&after)["containerID"], container(&far_before)["containerID"]);
    assert_eq!(container(&after)["restartCount"], 0);
    let mut later = pod("later", "exec sleep 66001");
    later["spec"]["nodeName"] = far.as_str().into();
    cluster.create_pod(&later);
    cluster.wait_ready("later");
    wait_long("a node without the taint", || (!is_unreachable()).then_some(()));
    assert_eq!(condition(&cluster.node(&near), "Ready"), "True");
}

/// Everything that ran has ended; afterwards it runs again, in the same pods.
fn off_and_on(cluster: &Cluster, node: &str) {
    let before = cluster.wait_ready("near");
    cluster.succeed(&["node", "stop", node]);
    assert_eq!(cluster.processes(node), Vec::<i32>::new());
    cluster.succeed(&["node", "start", node]);
    let after = cluster.wait_pod("near", "running again", |pod| container(pod)["restartCount"] == 1 && is_ready(pod));
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_ne!(container(&after)["containerID"], container(&before)["containerID"]);
    assert_eq!(cluster.processes_with(node, "sleep 66000").len(), 1);
    cluster.wait_node(node, "True");
}

/// The machine's end of a node's link: the one whose other end is the node's `eth0`.
pub(super) fn link_of(cluster: &Cluster, node: &str) -> String {
    // As the node's own process sees it: its mounts have a view of /sys with its own devices.
    let path = format!("/proc/{}/root/sys/class/net/eth0/iflink", cluster.keeper(node));
    let index = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let links = std::fs::read_dir("/sys/class/net").expect("network devices can be listed").flatten();
    let is_it = |dir: &std::path::Path| std::fs::read_to_string(dir.join("ifindex")).is_ok_and(|text| text.trim() == index.trim());
    let found = links.map(|link| link.path()).find(|dir| is_it(dir)).expect("the link has two ends");
    found.file_name().expect("devices have names").to_string_lossy().into_owned()
}

pub(super) fn set_link(link: &str, state: &str) {
    let status = Command::new("ip").args(["link", "set", "dev", link, state]).status().expect("iproute2 is installed");
    assert!(status.success(), "ip link set {link} {state}");
}
