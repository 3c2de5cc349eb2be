//! The built-in DaemonSet `pod-network`: pods of different nodes reach each other by every way,
//! while parts of it end, and no longer when it is deleted; Services go on while nodes are away.

use serde_json::{Value, json};

use super::chaos_nodes::{link_of, set_link};
use crate::support::Cluster;
use crate::support::cluster::{PODS, condition, pod, wait_long};

/// Larger than what any network takes at once.
const BODY_BYTES: usize = 300_000;
const REQUESTS: usize = 20;
const TAINT: &str = "node.kubernetes.io/network-unavailable";

/// Serves its name and something large, and logs who asks.
fn web() -> Value {
    let script = format!(
        "mkdir /tmp/w && hostname > /tmp/w/index.html && head -c {BODY_BYTES} /dev/zero > /tmp/w/large && exec httpd -f -v -p 8080 -h /tmp/w"
    );
    let mut spec = pod("web", &script)["spec"].clone();
    spec["containers"][0]["ports"] = json!([{"containerPort": 8080}]);
    spec["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1});
    let labels = json!({"app": "web"});
    json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    })
}

struct Network {
    cluster: Cluster,
}

impl Network {
    fn start_or_skip(group: &str, mode: &str, workers: u8) -> Option<Network> {
        let cluster = Cluster::prepare_or_skip(group)?;
        cluster.succeed(&["up", "--workers", &workers.to_string(), "--pod-network", mode, "--timeout-seconds", "120"]);
        cluster.load_busybox();
        cluster.wait_for_service_account();
        cluster.api().create("/apis/apps/v1/namespaces/default/daemonsets", &web());
        let network = Network { cluster };
        network.wait_for_sets();
        Some(network)
    }

    fn wait_for_sets(&self) {
        for set in ["-n kube-system rollout status daemonset/pod-network", "rollout status daemonset/web"] {
            self.cluster.kubectl().run(&format!("{set} --timeout=120s"));
        }
    }

