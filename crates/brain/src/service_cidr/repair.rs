//! Services and IPAddresses that do not fit each other.
//!
//! After `pkg/registry/core/service/ipallocator/controller/repairip.go`. The API server writes a
//! Service and its IPAddress together, so that there is something to repair only where a store is
//! older than IPAddresses, or where a client changed or deleted one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use kinds::address_range::{FAMILY_LABEL, MANAGER, MANAGER_LABEL, family, ip_address_of_service};
use serde_json::Value;

use crate::controller::{Controller, Step, Work};
use crate::model::{IpAddress, Key, Service};
use crate::picture::{Change, Object, Picture};
use crate::request::{Event, EventType, IP_ADDRESSES, Regarding, Request, SERVICES, Verb};

const COMPONENT: &str = "ipallocator-repair-controller";

/// Services and IPAddresses are seen one after the other. What does not fit for so long does not
/// fit.
const SETTLED_AFTER: SignedDuration = SignedDuration::from_secs(5);

/// An IPAddress without its Service may be that of a Service that is still being created.
const LEAKED_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// Its keys are those of Services, and the names of IPAddresses.
#[derive(Debug, Default)]
pub struct IpAddressRepair {
    /// Since when the IPAddress of a Service is not as it should be.
    wrong_since: BTreeMap<Key, Timestamp>,
}

impl Controller for IpAddressRepair {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn concerns(&mut self, picture: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        for object in change.old.iter().chain(&change.new) {
            match object {
                Object::Service(service) if address_of(service).is_some() => {
                    add(service.meta.key());
                    add(Key::new("", &service.cluster_ip));
                }
                Object::IpAddress(address) => {
                    add(address.meta.key());
                    if let Some(service) = address.parent.service() {
                        add(service);
                    }
                }
                // Until there is a range, nothing is repaired.
                Object::ServiceCidr(_) if change.old.is_none() => picture.services.keys().cloned().for_each(&mut *add),
                _ => {}
            }
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, now: Timestamp) -> Work {
        if picture.service_cidrs.is_empty() {
            return Work::default();
        }
        if key.namespace.is_empty() {
            return picture.ip_addresses.get(&key.name).map_or_else(Work::default, |address| clean_up(picture, address, now));
        }
        let wrong = picture.services.get(key).and_then(|service| Some((service, find_wrong(picture, service)?)));
        let Some((service, wrong)) = wrong else {
            self.wrong_since.remove(key);
            return Work::default();
        };
        let settled_at = *self.wrong_since.entry(key.clone()).or_insert(now) + SETTLED_AFTER;
        if now < settled_at {
            return Work { wake_at: Some(settled_at), ..Work::default() };
        }
        self.wrong_since.remove(key);
        repair(picture, service, wrong)
    }
}

/// What is wrong with the address of a Service.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    OutOfRange,
    Missing,
    /// The IPAddress names no Service, or one that does not exist.
    Reference,
    Labels,
    /// Another Service has the address, too, and the IPAddress.
    Duplicate,
}

fn address_of(service: &Service) -> Option<IpAddr> {
    service.cluster_ip.parse().ok()
}

fn find_wrong(picture: &Picture, service: &Service) -> Option<Wrong> {
    let ip = address_of(service)?;
    if !picture.service_cidrs.values().any(|cidr| super::serves(cidr, ip)) {
        return Some(Wrong::OutOfRange);
    }
    let Some(address) = picture.ip_addresses.get(&*ip.to_string()) else { return Some(Wrong::Missing) };
    let Some(parent) = address.parent.service() else { return Some(Wrong::Reference) };
    if parent != service.meta.key() {
        let other = picture.services.get(&parent);
        let has_it_too = other.is_some_and(|other| address_of(other) == Some(ip));
        return Some(if has_it_too { Wrong::Duplicate } else { Wrong::Reference });
    }
    (!is_labelled(address, ip)).then_some(Wrong::Labels)
}

fn is_labelled(address: &IpAddress, ip: IpAddr) -> bool {
    let labels = &address.meta.labels;
    labels.get(FAMILY_LABEL) == Some(family(ip)) && labels.get(MANAGER_LABEL) == Some(MANAGER)
}

