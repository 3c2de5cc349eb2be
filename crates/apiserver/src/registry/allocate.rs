//! Cluster addresses and node ports of Services.
//!
//! What is taken is kept in memory: loaded from the stored Services at the start, reserved before a
//! write and given back if the write fails. Kubernetes keeps objects for it (IPAddresses, bitmaps)
//! because several of its servers share them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kinds::cursor::Cursor;
use kinds::field::{FieldError, Path};
use kinds::names;
use kinds::rules::Part;
use kinds::rules::service::{is_headless, needs_health_check, needs_node_ports};
use kinds::status::Status;
use kinds::table;
use serde_json::{Value, json};

use super::Registry;
use super::cache::Caches;
use super::metadata::is_finished;
use crate::request::WriteRequest;

/// 10.96.0.0/16, Kubernetes' range on most clusters.
const NETWORK: &str = "10.96.0.0/16";
const NETWORK_ADDRESSES: RangeInclusive<u32> = 0x0a60_0000..=0x0a60_ffff;
/// Without the address of the network and the one for broadcasts.
const ADDRESSES: RangeInclusive<u32> = 0x0a60_0001..=0x0a60_fffe;
/// The lower part of a range is given out last, so that people find free numbers there.
const STATIC_ADDRESSES: u32 = 256;

/// That of the Service `kubernetes`, through which pods reach this server.
const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

const PORTS: RangeInclusive<u32> = 30_000..=32_767;
const STATIC_PORTS: u32 = 86;

/// Which addresses and ports are taken.
#[derive(Debug, Clone)]
pub struct Allocations(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    addresses: BTreeSet<u32>,
    ports: BTreeSet<u32>,
}

impl Default for Allocations {
    fn default() -> Allocations {
        let taken = Taken { addresses: BTreeSet::from([OWN_ADDRESS.into()]), ports: BTreeSet::new() };
        Allocations(Arc::new(Mutex::new(taken)))
    }
}

impl Allocations {
    /// What the stored Services have.
    pub fn load(caches: &Caches) -> Allocations {
        let allocations = Allocations::default();
        let services = table::by_resource("", "v1", "services").expect("the table has services");
        for service in caches.of(services).snapshot("", 0).objects {
            allocations.lock().add(&held_by(&service.value()));
        }
        allocations
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn add(&mut self, more: &Taken) {
        self.addresses.extend(&more.addresses);
        self.ports.extend(&more.ports);
    }

    /// The address of the Service `kubernetes` is never free.
    fn remove(&mut self, less: &Taken) {
        for address in less.addresses.iter().filter(|address| **address != u32::from(OWN_ADDRESS)) {
            self.addresses.remove(address);
        }
        for port in &less.ports {
            self.ports.remove(port);
        }
    }
}

/// Allocated for a write that has not happened yet; given back unless kept.
#[derive(Debug)]
#[must_use = "what is not kept is given back"]
pub struct Pending {
    allocations: Allocations,
    dry_run: bool,
    reserved: Taken,
    /// What the object no longer has once the write has happened.
    released: Taken,
}

impl Pending {
    fn new(registry: &Registry, write: &WriteRequest<'_>) -> Pending {
        let allocations = registry.allocations.clone();
        Pending { allocations, dry_run: write.options.dry_run, reserved: Taken::default(), released: Taken::default() }
    }

    pub fn keep(mut self) {
        let released = std::mem::take(&mut self.released);
        self.reserved = Taken::default();
        self.allocations.lock().remove(&released);
    }

