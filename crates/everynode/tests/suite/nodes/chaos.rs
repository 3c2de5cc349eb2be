//! Programs that are killed: the agent, shims, the server. What runs goes on running, and what was
//! under way comes to its end.

use serde_json::{Value, json};

use crate::support::Cluster;
use crate::support::cluster::{container, pod, wait_long};

/// How often the agent dies while pods start and end.
const KILLS: usize = 3;

#[test]
fn killed_programs_take_nothing_with_them() {
    let Some(cluster) = Cluster::start_or_skip("killed", 0) else { return };
    let node = cluster.control_plane();
    let steady = steady_pods(&cluster);
    let before: Vec<Value> = steady.iter().map(|name| lives(&cluster, name)).collect();

    agent_dies_while_pods_come_and_go(&cluster, &node);
    check_same(&cluster, &steady, &before, "the agent was killed");

    server_dies(&cluster, &node);
    check_same(&cluster, &steady, &before, "the server was killed");

    shim_dies(&cluster, &node);
    let others: Vec<&str> = steady.iter().copied().filter(|name| *name != "steady-1").collect();
    let of_others: Vec<Value> = before.iter().filter(|lives| lives["name"] != "steady-1").cloned().collect();
    check_same(&cluster, &others, &of_others, "a shim was killed");

    agent_dies_while_pods_end(&cluster, &node);
    for name in others.iter().chain(&["steady-1"]) {
        cluster.delete_pod(name);
    }
    for name in others.iter().chain(&["steady-1"]) {
        cluster.wait_gone(name);
    }
    wait_long("the end of all containers", || cluster.processes_with(&node, "sleep 77").is_empty().then_some(()));
}

/// Pods with arguments that no other process has; one with two containers, one with an init
/// container and a sidecar.
fn steady_pods(cluster: &Cluster) -> Vec<&'static str> {
    let names = vec!["steady-1", "steady-2", "steady-3"];
    for (at, name) in names.iter().enumerate() {
        let mut pod = pod(name, &format!("exec sleep 7700{at}"));
        if at == 1 {
            let second = json!({"name": "d", "image": "busybox:test", "command": ["sleep", "77010"]});
            pod["spec"]["containers"].as_array_mut().expect("it is a list").push(second);
        }
        if at == 2 {
            pod["spec"]["initContainers"] = json!([
                {"name": "once", "image": "busybox:test", "command": ["true"]},
                {"name": "beside", "image": "busybox:test", "command": ["sleep", "77020"], "restartPolicy": "Always"},
            ]);
        }
        cluster.create_pod(&pod);
    }
    for name in &names {
        cluster.wait_ready(name);
    }
    names
}

/// Container ids, restarts and starts: what must not change.
fn lives(cluster: &Cluster, name: &str) -> Value {
    let pod = cluster.wait_ready(name);
    let of = |list: &str| -> Vec<Value> {
        let statuses = pod["status"][list].as_array().cloned().unwrap_or_default();
        statuses.iter().map(|status| json!([status["containerID"], status["restartCount"], status["state"]])).collect()
    };
    json!({
        "name": name, "uid": pod["metadata"]["uid"], "ip": pod["status"]["podIP"], "containers": of("containerStatuses"),
        "init": of("initContainerStatuses"),
    })
}

fn check_same(cluster: &Cluster, names: &[&str], before: &[Value], after_what: &str) {
    let now: Vec<Value> = names.iter().map(|name| lives(cluster, name)).collect();
    assert_eq!(now, before, "after {after_what}");
    let node = cluster.control_plane();
    for argument in ["77000", "77001", "77002", "77010", "77020"] {
        let running = cluster.processes_with(&node, &format!("sleep {argument}"));
        assert_eq!(running.len(), 1, "sleep {argument} runs {} times after {after_what}", running.len());
    }
}

