//! Generated and hand-made fleets, in which some nodes lie.

use super::*;
use expect_test::{Expect, expect};
use jiff::Timestamp;
use serde_json::{Value, json};

fn site(mode: Mode) -> Site {
    let net = |text: &str| text.parse().unwrap();
    Site { node: "self".into(), mode, cluster_cidr: net("10.244.0.0/16"), networks: vec![net("192.168.1.0/24")] }
}

/// `NAME AGE ADDRESS RANGE [KEY]`, `-` for what is not there; the larger the age, the younger.
fn node(line: &str) -> Value {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut node = json!({
        "metadata": {"name": words[0], "uid": format!("uid-{}", words[0]), "creationTimestamp": format!("2026-01-01T00:00:{:0>2}Z", words[1])},
        "spec": {}, "status": {"addresses": [{"type": "Hostname", "address": words[0]}]},
    });
    if words[2] != "-" {
        node["status"]["addresses"].as_array_mut().unwrap().push(json!({"type": "InternalIP", "address": words[2]}));
    }
    if words[3] != "-" {
        node["spec"]["podCIDRs"] = json!([words[3]]);
    }
    if let Some(key) = words.get(4) {
        let key = WireGuardKey([key.parse().unwrap(); 32]);
        node["metadata"]["annotations"] = key_annotation("", &key)["metadata"]["annotations"].clone();
    }
    node
}

fn decided(mode: Mode, nodes: &str) -> Decision {
    let mut members: Vec<Member> = nodes.trim().lines().map(|line| Member::read(&node(line)).unwrap()).collect();
    let decision = decide(&site(mode), members.iter(), None);
    members.reverse();
    assert_eq!(decide(&site(mode), members.iter(), None), decision, "the order of nodes matters");
    decision
}

fn check(mode: Mode, nodes: &str, expected: Expect) {
    let decision = decided(mode, nodes);
    let mut text = match &decision.own {
        Ok(own) => format!("self: {} for {}\n", own.pod_cidr, own.address),
        Err(problem) => format!("self: {problem}\n"),
    };
    for peer in &decision.peers {
        let way = match peer.way {
            Way::Direct => "direct".to_owned(),
            Way::Vxlan => "vxlan".to_owned(),
            Way::WireGuard { public_key } => format!("wireguard {}", public_key.0[0]),
        };
        text.push_str(&format!("{}: {} by {way} to {}\n", peer.name, peer.pod_cidr, peer.address));
    }
    for (name, problem) in &decision.left_out {
        text.push_str(&format!("without {name}: {problem}\n"));
    }
    expected.assert_eq(&text);
}

