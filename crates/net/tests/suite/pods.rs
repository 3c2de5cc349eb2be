//! [`net::pods`] on a node with pods and a client outside.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use containers::{PortMapping, Protocol};
use ipnet::Ipv4Net;
use net::nftables::{self, Action, Chain, ChainKind, Field, Hook, Map, MapKind, Match, Rule, Ruleset, Value};
use net::pods::{PodNetwork, PodNetworkError, PodNetworkSettings};

use crate::NEEDS;
use crate::world::{FORWARD, Namespace, ask, dropping_chain, wait};

pub const NODE: &str = "192.168.77.1";
const NODE_TOO: &str = "192.168.77.7";
pub const CLIENT: &str = "192.168.77.2";

pub struct World {
    directory: tempfile::TempDir,
    pub node: Namespace,
    pub client: Namespace,
    network: PodNetwork,
}

impl World {
    pub fn new() -> Self {
        let (node, client) = (Namespace::new(), Namespace::new());
        // The client knows no way to pods: whatever it sees of them has to be masqueraded.
        node.cable("outside0", "192.168.77.1/24", &client, "192.168.77.2/24", false);
        let directory = tempfile::tempdir().expect("a directory");
        let network = open(&node, &directory);
        Self { directory, node, client, network }
    }

    pub fn attach(&self, id: &str, ports: &[PortMapping]) -> (Namespace, String) {
        let pod = Namespace::new();
        let address = self.attach_to(id, &pod, ports).expect("the pod is attached");
        (pod, address)
    }

    fn attach_to(&self, id: &str, pod: &Namespace, ports: &[PortMapping]) -> net::pods::Result<String> {
        let addresses = wait(self.network.attach(id, &pod.path(), ports))?;
        Ok(addresses[0].to_string())
    }

    /// What a restart of the agent does.
    fn reopen(&mut self) {
        self.network = open(&self.node, &self.directory);
    }

    /// Links, routes, rules and files, as one text to compare.
    fn traces(&self) -> String {
        let links: Vec<String> = self.node.links().into_iter().map(|link| link.name).collect();
        let routes = self.node.route().routes().expect("routes can be read");
        let addresses = self.node.route().addresses().expect("addresses can be read");
        let files = std::fs::read_dir(self.directory.path()).expect("the directory is there").count();
        format!("{links:?} {routes:?} {addresses:?} {files} files {:?}", self.node.table("everynode").elements)
    }
}

fn open(node: &Namespace, directory: &tempfile::TempDir) -> PodNetwork {
    let settings = PodNetworkSettings {
        state_file: directory.path().join("pods.json"),
        pod_cidr: "10.244.1.0/24".parse().expect("a range"),
        cluster_cidr: "10.244.0.0/16".parse().expect("a range"),
        node_addresses: vec![NODE.parse().expect("an address")],
        table: "everynode".to_string(),
    };
    node.inside(|| PodNetwork::open(settings).map_err(std::io::Error::other)).expect("the network opens")
}

/// TCP and UDP, from the host port to 80.
fn ports(host_port: u16, host_ip: Option<&str>) -> Vec<PortMapping> {
    let host_ip = host_ip.map(|address| address.parse().expect("an address"));
    [Protocol::Tcp, Protocol::Udp].map(|protocol| PortMapping { protocol, container_port: 80, host_port, host_ip }).to_vec()
}

#[test]
fn pods_reach_each_other_their_node_and_the_world() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let (one, one_address) = world.attach("one", &[]);
    let (two, two_address) = world.attach("two", &[]);
    assert_eq!((one_address.as_str(), two_address.as_str()), ("10.244.1.2", "10.244.1.3"));
    two.serve(80, "two");
    world.node.serve(90, "node");
    world.client.serve(91, "client");
    assert_eq!(one.ask(&two_address, 80), "two sees 10.244.1.2");
    assert_eq!(two.ask(&two_address, 80), "two sees 10.244.1.3");
    assert_eq!(one.ask(NODE, 90), "node sees 10.244.1.2");
    assert_eq!(world.node.ask(&two_address, 80), "two sees 192.168.77.1");
    assert_eq!(one.ask(CLIENT, 91), "client sees 192.168.77.1");
    let inside: Vec<(String, bool)> = one.links().into_iter().map(|link| (link.name, link.up)).collect();
    assert!(inside.contains(&("lo".to_string(), true)) && inside.contains(&("eth0".to_string(), true)), "{inside:?}");
}

