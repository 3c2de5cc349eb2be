//! What kube-proxy knows of the cluster, and which Services changed. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use brain::model::{EndpointSlice, Key};
use brain::proxy::{Decision, Node, Service, decide};
use ipnet::Ipv4Net;
use serde_json::Value;

use crate::follow::Change;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Service,
    EndpointSlice,
    Node,
    ServiceCidr,
}

#[derive(Debug)]
pub struct View {
    node_name: String,
    services: BTreeMap<Key, Service>,
    slices: BTreeMap<Key, Arc<EndpointSlice>>,
    /// The slices of each Service.
    of_service: BTreeMap<Key, BTreeSet<Key>>,
    /// None until it was seen.
    node: Option<SeenNode>,
    service_cidrs: BTreeMap<Key, Vec<Ipv4Net>>,
    listed: BTreeSet<Kind>,
    changed: BTreeSet<Key>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SeenNode {
    zone: String,
    addresses: Vec<Ipv4Addr>,
}

impl View {
    pub fn new(node_name: String) -> View {
        View {
            node_name,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            of_service: BTreeMap::new(),
            node: None,
            service_cidrs: BTreeMap::new(),
            listed: BTreeSet::new(),
            changed: BTreeSet::new(),
        }
    }

    pub fn take(&mut self, kind: Kind, change: Change) {
        match change {
            Change::Put(key, object) => self.put(kind, key, &object),
            Change::Gone(key) => self.remove(kind, &key),
            Change::Listed(keys) => {
                let gone: Vec<Key> = self.keys(kind).filter(|key| !keys.contains(key)).cloned().collect();
                gone.iter().for_each(|key| self.remove(kind, key));
                self.listed.insert(kind);
            }
        }
    }

    fn keys(&self, kind: Kind) -> Box<dyn Iterator<Item = &Key> + '_> {
        match kind {
            Kind::Service => Box::new(self.services.keys()),
            Kind::EndpointSlice => Box::new(self.slices.keys()),
            Kind::ServiceCidr => Box::new(self.service_cidrs.keys()),
            // A node that is not listed any more is one that was deleted while this program runs on
            // it.
            Kind::Node => Box::new(std::iter::empty()),
        }
    }

    fn put(&mut self, kind: Kind, key: Key, object: &Value) {
        match kind {
            Kind::Service => {
                match Service::read(object) {
                    Some(service) => self.services.insert(key.clone(), service),
                    None => self.services.remove(&key),
                };
                self.changed.insert(key);
            }
            Kind::EndpointSlice => {
                self.remove(kind, &key);
                let slice: Option<EndpointSlice> = serde_json::from_value(object.clone()).ok();
                if let Some((service, slice)) = slice.and_then(|slice| Some((service_of(&slice)?, slice))) {
                    self.slices.insert(key.clone(), Arc::new(slice));
                    self.of_service.entry(service.clone()).or_default().insert(key);
                    self.changed.insert(service);
                }
            }
            Kind::Node => {
                let seen = SeenNode::read(object);
                if self.node.as_ref().map(|node| &node.zone) != Some(&seen.zone) {
                    self.changed.extend(self.services.keys().cloned());
                }
                self.node = Some(seen);
            }
            Kind::ServiceCidr => {
                let cidrs = object["spec"]["cidrs"].as_array().into_iter().flatten().filter_map(Value::as_str);
                self.service_cidrs.insert(key, cidrs.filter_map(|text| text.parse().ok()).collect());
            }
        }
    }

    fn remove(&mut self, kind: Kind, key: &Key) {
        match kind {
            Kind::Service => {
                self.services.remove(key);
                self.changed.insert(key.clone());
            }
            Kind::EndpointSlice => {
                let Some(service) = self.slices.remove(key).and_then(|slice| service_of(&slice)) else { return };
                if let Some(slices) = self.of_service.get_mut(&service) {
                    slices.remove(key);
                    if slices.is_empty() {
                        self.of_service.remove(&service);
                    }
                }
                self.changed.insert(service);
            }
            // It keeps its rules.
            Kind::Node => {}
            Kind::ServiceCidr => drop(self.service_cidrs.remove(key)),
        }
    }

    /// The node. None until everything was listed: what is written before would take away rules
    /// that are needed.
    pub fn node(&self) -> Option<Node> {
        let all = [Kind::Service, Kind::EndpointSlice, Kind::Node];
        let node = self.node.as_ref().filter(|_| all.iter().all(|kind| self.listed.contains(kind)))?;
        Some(Node { name: self.node_name.clone(), zone: node.zone.clone() })
    }

    pub fn node_addresses(&self) -> Vec<Ipv4Addr> {
        self.node.as_ref().map(|node| node.addresses.clone()).unwrap_or_default()
    }

    /// Where addresses of Services come from, each address in one range. None until the ranges were
    /// listed: servers before Kubernetes 1.33 have no list of them.
    ///
    /// A range that has addresses of pods is left out: what no Service has is dropped, and pods
    /// would not be reached any more.
    pub fn service_cidrs(&self, pods: Ipv4Net) -> Option<Vec<Ipv4Net>> {
        let is_apart = |range: &&Ipv4Net| !range.contains(&pods) && !pods.contains(*range);
        let ranges: Vec<Ipv4Net> = self.service_cidrs.values().flatten().filter(is_apart).copied().collect();
        self.listed.contains(&Kind::ServiceCidr).then(|| Ipv4Net::aggregate(&ranges))
    }

    pub fn forget_what_changed(&mut self) {
        self.changed.clear();
    }

