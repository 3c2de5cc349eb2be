//! [`net::peers`] on three nodes: two on one bridge, the third behind a router.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use containers::{Peer, Way, WireGuardKey};
use ipnet::Ipv4Net;
use net::netlink::{Address, DeviceSettings, Route, RouteProtocol, Veth, Vxlan};
use net::peers::{Applied, PeerNetwork, PeerNetworkSettings, VXLAN_PORT, WIREGUARD_PORT, WireGuardDriver};
use net::pods::{PodNetwork, PodNetworkSettings};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use testing::Need;

use crate::NEEDS;
use crate::world::{CALM, INPUT, Namespace, dropping_chain, wait};

const ADDRESSES: [&str; 3] = ["192.168.1.1", "192.168.1.2", "192.168.2.3"];
const ANYWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
const OURS: RouteProtocol = RouteProtocol(101);
const VXLAN: &str = "everynode-vxlan";
const WIREGUARD: &str = "everynode-wg";

struct Node {
    namespace: Namespace,
    address: Ipv4Addr,
    pod_cidr: Ipv4Net,
    driver: WireGuardDriver,
    network: PeerNetwork,
    pods: PodNetwork,
    _directory: tempfile::TempDir,
}

/// The networks of the nodes, and the nodes.
struct World {
    router: Namespace,
    nodes: Vec<Node>,
}

/// A way of which a node knows its own end only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Direct,
    Vxlan,
    WireGuard,
}

impl Node {
    fn new(namespace: Namespace, number: usize, driver: WireGuardDriver) -> Self {
        // Nodes of distributions that insist on strict sources.
        namespace.inside(|| net::namespace::set_sysctl("ipv4/conf/all/rp_filter", "1")).expect("it can be set");
        let address = ADDRESSES[number - 1].parse().expect("an address");
        let pod_cidr = format!("10.244.{number}.0/24").parse().expect("a range");
        let network = open(&namespace, address, pod_cidr, driver);
        let directory = tempfile::tempdir().expect("a directory");
        let settings = PodNetworkSettings {
            state_file: directory.path().join("pods.json"),
            pod_cidr,
            cluster_cidr: "10.244.0.0/16".parse().expect("a range"),
            node_addresses: vec![address.into()],
            table: "everynode".to_string(),
        };
        let pods = namespace.inside(|| PodNetwork::open(settings).map_err(io::Error::other)).expect("the network opens");
        Self { namespace, address, pod_cidr, driver, network, pods, _directory: directory }
    }

    /// As another node sees this one.
    fn peer(&mut self, kind: Kind) -> Peer {
        let way = match kind {
            Kind::Direct => Way::Direct,
            Kind::Vxlan => Way::Vxlan,
            Kind::WireGuard => Way::WireGuard { public_key: self.network.public_key().expect("there is a key") },
        };
        Peer { name: self.pod_cidr.to_string(), address: self.address.into(), pod_cidr: self.pod_cidr.into(), way }
    }

    /// What a restart of the agent does.
    fn reopen(&mut self) {
        self.network = open(&self.namespace, self.address, self.pod_cidr, self.driver);
    }

    fn apply(&mut self, peers: &[Peer]) -> Applied {
        self.network.apply(peers).expect("the kernel can be asked")
    }

    fn pod(&self, name: &str) -> (Namespace, String) {
        let pod = Namespace::new();
        let address = wait(self.pods.attach(name, &pod.path(), &[])).expect("the pod is attached")[0];
        (pod, address.to_string())
    }

    fn traces(&self) -> String {
        let links: Vec<String> = self.namespace.links().into_iter().map(|link| link.name).collect();
        let mut route = self.namespace.route();
        let (routes, addresses) = (route.routes().expect("routes"), route.addresses().expect("addresses"));
        format!("{links:?} {routes:?} {addresses:?}")
    }

