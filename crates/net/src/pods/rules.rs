//! The rules of a node as data: from allocations to a table.
//!
//! Pods coming and going change elements of maps only. Addresses of Services have a table of their
//! own ([`crate::services`]), whose chains come just before these.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use containers::{PortMapping, Protocol};
use ipnet::Ipv4Net;

use super::PodNetworkSettings;
use super::state::{Allocation, Allocations};
use crate::names;
use crate::nftables::{Action, Chain, ChainKind, Field, Hook, Map, MapKind, Match, Rule, Ruleset, Value};
use crate::peers::VXLAN_PORT;

const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
/// Before connections are tracked: what arrives then has the addresses it was sent with.
const BEFORE_TRACKING: i32 = -300;
const DESTINATION_NAT: i32 = -100;
const SOURCE_NAT: i32 = 100;

const PROTOCOL_AND_PORT: [Field; 2] = [Field::Protocol, Field::DestinationPort];
const ADDRESS_PROTOCOL_AND_PORT: [Field; 3] = [Field::DestinationAddress, Field::Protocol, Field::DestinationPort];
const INPUT_AND_SOURCE: [Field; 2] = [Field::Input, Field::SourceAddress];
const BOTH_ADDRESSES: [Field; 2] = [Field::SourceAddress, Field::DestinationAddress];

/// The table that a node with these allocations should have.
pub fn desired(settings: &PodNetworkSettings, allocations: &Allocations) -> Ruleset {
    Ruleset { table: settings.table.clone(), maps: maps(allocations), chains: chains(settings) }
}

fn maps(allocations: &Allocations) -> Vec<Map> {
    let pods = || allocations.sandboxes.values();
    let ports = || pods().flat_map(|pod| pod.ports.iter().map(move |port| (pod, port)));
    let on_any = ports().filter(|(_, port)| port.host_ip.is_none());
    let on_one = ports().filter_map(|(pod, port)| match port.host_ip {
        Some(IpAddr::V4(address)) => Some((address, pod, port)),
        _ => None,
    });
    let to_itself = pods().filter(|pod| !pod.ports.is_empty()).map(|pod| (vec![Value::Address(pod.address); 2], Vec::new()));
    vec![
        Map {
            name: "host_ports".to_string(),
            kind: MapKind::ToAddressAndPort,
            key: PROTOCOL_AND_PORT.to_vec(),
            elements: on_any.map(|(pod, port)| (key(port), target(pod, port))).collect(),
        },
        Map {
            name: "host_ports_of_one_address".to_string(),
            kind: MapKind::ToAddressAndPort,
            key: ADDRESS_PROTOCOL_AND_PORT.to_vec(),
            elements: on_one.map(|(address, pod, port)| ([vec![Value::Address(address)], key(port)].concat(), target(pod, port))).collect(),
        },
        Map {
            name: "links_and_their_addresses".to_string(),
            kind: MapKind::Set,
            key: INPUT_AND_SOURCE.to_vec(),
            elements: allocations.sandboxes.iter().map(|(id, pod)| (link_and_address(id, pod), Vec::new())).collect(),
        },
        Map {
            name: "ports_of_tunnels".to_string(),
            kind: MapKind::Set,
            key: PROTOCOL_AND_PORT.to_vec(),
            elements: BTreeMap::from([(vec![Value::Protocol(number(Protocol::Udp)), Value::Port(VXLAN_PORT)], Vec::new())]),
        },
        Map {
            name: "pods_reaching_themselves".to_string(),
            kind: MapKind::Set,
            key: BOTH_ADDRESSES.to_vec(),
            elements: to_itself.collect::<BTreeMap<_, _>>(),
        },
    ]
}

fn key(port: &PortMapping) -> Vec<Value> {
    vec![Value::Protocol(number(port.protocol)), Value::Port(port.host_port)]
}

fn link_and_address(sandbox_id: &str, pod: &Allocation) -> Vec<Value> {
    vec![Value::Interface(names::pod_link(sandbox_id)), Value::Address(pod.address)]
}

fn target(pod: &Allocation, port: &PortMapping) -> Vec<Value> {
    vec![Value::Address(pod.address), Value::Port(port.container_port)]
}

fn chains(settings: &PodNetworkSettings) -> Vec<Chain> {
    let jump = |chain: &str| Rule::new([], Action::Jump(chain.to_string()));
    let redirect = vec![jump("host_ports")];
    let of_pods = || Match::InputBegins(names::POD_PREFIX.to_string());
    let not_its_own = || Match::NotInSet { set: "links_and_their_addresses".to_string(), key: INPUT_AND_SOURCE.to_vec() };
    vec![
        plain("host_ports", host_ports()),
        // The links let 127/8 pass for the node's own way to host ports, see `leaving`. That must
        // not open the node's local services to pods.
        Chain {
            name: "guard_loopback".to_string(),
            kind: ChainKind::Filter { hook: Hook::Prerouting, priority: BEFORE_TRACKING },
            rules: vec![Rule::new([of_pods(), Match::DestinationIn(LOOPBACK)], Action::Drop)],
        },
        // A pod that may make packets (NET_RAW) could speak for another pod, or for the world, past
        // whatever trusts addresses.
        Chain {
            name: "guard_sources".to_string(),
            kind: ChainKind::Filter { hook: Hook::Prerouting, priority: BEFORE_TRACKING },
            rules: vec![
                Rule::new([of_pods(), not_its_own()], Action::Drop),
                // A node takes what tunnels bring from other nodes for what it says it is.
                Rule::new([of_pods(), Match::InSet { set: "ports_of_tunnels".to_string(), key: PROTOCOL_AND_PORT.to_vec() }], Action::Drop),
            ],
        },
        nat("arriving", Hook::Prerouting, DESTINATION_NAT, redirect.clone()),
        nat("from_node", Hook::Output, DESTINATION_NAT, redirect),
        nat("leaving", Hook::Postrouting, SOURCE_NAT, leaving(settings)),
    ]
}

