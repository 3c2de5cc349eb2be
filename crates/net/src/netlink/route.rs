//! Addresses and routes.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::attribute::{Attributes, attributes};
use super::socket::{CREATE, EXCLUSIVE, Family, Message, REPLACE, Reply, Socket};
use super::{Result, gone_is_fine};

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTNH_F_ONLINK: u32 = 4;
const ADDRESS_HEADER_BYTES: usize = 8;
const ROUTE_HEADER_BYTES: usize = 12;
const INET: u8 = libc::AF_INET as u8;

/// A socket for links, addresses, routes and neighbours of one namespace.
#[derive(Debug)]
pub struct RouteSocket(pub(super) Socket);

/// Messages that each stand for themselves go out this many at a time, so that a batch and the
/// kernel's complaints about it fit the socket's buffers.
const BATCH_MESSAGES_MAX: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub link: u32,
    pub address: Ipv4Net,
    /// Reaches only the link: never chosen as the source of a packet that goes further.
    pub link_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteScope {
    Universe,
    Link,
}

/// Who made a route: a number that the kernel keeps and does not use itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteProtocol(pub u8);

impl RouteProtocol {
    /// An administrator, or whoever says nothing else.
    pub const STATIC: Self = Self(libc::RTPROT_STATIC);
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub destination: Ipv4Net,
    /// Senders hear that there is no way; no other route is tried.
    pub is_unreachable: bool,
    pub gateway: Option<Ipv4Addr>,
    pub link: u32,
    /// The address that this host uses towards the destination.
    pub source: Option<Ipv4Addr>,
    pub scope: RouteScope,
    /// The gateway is on the link although no address of the link covers it.
    pub onlink: bool,
    pub protocol: RouteProtocol,
}

impl Route {
    pub fn to_link(destination: Ipv4Net, link: u32) -> Self {
        Self {
            destination,
            is_unreachable: false,
            gateway: None,
            link,
            source: None,
            scope: RouteScope::Link,
            onlink: false,
            protocol: RouteProtocol::STATIC,
        }
    }

    pub fn via(destination: Ipv4Net, gateway: Ipv4Addr, link: u32) -> Self {
        Self {
            destination,
            is_unreachable: false,
            gateway: Some(gateway),
            link,
            source: None,
            scope: RouteScope::Universe,
            onlink: false,
            protocol: RouteProtocol::STATIC,
        }
    }

    pub fn unreachable(destination: Ipv4Net) -> Self {
        Self { is_unreachable: true, scope: RouteScope::Universe, ..Self::to_link(destination, 0) }
    }

    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }
}

impl RouteSocket {
    pub fn open() -> io::Result<Self> {
        Socket::open(Family::Route).map(Self)
    }

    pub fn open_in(namespace: &File) -> io::Result<Self> {
        Socket::open_in(namespace, Family::Route).map(Self)
    }

    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let request = Message { kind: libc::RTM_GETADDR, flags: 0, payload: vec![INET, 0, 0, 0, 0, 0, 0, 0] };
        Ok(self.0.dump("list addresses", &request)?.iter().filter_map(parse_address).collect())
    }

    /// Also when it is there.
    pub fn add_address(&mut self, address: &Address) -> Result<()> {
        self.change_address(libc::RTM_NEWADDR, CREATE | REPLACE, "add", address)
    }

    /// Also when it is gone.
    pub fn delete_address(&mut self, address: &Address) -> Result<()> {
        gone_is_fine(self.change_address(libc::RTM_DELADDR, 0, "remove", address))
    }

    fn change_address(&mut self, kind: u16, flags: u16, verb: &str, address: &Address) -> Result<()> {
        let octets = address.address.addr().octets();
        let scope = if address.link_only { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
        let mut header = vec![INET, address.address.prefix_len(), 0, scope];
        header.extend(address.link.to_ne_bytes());
        let payload = Attributes::after_header(&header).bytes(IFA_LOCAL, &octets).bytes(IFA_ADDRESS, &octets);
        let request = Message { kind, flags, payload: payload.as_bytes().to_vec() };
        self.0.execute(&format!("{verb} address {}", address.address), vec![request]).map(drop)
    }

    /// IPv4 routes of the main table.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let mut payload = vec![0; ROUTE_HEADER_BYTES];
        payload[0] = INET;
        let request = Message { kind: libc::RTM_GETROUTE, flags: 0, payload };
        Ok(self.0.dump("list routes", &request)?.iter().filter_map(parse_route).collect())
    }

    /// Which link a packet to that address would leave by; None when there is no route.
    pub fn link_towards(&mut self, address: Ipv4Addr) -> Result<Option<u32>> {
        let mut header = vec![0; ROUTE_HEADER_BYTES];
        header[..2].copy_from_slice(&[INET, 32]);
        let payload = Attributes::after_header(&header).bytes(RTA_DST, &address.octets());
        let request = Message { kind: libc::RTM_GETROUTE, flags: 0, payload: payload.as_bytes().to_vec() };
        match self.0.execute(&format!("look up route to {address}"), vec![request]) {
            Ok(replies) => Ok(replies.iter().find_map(outgoing_link)),
            Err(error) if error.is(libc::ENETUNREACH) || error.is(libc::EHOSTUNREACH) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends messages that do not depend on each other. Answers which of them the kernel refused,
    /// by place, and why.
    pub fn send_each(&mut self, operation: &str, messages: Vec<Message>) -> Result<Vec<(usize, io::Error)>> {
        let mut refused = Vec::new();
        for (part, messages) in messages.chunks(BATCH_MESSAGES_MAX).enumerate() {
            let errors = self.0.execute_each(operation, messages.to_vec())?;
            refused.extend(errors.into_iter().map(|(place, error)| (part * BATCH_MESSAGES_MAX + place, error)));
        }
        Ok(refused)
    }

    /// Replaces another route to the same destination.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        self.0.execute(&format!("set route to {}", route.destination), vec![route.addition(Existing::Replaced)]).map(drop)
    }

    /// Also when it is gone.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        gone_is_fine(self.0.execute(&format!("delete route to {}", route.destination), vec![route.deletion()]).map(drop))
    }
}

