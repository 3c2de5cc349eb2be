//! Cluster addresses and node ports of Services.
//!
//! Addresses come from the ranges that ServiceCIDRs name ([`ranges`]), and each has an IPAddress
//! that is written in the Service's own transaction ([`objects`]). What is taken is kept in memory
//! ([`taken`]): loaded from the stored objects at the start, reserved before a write and given back
//! if the write fails.

mod objects;
mod ranges;
mod taken;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use kinds::address_range::ipv4_text;
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

pub use ranges::KnownRanges;
use taken::Held;
pub use taken::{Allocations, Pending};

/// That of the Service `kubernetes`, through which pods reach this server.
const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// What the stored Services and IPAddresses have.
pub fn load(caches: &Caches) -> Allocations {
    let allocations = Allocations::default();
    let services = table::by_resource("", "v1", "services").expect("the table has services");
    for service in caches.of(services).snapshot("", 0).objects {
        allocations.add(held_by(&service.value()));
    }
    for ip_address in caches.of(objects::ip_addresses()).snapshot("", 0).objects {
        let addresses = objects::address_of(&ip_address.value()).into_iter().collect();
        allocations.add(Held { addresses, ports: BTreeSet::new() });
    }
    allocations
}

fn is_service(write: &WriteRequest<'_>) -> bool {
    write.kind.group.is_empty() && write.kind.kind == "Service"
}

fn is_ip_address(write: &WriteRequest<'_>) -> bool {
    std::ptr::eq(write.kind, objects::ip_addresses())
}

/// For a write that takes and gives back nothing.
pub fn unchanged(registry: &Registry) -> Pending {
    Pending::new(&registry.allocations, false)
}

fn pending(registry: &Registry, write: &WriteRequest<'_>) -> Pending {
    Pending::new(&registry.allocations, write.options.dry_run)
}

/// Gives a new Service what it asks for or needs.
pub fn on_create(registry: &Registry, write: &WriteRequest<'_>, object: &mut Value) -> Result<Pending, Status> {
    let mut pending = pending(registry, write);
    if is_ip_address(write) {
        return reserve(pending, write, object);
    }
    if !is_service(write) {
        return Ok(pending);
    }
    allocate_cluster_ip(registry, &mut pending, write, object)?;
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
    if is_finished(object) {
        // The last finalizer goes, and the object with it.
        return on_delete(registry, write, old);
    }
    let mut pending = pending(registry, write);
    if !is_service(write) || write.part != Some(Part::Main) {
        return Ok(pending);
    }
    if type_of(old) == "ExternalName" && type_of(object) != "ExternalName" {
        allocate_cluster_ip(registry, &mut pending, write, object)?;
    }
    if needs_node_ports(type_of(object)) {
        update_node_ports(&mut pending, object, old)?;
    }
    if needs_health_check(&spec_of(object)) && !needs_health_check(&spec_of(old)) {
        allocate_health_check_port(&mut pending, object)?;
    }
    let (now, before) = (held_by(object), held_by(old));
    give_up(registry, &mut pending, write, old, before.addresses.difference(&now.addresses))?;
    pending.lose_ports(before.ports.difference(&now.ports).copied());
    Ok(pending)
}

/// Takes back what a deleted Service had, once it is gone.
pub fn on_delete(registry: &Registry, write: &WriteRequest<'_>, old: &Value) -> Result<Pending, Status> {
    let mut pending = pending(registry, write);
    if is_ip_address(write) {
        objects::address_of(old).into_iter().for_each(|address| pending.lose(address));
    }
    if is_service(write) {
        let held = held_by(old);
        give_up(registry, &mut pending, write, old, &held.addresses)?;
        pending.lose_ports(held.ports);
    }
    Ok(pending)
}

/// An IPAddress that a client makes keeps its address from Services. While a Service with the
/// address is being written, its IPAddress counts as there.
fn reserve(mut pending: Pending, write: &WriteRequest<'_>, ip_address: &Value) -> Result<Pending, Status> {
    if let Some(address) = objects::address_of(ip_address) {
        if !pending.reserve(address) {
            return Err(Status::already_exists(write.kind.resource(), &ipv4_text(address)));
        }
        pending.gain(address);
    }
    Ok(pending)
}

fn give_up<'a>(
    registry: &Registry,
    pending: &mut Pending,
    write: &WriteRequest<'_>,
    service: &Value,
    addresses: impl IntoIterator<Item = &'a u32>,
) -> Result<(), Status> {
    addresses.into_iter().try_for_each(|address| objects::delete(registry, pending, write, service, *address))
}

fn spec_of(service: &Value) -> Cursor<'_> {
    Cursor::root(service).field("spec")
}

fn type_of(service: &Value) -> &str {
    spec_of(service).field("type").str()
}

/// The addresses and ports of a Service.
fn held_by(service: &Value) -> Held {
    let spec = spec_of(service);
    let addresses = spec.field("clusterIPs").strs().filter_map(names::parse_ip).filter_map(|ip| match ip {
        std::net::IpAddr::V4(ip) => Some(u32::from(ip)),
        std::net::IpAddr::V6(_) => None,
    });
    let node_ports = spec.field("ports").items().map(|port| port.field("nodePort").int_or_zero());
    let ports = node_ports.chain([spec.field("healthCheckNodePort").int_or_zero()]);
    Held { addresses: addresses.collect(), ports: ports.filter_map(|port| u32::try_from(port).ok()).filter(|port| *port != 0).collect() }
}

fn invalid(service: &Value, error: FieldError) -> Status {
    Status::invalid("", "Service", service["metadata"]["name"].as_str().unwrap_or_default(), &[error])
}

fn allocate_cluster_ip(registry: &Registry, pending: &mut Pending, write: &WriteRequest<'_>, service: &mut Value) -> Result<(), Status> {
    let spec = spec_of(service);
    if spec.field("type").str() == "ExternalName" || is_headless(&spec) {
        return Ok(());
    }
    let address = claim_cluster_ip(registry, pending, service)?;
    if pending.dry_run { Ok(()) } else { objects::create(registry, pending, write, service, address) }
}

/// The address that the Service asks for, or one of those that are free.
fn claim_cluster_ip(registry: &Registry, pending: &mut Pending, service: &mut Value) -> Result<u32, Status> {
    let ranges = registry.service_ranges()?;
    let spec = spec_of(service);
    if let Some(asked) = spec.field("clusterIPs").strs().next() {
        let metadata = &service["metadata"];
        let is_own = metadata["name"] == "kubernetes" && metadata["namespace"] == "default";
        return pending.claim_address(&ranges, asked, is_own).map_err(|why| {
            let path = spec.field("clusterIPs").path().clone();
            let shown = json!(spec.field("clusterIPs").list());
            invalid(service, FieldError::invalid(&path, shown, format!("failed to allocate IP {asked}: {why}")))
        });
    }
    let address = pending.next_address(&ranges).ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
    service["spec"]["clusterIPs"] = json!([ipv4_text(address)]);
    service["spec"]["clusterIP"] = ipv4_text(address).into();
    Ok(address)
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

    #[test]
    fn ports_that_differ_in_protocol_share_a_number() {
        let mut pending = Pending::new(&Allocations::default(), false);
        let ports = json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 80, "nodePort": 30001}]);
        let mut service = json!({"spec": {"type": "NodePort", "ports": ports}});
        allocate_node_ports(&mut pending, &mut service).unwrap();
        let chosen = numbers(&service);
        assert_eq!(chosen[0], chosen[1]);
        assert_eq!(chosen[2], (80, 30_001));
    }
}
