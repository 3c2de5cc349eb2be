//! [`net::nftables`] against the kernel: sizes, and what a refused transaction leaves.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use net::nftables::{self, Action, Chain, ChainKind, Field, Hook, Map, MapKind, Match, Rule, Ruleset, Value};

use crate::NEEDS;
use crate::world::Namespace;

/// A table with a set of so many pairs of addresses.
fn table(pairs: u32) -> Ruleset {
    let key = vec![Field::SourceAddress, Field::DestinationAddress];
    let element = |number: u32| (vec![Value::Address(Ipv4Addr::from(number)); 2], Vec::new());
    let elements: BTreeMap<_, _> = (0..pairs).map(element).collect();
    Ruleset {
        table: "large".to_string(),
        maps: vec![Map { name: "pairs".to_string(), kind: MapKind::Set, key: key.clone(), elements }],
        chains: vec![Chain {
            name: "forward".to_string(),
            kind: ChainKind::Filter { hook: Hook::Forward, priority: 0 },
            rules: vec![Rule::new([Match::InSet { set: "pairs".to_string(), key }], Action::Drop)],
        }],
    }
}

#[test]
fn thousands_of_elements_are_one_transaction() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let node = Namespace::new();
    let mut netfilter = node.netfilter();
    nftables::replace(&mut netfilter, &table(5000)).expect("the kernel takes it");
    assert_eq!(node.table("large").elements.len(), 5000);
    nftables::update(&mut netfilter, &table(5000), &table(3)).expect("the kernel takes the difference");
    assert_eq!(node.table("large").elements.len(), 3);
    nftables::remove(&mut netfilter, "large").expect("it can be removed");
    nftables::remove(&mut netfilter, "large").expect("and again");
    assert_eq!(node.table("large"), Default::default());
}

#[test]
fn a_refused_transaction_changes_nothing() {
    if !testing::can_run(&NEEDS) {
        return;
    }
    let node = Namespace::new();
    nftables::replace(&mut node.netfilter(), &table(3)).expect("the kernel takes it");
    let before = node.table("large");
    let mut broken = table(4);
    broken.chains[0].rules.push(Rule::new([], Action::Jump("nowhere".to_string())));
    let error = nftables::replace(&mut node.netfilter(), &broken).expect_err("the chain is not there");
    assert_eq!(error.errno(), Some(libc::ENOENT), "{error}");
    assert_eq!(node.table("large"), before);
}
