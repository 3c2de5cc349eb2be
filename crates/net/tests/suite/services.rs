//! [`net::services`] with real rules and traffic: a node with three pods and a client outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use containers::{Backend, Backends, Protocol, ServicePort, ServicePortName, SourceRanges};
use net::nftables;
use net::services::{ServiceNetwork, ServiceSettings};

use testing::Need;

use crate::NEEDS;
use crate::world::{Namespace, ask};

const TABLE: &str = "services_under_test";
const CLUSTER: &str = "10.96.0.20";
const EXTERNAL: &str = "203.0.113.7";
const NODE: &str = "192.168.9.1";
const CLIENT: &str = "192.168.9.2";
const NODE_PORT: u16 = 30080;
const REFUSED: &str = "error ConnectionRefused";
/// Connecting takes as long as is waited for it; a datagram's answer, too.
const UNANSWERED: &str = "tcp error TimedOut, udp error WouldBlock";
/// By chance, all of them meet the same one of two endpoints once in a million million times.
const CONNECTIONS: usize = 40;

/// A node that forwards; pods 10.244.N.2, each with a server on port 8080; a client outside.
struct World {
    node: Namespace,
    pods: Vec<Namespace>,
    client: Namespace,
}

impl World {
    fn new() -> World {
        let node = Namespace::new();
        node.inside(|| net::namespace::set_sysctl("ipv4/ip_forward", "1")).expect("forwarding can be turned on");
        // Each refused datagram is answered, not only one a second.
        node.inside(|| net::namespace::set_sysctl("ipv4/icmp_ratelimit", "0")).expect("the limit can be lifted");
        let pods: Vec<Namespace> = [("a", 1), ("b", 2), ("c", 3)]
            .into_iter()
            .map(|(name, number)| {
                let pod = Namespace::new();
                node.cable(&format!("pod{number}"), &format!("10.244.{number}.1/24"), &pod, &format!("10.244.{number}.2/24"), true);
                pod.serve(8080, name);
                pod
            })
            .collect();
        let client = Namespace::new();
        node.cable("outside", &format!("{NODE}/24"), &client, &format!("{CLIENT}/24"), true);
        // So that the node has a way to addresses that are nowhere.
        let mut route = node.route();
        let link = route.link("outside").expect("links can be read").expect("the cable is there");
        let anywhere = ipnet::Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
        let via = net::netlink::Route::via(anywhere, CLIENT.parse().expect("an address"), link.index);
        route.replace_route(&via).expect("a default route");
        World { node, pods, client }
    }

    fn start(&self, ports: &[(ServicePortName, ServicePort)]) -> ServiceNetwork {
        let (network, _) = self.restart(ports);
        network
    }

    fn restart(&self, ports: &[(ServicePortName, ServicePort)]) -> (ServiceNetwork, usize) {
        let started = ServiceNetwork::start(self.node.netfilter(), settings(), ports.iter().cloned().collect());
        let (network, applied) = started.expect("the kernel takes the rules");
        (network, applied.messages)
    }

    /// Which pods answer, and as whom they see the client.
    fn answers(from: &Namespace, address: &str, port: u16) -> BTreeSet<String> {
        (0..CONNECTIONS).map(|_| from.tcp(address.parse::<Ipv4Addr>().expect("an address"), port)).collect()
    }
}

fn settings() -> ServiceSettings {
    ServiceSettings {
        table: TABLE.to_string(),
        cluster_cidr: "10.244.0.0/16".parse().expect("a range"),
        service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
        node_addresses: vec![NODE.parse().expect("an address")],
    }
}

fn name(service: &str) -> ServicePortName {
    ServicePortName { namespace: "default".to_string(), service: service.to_string(), port: String::new() }
}

fn pod(number: u8) -> Backend {
    Backend { address: Ipv4Addr::new(10, 244, number, 2).into(), port: 8080 }
}

fn pods(numbers: &[u8]) -> Backends {
    Backends::To(numbers.iter().copied().map(pod).collect())
}

fn port(protocol: Protocol, to: Backends) -> ServicePort {
    ServicePort {
        protocol,
        port: 80,
        cluster_address: CLUSTER.parse().expect("an address"),
        node_port: None,
        external_addresses: Vec::new(),
        source_ranges: None,
        affinity_seconds: None,
        serving: to.list().to_vec(),
        on_this_node: to.list().iter().map(|backend| backend.address).collect(),
        internal: to.clone(),
        external: to,
        external_local: None,
    }
}

