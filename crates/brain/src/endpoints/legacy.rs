//! Keeps the Endpoints of Services: the older form, of at most a thousand addresses.
//!
//! Endpoints without a Service are deleted when they carry this controller's label, or when it saw
//! their Service go. Upstream also deletes others that it finds when it starts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::controller::{Controller, Work};
use crate::model::{EndpointPort, Endpoints, Key, Pod, Service};
use crate::picture::{Change, Object, Picture};
use crate::request::{ENDPOINTS, Request, Verb};

use super::followed::Followed;
use super::slices::target;
use super::{ENDPOINTS_REST, TRIGGER_TIME, addresses, has_endpoints, hostname, labels, labels_patch, ports, trigger_text};

/// Addresses of one object; the rest is left out.
const ADDRESSES_MAX: usize = 1000;

/// Annotation of what was cut, and its value.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const TRUNCATED: &str = "truncated";

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

#[derive(Debug, Default)]
pub struct EndpointsController {
    followed: Followed,
    /// Services that went and whose Endpoints may still be there.
    gone: BTreeSet<Key>,
}

impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    fn concerns(&mut self, picture: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        self.followed.concerns(change, add);
        match (&change.old, &change.new) {
            (Some(Object::Service(service)), None) if picture.endpoints.contains_key(&service.meta.key()) => {
                self.gone.insert(service.meta.key());
            }
            (_, Some(Object::Service(service))) => drop(self.gone.remove(&service.meta.key())),
            (_, Some(Object::Endpoints(endpoints))) | (Some(Object::Endpoints(endpoints)), None) => add(endpoints.meta.key()),
            _ => {}
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, _now: Timestamp) -> Work {
        let there = picture.endpoints.get(key);
        let Some(service) = picture.services.get(key) else {
            let was_told = self.gone.remove(key);
            let doomed = there.filter(|there| was_told || there.meta.labels.get(MANAGED_BY) == Some(MANAGER));
            return Work::requests(doomed.map(|there| Request::delete(ENDPOINTS, &there.meta)).into_iter().collect());
        };
        let Some(selector) = &service.selector else { return Work::default() };
        let pods: Vec<&Arc<Pod>> = picture.pods_in(&key.namespace).filter(|pod| pod.meta.labels.selected_by(selector)).collect();
        let trigger = trigger_text(self.followed.trigger_time(service, &pods));
        let request = match there {
            Some(there) => change(there, service, &pods, trigger),
            None if service.meta.is_deleted() => None,
            None => Some(creation(service, &pods, trigger)),
        };
        Work { rest: ENDPOINTS_REST, ..Work::requests(request.into_iter().collect()) }
    }
}

/// Subsets as they are written, and whether addresses were left out.
fn subsets_and_cut(service: &Service, pods: &[&Arc<Pod>]) -> (Value, bool) {
    let mut subsets = subsets(service, pods);
    let is_cut = truncate(&mut subsets);
    (Value::Array(subsets.iter().map(Subset::to_value).collect()), is_cut)
}

fn wanted_labels(service: &Service) -> BTreeMap<String, String> {
    labels(service, &[MANAGED_BY], &[(MANAGED_BY, MANAGER)])
}

fn creation(service: &Service, pods: &[&Arc<Pod>], trigger: Option<String>) -> Request {
    let (subsets, is_cut) = subsets_and_cut(service, pods);
    let mut object = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": service.meta.name, "labels": wanted_labels(service)},
        "subsets": subsets,
    });
    for (annotation, value) in [(TRIGGER_TIME, trigger.as_deref()), (OVER_CAPACITY, is_cut.then_some(TRUNCATED))] {
        if let Some(value) = value {
            object["metadata"]["annotations"][annotation] = json!(value);
        }
    }
    Request::new(ENDPOINTS, service.meta.key(), Verb::Create(Arc::new(object)))
}

/// None when they are as they should be.
fn change(there: &Endpoints, service: &Service, pods: &[&Arc<Pod>], trigger: Option<String>) -> Option<Request> {
    let (subsets, is_cut) = subsets_and_cut(service, pods);
    let labels = labels_patch(&there.meta.labels, &wanted_labels(service));
    let same = *there.subsets == subsets || there.subsets.is_null() && subsets.as_array().is_some_and(Vec::is_empty);
    let over_capacity = is_cut.then_some(TRUNCATED);
    if same && labels.is_none() && there.meta.annotations.get(OVER_CAPACITY) == over_capacity {
        return None;
    }
    let annotations = json!({TRIGGER_TIME: trigger, OVER_CAPACITY: over_capacity});
    let mut patch = json!({
        "metadata": {"uid": there.meta.uid, "resourceVersion": there.meta.resource_version.to_string(), "annotations": annotations},
    });
    if !same {
        patch["subsets"] = subsets;
    }
    if let Some(labels) = labels {
        patch["metadata"]["labels"] = labels;
    }
    Some(Request::new(ENDPOINTS, there.meta.key(), Verb::Merge(patch)))
}

