//! The IPAddresses that come and go with a Service: one for each of its addresses, written in the
//! Service's own transaction.

use std::net::{IpAddr, Ipv4Addr};

use kinds::address_range::{family, ipv4_text};
use kinds::cursor::Cursor;
use kinds::names;
use kinds::patch::managed_fields;
use kinds::patch::managers::{ManagerEntry, Operation};
use kinds::status::Status;
use kinds::table::{self, Kind};
use serde_json::{Value, json};
use store::{Expect, Write};

use super::taken::Pending;
use crate::registry::Registry;
use crate::registry::encoding::{normalized, parse_stored, to_store, to_store_again};
use crate::registry::metadata::metadata_text;
use crate::registry::object::store_key;
use crate::request::WriteRequest;
use crate::request::options::DeleteOptions;

const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGER_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGER: &str = "ipallocator.k8s.io";

pub(super) fn ip_addresses() -> &'static Kind {
    table::by_resource("networking.k8s.io", "v1", "ipaddresses").expect("the table has IPAddresses")
}

/// The address that an IPAddress stands for; None for IPv6, from which no Service gets an address.
pub(super) fn address_of(ip_address: &Value) -> Option<u32> {
    match names::parse_ip(metadata_text(ip_address, "name"))? {
        IpAddr::V4(ip) => Some(ip.into()),
        IpAddr::V6(_) => None,
    }
}

/// Creates the IPAddress of a Service with it. One that is there already stays as it is: that is
/// so for the address of the Service `kubernetes` alone, which is given without looking.
pub(super) fn create(
    registry: &Registry,
    pending: &mut Pending,
    write: &WriteRequest<'_>,
    service: &Value,
    address: u32,
) -> Result<(), Status> {
    pending.gain(address);
    let (kind, name) = (ip_addresses(), ipv4_text(address));
    let key = store_key(kind, "", &name);
    if let Some(entry) = registry.entry(kind, "", &name)? {
        pending.also(key, Expect::Modified(entry.modified), None);
        return Ok(());
    }
    let value = to_store(kind, &new_object(write, service, address)?)?;
    pending.gain(address);
    pending.also(key.clone(), Expect::Absent, Some(Write::Put { key, value }));
    Ok(())
}

fn new_object(write: &WriteRequest<'_>, service: &Value, address: u32) -> Result<Value, Status> {
    let kind = ip_addresses();
    let now = kinds::decode::format_time(write.now);
    let text = |field: &str| metadata_text(service, field);
    let family = family(IpAddr::V4(Ipv4Addr::from(address)));
    let mut object = json!({
        "metadata": {
            "name": ipv4_text(address),
            "labels": {FAMILY_LABEL: family, MANAGER_LABEL: MANAGER},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": text("namespace"), "name": text("name")}},
    });
    let manager = ManagerEntry {
        manager: "kube-apiserver".to_owned(),
        operation: Operation::Update,
        api_version: kind.api_version(),
        subresource: String::new(),
        time: now.clone(),
    };
    managed_fields::record_update(kind, None, &mut object, &manager);
    object["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    object["metadata"]["creationTimestamp"] = now.into();
    normalized(kind, object)
}

/// Deletes the IPAddress of a Service with it, or marks it where finalizers hold it. One of another
/// parent stays.
pub(super) fn delete(
    registry: &Registry,
    pending: &mut Pending,
    write: &WriteRequest<'_>,
    service: &Value,
    address: u32,
) -> Result<(), Status> {
    pending.lose(address);
    let (kind, name) = (ip_addresses(), ipv4_text(address));
    let Some(entry) = registry.entry(kind, "", &name)? else { return Ok(()) };
    let mut object = parse_stored(&entry.value);
    if !is_parent(service, &object) {
        return Ok(());
    }
    let key = store_key(kind, "", &name);
    let is_gone = crate::registry::delete::mark(kind, &DeleteOptions::default(), &mut object, write.now);
    let change = match is_gone {
        true => Write::Delete { key: key.clone(), last: Some(to_store_again(kind, &entry)?) },
        false => Write::Put { key: key.clone(), value: to_store(kind, &object)? },
    };
    if is_gone {
        pending.lose(address);
    }
    pending.also(key, Expect::Modified(entry.modified), Some(change));
    Ok(())
}

fn is_parent(service: &Value, ip_address: &Value) -> bool {
    let parent = Cursor::root(ip_address).field("spec").field("parentRef");
    let wanted = [
        ("group", ""),
        ("resource", "services"),
        ("namespace", metadata_text(service, "namespace")),
        ("name", metadata_text(service, "name")),
    ];
    wanted.iter().all(|(field, text)| parent.field(field).str() == *text)
}