/// The same for TCP and UDP.
fn both(change: impl Fn(ServicePort) -> ServicePort, to: &Backends) -> Vec<(ServicePortName, ServicePort)> {
    let with = |name_of: &str, protocol| (name(name_of), change(port(protocol, to.clone())));
    vec![with("tcp", Protocol::Tcp), with("udp", Protocol::Udp)]
}

fn with_node_port(port: ServicePort) -> ServicePort {
    ServicePort { node_port: Some(NODE_PORT), external_addresses: vec![EXTERNAL.parse().expect("an address")], ..port }
}

fn set<const N: usize>(texts: [&str; N]) -> BTreeSet<String> {
    texts.into_iter().map(str::to_string).collect()
}

#[test]
fn a_cluster_address_leads_to_all_endpoints() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let _network = world.start(&both(|port| port, &pods(&[1, 2])));
    // Pods keep their address; the node's own and clients outside come as the node.
    assert_eq!(World::answers(&world.pods[2], CLUSTER, 80), set(["a sees 10.244.3.2", "b sees 10.244.3.2"]));
    assert_eq!(World::answers(&world.client, CLUSTER, 80), set(["a sees 10.244.1.1", "b sees 10.244.2.1"]));
    assert_eq!(World::answers(&world.node, CLUSTER, 80), set(["a sees 10.244.1.1", "b sees 10.244.2.1"]));
    let datagrams: BTreeSet<String> =
        (0..CONNECTIONS).map(|_| world.pods[2].udp(CLUSTER.parse::<Ipv4Addr>().expect("an address"), 80)).collect();
    assert_eq!(datagrams, set(["a sees 10.244.3.2", "b sees 10.244.3.2"]));
}

#[test]
fn an_endpoint_reaches_itself() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let _network = world.start(&both(|port| port, &pods(&[1])));
    assert_eq!(world.pods[0].ask(CLUSTER, 80), "a sees 10.244.1.1");
}

#[test]
fn what_cannot_be_reached_is_refused_or_dropped() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let _network = world.start(&both(with_node_port, &Backends::Reject));
    // The kernel says so at once to who sends datagrams from the node itself.
    let of_node = "tcp error ConnectionRefused, udp error PermissionDenied";
    for (from, refused) in [(&world.pods[0], REFUSED), (&world.node, of_node), (&world.client, REFUSED)] {
        assert_eq!(from.ask(CLUSTER, 80), refused, "no endpoints");
        assert_eq!(from.ask(CLUSTER, 81), refused, "a port that the Service does not have");
        assert_eq!(from.ask(EXTERNAL, 80), refused, "no endpoints, external");
    }
    assert_eq!(world.client.ask(NODE, NODE_PORT), REFUSED, "no endpoints, node port");
    assert_eq!(world.pods[0].ask("10.96.7.7", 80), UNANSWERED, "an address that no Service has");
}

#[test]
fn node_ports_and_external_addresses_lead_to_endpoints() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let mut network = world.start(&both(with_node_port, &pods(&[1])));
    for (address, port) in [(NODE, NODE_PORT), (EXTERNAL, 80)] {
        for from in [&world.client, &world.pods[1], &world.node] {
            assert_eq!(from.ask(address, port), "a sees 10.244.1.1", "{address}");
        }
    }
    // Not at other addresses of the node.
    assert_eq!(world.client.ask("10.244.1.1", NODE_PORT), REFUSED);
    // By policy Local, clients outside keep their address and meet only local endpoints.
    let local = |port| ServicePort { external_local: Some(pods(&[2])), ..with_node_port(port) };
    network.apply(both(local, &pods(&[1])).into_iter().map(|(name, port)| (name, Some(port))).collect()).expect("applied");
    for (address, port) in [(NODE, NODE_PORT), (EXTERNAL, 80)] {
        assert_eq!(world.client.ask(address, port), format!("b sees {CLIENT}"));
        assert_eq!(world.pods[2].ask(address, port), "a sees 10.244.3.2");
        assert_eq!(world.node.ask(address, port), "a sees 10.244.1.1");
    }
    let dropped = |port| ServicePort { external_local: Some(Backends::Drop), ..with_node_port(port) };
    network.apply(both(dropped, &pods(&[1])).into_iter().map(|(name, port)| (name, Some(port))).collect()).expect("applied");
    for (address, port) in [(NODE, NODE_PORT), (EXTERNAL, 80)] {
        assert_eq!(world.client.ask(address, port), UNANSWERED);
        assert_eq!(world.pods[2].ask(address, port), "a sees 10.244.3.2");
    }
}

