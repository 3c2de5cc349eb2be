//! Rules of Services' endpoints by example. The requests are answered by a pretended server, so
//! that what is shown is what is stored.

use std::sync::Arc;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::legacy::EndpointsController;
use super::slices::EndpointSliceController;
use super::*;
use crate::controller::{Controller, Work};
use crate::fixture::{at, now};
use crate::model::Key;
use crate::picture::{Change, Kind, Object, Picture};
use crate::pretend::Server;
use crate::queue::Queue;
use crate::request::{ENDPOINT_SLICES, ENDPOINTS, NODES, PODS, SERVICES};

/// A Service `web` and what selects it, with controllers that have planned nothing yet.
struct World {
    server: Server,
    slices: EndpointSliceController,
    endpoints: EndpointsController,
}

impl World {
    /// `spec` is what differs from a Service with an address, of pods `app=web`, with port 80 to
    /// 8080.
    fn new(spec: Value) -> World {
        let mut server = Server::default();
        for (node, zone) in [("n1", Some("z1")), ("n2", None)] {
            let labels = zone.map(|zone| json!({"topology.kubernetes.io/zone": zone}));
            server.insert(NODES, json!({"metadata": {"name": node, "labels": labels}}));
        }
        let mut world = World { server, slices: EndpointSliceController::default(), endpoints: EndpointsController::default() };
        world.service(json!({}), spec);
        world
    }

    fn service(&mut self, metadata: Value, spec: Value) {
        let mut service = json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "web-uid", "creationTimestamp": at(-60).to_string()},
            "spec": {
                "selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"],
                "ports": [{"protocol": "TCP", "port": 80, "targetPort": 8080}],
            },
        });
        for (part, changes) in [("metadata", metadata), ("spec", spec)] {
            for (field, value) in changes.as_object().into_iter().flatten() {
                service[part][field] = value.clone();
            }
        }
        self.server.insert(SERVICES, service);
    }

    /// `NAME@NODE IP` (`-` for none) and words: `ready` (for so many seconds), `deleting`,
    /// `failed`, `port=NAME:NUMBER`, `label=VALUE`, `host=NAME`.
    fn pod(&mut self, text: &str) {
        let words: Vec<&str> = text.split(' ').collect();
        let (name, node) = words[0].split_once('@').expect("NAME@NODE");
        let ips: Vec<Value> = words[1].split(',').filter(|ip| *ip != "-").map(|ip| json!({"ip": ip})).collect();
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": format!("{name}-uid"), "labels": {"app": "web"}},
            "spec": {"nodeName": node, "containers": [{"name": "c"}]}, "status": {"phase": "Running", "podIPs": ips},
        });
        for word in &words[2..] {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "ready" => {
                    let since = at(-value.parse::<i64>().unwrap_or(30)).to_string();
                    pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
                }
                "deleting" => pod["metadata"]["deletionTimestamp"] = json!(now().to_string()),
                "failed" => pod["status"]["phase"] = json!("Failed"),
                "port" => {
                    let (name, number) = value.split_once(':').expect("port=NAME:NUMBER");
                    let port = json!({"name": name, "containerPort": number.parse::<i64>().expect("a number"), "protocol": "TCP"});
                    pod["spec"]["containers"][0]["ports"] = json!([port]);
                }
                "label" => pod["metadata"]["labels"] = json!({"app": value}),
                "host" => {
                    pod["spec"]["hostname"] = json!(value);
                    pod["spec"]["subdomain"] = json!("web");
                }
                _ => panic!("unknown word {word}"),
            }
        }
        self.server.insert(PODS, pod);
    }

    fn pods(&mut self, texts: &str) {
        texts.split(';').map(str::trim).for_each(|text| self.pod(text));
    }

    fn remove_pod(&mut self, name: &str) {
        self.server.remove(PODS, &Key::new("ns", name));
    }

    fn sync_slices(&mut self) -> Work {
        let work = self.slices.plan(&self.server.picture(), &Key::new("ns", "web"), now());
        let outcome = self.server.perform(work.clone(), now());
        assert!(!outcome.failed, "{work:?}");
        work
    }

    fn sync_endpoints(&mut self) -> Work {
        let work = self.endpoints.plan(&self.server.picture(), &Key::new("ns", "web"), now());
        let outcome = self.server.perform(work.clone(), now());
        assert!(!outcome.failed, "{work:?}");
        work
    }

    /// The slices after a sync, and that another sync has nothing to do.
    fn check_slices(&mut self, expected: Expect) {
        self.sync_slices();
        assert!(self.sync_slices().is_empty(), "nothing is left to do");
        let all: Vec<String> = self.server.list(ENDPOINT_SLICES).map(|(_, slice)| slice_text(slice)).collect();
        expected.assert_eq(&all.join("\n"));
    }

    fn check_endpoints(&mut self, expected: Expect) {
        self.sync_endpoints();
        assert!(self.sync_endpoints().is_empty(), "nothing is left to do");
        let all: Vec<String> = self.server.list(ENDPOINTS).map(|(_, endpoints)| endpoints_text(endpoints)).collect();
        expected.assert_eq(&all.join("\n"));
    }

    /// How many endpoints each slice has.
    fn sizes(&self) -> Vec<usize> {
        self.server.list(ENDPOINT_SLICES).map(|(_, slice)| slice["endpoints"].as_array().map_or(0, Vec::len)).collect()
    }
}

pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn ports_text(ports: &Value) -> String {
    items(ports).map(|port| format!("{}:{}", port["name"].as_str().unwrap_or("-"), port["port"])).collect::<Vec<_>>().join(",")
}

fn names(list: &Value) -> String {
    items(list).map(|item| item["name"].as_str().unwrap_or("-")).collect::<Vec<_>>().join(",")
}

pub fn slice_text(slice: &Value) -> String {
    let endpoint = |endpoint: &Value| {
        let conditions = ["ready", "serving", "terminating"].into_iter().filter(|name| endpoint["conditions"][*name] == true);
        let more = ["hostname", "nodeName", "zone"].into_iter().filter_map(|field| Some(format!("{field}={}", endpoint[field].as_str()?)));
        let hints = ["forZones", "forNodes"].into_iter().filter(|field| endpoint["hints"].get(*field).is_some());
        let hints = hints.map(|field| format!("{field}={}", names(&endpoint["hints"][field])));
        let pod = &endpoint["targetRef"]["name"];
        let words: Vec<String> = conditions.map(str::to_owned).chain(more).chain(hints).collect();
        format!("\n  {} {} {}", endpoint["addresses"], pod.as_str().unwrap_or("-"), words.join(" "))
    };
    let ports = ports_text(&slice["ports"]);
    format!("{} [{ports}]{}", slice["addressType"].as_str().unwrap_or("-"), items(&slice["endpoints"]).map(endpoint).collect::<String>())
}

fn endpoints_text(endpoints: &Value) -> String {
    let address =
        |address: &Value| format!("{}/{}", address["ip"].as_str().unwrap_or("-"), address["targetRef"]["name"].as_str().unwrap_or("-"));
    let list = |list: &Value| items(list).map(address).collect::<Vec<_>>().join(",");
    let subset = |subset: &Value| {
        format!("ready={} not={} [{}]", list(&subset["addresses"]), list(&subset["notReadyAddresses"]), ports_text(&subset["ports"]))
    };
    items(&endpoints["subsets"]).map(subset).collect::<Vec<_>>().join("\n")
}