    fn our_routes(&self) -> Vec<String> {
        let routes = self.namespace.route().routes().expect("routes can be read");
        routes.iter().filter(|route| route.protocol == OURS).map(|route| route.destination.to_string()).collect()
    }

    fn mtu(&self, device: &str) -> Option<u32> {
        self.namespace.route().link(device).expect("links can be read").map(|link| link.mtu)
    }
}

fn open(namespace: &Namespace, node_address: Ipv4Addr, pod_cidr: Ipv4Net, wireguard: WireGuardDriver) -> PeerNetwork {
    let settings = PeerNetworkSettings { wireguard, ..PeerNetworkSettings::new(node_address, pod_cidr) };
    namespace.inside(|| PeerNetwork::open(settings).map_err(io::Error::other)).expect("the network opens")
}

impl World {
    fn new(driver: WireGuardDriver) -> Self {
        let router = Namespace::new();
        router.inside(|| net::namespace::set_sysctl("ipv4/ip_forward", "1")).expect("it can forward");
        let mut route = router.route();
        let bridge = route.ensure_bridge("bridge", [2, 0, 0, 0, 0, 1]).expect("a bridge");
        route.set_up(bridge, &CALM).expect("it comes up");
        let gateway: Ipv4Net = "192.168.1.254/24".parse().expect("an address");
        route.add_address(&Address { link: bridge, address: gateway, link_only: false }).expect("it has an address");
        let mut nodes = Vec::new();
        for number in 1..=2 {
            let namespace = Namespace::new();
            let mut inside = namespace.route();
            let outside = format!("node{number}");
            let veth = Veth { outside: &outside, inside: "eth0", mtu: 1500, controller: Some(bridge), hardware_address: None };
            let pair = route.ensure_veth(namespace.file(), &mut inside, &veth).expect("a cable");
            route.set_up(pair.outside, &DeviceSettings { controller: Some(bridge), ..CALM }).expect("this end comes up");
            inside.set_up(pair.inside, &CALM).expect("that end comes up");
            let address = format!("{}/24", ADDRESSES[number - 1]).parse().expect("an address");
            inside.add_address(&Address { link: pair.inside, address, link_only: false }).expect("it has an address");
            inside.replace_route(&Route::via(ANYWHERE, gateway.addr(), pair.inside)).expect("a default route");
            nodes.push(Node::new(namespace, number, driver));
        }
        let third = Namespace::new();
        router.cable("node3", "192.168.2.254/24", &third, "192.168.2.3/24", true);
        nodes.push(Node::new(third, 3, driver));
        Self { router, nodes }
    }

    /// Tells the first nodes of each other. Nothing may fail.
    fn connect(&mut self, count: usize, kind: Kind) {
        let peers: Vec<Peer> = self.nodes[..count].iter_mut().map(|node| node.peer(kind)).collect();
        for (place, node) in self.nodes[..count].iter_mut().enumerate() {
            let others: Vec<Peer> = peers.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, peer)| peer.clone()).collect();
            assert_eq!(node.apply(&others).failed, BTreeMap::new());
        }
    }

    /// Fragments that any machine made.
    fn fragments(&self, pods: &[(Namespace, String)]) -> u64 {
        let namespaces = self.nodes.iter().map(|node| &node.namespace).chain([&self.router]).chain(pods.iter().map(|(pod, _)| pod));
        namespaces.map(fragments).sum()
    }
}

fn fragments(namespace: &Namespace) -> u64 {
    let text = namespace.inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).expect("counters can be read");
    let mut lines = text.lines().filter(|line| line.starts_with("Ip: ")).map(|line| line.split_whitespace());
    let (Some(names), Some(mut values)) = (lines.next(), lines.next()) else { panic!("no counters: {text}") };
    let place = names.enumerate().find(|(_, name)| *name == "FragCreates").expect("it is counted").0;
    values.nth(place).expect("a value").parse().expect("a number")
}