/// Some start, one ends again and again, one is deleted: the agent dies in the middle of it.
fn agent_dies_while_pods_come_and_go(cluster: &Cluster, node: &str) {
    cluster.create_pod(&pod("crashing", "exit 1"));
    let mut slow = pod("slow-end", "trap 'sleep 4; exit 0' TERM; while :; do sleep 0.1; done");
    slow["spec"]["terminationGracePeriodSeconds"] = 20.into();
    cluster.create_pod(&slow);
    cluster.wait_ready("slow-end");
    cluster.delete_pod("slow-end");
    for round in 0..KILLS {
        for at in 0..4 {
            cluster.create_pod(&pod(&format!("new-{round}-{at}"), &format!("exec sleep 88{round}0{at}")));
        }
        // At different moments of their start.
        std::thread::sleep(std::time::Duration::from_millis(60 * round as u64));
        cluster.kill_agent(node);
    }
    for round in 0..KILLS {
        for at in 0..4 {
            let pod = cluster.wait_ready(&format!("new-{round}-{at}"));
            assert_eq!(container(&pod)["restartCount"], 0, "{}: {:#}", pod["metadata"]["name"], pod["status"]);
            let running = cluster.processes_with(node, &format!("sleep 88{round}0{at}"));
            assert_eq!(running.len(), 1, "sleep 88{round}0{at}: {running:?}");
        }
    }
    cluster.wait_gone("slow-end");
    let crashing = cluster.wait_pod("crashing", "restarted", |pod| container(pod)["restartCount"].as_u64() >= Some(2));
    assert_eq!(container(&crashing)["lastState"]["terminated"]["exitCode"], 1, "{:#}", crashing["status"]);
    cluster.delete_pod("crashing");
    cluster.wait_gone("crashing");
}

fn agent_dies_while_pods_end(cluster: &Cluster, node: &str) {
    let names: Vec<String> = (0..KILLS).flat_map(|round| (0..4).map(move |at| format!("new-{round}-{at}"))).collect();
    for name in &names {
        cluster.delete_pod(name);
    }
    cluster.kill_agent(node);
    cluster.kill_agent(node);
    for name in &names {
        cluster.wait_gone(name);
    }
    wait_long("the end of the deleted pods' processes", || cluster.processes_with(node, "sleep 88").is_empty().then_some(()));
}

/// Pods go on without a server, one that ends meanwhile is restarted, and the agent reports what
/// happened to the next server.
fn server_dies(cluster: &Cluster, node: &str) {
    let old = cluster.server();
    cluster.kill(old);
    wait_long("the end of the server", || (!std::path::Path::new(&format!("/proc/{old}/fd/0")).exists()).then_some(()));
    let killed = cluster.processes_with(node, "sleep 88000");
    cluster.kill(killed[0]);
    wait_long("a container in the place of the one that ended", || match cluster.processes_with(node, "sleep 88000")[..] {
        [pid] => (pid != killed[0]).then_some(()),
        _ => None,
    });
    cluster.succeed(&["up"]);
    assert_ne!(cluster.server(), old);
    let pod = cluster.wait_pod("new-0-0", "restarted", |pod| container(pod)["restartCount"] == 1 && container(pod)["ready"] == true);
    assert_eq!(container(&pod)["lastState"]["terminated"]["exitCode"], 137, "{:#}", pod["status"]);
    cluster.wait_node(node, "True");
}

/// The runtime no longer knows how the container ended, so the agent starts it anew and says why.
fn shim_dies(cluster: &Cluster, node: &str) {
    let pod = cluster.wait_ready("steady-1");
    let id = container(&pod)["containerID"].as_str().expect("it has an id").rsplit('/').next().expect("an id has a part").to_owned();
    let shims = cluster.processes_with(node, &format!("everynode-shim /run/everynode/containers/{id}"));
    assert_eq!(shims.len(), 1, "a shim for each container");
    cluster.kill(shims[0]);
    let pod = cluster.wait_pod("steady-1", "restarted", |pod| container(pod)["restartCount"] == 1 && container(pod)["ready"] == true);
    let last = &container(&pod)["lastState"]["terminated"];
    assert!(last["exitCode"] != 0 && last["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{last}");
    let running = cluster.processes_with(node, "sleep 77000");
    assert_eq!(running.len(), 1, "the old one has ended: {running:?}");
}
