//! Generated Services, slices and topologies, judged by a second implementation that is written the
//! naive way: for one client and one address, straight from the rules of the documentation.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use containers::{Backend, Backends, Protocol};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::{EndpointConditions, EndpointHints, EndpointPort, Hint, Meta};

const HERE: &str = "node-1";
const ZONE: &str = "zone-1";

fn node() -> Node {
    Node { name: HERE.to_owned(), zone: ZONE.to_owned() }
}

/// An endpoint before it is put into slices.
#[derive(Debug, Clone)]
struct Given {
    last: u8,
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
    node: u8,
    node_hint: Option<u8>,
    zone_hint: Option<u8>,
}

fn any_given() -> impl Strategy<Value = Given> {
    let condition = || prop_oneof![1 => Just(None), 3 => any::<bool>().prop_map(Some)];
    let hint = || prop_oneof![1 => Just(None), 4 => (1u8..4).prop_map(Some)];
    (1u8..12, condition(), condition(), condition(), 1u8..4, hint(), hint()).prop_map(
        |(last, ready, serving, terminating, node, node_hint, zone_hint)| Given {
            last,
            ready,
            serving,
            terminating,
            node,
            node_hint,
            zone_hint,
        },
    )
}

/// All of one address, in slices of at most three. (Slices that name one twice have a test below.)
fn slices(given: &[Given]) -> Vec<Arc<EndpointSlice>> {
    let endpoint = |given: &Given| crate::model::Endpoint {
        addresses: vec![format!("10.244.0.{}", given.last).into()],
        conditions: EndpointConditions { ready: given.ready, serving: given.serving, terminating: given.terminating },
        node_name: Some(format!("node-{}", given.node).into()),
        hints: Some(EndpointHints {
            for_nodes: given.node_hint.map(|number| Hint { name: format!("node-{number}").into() }).into_iter().collect(),
            for_zones: given.zone_hint.map(|number| Hint { name: format!("zone-{number}").into() }).into_iter().collect(),
        }),
        ..crate::model::Endpoint::default()
    };
    let slice = |part: &[Given]| {
        Arc::new(EndpointSlice {
            meta: Meta::default(),
            address_type: "IPv4".into(),
            endpoints: part.iter().map(endpoint).collect(),
            ports: vec![EndpointPort { name: "web".into(), port: Some(8080), protocol: "TCP".into(), app_protocol: None }],
        })
    };
    given.chunks(3).map(slice).collect()
}

fn service(change: Value) -> Value {
    let mut object = json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {
            "type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
            "ports": [{"name": "web", "protocol": "TCP", "port": 80, "nodePort": 30080}],
            "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster",
        },
    });
    merge(&mut object, change);
    object
}

fn merge(into: &mut Value, change: Value) {
    match change {
        Value::Object(fields) => fields.into_iter().for_each(|(name, value)| merge(&mut into[&name], value)),
        other => *into = other,
    }
}

fn decided(object: &Value, given: &[Given]) -> Decision {
    decide(&Service::read(object).expect("it has an address"), &slices(given), &node())
}

/// What happens to a connection.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    OneOf(BTreeSet<u8>),
    Refused,
    Unanswered,
}

fn outcome(backends: &Backends) -> Outcome {
    match backends {
        Backends::To(list) => Outcome::OneOf(
            list.iter()
                .map(|backend| match backend.address {
                    IpAddr::V4(address) => address.octets()[3],
                    IpAddr::V6(_) => unreachable!("the test has none"),
                })
                .collect(),
        ),
        Backends::Reject => Outcome::Refused,
        Backends::Drop => Outcome::Unanswered,
    }
}

/// By the documentation of Services, without any cleverness.
fn naive(given: &[Given], only_local: bool) -> Outcome {
    let ready = |given: &&Given| given.ready != Some(false);
    let still_serving = |given: &&Given| given.serving != Some(false) && given.terminating == Some(true);
    let all_ready: Vec<&Given> = given.iter().filter(ready).collect();
    let all_serving: Vec<&Given> = given.iter().filter(still_serving).collect();
    if all_ready.is_empty() && all_serving.is_empty() {
        return Outcome::Refused;
    }
    let numbers = |list: Vec<&Given>| Outcome::OneOf(numbers_of(&list));
    if only_local {
        let here = |mut list: Vec<&Given>| {
            list.retain(|given| given.node == 1);
            numbers_of(&list)
        };
        return match (here(all_ready), here(all_serving)) {
            (ready, _) if !ready.is_empty() => Outcome::OneOf(ready),
            (_, serving) if !serving.is_empty() => Outcome::OneOf(serving),
            _ => Outcome::Unanswered,
        };
    }
    if all_ready.is_empty() {
        return numbers(all_serving);
    }
    if all_ready.iter().all(|given| given.node_hint.is_some()) {
        let near: Vec<&Given> = all_ready.iter().copied().filter(|given| given.node_hint == Some(1)).collect();
        if !near.is_empty() {
            return numbers(near);
        }
    }
    if all_ready.iter().all(|given| given.zone_hint.is_some()) {
        let near: Vec<&Given> = all_ready.iter().copied().filter(|given| given.zone_hint == Some(1)).collect();
        if !near.is_empty() {
            return numbers(near);
        }
    }
    numbers(all_ready)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn decisions_are_those_of_the_naive_judge(given in prop::collection::vec(any_given(), 0..8), internal: bool, external: bool) {
        // One address once: which one of two counts is another rule.
        let mut seen = BTreeSet::new();
        let given: Vec<Given> = given.into_iter().filter(|given| seen.insert(given.last)).collect();
        let policy = |is_local| if is_local { "Local" } else { "Cluster" };
        let object = service(json!({"spec": {"internalTrafficPolicy": policy(internal), "externalTrafficPolicy": policy(external)}}));
        let (_, port) = decided(&object, &given).ports.remove(0);
        prop_assert_eq!(outcome(&port.internal), naive(&given, internal));
        // Pods and the node itself use all endpoints, whatever the policy says to others.
        prop_assert_eq!(outcome(&port.external), naive(&given, false));
        prop_assert_eq!(port.external_local.as_ref().map(outcome), external.then(|| naive(&given, true)));
        prop_assert_eq!(port.serving.len(), given.iter().filter(|given| given.serving != Some(false)).count());
    }
}