/// Who encrypts here: this process, and the kernel where it can.
fn drivers() -> Vec<WireGuardDriver> {
    let kernel = Namespace::new();
    let known = kernel.route().add_wireguard("test", 1420).is_ok();
    let drivers = [(WireGuardDriver::Process, true), (WireGuardDriver::KernelIfKnown, known)];
    drivers.into_iter().filter(|(_, is_there)| *is_there).map(|(driver, _)| driver).collect()
}

fn can_run() -> bool {
    let tun = Need::Machine { what: "/dev/net/tun", is_there: File::open("/dev/net/tun").is_ok() };
    testing::can_run(&NEEDS) && testing::can_run(&[tun])
}

/// Sends bytes over TCP, and answers how many arrived.
fn pour(from: &Namespace, to: &Namespace, address: &str, bytes: usize) -> usize {
    let server = to.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 70))).expect("a server");
    let sink = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        io::copy(&mut stream, &mut io::sink()).unwrap_or(0)
    });
    let target = (address.parse::<Ipv4Addr>().expect("an address"), 70);
    let sent = from.inside(|| {
        let mut stream = TcpStream::connect_timeout(&target.into(), Duration::from_secs(10))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(&vec![7; bytes])
    });
    sent.expect("all is sent");
    sink.join().expect("the server ends") as usize
}

/// Whether a datagram of this length arrives.
fn arrives(from: &Namespace, to: &Namespace, address: &str, length: usize) -> bool {
    let server = to.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 71))).expect("a server");
    server.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let client = from.udp_client();
    client.send_to(&vec![7; length], (address.parse::<Ipv4Addr>().expect("an address"), 71)).expect("it is sent");
    server.recv(&mut vec![0; 1 << 16]).is_ok_and(|received| received == length)
}

/// All pods reach all others, and all nodes, with the addresses that they should have.
fn check_traffic(world: &World, count: usize, kind: Kind, mtu: u32) {
    let nodes = &world.nodes[..count];
    let pods: Vec<(Namespace, String)> = nodes.iter().map(|node| node.pod("pod")).collect();
    pods.iter().for_each(|(pod, _)| pod.serve(80, "pod"));
    for (from, (pod, address)) in pods.iter().enumerate() {
        assert_eq!(pod.links().iter().find(|link| link.name == "eth0").map(|link| link.mtu), Some(mtu), "{kind:?}");
        for (to, (other, target)) in pods.iter().enumerate().filter(|(to, _)| *to != from) {
            let case = format!("{kind:?} from node {} to node {}", from + 1, to + 1);
            assert_eq!(pod.ask(target, 80), format!("pod sees {address}"), "{case}");
            let own = if kind == Kind::Direct { nodes[from].address } else { nodes[from].pod_cidr.network() };
            assert_eq!(nodes[from].namespace.ask(target, 80), format!("pod sees {own}"), "{case}, from the node itself");
            let before = world.fragments(&pods);
            assert_eq!(pour(pod, other, target, 1 << 20), 1 << 20, "{case}");
            assert!(arrives(pod, other, target, mtu as usize - 28), "{case}: a full packet");
            assert_eq!(world.fragments(&pods), before, "{case}: nothing is cut");
            assert!(arrives(pod, other, target, mtu as usize - 27), "{case}: one byte more");
            assert_ne!(world.fragments(&pods), before, "{case}: and would be, if it were larger");
        }
    }
    nodes.iter().for_each(|node| wait(node.pods.detach("pod")).expect("the pod is detached"));
}

#[test]
fn neighbours_reach_each_other_by_routes() {
    if !can_run() {
        return;
    }
    let mut world = World::new(WireGuardDriver::default());
    world.connect(2, Kind::Direct);
    check_traffic(&world, 2, Kind::Direct, 1500);
    assert_eq!(world.nodes[0].mtu(VXLAN).or(world.nodes[0].mtu(WIREGUARD)), None, "no tunnel without need");
    let far = world.nodes[2].peer(Kind::Direct);
    let applied = world.nodes[0].apply(&[far]);
    assert_eq!(applied.failed.keys().collect::<Vec<_>>(), ["10.244.3.0/24"]);
}