#[test]
fn host_ports_from_everywhere() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let (one, _) = world.attach("one", &ports(8080, None));
    let (two, _) = world.attach("two", &[]);
    one.serve(80, "one");
    assert_eq!(world.client.ask(NODE, 8080), "one sees 192.168.77.2");
    assert_eq!(world.node.ask(NODE, 8080), "one sees 192.168.77.1");
    assert_eq!(world.node.ask("127.0.0.1", 8080), "one sees 192.168.77.1");
    assert_eq!(two.ask(NODE, 8080), "one sees 10.244.1.3");
    assert_eq!(one.ask(NODE, 8080), "one sees 192.168.77.1");
}

#[test]
fn a_host_port_of_one_address_is_not_on_others() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let mut route = world.node.route();
    let outside = route.link("outside0").expect("links can be read").expect("it is there");
    let second: Ipv4Net = format!("{NODE_TOO}/24").parse().expect("an address");
    route.add_address(&net::netlink::Address { link: outside.index, address: second, link_only: false }).expect("it is added");
    let (one, _) = world.attach("one", &[ports(8080, Some(NODE_TOO)), ports(8081, Some("127.0.0.1"))].concat());
    one.serve(80, "one");
    assert_eq!(world.client.ask(NODE_TOO, 8080), "one sees 192.168.77.2");
    assert_eq!(world.client.tcp(NODE.parse::<Ipv4Addr>().expect("an address"), 8080), "error ConnectionRefused");
    assert_eq!(world.node.tcp(Ipv4Addr::LOCALHOST, 8080), "error ConnectionRefused");
    assert_eq!(world.node.ask("127.0.0.1", 8081), "one sees 192.168.77.1");
    assert_eq!(world.client.tcp(NODE.parse::<Ipv4Addr>().expect("an address"), 8081), "error ConnectionRefused");
}

/// The links let 127/8 pass; a pod that sends there must not reach services that listen on the
/// node's loopback only.
#[test]
fn pods_do_not_reach_the_nodes_loopback() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let (one, _) = world.attach("one", &[]);
    let server = world.node.inside(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 90))).expect("a socket can be opened");
    server.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout can be set");
    // Bound to eth0, a packet for 127.0.0.1 leaves the pod, as one of a raw socket would.
    let attacker = one.udp_client();
    nix::sys::socket::setsockopt(&attacker, nix::sys::socket::sockopt::BindToDevice, &"eth0".into()).expect("it can be bound");
    let arrives = || {
        attacker.send_to(b"!", (Ipv4Addr::LOCALHOST, 90)).expect("it is sent");
        server.recv(&mut [0; 8]).is_ok()
    };
    assert!(!arrives());
    nftables::remove(&mut world.node.netfilter(), "everynode").expect("rules can be removed");
    assert!(arrives(), "without the rules it would");
}

#[test]
fn host_ports_have_one_owner() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let (_one, _) = world.attach("one", &ports(8080, None));
    let before = world.traces();
    let other = Namespace::new();
    let error = world.attach_to("two", &other, &ports(8080, None)).expect_err("the port is taken");
    assert!(matches!(&error, PodNetworkError::HostPortTaken { sandbox, port: 8080, .. } if sandbox == "one"), "{error}");
    assert_eq!(world.traces(), before);
    wait(world.network.detach("one")).expect("it is detached");
    world.attach_to("two", &other, &ports(8080, None)).expect("the port is free again");
}

#[test]
fn a_failed_attach_leaves_nothing() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let (_one, _) = world.attach("one", &[]);
    let before = world.traces();
    let missing = wait(world.network.attach("two", "/proc/self/no-such-file".as_ref(), &ports(8080, None)));
    assert!(matches!(missing, Err(PodNetworkError::Namespace { .. })), "{missing:?}");
    // The file cannot be written.
    let in_the_way = world.directory.path().join("pods.new");
    std::fs::create_dir(&in_the_way).expect("a directory can be made");
    let unwritten = world.attach_to("two", &Namespace::new(), &ports(8080, None));
    assert!(matches!(unwritten, Err(PodNetworkError::StateFile { .. })), "{unwritten:?}");
    std::fs::remove_dir(&in_the_way).expect("the directory can be removed");
    assert_eq!(world.traces(), before);
    // A namespace whose eth0 another program made: the link cannot be made.
    let (stranger, occupied) = (Namespace::new(), Namespace::new());
    stranger.cable("other0", "192.168.78.1/24", &occupied, "192.168.78.2/24", false);
    let failed = world.attach_to("two", &occupied, &ports(8080, None));
    assert!(matches!(failed, Err(PodNetworkError::Kernel(_))), "{failed:?}");
    assert_eq!(world.traces(), before);
    assert_eq!(stranger.links().len(), 2, "the other's link is still there");
}