    pub fn all(&self, node: &Node) -> Vec<(Key, Decision)> {
        self.services.keys().map(|key| (key.clone(), self.decide(key, node))).collect()
    }

    /// What is decided now for the Services that changed since the last call; nothing for those
    /// that are gone.
    pub fn changed(&mut self, node: &Node) -> Vec<(Key, Decision)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|key| (key.clone(), self.decide(&key, node))).collect()
    }

    fn decide(&self, key: &Key, node: &Node) -> Decision {
        let Some(service) = self.services.get(key) else { return Decision { ports: Vec::new(), health_check: None } };
        let keys = self.of_service.get(key).into_iter().flatten();
        let slices: Vec<Arc<EndpointSlice>> = keys.filter_map(|key| self.slices.get(key).cloned()).collect();
        decide(service, &slices, node)
    }
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.meta.labels.get(SERVICE_NAME)?;
    Some(Key { namespace: slice.meta.namespace.clone(), name: name.into() })
}

impl SeenNode {
    fn read(object: &Value) -> SeenNode {
        let zone = object["metadata"]["labels"][ZONE].as_str().unwrap_or_default().to_owned();
        let addresses = object["status"]["addresses"].as_array().into_iter().flatten();
        let internal = addresses.filter(|address| address["type"] == "InternalIP").filter_map(|address| address["address"].as_str());
        // The first one is the node's primary address, where node ports are (`nodePortAddresses:
        // primary`).
        SeenNode { zone, addresses: internal.filter_map(|text| text.parse().ok()).take(1).collect() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(name: &str) -> Key {
        Key { namespace: "default".into(), name: name.into() }
    }

    fn service() -> Value {
        json!({
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80, "protocol": "TCP"}]},
        })
    }

    fn slice(of: &str, address: &str) -> Value {
        json!({
            "metadata": {"namespace": "default", "name": "web-x", "labels": {SERVICE_NAME: of}},
            "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        })
    }

    fn listed() -> View {
        let mut view = View::new("n".to_owned());
        view.take(Kind::Service, Change::Put(key("web"), service()));
        view.take(Kind::EndpointSlice, Change::Put(key("web-x"), slice("web", "10.244.0.2")));
        let node = json!({"metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}});
        view.take(Kind::Node, Change::Put(key("n"), node));
        for (kind, name) in [(Kind::Service, "web"), (Kind::EndpointSlice, "web-x")] {
            view.take(kind, Change::Listed(BTreeSet::from([key(name)])));
        }
        view
    }

    #[test]
    fn nothing_is_decided_before_everything_was_listed() {
        let mut view = listed();
        assert_eq!(view.node(), None);
        view.take(Kind::Node, Change::Listed(BTreeSet::from([key("n")])));
        assert_eq!(view.node(), Some(Node { name: "n".to_owned(), zone: String::new() }));
        assert_eq!(view.node_addresses(), ["192.168.0.1".parse::<Ipv4Addr>().expect("an address")]);
    }

    #[test]
    fn ranges_of_services_are_followed_where_there_are_any() {
        let mut view = listed();
        let pods: Ipv4Net = "10.244.0.0/16".parse().expect("a range");
        assert_eq!(view.service_cidrs(pods), None);
        let range = |cidrs: &[&str]| json!({"metadata": {"name": "r"}, "spec": {"cidrs": cidrs}});
        view.take(Kind::ServiceCidr, Change::Put(key("kubernetes"), range(&["10.96.0.0/12", "2001:db8::/64"])));
        view.take(Kind::ServiceCidr, Change::Put(key("inside"), range(&["10.97.0.0/16"])));
        view.take(Kind::ServiceCidr, Change::Put(key("pods"), range(&["10.0.0.0/8"])));
        view.take(Kind::ServiceCidr, Change::Put(key("more"), range(&["192.168.0.0/24"])));
        let all = BTreeSet::from(["kubernetes", "inside", "pods", "more"].map(key));
        view.take(Kind::ServiceCidr, Change::Listed(all));
        let shown = |view: &View| view.service_cidrs(pods).map(|ranges| ranges.iter().map(Ipv4Net::to_string).collect::<Vec<_>>());
        assert_eq!(shown(&view), Some(vec!["10.96.0.0/12".to_owned(), "192.168.0.0/24".to_owned()]));
        view.take(Kind::ServiceCidr, Change::Gone(key("kubernetes")));
        view.take(Kind::ServiceCidr, Change::Listed(BTreeSet::from([key("inside")])));
        assert_eq!(shown(&view), Some(vec!["10.97.0.0/16".to_owned()]));
    }

    #[test]
    fn a_change_concerns_its_service_only() {
        let mut view = listed();
        let node = Node { name: "n".to_owned(), zone: String::new() };
        assert_eq!(view.changed(&node).len(), 1);
        assert_eq!(view.changed(&node), []);
        // A slice that moves to another Service concerns both.
        view.take(Kind::EndpointSlice, Change::Put(key("web-x"), slice("other", "10.244.0.2")));
        let keys: Vec<Key> = view.changed(&node).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [key("other"), key("web")]);
        // What a list does not have is gone.
        view.take(Kind::EndpointSlice, Change::Put(key("web-x"), slice("web", "10.244.0.2")));
        view.changed(&node);
        view.take(Kind::EndpointSlice, Change::Listed(BTreeSet::new()));
        let (_, decision) = view.changed(&node).remove(0);
        assert_eq!(decision.ports[0].1.internal, containers::Backends::Reject);
        view.take(Kind::Service, Change::Gone(key("web")));
        assert_eq!(view.changed(&node).remove(0).1.ports, []);
    }
}
