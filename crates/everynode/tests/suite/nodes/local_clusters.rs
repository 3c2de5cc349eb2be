//! Local clusters with real nodes: what they make on the machine, and that none of it is left.

use std::path::Path;

use serde_json::Value;

use crate::support::Cluster;
use crate::support::cluster::{NODES, condition, groups_below, pod, processes_below, wait_long};

#[test]
fn down_leaves_nothing_behind() {
    let Some(cluster) = Cluster::start_or_skip("down", 1) else { return };
    let other = Cluster::start_or_skip("besides", 0).expect("what runs once runs twice");
    let (cluster_links, other_links) = (links_of(&cluster), links_of(&other));
    assert!(cluster_links.len() >= 3 && other_links.len() >= 2, "a bridge, and a link for each node: {cluster_links:?} {other_links:?}");
    run_pod(&cluster, "before", &cluster.worker());
    run_pod(&other, "stays", &other.control_plane());

    nodes_come_and_go(&cluster);

    let namespaces = network_namespaces(&cluster);
    cluster.succeed(&["down"]);
    check_nothing_is_left(&cluster, &cluster_links, &namespaces);

    // Everything dies at once, no process can end in order, and half of the files are gone.
    cluster.up(1);
    cluster.load_busybox();
    cluster.wait_for_service_account();
    run_pod(&cluster, "again", &cluster.worker());
    let (links, namespaces) = (links_of(&cluster), network_namespaces(&cluster));
    cluster.kill(cluster.server());
    for pid in processes_below(&Path::new("everynode").join(&cluster.name)) {
        cluster.kill(pid);
    }
    let worker = cluster.node_dir(&cluster.worker());
    for half in [worker.join("lib/everynode"), cluster.dir().join("pki")] {
        assert!(half.starts_with(cluster.home.path("")), "only what the test made is removed");
        std::fs::remove_dir_all(half).expect("the folder is there");
    }
    for half in [worker.join("node.json"), cluster.dir().join("cluster.json")] {
        std::fs::remove_file(half).expect("the file is there");
    }
    cluster.succeed(&["down"]);
    check_nothing_is_left(&cluster, &links, &namespaces);

    // The neighbour has noticed nothing of all this.
    let stays = other.pod("stays");
    assert_eq!(stays["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(condition(&other.node(&other.control_plane()), "Ready"), "True");
    assert_eq!(links_of(&other).len(), other_links.len());
}

fn nodes_come_and_go(cluster: &Cluster) {
    let added = format!("{}-worker2", cluster.name);
    cluster.succeed(&["node", "add"]);
    cluster.wait_node(&added, "True");
    run_pod(cluster, "on-added", &added);
    let refused = cluster.everynode(&["node", "add", &added]);
    assert_eq!(refused.status.code(), Some(1), "there is one of that name");
    let dir = cluster.node_dir(&added);
    cluster.succeed(&["node", "remove", &added]);
    assert!(!dir.exists(), "its files go with a node");
    assert_eq!(cluster.processes(&added), Vec::<i32>::new());
    assert_eq!(cluster.api().get(&format!("{NODES}/{added}")).code, 404);
    // A new one takes its place, its name and its addresses.
    cluster.succeed(&["node", "add"]);
    cluster.wait_node(&added, "True");
    run_pod(cluster, "on-next", &added);
    let refused = cluster.everynode(&["node", "remove", "nobody"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("has no node nobody"), "{said}");
}

fn run_pod(cluster: &Cluster, name: &str, node: &str) {
    let mut pod = pod(name, "exec sleep 1000");
    pod["spec"]["nodeName"] = node.into();
    cluster.create_pod(&pod);
    cluster.wait_ready(name);
}

fn check_nothing_is_left(cluster: &Cluster, links: &[String], namespaces: &[String]) {
    assert!(!cluster.dir().exists(), "{} is still there", cluster.dir().display());
    let group = Path::new("everynode").join(&cluster.name);
    assert_eq!(groups_below(&group), Vec::<std::path::PathBuf>::new());
    let left: Vec<String> = all_links().into_iter().filter(|link| links.contains(link)).collect();
    assert_eq!(left, Vec::<String>::new(), "network devices");
    // A namespace lives as long as a process or a mount holds it; the kernel clears away in its own
    // time.
    wait_long("the end of the nodes' namespaces", || {
        let live = all_network_namespaces();
        namespaces.iter().all(|namespace| !live.contains(namespace)).then_some(())
    });
    let home = cluster.dir().display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts can be listed");
    let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&home)).collect();
    assert_eq!(left, Vec::<&str>::new(), "mounts");
    let kubeconfig = std::fs::read_to_string(cluster.home.kubeconfig()).unwrap_or_default();
    assert!(!kubeconfig.contains(&cluster.name), "{kubeconfig}");
}

/// The cluster's bridge and everything on it.
fn links_of(cluster: &Cluster) -> Vec<String> {
    let output = std::process::Command::new("ip").args(["-json", "address", "show"]).output().expect("iproute2 is installed");
    let listed: Value = serde_json::from_slice(&output.stdout).expect("ip prints JSON");
    let links = listed.as_array().cloned().unwrap_or_default();
    let name = |link: &Value| link["ifname"].as_str().unwrap_or_default().to_owned();
    let has_gateway =
        |link: &&Value| link["addr_info"].as_array().is_some_and(|all| all.iter().any(|one| one["local"] == cluster.gateway()));
    let bridge = name(links.iter().find(has_gateway).expect("the cluster has a bridge"));
    links.iter().filter(|link| name(link) == bridge || link["master"] == bridge.as_str()).map(name).collect()
}

fn all_links() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/class/net").expect("network devices can be listed");
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Those of the cluster's processes.
fn network_namespaces(cluster: &Cluster) -> Vec<String> {
    let own = namespace_of("self");
    let pids = processes_below(&Path::new("everynode").join(&cluster.name));
    let mut found: Vec<String> = pids.iter().filter_map(|pid| namespace_of(&pid.to_string())).collect();
    found.retain(|namespace| Some(namespace) != own.as_ref());
    found.sort();
    found.dedup();
    found
}

fn all_network_namespaces() -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| namespace_of(&entry.file_name().to_string_lossy())).collect()
}

fn namespace_of(pid: &str) -> Option<String> {
    Some(std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?.display().to_string())
}
