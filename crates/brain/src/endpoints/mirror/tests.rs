//! Rules of mirrored Endpoints by example, most of them after upstream's
//! `endpointslicemirroring_controller_test.go` and `reconciler_test.go`.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::legacy::EndpointsController;
use super::super::tests::{items, slice_text};
use super::*;
use crate::fixture::now;
use crate::pretend::Server;
use crate::request::SERVICES;

/// A Service `web` without a selector, and its Endpoints.
struct World {
    server: Server,
}

impl World {
    fn new(subsets: Value) -> World {
        let mut world = World { server: Server::default() };
        world.service(json!({}));
        world.endpoints(json!({}), subsets);
        world
    }

    fn service(&mut self, spec: Value) {
        self.server.insert(SERVICES, json!({"metadata": {"name": "web", "namespace": "ns", "uid": "service-uid"}, "spec": spec}));
    }

    fn endpoints(&mut self, metadata: Value, subsets: Value) {
        let mut endpoints = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "endpoints-uid"}, "subsets": subsets});
        for (field, value) in metadata.as_object().into_iter().flatten() {
            endpoints["metadata"][field] = value.clone();
        }
        self.server.insert(ENDPOINTS, endpoints);
    }

    fn sync(&mut self) -> Work {
        let work = EndpointSliceMirroring.plan(&self.server.picture(), &key(), now());
        let outcome = self.server.perform(work.clone(), now());
        assert!(!outcome.failed, "{work:?}");
        work
    }

    /// The slices after a sync, and that another sync has nothing to do.
    fn check(&mut self, expected: Expect) {
        self.sync();
        assert!(self.sync().is_empty(), "nothing is left to do");
        let all: Vec<String> = self.slices().iter().map(|(_, slice)| slice_text(slice)).collect();
        expected.assert_eq(&all.join("\n"));
    }

    fn slices(&self) -> Vec<(Key, Arc<Value>)> {
        self.server.list(ENDPOINT_SLICES).map(|(key, slice)| (key.clone(), slice.clone())).collect()
    }

    fn slice(&self) -> (Key, Arc<Value>) {
        let mut slices = self.slices();
        assert_eq!(slices.len(), 1);
        slices.remove(0)
    }
}

fn key() -> Key {
    Key::new("ns", "web")
}

fn port(name: &str, number: i64) -> Value {
    json!({"name": name, "port": number, "protocol": "TCP"})
}

fn ips(ips: &[&str]) -> Vec<Value> {
    ips.iter().map(|ip| json!({"ip": ip})).collect()
}

fn many(count: usize) -> Vec<Value> {
    (0..count).map(|number| json!({"ip": format!("10.1.{}.{}", number / 200, number % 200)})).collect()
}

fn simple() -> Value {
    json!([{"addresses": ips(&["10.0.0.1"]), "ports": [port("http", 80)]}])
}

