//! Mirrors Endpoints that users made by hand into EndpointSlices: what follows slices (proxies,
//! DNS) then need not know of Endpoints.
//!
//! After `pkg/controller/endpointslicemirroring`. Keys are those of Endpoints, which are those of
//! their Services. Mirrored are Endpoints whose Service has no selector, except those that say that
//! they are not to be ([`SKIP_MIRROR`]) and those that are a lock ([`LEADER`]). They become one
//! slice for each family and each set of ports that the same addresses have. What differs from
//! upstream: the number of such sets has a limit; an event about what was left out comes with the
//! write that left it out, not with every look; and references to pods lose their resourceVersion.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use crate::controller::{Controller, Work};
use crate::model::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Endpoints, Key, Meta, TargetRef, absent_if_null};
use crate::picture::{Change, Object, Picture, SERVICE_NAME, service_of};
use crate::request::{ENDPOINT_SLICES, ENDPOINTS, Event, EventType, Regarding, Request};

use super::reconcile::{Content, Identity, identity, sorted};
use super::writes::{MANAGED_BY, Owner, Writes};
use super::{SLICES_REST, TRIGGER_TIME, labels_patch};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";

/// Label, `true`, of Endpoints whose owner keeps slices of his own.
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";

/// Annotation of Endpoints that old clients use as a lock and write every few seconds.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// Addresses of a set of ports (kube-controller-manager's `--mirroring-max-endpoints-per-subset`):
/// as many as one slice may have.
const ADDRESSES_MAX: usize = 1000;

/// Sets of ports with the same addresses. An object of 1.5 MB could have thousands of each, and
/// their product would not fit into memory.
const PORT_SETS_MAX: usize = 100;

#[derive(Debug, Default)]
pub struct EndpointSliceMirroring;

impl Controller for EndpointSliceMirroring {
    fn name(&self) -> &'static str {
        "endpointslicemirroring-controller"
    }

    fn concerns(&mut self, _picture: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        match (&change.old, &change.new) {
            (Some(Object::Service(old)), Some(Object::Service(new))) if old.has_selector == new.has_selector => {}
            (_, Some(Object::Service(service))) | (Some(Object::Service(service)), None) => add(service.meta.key()),
            (_, Some(Object::Endpoints(endpoints))) | (Some(Object::Endpoints(endpoints)), None) => add(endpoints.meta.key()),
            (old, new) => {
                for object in old.iter().chain(new) {
                    if let Object::EndpointSlice(slice) = object
                        && is_ours(&slice.meta)
                    {
                        service_of(&slice.meta).into_iter().for_each(&mut *add);
                    }
                }
            }
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, _now: Timestamp) -> Work {
        let is_there = |slice: &&EndpointSlice| is_ours(&slice.meta) && !slice.meta.is_deleted();
        let there: Vec<&EndpointSlice> = picture.slices_of(key).map(|slice| &**slice).filter(is_there).collect();
        let Some(endpoints) = mirrored(picture, key) else {
            return Work::requests(there.into_iter().map(|slice| Request::delete(ENDPOINT_SLICES, &slice.meta)).collect());
        };
        // The server validated them: what cannot be read is from a newer one, and its slices stay
        // as they are.
        let Ok(subsets) = Option::<Vec<Subset>>::deserialize(&*endpoints.subsets) else { return Work::default() };
        let desired = Desired::of(&subsets.unwrap_or_default());
        let mut work = writes(picture, endpoints, &there, &desired).work();
        if !work.is_empty() {
            work.events = events(endpoints, &desired);
        }
        Work { rest: SLICES_REST, ..work }
    }
}

fn is_ours(slice: &Meta) -> bool {
    slice.labels.get(MANAGED_BY) == Some(MANAGER)
}

/// The Endpoints, if they are to be mirrored (`shouldMirror`).
fn mirrored<'a>(picture: &'a Picture, key: &Key) -> Option<&'a Endpoints> {
    let endpoints = picture.endpoints.get(key)?;
    let wants_none = endpoints.meta.labels.get(SKIP_MIRROR) == Some("true") || endpoints.meta.annotations.get(LEADER).is_some();
    let is_by_hand = picture.services.get(key).is_some_and(|service| !service.has_selector);
    (is_by_hand && !wants_none).then_some(&**endpoints)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subset {
    #[serde(deserialize_with = "absent_if_null")]
    addresses: Vec<Address>,
    #[serde(deserialize_with = "absent_if_null")]
    not_ready_addresses: Vec<Address>,
    #[serde(deserialize_with = "absent_if_null")]
    ports: Vec<EndpointPort>,
}