#[test]
fn vxlan_reaches_nodes_of_other_networks() {
    if !can_run() {
        return;
    }
    let mut world = World::new(WireGuardDriver::default());
    world.connect(3, Kind::Vxlan);
    check_traffic(&world, 3, Kind::Vxlan, 1450);
}

/// Pods keep the size of their link. The node tells them what is too large.
#[test]
fn pods_from_before_the_tunnel_learn_its_size() {
    if !can_run() {
        return;
    }
    for kind in [Kind::Vxlan, Kind::WireGuard] {
        let mut world = World::new(WireGuardDriver::Process);
        let (near, far) = (world.nodes[0].pod("pod"), world.nodes[2].pod("pod"));
        world.connect(3, kind);
        assert_eq!(pour(&near.0, &far.0, &far.1, 1 << 20), 1 << 20, "{kind:?}");
        assert_eq!(pour(&far.0, &near.0, &near.1, 1 << 20), 1 << 20, "{kind:?}");
    }
}

#[test]
fn wireguard_reaches_nodes_of_other_networks() {
    if !can_run() {
        return;
    }
    for driver in drivers() {
        let mut world = World::new(driver);
        world.connect(3, Kind::WireGuard);
        check_traffic(&world, 3, Kind::WireGuard, 1440);
    }
}

/// It is faster there, and outlives this process.
#[test]
fn the_kernel_encrypts_where_it_can() {
    let kernel = Need::Machine { what: "WireGuard of the kernel", is_there: testing::can_run(&NEEDS) && drivers().len() == 2 };
    if !can_run() || !testing::can_run(&[kernel]) {
        return;
    }
    let mut world = World::new(WireGuardDriver::default());
    let node = &mut world.nodes[0];
    let key = node.network.public_key().expect("there is a key");
    let kind = |node: &Node| node.namespace.route().link(WIREGUARD).expect("links").map(|link| link.kind);
    assert_eq!(kind(node).as_deref(), Some("wireguard"));
    node.reopen();
    assert_eq!(node.network.public_key().expect("there is a key"), key);
    node.driver = WireGuardDriver::Process;
    node.reopen();
    assert_ne!(node.network.public_key().expect("there is a key"), key);
    assert_eq!(kind(node).as_deref(), Some("tun"));
}

#[test]
fn a_node_reaches_each_peer_in_its_own_way() {
    if !can_run() {
        return;
    }
    let mut world = World::new(WireGuardDriver::Process);
    let [first, second, third] = &mut world.nodes[..] else { panic!("three nodes") };
    let (to_second, to_third) = (second.peer(Kind::Direct), third.peer(Kind::WireGuard));
    let (back_direct, back_encrypted) = (first.peer(Kind::Direct), first.peer(Kind::WireGuard));
    first.apply(&[to_second, to_third]);
    second.apply(&[back_direct]);
    third.apply(&[back_encrypted]);
    let pods = [first.pod("pod"), second.pod("pod"), third.pod("pod")];
    pods.iter().for_each(|(pod, _)| pod.serve(80, "pod"));
    for other in &pods[1..] {
        assert_eq!(pods[0].0.ask(&other.1, 80), "pod sees 10.244.1.2");
        assert_eq!(other.0.ask(&pods[0].1, 80), format!("pod sees {}", other.1));
    }
}

/// Nodes hear of each other at different times, and some insist on strict sources.
#[test]
fn a_tunnel_takes_packets_whose_answers_go_another_way() {
    if !can_run() {
        return;
    }
    let mut world = World::new(WireGuardDriver::Process);
    let [first, second, third] = &mut world.nodes[..] else { panic!("three nodes") };
    second.apply(&[first.peer(Kind::Direct), third.peer(Kind::Vxlan)]);
    first.apply(&[second.peer(Kind::Vxlan)]);
    let (from, to) = (first.pod("pod"), second.pod("pod"));
    assert!(arrives(&from.0, &to.0, &to.1, 100));
}

