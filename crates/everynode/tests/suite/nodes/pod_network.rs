//! The built-in DaemonSet `pod-network`: pods of different nodes reach each other by every way,
//! while parts of it end, and no longer when it is deleted; Services go on while nodes are away.

use std::process::{Child, Command, Stdio};

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

/// A machine of its own for one more agent: a network namespace on the cluster's bridge.
struct Machine {
    name: String,
    agent: Option<Child>,
}

impl Machine {
    fn plug_in(cluster: &Cluster, address: &str) -> Machine {
        let name = format!("{}-machine", cluster.name);
        let bridge = std::fs::read_link(format!("/sys/class/net/{}/master", link_of(cluster, &cluster.worker())));
        let bridge = bridge.expect("nodes are on a bridge").file_name().expect("links have names").to_string_lossy().into_owned();
        let gateway = cluster.gateway();
        let link = format!("evt{}", std::process::id());
        let machine = Machine { name, agent: None };
        for command in [
            format!("netns add {}", machine.name),
            format!("link add {link} type veth peer name eth0 netns {}", machine.name),
            format!("link set {link} master {bridge} up"),
            format!("-n {} link set lo up", machine.name),
            format!("-n {} link set eth0 up", machine.name),
            format!("-n {} address add {address}/24 dev eth0", machine.name),
            format!("-n {} route add default via {gateway}", machine.name),
        ] {
            let status = Command::new("ip").args(command.split(' ')).status().expect("iproute2 is installed");
            assert!(status.success(), "ip {command}");
        }
        machine
    }

    fn start_agent(&mut self, cluster: &Cluster, node: &str, address: &str) {
        let (dir, credentials) = (cluster.home.path("machine"), cluster.node_dir(node));
        let file = |name: &str| credentials.join(name).display().to_string();
        let below = |name: &str| dir.join(name).display().to_string();
        // With mounts of its own: they go with its last container, which `down` ends.
        let mut command = Command::new("unshare");
        command.args(["--mount", "nsenter", &format!("--net=/run/netns/{}", self.name), env!("CARGO_BIN_EXE_everynode")]);
        command.args(["agent", "--node-name", node, "--node-ip", address, "--kubeconfig", &file("kubeconfig")]);
        command.args([
            "--tls-cert-file",
            &file("kubelet.crt"),
            "--tls-private-key-file",
            &file("kubelet.key"),
            "--client-ca-file",
            &file("ca.crt"),
        ]);
        command.args([
            "--root-dir",
            &below("kubelet"),
            "--data-dir",
            &below("data"),
            "--state-dir",
            &below("run"),
            "--log-dir",
            &below("log"),
        ]);
        command.args(["--image-dir", &cluster.dir().join("images").display().to_string(), "--first-user-id", "0"]);
        let group = cluster.group(node).display().to_string();
        command.args(["--cgroup-root", group.trim_start_matches('/'), "--eviction-hard", "nodefs.available<256Mi,imagefs.available<256Mi"]);
        self.agent = Some(command.stdout(Stdio::null()).spawn().expect("the agent can be started"));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

#[test]
fn a_node_gets_its_range_from_the_server() {
    let Some(network) = Network::start_or_skip("netrange", "direct", 1) else { return };
    let cluster = &network.cluster;
    let node = format!("{}-more", cluster.name);
    // Stopped again and deleted: what is wanted of it are its credentials.
    cluster.succeed(&["node", "add", &node]);
    cluster.wait_node(&node, "True");
    let address = text(&cluster.node(&node)["status"]["addresses"][0]["address"]);
    cluster.succeed(&["node", "stop", &node]);
    cluster.kubectl().run(&format!("delete node {node}"));
    let mut machine = Machine::plug_in(cluster, &address);
    machine.start_agent(cluster, &node, &address);
    cluster.wait_node(&node, "True");
    let shown = cluster.node(&node);
    let range: ipnet::IpNet = text(&shown["spec"]["podCIDR"]).parse().expect("the server gave it a range");
    assert_eq!(shown["metadata"]["annotations"]["everynode.dev/cluster-cidr"], json!(cluster_range(&range)));
    let others: Vec<ipnet::IpNet> = network
        .nodes()
        .iter()
        .filter(|other| other["metadata"]["name"] != node.as_str())
        .map(|other| text(&other["spec"]["podCIDR"]).parse().expect("all nodes have ranges"))
        .collect();
    assert!(others.iter().all(|other| !other.contains(&range)), "{range} is one of {others:?}");
    network.wait_for_sets();
    let pods = network.pods();
    let inside = pods.iter().filter(|(_, address)| range.contains(&address.parse::<std::net::IpAddr>().expect("an address")));
    assert_eq!((inside.count(), pods.len()), (1, 3));
    network.check_all_pairs();
    // It keeps the range when its object is deleted while the agent runs.
    cluster.kubectl().run(&format!("delete node {node}"));
    wait_long("the node that registers again", || {
        let back = cluster.node(&node);
        (back["metadata"]["uid"].is_string() && back["metadata"]["uid"] != shown["metadata"]["uid"]).then_some(back)
    });
    assert_eq!(text(&cluster.node(&node)["spec"]["podCIDR"]), range.to_string());
}

/// The /16 that local clusters divide.
fn cluster_range(of: &ipnet::IpNet) -> String {
    ipnet::IpNet::new(of.addr(), 16).expect("a prefix of IPv4").trunc().to_string()
}