/// What becomes of a route to the same destination that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    Replaced,
    /// The kernel refuses the new one.
    Kept,
}

impl Route {
    pub fn addition(&self, existing: Existing) -> Message {
        let flags = match existing {
            Existing::Replaced => CREATE | REPLACE,
            Existing::Kept => CREATE | EXCLUSIVE,
        };
        Message { kind: libc::RTM_NEWROUTE, flags, payload: route_payload(self) }
    }

    /// Removes this route only: the kernel compares gateway, link and protocol.
    pub fn deletion(&self) -> Message {
        Message { kind: libc::RTM_DELROUTE, flags: 0, payload: route_payload(self) }
    }
}

fn route_payload(route: &Route) -> Vec<u8> {
    let scope = match route.scope {
        RouteScope::Universe => libc::RT_SCOPE_UNIVERSE,
        RouteScope::Link => libc::RT_SCOPE_LINK,
    };
    let kind = if route.is_unreachable { libc::RTN_UNREACHABLE } else { libc::RTN_UNICAST };
    let flags = if route.onlink { RTNH_F_ONLINK } else { 0 };
    let mut header = vec![INET, route.destination.prefix_len(), 0, 0, libc::RT_TABLE_MAIN, route.protocol.0, scope, kind];
    header.extend(flags.to_ne_bytes());
    let octets = |kind: u16, address: Option<Ipv4Addr>| address.map(|ip| move |list: Attributes| list.bytes(kind, &ip.octets()));
    let payload = Attributes::after_header(&header)
        .optional(octets(RTA_DST, (!route.is_default()).then_some(route.destination.network())))
        .optional(octets(RTA_GATEWAY, route.gateway))
        .optional(octets(RTA_PREFSRC, route.source))
        .optional((!route.is_unreachable).then_some(|list: Attributes| list.native_u32(RTA_OIF, route.link)));
    payload.as_bytes().to_vec()
}

fn parse_address(reply: &Reply) -> Option<Address> {
    let header = reply.payload.get(..ADDRESS_HEADER_BYTES).filter(|_| reply.kind == libc::RTM_NEWADDR)?;
    let ip = attributes(&reply.payload[ADDRESS_HEADER_BYTES..]).find(|attribute| attribute.kind == IFA_LOCAL)?.ipv4()?;
    Some(Address {
        link: u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
        address: Ipv4Net::new(ip, header[1]).ok()?,
        link_only: header[3] != libc::RT_SCOPE_UNIVERSE,
    })
}

fn parse_route(reply: &Reply) -> Option<Route> {
    let header = reply.payload.get(..ROUTE_HEADER_BYTES).filter(|_| reply.kind == libc::RTM_NEWROUTE)?;
    if header[0] != INET || header[4] != libc::RT_TABLE_MAIN {
        return None;
    }
    let find = |kind: u16| attributes(&reply.payload[ROUTE_HEADER_BYTES..]).find(|attribute| attribute.kind == kind);
    let destination = find(RTA_DST).and_then(|attribute| attribute.ipv4()).unwrap_or(Ipv4Addr::UNSPECIFIED);
    Some(Route {
        destination: Ipv4Net::new(destination, header[1]).ok()?,
        is_unreachable: header[7] == libc::RTN_UNREACHABLE,
        gateway: find(RTA_GATEWAY).and_then(|attribute| attribute.ipv4()),
        // Routes that refuse (blackhole) or spread over several links name none here.
        link: outgoing_link(reply).unwrap_or(0),
        source: find(RTA_PREFSRC).and_then(|attribute| attribute.ipv4()),
        scope: if header[6] == libc::RT_SCOPE_UNIVERSE { RouteScope::Universe } else { RouteScope::Link },
        onlink: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]) & RTNH_F_ONLINK != 0,
        protocol: RouteProtocol(header[5]),
    })
}

fn outgoing_link(reply: &Reply) -> Option<u32> {
    attributes(reply.payload.get(ROUTE_HEADER_BYTES..)?).find(|attribute| attribute.kind == RTA_OIF)?.native_u32()
}
