//! WireGuard devices of the kernel, over generic netlink: their keys and peers.
//!
//! The private key is sent once and never read: the kernel answers the public one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use containers::WireGuardKey;
use ipnet::Ipv4Net;

use super::attribute::{Attribute, Attributes, attributes};
use super::socket::{Family, Message, Reply, Socket};
use super::{NetlinkError, Result};

/// The family that knows the numbers of the others.
const CONTROLLER: u16 = libc::GENL_ID_CTRL as u16;
const GET_FAMILY: u8 = libc::CTRL_CMD_GETFAMILY as u8;
const FAMILY_ID: u16 = libc::CTRL_ATTR_FAMILY_ID as u16;
const FAMILY_NAME: u16 = libc::CTRL_ATTR_FAMILY_NAME as u16;
const HEADER_BYTES: usize = 4;
const VERSION: u8 = 1;
const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;
const DEVICE_NAME: u16 = 2;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_PUBLIC_KEY: u16 = 4;
const DEVICE_LISTEN_PORT: u16 = 6;
const DEVICE_PEERS: u16 = 8;
const PEER_PUBLIC_KEY: u16 = 1;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_ALLOWED: u16 = 9;
const PEER_IS_REMOVED: u32 = 1;
const PEER_ALLOWED_IS_REPLACED: u32 = 2;
const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_ADDRESS: u16 = 2;
const ALLOWED_PREFIX: u16 = 3;
/// Lists have elements without a kind.
const ELEMENT: u16 = 0;
/// A list of peers is one attribute, which ends at 64 KiB; a peer takes some 120 bytes.
const PEERS_OF_A_MESSAGE_MAX: usize = 400;
const INET: u16 = libc::AF_INET as u16;
/// struct sockaddr_in.
const SOCKET_ADDRESS_BYTES: usize = 16;

/// Where packets for a range go to, encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireGuardPeer {
    pub endpoint: SocketAddrV4,
    /// Where packets from this peer may come from, and which it gets.
    pub allowed: Ipv4Net,
}

/// A device as the kernel shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireGuardDevice {
    /// None before it got a private one.
    pub public_key: Option<WireGuardKey>,
    pub listen_port: u16,
    /// None for a peer that this project would not make: without an endpoint of IPv4, or with
    /// several ranges.
    pub peers: BTreeMap<WireGuardKey, Option<WireGuardPeer>>,
}

/// A socket to the kernel's WireGuard.
#[derive(Debug)]
pub struct WireGuardSocket {
    socket: Socket,
    family: u16,
}

impl WireGuardSocket {
    /// Fails when the kernel has no WireGuard, or has not loaded it: making a device does that.
    pub fn open_in(namespace: &File) -> Result<Self> {
        let operation = "find the kernel's WireGuard";
        let mut socket = Socket::open_in(namespace, Family::Generic).map_err(|error| NetlinkError::new(operation, error))?;
        let payload = Attributes::after_header(&[GET_FAMILY, VERSION, 0, 0]).text(FAMILY_NAME, "wireguard");
        let request = Message { kind: CONTROLLER, flags: 0, payload: payload.as_bytes().to_vec() };
        let replies = socket.execute(operation, vec![request])?;
        let family = replies.iter().find_map(|reply| find(reply, FAMILY_ID)?.native_u16());
        let missing = || NetlinkError::new(operation, io::Error::from_raw_os_error(libc::ENOENT));
        Ok(Self { socket, family: family.ok_or_else(missing)? })
    }

    pub fn device(&mut self, name: &str) -> Result<WireGuardDevice> {
        let request = Message { kind: self.family, flags: 0, payload: of_device(GET_DEVICE, name).as_bytes().to_vec() };
        let replies = self.socket.dump(&format!("read WireGuard device {name}"), &request)?;
        let first = |kind: u16| replies.iter().find_map(|reply| find(reply, kind));
        Ok(WireGuardDevice {
            public_key: first(DEVICE_PUBLIC_KEY).and_then(|key| parse_key(&key)),
            listen_port: first(DEVICE_LISTEN_PORT).and_then(|port| port.native_u16()).unwrap_or(0),
            peers: parse_peers(replies.iter().filter_map(|reply| find(reply, DEVICE_PEERS))),
        })
    }