fn numbers_of(list: &[&Given]) -> BTreeSet<u8> {
    list.iter().map(|given| given.last).collect()
}

fn ready(last: u8, node: u8) -> Given {
    Given { last, ready: Some(true), serving: Some(true), terminating: Some(false), node, node_hint: None, zone_hint: None }
}

#[test]
fn an_address_that_is_named_twice_counts_once() {
    let gone = Given { ready: Some(false), terminating: Some(true), ..ready(5, 1) };
    for given in [[gone.clone(), ready(5, 1)], [ready(5, 1), gone]] {
        let (_, port) = decided(&service(json!({})), &given).ports.remove(0);
        assert_eq!(port.internal, Backends::To(vec![Backend { address: "10.244.0.5".parse().expect("an address"), port: 8080 }]));
    }
}

#[test]
fn services_of_others_and_without_addresses_are_left_alone() {
    let skipped = [
        json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}),
        json!({"spec": {"type": "ExternalName", "clusterIP": null, "externalName": "example.org"}}),
        json!({"spec": {"clusterIP": ""}}),
        json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": ""}}}),
    ];
    for change in skipped {
        assert_eq!(Service::read(&service(change.clone())), None, "{change}");
    }
}

#[test]
fn load_balancers_have_addresses_ranges_and_a_check() {
    let object = service(json!({
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
            "externalIPs": ["203.0.113.9", "2001:db8::9"], "loadBalancerSourceRanges": [" 10.0.0.0/8 ", "2001:db8::/32"],
            "sessionAffinity": "ClientIP",
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}, {"ip": "203.0.113.8", "ipMode": "Proxy"}, {"hostname": "x"}]}},
    }));
    let mut decision = decided(&object, &[ready(1, 1), ready(2, 1), ready(3, 2), Given { ready: Some(false), ..ready(4, 1) }]);
    assert_eq!(decision.health_check, Some(HealthCheck { port: 31000, local_endpoints: 2 }));
    let (name, port) = decision.ports.remove(0);
    assert_eq!((&*name.namespace, &*name.service, &*name.port), ("default", "web", "web"));
    let texts = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&port.external_addresses), ["203.0.113.7", "203.0.113.9"]);
    let ranges = port.source_ranges.expect("it has some");
    assert_eq!(texts(&ranges.load_balancer_addresses), ["203.0.113.7"]);
    assert_eq!(ranges.allowed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8"]);
    assert_eq!(port.affinity_seconds, Some(10_800));
    assert_eq!(port.protocol, Protocol::Tcp);
}

#[test]
fn a_port_without_a_number_or_of_another_name_has_no_endpoints() {
    let object = service(json!({"spec": {"ports": [{"name": "other", "protocol": "TCP", "port": 81}]}}));
    let (_, port) = decided(&object, &[ready(1, 1)]).ports.remove(0);
    assert_eq!((port.internal, port.node_port), (Backends::Reject, None));
}

/// What the kernel holds of a Service is a product of what its user may choose.
#[test]
fn a_service_has_an_end() {
    let ports: Vec<Value> = (0..3000).map(|number| json!({"name": "web", "protocol": "TCP", "port": 1 + number})).collect();
    let addresses: Vec<String> = (0..10_000).map(|number| format!("203.0.{}.{}", number / 250, number % 250)).collect();
    let object = service(json!({"spec": {"ports": ports, "externalIPs": addresses, "externalTrafficPolicy": "Local"}}));
    let given: Vec<Given> = (0..200).map(|number| ready(number, 1)).collect();
    let decision = decided(&object, &given);
    let elements = |port: &ServicePort| {
        let ways = 1 + 2 * (port.external_addresses.len() + 1);
        [&port.internal, &port.external].into_iter().chain(&port.external_local).all(|list| list.list().len() <= 200) as usize
            * ways
            * port.internal.list().len()
    };
    let total: usize = decision.ports.iter().map(|(_, port)| elements(port)).sum();
    assert!((1..=100_000).contains(&total), "{total}");
    // An ordinary one is whole.
    let (_, port) = decided(&service(json!({})), &given).ports.remove(0);
    assert_eq!(port.internal.list().len(), 200);
}