#[test]
fn addresses_that_are_ready_and_that_are_not_are_mirrored() {
    let mut world = World::new(json!([{
        "addresses": ips(&["10.0.0.2", "10.0.0.1"]), "notReadyAddresses": ips(&["10.0.0.3"]), "ports": [port("http", 80), port("more", 81)],
    }]));
    world.check(expect![[r#"
        IPv4 [http:80,more:81]
          ["10.0.0.1"] - ready
          ["10.0.0.2"] - ready
          ["10.0.0.3"] - "#]]);
}

#[test]
fn a_mirrored_slice_is_as_upstream_makes_it() {
    let mut world = World::new(json!([{
        "addresses": [{
            "ip": "10.0.0.1", "hostname": "zero", "nodeName": "n1",
            "targetRef": {"apiVersion": "v1", "kind": "Pod", "namespace": "ns", "name": "a", "uid": "a-uid", "fieldPath": "x"},
        }],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "http"}, {"port": 81, "protocol": "UDP"}],
    }]));
    let subsets = world.server.get(ENDPOINTS, &key()).expect("Endpoints")["subsets"].clone();
    let annotations = json!({
        "note": "x", TRIGGER_TIME: "2020-01-01T00:00:00Z", "kubectl.kubernetes.io/last-applied-configuration": "{}",
    });
    world.endpoints(json!({"labels": {"tier": "front", SERVICE_NAME: "lies"}, "annotations": annotations}), subsets);
    world.sync();
    assert!(world.sync().is_empty(), "nothing is left to do");
    let (key, slice) = world.slice();
    assert!(key.name.starts_with("web-") && key.name.len() == 9, "{key}");
    let metadata = &slice["metadata"];
    assert_eq!(metadata["generateName"], "web-");
    assert_eq!(metadata["labels"], json!({"tier": "front", SERVICE_NAME: "web", MANAGED_BY: "endpointslicemirroring-controller.k8s.io"}));
    assert_eq!(metadata["annotations"], json!({"note": "x"}));
    let owner = json!({
        "apiVersion": "v1", "kind": "Endpoints", "name": "web", "uid": "endpoints-uid", "controller": true, "blockOwnerDeletion": true,
    });
    assert_eq!(metadata["ownerReferences"], json!([owner]));
    let endpoint = json!({
        "addresses": ["10.0.0.1"], "conditions": {"ready": true}, "hostname": "zero", "nodeName": "n1",
        "targetRef": {"apiVersion": "v1", "kind": "Pod", "namespace": "ns", "name": "a", "uid": "a-uid", "fieldPath": "x"},
    });
    assert_eq!(slice["endpoints"], json!([endpoint]));
    let ports = json!([
        {"name": "", "port": 81, "protocol": "UDP"}, {"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "http"},
    ]);
    assert_eq!(slice["ports"], ports);
}

#[test]
fn endpoints_without_addresses_have_no_slice() {
    for subsets in [json!(null), json!([]), json!([{"ports": [port("http", 80)]}]), json!([{"addresses": null, "ports": null}])] {
        World::new(subsets).check(expect![""]);
    }
}

#[test]
fn each_set_of_ports_and_each_family_has_a_slice() {
    let mut world = World::new(json!([
        {"addresses": ips(&["2001:db8::1", "10.0.0.2"]), "ports": [port("http", 80)]},
        {"addresses": ips(&["10.0.1.1", "10.0.1.2", "2001:DB8::0:3"]), "ports": [port("http", 3000), port("https", 3001)]},
    ]));
    world.sync();
    assert!(world.sync().is_empty(), "nothing is left to do");
    let mut all: Vec<String> = world.slices().iter().map(|(_, slice)| slice_text(slice)).collect();
    all.sort();
    expect![[r#"
        IPv4 [http:3000,https:3001]
          ["10.0.1.1"] - ready
          ["10.0.1.2"] - ready
        IPv4 [http:80]
          ["10.0.0.2"] - ready
        IPv6 [http:3000,https:3001]
          ["2001:db8::3"] - ready
        IPv6 [http:80]
          ["2001:db8::1"] - ready"#]]
    .assert_eq(&all.join("\n"));
}

#[test]
fn subsets_that_say_the_same_become_one_slice() {
    let mut world = World::new(json!([
        {"addresses": ips(&["10.0.0.1"]), "ports": [port("a", 1)]},
        {"addresses": ips(&["10.0.0.1"]), "ports": [port("b", 2)]},
        {"addresses": ips(&["10.0.0.2"]), "ports": [port("b", 2), port("a", 1)]},
    ]));
    world.check(expect![[r#"
        IPv4 [a:1,b:2]
          ["10.0.0.1"] - ready
          ["10.0.0.2"] - ready"#]]);
}

#[test]
fn an_address_that_is_said_to_be_both_is_not_ready() {
    let mut world = World::new(json!([
        {"addresses": ips(&["10.0.0.1", "10.0.0.2"]), "ports": [port("a", 1)]},
        {"notReadyAddresses": ips(&["10.0.0.1"]), "ports": [port("a", 1)]},
    ]));
    world.check(expect![[r#"
        IPv4 [a:1]
          ["10.0.0.1"] - 
          ["10.0.0.2"] - ready"#]]);
}

#[test]
fn addresses_without_ports_are_mirrored() {
    World::new(json!([{"addresses": ips(&["10.0.0.1"])}])).check(expect![[r#"
        IPv4 []
          ["10.0.0.1"] - ready"#]]);
}

#[test]
fn a_change_of_the_endpoints_changes_the_slice_that_is_there() {
    let mut world = World::new(simple());
    world.sync();
    let (before, _) = world.slice();
    world.endpoints(json!({}), json!([{"addresses": ips(&["10.0.0.1", "10.0.0.2"]), "ports": [port("http", 80)]}]));
    world.check(expect![[r#"
        IPv4 [http:80]
          ["10.0.0.1"] - ready
          ["10.0.0.2"] - ready"#]]);
    world.endpoints(json!({}), json!([{"notReadyAddresses": ips(&["10.0.0.2"]), "ports": [port("http", 80)]}]));
    world.check(expect![[r#"
        IPv4 [http:80]
          ["10.0.0.2"] - "#]]);
    world.endpoints(json!({}), json!([{"notReadyAddresses": ips(&["10.0.0.2"]), "ports": [port("new", 90)]}]));
    world.check(expect![[r#"
        IPv4 [new:90]
          ["10.0.0.2"] - "#]]);
    assert_eq!(world.slice().0, before, "what would be deleted is used again");
    world.endpoints(json!({}), json!([]));
    world.check(expect![""]);
}

#[test]
fn labels_and_annotations_follow_the_endpoints() {
    let mut world = World::new(simple());
    world.endpoints(json!({"labels": {"old": "x"}, "annotations": {"old": "x"}}), simple());
    world.sync();
    world.endpoints(json!({"labels": {"new": "y"}, "annotations": {"new": "y", TRIGGER_TIME: "2020-01-01T00:00:00Z"}}), simple());
    world.sync();
    assert!(world.sync().is_empty(), "nothing is left to do");
    let (_, slice) = world.slice();
    assert_eq!(slice["metadata"]["labels"], json!({"new": "y", SERVICE_NAME: "web", MANAGED_BY: MANAGER}));
    assert_eq!(slice["metadata"]["annotations"], json!({"new": "y"}));
}

#[test]
fn some_endpoints_are_not_mirrored() {
    let skip = json!({"labels": {SKIP_MIRROR: "true"}});
    let lock = json!({"annotations": {LEADER: "{}"}});
    for metadata in [skip, lock] {
        let mut world = World::new(simple());
        world.sync();
        world.slice();
        world.endpoints(metadata, simple());
        world.check(expect![""]);
    }
    let mut world = World::new(simple());
    world.endpoints(json!({"labels": {SKIP_MIRROR: "false"}}), simple());
    world.sync();
    world.slice();
}

#[test]
fn slices_go_with_the_endpoints_and_with_the_service() {
    for resource in [ENDPOINTS, SERVICES] {
        let mut world = World::new(simple());
        world.sync();
        world.slice();
        world.server.remove(resource, &key());
        world.check(expect![""]);
    }
    let mut world = World::new(simple());
    world.server.remove(SERVICES, &key());
    world.check(expect![""]);
}

#[test]
fn slices_go_when_the_service_gets_a_selector() {
    let mut world = World::new(simple());
    world.sync();
    world.slice();
    world.service(json!({"selector": {"app": "web"}, "clusterIP": "10.96.0.1"}));
    world.check(expect![""]);
    // Another controller then takes the Endpoints over: they are not mirrored again.
    let work = EndpointsController::default().plan(&world.server.picture(), &key(), now());
    assert!(!work.is_empty() && !world.server.perform(work, now()).failed);
    world.check(expect![""]);
}

#[test]
fn a_selector_that_the_type_makes_void_counts_as_one() {
    let mut world = World::new(simple());
    world.service(json!({"selector": {"app": "web"}, "type": "ExternalName"}));
    world.check(expect![""]);
    world.service(json!({"type": "ExternalName", "selector": {}}));
    world.sync();
    world.slice();
}

#[test]
fn endpoints_that_go_away_get_no_new_slices() {
    let mut world = World::new(json!([]));
    world.endpoints(json!({"deletionTimestamp": now().to_string(), "finalizers": ["x"]}), simple());
    world.check(expect![""]);
}

#[test]
fn slices_of_earlier_endpoints_of_the_name_get_the_new_owner() {
    let mut world = World::new(simple());
    world.sync();
    world.endpoints(json!({"uid": "second"}), simple());
    world.sync();
    assert!(world.sync().is_empty(), "nothing is left to do");
    let owners = &world.slice().1["metadata"]["ownerReferences"];
    assert_eq!((owners.as_array().map(Vec::len), &owners[0]["uid"]), (Some(1), &json!("second")));
}

#[test]
fn one_slice_of_several_with_the_same_ports_stays() {
    let mut world = World::new(simple());
    world.sync();
    let mut copy = Value::clone(&world.slice().1);
    copy["metadata"]["name"] = json!("web-zzzzz");
    copy["metadata"]["uid"] = json!("copy");
    world.server.insert(ENDPOINT_SLICES, copy);
    world.check(expect![[r#"
        IPv4 [http:80]
          ["10.0.0.1"] - ready"#]]);
}

#[test]
fn slices_of_others_are_left_alone() {
    let mut world = World::new(simple());
    let labels = json!({SERVICE_NAME: "web", MANAGED_BY: "me"});
    let slice = json!({"metadata": {"name": "mine", "namespace": "ns", "labels": labels}, "addressType": "IPv4", "endpoints": []});
    world.server.insert(ENDPOINT_SLICES, slice);
    world.check(expect![[r#"
        IPv4 []
        IPv4 [http:80]
          ["10.0.0.1"] - ready"#]]);
    world.server.remove(ENDPOINTS, &key());
    world.check(expect!["IPv4 []"]);
}

fn messages(work: &Work) -> Vec<(&str, &str)> {
    work.events.iter().map(|event| (&*event.reason, &*event.message)).collect()
}

#[test]
fn a_thousand_addresses_of_a_set_of_ports_are_mirrored() {
    let mut world = World::new(json!([{
        "addresses": many(900), "notReadyAddresses": ips(&["10.9.0.1"]), "ports": [port("http", 80)],
    }]));
    assert!(messages(&world.sync()).is_empty());
    let mut not_ready = many(1100);
    not_ready.drain(..900);
    world.endpoints(json!({}), json!([{"addresses": many(900), "notReadyAddresses": not_ready, "ports": [port("http", 80)]}]));
    let text = "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 100 addresses were skipped";
    assert_eq!(messages(&world.sync()), [("TooManyAddressesToMirror", text)]);
    assert!(world.sync().is_empty(), "the event comes once");
    let (_, slice) = world.slice();
    let ready = items(&slice["endpoints"]).filter(|endpoint| endpoint["conditions"]["ready"] == true).count();
    assert_eq!((items(&slice["endpoints"]).count(), ready), (1000, 900), "those that are ready come first");
}

#[test]
fn what_is_no_address_is_left_out() {
    let mut world = World::new(json!([{"addresses": ips(&["10.0.0.1", "this-is-not-an-ip"]), "ports": [port("http", 80)]}]));
    assert_eq!(messages(&world.sync()), [("InvalidIPAddress", "Skipped 1 invalid IP addresses when mirroring to EndpointSlices")]);
    world.check(expect![[r#"
        IPv4 [http:80]
          ["10.0.0.1"] - ready"#]]);
}

#[test]
fn sets_of_ports_have_a_limit() {
    let subset = |number: i64| json!({"addresses": ips(&[&format!("10.0.0.{number}")]), "ports": [port(&format!("p{number:03}"), number)]});
    let mut world = World::new((1..=102).map(subset).collect());
    let work = world.sync();
    let text = "A max of 100 sets of ports with different addresses can be mirrored to EndpointSlices. 2 ports were skipped";
    assert_eq!(messages(&work), [("TooManyPortsToMirror", text)]);
    assert_eq!(world.slices().len(), 100);
    assert!(world.sync().is_empty(), "nothing is left to do");
}

#[test]
fn a_change_concerns_the_endpoints_that_it_is_about() {
    let mut world = World::new(simple());
    world.sync();
    let before = world.server.picture();
    let concerned = |old: Option<Object>, new: Option<Object>| {
        let mut keys = BTreeSet::new();
        EndpointSliceMirroring.concerns(&before, &Change { old, new }, &mut |key| {
            keys.insert(key.to_string());
        });
        keys.into_iter().collect::<Vec<_>>().join(" ")
    };
    let service = || Some(Object::Service(before.services[&key()].clone()));
    let endpoints = || Some(Object::Endpoints(before.endpoints[&key()].clone()));
    let (name, _) = world.slice();
    let slice = before.slices[&name].clone();
    world.service(json!({"selector": {"app": "web"}}));
    let selecting = || Some(Object::Service(world.server.picture().services[&key()].clone()));
    for (old, new) in [(None, service()), (service(), None), (service(), selecting()), (selecting(), service())] {
        assert_eq!(concerned(old, new), "ns/web");
    }
    assert_eq!(concerned(service(), service()), "");
    for (old, new) in [(None, endpoints()), (endpoints(), endpoints()), (endpoints(), None)] {
        assert_eq!(concerned(old, new), "ns/web");
    }
    let mut others = EndpointSlice::clone(&slice);
    others.meta.labels.insert(MANAGED_BY, "me");
    let (ours, others) = (|| Some(Object::EndpointSlice(slice.clone())), Some(Object::EndpointSlice(Arc::new(others))));
    assert_eq!(concerned(None, ours()), "ns/web");
    assert_eq!(concerned(ours(), None), "ns/web");
    assert_eq!(concerned(ours(), others.clone()), "ns/web", "somebody took the label away");
    assert_eq!(concerned(others.clone(), others), "");
}

/// Subsets of a few addresses and ports, in all mixtures.
fn subsets() -> impl Strategy<Value = Value> {
    let list = |of: &'static [&'static str], max: usize| proptest::collection::vec(proptest::sample::select(of), 0..max);
    let address = || list(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1", "2001:db8::2"], 4);
    let ports = list(&["a", "b", "c"], 3);
    let subset = (address(), address(), ports).prop_map(|(ready, not_ready, names)| {
        let ports: Vec<Value> = names.iter().map(|name| port(name, i64::from(name.as_bytes()[0]))).collect();
        json!({"addresses": ips(&ready), "notReadyAddresses": ips(&not_ready), "ports": ports})
    });
    proptest::collection::vec(subset, 0..4).prop_map(Value::Array)
}

/// Each port with each of its addresses and whether it is ready there: what a client sees.
fn offered_by_subsets(subsets: &Value) -> BTreeMap<(String, String), bool> {
    let mut offered = BTreeMap::new();
    for subset in items(subsets) {
        let mut names: Vec<&str> = items(&subset["ports"]).filter_map(|port| port["name"].as_str()).collect();
        if names.is_empty() {
            names.push("-");
        }
        for name in names {
            for (field, is_ready) in [("addresses", true), ("notReadyAddresses", false)] {
                for address in items(&subset[field]).filter_map(|address| address["ip"].as_str()) {
                    *offered.entry((name.to_owned(), address.to_owned())).or_insert(true) &= is_ready;
                }
            }
        }
    }
    offered
}

fn offered_by_slices(world: &World) -> BTreeMap<(String, String), bool> {
    let mut offered = BTreeMap::new();
    for (_, slice) in world.slices() {
        let mut names: Vec<&str> = items(&slice["ports"]).filter_map(|port| port["name"].as_str()).collect();
        if names.is_empty() {
            names.push("-");
        }
        for (name, endpoint) in names.iter().flat_map(|name| items(&slice["endpoints"]).map(move |endpoint| (name, endpoint))) {
            let address = endpoint["addresses"][0].as_str().unwrap_or_default();
            let known = offered.insert(((*name).to_owned(), address.to_owned()), endpoint["conditions"]["ready"] == true);
            assert_eq!(known, None, "{name} {address} is in one slice");
        }
    }
    offered
}

proptest! {
    /// Whatever is changed by hand: slices offer what the Endpoints do, and nothing is left to do.
    #[test]
    fn slices_offer_what_the_endpoints_do(all in proptest::collection::vec(subsets(), 1..4)) {
        let mut world = World::new(json!([]));
        for subsets in all {
            world.endpoints(json!({}), subsets.clone());
            world.sync();
            prop_assert!(world.sync().is_empty());
            let (wanted, offered) = (offered_by_subsets(&subsets), offered_by_slices(&world));
            // Where addresses with ports are listed without any, too, the ports are enough.
            for (at, is_ready) in wanted.iter().filter(|((name, _), _)| name != "-") {
                prop_assert_eq!(offered.get(at), Some(is_ready), "{:?}", at);
            }
            prop_assert!(offered.iter().all(|(at, is_ready)| wanted.get(at) == Some(is_ready)));
        }
    }
}