#[test]
fn what_is_right_is_left_alone() {
    if !can_run() {
        return;
    }
    for driver in drivers() {
        let mut world = World::new(driver);
        let [first, second, third] = &mut world.nodes[..] else { panic!("three nodes") };
        let mut stranger = second.peer(Kind::WireGuard);
        stranger.name = "encrypted".to_owned();
        stranger.pod_cidr = "10.244.9.0/24".parse().expect("a range");
        let peers = [second.peer(Kind::Direct), third.peer(Kind::Vxlan), stranger];
        assert!(first.apply(&peers).messages > 6);
        assert_eq!(first.apply(&peers), Applied::default());
        let (key, before) = (first.network.public_key().expect("there is a key"), first.traces());
        let is_kernels = driver == WireGuardDriver::KernelIfKnown;
        if !is_kernels {
            // What this process encrypts ends with it; everything else stays.
            assert_eq!(first.apply(&peers[..2]).messages, 2, "a peer and a route");
        }
        first.reopen();
        let peers = if is_kernels { &peers[..] } else { &peers[..2] };
        assert_eq!(first.apply(peers), Applied::default(), "after a restart");
        if is_kernels {
            assert_eq!(first.network.public_key().expect("there is a key"), key);
            assert_eq!(first.traces(), before);
        }
    }
}

#[test]
fn stale_routes_go_and_those_of_others_stay() {
    if !can_run() {
        return;
    }
    let mut world = World::new(WireGuardDriver::default());
    let [first, second, third] = &mut world.nodes[..] else { panic!("three nodes") };
    let (direct, tunnelled) = (second.peer(Kind::Direct), third.peer(Kind::Vxlan));
    let link = first.namespace.route().link("eth0").expect("links").expect("it is there").index;
    let foreign = Route::via("10.99.0.0/24".parse().expect("a range"), second.address, link);
    let contested = Route::via("10.244.7.0/24".parse().expect("a range"), second.address, link);
    for route in [&foreign, &contested] {
        first.namespace.route().replace_route(route).expect("another program's route");
    }
    let wants = |range: &str| Peer { name: "other".to_owned(), pod_cidr: range.parse().expect("a range"), ..direct.clone() };
    let applied = first.apply(&[direct.clone(), wants("10.244.7.0/24"), tunnelled.clone()]);
    let expected = "another program has made a route to 10.244.7.0/24: remove it, or change the range";
    assert_eq!(applied.failed, BTreeMap::from([("other".to_owned(), expected.to_owned())]));
    assert_eq!(first.our_routes(), ["10.244.2.0/24", "10.244.3.0/24"]);
    // Found by a later process, too.
    first.reopen();
    assert_eq!(first.apply(&[tunnelled]).messages, 1);
    assert_eq!(first.our_routes(), ["10.244.3.0/24"]);
    assert_eq!(first.apply(&[]).messages, 1, "the device takes all else with it");
    let routes = first.namespace.route().routes().expect("routes can be read");
    assert!(routes.contains(&foreign) && routes.contains(&contested), "{routes:?}");
    assert_eq!(first.our_routes(), Vec::<String>::new());
}

#[test]
fn nothing_is_left() {
    if !can_run() {
        return;
    }
    for driver in drivers() {
        let mut world = World::new(driver);
        let before: Vec<String> = world.nodes.iter().map(Node::traces).collect();
        world.connect(3, Kind::WireGuard);
        world.connect(3, Kind::Vxlan);
        assert_ne!(world.nodes[0].traces(), before[0]);
        for (node, before) in world.nodes.into_iter().zip(before) {
            let Node { namespace, address, pod_cidr, network, .. } = node;
            network.remove().expect("all is removed");
            open(&namespace, address, pod_cidr, driver).remove().expect("and again");
            let mut route = namespace.route();
            let links: Vec<String> = namespace.links().into_iter().map(|link| link.name).collect();
            let (routes, addresses) = (route.routes().expect("routes"), route.addresses().expect("addresses"));
            assert_eq!(format!("{links:?} {routes:?} {addresses:?}"), before);
        }
    }
}

