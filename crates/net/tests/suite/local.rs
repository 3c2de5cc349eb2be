//! [`net::local`] on a namespace that plays the host, with two nodes and a client outside.

use std::net::Ipv4Addr;
use std::sync::mpsc;

use net::local::{Bridge, NodeLink, PodRoutes, choose_subnet};
use net::pods::{PodNetwork, PodNetworkSettings};

use crate::NEEDS;
use crate::world::{Namespace, wait};

/// A thread in a node's namespace, as a process of the node would be; gone with this value.
struct Resident {
    pid: u32,
    _stop: mpsc::Sender<()>,
}

impl Resident {
    fn new(node: &Namespace) -> Self {
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        let file = node.file().try_clone().expect("a descriptor can be doubled");
        std::thread::spawn(move || {
            let entered = net::namespace::inside(&file, move || {
                let _ = tell.send(nix::unistd::gettid().as_raw());
                let _ = stopped.recv();
                Ok(())
            });
            entered.expect("the namespace can be entered");
        });
        let pid = told.recv().expect("the thread says its id");
        Self { pid: u32::try_from(pid).expect("ids are not negative"), _stop: stop }
    }
}

struct Node {
    namespace: Namespace,
    _resident: Resident,
    link: NodeLink,
    network: PodNetwork,
    pod: Namespace,
    pod_address: String,
    _directory: tempfile::TempDir,
}

/// A node with one pod, on the bridge.
fn node(host: &Namespace, bridge: &mut Bridge, number: u8) -> Node {
    let namespace = Namespace::new();
    let resident = Resident::new(&namespace);
    let link = NodeLink {
        pid: resident.pid,
        name: format!("node-{number}"),
        address: Ipv4Addr::new(172, 30, 0, 10 + number),
        pod_cidr: format!("10.244.{number}.0/24").parse().expect("a range"),
    };
    host.inside(|| bridge.connect(&link).map_err(std::io::Error::other)).expect("the node is connected");
    let directory = tempfile::tempdir().expect("a directory");
    let settings = PodNetworkSettings {
        state_file: directory.path().join("pods.json"),
        pod_cidr: link.pod_cidr,
        cluster_cidr: "10.244.0.0/16".parse().expect("a range"),
        node_addresses: vec![link.address.into()],
        table: "everynode".to_string(),
    };
    let network = namespace.inside(|| PodNetwork::open(settings).map_err(std::io::Error::other)).expect("the network opens");
    let pod = Namespace::new();
    let address = wait(network.attach("pod", &pod.path(), &[])).expect("the pod is attached")[0];
    Node { namespace, _resident: resident, link, network, pod, pod_address: address.to_string(), _directory: directory }
}

fn ensure(host: &Namespace) -> Bridge {
    let made = host.inside(|| {
        let gateway = "172.30.0.1/24".parse().expect("an address");
        let pods = "10.244.0.0/16".parse().expect("a range");
        Bridge::ensure("test", gateway, pods, PodRoutes::OfThisHost).map_err(std::io::Error::other)
    });
    made.expect("the bridge is made")
}

fn remove(host: &Namespace) {
    host.inside(|| Bridge::remove("test").map_err(std::io::Error::other)).expect("the bridge is removed");
}

fn traces(host: &Namespace) -> String {
    let links: Vec<String> = host.links().into_iter().map(|link| link.name).collect();
    let routes = host.route().routes().expect("routes can be read");
    let chains = net::nftables::base_chains(&mut host.netfilter()).expect("chains can be read");
    format!("{links:?} {routes:?} {chains:?}")
}

#[test]
fn two_nodes_and_the_world() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let (host, world) = (Namespace::new(), Namespace::new());
    host.cable("outside0", "192.168.77.1/24", &world, "192.168.77.2/24", false);
    let before = traces(&host);
    let mut bridge = ensure(&host);
    let (one, two) = (node(&host, &mut bridge, 1), node(&host, &mut bridge, 2));
    one.pod.serve(80, "one");
    two.pod.serve(80, "two");
    two.namespace.serve(90, "node two");
    world.serve(91, "world");
    host.serve(92, "host");
    assert_eq!(one.pod.ask(&two.pod_address, 80), "two sees 10.244.1.2");
    assert_eq!(two.pod.ask(&one.pod_address, 80), "one sees 10.244.2.2");
    assert_eq!(one.namespace.ask(&two.pod_address, 80), "two sees 172.30.0.11");
    assert_eq!(one.pod.ask("172.30.0.12", 90), "node two sees 172.30.0.11");
    assert_eq!(host.ask(&two.pod_address, 80), "two sees 172.30.0.1");
    assert_eq!(one.pod.ask("192.168.77.2", 91), "world sees 192.168.77.1");
    assert_eq!(one.namespace.ask("192.168.77.2", 91), "world sees 192.168.77.1");
    assert_eq!(one.pod.ask("172.30.0.1", 92), "host sees 172.30.0.11");

    // All of it once more changes nothing.
    let connected = traces(&host);
    let mut bridge = ensure(&host);
    bridge.connect(&two.link).expect("the node is connected again");
    assert_eq!(traces(&host), connected);
    assert_eq!(one.pod.ask(&two.pod_address, 80), "two sees 10.244.1.2");

    bridge.disconnect(&two.link.name, two.link.address).expect("the node is disconnected");
    bridge.disconnect(&two.link.name, two.link.address).expect("and again");
    assert!(two.namespace.links().iter().all(|link| link.name != "eth0"));
    assert!(one.pod.tcp(two.pod_address.parse::<Ipv4Addr>().expect("an address"), 80).starts_with("error"));

    // A new namespace for the same node: neighbours reach it at once.
    let again = node(&host, &mut bridge, 2);
    again.namespace.serve(90, "node two again");
    assert_eq!(one.namespace.ask("172.30.0.12", 90), "node two again sees 172.30.0.11");
    assert_eq!(host.ask("172.30.0.12", 90), "node two again sees 172.30.0.1");

    wait(one.network.detach("pod")).expect("the pod is detached");
    remove(&host);
    assert_eq!(traces(&host), before);
    remove(&host);
}

#[test]
fn ranges_in_use_are_not_chosen() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let host = Namespace::new();
    let choose = || host.inside(|| choose_subnet().map_err(std::io::Error::other)).expect("there are free ranges");
    assert_eq!(choose().slot, 0);
    let _bridge = ensure(&host);
    let chosen = choose();
    assert_eq!((chosen.nodes.to_string().as_str(), chosen.pods.to_string().as_str()), ("172.30.1.0/24", "10.243.0.0/16"));
    remove(&host);
    assert_eq!(choose().slot, 0);
}

#[test]
fn what_a_crash_left_is_removed_and_other_clusters_stay() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let host = Namespace::new();
    let mut bridge = ensure(&host);
    let node = node(&host, &mut bridge, 1);
    drop(bridge);
    let other = host.inside(|| {
        let gateway = "172.30.1.1/24".parse().expect("an address");
        Bridge::ensure("other", gateway, "10.243.0.0/16".parse().expect("a range"), PodRoutes::OfThisHost).map_err(std::io::Error::other)
    });
    let other = other.expect("another bridge is made");
    remove(&host);
    let names: Vec<String> = host.links().into_iter().map(|link| link.name).filter(|name| name != "lo").collect();
    assert_eq!(names, [other.interface()]);
    assert!(node.namespace.links().iter().all(|link| link.name != "eth0"));
    // And a new cluster of the same name finds the way free.
    let mut bridge = ensure(&host);
    bridge.connect(&node.link).expect("the node is connected");
}
