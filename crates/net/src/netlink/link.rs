//! Network interfaces: veth pairs, bridges, their state.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use super::attribute::{Attribute, Attributes, attributes};
use super::route::RouteSocket;
use super::socket::{CREATE, EXCLUSIVE, Message, Reply};
use super::{NetlinkError, Result, gone_is_fine};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_INET_CONF: u16 = 1;
const CONF_PROXY_ARP: u16 = 3;
const CONF_ACCEPT_REDIRECTS: u16 = 4;
const CONF_SEND_REDIRECTS: u16 = 6;
const CONF_RP_FILTER: u16 = 8;
/// Takes a packet whose source is reached by any interface; also where `all` says strict, since the
/// kernel applies the larger number.
const RP_FILTER_LOOSE: u32 = 2;
const CONF_ROUTE_LOCALNET: u16 = 26;
const HEADER_BYTES: usize = 16;
const UP: u32 = libc::IFF_UP as u32;

/// An interface as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `veth`, `bridge`, `vxlan`; empty for real hardware and the loopback.
    pub kind: String,
    pub mtu: u32,
    pub up: bool,
    /// Of a veth: the index of its other end, in the other end's namespace.
    pub peer: Option<u32>,
    pub controller: Option<u32>,
    /// None for those that need none.
    pub hardware_address: Option<[u8; 6]>,
    pub vxlan: Option<Vxlan>,
}

/// What makes a VXLAN device the one that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vxlan {
    pub id: u32,
    /// The source of its packets.
    pub local: Ipv4Addr,
    /// Of UDP, where packets go to and come from.
    pub port: u16,
    /// It takes from packets which machine has which hardware address.
    pub learns: bool,
}

/// A veth pair to make.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    /// In the socket's namespace.
    pub outside: &'a str,
    /// In the other namespace.
    pub inside: &'a str,
    pub mtu: u32,
    pub controller: Option<u32>,
    /// Of the inner end; None lets the kernel choose.
    pub hardware_address: Option<[u8; 6]>,
}

/// Both ends of a veth pair, by index in their namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    pub outside: u32,
    pub inside: u32,
}

/// What may be set for one interface without touching the files below /proc/sys.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeviceSettings {
    pub controller: Option<u32>,
    /// Packets from and to 127/8 may cross this interface.
    pub route_localnet: Option<bool>,
    pub send_redirects: Option<bool>,
    /// This host does not trust what is at the other end: packets with a source that is not reached
    /// by this interface are dropped (ARP requests, too), redirects are ignored, and this host
    /// answers for no address on its behalf.
    pub is_untrusted: bool,
    /// Packets are taken although their source is reached by another interface.
    pub has_loose_sources: bool,
    pub mtu: Option<u32>,
}