/// A node gets another address from its provider, or another machine takes its name.
#[test]
fn a_node_that_moves_is_followed() {
    if !can_run() {
        return;
    }
    for (kind, driver) in
        [Kind::Vxlan, Kind::WireGuard].into_iter().flat_map(|kind| drivers().into_iter().map(move |driver| (kind, driver)))
    {
        let mut world = World::new(driver);
        world.connect(3, kind);
        let (near, far) = (world.nodes[1].pod("pod"), world.nodes[2].pod("pod"));
        near.0.serve(80, "near");
        far.0.serve(80, "far");
        assert_eq!(near.0.ask(&far.1, 80), format!("far sees {}", near.1));
        let moving = &mut world.nodes[1];
        let mut route = moving.namespace.route();
        let link = route.link("eth0").expect("links").expect("it is there").index;
        let address = |text: &str| Address { link, address: text.parse().expect("an address"), link_only: false };
        route.delete_address(&address("192.168.1.2/24")).expect("it is removed");
        route.add_address(&address("192.168.1.22/24")).expect("it is added");
        route.replace_route(&Route::via(ANYWHERE, Ipv4Addr::new(192, 168, 1, 254), link)).expect("a default route");
        moving.address = Ipv4Addr::new(192, 168, 1, 22);
        moving.network.set_node_address(moving.address);
        // With its address, the kernel took away the routes to pods that have it as their source.
        wait(moving.pods.attach("pod", &near.0.path(), &[])).expect("the pod is attached again");
        world.connect(3, kind);
        assert_eq!(near.0.ask(&far.1, 80), format!("far sees {}", near.1), "{kind:?}");
        assert_eq!(far.0.ask(&near.1, 80), format!("near sees {}", far.1), "{kind:?}");
    }
}

#[test]
fn a_device_of_another_kind_is_replaced() {
    if !can_run() {
        return;
    }
    let mut world = World::new(WireGuardDriver::Process);
    let theirs = Vxlan { id: 9, local: world.nodes[0].address, port: 4789, learns: true };
    let mut route = world.nodes[0].namespace.route();
    route.add_vxlan(VXLAN, [2, 0, 0, 0, 0, 9], 1400, &theirs).expect("a device under our name");
    route.ensure_bridge(WIREGUARD, [2, 0, 0, 0, 0, 9]).expect("another one");
    world.connect(3, Kind::Vxlan);
    let vxlan = route.link(VXLAN).expect("links").expect("it is there").vxlan.expect("it is one");
    assert_eq!((vxlan.port, vxlan.learns), (VXLAN_PORT, false));
    world.nodes[0].network.public_key().expect("there is a key");
    assert_eq!(route.link(WIREGUARD).expect("links").expect("it is there").kind, "tun");
    // Another program removes it: the same key comes back with it.
    let key = world.nodes[0].network.public_key().expect("there is a key");
    route.delete_link(WIREGUARD).expect("it can be removed");
    assert_eq!(world.nodes[0].network.public_key().expect("there is a key"), key);
    world.connect(3, Kind::WireGuard);
    check_traffic(&world, 3, Kind::WireGuard, 1440);
}