    /// Name and address of the web pods, by their nodes' names.
    fn pods(&self) -> Vec<(String, String)> {
        let pods = self.cluster.api().get(PODS).json();
        let mut pods: Vec<&Value> =
            pods["items"].as_array().into_iter().flatten().filter(|pod| pod["metadata"]["labels"]["app"] == "web").collect();
        pods.sort_by_key(|pod| text(&pod["spec"]["nodeName"]));
        pods.iter().map(|pod| (text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]))).collect()
    }

    fn get(&self, from: &str, url: &str) -> Option<String> {
        let output = self.cluster.kubectl().output(&["exec", from, "--", "timeout", "5", "wget", "-q", "-O", "-", url], "", &[]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// From every pod to every other, with large answers, and as the sender the pod itself.
    fn check_all_pairs(&self) {
        let pods = self.pods();
        for (from, own) in &pods {
            for (to, address) in pods.iter().filter(|(to, _)| to != from) {
                wait_long(&format!("the way from {from} to {to}"), || {
                    self.get(from, &format!("http://{address}:8080/")).filter(|answer| answer == to)
                });
                let large = self.get(from, &format!("http://{address}:8080/large")).expect("what is large arrives, too");
                assert_eq!(large.len(), BODY_BYTES, "from {from} to {to}");
                let log = self.cluster.kubectl().run(&format!("logs {to}"));
                assert!(
                    log.contains(&format!("{own}]:")) || log.contains(&format!("{own}:")),
                    "{to} saw another address than {own}:\n{log}"
                );
            }
        }
    }

    fn is_reached(&self, from: &(String, String), to: &(String, String)) -> bool {
        self.get(&from.0, &format!("http://{}:8080/", to.1)).is_some()
    }

    fn nodes(&self) -> Vec<Value> {
        self.cluster.api().get("/api/v1/nodes").json()["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until all nodes have that status of NetworkUnavailable, and its taint or not.
    fn wait_unavailable(&self, status: &str) {
        let is_tainted = |node: &Value| node["spec"]["taints"].to_string().contains(TAINT);
        let is_right = |node: &Value| condition(node, "NetworkUnavailable") == status && is_tainted(node) == (status == "True");
        wait_long(&format!("NetworkUnavailable {status}"), || self.nodes().iter().all(is_right).then_some(()));
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Some go on without the program that made them.
fn check_life(mode: &str, outlives_its_program: bool) {
    let Some(network) = Network::start_or_skip(&format!("net{}", &mode[..2]), mode, 2) else { return };
    network.check_all_pairs();
    network.wait_unavailable("False");
    let pods = network.pods();
    network.cluster.kubectl().run("-n kube-system delete pods -l k8s-app=pod-network --grace-period=0 --force");
    if outlives_its_program {
        for to in &pods[1..] {
            assert!(network.is_reached(&pods[0], to), "{mode}: {} is not reached while the program is away", to.0);
        }
    }
    network.wait_for_sets();
    network.check_all_pairs();
    // A pod that comes now has the right size of packets from the start.
    network.cluster.kubectl().run("delete pods -l app=web --wait");
    network.wait_for_sets();
    network.check_all_pairs();
    let pods = network.pods();
    network.cluster.kubectl().run("-n kube-system delete daemonset pod-network --wait");
    wait_long("the end of the ways", || (!network.is_reached(&pods[0], &pods[1])).then_some(()));
    network.wait_unavailable("True");
    network.cluster.succeed(&["up"]);
    network.wait_for_sets();
    network.wait_unavailable("False");
    network.check_all_pairs();
}

#[test]
fn pods_reach_each_other_by_routes() {
    check_life("direct", true);
}

#[test]
fn pods_reach_each_other_through_vxlan() {
    check_life("vxlan", true);
}

/// Where the kernel has no WireGuard, the program encrypts.
#[test]
fn pods_reach_each_other_through_wireguard() {
    check_life("wireguard", std::path::Path::new("/sys/module/wireguard").exists());
}

#[test]
fn services_go_on_while_nodes_are_away() {
    let Some(network) = Network::start_or_skip("netaway", "direct", 3) else { return };
    let cluster = &network.cluster;
    network.check_all_pairs();
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    let made = cluster.api().create("/api/v1/namespaces/default/services", &service);
    let url = format!("http://{}/", text(&made["spec"]["clusterIP"]));
    let pods = network.pods();
    let (client, names) = (&pods[0].0, pods.iter().map(|(name, _)| name.clone()).collect::<std::collections::BTreeSet<_>>());
    let wait_for_answers_of = |wanted: &std::collections::BTreeSet<String>| {
        let mut seen = std::collections::BTreeSet::new();
        wait_long("answers of all endpoints", || {
            seen.extend(network.get(client, &url));
            seen.is_superset(wanted).then_some(())
        });
    };
    wait_for_answers_of(&names);
    // The agent of the client's node is away: rules, routes and pods are not.
    cluster.kill_agent(&cluster.control_plane());
    for _ in 0..5 {
        // The request comes by the agent, so it waits for the next one.
        wait_long("an answer beside a new agent", || network.get(client, &url));
    }
    // One node is cut off, another one switched off.
    let (cut, off) = (cluster.worker() + "2", cluster.worker() + "3");
    set_link(&link_of(cluster, &cut), "down");
    cluster.succeed(&["node", "stop", &off]);
    cluster.wait_node(&cut, "Unknown");
    cluster.wait_node(&off, "Unknown");
    let there: std::collections::BTreeSet<String> = pods[..2].iter().map(|(name, _)| name.clone()).collect();
    let only_there = |_: usize| network.get(client, &url).filter(|name| there.contains(name));
    wait_long("endpoints that are there only", || (0..REQUESTS).all(|at| only_there(at).is_some()).then_some(()));
    set_link(&link_of(cluster, &cut), "up");
    cluster.succeed(&["node", "start", &off]);
    cluster.wait_node(&cut, "True");
    cluster.wait_node(&off, "True");
    network.wait_for_sets();
    wait_for_answers_of(&network.pods().into_iter().map(|(name, _)| name).collect());
    network.check_all_pairs();
}
