//! Tracked connections: forgetting those of UDP ports whose target changed.
//!
//! TCP needs none of this: a connection to a removed pod is reset or times out. UDP has no end; a
//! client that goes on sending keeps its entry, and with it the old target, forever.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::attribute::{Attribute, Attributes, attributes};
use super::socket::{Message, Reply, Socket};
use super::{Result, gone_is_fine};

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const NFGEN_HEADER: [u8; 4] = [libc::AF_INET as u8, 0, 0, 0];

/// What clients send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UdpPort {
    /// None: any address.
    pub address: Option<Ipv4Addr>,
    pub port: u16,
}

/// Forgets all flows that were first sent to one of these ports; answers how many there were. Reads
/// the whole list of connections, so it is for the few pods with UDP host ports.
pub fn flush_udp(netfilter: &mut Socket, ports: &[UdpPort]) -> Result<usize> {
    if ports.is_empty() {
        return Ok(0);
    }
    flush(netfilter, |reply| concerns(reply, ports))
}

/// Forgets the flows that were first sent to one of these ports and that something else than its
/// targets answers. Reads the whole list of connections, unless there are no ports.
pub fn flush_stale_udp(netfilter: &mut Socket, targets: &BTreeMap<UdpPort, BTreeSet<(Ipv4Addr, u16)>>) -> Result<usize> {
    if targets.is_empty() {
        return Ok(0);
    }
    flush(netfilter, |reply| is_stale(reply, targets))
}

fn flush(netfilter: &mut Socket, is_stale: impl Fn(&Reply) -> bool) -> Result<usize> {
    let request = Message { kind: GET, flags: 0, payload: NFGEN_HEADER.to_vec() };
    let connections = netfilter.dump("list connections", &request)?;
    let stale: Vec<Message> = connections.iter().filter(|reply| is_stale(reply)).map(deletion).collect();
    let count = stale.len();
    for message in stale {
        gone_is_fine(netfilter.execute("forget a connection", vec![message]).map(drop))?;
    }
    Ok(count)
}

fn concerns(reply: &Reply, ports: &[UdpPort]) -> bool {
    let Some((address, port)) = find(reply, CTA_TUPLE_ORIG).and_then(|tuple| udp_destination(&tuple)) else { return false };
    ports.iter().any(|wanted| wanted.port == port && wanted.address.is_none_or(|wanted| wanted == address))
}

fn is_stale(reply: &Reply, targets: &BTreeMap<UdpPort, BTreeSet<(Ipv4Addr, u16)>>) -> bool {
    let Some((address, port)) = find(reply, CTA_TUPLE_ORIG).and_then(|tuple| udp_destination(&tuple)) else { return false };
    let Some(targets) = targets.get(&UdpPort { address: Some(address), port }) else { return false };
    let answering = find(reply, CTA_TUPLE_REPLY).and_then(|tuple| udp_source(&tuple));
    answering.is_some_and(|answering| !targets.contains(&answering))
}

fn find(reply: &Reply, kind: u16) -> Option<Attribute<'_>> {
    attributes(reply.payload.get(NFGEN_HEADER.len()..)?).find(|attribute| attribute.kind == kind)
}

fn udp_destination(tuple: &Attribute) -> Option<(Ipv4Addr, u16)> {
    udp_end(tuple, CTA_IP_V4_DST, CTA_PROTO_DST_PORT)
}

fn udp_source(tuple: &Attribute) -> Option<(Ipv4Addr, u16)> {
    udp_end(tuple, CTA_IP_V4_SRC, CTA_PROTO_SRC_PORT)
}

fn udp_end(tuple: &Attribute, address: u16, port: u16) -> Option<(Ipv4Addr, u16)> {
    let protocol = tuple.find(CTA_TUPLE_PROTO)?;
    if protocol.find(CTA_PROTO_NUM)?.value != [libc::IPPROTO_UDP as u8] {
        return None;
    }
    let address = tuple.find(CTA_TUPLE_IP)?.find(address)?.ipv4()?;
    Some((address, protocol.find(port)?.network_u16()?))
}

/// The id guards against a new connection with the same addresses.
fn deletion(reply: &Reply) -> Message {
    let mut payload = Attributes::after_header(&NFGEN_HEADER);
    for kind in [CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE] {
        if let Some(attribute) = find(reply, kind) {
            let nested = if kind == CTA_TUPLE_ORIG { 0x8000 } else { 0 };
            payload = payload.bytes(kind | nested, attribute.value);
        }
    }
    Message { kind: DELETE, flags: 0, payload: payload.as_bytes().to_vec() }
}