#[test]
fn attaching_again_repairs_and_answers_the_same() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let (one, address) = world.attach("one", &ports(8080, None));
    one.serve(80, "one");
    let sound = world.traces();
    assert_eq!(world.attach_to("one", &one, &ports(8080, None)).expect("it is attached again"), address);
    assert_eq!(world.traces(), sound);
    // Rules and link gone: both come back.
    nftables::remove(&mut world.node.netfilter(), "everynode").expect("rules can be removed");
    let link = pod_links(&world.node).remove(0);
    world.node.route().delete_link(&link).expect("a link can be removed");
    assert_eq!(world.attach_to("one", &one, &ports(8080, None)).expect("it is repaired"), address);
    assert_eq!(world.client.ask(NODE, 8080), "one sees 192.168.77.2");
    // Another namespace for the same sandbox: the old one loses its link.
    let fresh = Namespace::new();
    assert_eq!(world.attach_to("one", &fresh, &ports(8081, None)).expect("it moves"), address);
    fresh.serve(80, "fresh");
    assert_eq!(world.client.ask(NODE, 8081), "fresh sees 192.168.77.2");
    assert!(one.links().iter().all(|link| link.name != "eth0"));
}

#[test]
fn rules_come_back_with_the_next_attach_when_somebody_flushed_them() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let (one, _) = world.attach("one", &ports(8080, None));
    one.serve(80, "one");
    nftables::remove(&mut world.node.netfilter(), "everynode").expect("rules can be removed");
    let (_two, _) = world.attach("two", &ports(8082, None));
    assert_eq!(world.client.ask(NODE, 8080), "one sees 192.168.77.2");
}

#[test]
fn detach_frees_and_may_be_repeated() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    wait(world.network.retain(&[])).expect("nothing to remove");
    let before = world.traces();
    let (one, first) = world.attach("one", &ports(8080, None));
    drop(one);
    wait(world.network.detach("one")).expect("it is detached though its namespace is gone");
    wait(world.network.detach("one")).expect("and again");
    wait(world.network.detach("never-seen")).expect("and what never was");
    let (_two, second) = world.attach("two", &[]);
    assert_ne!(first, second, "an address just given back is not used at once");
    wait(world.network.detach("two")).expect("it is detached");
    assert_eq!(world.traces(), before);
}

#[test]
fn a_udp_client_that_never_stops_sending_reaches_the_next_pod() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let target = (NODE.parse::<IpAddr>().expect("an address"), 8080).into();
    let client = world.client.udp_client();
    // A flow from before there is a pod: the kernel remembers it as going to the node itself.
    assert!(ask(&client, target).starts_with("error"));
    let (one, _) = world.attach("one", &ports(8080, None));
    one.serve(80, "one");
    assert_eq!(ask(&client, target), "one sees 192.168.77.2");
    wait(world.network.detach("one")).expect("it is detached");
    let (two, _) = world.attach("two", &ports(8080, None));
    two.serve(80, "two");
    assert_eq!(ask(&client, target), "two sees 192.168.77.2");
}

#[test]
fn a_restart_keeps_the_live_and_removes_the_dead() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let mut world = World::new();
    let (one, address) = world.attach("one", &ports(8080, None));
    let (_two, _) = world.attach("two", &ports(8081, None));
    one.serve(80, "one");
    world.reopen();
    wait(world.network.retain(&["one".to_string()])).expect("the dead are removed");
    assert_eq!(pod_links(&world.node).len(), 1);
    assert_eq!(world.client.ask(NODE, 8080), "one sees 192.168.77.2");
    assert_eq!(world.attach_to("one", &one, &ports(8080, None)).expect("still attached"), address);
    let (_three, _) = world.attach("three", &ports(8081, None));
}

/// The file says less than the kernel has.
#[test]
fn a_lost_file_is_made_up_for_by_the_links() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let mut world = World::new();
    let (one, one_address) = world.attach("one", &[]);
    let (_two, two_address) = world.attach("two", &[]);
    std::fs::remove_file(world.directory.path().join("pods.json")).expect("the file was there");
    world.reopen();
    let (_three, three_address) = world.attach("three", &[]);
    assert!(three_address != one_address && three_address != two_address, "{three_address} is in use");
    assert_eq!(world.attach_to("one", &one, &[]).expect("it is known by its link"), one_address);
    wait(world.network.retain(&["one".to_string(), "three".to_string()])).expect("the rest is removed");
    assert_eq!(pod_links(&world.node).len(), 2);
}

