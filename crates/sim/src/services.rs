//! Services: people who make, change and delete them and their Endpoints, and what their slices
//! must say at the end. Stated over the server's objects, without asking the deciders.

use std::collections::{BTreeMap, BTreeSet};

use brain::model::Key;
use brain::pretend::Server;
use brain::request::{ENDPOINT_SLICES, ENDPOINTS, NODES, PODS, SERVICES};
use fastrand::Rng;
use serde_json::{Value, json};

use crate::judge::Finding;

/// In thousandths of steps: how often a user does something.
const ACTS: u32 = 8;

/// The Service of the set `web`, and one that changes between a selector and Endpoints by hand.
const NAMES: [&str; 2] = ["web", "hand"];

const BY_SELECTOR: &str = "endpointslice-controller.k8s.io";
const BY_HAND: &str = "endpointslicemirroring-controller.k8s.io";

pub struct Keepers {
    rng: Rng,
}

impl Keepers {
    pub fn new(rng: Rng) -> Keepers {
        Keepers { rng }
    }

    pub fn act(&mut self, server: &mut Server) {
        if self.rng.u32(0..1000) >= ACTS {
            return;
        }
        match self.rng.u32(0..10) {
            0..=3 => self.change_service(server),
            4 => server.remove(SERVICES, &key(NAMES[self.rng.usize(0..NAMES.len())])),
            5 => server.remove(ENDPOINTS, &key("hand")),
            _ => self.change_endpoints(server),
        }
    }

    fn change_service(&mut self, server: &mut Server) {
        let name = NAMES[self.rng.usize(0..NAMES.len())];
        let selector = if name == "web" || self.rng.bool() { json!({"app": name.replace("hand", "log")}) } else { Value::Null };
        let distribution = [Value::Null, json!("PreferSameNode")][self.rng.usize(0..2)].clone();
        let mut service = json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "selector": selector, "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"], "trafficDistribution": distribution,
                "publishNotReadyAddresses": self.rng.u32(0..4) == 0,
                "ports": [{"protocol": "TCP", "port": 80, "targetPort": 8080 + self.rng.u32(0..2)}],
            },
        });
        if let Some(there) = server.get(SERVICES, &key(name)) {
            service["metadata"] = there["metadata"].clone();
        }
        server.insert(SERVICES, service);
    }

    fn change_endpoints(&mut self, server: &mut Server) {
        let mut subset = || {
            let mut addresses =
                || (1..5).filter(|_| self.rng.bool()).map(|last| json!({"ip": format!("10.7.0.{last}")})).collect::<Vec<_>>();
            let (ready, not_ready) = (addresses(), addresses());
            json!({"addresses": ready, "notReadyAddresses": not_ready, "ports": [{"port": 80 + self.rng.u32(0..2), "protocol": "TCP"}]})
        };
        let subsets = [subset(), subset()];
        let mut endpoints = json!({"metadata": {"name": "hand", "namespace": "default"}, "subsets": subsets});
        if let Some(there) = server.get(ENDPOINTS, &key("hand")) {
            endpoints["metadata"] = there["metadata"].clone();
        }
        server.insert(ENDPOINTS, endpoints);
    }
}

fn key(name: &str) -> Key {
    Key::new("default", name)
}

/// At the end: the slices of a Service list what its pods or its Endpoints offer, each address once
/// for each port, and there are no others.
pub fn settled(server: &Server) -> Result<(), Finding> {
    let unsettled = |what: String| Err(Finding::Unsettled(what));
    for name in NAMES {
        let service = server.get(SERVICES, &key(name));
        let selected = service.filter(|service| service["spec"]["selector"].is_object());
        // When a Service loses its selector, the slices of its pods stay, as upstream's.
        if service.is_none() || selected.is_some() {
            let wanted = selected.map_or_else(BTreeMap::new, |service| offered_by_pods(server, service));
            let offered = offered_by_slices(server, name, BY_SELECTOR)?;
            if offered != wanted {
                return unsettled(format!("the slices of {name} offer {offered:?} and its pods {wanted:?}"));
            }
        }
        let by_hand = service.filter(|_| selected.is_none()).and_then(|_| server.get(ENDPOINTS, &key(name)));
        let wanted = by_hand.map_or_else(BTreeMap::new, |endpoints| offered_by_endpoints(endpoints));
        let offered = offered_by_slices(server, name, BY_HAND)?;
        if offered != wanted {
            return unsettled(format!("the mirrored slices of {name} offer {offered:?} and its Endpoints {wanted:?}"));
        }
    }
    Ok(())
}

/// Port and address, and whether it is ready and for which node.
type Offered = BTreeMap<(i64, String), (bool, Option<String>)>;

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn offered_by_slices(server: &Server, name: &str, manager: &str) -> Result<Offered, Finding> {
    let mut offered = Offered::new();
    let is_its = |slice: &Value| {
        let labels = &slice["metadata"]["labels"];
        labels["kubernetes.io/service-name"] == name && labels["endpointslice.kubernetes.io/managed-by"] == manager
    };
    for (slice_key, slice) in server.list(ENDPOINT_SLICES).filter(|(_, slice)| is_its(slice)) {
        for (port, endpoint) in items(&slice["ports"]).flat_map(|port| items(&slice["endpoints"]).map(move |endpoint| (port, endpoint))) {
            let at = (port["port"].as_i64().unwrap_or(0), text(&endpoint["addresses"][0]));
            let hint = endpoint["hints"]["forNodes"][0]["name"].as_str().map(str::to_owned);
            if offered.insert(at.clone(), (endpoint["conditions"]["ready"] == true, hint)).is_some() {
                return Err(Finding::Unsettled(format!("{at:?} is in {slice_key} and in another slice")));
            }
        }
    }
    Ok(offered)
}

fn offered_by_pods(server: &Server, service: &Value) -> Offered {
    let spec = &service["spec"];
    let nodes: BTreeSet<String> = server.list(NODES).map(|(key, _)| key.name.to_string()).collect();
    let mut offered = Offered::new();
    for (_, pod) in server.list(PODS) {
        let is_over = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
        let (node, ip) = (text(&pod["spec"]["nodeName"]), text(&pod["status"]["podIPs"][0]["ip"]));
        if is_over || ip.is_empty() || !nodes.contains(&node) || pod["metadata"]["labels"]["app"] != spec["selector"]["app"] {
            continue;
        }
        let is_going = !pod["metadata"]["deletionTimestamp"].is_null();
        let is_ready = items(&pod["status"]["conditions"]).any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        let is_ready = spec["publishNotReadyAddresses"] == true || is_ready && !is_going;
        let hint = (is_ready && spec["trafficDistribution"] == "PreferSameNode").then_some(node);
        offered.insert((spec["ports"][0]["targetPort"].as_i64().unwrap_or(0), ip), (is_ready, hint));
    }
    offered
}

fn offered_by_endpoints(endpoints: &Value) -> Offered {
    let mut offered = Offered::new();
    for subset in items(&endpoints["subsets"]) {
        for port in items(&subset["ports"]) {
            for (field, is_ready) in [("addresses", true), ("notReadyAddresses", false)] {
                for address in items(&subset[field]) {
                    let at = (port["port"].as_i64().unwrap_or(0), text(&address["ip"]));
                    offered.entry(at).or_insert((true, None)).0 &= is_ready;
                }
            }
        }
    }
    offered
}