#[test]
fn nodes_on_a_network_of_this_one_are_reached_directly_and_others_in_vxlan() {
    let nodes = "
        self 1 192.168.1.1 10.244.0.0/24
        near 2 192.168.1.2 10.244.1.0/24
        far 3 192.168.2.2 10.244.2.0/24";
    check(
        Mode::Direct,
        nodes,
        expect![[r#"
            self: 10.244.0.0/24 for 192.168.1.1
            far: 10.244.2.0/24 by vxlan to 192.168.2.2
            near: 10.244.1.0/24 by direct to 192.168.1.2
        "#]],
    );
    check(
        Mode::Vxlan,
        nodes,
        expect![[r#"
            self: 10.244.0.0/24 for 192.168.1.1
            far: 10.244.2.0/24 by vxlan to 192.168.2.2
            near: 10.244.1.0/24 by vxlan to 192.168.1.2
        "#]],
    );
}

#[test]
fn wireguard_needs_a_key_that_no_older_node_has() {
    check(
        Mode::WireGuard,
        "
        self 1 192.168.1.1 10.244.0.0/24 1
        a 2 192.168.1.2 10.244.1.0/24 2
        b 3 192.168.1.3 10.244.2.0/24
        thief 4 192.168.1.4 10.244.3.0/24 2",
        expect![[r#"
            self: 10.244.0.0/24 for 192.168.1.1
            a: 10.244.1.0/24 by wireguard 2 to 192.168.1.2
            without b: it has not published a WireGuard key yet
            without thief: its WireGuard key is that of node a, which had it before
        "#]],
    );
}

#[test]
fn what_an_older_node_has_no_younger_one_gets() {
    check(
        Mode::Direct,
        "
        self 1 192.168.1.1 10.244.0.0/24
        a 2 192.168.1.2 10.244.4.0/24
        all 3 192.168.1.3 10.244.0.0/16
        part 4 192.168.1.4 10.244.4.128/25
        around 5 192.168.1.5 10.244.4.0/23
        same 6 192.168.1.2 10.244.9.0/24
        mine 7 192.168.1.1 10.244.10.0/24
        b 8 192.168.1.8 10.244.5.0/24",
        expect![[r#"
            self: 10.244.0.0/24 for 192.168.1.1
            a: 10.244.4.0/24 by direct to 192.168.1.2
            b: 10.244.5.0/24 by direct to 192.168.1.8
            without all: its range 10.244.0.0/16 overlaps that of node a, which had it before
            without around: its range 10.244.4.0/23 overlaps that of node a, which had it before
            without mine: its address 192.168.1.1 is that of node self, which had it before
            without part: its range 10.244.4.128/25 overlaps that of node a, which had it before
            without same: its address 192.168.1.2 is that of node a, which had it before
        "#]],
    );
}

#[test]
fn this_node_gives_way_to_an_older_one_too() {
    check(
        Mode::Direct,
        "
        self 9 192.168.1.1 10.244.0.0/24
        old 1 192.168.1.2 10.244.0.0/24",
        expect![[r#"
            self: its range 10.244.0.0/24 overlaps that of node old, which had it before
            old: 10.244.0.0/24 by direct to 192.168.1.2
        "#]],
    );
}

#[test]
fn claims_that_would_lead_packets_astray_are_left_out() {
    check(
        Mode::Direct,
        "
        self 1 192.168.1.1 10.244.0.0/24
        default 2 192.168.1.2 0.0.0.0/0
        outside 3 192.168.1.3 10.245.0.0/24
        inside 4 10.244.0.7 10.244.1.0/24
        loop 5 127.0.0.1 10.244.2.0/24
        many 6 224.0.0.1 10.244.3.0/24
        cloud 7 169.254.169.254 10.244.4.0/24
        six 8 fd00::1 10.244.5.0/24
        none 9 192.168.1.9 -
        nowhere 10 - 10.244.6.0/24
        garbage 11 x y",
        expect![[r#"
            self: 10.244.0.0/24 for 192.168.1.1
            without cloud: nodes cannot be reached at 169.254.169.254
            without default: its range 0.0.0.0/0 is not a part of the cluster's, 10.244.0.0/16
            without garbage: the node has no IPv4 address (status.addresses, InternalIP)
            without inside: its address 10.244.0.7 is one for pods (10.244.0.0/16)
            without loop: nodes cannot be reached at 127.0.0.1
            without many: nodes cannot be reached at 224.0.0.1
            without none: the node has no range of IPv4 addresses for pods yet (spec.podCIDRs)
            without nowhere: the node has no IPv4 address (status.addresses, InternalIP)
            without outside: its range 10.245.0.0/24 is not a part of the cluster's, 10.244.0.0/16
            without six: the node has no IPv4 address (status.addresses, InternalIP)
        "#]],
    );
    check(
        Mode::Direct,
        "a 1 192.168.1.2 10.244.1.0/24",
        expect![[r#"
        self: there is no Node object
        a: 10.244.1.0/24 by direct to 192.168.1.2
    "#]],
    );
}

/// By a change of its address or its key, an old node could cut off any younger one.
#[test]
fn what_a_node_has_no_other_one_takes_later() {
    let read = |nodes: &str| nodes.trim().lines().map(|line| Member::read(&node(line)).unwrap()).collect::<Vec<_>>();
    let honest = "self 5 192.168.1.1 10.244.0.0/24 1\n old 1 192.168.1.2 10.244.1.0/24 2\n young 9 192.168.1.3 10.244.2.0/24 3";
    let theft = [
        ("old 1 192.168.1.2 10.244.1.0/24 2", "old 1 192.168.1.3 10.244.1.0/24 2"),
        ("old 1 192.168.1.2 10.244.1.0/24 2", "old 1 192.168.1.1 10.244.1.0/24 2"),
        ("old 1 192.168.1.2 10.244.1.0/24 2", "old 1 192.168.1.2 10.244.2.0/23 2"),
        ("old 1 192.168.1.2 10.244.1.0/24 2", "old 1 192.168.1.2 10.244.1.0/24 3"),
    ];
    for (was, is) in theft {
        let site = site(Mode::WireGuard);
        let before = decide(&site, read(honest).iter(), None);
        assert_eq!((before.peers.len(), before.left_out.len()), (2, 0));
        let after = decide(&site, read(&honest.replace(was, is)).iter(), Some(&before));
        assert_eq!(after.own, before.own, "{is}");
        assert_eq!(after.peers, before.peers[1..], "{is}");
        assert!(after.left_out.contains_key("old"), "{is}");
    }
}

#[test]
fn a_node_that_is_lost_gives_way_to_the_one_in_its_place() {
    let mut old = node("old 1 192.168.1.2 10.244.1.0/24");
    let new = Member::read(&node("new 2 192.168.1.2 10.244.2.0/24")).unwrap();
    let names = |old: &Value, before: Option<&Decision>| {
        let decision = decide(&site(Mode::Direct), [Member::read(old).unwrap(), new.clone()].iter(), before);
        (decision.peers.iter().map(|peer| peer.name.clone()).collect::<Vec<_>>(), decision)
    };
    let (before, decision) = names(&old, None);
    old["status"]["conditions"] = json!([{"type": "Ready", "status": "Unknown"}]);
    assert_eq!((before, names(&old, Some(&decision)).0), (vec!["old".to_owned()], vec!["new".to_owned()]));
}

/// Whatever nodes say, what comes out does not overlap, and stays inside the cluster's range.
#[test]
fn no_claims_overlap() {
    use proptest::prelude::*;
    let address = prop_oneof![(0..20_u8).prop_map(|last| format!("192.168.1.{last}")), Just("10.244.3.3".to_owned()), Just("-".to_owned())];
    let range = (240..248_u8, 0..16_u8, 0..4_u8, 14..32_u8).prop_map(|(b, c, d, prefix)| format!("10.{b}.{c}.{}/{prefix}", d * 64));
    let node = (0..60_u8, address, range, 0..5_u8).prop_map(|(age, address, range, key)| format!("{age} {address} {range} {key}"));
    let strategy = (proptest::collection::vec(node, 1..30), 0..3_usize);
    proptest!(|((nodes, mode) in strategy)| {
        let text: Vec<String> = nodes.iter().enumerate().map(|(at, node)| format!("{} {node}", if at == 0 { "self".to_owned() } else { format!("n{at}") })).collect();
        let site = site(Mode::ALL[mode]);
        let decision = decided(site.mode, &text.join("\n"));
        let own = decision.own.iter().map(|own| (std::net::IpAddr::from(own.address), IpNet::V4(own.pod_cidr), None));
        let all: Vec<_> = decision.peers.iter().map(|peer| {
            let key = match peer.way { Way::WireGuard { public_key } => Some(public_key), _ => None };
            (peer.address, peer.pod_cidr, key)
        }).chain(own).collect();
        for (at, (address, range, key)) in all.iter().enumerate() {
            prop_assert!(IpNet::V4(site.cluster_cidr).contains(range) && !IpNet::V4(site.cluster_cidr).contains(address));
            for (other_address, other, other_key) in &all[..at] {
                prop_assert!(address != other_address && !range.contains(other) && !other.contains(range));
                prop_assert!(key.is_none() || key != other_key);
            }
        }
        prop_assert_eq!(decision.peers.len() + decision.left_out.len() + 1, nodes.len());
    });
}

#[test]
fn the_condition_says_what_is_wrong_and_since_when() {
    let now = "2026-01-01T00:01:00Z".parse().unwrap();
    let good = decided(Mode::Direct, "self 1 192.168.1.1 10.244.0.0/24").own;
    let up = condition(&good, None, &BTreeMap::new());
    assert!(up.differs(None));
    let patch = up.patch("uid-self", None, now);
    let told: crate::model::NodeCondition = serde_json::from_value(patch["status"]["conditions"][0].clone()).unwrap();
    assert_eq!((&*told.kind, &*told.status, told.last_transition_time), ("NetworkUnavailable", "False", Some(now)));
    assert!(!up.differs(Some(&told)));
    let later = "2026-01-01T00:02:00Z".parse().unwrap();
    assert_eq!(up.patch("uid-self", Some(&told), later)["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:01:00Z");
    for (condition, reason) in [
        (condition(&good, Some("no buffer space"), &BTreeMap::new()), "PodNetworkFailed"),
        (condition(&Err(Problem::NoRange), None, &BTreeMap::new()), "NoPodRange"),
        (Condition::removed(), "PodNetworkIsGone"),
    ] {
        let patch = condition.patch("uid-self", Some(&told), later);
        let told = &patch["status"]["conditions"][0];
        assert_eq!(
            (&told["status"], &told["reason"], &told["lastTransitionTime"]),
            (&json!("True"), &json!(reason), &json!("2026-01-01T00:02:00Z"))
        );
    }
}

#[test]
fn the_condition_names_nodes_that_are_not_reached() {
    let good = decided(Mode::Direct, "self 1 192.168.1.1 10.244.0.0/24").own;
    let message = |nodes: usize| {
        let unreached = (0..nodes).map(|number| (format!("n{number}"), "why".to_owned())).collect();
        condition(&good, None, &unreached).patch("", None, Timestamp::UNIX_EPOCH)["status"]["conditions"][0]["message"].clone()
    };
    assert_eq!(message(0), "pods of other nodes and of this one (10.244.0.0/24) reach each other");
    assert_eq!(message(1), "pods of this node (10.244.0.0/24) are reached; those of one node are not: n0 (why)");
    let many = "pods of this node (10.244.0.0/24) are reached; those of 5 nodes are not: n0 (why), n1 (why), n2 (why) and 2 more";
    assert_eq!(message(5), many);
}

#[test]
fn networks_that_others_can_be_on() {
    let list = ["192.168.1.7/24", "192.168.1.8/24", "10.0.0.5/32", "127.0.0.1/8", "10.244.0.0/24", "10.0.0.0/8"];
    let networks = shared_networks(list.iter().map(|text| text.parse().unwrap()), "10.244.0.0/16".parse().unwrap());
    assert_eq!(networks, ["192.168.1.0/24".parse().unwrap()]);
}

#[test]
fn modes_have_names() {
    for mode in Mode::ALL {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
    assert!("ipip".parse::<Mode>().is_err());
}