#[test]
fn a_load_balancer_has_source_ranges() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let restricted = |ranges: &[&str]| {
        let ranges = SourceRanges {
            load_balancer_addresses: vec![EXTERNAL.parse().expect("an address")],
            allowed: ranges.iter().map(|range| range.parse().expect("a range")).collect(),
        };
        both(move |port| ServicePort { source_ranges: Some(ranges.clone()), ..with_node_port(port) }, &pods(&[1]))
    };
    let mut network = world.start(&restricted(&["192.168.8.0/24", "192.168.9.2/31", "192.168.9.0/30", "10.244.3.0/24"]));
    assert_eq!(world.client.ask(EXTERNAL, 80), "a sees 10.244.1.1");
    assert_eq!(world.pods[2].ask(EXTERNAL, 80), "a sees 10.244.1.1");
    assert_eq!(world.pods[1].ask(EXTERNAL, 80), UNANSWERED);
    network.apply(restricted(&["10.0.0.0/32"]).into_iter().map(|(name, port)| (name, Some(port))).collect()).expect("applied");
    assert_eq!(world.client.ask(EXTERNAL, 80), UNANSWERED);
    assert_eq!(world.client.ask(NODE, NODE_PORT), "a sees 10.244.1.1", "node ports are not restricted");
}

#[test]
fn clients_are_remembered() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let remembering = |seconds| move |port| ServicePort { affinity_seconds: Some(seconds), ..with_node_port(port) };
    let apply = |network: &mut ServiceNetwork, ports: Vec<(ServicePortName, ServicePort)>| {
        network.apply(ports.into_iter().map(|(name, port)| (name, Some(port))).collect()).expect("applied");
    };
    let mut network = world.start(&both(remembering(3600), &pods(&[1, 2, 3])));
    let chosen = world.client.tcp(CLUSTER.parse::<Ipv4Addr>().expect("an address"), 80);
    let letter = chosen.chars().next().expect("an answer");
    // The same one by every way to the Service.
    for (address, port) in [(CLUSTER, 80), (NODE, NODE_PORT), (EXTERNAL, 80)] {
        for answer in World::answers(&world.client, address, port) {
            assert!(answer.starts_with(letter), "{answer} instead of {chosen}");
        }
    }
    // It goes away: another one, and always that one.
    let gone = "abc".find(letter).expect("one of them") as u8 + 1;
    let left: Vec<u8> = [1, 2, 3].into_iter().filter(|number| *number != gone).collect();
    apply(&mut network, both(remembering(3600), &pods(&left)));
    let second = World::answers(&world.client, CLUSTER, 80);
    assert_eq!(second.len(), 1, "{second:?}");
    assert!(!second.iter().any(|answer| answer.starts_with(letter)), "{second:?}");
    // With the first one back, the client stays.
    apply(&mut network, both(remembering(3600), &pods(&[1, 2, 3])));
    assert_eq!(World::answers(&world.client, CLUSTER, 80), second);
    // Until none was made for so long.
    apply(&mut network, both(remembering(1), &pods(&[1, 2, 3])));
    let chosen_anew = (0..30).any(|_| {
        std::thread::sleep(Duration::from_millis(1200));
        let answer = world.client.tcp(CLUSTER.parse::<Ipv4Addr>().expect("an address"), 80);
        !second.contains(&answer)
    });
    assert!(chosen_anew, "the same endpoint thirty times, although nothing is remembered any more");
}

#[test]
fn datagrams_of_a_known_flow_follow_the_endpoints() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let mut network = world.start(&both(with_node_port, &pods(&[1])));
    let socket = world.client.udp_client();
    for address in [format!("{CLUSTER}:80"), format!("{NODE}:{NODE_PORT}"), format!("{EXTERNAL}:80")] {
        let target: SocketAddr = address.parse().expect("an address");
        assert_eq!(ask(&socket, target), "a sees 10.244.1.1");
        let moved = both(with_node_port, &pods(&[2])).into_iter().map(|(name, port)| (name, Some(port))).collect();
        assert!(network.apply(moved).expect("applied").flows > 0);
        assert_eq!(ask(&socket, target), "b sees 10.244.2.1", "{address}");
        let back = both(with_node_port, &pods(&[1])).into_iter().map(|(name, port)| (name, Some(port))).collect();
        network.apply(back).expect("applied");
    }
}