#[test]
fn pods_of_a_service_are_in_its_slice() {
    let mut world = World::new(json!({}));
    world.pods("a@n1 10.0.0.1 ready; b@n2 10.0.0.2; c@n1 10.0.0.3 label=other; d@n1 -; e@n1 10.0.0.5 failed");
    world.check_slices(expect![[r#"
        IPv4 [:8080]
          ["10.0.0.1"] a ready serving nodeName=n1 zone=z1
          ["10.0.0.2"] b nodeName=n2"#]]);
}

#[test]
fn a_new_slice_belongs_to_its_service() {
    let mut world = World::new(json!({}));
    world.service(json!({"labels": {"tier": "front", "kubernetes.io/service-name": "lies"}}), json!({}));
    world.pod("a@n1 10.0.0.1 ready");
    world.sync_slices();
    let (key, slice) = world.server.list(ENDPOINT_SLICES).next().expect("a slice");
    assert!(key.name.starts_with("web-") && key.name.len() == 9, "{key}");
    let labels = json!({
        "tier": "front", "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    });
    let owner = json!({
        "apiVersion": "v1", "kind": "Service", "name": "web", "uid": "web-uid", "controller": true, "blockOwnerDeletion": true,
    });
    assert_eq!(slice["metadata"]["labels"], labels);
    assert_eq!(slice["metadata"]["ownerReferences"], json!([owner]));
    assert_eq!(slice["metadata"]["annotations"], json!({TRIGGER_TIME: "1970-01-12T13:45:40Z"}));
}

#[test]
fn a_service_without_pods_has_an_empty_slice() {
    let mut world = World::new(json!({}));
    world.check_slices(expect!["IPv4 []"]);
    world.pod("a@n1 10.0.0.1 ready");
    world.check_slices(expect![[r#"
        IPv4 [:8080]
          ["10.0.0.1"] a ready serving nodeName=n1 zone=z1"#]]);
    world.remove_pod("a");
    world.check_slices(expect!["IPv4 []"]);
}

#[test]
fn pods_that_go_away_serve_until_they_are_gone() {
    let mut world = World::new(json!({}));
    world.pods("a@n1 10.0.0.1 ready deleting; b@n1 10.0.0.2 deleting");
    world.check_slices(expect![[r#"
        IPv4 [:8080]
          ["10.0.0.1"] a serving terminating nodeName=n1 zone=z1
          ["10.0.0.2"] b terminating nodeName=n1 zone=z1"#]]);
}

#[test]
fn a_service_may_want_pods_however_they_are() {
    let mut world = World::new(json!({"publishNotReadyAddresses": true}));
    world.pods("a@n1 10.0.0.1 deleting; b@gone 10.0.0.2");
    world.check_slices(expect![[r#"
        IPv4 [:8080]
          ["10.0.0.1"] a ready terminating nodeName=n1 zone=z1
          ["10.0.0.2"] b ready nodeName=gone"#]]);
    world.check_endpoints(expect!["ready=10.0.0.1/a,10.0.0.2/b not= [-:8080]"]);
}

#[test]
fn a_pod_that_is_over_serves_nobody() {
    let mut world = World::new(json!({"publishNotReadyAddresses": true}));
    world.pods("a@n1 10.0.0.1 ready failed; b@n1 10.0.0.2 ready failed deleting");
    world.check_slices(expect!["IPv4 []"]);
    world.check_endpoints(expect![""]);
}

#[test]
fn a_service_that_wants_pods_however_they_are_may_stop_to() {
    let mut world = World::new(json!({"publishNotReadyAddresses": true}));
    world.pods("a@n1 10.0.0.1 ready deleting; b@n1 10.0.0.2; c@n1 10.0.0.3 ready");
    world.check_slices(expect![[r#"
        IPv4 [:8080]
          ["10.0.0.1"] a ready serving terminating nodeName=n1 zone=z1
          ["10.0.0.2"] b ready nodeName=n1 zone=z1
          ["10.0.0.3"] c ready serving nodeName=n1 zone=z1"#]]);
    world.check_endpoints(expect!["ready=10.0.0.1/a,10.0.0.2/b,10.0.0.3/c not= [-:8080]"]);
    world.service(json!({}), json!({}));
    world.check_slices(expect![[r#"
        IPv4 [:8080]
          ["10.0.0.1"] a serving terminating nodeName=n1 zone=z1
          ["10.0.0.2"] b nodeName=n1 zone=z1
          ["10.0.0.3"] c ready serving nodeName=n1 zone=z1"#]]);
    world.check_endpoints(expect!["ready=10.0.0.3/c not=10.0.0.2/b [-:8080]"]);
}

#[test]
fn hints_are_where_the_endpoint_is_and_only_for_those_that_are_ready() {
    let pods = "a@n1 10.0.0.1 ready; b@n2 10.0.0.2 ready; c@n1 10.0.0.3; d@n1 10.0.0.4 ready deleting";
    for distribution in ["PreferClose", "PreferSameZone"] {
        let mut world = World::new(json!({"trafficDistribution": distribution}));
        world.pods(pods);
        world.check_slices(expect![[r#"
            IPv4 [:8080]
              ["10.0.0.1"] a ready serving nodeName=n1 zone=z1 forZones=z1
              ["10.0.0.2"] b ready serving nodeName=n2
              ["10.0.0.3"] c nodeName=n1 zone=z1
              ["10.0.0.4"] d serving terminating nodeName=n1 zone=z1"#]]);
    }
    let mut world = World::new(json!({"trafficDistribution": "PreferSameNode"}));
    world.pods(pods);
    world.check_slices(expect![[r#"
        IPv4 [:8080]
          ["10.0.0.1"] a ready serving nodeName=n1 zone=z1 forZones=z1 forNodes=n1
          ["10.0.0.2"] b ready serving nodeName=n2 forNodes=n2
          ["10.0.0.3"] c nodeName=n1 zone=z1
          ["10.0.0.4"] d serving terminating nodeName=n1 zone=z1"#]]);
}

#[test]
fn hints_come_change_and_go_with_the_traffic_distribution() {
    let mut world = World::new(json!({}));
    world.pod("a@n1 10.0.0.1 ready");
    for (distribution, hints) in [
        (Value::Null, Value::Null),
        (json!("PreferSameNode"), json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]})),
        (json!("PreferSameZone"), json!({"forZones": [{"name": "z1"}]})),
        (json!("Unknown"), Value::Null),
        (json!("PreferClose"), json!({"forZones": [{"name": "z1"}]})),
        (Value::Null, Value::Null),
    ] {
        world.service(json!({}), json!({"trafficDistribution": distribution}));
        world.sync_slices();
        assert!(world.sync_slices().is_empty(), "nothing is left to do");
        let (_, slice) = world.server.list(ENDPOINT_SLICES).next().expect("a slice");
        assert_eq!(slice["endpoints"][0]["hints"], hints, "{distribution}");
    }
}

#[test]
fn a_wrong_hint_is_put_right() {
    let mut world = World::new(json!({"trafficDistribution": "PreferSameZone"}));
    world.pod("a@n1 10.0.0.1 ready");
    world.sync_slices();
    let mut slice = Value::clone(world.server.list(ENDPOINT_SLICES).next().expect("a slice").1);
    slice["endpoints"][0]["hints"] = json!({"forZones": [{"name": "z2"}]});
    world.server.insert(ENDPOINT_SLICES, slice);
    world.check_slices(expect![[r#"
        IPv4 [:8080]
          ["10.0.0.1"] a ready serving nodeName=n1 zone=z1 forZones=z1"#]]);
}

#[test]
fn publishing_pods_however_they_are_gives_them_hints() {
    let mut world = World::new(json!({"trafficDistribution": "PreferSameNode", "publishNotReadyAddresses": true}));
    world.pod("a@n1 10.0.0.1 deleting");
    world.check_slices(expect![[r#"
        IPv4 [:8080]
          ["10.0.0.1"] a ready terminating nodeName=n1 zone=z1 forZones=z1 forNodes=n1"#]]);
}

#[test]
fn the_annotation_of_topology_mode_precedes_the_traffic_distribution() {
    let has_hints = |annotations: Value| {
        let mut world = World::new(json!({}));
        world.service(json!({"annotations": annotations}), json!({"trafficDistribution": "PreferSameZone"}));
        world.pod("a@n1 10.0.0.1 ready");
        world.sync_slices();
        let (_, slice) = world.server.list(ENDPOINT_SLICES).next().expect("a slice");
        !slice["endpoints"][0]["hints"].is_null()
    };
    let (older, newer) = ("service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode");
    assert!(!has_hints(json!({newer: "Auto"})) && !has_hints(json!({newer: "auto"})) && !has_hints(json!({older: "Auto"})));
    assert!(has_hints(json!({newer: "Disabled"})) && has_hints(json!({older: "disabled"})) && has_hints(json!({newer: "AUTO"})));
    assert!(has_hints(json!({older: "Disabled", newer: "Auto"})), "the older annotation counts");
}

/// A hundred pods become Ready, one every 10 ms.
#[test]
fn a_pod_of_a_burst_is_listed_within_a_tenth_of_a_second_and_no_slice_is_written_more_often() {
    let mut world = World::new(json!({}));
    (0..100).for_each(|number| world.pod(&format!("p{number}@n1 10.0.0.{number}")));
    world.sync_slices();
    let key = Key::new("ns", "web");
    let (mut queue, mut writes, mut unlisted) = (Queue::default(), 0, BTreeMap::new());
    for tick in 0..120 {
        let time = now() + SignedDuration::from_millis(10 * tick);
        if tick < 100 {
            world.pod(&format!("p{tick}@n1 10.0.0.{tick} ready"));
            unlisted.insert(format!("p{tick}"), time);
            queue.add(key.clone());
        }
        while let Some(key) = queue.take(&world.server.picture(), time) {
            let work = world.slices.plan(&world.server.picture(), &key, time);
            writes += work.steps.iter().map(|step| step.requests.len()).sum::<usize>();
            let outcome = world.server.perform(work, time);
            queue.done(key, outcome, &world.server.picture(), time);
        }
        let (_, slice) = world.server.list(ENDPOINT_SLICES).next().expect("a slice");
        for endpoint in items(&slice["endpoints"]).filter(|endpoint| endpoint["conditions"]["ready"] == true) {
            unlisted.remove(endpoint["targetRef"]["name"].as_str().unwrap_or_default());
        }
        let late = unlisted.iter().find(|(_, since)| time.duration_since(**since) >= SignedDuration::from_millis(100));
        assert_eq!(late, None, "after {} ms", 10 * tick);
    }
    assert!(unlisted.is_empty());
    assert_eq!(writes, 11, "at once, and ten a second");
}

#[test]
fn pods_on_nodes_that_are_not_known_are_left_out() {
    let mut world = World::new(json!({}));
    world.pods("a@n1 10.0.0.1 ready; b@gone 10.0.0.2 ready");
    world.check_slices(expect![[r#"
        IPv4 [:8080]
          ["10.0.0.1"] a ready serving nodeName=n1 zone=z1"#]]);
}

#[test]
fn pods_with_the_same_ports_share_slices() {
    let mut world = World::new(json!({"ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web"}]}));
    world.pods("a@n1 10.0.0.1 port=web:80; b@n1 10.0.0.2 port=web:8080; c@n1 10.0.0.3 port=web:80; d@n1 10.0.0.4");
    world.check_slices(expect![[r#"
        IPv4 [http:8080]
          ["10.0.0.2"] b nodeName=n1 zone=z1
        IPv4 []
          ["10.0.0.4"] d nodeName=n1 zone=z1
        IPv4 [http:80]
          ["10.0.0.1"] a nodeName=n1 zone=z1
          ["10.0.0.3"] c nodeName=n1 zone=z1"#]]);
    world.check_endpoints(expect![[r#"
        ready= not=10.0.0.1/a,10.0.0.3/c [http:80]
        ready= not=10.0.0.2/b [http:8080]"#]]);
}

#[test]
fn each_family_has_slices_of_its_own() {
    let mut world = World::new(json!({"ipFamilies": ["IPv6", "IPv4"]}));
    world.pods("a@n2 10.0.0.1,fd00::1 ready; b@n2 10.0.0.2 ready");
    world.check_slices(expect![[r#"
        IPv6 [:8080]
          ["fd00::1"] a ready serving nodeName=n2
        IPv4 [:8080]
          ["10.0.0.1"] a ready serving nodeName=n2
          ["10.0.0.2"] b ready serving nodeName=n2"#]]);
    world.check_endpoints(expect!["ready=fd00::1/a not= [-:8080]"]);
    world.service(json!({}), json!({"ipFamilies": ["IPv4"]}));
    world.sync_slices();
    assert_eq!(world.sizes(), [2], "slices of a family that the Service lost go");
}

#[test]
fn headless_services_say_so_and_name_their_pods() {
    let mut world = World::new(json!({"clusterIP": "None", "ports": []}));
    world.pods("a@n2 10.0.0.1 ready host=zero; b@n2 10.0.0.2 ready");
    world.check_slices(expect![[r#"
        IPv4 []
          ["10.0.0.1"] a ready serving hostname=zero nodeName=n2
          ["10.0.0.2"] b ready serving nodeName=n2"#]]);
    let labels = |server: &Server, resource| {
        let (_, object) = server.list(resource).next().expect("there is one");
        object["metadata"]["labels"][HEADLESS].clone()
    };
    assert_eq!(labels(&world.server, ENDPOINT_SLICES), "");
    world.check_endpoints(expect!["ready=10.0.0.1/a,10.0.0.2/b not= []"]);
    assert_eq!(labels(&world.server, ENDPOINTS), "");
}

#[test]
fn services_without_a_selector_are_left_alone() {
    for spec in [json!({"selector": null}), json!({"selector": {}}), json!({"type": "ExternalName"})] {
        let mut world = World::new(spec);
        world.pod("a@n1 10.0.0.1 ready");
        assert!(world.sync_slices().is_empty() && world.sync_endpoints().is_empty());
    }
}

#[test]
fn slices_are_filled_before_new_ones_are_made() {
    let mut world = World::new(json!({}));
    (0..250).for_each(|number| world.pod(&format!("p{number:03}@n1 10.0.{}.{} ready", number / 100, number % 100)));
    world.sync_slices();
    let mut sizes = world.sizes();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
    world.pod("more@n1 10.1.0.1 ready");
    let work = world.sync_slices();
    assert_eq!(work.steps.iter().map(|step| step.requests.len()).collect::<Vec<_>>(), [1], "one slice changes");
    assert_eq!(world.sizes().iter().sum::<usize>(), 251);
    (0..60).for_each(|number| world.remove_pod(&format!("p{number:03}")));
    world.sync_slices();
    assert_eq!((world.sizes().len(), world.sizes().iter().sum::<usize>()), (3, 191), "what is left stays where it is");
}

#[test]
fn the_ports_of_a_service_change_in_the_slices_that_are_there() {
    let mut world = World::new(json!({}));
    world.pod("a@n2 10.0.0.1 ready");
    world.sync_slices();
    let name = |world: &World| world.server.list(ENDPOINT_SLICES).next().expect("a slice").0.clone();
    let before = name(&world);
    world.service(json!({}), json!({"ports": [{"name": "new", "protocol": "TCP", "port": 80, "targetPort": 9090}]}));
    world.check_slices(expect![[r#"
        IPv4 [new:9090]
          ["10.0.0.1"] a ready serving nodeName=n2"#]]);
    assert_eq!(name(&world), before);
}

#[test]
fn labels_of_the_service_are_those_of_its_slices() {
    let mut world = World::new(json!({}));
    world.service(json!({"labels": {"old": "x"}}), json!({}));
    world.sync_slices();
    world.sync_endpoints();
    world.service(json!({"labels": {"new": "y"}}), json!({}));
    world.sync_slices();
    world.sync_endpoints();
    for resource in [ENDPOINT_SLICES, ENDPOINTS] {
        let (_, object) = world.server.list(resource).next().expect("there is one");
        assert_eq!((&object["metadata"]["labels"]["old"], &object["metadata"]["labels"]["new"]), (&Value::Null, &json!("y")));
    }
}

#[test]
fn slices_of_an_earlier_service_of_the_name_are_replaced() {
    let mut world = World::new(json!({}));
    world.pod("a@n2 10.0.0.1 ready");
    world.sync_slices();
    world.service(json!({"uid": "second"}), json!({}));
    world.sync_slices();
    let slices: Vec<_> = world.server.list(ENDPOINT_SLICES).collect();
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0].1["metadata"]["ownerReferences"][0]["uid"], "second");
}

#[test]
fn slices_of_others_are_left_alone() {
    let mut world = World::new(json!({}));
    let labels = json!({"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "me"});
    world.server.insert(
        ENDPOINT_SLICES,
        json!({"metadata": {"name": "mine", "namespace": "ns", "labels": labels}, "addressType": "IPv4", "endpoints": []}),
    );
    world.check_slices(expect![[r#"
        IPv4 []
        IPv4 []"#]]);
}

#[test]
fn a_service_that_goes_away_gets_no_new_slices() {
    let mut world = World::new(json!({}));
    world.service(json!({"deletionTimestamp": now().to_string(), "finalizers": ["x"]}), json!({}));
    assert!(world.sync_slices().is_empty() && world.sync_endpoints().is_empty());
}

#[test]
fn a_write_says_when_what_changed_that_it_is_about() {
    let mut world = World::new(json!({}));
    world.sync_slices();
    let time = |world: &World| {
        let (_, slice) = world.server.list(ENDPOINT_SLICES).next().expect("a slice");
        slice["metadata"]["annotations"].get(TRIGGER_TIME).cloned()
    };
    assert_eq!(time(&world), Some(json!(at(-60).to_string())), "a new Service: its creation");
    world.pods("a@n1 10.0.0.1 ready=20; b@n1 10.0.0.2 ready=40");
    world.sync_slices();
    assert_eq!(time(&world), Some(json!(at(-40).to_string())), "the earliest of the pods that changed");
    world.pod("a@n1 10.0.0.1 ready=10");
    world.remove_pod("b");
    world.sync_slices();
    assert_eq!(time(&world), Some(json!(at(-10).to_string())));
    world.remove_pod("a");
    world.sync_slices();
    assert_eq!(time(&world), None, "nobody knows when a pod went");
}

#[test]
fn ready_and_other_addresses_are_told_apart_in_endpoints() {
    let mut world = World::new(json!({}));
    world.pods("b@n1 10.0.0.2 ready; a@n1 10.0.0.1 ready; c@n1 10.0.0.3; d@n1 10.0.0.4 ready deleting");
    world.check_endpoints(expect!["ready=10.0.0.1/a,10.0.0.2/b not=10.0.0.3/c [-:8080]"]);
    let (key, endpoints) = world.server.list(ENDPOINTS).next().expect("Endpoints");
    assert_eq!(&*key.name, "web");
    assert_eq!(endpoints["metadata"]["labels"], json!({"endpoints.kubernetes.io/managed-by": "endpoint-controller"}));
    let expected = json!({
        "ip": "10.0.0.1", "nodeName": "n1", "targetRef": {"kind": "Pod", "namespace": "ns", "name": "a", "uid": "a-uid"},
    });
    assert_eq!(endpoints["subsets"][0]["addresses"][0], expected);
}

#[test]
fn ports_with_the_same_addresses_share_a_subset() {
    let ports = json!([
        {"name": "a", "protocol": "TCP", "port": 1, "targetPort": 1},
        {"name": "b", "protocol": "TCP", "port": 2, "targetPort": 2},
        {"name": "c", "protocol": "TCP", "port": 3, "targetPort": "c"},
    ]);
    let mut world = World::new(json!({"ports": ports}));
    world.pods("a@n1 10.0.0.1 ready port=c:33; b@n1 10.0.0.2 ready");
    world.check_endpoints(expect![[r#"
        ready=10.0.0.1/a not= [c:33]
        ready=10.0.0.1/a,10.0.0.2/b not= [a:1,b:2]"#]]);
}

#[test]
fn endpoints_hold_a_thousand_addresses() {
    let mut world = World::new(json!({}));
    let add = |world: &mut World, count: usize, words: &str, net: u8| {
        (0..count).for_each(|number| world.pod(&format!("p{net}-{number}@n1 10.{net}.{}.{}{words}", number / 200, number % 200)));
    };
    add(&mut world, 600, " ready", 1);
    add(&mut world, 500, "", 2);
    let counts = |world: &World| {
        let (_, endpoints) = world.server.list(ENDPOINTS).next().expect("Endpoints");
        let count = |field: &str| endpoints["subsets"][0][field].as_array().map_or(0, Vec::len);
        (
            count("addresses"),
            count("notReadyAddresses"),
            endpoints["metadata"]["annotations"]["endpoints.kubernetes.io/over-capacity"].clone(),
        )
    };
    world.sync_endpoints();
    assert!(world.sync_endpoints().is_empty());
    assert_eq!(counts(&world), (600, 400, json!("truncated")));
    add(&mut world, 500, " ready", 3);
    world.sync_endpoints();
    assert_eq!(counts(&world), (1000, 0, json!("truncated")), "those that are ready come first");
    (0..500).for_each(|number| world.remove_pod(&format!("p2-{number}")));
    (0..500).for_each(|number| world.remove_pod(&format!("p3-{number}")));
    world.sync_endpoints();
    assert_eq!(counts(&world), (600, 0, Value::Null));
}

/// Ready and other addresses of each subset, after pods `(count, words)`.
fn sizes_of_subsets(pods: &[(usize, &str)]) -> Vec<(usize, usize)> {
    let mut world = World::new(json!({"ports": [{"protocol": "TCP", "port": 80, "targetPort": "web"}]}));
    for (net, (count, words)) in pods.iter().enumerate() {
        (0..*count).for_each(|number| world.pod(&format!("p{net}-{number:04}@n1 10.{net}.{}.{} {words}", number / 200, number % 200)));
    }
    world.sync_endpoints();
    assert!(world.sync_endpoints().is_empty(), "nothing is left to do");
    let (_, endpoints) = world.server.list(ENDPOINTS).next().expect("Endpoints");
    let count = |subset: &Value, field: &str| subset[field].as_array().map_or(0, Vec::len);
    items(&endpoints["subsets"]).map(|subset| (count(subset, "addresses"), count(subset, "notReadyAddresses"))).collect()
}

#[test]
fn what_is_cut_is_cut_from_each_subset_in_its_proportion() {
    let (a, b) = ("port=web:80", "port=web:8080");
    let (ready_a, ready_b) = ("ready port=web:80", "ready port=web:8080");
    assert_eq!(sizes_of_subsets(&[(500, ready_a), (500, ready_b)]), [(500, 0), (500, 0)], "not more than fits");
    assert_eq!(sizes_of_subsets(&[(700, ready_a), (700, ready_b)]), [(500, 0), (500, 0)]);
    assert_eq!(sizes_of_subsets(&[(1000, ready_a), (501, ready_b), (9, b)]), [(667, 0), (333, 0)], "rounded up, then what is left");
    assert_eq!(sizes_of_subsets(&[(600, ready_a), (300, a), (500, b)]), [(600, 150), (0, 250)], "those that are not ready share the rest");
}

#[test]
fn another_value_of_the_annotation_of_what_was_cut_is_put_right() {
    let mut world = World::new(json!({}));
    (0..1001).for_each(|number| world.pod(&format!("p{number}@n1 10.0.{}.{} ready", number / 200, number % 200)));
    world.sync_endpoints();
    let mut endpoints = Value::clone(world.server.get(ENDPOINTS, &Key::new("ns", "web")).expect("Endpoints"));
    endpoints["metadata"]["annotations"]["endpoints.kubernetes.io/over-capacity"] = json!("warning");
    world.server.insert(ENDPOINTS, endpoints);
    world.sync_endpoints();
    assert!(world.sync_endpoints().is_empty(), "nothing is left to do");
    let endpoints = world.server.get(ENDPOINTS, &Key::new("ns", "web")).expect("Endpoints");
    assert_eq!(endpoints["metadata"]["annotations"]["endpoints.kubernetes.io/over-capacity"], "truncated");
}

#[test]
fn endpoints_go_with_their_service_and_others_stay() {
    let mut world = World::new(json!({}));
    world.sync_endpoints();
    let service = world.server.picture().services.remove(&Key::new("ns", "web")).expect("the Service");
    world.server.remove(SERVICES, &Key::new("ns", "web"));
    let key = Key::new("ns", "web");
    let removal = |world: &mut World| {
        let change = Change { old: Some(Object::Service(service.clone())), new: None };
        world.endpoints.concerns(&world.server.picture(), &change, &mut |_| {});
    };
    world.sync_endpoints();
    assert!(world.server.get(ENDPOINTS, &key).is_none(), "they carry the label");
    world.server.insert(ENDPOINTS, json!({"metadata": {"name": "web", "namespace": "ns"}}));
    world.sync_endpoints();
    assert!(world.server.get(ENDPOINTS, &key).is_some(), "somebody made them by hand");
    removal(&mut world);
    world.sync_endpoints();
    assert!(world.server.get(ENDPOINTS, &key).is_none(), "their Service went");
}

#[test]
fn a_change_concerns_the_services_that_select_the_pod() {
    let mut world = World::new(json!({}));
    world.pod("a@n1 10.0.0.1 ready");
    let picture = world.server.picture();
    let key = Key::new("ns", "web");
    let mut concerned = |change: Change| {
        let mut keys = 0;
        world.slices.concerns(&picture, &change, &mut |_| keys += 1);
        keys
    };
    let pod = picture.pods[&Key::new("ns", "a")].clone();
    let to = |new: Pod| Change { old: Some(Object::Pod(pod.clone())), new: Some(Object::Pod(Arc::new(new))) };
    assert_eq!(concerned(Change { old: None, new: Some(Object::Service(picture.services[&key].clone())) }), 1);
    assert_eq!(concerned(Change { old: None, new: Some(Object::Pod(pod.clone())) }), 1);
    let mut same = Pod::clone(&pod);
    same.meta.annotations.insert("x", "y");
    assert_eq!(concerned(to(same)), 0, "nothing that endpoints show");
    let mut moved = Pod::clone(&pod);
    moved.meta.labels.insert("app", "db");
    assert_eq!(concerned(to(moved)), 1, "it left the Service");
    let mut unready = Pod::clone(&pod);
    unready.status.ready = Some((false, None));
    assert_eq!(concerned(to(unready)), 1);
    let mut without = Pod::clone(&pod);
    without.status.pod_ips.clear();
    assert_eq!(concerned(Change { old: None, new: Some(Object::Pod(Arc::new(without))) }), 0, "it has no address yet");
    let node = picture.nodes["n1"].clone();
    assert_eq!(concerned(Change { old: None, new: Some(Object::Node(node.clone())) }), 1, "pods are on it");
    assert_eq!(concerned(Change { old: Some(Object::Node(node.clone())), new: Some(Object::Node(node)) }), 0);
}

#[test]
fn a_slice_that_somebody_changed_is_put_right() {
    let mut world = World::new(json!({}));
    world.pod("a@n2 10.0.0.1 ready");
    world.sync_slices();
    let mut slice = Value::clone(world.server.list(ENDPOINT_SLICES).next().expect("a slice").1);
    slice["endpoints"][0]["addresses"] = json!(["10.9.9.9"]);
    world.server.insert(ENDPOINT_SLICES, slice.clone());
    let mut picture: Picture = world.server.picture();
    let change = picture.put(ENDPOINT_SLICES.followed().read(&slice).expect("a slice"));
    assert_eq!(change.kind(), Kind::EndpointSlice);
    let mut keys = Vec::new();
    world.slices.concerns(&picture, &change, &mut |key| keys.push(key.to_string()));
    assert_eq!(keys.first().map(String::as_str), Some("ns/web"));
    world.check_slices(expect![[r#"
        IPv4 [:8080]
          ["10.0.0.1"] a ready serving nodeName=n2"#]]);
}

#[test]
fn controllers_that_start_anew_have_nothing_to_do() {
    let mut world = World::new(json!({}));
    world.pods("a@n1 10.0.0.1 ready; b@n2 10.0.0.2");
    world.sync_slices();
    world.sync_endpoints();
    (world.slices, world.endpoints) = (EndpointSliceController::default(), EndpointsController::default());
    assert!(world.sync_slices().is_empty() && world.sync_endpoints().is_empty());
}

/// What happens to pods `from..from + count`: they come with one of two ports, ready or not, or
/// they go.
#[derive(Debug, Clone)]
struct Happening {
    from: u16,
    count: u16,
    what: u8,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let happening = (0u16..300, 1u16..150, 0u8..5).prop_map(|(from, count, what)| Happening { from, count, what });
    proptest::collection::vec(happening, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever happens to pods: each is in one slice, no slice is too large, and nothing is left
    /// to do.
    #[test]
    fn every_pod_is_in_one_slice(happenings in happenings()) {
        let mut world = World::new(json!({"ports": [{"protocol": "TCP", "port": 80, "targetPort": "web"}]}));
        for Happening { from, count, what } in happenings {
            for number in from..from + count {
                let words = ["", " ready", " port=web:80", " ready port=web:80"];
                match words.get(usize::from(what)) {
                    Some(words) => world.pod(&format!("p{number}@n1 10.0.{}.{}{words}", number / 200, number % 200)),
                    None => world.remove_pod(&format!("p{number}")),
                }
            }
            world.sync_slices();
            prop_assert!(world.sync_slices().is_empty());
            let mut listed: Vec<String> = Vec::new();
            for (_, slice) in world.server.list(ENDPOINT_SLICES) {
                let names: Vec<String> = items(&slice["endpoints"]).map(|endpoint| endpoint["targetRef"]["name"].to_string()).collect();
                prop_assert!(names.len() <= reconcile::ENDPOINTS_MAX);
                listed.extend(names);
            }
            listed.sort();
            let mut pods: Vec<String> = world.server.list(PODS).map(|(key, _)| format!("{:?}", &*key.name)).collect();
            pods.sort();
            prop_assert_eq!(listed, pods);
        }
    }
}