impl RouteSocket {
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let request = Message { kind: libc::RTM_GETLINK, flags: 0, payload: header(0, 0) };
        Ok(self.0.dump("list links", &request)?.iter().filter_map(parse).collect())
    }

    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let payload = Attributes::after_header(&header(0, 0)).text(IFLA_IFNAME, name);
        self.one_link(&format!("get link {name}"), payload)
    }

    pub fn link_at(&mut self, index: u32) -> Result<Option<Link>> {
        self.one_link(&format!("get link {index}"), Attributes::after_header(&header(index, 0)))
    }

    fn one_link(&mut self, operation: &str, payload: Attributes) -> Result<Option<Link>> {
        let request = Message { kind: libc::RTM_GETLINK, flags: 0, payload: payload.as_bytes().to_vec() };
        match self.0.execute(operation, vec![request]) {
            Ok(replies) => Ok(replies.iter().find_map(parse)),
            Err(error) if error.is(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the pair, or finds the one that is there. A link of that name whose other end is not
    /// the other namespace's `inside` is what a crash or an earlier namespace left, and is
    /// replaced.
    pub fn ensure_veth(&mut self, namespace: &File, inside: &mut RouteSocket, veth: &Veth) -> Result<Pair> {
        if let Some(outside) = self.link(veth.outside)? {
            if let Some(pair) = matching(&outside, inside.link(veth.inside)?) {
                return Ok(pair);
            }
            self.delete_link(veth.outside)?;
        }
        self.add_veth(namespace, veth)?;
        match (self.link(veth.outside)?, inside.link(veth.inside)?) {
            (Some(outside), Some(inside)) => Ok(Pair { outside: outside.index, inside: inside.index }),
            _ => Err(NetlinkError::new(format!("make link {}", veth.outside), std::io::Error::from_raw_os_error(libc::ENODEV))),
        }
    }

    /// The other end is born inside its namespace and under its name: it is never seen anywhere
    /// else.
    fn add_veth(&mut self, namespace: &File, veth: &Veth) -> Result<()> {
        let descriptor = u32::try_from(namespace.as_raw_fd()).expect("descriptors are not negative");
        let peer = Attributes::after_header(&header(0, 0))
            .text(IFLA_IFNAME, veth.inside)
            .native_u32(IFLA_MTU, veth.mtu)
            .optional(veth.hardware_address.map(|address| move |list: Attributes| list.bytes(IFLA_ADDRESS, &address)))
            .native_u32(IFLA_NET_NS_FD, descriptor);
        let info = Attributes::new().bytes(IFLA_INFO_KIND, b"veth").nested(IFLA_INFO_DATA, Attributes::new().nested(VETH_INFO_PEER, peer));
        let payload = Attributes::after_header(&header(0, 0))
            .text(IFLA_IFNAME, veth.outside)
            .native_u32(IFLA_MTU, veth.mtu)
            .optional(veth.controller.map(|index| move |list: Attributes| list.native_u32(IFLA_MASTER, index)))
            .nested(IFLA_LINKINFO, info);
        self.new_link(&format!("make link {}", veth.outside), payload)
    }

    /// Makes the bridge unless it is there; answers its index. Without an address of its own it
    /// would take over that of one of its ports, and change it when ports come and go.
    pub fn ensure_bridge(&mut self, name: &str, hardware_address: [u8; 6]) -> Result<u32> {
        let info = Attributes::new().bytes(IFLA_INFO_KIND, b"bridge");
        let payload = Attributes::after_header(&header(0, 0))
            .text(IFLA_IFNAME, name)
            .bytes(IFLA_ADDRESS, &hardware_address)
            .nested(IFLA_LINKINFO, info);
        let operation = format!("make bridge {name}");
        match self.new_link(&operation, payload) {
            Err(error) if !error.is(libc::EEXIST) => return Err(error),
            _ => {}
        }
        match self.link(name)? {
            Some(link) if link.kind == "bridge" => Ok(link.index),
            _ => Err(NetlinkError::new(operation, std::io::Error::from_raw_os_error(libc::EEXIST))),
        }
    }

    /// Fails when the name is taken.
    pub fn add_vxlan(&mut self, name: &str, hardware_address: [u8; 6], mtu: u32, vxlan: &Vxlan) -> Result<()> {
        let data = Attributes::new()
            .native_u32(IFLA_VXLAN_ID, vxlan.id)
            .bytes(IFLA_VXLAN_LOCAL, &vxlan.local.octets())
            .bytes(IFLA_VXLAN_LEARNING, &[u8::from(vxlan.learns)])
            .bytes(IFLA_VXLAN_PORT, &vxlan.port.to_be_bytes());
        let info = Attributes::new().bytes(IFLA_INFO_KIND, b"vxlan").nested(IFLA_INFO_DATA, data);
        let payload = Attributes::after_header(&header(0, 0))
            .text(IFLA_IFNAME, name)
            .bytes(IFLA_ADDRESS, &hardware_address)
            .native_u32(IFLA_MTU, mtu)
            .nested(IFLA_LINKINFO, info);
        self.new_link(&format!("make link {name}"), payload)
    }

    /// Fails when the name is taken, and with EOPNOTSUPP when the kernel has no WireGuard.
    pub fn add_wireguard(&mut self, name: &str, mtu: u32) -> Result<()> {
        let info = Attributes::new().bytes(IFLA_INFO_KIND, b"wireguard");
        let payload = Attributes::after_header(&header(0, 0)).text(IFLA_IFNAME, name).native_u32(IFLA_MTU, mtu).nested(IFLA_LINKINFO, info);
        self.new_link(&format!("make link {name}"), payload)
    }

    fn new_link(&mut self, operation: &str, payload: Attributes) -> Result<()> {
        let request = Message { kind: libc::RTM_NEWLINK, flags: CREATE | EXCLUSIVE, payload: payload.as_bytes().to_vec() };
        self.0.execute(operation, vec![request]).map(drop)
    }

    /// Applies settings and brings the interface up.
    pub fn set_up(&mut self, index: u32, settings: &DeviceSettings) -> Result<()> {
        let flag = |kind: u16, value: Option<bool>| value.map(|value| move |list: Attributes| list.native_u32(kind, u32::from(value)));
        let untrusted = |value: bool| settings.is_untrusted.then_some(value);
        let conf = Attributes::new()
            .optional(flag(CONF_PROXY_ARP, untrusted(false)))
            .optional(flag(CONF_ACCEPT_REDIRECTS, untrusted(false)))
            .optional(flag(CONF_RP_FILTER, untrusted(true)))
            .optional(settings.has_loose_sources.then_some(|list: Attributes| list.native_u32(CONF_RP_FILTER, RP_FILTER_LOOSE)))
            .optional(flag(CONF_ROUTE_LOCALNET, settings.route_localnet))
            .optional(flag(CONF_SEND_REDIRECTS, settings.send_redirects));
        let mut payload = Attributes::after_header(&header(index, UP))
            .optional(settings.mtu.map(|mtu| move |list: Attributes| list.native_u32(IFLA_MTU, mtu)))
            .optional(settings.controller.map(|index| move |list: Attributes| list.native_u32(IFLA_MASTER, index)));
        if conf != Attributes::new() {
            let inet = Attributes::new().nested(IFLA_INET_CONF, conf);
            payload = payload.nested(IFLA_AF_SPEC, Attributes::new().nested(libc::AF_INET as u16, inet));
        }
        let request = Message { kind: libc::RTM_SETLINK, flags: 0, payload: payload.as_bytes().to_vec() };
        self.0.execute(&format!("set link {index} up"), vec![request]).map(drop)
    }

    /// Also when it is gone. The other end of a pair, addresses and routes go with it.
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        let payload = Attributes::after_header(&header(0, 0)).text(IFLA_IFNAME, name);
        let request = Message { kind: libc::RTM_DELLINK, flags: 0, payload: payload.as_bytes().to_vec() };
        gone_is_fine(self.0.execute(&format!("delete link {name}"), vec![request]).map(drop))
    }
}

/// Both ends name each other by index.
fn matching(outside: &Link, inside: Option<Link>) -> Option<Pair> {
    let inside = inside?;
    let same = inside.peer == Some(outside.index) && outside.peer == Some(inside.index);
    same.then_some(Pair { outside: outside.index, inside: inside.index })
}

/// struct ifinfomsg; `flags` are set, others left alone.
fn header(index: u32, flags: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), flags.to_ne_bytes()].concat()
}