impl Subset {
    /// Each with whether it is ready.
    fn all_addresses(&self) -> impl Iterator<Item = (&Address, bool)> {
        let not_ready = self.not_ready_addresses.iter().map(|address| (address, false));
        self.addresses.iter().map(|address| (address, true)).chain(not_ready)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Address {
    #[serde(deserialize_with = "absent_if_null")]
    ip: Box<str>,
    hostname: Option<Box<str>>,
    node_name: Option<Arc<str>>,
    target_ref: Option<TargetRef>,
}

/// What tells one address from another: pods with the node's address have the same.
type AddressKey<'a> = (&'a str, &'a str);

impl Address {
    fn key(&self) -> AddressKey<'_> {
        (&self.ip, self.target_ref.as_ref().map_or("", |target| &*target.uid))
    }

    /// The kind of address, and the endpoint; None when it is no address.
    fn endpoint(&self, ready: bool) -> Option<(&'static str, Endpoint)> {
        let ip = kinds::names::parse_ip(&self.ip)?;
        let endpoint = Endpoint {
            addresses: vec![ip.to_string().into()],
            conditions: EndpointConditions { ready: Some(ready), ..EndpointConditions::default() },
            hostname: self.hostname.clone().filter(|name| !name.is_empty()),
            target_ref: self.target_ref.clone(),
            node_name: self.node_name.clone(),
            ..Endpoint::default()
        };
        Some((if ip.is_ipv6() { "IPv6" } else { "IPv4" }, endpoint))
    }
}

/// The slices that should be, by kind of address and by ports in their order.
#[derive(Debug, Default)]
struct Desired {
    slices: BTreeMap<(&'static str, Vec<EndpointPort>), BTreeMap<Identity, Endpoint>>,
    /// Addresses that are none.
    invalid: usize,
    /// Addresses beyond what a set of ports may have.
    skipped_addresses: usize,
    /// Ports in sets beyond what there may be.
    skipped_ports: usize,
}

impl Desired {
    /// Each address once for each port, with the ports that have the same addresses
    /// (`RepackSubsets`).
    fn of(subsets: &[Subset]) -> Desired {
        // Ports that are in the same subsets have the same addresses. No port stands for those
        // without one.
        let mut subsets_of: BTreeMap<Option<&EndpointPort>, BTreeSet<usize>> = BTreeMap::new();
        for (at, subset) in subsets.iter().enumerate() {
            let none = subset.ports.is_empty().then_some(None);
            for port in subset.ports.iter().map(Some).chain(none) {
                subsets_of.entry(port).or_default().insert(at);
            }
        }
        let mut port_sets: BTreeMap<BTreeSet<usize>, Vec<&EndpointPort>> = BTreeMap::new();
        for (port, within) in subsets_of {
            port_sets.entry(within).or_default().extend(port);
        }
        let mut desired = Desired { skipped_ports: port_sets.values().skip(PORT_SETS_MAX).map(Vec::len).sum(), ..Desired::default() };
        // Different subsets may say the same.
        let mut by_addresses: BTreeMap<Vec<(AddressKey<'_>, bool)>, Vec<&EndpointPort>> = BTreeMap::new();
        for (within, ports) in port_sets.into_iter().take(PORT_SETS_MAX) {
            let addresses = addresses(within.iter().map(|at| &subsets[*at]));
            by_addresses.entry(addresses).or_default().extend(ports);
        }
        let mut known: BTreeMap<AddressKey<'_>, &Address> = BTreeMap::new();
        for (address, _) in subsets.iter().flat_map(Subset::all_addresses) {
            known.entry(address.key()).or_insert(address);
        }
        for (addresses, ports) in by_addresses {
            let mut ports: Vec<EndpointPort> = ports.into_iter().cloned().collect();
            ports.sort();
            desired.add(&ports, addresses.iter().map(|(key, ready)| (known[key], *ready)));
        }
        desired
    }

    /// Adds one set of ports with its addresses; those that are ready come first.
    fn add<'a>(&mut self, ports: &[EndpointPort], addresses: impl Iterator<Item = (&'a Address, bool)>) {
        let (ready, not_ready): (Vec<_>, Vec<_>) = addresses.partition(|(_, ready)| *ready);
        let mut of_kinds: BTreeMap<&'static str, BTreeMap<Identity, Endpoint>> = BTreeMap::new();
        let mut added = 0;
        for (address, ready) in ready.into_iter().chain(not_ready) {
            if added == ADDRESSES_MAX {
                self.skipped_addresses += 1;
            } else if let Some((kind, endpoint)) = address.endpoint(ready) {
                added += 1;
                of_kinds.entry(kind).or_default().insert(identity(&endpoint), endpoint);
            } else {
                self.invalid += 1;
            }
        }
        self.slices.extend(of_kinds.into_iter().map(|(kind, endpoints)| ((kind, ports.to_vec()), endpoints)));
    }
}

/// All addresses of some subsets, each once, in order. One that is both is not ready.
fn addresses<'a>(subsets: impl Iterator<Item = &'a Subset>) -> Vec<(AddressKey<'a>, bool)> {
    let mut addresses = BTreeMap::new();
    for (address, is_ready) in subsets.flat_map(Subset::all_addresses) {
        *addresses.entry(address.key()).or_insert(true) &= is_ready;
    }
    addresses.into_iter().collect()
}

