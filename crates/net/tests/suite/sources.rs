//! What a pod may say of itself: its own address, and nothing about routes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use ipnet::Ipv4Net;
use net::netlink::Address;
use net::peers::VXLAN_PORT;
use testing::Need;

use crate::NEEDS;
use crate::pods::{CLIENT, NODE, World};
use crate::world::Namespace;

const PORT: u16 = 4000;

/// Gives the pod's interface another address, and sends from there: the kernel then uses it in IPv4
/// and in ARP.
fn send(pod: &Namespace, from: &str, to: &str, text: &str) {
    let mut inside = pod.route();
    let link = inside.link("eth0").expect("links can be read").expect("the pod is attached").index;
    let from: Ipv4Addr = from.parse().expect("an address");
    let added = inside.add_address(&Address { link, address: Ipv4Net::from(from), link_only: false });
    added.expect("a pod may give itself any address");
    let target: SocketAddr = format!("{to}:{PORT}").parse().expect("an address");
    let sent = pod.inside(|| UdpSocket::bind((from, 0))?.send_to(text.as_bytes(), target));
    sent.expect("sending is not refused");
}

fn receiver(namespace: &Namespace) -> UdpSocket {
    let opened = namespace.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)));
    let socket = opened.expect("a socket can be opened");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
    socket
}

/// The first packet that arrives.
fn first(receiver: &UdpSocket) -> String {
    let mut buffer = [0; 64];
    let (length, _) = receiver.recv_from(&mut buffer).expect("what is genuine arrives");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn neighbours(node: &Namespace) -> String {
    node.inside(|| std::fs::read_to_string("/proc/thread-self/net/arp")).expect("neighbours can be read")
}

/// NET_RAW is enough to make any packet, and what trusts addresses (rules, logs, databases) would
/// believe it.
#[test]
fn a_pod_sends_from_its_own_address_only() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let (two, other) = world.attach("two", &[]);
    let receivers = [(other.as_str(), receiver(&two)), (NODE, receiver(&world.node)), (CLIENT, receiver(&world.client))];
    for (to, receiver) in &receivers {
        // A pod of its own: an address that a pod has is not reached from it any more.
        let (one, own) = world.attach(to, &[]);
        let forged = [other.as_str(), "10.244.1.77", "8.8.8.8", NODE, CLIENT];
        for from in forged.into_iter().filter(|from| from != to) {
            send(&one, &own, to, "genuine");
            send(&one, from, to, "forged");
            send(&one, &own, to, "the last");
            assert_eq!((first(receiver), first(receiver)), ("genuine".to_owned(), "the last".to_owned()), "from {from} to {to}");
        }
    }
    // A pod that does not know the way yet asks for it first, with the address it sends from.
    let (one, own) = world.attach("one", &[]);
    send(&two, "10.244.1.77", NODE, "forged");
    send(&two, "8.8.8.8", NODE, "forged");
    send(&one, &own, NODE, "genuine");
    assert_eq!(first(&receivers[1].1), "genuine");
    let known = neighbours(&world.node);
    assert!(known.contains(&own), "{known}");
    for forged in ["8.8.8.8", "10.244.1.77"] {
        assert!(!known.contains(forged), "{forged}: {known}");
    }
}

/// A node takes what comes out of a tunnel for what it says it is.
#[test]
fn a_pod_does_not_speak_through_tunnels() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let (one, _) = world.attach("one", &[]);
    let (two, other) = world.attach("two", &[]);
    for (to, namespace) in [(other.as_str(), &two), (NODE, &world.node), (CLIENT, &world.client)] {
        let open = |port: u16| namespace.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).expect("a socket can be opened");
        let (tunnel, after) = (open(VXLAN_PORT), receiver(namespace));
        for port in [VXLAN_PORT, PORT] {
            let sent = one.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"from a pod", (to, port)));
            sent.expect("sending is not refused");
        }
        // What was sent later is there, so the first packet will not come any more.
        assert_eq!(first(&after), "from a pod");
        tunnel.set_nonblocking(true).expect("a socket can be asked without waiting");
        let came = tunnel.recv_from(&mut [0; 64]).map_err(|error| error.kind());
        assert_eq!(came, Err(io::ErrorKind::WouldBlock), "at {to}");
    }
}

/// An advertisement of a pod would become the node's default route (CVE-2020-10749).
#[test]
fn a_node_takes_no_routes_from_its_pods() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let world = World::new();
    let (one, _) = world.attach("one", &[]);
    let read = |namespace: &Namespace, interface: &str, name: &str| {
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/{name}");
        namespace.inside(|| std::fs::read_to_string(path)).unwrap_or_default().trim().to_owned()
    };
    let outside = world.node.links().into_iter().map(|link| link.name).find(|name| name.starts_with("evp")).expect("the pod has a link");
    let has_ipv6 = !read(&world.node, "all", "accept_ra").is_empty();
    if !testing::can_run(&[Need::Machine { what: "IPv6", is_there: has_ipv6 }]) {
        return;
    }
    for name in ["accept_ra", "accept_redirects", "autoconf"] {
        assert_eq!((read(&world.node, &outside, name), read(&one, "eth0", name)), ("0".to_owned(), "0".to_owned()), "{name}");
    }
    assert_eq!(read(&world.node, &outside, "disable_ipv6"), "1");
    let addresses = world.node.inside(|| io::read_to_string(std::fs::File::open("/proc/thread-self/net/if_inet6")?));
    assert!(!addresses.unwrap_or_default().contains(&outside), "the node's end has no address by which a pod could reach it");
    let ipv4 = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{outside}/{name}");
        world.node.inside(|| std::fs::read_to_string(path)).expect("the setting is there").trim().to_owned()
    };
    assert_eq!(["rp_filter", "accept_redirects", "proxy_arp"].map(ipv4), ["1", "0", "0"]);
}