    /// A dry run does not look whether the address is free.
    fn claim_address(&mut self, text: &str, may_be_own: bool) -> Result<(), String> {
        let address = match names::parse_ip(text) {
            Some(std::net::IpAddr::V4(address)) => u32::from(address),
            _ => return Err("the provided network does not match the current range".to_owned()),
        };
        if !NETWORK_ADDRESSES.contains(&address) {
            return Err("the provided network does not match the current range".to_owned());
        }
        if !ADDRESSES.contains(&address) {
            let ip = Ipv4Addr::from(address);
            return Err(format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {NETWORK}"));
        }
        if self.dry_run || (may_be_own && address == u32::from(OWN_ADDRESS)) {
            return Ok(());
        }
        if !self.allocations.lock().addresses.insert(address) {
            return Err("provided IP is already allocated".to_owned());
        }
        self.reserved.addresses.insert(address);
        Ok(())
    }

    fn next_address(&mut self) -> Option<Ipv4Addr> {
        let mut taken = self.allocations.lock();
        let address = pick(&ADDRESSES, STATIC_ADDRESSES, |address| !taken.addresses.contains(&address))?;
        if !self.dry_run {
            taken.addresses.insert(address);
            self.reserved.addresses.insert(address);
        }
        Some(address.into())
    }

    /// A dry run does not look at the range.
    fn claim_port(&mut self, port: u32) -> Result<(), String> {
        let mut taken = self.allocations.lock();
        if !self.dry_run && !PORTS.contains(&port) {
            let (first, last) = (PORTS.start(), PORTS.end());
            return Err(format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"));
        }
        if taken.ports.contains(&port) || self.reserved.ports.contains(&port) {
            return Err("provided port is already allocated".to_owned());
        }
        if !self.dry_run {
            taken.ports.insert(port);
        }
        self.reserved.ports.insert(port);
        Ok(())
    }

    fn next_port(&mut self) -> Option<u32> {
        let mut taken = self.allocations.lock();
        let port = pick(&PORTS, STATIC_PORTS, |port| !taken.ports.contains(&port) && !self.reserved.ports.contains(&port))?;
        if !self.dry_run {
            taken.ports.insert(port);
        }
        self.reserved.ports.insert(port);
        Some(port)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.dry_run {
            self.allocations.lock().remove(&self.reserved);
        }
    }
}

/// A free number of the range: from a random place on, the lower part last.
fn pick(range: &RangeInclusive<u32>, static_count: u32, is_free: impl Fn(u32) -> bool) -> Option<u32> {
    let (first, last) = (range.start() + static_count, *range.end());
    let count = last - first + 1;
    let offset = (uuid::Uuid::new_v4().as_u128() % u128::from(count)) as u32;
    let dynamic = (0..count).map(|i| first + (offset + i) % count);
    dynamic.chain(*range.start()..first).find(|number| is_free(*number))
}

fn is_service(write: &WriteRequest<'_>) -> bool {
    write.kind.group.is_empty() && write.kind.kind == "Service"
}

/// Gives a new Service what it asks for or needs.
pub fn on_create(registry: &Registry, write: &WriteRequest<'_>, object: &mut Value) -> Result<Pending, Status> {
    let mut pending = Pending::new(registry, write);
    if !is_service(write) {
        return Ok(pending);
    }
    allocate_cluster_ip(&mut pending, object)?;
    if needs_node_ports(type_of(object)) {
        allocate_node_ports(&mut pending, object)?;
    }
    if needs_health_check(&spec_of(object)) {
        allocate_health_check_port(&mut pending, object)?;
    }
    Ok(pending)
}

/// Same when a Service changes.
pub fn on_update(registry: &Registry, write: &WriteRequest<'_>, object: &mut Value, old: &Value) -> Result<Pending, Status> {
    let mut pending = Pending::new(registry, write);
    if !is_service(write) {
        return Ok(pending);
    }
    if is_finished(object) {
        // The last finalizer goes, and the Service with it.
        pending.released = held_by(old);
        return Ok(pending);
    }
    if write.part != Some(Part::Main) {
        return Ok(pending);
    }
    if type_of(old) == "ExternalName" && type_of(object) != "ExternalName" {
        allocate_cluster_ip(&mut pending, object)?;
    }
    if needs_node_ports(type_of(object)) {
        update_node_ports(&mut pending, object, old)?;
    }
    if needs_health_check(&spec_of(object)) && !needs_health_check(&spec_of(old)) {
        allocate_health_check_port(&mut pending, object)?;
    }
    let (now, mut before) = (held_by(object), held_by(old));
    before.addresses.retain(|address| !now.addresses.contains(address));
    before.ports.retain(|port| !now.ports.contains(port));
    pending.released = before;
    Ok(pending)
}

/// Takes back what a deleted Service had, once it is gone.
pub fn on_delete(registry: &Registry, write: &WriteRequest<'_>, old: &Value) -> Pending {
    let mut pending = Pending::new(registry, write);
    if is_service(write) {
        pending.released = held_by(old);
    }
    pending
}

fn spec_of(service: &Value) -> Cursor<'_> {
    Cursor::root(service).field("spec")
}

fn type_of(service: &Value) -> &str {
    spec_of(service).field("type").str()
}

/// The addresses and ports of a Service.
fn held_by(service: &Value) -> Taken {
    let spec = spec_of(service);
    let addresses = spec.field("clusterIPs").strs().filter_map(names::parse_ip).filter_map(|ip| match ip {
        std::net::IpAddr::V4(ip) => Some(u32::from(ip)),
        std::net::IpAddr::V6(_) => None,
    });
    let node_ports = spec.field("ports").items().map(|port| port.field("nodePort").int_or_zero());
    let ports = node_ports.chain([spec.field("healthCheckNodePort").int_or_zero()]);
    Taken { addresses: addresses.collect(), ports: ports.filter_map(|port| u32::try_from(port).ok()).filter(|port| *port != 0).collect() }
}

fn invalid(service: &Value, error: FieldError) -> Status {
    Status::invalid("", "Service", service["metadata"]["name"].as_str().unwrap_or_default(), &[error])
}

fn allocate_cluster_ip(pending: &mut Pending, service: &mut Value) -> Result<(), Status> {
    let spec = spec_of(service);
    if spec.field("type").str() == "ExternalName" || is_headless(&spec) {
        return Ok(());
    }
    if let Some(asked) = spec.field("clusterIPs").strs().next() {
        let metadata = &service["metadata"];
        let is_own = metadata["name"] == "kubernetes" && metadata["namespace"] == "default";
        return pending.claim_address(asked, is_own).map_err(|why| {
            let path = spec.field("clusterIPs").path().clone();
            let shown = json!(spec.field("clusterIPs").list());
            invalid(service, FieldError::invalid(&path, shown, format!("failed to allocate IP {asked}: {why}")))
        });
    }
    let address = pending.next_address().ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?.to_string();
    service["spec"]["clusterIPs"] = json!([address]);
    service["spec"]["clusterIP"] = address.into();
    Ok(())
}

fn allocates_node_ports(service: &Value) -> bool {
    type_of(service) == "NodePort" || spec_of(service).field("allocateLoadBalancerNodePorts").is_true()
}

fn port_error(service: &Value, at: usize, number: u32, why: String) -> Status {
    let path = Path::new("spec").child("ports").index(at).child("nodePort");
    invalid(service, FieldError::invalid(&path, i64::from(number), why))
}

fn next_node_port(pending: &mut Pending) -> Result<u32, Status> {
    pending.next_port().ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
}

/// Port and node port of each element.
fn numbers(service: &Value) -> Vec<(u32, u32)> {
    let number = |port: &Cursor<'_>, name| u32::try_from(port.field(name).int_or_zero()).unwrap_or_default();
    spec_of(service).field("ports").items().map(|port| (number(&port, "port"), number(&port, "nodePort"))).collect()
}

/// Ports that differ in their protocol only share a node port.
fn allocate_node_ports(pending: &mut Pending, service: &mut Value) -> Result<(), Status> {
    let allocates = allocates_node_ports(service);
    let asked = numbers(service);
    let mut wanted: BTreeMap<u32, u32> = BTreeMap::new();
    for &(port, node_port) in asked.iter().filter(|(_, node_port)| *node_port != 0) {
        wanted.entry(port).or_insert(node_port);
    }
    let mut by_port: BTreeMap<u32, u32> = BTreeMap::new();
    for (i, &(port, node_port)) in asked.iter().enumerate().filter(|(_, (_, node_port))| allocates || *node_port != 0) {
        let shared = by_port.get(&port).copied();
        let chosen = match (shared, node_port) {
            (Some(shared), 0) => shared,
            (Some(shared), own) if own == shared => own,
            (None, _) => match wanted.get(&port) {
                Some(&wanted) => {
                    pending.claim_port(wanted).map_err(|why| port_error(service, i, wanted, why))?;
                    by_port.insert(port, wanted);
                    wanted
                }
                None => {
                    let next = next_node_port(pending)?;
                    by_port.insert(port, next);
                    next
                }
            },
            (Some(_), own) => {
                pending.claim_port(own).map_err(|why| port_error(service, i, own, why))?;
                own
            }
        };
        service["spec"]["ports"][i]["nodePort"] = chosen.into();
    }
    Ok(())
}

/// New numbers are claimed, those the Service has already are its own.
fn update_node_ports(pending: &mut Pending, service: &mut Value, old: &Value) -> Result<(), Status> {
    let allocates = allocates_node_ports(service);
    let had: BTreeSet<u32> = numbers(old).into_iter().map(|(_, node_port)| node_port).collect();
    let mut claimed = BTreeSet::new();
    for (i, (_, node_port)) in numbers(service).into_iter().enumerate().filter(|(_, (_, node_port))| allocates || *node_port != 0) {
        if node_port == 0 {
            service["spec"]["ports"][i]["nodePort"] = next_node_port(pending)?.into();
        } else if !had.contains(&node_port) && claimed.insert(node_port) {
            pending.claim_port(node_port).map_err(|why| port_error(service, i, node_port, why))?;
        }
    }
    Ok(())
}

fn allocate_health_check_port(pending: &mut Pending, service: &mut Value) -> Result<(), Status> {
    let asked = spec_of(service).field("healthCheckNodePort").int_or_zero();
    if let Ok(port @ 1..) = u32::try_from(asked) {
        let refuse = |why| Status::internal(format!("failed to allocate requested HealthCheck NodePort {port}: {why}"));
        return pending.claim_port(port).map_err(refuse);
    }
    let port = pending.next_port().ok_or_else(|| Status::internal("failed to allocate a HealthCheck NodePort 0: range is full"))?;
    service["spec"]["healthCheckNodePort"] = port.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(allocations: &Allocations, dry_run: bool) -> Pending {
        Pending { allocations: allocations.clone(), dry_run, reserved: Taken::default(), released: Taken::default() }
    }

    #[test]
    fn what_is_not_kept_is_given_back() {
        let allocations = Allocations::default();
        let mut first = pending(&allocations, false);
        first.claim_address("10.96.5.5", false).unwrap();
        first.claim_port(30_085).unwrap();
        assert_eq!(pending(&allocations, false).claim_address("10.96.5.5", false).unwrap_err(), "provided IP is already allocated");
        drop(first);
        let mut second = pending(&allocations, false);
        second.claim_address("10.96.5.5", false).unwrap();
        second.claim_port(30_085).unwrap();
        second.keep();
        assert_eq!(pending(&allocations, false).claim_port(30_085).unwrap_err(), "provided port is already allocated");
    }

    #[test]
    fn a_dry_run_takes_nothing() {
        let allocations = Allocations::default();
        let mut dry = pending(&allocations, true);
        dry.claim_address("10.96.5.5", false).unwrap();
        dry.claim_port(30_085).unwrap();
        assert!(dry.next_port().is_some() && dry.next_address().is_some());
        dry.keep();
        assert!(allocations.lock().ports.is_empty());
        assert_eq!(allocations.lock().addresses.len(), 1);
    }

    #[test]
    fn ranges_are_kept() {
        let allocations = Allocations::default();
        let mut pending = pending(&allocations, false);
        assert_eq!(pending.claim_address("10.96.0.1", false).unwrap_err(), "provided IP is already allocated");
        assert!(pending.claim_address("10.96.0.1", true).is_ok());
        assert!(pending.claim_address("10.96.255.255", false).unwrap_err().ends_with("The range of valid IPs is 10.96.0.0/16"));
        assert_eq!(pending.claim_address("10.97.0.1", false).unwrap_err(), "the provided network does not match the current range");
        assert!(pending.claim_port(80).unwrap_err().ends_with("30000-32767"));
    }

    #[test]
    fn ports_that_differ_in_protocol_share_a_number() {
        let allocations = Allocations::default();
        let mut pending = pending(&allocations, false);
        let ports = json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 80, "nodePort": 30001}]);
        let mut service = json!({"spec": {"type": "NodePort", "ports": ports}});
        allocate_node_ports(&mut pending, &mut service).unwrap();
        let chosen = numbers(&service);
        assert_eq!(chosen[0], chosen[1]);
        assert_eq!(chosen[2], (80, 30_001));
    }
}
