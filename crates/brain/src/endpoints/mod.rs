//! The addresses behind Services: EndpointSlices, and the older Endpoints.
//!
//! After `pkg/controller/endpointslice` with `staging/src/k8s.io/endpointslice`, and
//! `pkg/controller/endpoint`. Keys are those of Services. A change of a pod concerns only the
//! Services that select it ([`followed`]); a Service's pods are then gone through once, at most
//! once in [`REST`], however many of them changed. Services without a selector are left alone:
//! their endpoints belong to another client. Left out: mirroring of Endpoints made by hand into
//! slices, and the hints of Services with the annotation
//! `service.kubernetes.io/topology-mode: Auto`, which follow the CPUs of each zone.

pub mod legacy;
pub mod slices;

mod followed;
mod reconcile;
mod writes;

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::model::{EndpointPort, Labels, Pod, Service, ServicePort};

/// How long a Service rests after each plan, so that the pods of a rollout are written in groups.
pub const REST: SignedDuration = SignedDuration::from_secs(1);

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