/// The file says more than the kernel has, as after a crash between its steps.
#[test]
fn an_allocation_without_a_link_is_harmless() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let mut world = World::new();
    let (one, address) = world.attach("one", &ports(8080, None));
    let (_two, _) = world.attach("two", &[]);
    for link in pod_links(&world.node) {
        world.node.route().delete_link(&link).expect("a link can be removed");
    }
    world.reopen();
    assert_eq!(world.attach_to("one", &one, &ports(8080, None)).expect("it is attached"), address);
    one.serve(80, "one");
    assert_eq!(world.client.ask(NODE, 8080), "one sees 192.168.77.2");
    wait(world.network.detach("two")).expect("it is detached");
    wait(world.network.retain(&[])).expect("all are removed");
    assert!(pod_links(&world.node).is_empty());
}

#[test]
fn foreign_tables_are_untouched_and_seen() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let foreign = foreign();
    nftables::replace(&mut world.node.netfilter(), &foreign).expect("a foreign table");
    let before = world.node.table("foreign");
    assert_eq!((before.chains.len(), before.rules.len(), before.elements.len()), (1, 1, 1));
    let (_one, _) = world.attach("one", &ports(8080, None));
    wait(world.network.retain(&[])).expect("all are removed");
    assert_eq!(world.node.table("foreign"), before);
    assert!(wait(world.network.obstacles()).expect("they can be listed").is_empty());
}

#[test]
fn a_foreign_chain_that_drops_by_default_is_an_obstacle() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    dropping_chain(&world.node, "FORWARD", FORWARD);
    let obstacles = wait(world.network.obstacles()).expect("they can be listed");
    let expected = "chain FORWARD of table theirs drops forwarded packets that it does not accept: let it accept 10.244.0.0/16";
    assert_eq!(obstacles, [expected]);
}

fn foreign() -> Ruleset {
    let key = vec![Field::SourceAddress, Field::DestinationAddress];
    let element = vec![Value::Address(Ipv4Addr::new(1, 2, 3, 4)), Value::Address(Ipv4Addr::new(5, 6, 7, 8))];
    Ruleset {
        table: "foreign".to_string(),
        maps: vec![Map {
            name: "theirs".to_string(),
            kind: MapKind::Set,
            key: key.clone(),
            elements: BTreeMap::from([(element, Vec::new())]),
        }],
        chains: vec![Chain {
            name: "theirs".to_string(),
            kind: ChainKind::Filter { hook: Hook::Forward, priority: 7 },
            rules: vec![Rule::new([Match::InSet { set: "theirs".to_string(), key }], Action::Drop)],
        }],
    }
}

/// Calls for different sandboxes overlap in an agent.
#[test]
fn pods_come_and_go_at_the_same_time() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    wait(world.network.retain(&[])).expect("nothing to remove");
    let before = world.traces();
    let times = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                scope.spawn({
                    let world = &world;
                    move || churn(world, worker)
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no worker panics")).collect()
    });
    assert_eq!(world.traces(), before);
    println!("pods coming while others go: attach p50 {:?}", median(times));
}

/// Attaches and detaches pods; answers how long the attaches took.
fn churn(world: &World, worker: u16) -> Vec<Duration> {
    let pod = Namespace::new();
    let mut times = Vec::new();
    for round in 0..10 {
        let id = format!("pod-{worker}-{round}");
        let start = Instant::now();
        world.attach_to(&id, &pod, &ports(20_000 + worker, None)[..1]).expect("it is attached");
        times.push(start.elapsed());
        wait(world.network.detach(&id)).expect("it is detached");
    }
    times
}

#[test]
fn a_hundred_pods_come_and_go_without_a_trace() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    // The file and the tables are there from now on.
    wait(world.network.retain(&[])).expect("nothing to remove");
    let before = world.traces();
    let pods: Vec<Namespace> = (0..100).map(|_| Namespace::new()).collect();
    let mut attach_times = Vec::new();
    for (number, pod) in (0..).zip(&pods) {
        let start = Instant::now();
        // Every tenth with UDP too, which takes the kernel's whole list of connections to be read.
        let mapped = if number % 10 == 0 { 2 } else { 1 };
        world.attach_to(&format!("pod-{number}"), pod, &ports(20_000 + number, None)[..mapped]).expect("it is attached");
        attach_times.push(start.elapsed());
    }
    assert_eq!(pod_links(&world.node).len(), 100);
    let mut detach_times = Vec::new();
    for number in 0..pods.len() {
        let start = Instant::now();
        wait(world.network.detach(&format!("pod-{number}"))).expect("it is detached");
        detach_times.push(start.elapsed());
    }
    assert_eq!(world.traces(), before);
    println!("100 pods: attach p50 {:?}, detach p50 {:?}", median(attach_times), median(detach_times));
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn pod_links(node: &Namespace) -> Vec<String> {
    node.links().into_iter().map(|link| link.name).filter(|name| name.starts_with("evp")).collect()
}