#[test]
fn a_restart_sends_the_difference_only() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let rich = |port| ServicePort {
        affinity_seconds: Some(60),
        external_local: Some(pods(&[2])),
        source_ranges: Some(SourceRanges {
            load_balancer_addresses: vec![EXTERNAL.parse().expect("an address")],
            allowed: vec!["192.168.9.0/24".parse().expect("a range"), "172.16.0.0/12".parse().expect("a range")],
        }),
        ..with_node_port(port)
    };
    let mut ports = both(rich, &pods(&[1, 2]));
    let (network, all) = world.restart(&ports);
    assert!(all > 0);
    drop(network);
    let before = world.node.table(TABLE);
    let (network, messages) = world.restart(&ports);
    assert_eq!(messages, 0);
    drop(network);
    assert!(world.node.table(TABLE) == before, "nothing was sent, and something changed");
    ports[0].1.internal = pods(&[3]);
    let (mut network, messages) = world.restart(&ports);
    assert!((1..all / 2).contains(&messages), "{messages} of {all}");
    assert_eq!(network.repair().expect("the kernel can be read"), 0);
    // What other programs take away comes back.
    let before = world.node.table(TABLE);
    nftables::remove(&mut world.node.netfilter(), TABLE).expect("it can be removed");
    assert!(network.repair().expect("the kernel takes the rules") > 0);
    assert!(world.node.table(TABLE).elements == before.elements, "not all elements came back");
    // Also in the middle of a change.
    nftables::remove(&mut world.node.netfilter(), TABLE).expect("it can be removed");
    ports[1].1.internal = pods(&[1, 2, 3]);
    network.apply(vec![(ports[1].0.clone(), Some(ports[1].1.clone()))]).expect("applied");
    assert_eq!(world.restart(&ports).1, 0);
}

fn changes(ports: Vec<(ServicePortName, ServicePort)>) -> Vec<net::services::Change> {
    ports.into_iter().map(|(name, port)| (name, Some(port))).collect()
}

/// Anybody may give a Service any external address.
#[test]
fn a_cluster_address_is_not_taken_over_by_an_external_one() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let thief = ServicePort {
        cluster_address: Ipv4Addr::new(10, 96, 0, 99).into(),
        external_addresses: vec![CLUSTER.parse().expect("an address")],
        ..port(Protocol::Tcp, pods(&[2, 3]))
    };
    // First by name.
    let mut network = world.start(&[(name("aaa"), thief.clone())]);
    network.apply(vec![(name("web"), Some(port(Protocol::Tcp, pods(&[1]))))]).expect("applied");
    assert_eq!(World::answers(&world.pods[0], CLUSTER, 80), set(["a sees 10.244.1.1"]));
    // Also when it comes last, and when the owner goes, it has the address for itself.
    network.apply(vec![(name("aaa"), Some(thief))]).expect("applied");
    assert_eq!(World::answers(&world.pods[1], CLUSTER, 80), set(["a sees 10.244.2.2"]));
    network.apply(vec![(name("web"), None)]).expect("applied");
    assert_eq!(World::answers(&world.pods[0], CLUSTER, 80), set(["b sees 10.244.2.1", "c sees 10.244.3.1"]));
    assert_eq!(network.repair().expect("the kernel can be read"), 0);
}

/// The kernel refuses ranges that overlap, and with them everything else.
#[test]
fn two_services_with_one_address_and_ranges_that_overlap_stop_nobody() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let restricted = |number: u8, range: &str| {
        let ranges = SourceRanges {
            load_balancer_addresses: vec![EXTERNAL.parse().expect("an address")],
            allowed: vec![range.parse().expect("a range")],
        };
        let cluster_address = Ipv4Addr::new(10, 96, 0, 30 + number).into();
        ServicePort {
            cluster_address,
            source_ranges: Some(ranges),
            node_port: None,
            ..with_node_port(port(Protocol::Tcp, pods(&[number])))
        }
    };
    let mut network = world.start(&[]);
    let both = vec![(name("one"), restricted(1, "192.168.0.0/16")), (name("two"), restricted(2, "192.168.8.0/24"))];
    network.apply(changes(both)).expect("the kernel takes it");
    let external: Ipv4Addr = EXTERNAL.parse().expect("an address");
    assert_eq!(world.client.tcp(external, 80), "a sees 10.244.1.1");
    // The other one's ranges count as soon as it has the address.
    network.apply(vec![(name("one"), None)]).expect("the kernel takes it");
    assert_eq!(world.client.tcp(external, 80), "error TimedOut");
    network.apply(changes(vec![(name("one"), restricted(1, "192.168.9.0/24"))])).expect("the kernel takes it");
    assert_eq!(world.client.tcp(external, 80), "a sees 10.244.1.1");
    assert_eq!(network.repair().expect("the kernel can be read"), 0);
}