/// Addresses that have the same ports. By text, as upstream sorts them.
#[derive(Debug, Default)]
struct Subset<'a> {
    ready: Vec<Address<'a>>,
    not_ready: Vec<Address<'a>>,
    ports: Vec<EndpointPort>,
}

#[derive(Debug, Clone)]
struct Address<'a> {
    ip: Box<str>,
    hostname: Option<&'a str>,
    pod: &'a Pod,
}

/// What addresses are sorted and identified by.
type AddressKey<'a> = (Box<str>, &'a str);

/// Each address once, with those that have the same ports (`RepackSubsets`).
fn subsets<'a>(service: &Service, pods: &[&'a Arc<Pod>]) -> Vec<Subset<'a>> {
    let mut addresses: BTreeMap<AddressKey<'a>, (bool, Address<'a>)> = BTreeMap::new();
    let mut by_port: BTreeMap<Option<EndpointPort>, BTreeSet<AddressKey<'a>>> = BTreeMap::new();
    let admits = |pod: &&&'a Arc<Pod>| has_endpoints(pod) && (service.publish_not_ready_addresses || !pod.meta.is_deleted());
    for pod in pods.iter().filter(admits) {
        let Some(ip) = first_address(service, pod) else { continue };
        let key = (ip.clone(), &*pod.meta.uid);
        let is_ready = service.publish_not_ready_addresses || pod.is_ready();
        if service.ports.is_empty() && service.is_headless() {
            by_port.entry(None).or_default().insert(key.clone());
        }
        for port in ports(service, pod) {
            by_port.entry(Some(port)).or_default().insert(key.clone());
        }
        addresses.insert(key, (is_ready, Address { ip, hostname: hostname(pod, service), pod }));
    }
    let mut by_addresses: BTreeMap<BTreeSet<AddressKey<'a>>, Vec<EndpointPort>> = BTreeMap::new();
    for (port, keys) in by_port {
        by_addresses.entry(keys).or_default().extend(port);
    }
    let subset = |(keys, ports): (BTreeSet<AddressKey<'a>>, Vec<EndpointPort>)| {
        let of = |wanted: bool| keys.iter().map(|key| &addresses[key]).filter(move |(ready, _)| *ready == wanted);
        Subset { ready: of(true).map(|(_, a)| a.clone()).collect(), not_ready: of(false).map(|(_, a)| a.clone()).collect(), ports }
    };
    by_addresses.into_iter().map(subset).collect()
}

/// The pod's first address of the Service's first family.
fn first_address(service: &Service, pod: &Pod) -> Option<Box<str>> {
    let wants_v6 = match service.ip_families.first() {
        Some(family) => &**family == "IPv6",
        None => service.cluster_ip.contains(':'),
    };
    addresses(pod, |ip: &IpAddr| ip.is_ipv6() == wants_v6).into_iter().next()
}

/// Cuts to what one object may hold: ready ones are kept first, each subset in its proportion
/// (`truncateEndpoints`).
fn truncate(subsets: &mut [Subset<'_>]) -> bool {
    let ready: usize = subsets.iter().map(|subset| subset.ready.len()).sum();
    let not_ready: usize = subsets.iter().map(|subset| subset.not_ready.len()).sum();
    if ready + not_ready <= ADDRESSES_MAX {
        return false;
    }
    let cuts_ready = ready > ADDRESSES_MAX;
    let (room, total) = if cuts_ready { (ADDRESSES_MAX, ready) } else { (ADDRESSES_MAX - ready, not_ready) };
    let mut left = room;
    for subset in subsets {
        if cuts_ready {
            subset.not_ready.clear();
        }
        let list = if cuts_ready { &mut subset.ready } else { &mut subset.not_ready };
        list.truncate((list.len() * room).div_ceil(total).min(left));
        left -= list.len();
    }
    true
}

impl Subset<'_> {
    fn to_value(&self) -> Value {
        let mut subset = json!({});
        for (field, addresses) in [("addresses", &self.ready), ("notReadyAddresses", &self.not_ready)] {
            if !addresses.is_empty() {
                subset[field] = addresses.iter().map(Address::to_value).collect();
            }
        }
        if !self.ports.is_empty() {
            subset["ports"] = self.ports.iter().map(port_value).collect();
        }
        subset
    }
}

/// Unlike in slices, a port without a name has none at all.
fn port_value(port: &EndpointPort) -> Value {
    let mut value = json!(port);
    if port.name.is_empty() {
        drop(value.as_object_mut().and_then(|fields| fields.remove("name")));
    }
    value
}

impl Address<'_> {
    fn to_value(&self) -> Value {
        let mut address = json!({"ip": self.ip, "targetRef": target(self.pod)});
        if let Some(hostname) = self.hostname {
            address["hostname"] = json!(hostname);
        }
        if let Some(node) = &self.pod.node {
            address["nodeName"] = json!(node);
        }
        address
    }
}
