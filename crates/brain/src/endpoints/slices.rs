//! Keeps the EndpointSlices of Services.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::controller::{Controller, Step, Work};
use crate::model::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Key, Meta, Pod, Service, TargetRef};
use crate::picture::{Change, Object, Picture, service_of};
use crate::request::{ENDPOINT_SLICES, Request, Verb};

use super::followed::{Followed, zone};
use super::reconcile::{Content, Slices, reconcile};
use super::{REST, TRIGGER_TIME, addresses, has_endpoints, hostname, labels, labels_patch, ports, trigger_text};
use crate::picture::SERVICE_NAME;

/// Label of the slices that this controller keeps, and its value.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Characters of Kubernetes' generated suffixes.
const SUFFIX_CHARACTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;

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
        let mut writes = Writes::new(picture, service, trigger);
        let types = address_types(service);
        for kind in &types {
            let (owned, foreign): (Vec<_>, Vec<_>) =
                there.iter().filter(|slice| *slice.address_type == **kind).partition(|slice| is_owned(slice, service));
            writes.add(kind, reconcile(&owned, &foreign, desired(picture, service, &pods, kind)));
        }
        let of_no_use = there.iter().filter(|slice| !types.contains(&&*slice.address_type));
        writes.delete.extend(of_no_use.map(|slice| Request::delete(ENDPOINT_SLICES, &slice.meta)));
        Work { rest: REST, ..writes.work() }
    }
}

fn is_ours(slice: &Meta) -> bool {
    slice.labels.get(MANAGED_BY) == Some(MANAGER)
}

fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    slice.meta.owner_references.iter().any(|owner| owner.uid == service.meta.uid && &*owner.kind == "Service")
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
    Some(Endpoint {
        addresses: addresses(pod, |ip| ip.is_ipv6() == (kind == "IPv6")),
        conditions: EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) },
        hostname: hostname(pod, service).map(Into::into),
        target_ref: Some(target(pod)),
        node_name: pod.node.clone(),
        zone: node.and_then(|node| zone(node)).map(Into::into),
        hints: None,
    })
}

/// The pod that an address is of.
pub fn target(pod: &Pod) -> TargetRef {
    TargetRef { kind: "Pod".into(), namespace: pod.meta.namespace.clone(), name: pod.meta.name.clone(), uid: pod.meta.uid.clone() }
}

/// What is to be sent about one Service.
struct Writes<'a> {
    picture: &'a Picture,
    service: &'a Service,
    labels: std::collections::BTreeMap<String, String>,
    trigger: Option<String>,
    /// Names of the slices that are made.
    names: BTreeSet<String>,
    create: Vec<Request>,
    update: Vec<Request>,
    delete: Vec<Request>,
}

impl<'a> Writes<'a> {
    fn new(picture: &'a Picture, service: &'a Service, trigger: Option<Timestamp>) -> Writes<'a> {
        let own = [(SERVICE_NAME, &*service.meta.name), (MANAGED_BY, MANAGER)];
        Writes {
            picture,
            service,
            labels: labels(service, &[SERVICE_NAME, MANAGED_BY], &own),
            trigger: trigger_text(trigger),
            names: BTreeSet::new(),
            create: Vec::new(),
            update: Vec::new(),
            delete: Vec::new(),
        }
    }

    fn add(&mut self, kind: &str, slices: Slices<'_>) {
        // A Service that is going away gets no new slices: the collector is busy with those it has.
        if !self.service.meta.is_deleted() {
            for content in slices.create {
                let request = self.creation(kind, &content);
                self.create.push(request);
            }
        }
        for (slice, content) in slices.update {
            self.update.push(self.change(slice, Some(&content)));
        }
        for slice in slices.keep {
            if labels_patch(&slice.meta.labels, &self.labels).is_some() {
                self.update.push(self.change(slice, None));
            }
        }
        self.delete.extend(slices.delete.iter().map(|slice| Request::delete(ENDPOINT_SLICES, &slice.meta)));
    }

    fn work(self) -> Work {
        let steps = [self.create, self.update, self.delete].into_iter().filter(|requests| !requests.is_empty());
        Work { steps: steps.map(Step::all_at_once).collect(), ..Work::default() }
    }

    fn creation(&mut self, kind: &str, content: &Content) -> Request {
        let service = &self.service.meta;
        let name = self.new_name(kind);
        let mut object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "generateName": format!("{}-", service.name), "labels": self.labels,
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Service", "name": service.name, "uid": service.uid,
                    "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "addressType": kind, "endpoints": content.endpoints, "ports": content.ports,
        });
        if let Some(trigger) = &self.trigger {
            object["metadata"]["annotations"][TRIGGER_TIME] = json!(trigger);
        }
        Request::new(ENDPOINT_SLICES, Key::new(&service.namespace, &name), Verb::Create(Arc::new(object)))
    }

    /// Only what differs is sent.
    fn change(&self, slice: &EndpointSlice, content: Option<&Content>) -> Request {
        let meta = &slice.meta;
        let mut patch = json!({"metadata": {
            "uid": meta.uid, "resourceVersion": meta.resource_version.to_string(), "annotations": {TRIGGER_TIME: self.trigger},
        }});
        if let Some(labels) = labels_patch(&meta.labels, &self.labels) {
            patch["metadata"]["labels"] = labels;
        }
        if let Some(content) = content {
            let differing = |there: bool, wanted: Value| there.then_some(wanted);
            let fields = [
                ("endpoints", differing(content.endpoints != slice.endpoints, json!(content.endpoints))),
                ("ports", differing(content.ports != slice.ports, json!(content.ports))),
            ];
            for (field, value) in fields {
                if let Some(value) = value {
                    patch[field] = value;
                }
            }
        }
        Request::new(ENDPOINT_SLICES, meta.key(), Verb::Merge(patch))
    }

    /// A name that follows from the Service, and that no other slice has.
    fn new_name(&mut self, kind: &str) -> String {
        let service = &self.service.meta;
        let is_taken = |name: &String| {
            let key = Key::new(&service.namespace, name);
            self.names.contains(name) || self.picture.slices.contains_key(&key)
        };
        let names = (0u32..).map(|attempt| format!("{}-{}", service.name, suffix(&[&service.uid, kind, &attempt.to_string()])));
        let name = names.into_iter().find(|name| !is_taken(name)).expect("there are more suffixes than slices");
        self.names.insert(name.clone());
        name
    }
}

fn suffix(parts: &[&str]) -> String {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let mut digest = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let base = SUFFIX_CHARACTERS.len() as u64;
    let characters = (0..SUFFIX_LEN).map(|_| {
        let at = usize::try_from(digest % base).expect("less than the number of characters");
        digest /= base;
        char::from(SUFFIX_CHARACTERS[at])
    });
    characters.collect()
}