/// A larger link of the node, or a smaller one.
#[test]
fn devices_follow_the_size_of_the_nodes_link() {
    if !can_run() {
        return;
    }
    let mut world = World::new(WireGuardDriver::Process);
    world.connect(3, Kind::Vxlan);
    let node = &mut world.nodes[0];
    let mut route = node.namespace.route();
    let link = route.link("eth0").expect("links").expect("it is there").index;
    route.set_up(link, &DeviceSettings { mtu: Some(1400), ..CALM }).expect("it gets smaller");
    node.network.public_key().expect("there is a key");
    let peer = world.nodes[1].peer(Kind::Vxlan);
    assert_eq!(world.nodes[0].apply(std::slice::from_ref(&peer)).failed, BTreeMap::new());
    assert_eq!((world.nodes[0].mtu(VXLAN), world.nodes[0].mtu(WIREGUARD)), (Some(1350), Some(1340)));
    assert_eq!(world.nodes[0].apply(&[peer]).messages, 0);
}

/// All frames that the router sees while `work` runs.
fn frames(router: &Namespace, work: impl FnOnce()) -> Vec<Vec<u8>> {
    let opened = router.inside(|| {
        Ok(socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)?)
    });
    let capture = opened.expect("frames can be seen");
    work();
    let mut buffer = vec![0; 1 << 16];
    let next = || recv(capture.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok().map(|length| buffer[..length].to_vec());
    std::iter::from_fn(next).collect()
}

fn shows(frames: &[Vec<u8>], secret: &[u8]) -> bool {
    frames.iter().any(|frame| frame.windows(secret.len()).any(|bytes| bytes == secret))
}

#[test]
fn nothing_on_the_wire_can_be_read() {
    if !can_run() {
        return;
    }
    let talk = |from: &Namespace, to: &str| {
        for _ in 0..3 {
            from.udp(to.parse::<Ipv4Addr>().expect("an address"), 80);
        }
    };
    let secret = b"a secret of pods";
    let cases = drivers().into_iter().flat_map(|driver| [(Kind::Vxlan, driver), (Kind::WireGuard, driver)]);
    for (kind, driver) in cases {
        let mut world = World::new(driver);
        world.connect(3, kind);
        let (near, far) = (world.nodes[0].pod("pod"), world.nodes[2].pod("pod"));
        far.0.serve(80, "a secret of pods");
        let seen = frames(&world.router, || talk(&near.0, &far.1));
        let port = if kind == Kind::Vxlan { VXLAN_PORT } else { WIREGUARD_PORT };
        assert!(shows(&seen, &port.to_be_bytes()), "{kind:?}: {} frames", seen.len());
        assert_eq!(shows(&seen, secret), kind == Kind::Vxlan, "{kind:?}");
        for node in &world.nodes {
            wait(node.pods.detach("pod")).expect("the pod is detached");
        }
    }
}

#[test]
fn another_key_gets_nothing_and_a_new_one_is_followed() {
    if !can_run() {
        return;
    }
    for driver in drivers() {
        let mut world = World::new(driver);
        world.connect(3, Kind::WireGuard);
        let (near, far) = (world.nodes[0].pod("pod"), world.nodes[2].pod("pod"));
        near.0.serve(80, "near");
        far.0.serve(80, "far");
        assert_eq!(far.0.ask(&near.1, 80), format!("near sees {}", far.1));
        let [first, _, third] = &mut world.nodes[..] else { panic!("three nodes") };
        let (back, right) = (first.peer(Kind::WireGuard), third.peer(Kind::WireGuard));
        let wrong = Peer { way: Way::WireGuard { public_key: WireGuardKey([9; 32]) }, ..right.clone() };
        assert_eq!(first.apply(&[wrong]).failed, BTreeMap::new());
        assert!(far.0.ask(&near.1, 80).starts_with("tcp error"), "the session of the old key is gone");
        let own = Peer { way: back.way, ..right };
        assert_eq!(first.apply(&[own]).failed.into_values().collect::<Vec<_>>(), ["its WireGuard key is this node's own"]);
        let route = first.namespace.route().routes().expect("routes").into_iter().find(|route| route.destination == third.pod_cidr);
        assert!(route.is_some_and(|route| route.is_unreachable), "what cannot be encrypted does not leave by another route");
        // The node comes back with a new key, as one without a disk does.
        third.reopen();
        third.namespace.route().delete_link(WIREGUARD).expect("the kernel's device is removed");
        let fresh = world.nodes[2].peer(Kind::WireGuard);
        assert_ne!(fresh.way, right.way);
        world.nodes[2].apply(&[back]);
        world.nodes[0].apply(&[fresh]);
        assert_eq!(far.0.ask(&near.1, 80), format!("near sees {}", far.1));
    }
}