fn host_ports() -> Vec<Rule> {
    let nat = |map: &str, key: &[Field]| Action::DestinationNat { map: map.to_string(), key: key.to_vec() };
    vec![
        Rule::new([], nat("host_ports_of_one_address", &ADDRESS_PROTOCOL_AND_PORT)),
        Rule::new([Match::DestinationIsLocal], nat("host_ports", &PROTOCOL_AND_PORT)),
    ]
}

fn leaving(settings: &PodNetworkSettings) -> Vec<Rule> {
    let to_itself = Match::InSet { set: "pods_reaching_themselves".to_string(), key: BOTH_ADDRESSES.to_vec() };
    let mut to_outside = vec![Match::SourceIn(settings.pod_cidr), Match::DestinationNotIn(settings.cluster_cidr)];
    if !settings.cluster_cidr.contains(&settings.pod_cidr) {
        to_outside.push(Match::DestinationNotIn(settings.pod_cidr));
    }
    vec![
        // A pod that gets a packet from itself answers itself, past the node that has to turn the
        // addresses back.
        Rule::new([to_itself], Action::Masquerade),
        // The node connected to 127.0.0.1: the pod's answer would go to the pod's own loopback.
        Rule::new([Match::SourceIn(LOOPBACK), Match::OutputBegins(names::POD_PREFIX.to_string())], Action::Masquerade),
        // No machine outside knows the way back to a pod's address.
        Rule::new(to_outside, Action::Masquerade),
    ]
}

fn plain(name: &str, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_string(), kind: ChainKind::Plain, rules }
}

fn nat(name: &str, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_string(), kind: ChainKind::Nat { hook, priority }, rules }
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::Protocol;
    use expect_test::expect;

    #[test]
    fn the_whole_table() {
        let settings = PodNetworkSettings {
            state_file: "unused".into(),
            pod_cidr: "10.244.1.0/24".parse().expect("a range"),
            cluster_cidr: "10.244.0.0/16".parse().expect("a range"),
            node_addresses: Vec::new(),
            table: "everynode".to_string(),
        };
        let port = |protocol, host_port, host_ip: Option<&str>| PortMapping {
            protocol,
            container_port: 80,
            host_port,
            host_ip: host_ip.map(|address| address.parse().expect("an address")),
        };
        let ports = vec![port(Protocol::Tcp, 8080, None), port(Protocol::Udp, 5353, None), port(Protocol::Sctp, 9, Some("192.168.0.1"))];
        let pod = |last, ports| Allocation { address: Ipv4Addr::new(10, 244, 1, last), ports };
        let sandboxes = BTreeMap::from([("a".to_string(), pod(2, ports)), ("b".to_string(), pod(3, Vec::new()))]);
        expect![[r#"
            table ip everynode {
              map host_ports { # l4proto . th dport
                tcp . 8080 : 10.244.1.2 . 80
                udp . 5353 : 10.244.1.2 . 80
              }
              map host_ports_of_one_address { # ip daddr . l4proto . th dport
                192.168.0.1 . sctp . 9 : 10.244.1.2 . 80
              }
              set links_and_their_addresses { # iifname . ip saddr
                "evp3e23e8160039" . 10.244.1.3
                "evpca978112ca1b" . 10.244.1.2
              }
              set ports_of_tunnels { # l4proto . th dport
                udp . 14789
              }
              set pods_reaching_themselves { # ip saddr . ip daddr
                10.244.1.2 . 10.244.1.2
              }
              chain host_ports {
                dnat to ip daddr . l4proto . th dport map @host_ports_of_one_address
                fib daddr type local dnat to l4proto . th dport map @host_ports
              }
              chain guard_loopback {
                type filter hook prerouting priority -300
                iifname "evp*" ip daddr 127.0.0.0/8 drop
              }
              chain guard_sources {
                type filter hook prerouting priority -300
                iifname "evp*" iifname . ip saddr != @links_and_their_addresses drop
                iifname "evp*" l4proto . th dport @ports_of_tunnels drop
              }
              chain arriving {
                type nat hook prerouting priority -100
                jump host_ports
              }
              chain from_node {
                type nat hook output priority -100
                jump host_ports
              }
              chain leaving {
                type nat hook postrouting priority 100
                ip saddr . ip daddr @pods_reaching_themselves masquerade fully-random
                ip saddr 127.0.0.0/8 oifname "evp*" masquerade fully-random
                ip saddr 10.244.1.0/24 ip daddr != 10.244.0.0/16 masquerade fully-random
              }
            }
        "#]]
        .assert_eq(&desired(&settings, &Allocations { last_address: None, sandboxes }).to_string());
    }
}
