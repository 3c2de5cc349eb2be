//! The IPAddresses that come and go with a Service: one for each of its addresses, written in the
//! Service's own transaction.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use kinds::address_range::{family, ip_address_of_service, ipv4_text};
use kinds::cursor::Cursor;
use kinds::names;
use kinds::patch::managed_fields;
use kinds::patch::managers::{ManagerEntry, Operation};
use kinds::status::Status;
use kinds::table::{self, Kind};
use serde_json::Value;
use store::{Expect, Template, Write};

use super::OWN_ADDRESS;
use super::taken::Pending;
use crate::registry::Registry;
use crate::registry::encoding::{normalized, parse_stored, to_store, to_store_again};
use crate::registry::metadata::metadata_text;
use crate::registry::object::store_key;
use crate::request::WriteRequest;
use crate::request::options::DeleteOptions;

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
        if address != u32::from(OWN_ADDRESS) {
            let why = format!("the address {name} was taken a moment ago, please try again");
            return Err(Status::too_many_requests(why, 1));
        }
        pending.also(key, Expect::Modified(entry.modified), None);
        return Ok(());
    }
    let value = stored(write, service, &name);
    pending.gain(address);
    pending.also(key.clone(), Expect::Absent, Some(Write::Put { key, value }));
    Ok(())
}

/// What differs between IPAddresses of Services. None of the texts has a character that JSON
/// escapes.
struct Texts<'a> {
    name: &'a str,
    uid: &'a str,
    time: &'a str,
    namespace: &'a str,
    service: &'a str,
}

impl<'a> Texts<'a> {
    fn all(&self) -> [&'a str; 5] {
        [self.name, self.uid, self.time, self.namespace, self.service]
    }
}

/// Texts that occur nowhere else in an IPAddress.
const MARKS: Texts<'_> =
    Texts { name: "203.0.113.254", uid: "the-uid", time: "2001-02-03T04:05:06Z", namespace: "the-namespace", service: "the-service" };

/// The stored bytes of an IPAddress, in pieces between what differs. Every Service makes one, and
/// as a tree it would cost half as much as the Service.
struct Form {
    /// Each with the number of the text that follows it.
    pieces: Vec<(Vec<u8>, Option<usize>)>,
    /// The piece, and the place in it, where the store puts the revision.
    revision_at: (usize, usize),
}

static FORM: LazyLock<Form> = LazyLock::new(|| Form::of(&new_object(&MARKS)));

impl Form {
    fn of(object: &Value) -> Form {
        let Template { bytes, revision_at } = to_store(ip_addresses(), object).expect("it is small");
        let revision_at = revision_at.expect("objects carry their revision");
        let (mut pieces, mut at, mut start) = (Vec::new(), 0, 0);
        let mut place = None;
        while at < bytes.len() {
            if at == revision_at {
                place = Some((pieces.len(), at - start));
            }
            match MARKS.all().iter().position(|mark| bytes[at..].starts_with(mark.as_bytes())) {
                Some(which) => {
                    pieces.push((bytes[start..at].to_vec(), Some(which)));
                    at += MARKS.all()[which].len();
                    start = at;
                }
                None => at += 1,
            }
        }
        pieces.push((bytes[start..].to_vec(), None));
        Form { pieces, revision_at: place.expect("it is in a piece") }
    }

    fn fill(&self, texts: &Texts<'_>) -> Template {
        let texts = texts.all();
        let mut bytes = Vec::with_capacity(1024);
        let mut revision_at = None;
        for (number, (piece, next)) in self.pieces.iter().enumerate() {
            if number == self.revision_at.0 {
                revision_at = Some(bytes.len() + self.revision_at.1);
            }
            bytes.extend_from_slice(piece);
            if let Some(text) = next {
                bytes.extend_from_slice(texts[*text].as_bytes());
            }
        }
        Template { bytes, revision_at }
    }
}

fn stored(write: &WriteRequest<'_>, service: &Value, name: &str) -> Template {
    FORM.fill(&Texts {
        name,
        uid: &uuid::Uuid::new_v4().to_string(),
        time: &kinds::decode::format_time(write.now),
        namespace: metadata_text(service, "namespace"),
        service: metadata_text(service, "name"),
    })
}

fn new_object(texts: &Texts<'_>) -> Value {
    let kind = ip_addresses();
    let family = family(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let mut object = ip_address_of_service(texts.name, family, texts.namespace, texts.service);
    let manager = ManagerEntry {
        manager: "kube-apiserver".to_owned(),
        operation: Operation::Update,
        api_version: kind.api_version(),
        subresource: String::new(),
        time: texts.time.to_owned(),
    };
    managed_fields::record_update(kind, None, &mut object, &manager);
    object["metadata"]["uid"] = texts.uid.into();
    object["metadata"]["creationTimestamp"] = texts.time.into();
    normalized(kind, object).expect("it fits the schema")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_gives_the_bytes_that_the_tree_gives() {
        let service = "s".repeat(63);
        let texts = [
            Texts { name: "10.96.0.1", uid: "u", time: "2026-01-02T03:04:05Z", namespace: "default", service: "kubernetes" },
            Texts { name: "10.111.255.254", uid: "0-1", time: "2026-01-02T03:04:06Z", namespace: "n", service: &service },
            // A Service may have a name that the form itself uses.
            Texts { namespace: MARKS.service, service: MARKS.namespace, ..MARKS },
        ];
        for texts in texts {
            let whole = to_store(ip_addresses(), &new_object(&texts)).unwrap();
            let filled = FORM.fill(&texts);
            assert_eq!(String::from_utf8_lossy(&filled.bytes), String::from_utf8_lossy(&whole.bytes));
            assert_eq!(filled.revision_at, whole.revision_at);
        }
    }
}