#[test]
fn a_chain_that_drops_what_arrives_is_an_obstacle() {
    if !can_run() {
        return;
    }
    let mut world = World::new(WireGuardDriver::default());
    dropping_chain(&world.nodes[0].namespace, "INPUT", INPUT);
    assert_eq!(world.nodes[0].network.obstacles().expect("they can be listed"), Vec::<String>::new(), "there is no tunnel");
    world.connect(3, Kind::Vxlan);
    let expected = "chain INPUT of table theirs drops packets to this node that it does not accept: let it accept UDP port 14789";
    assert_eq!(world.nodes[0].network.obstacles().expect("they can be listed"), [expected]);
    let second = &mut world.nodes[1].network;
    assert_eq!(second.obstacles().expect("they can be listed"), Vec::<String>::new());
    second.set_node_address(Ipv4Addr::new(203, 0, 113, 7));
    let expected = "no interface of this node has its address 203.0.113.7: VXLAN packets cannot leave with it";
    assert_eq!(second.obstacles().expect("they can be listed"), [expected]);
}

/// The largest cluster that Kubernetes speaks of.
#[test]
fn five_thousand_peers() {
    if !can_run() {
        return;
    }
    let many = |way: fn(u32) -> Way| -> Vec<Peer> {
        (0..5_000)
            .map(|number: u32| Peer {
                name: format!("node-{number}"),
                address: Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 168, 0, 0)) + 1 + number).into(),
                pod_cidr: Ipv4Net::new_assert(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + (number << 8)), 24).into(),
                way: way(number),
            })
            .collect()
    };
    let key = |number: u32| {
        let mut key = [1; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        Way::WireGuard { public_key: WireGuardKey(key) }
    };
    let is_kernels = drivers().contains(&WireGuardDriver::KernelIfKnown);
    for (name, way) in [("direct", (|_| Way::Direct) as fn(u32) -> Way), ("vxlan", |_| Way::Vxlan), ("wireguard", key)] {
        let node = Namespace::new();
        let other = Namespace::new();
        other.cable("outside0", "192.168.200.2/16", &node, "192.168.200.1/16", false);
        let reopen = || open(&node, Ipv4Addr::new(192, 168, 200, 1), "10.200.0.0/24".parse().expect("a range"), WireGuardDriver::default());
        let (mut network, mut peers) = (reopen(), many(way));
        let timed = |network: &mut PeerNetwork, peers: &[Peer]| {
            let began = Instant::now();
            let applied = network.apply(peers).expect("the kernel can be asked");
            assert_eq!(applied.failed, BTreeMap::new());
            (applied.messages, began.elapsed())
        };
        let cold = timed(&mut network, &peers);
        assert!(cold.0 >= 5_000);
        let again = timed(&mut network, &peers);
        peers[4_000].address = Ipv4Addr::new(192, 168, 100, 7).into();
        let changed = timed(&mut network, &peers);
        assert_eq!((again.0, changed.0), (0, 1));
        // What this process encrypts would begin anew.
        let restarts = name != "wireguard" || is_kernels;
        let restarted = if restarts { timed(&mut reopen(), &peers) } else { again };
        assert_eq!(restarted.0, 0);
        println!("5,000 peers {name}: cold {cold:?}, nothing new {again:?}, one changed {changed:?}, restart (if any) {restarted:?}");
        network.remove().expect("all is removed");
    }
}
