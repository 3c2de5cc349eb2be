//! ServiceCIDRs: whether Services get addresses from a range, and whether it may go.
//!
//! After `pkg/controller/servicecidrs`. A range that is deleted stays, not ready, while it is the
//! only one for the address of a Service. Kubernetes writes the condition anew after every change;
//! here it is written when it is another.

pub mod repair;

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use kinds::address_range::{AddressRange, MANAGER, MANAGER_LABEL};
use kinds::decode::format_time;
use serde_json::{Value, json};

use crate::controller::{Controller, Step, Work};
use crate::model::{IpAddress, Key, ServiceCidr};
use crate::picture::{Change, Object, Picture};
use crate::request::{Request, SERVICE_CIDRS, Verb};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// As long as after a deletion, a Service may still get an address that its API server chose before
/// (`deletionGracePeriod`).
const DELETION_GRACE: SignedDuration = SignedDuration::from_secs(10);

/// While a range waits for its addresses, it looks at all of them this often at most.
const REST: SignedDuration = SignedDuration::from_secs(1);

/// What is said of a range.
struct Ready {
    status: &'static str,
    reason: &'static str,
    message: &'static str,
}

const READY: Ready = Ready { status: "True", reason: "", message: "Kubernetes Service CIDR is ready" };
const TERMINATING: Ready = Ready {
    status: "False",
    reason: "Terminating",
    message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
};

#[derive(Debug, Default)]
pub struct ServiceCidrController;

impl Controller for ServiceCidrController {
    fn name(&self) -> &'static str {
        "service-cidrs-controller"
    }

    fn concerns(&mut self, picture: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        match change.object() {
            Object::ServiceCidr(changed) => {
                add(changed.meta.key());
                // A range that came or went decides whether others may go.
                let waits = |other: &&ServiceCidr| other.meta.is_deleted() && other.ranges.iter().any(|range| overlaps(changed, range));
                picture.service_cidrs.values().map(|other| &**other).filter(waits).for_each(|other| add(other.meta.key()));
            }
            Object::IpAddress(address) if change.old.is_none() || change.new.is_none() => {
                let waits = |cidr: &&ServiceCidr| cidr.meta.is_deleted() && address.ip.is_some_and(|ip| serves(cidr, ip));
                picture.service_cidrs.values().map(|cidr| &**cidr).filter(waits).for_each(|cidr| add(cidr.meta.key()));
            }
            _ => {}
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, now: Timestamp) -> Work {
        let Some(cidr) = picture.service_cidrs.get(&key.name) else { return Work::default() };
        match cidr.meta.deletion_timestamp {
            None => keep(cidr, now),
            Some(deleted_at) => let_go(picture, cidr, deleted_at, now),
        }
    }
}

/// The finalizer first: a range that is ready has it.
fn keep(cidr: &ServiceCidr, now: Timestamp) -> Work {
    let finalizer = (!has_finalizer(cidr)).then(|| finalizers(cidr, with_finalizer(cidr)));
    let steps = finalizer.into_iter().chain(report(cidr, &READY, now)).map(|request| Step::all_at_once(vec![request]));
    Work { steps: steps.collect(), ..Work::default() }
}

fn let_go(picture: &Picture, cidr: &ServiceCidr, deleted_at: Timestamp, now: Timestamp) -> Work {
    if !has_finalizer(cidr) {
        return Work::default();
    }
    if is_needed(picture, cidr) {
        let requests = report(cidr, &TERMINATING, now).into_iter().collect();
        return Work { rest: REST, ..Work::requests(requests) };
    }
    let free_at = deleted_at.saturating_add(DELETION_GRACE).unwrap_or(Timestamp::MAX);
    if now < free_at {
        return Work { wake_at: Some(free_at), ..Work::default() };
    }
    let rest: Vec<&str> = cidr.meta.finalizers.iter().map(|finalizer| &**finalizer).filter(|finalizer| *finalizer != FINALIZER).collect();
    Work::requests(vec![finalizers(cidr, json!(rest))])
}

fn has_finalizer(cidr: &ServiceCidr) -> bool {
    cidr.meta.finalizers.iter().any(|finalizer| &**finalizer == FINALIZER)
}

fn with_finalizer(cidr: &ServiceCidr) -> Value {
    cidr.meta.finalizers.iter().map(|finalizer| &**finalizer).chain([FINALIZER]).collect()
}

/// A list is replaced as a whole: the version makes sure that it is the one that was read.
fn finalizers(cidr: &ServiceCidr, list: Value) -> Request {
    let meta = &cidr.meta;
    let version = meta.resource_version.to_string();
    let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": version, "finalizers": list}});
    Request::new(SERVICE_CIDRS, meta.key(), Verb::Merge(patch))
}

/// Writes the condition, unless the range has it.
fn report(cidr: &ServiceCidr, ready: &Ready, now: Timestamp) -> Option<Request> {
    let old = cidr.ready.as_ref();
    if old.is_some_and(|old| (&*old.status, &*old.reason, &*old.message) == (ready.status, ready.reason, ready.message)) {
        return None;
    }
    let since = old.filter(|old| &*old.status == ready.status).and_then(|old| old.last_transition_time).unwrap_or(now);
    let condition = json!({
        "type": "Ready", "status": ready.status, "reason": ready.reason, "message": ready.message,
        "lastTransitionTime": format_time(since),
    });
    let patch = json!({"metadata": {"uid": cidr.meta.uid}, "status": {"conditions": [condition]}});
    Some(Request::new(SERVICE_CIDRS, cidr.meta.key(), Verb::Strategic(patch)).on("status"))
}

/// Would the address of a Service be in no range without this one?
fn is_needed(picture: &Picture, cidr: &ServiceCidr) -> bool {
    // One that goes, too, takes nothing over.
    let stays = |other: &&std::sync::Arc<ServiceCidr>| other.meta.name != cidr.meta.name && !other.meta.is_deleted();
    let others = || picture.service_cidrs.values().filter(stays);
    let has_parent = |range: &AddressRange| others().any(|other| other.ranges.iter().any(|outer| outer.contains(range)));
    if cidr.ranges.iter().all(has_parent) {
        return false;
    }
    let is_only_here = |ip: IpAddr| serves(cidr, ip) && !others().any(|other| serves(other, ip));
    picture.ip_addresses.values().filter(|address| is_of_a_service(address)).filter_map(|address| address.ip).any(is_only_here)
}

/// Kubernetes goes by the label; the objects of other clients hold up no range.
fn is_of_a_service(address: &IpAddress) -> bool {
    address.meta.labels.get(MANAGER_LABEL) == Some(MANAGER)
}

fn serves(cidr: &ServiceCidr, ip: IpAddr) -> bool {
    cidr.ranges.iter().any(|range| range.serves(ip))
}

fn overlaps(cidr: &ServiceCidr, range: &AddressRange) -> bool {
    cidr.ranges.iter().any(|own| own.overlaps(range))
}

#[cfg(test)]
mod tests;
