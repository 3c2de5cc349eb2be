//! The addresses behind Services: EndpointSlices, and the older Endpoints.
//!
//! After `pkg/controller/endpointslice` with `staging/src/k8s.io/endpointslice`,
//! `pkg/controller/endpoint` and `pkg/controller/endpointslicemirroring`. Keys are those of
//! Services. A change of a pod concerns only the Services that select it ([`followed`]); a
//! Service's pods are then gone through once, at most once in [`SLICES_REST`] or
//! [`ENDPOINTS_REST`], however many of them changed. The Endpoints of Services without a selector
//! belong to another client; [`mirror`] makes slices of them. Left out: the hints of Services with
//! the annotation `service.kubernetes.io/topology-mode: Auto`, which follow the CPUs of each zone.

pub mod legacy;
pub mod mirror;
pub mod slices;

mod followed;
mod reconcile;
mod writes;

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::model::{EndpointPort, Labels, Pod, Service, ServicePort};

/// How long a Service's slices rest after each plan.
///
/// The first change of a pod is written at once, and the last one of a burst when the rest is over.
/// Proxies and DNS servers wait for that write: it may take 200 ms from the moment when a pod is
/// Ready until its Service leads to it, and this is the part of it that is spent on purpose.
///
/// The price: while pods change, the Service's pods are gone through ten times a second at most.
/// Each time the slices with changed endpoints are written, of up to 100 endpoints (20 KB or more).
/// So there are never more writes than changes of pods, nor more than ten a second of one slice:
/// when a hundred of 1,000 pods become Ready each second, all over the slices, 84 writes and 1.7 MB
/// a second. With a rest of a second, it would be 9 writes and 0.2 MB. Upstream writes after every
/// change, unless `--endpointslice-updates-batch-period` is given.
pub const SLICES_REST: SignedDuration = SignedDuration::from_millis(100);

/// How long a Service's Endpoints rest. What has to be prompt reads slices; and each write repeats
/// up to 1,000 addresses (about 190 KB), however few of them changed.
pub const ENDPOINTS_REST: SignedDuration = SignedDuration::from_secs(1);

/// When that changed which a write is about (`EndpointsLastChangeTriggerTime`).
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Label of what belongs to a Service without an address.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Has the pod addresses that clients may be sent to? (`ShouldPodBeInEndpoints`)
fn has_endpoints(pod: &Pod) -> bool {
    !pod.is_terminal() && !pod.status.pod_ips.is_empty()
}

/// Addresses of a pod of one family, written as Go writes them.
fn addresses(pod: &Pod, is_wanted: impl Fn(&IpAddr) -> bool) -> Vec<Box<str>> {
    let parsed = pod.status.pod_ips.iter().filter_map(|ip| kinds::names::parse_ip(ip));
    parsed.filter(is_wanted).map(|ip| ip.to_string().into()).collect()
}

/// The pod's name in the Service's domain, if it has one there (`ShouldSetHostname`).
fn hostname<'a>(pod: &'a Pod, service: &Service) -> Option<&'a str> {
    pod.host_name.as_ref().filter(|name| *name.subdomain == *service.meta.name).map(|name| &*name.hostname)
}

/// The ports of a Service as the pod has them; those it does not have are left out
/// (`getEndpointPorts`).
fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let resolved = service.ports.iter().filter_map(|port| Some((port, find_port(pod, port)?)));
    let endpoint_port = |(port, number): (&ServicePort, i64)| EndpointPort {
        name: port.name.clone(),
        port: Some(number),
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    };
    resolved.map(endpoint_port).collect()
}

/// The number of a target port: itself, or that of the pod's port of the name and protocol
/// (`FindPort`).
fn find_port(pod: &Pod, port: &ServicePort) -> Option<i64> {
    match port.target_port.as_ref()? {
        Value::Number(number) => number.as_i64(),
        Value::String(wanted) => {
            let named = |(name, protocol, _): &&(Box<str>, Box<str>, i64)| **name == **wanted && *protocol == port.protocol;
            pod.spec.named_ports.iter().find(named).map(|(_, _, number)| *number)
        }
        _ => None,
    }
}

/// The Service's labels without those that are not copied, and the ones that are always there.
fn labels(service: &Service, reserved: &[&str], own: &[(&str, &str)]) -> BTreeMap<String, String> {
    let copied = service.meta.labels.iter().filter(|(label, _)| *label != HEADLESS && !reserved.contains(label));
    let headless = service.is_headless().then_some((HEADLESS, ""));
    let all = copied.chain(headless).chain(own.iter().copied());
    all.map(|(label, value)| (label.to_owned(), value.to_owned())).collect()
}

/// The merge patch from the labels that are there to the wanted ones; None when they are the same.
fn labels_patch(there: &Labels, wanted: &BTreeMap<String, String>) -> Option<Value> {
    let mut patch = Map::new();
    for (label, value) in wanted.iter().filter(|(label, value)| there.get(label) != Some(value)) {
        patch.insert(label.clone(), json!(value));
    }
    for (label, _) in there.iter().filter(|(label, _)| !wanted.contains_key(*label)) {
        patch.insert(label.to_owned(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// As the annotation has it.
fn trigger_text(time: Option<Timestamp>) -> Option<String> {
    time.map(|time| time.to_string())
}

#[cfg(test)]
mod tests;