    pub fn configure(&mut self, name: &str, private_key: Option<&[u8; 32]>, listen_port: u16) -> Result<()> {
        let payload = of_device(SET_DEVICE, name)
            .optional(private_key.map(|key| move |list: Attributes| list.bytes(DEVICE_PRIVATE_KEY, key)))
            .bytes(DEVICE_LISTEN_PORT, &listen_port.to_ne_bytes());
        self.set(name, vec![payload]).map(drop)
    }

    /// Removes peers, then adds or changes others. Answers the number of messages.
    pub fn change_peers(&mut self, name: &str, removed: &[WireGuardKey], set: &BTreeMap<WireGuardKey, WireGuardPeer>) -> Result<usize> {
        let removals = removed.iter().map(removal);
        let changes: Vec<Attributes> = removals.chain(set.iter().map(|(key, peer)| addition(key, peer))).collect();
        let list = |peers: &[Attributes]| peers.iter().fold(Attributes::new(), |list, peer| list.nested(ELEMENT, peer.clone()));
        let messages = changes.chunks(PEERS_OF_A_MESSAGE_MAX).map(|peers| of_device(SET_DEVICE, name).nested(DEVICE_PEERS, list(peers)));
        self.set(name, messages.collect())
    }

    fn set(&mut self, name: &str, payloads: Vec<Attributes>) -> Result<usize> {
        let count = payloads.len();
        // One after the other: ranges move from peers that are removed to peers that are added.
        for payload in payloads {
            let message = Message { kind: self.family, flags: 0, payload: payload.as_bytes().to_vec() };
            self.socket.execute(&format!("change WireGuard device {name}"), vec![message])?;
        }
        Ok(count)
    }
}

fn of_device(command: u8, name: &str) -> Attributes {
    Attributes::after_header(&[command, VERSION, 0, 0]).text(DEVICE_NAME, name)
}

fn removal(key: &WireGuardKey) -> Attributes {
    Attributes::new().bytes(PEER_PUBLIC_KEY, &key.0).native_u32(PEER_FLAGS, PEER_IS_REMOVED)
}

fn addition(key: &WireGuardKey, peer: &WireGuardPeer) -> Attributes {
    let allowed = Attributes::new()
        .bytes(ALLOWED_FAMILY, &INET.to_ne_bytes())
        .bytes(ALLOWED_ADDRESS, &peer.allowed.network().octets())
        .bytes(ALLOWED_PREFIX, &[peer.allowed.prefix_len()]);
    Attributes::new()
        .bytes(PEER_PUBLIC_KEY, &key.0)
        .native_u32(PEER_FLAGS, PEER_ALLOWED_IS_REPLACED)
        .bytes(PEER_ENDPOINT, &socket_address(peer.endpoint))
        .nested(PEER_ALLOWED, Attributes::new().nested(ELEMENT, allowed))
}

fn socket_address(endpoint: SocketAddrV4) -> [u8; SOCKET_ADDRESS_BYTES] {
    let mut bytes = [0; SOCKET_ADDRESS_BYTES];
    bytes[..2].copy_from_slice(&INET.to_ne_bytes());
    bytes[2..4].copy_from_slice(&endpoint.port().to_be_bytes());
    bytes[4..8].copy_from_slice(&endpoint.ip().octets());
    bytes
}

fn parse_socket_address(attribute: &Attribute) -> Option<SocketAddrV4> {
    let bytes = attribute.value.get(..8).filter(|bytes| bytes[..2] == INET.to_ne_bytes())?;
    Some(SocketAddrV4::new(Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]), u16::from_be_bytes([bytes[2], bytes[3]])))
}

/// What is said of one peer.
#[derive(Default)]
struct Parts {
    endpoint: Option<SocketAddrV4>,
    /// None for a range of IPv6.
    allowed: Vec<Option<Ipv4Net>>,
}