fn parse(reply: &Reply) -> Option<Link> {
    let header = reply.payload.get(..HEADER_BYTES).filter(|_| reply.kind == libc::RTM_NEWLINK)?;
    let u32_at = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let mut link = Link {
        index: u32_at(4),
        name: String::new(),
        kind: String::new(),
        mtu: 0,
        up: u32_at(8) & UP != 0,
        peer: None,
        controller: None,
        hardware_address: None,
        vxlan: None,
    };
    for attribute in attributes(&reply.payload[HEADER_BYTES..]) {
        match attribute.kind {
            IFLA_IFNAME => link.name = attribute.text(),
            IFLA_MTU => link.mtu = attribute.native_u32()?,
            IFLA_LINK => link.peer = attribute.native_u32(),
            IFLA_MASTER => link.controller = attribute.native_u32(),
            IFLA_ADDRESS => link.hardware_address = attribute.value.try_into().ok(),
            IFLA_LINKINFO => {
                link.kind = attribute.find(IFLA_INFO_KIND).map(|kind| kind.text()).unwrap_or_default();
                link.vxlan = attribute.find(IFLA_INFO_DATA).filter(|_| link.kind == "vxlan").and_then(|data| parse_vxlan(&data));
            }
            _ => {}
        }
    }
    Some(link)
}

/// None for one that this project would not make: over IPv6, or without a local address.
fn parse_vxlan(data: &Attribute) -> Option<Vxlan> {
    Some(Vxlan {
        id: data.find(IFLA_VXLAN_ID)?.native_u32()?,
        local: data.find(IFLA_VXLAN_LOCAL)?.ipv4()?,
        port: data.find(IFLA_VXLAN_PORT)?.network_u16()?,
        learns: data.find(IFLA_VXLAN_LEARNING)?.value != [0],
    })
}