/// The nft program ends at once when it meets rules that it has no words for, and with it every
/// list of all rules.
#[test]
fn administrators_can_list_the_rules() {
    if !testing::can_run(&[NEEDS.as_slice(), &[Need::Program { name: "nft", package: "nftables" }]].concat()) {
        return;
    }
    let world = World::new();
    let remembering = |port| ServicePort { affinity_seconds: Some(60), external_local: Some(pods(&[2])), ..with_node_port(port) };
    let mut ports = both(remembering, &pods(&[1, 2]));
    ports.push((name("none"), ServicePort { cluster_address: Ipv4Addr::new(10, 96, 0, 21).into(), ..port(Protocol::Tcp, Backends::Drop) }));
    ports
        .push((name("plain"), ServicePort { cluster_address: Ipv4Addr::new(10, 96, 0, 22).into(), ..port(Protocol::Sctp, pods(&[1, 2])) }));
    let _network = world.start(&ports);
    let listed = world.node.inside(|| std::process::Command::new("nft").args(["list", "ruleset"]).output()).expect("nft can be run");
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    assert!(text.contains("10.96.0.22 . sctp . 80 : goto frontends.2.direct"), "{text}");
    assert!(text.contains("numgen random mod 2 map @endpoints\n"), "{text}");
}

/// After any changes, the kernel has exactly what a fresh start would write.
#[test]
fn any_changes_end_where_a_fresh_start_would() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let mut random = Random(7);
    let mut ports: BTreeMap<ServicePortName, ServicePort> = BTreeMap::new();
    let mut network = world.start(&[]);
    for _ in 0..150 {
        let changes: Vec<(ServicePortName, Option<ServicePort>)> = (0..random.below(4))
            .map(|_| {
                let number = random.below(6) as u8;
                (name(&number.to_string()), (random.below(5) > 0).then(|| random.port(number)))
            })
            .collect();
        for (name, port) in changes.clone() {
            match port {
                Some(port) => ports.insert(name, port),
                None => ports.remove(&name),
            };
        }
        network.apply(changes).expect("applied");
        assert_eq!(network.repair().expect("the kernel can be read"), 0);
    }
    let kept = world.node.table(TABLE);
    nftables::remove(&mut world.node.netfilter(), TABLE).expect("it can be removed");
    let _fresh = world.start(&ports.into_iter().collect::<Vec<_>>());
    assert!(world.node.table(TABLE).elements == kept.elements, "the elements differ");
    assert_eq!(world.node.table(TABLE).chains.len(), kept.chains.len());
}

/// A linear congruential generator: tests want the same numbers each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn backends(&mut self) -> Backends {
        match self.below(6) {
            0 => Backends::Reject,
            1 => Backends::Drop,
            _ => Backends::To((0..=self.below(4)).map(|number| pod(number as u8 + 1)).collect()),
        }
    }

    /// Some of them claim the same external address and the same endpoints.
    fn port(&mut self, number: u8) -> ServicePort {
        let external = self.backends();
        ServicePort {
            cluster_address: Ipv4Addr::new(10, 96, 1, number).into(),
            internal: if self.below(2) == 0 { external.clone() } else { self.backends() },
            external,
            external_local: (self.below(2) == 0).then(|| self.backends()),
            affinity_seconds: (self.below(3) == 0).then_some(60),
            node_port: (self.below(2) == 0).then_some(30000 + u16::from(number)),
            external_addresses: (0..self.below(3)).map(|last| Ipv4Addr::new(203, 0, 113, last as u8).into()).collect(),
            source_ranges: (self.below(3) == 0).then(|| SourceRanges {
                load_balancer_addresses: vec![Ipv4Addr::new(203, 0, 113, 1).into()],
                allowed: vec![format!("10.{number}.0.0/16").parse().expect("a range")],
            }),
            ..port(Protocol::Tcp, Backends::Reject)
        }
    }
}