/// A long list comes in several messages. A peer whose ranges do not fit the one is in the next one
/// again, with its key and the other ranges alone.
fn parse_peers<'a>(lists: impl Iterator<Item = Attribute<'a>>) -> BTreeMap<WireGuardKey, Option<WireGuardPeer>> {
    let mut peers: BTreeMap<WireGuardKey, Parts> = BTreeMap::new();
    for peer in lists.flat_map(|list| list.nested()) {
        let Some(key) = peer.find(PEER_PUBLIC_KEY).and_then(|key| parse_key(&key)) else { continue };
        let parts = peers.entry(key).or_default();
        parts.endpoint = peer.find(PEER_ENDPOINT).and_then(|endpoint| parse_socket_address(&endpoint)).or(parts.endpoint);
        let ranges = peer.find(PEER_ALLOWED).into_iter().flat_map(|list| list.nested());
        parts.allowed.extend(ranges.map(|range| parse_range(&range)));
    }
    peers.into_iter().map(|(key, parts)| (key, parts.whole())).collect()
}

impl Parts {
    fn whole(&self) -> Option<WireGuardPeer> {
        match (self.endpoint, self.allowed.as_slice()) {
            (Some(endpoint), [Some(allowed)]) => Some(WireGuardPeer { endpoint, allowed: *allowed }),
            _ => None,
        }
    }
}

fn parse_range(range: &Attribute) -> Option<Ipv4Net> {
    let prefix = *range.find(ALLOWED_PREFIX)?.value.first()?;
    Ipv4Net::new(range.find(ALLOWED_ADDRESS)?.ipv4()?, prefix).ok()
}

fn parse_key(attribute: &Attribute) -> Option<WireGuardKey> {
    Some(WireGuardKey(attribute.value.try_into().ok()?))
}

fn find(reply: &Reply, kind: u16) -> Option<Attribute<'_>> {
    attributes(reply.payload.get(HEADER_BYTES..)?).find(|attribute| attribute.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(allowed: &str) -> WireGuardPeer {
        let endpoint = "192.168.0.7:14790".parse().expect("an address");
        WireGuardPeer { endpoint, allowed: allowed.parse().expect("a range") }
    }

    fn read(lists: &[Attributes]) -> BTreeMap<WireGuardKey, Option<WireGuardPeer>> {
        parse_peers(lists.iter().map(|list| Attribute { kind: DEVICE_PEERS, value: list.as_bytes() }))
    }

    #[test]
    fn what_is_written_is_read() {
        let key = WireGuardKey([7; 32]);
        let list = Attributes::new().nested(ELEMENT, addition(&key, &peer("10.244.1.0/24")));
        assert_eq!(read(&[list]), BTreeMap::from([(key, Some(peer("10.244.1.0/24")))]));
    }

    /// The kernel's answer for a peer at the end of a message.
    #[test]
    fn a_peer_in_two_messages_is_one() {
        let key = WireGuardKey([7; 32]);
        let whole = addition(&key, &peer("10.244.1.0/24"));
        let part = |kinds: &[u16]| {
            let kept = attributes(whole.as_bytes()).filter(|attribute| kinds.contains(&attribute.kind));
            Attributes::new().nested(ELEMENT, kept.fold(Attributes::new(), |list, attribute| list.bytes(attribute.kind, attribute.value)))
        };
        let lists = [part(&[PEER_PUBLIC_KEY, PEER_ENDPOINT]), part(&[PEER_PUBLIC_KEY, PEER_ALLOWED])];
        assert_eq!(read(&lists), BTreeMap::from([(key, Some(peer("10.244.1.0/24")))]));
        // Two ranges are not what this project would set.
        let lists = [part(&[PEER_PUBLIC_KEY, PEER_ENDPOINT, PEER_ALLOWED]), part(&[PEER_PUBLIC_KEY, PEER_ALLOWED])];
        assert_eq!(read(&lists), BTreeMap::from([(key, None)]));
    }

    #[test]
    fn as_many_peers_as_a_message_may_have_fit_one_attribute() {
        let one = addition(&WireGuardKey([0; 32]), &peer("10.244.1.0/24")).as_bytes().len() + 4;
        assert!(one * PEERS_OF_A_MESSAGE_MAX < usize::from(u16::MAX), "{one} bytes each");
    }
}