fn repair(picture: &Picture, service: &Service, wrong: Wrong) -> Work {
    let Some(ip) = address_of(service) else { return Work::default() };
    let key = &service.meta.key();
    let (namespace, name) = (&key.namespace, &key.name);
    let shown = format!("[{}]: {ip}", family(ip));
    let (reason, message) = match wrong {
        Wrong::OutOfRange => {
            let message = format!("Cluster IP {shown} is not within any configured Service CIDR; please recreate service");
            return Work { events: vec![about_service(service, "ClusterIPOutOfRange", message)], ..Work::default() };
        }
        Wrong::Duplicate => {
            let message = format!("Cluster IP {shown} was assigned to multiple services; please recreate service");
            return Work { events: vec![about_service(service, "ClusterIPAlreadyAllocated", message)], ..Work::default() };
        }
        Wrong::Missing => ("ClusterIPNotAllocated", format!("Cluster IP {shown} is not allocated; repairing")),
        Wrong::Reference | Wrong::Labels => {
            let what = if matches!(wrong, Wrong::Labels) { "labels" } else { "reference" };
            ("ClusterIPNotAllocated", format!("the ClusterIP {shown} for Service {namespace}/{name} has a wrong {what}; repairing"))
        }
    };
    let old = picture.ip_addresses.get(&*ip.to_string());
    // Its end brings the Service here again.
    if old.is_some_and(|address| address.meta.is_deleted()) {
        return Work::default();
    }
    let old = old.map(|address| Request::delete(IP_ADDRESSES, &address.meta));
    let new = Request::new(IP_ADDRESSES, Key::new("", &ip.to_string()), Verb::Create(ip_address(service, ip).into()));
    let steps = old.into_iter().chain([new]).map(|request| Step::all_at_once(vec![request])).collect();
    Work { steps, events: vec![about_service(service, reason, message)], ..Work::default() }
}

fn ip_address(service: &Service, ip: IpAddr) -> Value {
    let mut object = ip_address_of_service(&ip.to_string(), family(ip), &service.meta.namespace, &service.meta.name);
    object["apiVersion"] = IP_ADDRESSES.api_version().into();
    object["kind"] = IP_ADDRESSES.kind.into();
    object
}

/// Deletes an IPAddress that was made for a Service and belongs to none.
fn clean_up(picture: &Picture, address: &IpAddress, now: Timestamp) -> Work {
    let name = &address.meta.name;
    if address.meta.labels.get(MANAGER_LABEL) != Some(MANAGER) || address.meta.is_deleted() {
        return Work::default();
    }
    let Some(parent) = address.parent.service() else {
        let message = format!("IPAddress {name} appears to have been modified, not referencing a Service: cleaning up");
        return delete(address, "IPAddressNotAllocated", message);
    };
    let shown = format!("{}/{}", parent.namespace, parent.name);
    let (reason, message) = match picture.services.get(&parent) {
        Some(service) if *service.cluster_ip == **name => return Work::default(),
        Some(_) => ("IPAddressWrongReference", format!("IPAddress: {name} for Service {shown} has a wrong reference; cleaning up")),
        None => ("IPAddressNotAllocated", format!("IPAddress: {name} for Service {shown} appears to have leaked: cleaning up")),
    };
    let created_at = address.meta.creation_timestamp.unwrap_or(Timestamp::MIN);
    let leaked_at = created_at.saturating_add(LEAKED_AFTER).unwrap_or(Timestamp::MAX);
    if now < leaked_at {
        return Work { wake_at: Some(leaked_at), ..Work::default() };
    }
    delete(address, reason, message)
}

fn delete(address: &IpAddress, reason: &'static str, message: String) -> Work {
    let request = Request::delete(IP_ADDRESSES, &address.meta);
    let about = Regarding::of(IP_ADDRESSES, &address.meta);
    Work { events: vec![event(about, reason, "IPAddressAllocation", message)], ..Work::requests(vec![request]) }
}

fn about_service(service: &Service, reason: &'static str, message: String) -> Event {
    event(Regarding::of(SERVICES, &service.meta), reason, "ClusterIPAllocation", message)
}

fn event(about: Regarding, reason: &'static str, action: &'static str, message: String) -> Event {
    Event { about, event_type: EventType::Warning, reason: reason.into(), message, action: Some(action), component: COMPONENT, host: None }
}
