//! Keeps the EndpointSlices of Services.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::controller::{Controller, Work};
use crate::model::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, Hint, Key, Meta, Pod, Service, TargetRef, TrafficDistribution,
};
use crate::picture::{Change, Object, Picture, SERVICE_NAME, service_of};

use super::followed::{Followed, zone};
use super::reconcile::{Slices, reconcile};
use super::writes::{MANAGED_BY, Owner, Writes};
use super::{SLICES_REST, TRIGGER_TIME, addresses, has_endpoints, hostname, labels, ports, trigger_text};

/// What the label of the slices says that this controller keeps.
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Annotations of Services, the first of which is the older and precedes: `Auto` leaves hints to
/// another way of choosing them, whatever `spec.trafficDistribution` says.
const TOPOLOGY_MODES: [&str; 2] = ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];

#[derive(Debug, Default)]
pub struct EndpointSliceController {
    followed: Followed,
}

impl Controller for EndpointSliceController {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn concerns(&mut self, picture: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        self.followed.concerns(change, add);
        self.followed.concerns_zone(picture, change, add);
        for object in change.old.iter().chain(&change.new) {
            if let Object::EndpointSlice(slice) = object
                && is_ours(&slice.meta)
            {
                service_of(&slice.meta).into_iter().for_each(&mut *add);
            }
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, _now: Timestamp) -> Work {
        // Slices of a Service that is gone go with it: it owns them.
        let Some(service) = picture.services.get(key) else { return Work::default() };
        let Some(selector) = &service.selector else { return Work::default() };
        let pods: Vec<&Arc<Pod>> = picture.pods_in(&key.namespace).filter(|pod| pod.meta.labels.selected_by(selector)).collect();
        let trigger = self.followed.trigger_time(service, &pods);
        let there: Vec<&EndpointSlice> =
            picture.slices_of(key).map(|slice| &**slice).filter(|slice| is_ours(&slice.meta) && !slice.meta.is_deleted()).collect();
        let own = [(SERVICE_NAME, &*service.meta.name), (MANAGED_BY, MANAGER)];
        let owner = Owner { kind: "Service", meta: &service.meta };
        let mut writes = Writes::new(picture, owner, labels(service, &[SERVICE_NAME, MANAGED_BY], &own));
        let annotations = json!({TRIGGER_TIME: trigger_text(trigger)});
        let types = address_types(service);
        for kind in &types {
            let (owned, foreign): (Vec<_>, Vec<_>) =
                there.iter().filter(|slice| *slice.address_type == **kind).partition(|slice| owner.owns(slice));
            add(&mut writes, kind, reconcile(&owned, &foreign, desired(picture, service, &pods, kind)), &annotations);
        }
        let of_no_use = there.iter().filter(|slice| !types.contains(&&*slice.address_type));
        of_no_use.for_each(|slice| writes.delete(slice));
        Work { rest: SLICES_REST, ..writes.work() }
    }
}

fn add(writes: &mut Writes<'_>, kind: &str, slices: Slices<'_>, annotations: &Value) {
    for content in slices.create {
        writes.create(kind, &content, annotations);
    }
    for (slice, content) in slices.update {
        writes.change(slice, Some(&content), annotations);
    }
    for slice in slices.keep {
        if !writes.has_labels(slice) {
            writes.change(slice, None, annotations);
        }
    }
    slices.delete.into_iter().for_each(|slice| writes.delete(slice));
}

fn is_ours(slice: &Meta) -> bool {
    slice.labels.get(MANAGED_BY) == Some(MANAGER)
}

/// Kinds of addresses of a Service (`getAddressTypesForService`).
fn address_types(service: &Service) -> Vec<&'static str> {
    let has = |family: &str| service.ip_families.iter().any(|other| **other == *family);
    match (service.ip_families.is_empty(), service.is_headless()) {
        (false, _) => ["IPv4", "IPv6"].into_iter().filter(|family| has(family)).collect(),
        (true, true) => vec!["IPv4", "IPv6"],
        (true, false) => vec![if service.cluster_ip.contains(':') { "IPv6" } else { "IPv4" }],
    }
}

/// The endpoints that should be, each with its ports.
fn desired(picture: &Picture, service: &Service, pods: &[&Arc<Pod>], kind: &str) -> Vec<(Vec<EndpointPort>, Endpoint)> {
    let pods = pods.iter().filter(|pod| has_endpoints(pod));
    let endpoints = pods.filter_map(|pod| Some((ports(service, pod), endpoint(picture, service, pod, kind)?)));
    endpoints.collect()
}

/// None for pods on nodes that are not known, unless the Service wants them however they are.
fn endpoint(picture: &Picture, service: &Service, pod: &Pod, kind: &str) -> Option<Endpoint> {
    let node = pod.node.as_ref().and_then(|name| picture.nodes.get(name));
    if node.is_none() && !service.publish_not_ready_addresses {
        return None;
    }
    let (serving, terminating) = (pod.is_ready(), pod.meta.is_deleted());
    let ready = service.publish_not_ready_addresses || serving && !terminating;
    let zone = node.and_then(|node| zone(node));
    Some(Endpoint {
        addresses: addresses(pod, |ip| ip.is_ipv6() == (kind == "IPv6")),
        conditions: EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) },
        hostname: hostname(pod, service).map(Into::into),
        target_ref: Some(target(pod)),
        node_name: pod.node.clone(),
        zone: zone.map(Into::into),
        hints: wants_hints(service).filter(|_| ready).and_then(|wanted| hints(wanted, pod.node.as_deref(), zone)),
    })
}

/// The wish that hints are to fulfil.
fn wants_hints(service: &Service) -> Option<TrafficDistribution> {
    let mode = TOPOLOGY_MODES.into_iter().find_map(|annotation| service.meta.annotations.get(annotation));
    service.traffic_distribution.filter(|_| !matches!(mode, Some("Auto" | "auto")))
}

/// An endpoint is for clients where it is itself (`trafficdist`). Each endpoint is judged alone:
/// that others have no zone is for the proxies to weigh.
fn hints(wanted: TrafficDistribution, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let hint = |name: Option<&str>| name.map(|name| Hint { name: name.into() }).into_iter().collect();
    let node = node.filter(|_| wanted == TrafficDistribution::PreferSameNode);
    (node.is_some() || zone.is_some()).then(|| EndpointHints { for_zones: hint(zone), for_nodes: hint(node) })
}

/// The pod that an address is of.
pub fn target(pod: &Pod) -> TargetRef {
    TargetRef {
        kind: "Pod".into(),
        namespace: pod.meta.namespace.clone(),
        name: pod.meta.name.clone(),
        uid: pod.meta.uid.clone(),
        ..TargetRef::default()
    }
}
