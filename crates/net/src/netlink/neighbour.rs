//! Neighbours on a link, given to the kernel so that it does not have to ask: their hardware
//! addresses, and the machines behind those.

use std::net::Ipv4Addr;

use super::Result;
use super::attribute::{Attributes, attributes};
use super::route::RouteSocket;
use super::socket::{CREATE, Message, REPLACE, Reply};

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_IFINDEX: u16 = 8;
/// Of the device's own list, not of a bridge that it belongs to.
const NTF_SELF: u8 = 2;
const NUD_PERMANENT: u16 = 0x80;
const HEADER_BYTES: usize = 12;
/// struct ifinfomsg, with which the list of [`Table::Forwarding`] is asked for.
const LINK_HEADER_BYTES: usize = 16;
const INET: u8 = libc::AF_INET as u8;
const BRIDGE: u8 = libc::AF_BRIDGE as u8;

/// Which list an entry is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Which hardware address a neighbour's address has.
    Addresses,
    /// Of a VXLAN device: which machine has a hardware address.
    Forwarding,
}

/// An entry that stays until it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    pub table: Table,
    pub link: u32,
    /// The neighbour's, or the machine's.
    pub address: Ipv4Addr,
    pub hardware_address: [u8; 6],
}

impl Neighbour {
    /// Replaces what the list has for the same address ([`Table::Addresses`]) or hardware address
    /// ([`Table::Forwarding`]).
    pub fn addition(&self) -> Message {
        Message { kind: libc::RTM_NEWNEIGH, flags: CREATE | REPLACE, payload: self.payload() }
    }

    pub fn deletion(&self) -> Message {
        Message { kind: libc::RTM_DELNEIGH, flags: 0, payload: self.payload() }
    }

    fn payload(&self) -> Vec<u8> {
        let (family, flags) = match self.table {
            Table::Addresses => (INET, 0),
            Table::Forwarding => (BRIDGE, NTF_SELF),
        };
        let header = header(family, self.link, NUD_PERMANENT, flags);
        Attributes::after_header(&header)
            .bytes(NDA_DST, &self.address.octets())
            .bytes(NDA_LLADDR, &self.hardware_address)
            .as_bytes()
            .to_vec()
    }
}

impl RouteSocket {
    /// The permanent entries of one link. Those over IPv6 are left out.
    pub fn neighbours(&mut self, table: Table, link: u32) -> Result<Vec<Neighbour>> {
        let payload = match table {
            Table::Addresses => Attributes::after_header(&header(INET, 0, 0, 0)).native_u32(NDA_IFINDEX, link).as_bytes().to_vec(),
            Table::Forwarding => [&[BRIDGE, 0, 0, 0], &link.to_ne_bytes()[..], &[0; LINK_HEADER_BYTES - 8]].concat(),
        };
        let request = Message { kind: libc::RTM_GETNEIGH, flags: 0, payload };
        let listed = self.0.dump("list neighbours", &request)?;
        Ok(listed.iter().filter_map(|reply| parse(table, reply)).filter(|neighbour| neighbour.link == link).collect())
    }
}

/// struct ndmsg.
fn header(family: u8, link: u32, state: u16, flags: u8) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0] = family;
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

fn parse(table: Table, reply: &Reply) -> Option<Neighbour> {
    let header = reply.payload.get(..HEADER_BYTES).filter(|_| reply.kind == libc::RTM_NEWNEIGH)?;
    if u16::from_ne_bytes([header[8], header[9]]) & NUD_PERMANENT == 0 {
        return None;
    }
    let find = |kind: u16| attributes(&reply.payload[HEADER_BYTES..]).find(|attribute| attribute.kind == kind);
    Some(Neighbour {
        table,
        link: u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
        address: find(NDA_DST)?.ipv4()?,
        hardware_address: find(NDA_LLADDR)?.value.try_into().ok()?,
    })
}
