//! Putting the store back to a copy, with agents and watches that have seen what came after it.
//!
//! What went wrong: an agent watched on from a revision that the restored server had not reached.
//! The server waited with it, without a word: containers of pods made after the copy ran on, new
//! pods stayed Pending on nodes that were Ready. And pods that had ended since then, and were there
//! again, stayed without containers.

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::sync::{Arc, Mutex};

use crate::support::Cluster;
use crate::support::cluster::{pod, wait_long};

#[test]
fn everything_follows_a_store_that_was_put_back() {
    let Some(cluster) = Cluster::start_or_skip("restore", 1) else { return };
    cluster.create_pod(&on_worker(&cluster, "before"));
    cluster.create_pod(&on_worker(&cluster, "ended"));
    cluster.wait_ready("before");
    cluster.wait_ready("ended");
    cluster.api().create("/apis/apps/v1/namespaces/default/daemonsets", &not_ready_yet());
    let member = wait_long("the pod of the set", || {
        let pods = cluster.pods();
        pods.into_iter().find(|pod| pod["metadata"]["labels"]["app"] == "held" && pod["status"]["phase"] == "Running")
    });
    let (store, copy) = (cluster.dir().join("store.redb"), cluster.dir().join("copy.redb"));
    end_server(&cluster);
    std::fs::copy(&store, &copy).unwrap();
    cluster.up(1);

    // What the server stores after the copy was made; more than what is written while all parts
    // come back.
    cluster.create_pod(&on_worker(&cluster, "after"));
    cluster.wait_ready("after");
    for number in 0..50 {
        let map = serde_json::json!({"metadata": {"name": format!("map-{number}")}});
        cluster.api().create("/api/v1/namespaces/default/configmaps", &map);
    }
    let kubectl = cluster.kubectl();
    // The nodes' address: the port on loopback is another one after each start.
    let server = format!("https://{}:6443", cluster.gateway());
    let mut watch = kubectl.start(&format!("rollout status daemonset/held --timeout=300s -v=6 --server {server}"));
    let told = follow(&mut watch);
    wait_long("the watch of kubectl", || told.lock().unwrap().contains("watch=true").then_some(()));

    cluster.delete_pod("ended");
    cluster.wait_gone("ended");
    end_server(&cluster);
    std::fs::copy(&copy, &store).unwrap();
    let agent = cluster.agent(&cluster.worker());
    cluster.up(1);
    cluster.create_pod(&on_worker(&cluster, "new"));
    cluster.wait_ready("new");
    wait_long("the end of the container that nothing asks for any more", || {
        cluster.processes_with(&cluster.worker(), "sleep 99after").is_empty().then_some(())
    });
    assert_eq!(cluster.processes_with(&cluster.worker(), "sleep 99before").len(), 1, "what was there before runs on");
    wait_long("the container of a pod that is there again", || {
        (cluster.processes_with(&cluster.worker(), "sleep 99ended").len() == 1).then_some(())
    });
    assert_eq!(cluster.agent(&cluster.worker()), agent, "the agent was not started again");
    let member = member["metadata"]["name"].as_str().unwrap();
    kubectl.args(&["exec", member, "--", "touch", "/ready"]);
    assert!(watch.wait().unwrap().success(), "kubectl rollout status: {}", told.lock().unwrap());
}

/// A DaemonSet on the worker whose pod becomes ready when a file is there.
fn not_ready_yet() -> serde_json::Value {
    let labels = serde_json::json!({"app": "held"});
    let mut spec = pod("held", "exec sleep 1000")["spec"].clone();
    spec["tolerations"] = serde_json::json!([]);
    spec["containers"][0]["readinessProbe"] = serde_json::json!({"exec": {"command": ["test", "-e", "/ready"]}, "periodSeconds": 1});
    serde_json::json!({
        "metadata": {"name": "held"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    })
}

/// What a command says of its requests.
fn follow(command: &mut Child) -> Arc<Mutex<String>> {
    let told = Arc::new(Mutex::new(String::new()));
    let (mut stderr, shared) = (BufReader::new(command.stderr.take().expect("it is piped")), told.clone());
    std::thread::spawn(move || {
        let mut line = String::new();
        while stderr.read_line(&mut line).is_ok_and(|read| read > 0) {
            shared.lock().unwrap().push_str(&std::mem::take(&mut line));
        }
    });
    told
}

fn on_worker(cluster: &Cluster, name: &str) -> serde_json::Value {
    // What the shell only reads past says whose process it is.
    let mut pod = pod(name, &format!(": sleep 99{name}; while :; do sleep 1; done"));
    pod["spec"]["nodeName"] = cluster.worker().into();
    pod
}

fn end_server(cluster: &Cluster) {
    let server = cluster.server();
    cluster.kill(server);
    wait_long("the end of the server", || (!std::path::Path::new(&format!("/proc/{server}/cmdline")).exists()).then_some(()));
}