fn writes<'a>(picture: &'a Picture, endpoints: &'a Endpoints, there: &[&EndpointSlice], desired: &Desired) -> Writes<'a> {
    let meta = &endpoints.meta;
    let owner = Owner { kind: "Endpoints", meta };
    let mut labels = pairs(meta.labels.iter());
    labels.extend(pairs([(SERVICE_NAME, &*meta.name), (MANAGED_BY, MANAGER)].into_iter()));
    let annotations = pairs(meta.annotations.iter().filter(|(annotation, _)| *annotation != TRIGGER_TIME));
    let mut writes = Writes::new(picture, owner, labels);

    let mut existing: BTreeMap<(&str, Vec<EndpointPort>), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in there {
        existing.entry((&slice.address_type, sorted(&slice.ports))).or_default().push(slice);
    }
    let mut missing = Vec::new();
    for ((kind, ports), of_each) in &desired.slices {
        let content = Content { ports: ports.clone(), endpoints: of_each.values().cloned().collect() };
        let same_ports = existing.get_mut(&(*kind, ports.clone()));
        match same_ports.filter(|slices| !slices.is_empty()).map(|slices| slices.remove(0)) {
            None => missing.push((*kind, content)),
            Some(slice) => {
                let annotations_patch = labels_patch(&slice.meta.annotations, &annotations);
                let is_right = content.endpoints == slice.endpoints && annotations_patch.is_none();
                if !is_right || !writes.has_labels(slice) || !owner.owns(slice) {
                    // The order of the ports may stay.
                    let content = Content { ports: slice.ports.clone(), ..content };
                    writes.change(slice, Some(&content), &annotations_patch.unwrap_or_else(|| json!({})));
                }
            }
        }
    }
    // What would be deleted is used for what would be made (`recycleSlices`).
    let mut left: Vec<&EndpointSlice> = existing.into_values().flatten().collect();
    for (kind, content) in missing {
        match left.iter().position(|slice| *slice.address_type == *kind) {
            None => writes.create(kind, &content, &json!(annotations)),
            Some(at) => {
                let slice = left.remove(at);
                let patch = labels_patch(&slice.meta.annotations, &annotations).unwrap_or_else(|| json!({}));
                writes.change(slice, Some(&content), &patch);
            }
        }
    }
    left.into_iter().for_each(|slice| writes.delete(slice));
    writes
}

fn pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// About what was left out.
fn events(endpoints: &Endpoints, desired: &Desired) -> Vec<Event> {
    let Desired { invalid, skipped_addresses, skipped_ports, .. } = desired;
    let mut events = Vec::new();
    if *invalid > 0 {
        let text = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
        events.push(event(endpoints, "InvalidIPAddress", text));
    }
    if *skipped_addresses > 0 {
        let skipped = skipped_addresses + invalid;
        let text = format!(
            "A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
        );
        events.push(event(endpoints, "TooManyAddressesToMirror", text));
    }
    if *skipped_ports > 0 {
        let text = format!(
            "A max of {PORT_SETS_MAX} sets of ports with different addresses can be mirrored to EndpointSlices. \
             {skipped_ports} ports were skipped"
        );
        events.push(event(endpoints, "TooManyPortsToMirror", text));
    }
    events
}

fn event(endpoints: &Endpoints, reason: &'static str, message: String) -> Event {
    Event {
        about: Regarding::of(ENDPOINTS, &endpoints.meta),
        event_type: EventType::Warning,
        reason: reason.into(),
        message,
        action: None,
        component: "endpoint-slice-mirroring-controller",
        host: None,
    }
}

#[cfg(test)]
mod tests;
