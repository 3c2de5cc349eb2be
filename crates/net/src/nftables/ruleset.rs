//! A table of rules as plain data: what it says, not how the kernel gets it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// A whole table of the `ip` family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    pub table: String,
    pub maps: Vec<Map>,
    /// Chains that others jump to come first: the kernel wants to know them.
    pub chains: Vec<Chain>,
}

impl Ruleset {
    /// What stays the same while pods come and go.
    pub(super) fn without_elements(&self) -> Self {
        let maps = self.maps.iter().map(|map| Map { elements: BTreeMap::new(), ..map.clone() }).collect();
        Self { maps, ..self.clone() }
    }
}

/// A part of a packet, as a part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The name of the interface by which it came.
    Input,
    SourceAddress,
    DestinationAddress,
    /// The transport protocol's number.
    Protocol,
    DestinationPort,
    /// No part of a packet: a number that a rule makes.
    Index,
}

impl Field {
    /// Registers of four bytes that a value takes.
    pub(super) fn registers(self) -> u32 {
        match self {
            Field::Input => 4,
            _ => 1,
        }
    }
}

/// A value of a field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Interface(String),
    Address(Ipv4Addr),
    Protocol(u8),
    Port(u16),
    /// In the machine's byte order, as the kernel makes numbers.
    Index(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapKind {
    /// Keys only.
    Set,
    /// Keys of which the last field is a range.
    Ranges,
    /// From keys to an address and a port.
    ToAddressAndPort,
    /// From keys to what happens next.
    ToVerdict,
    /// From keys to an address and a port, written by rules, each for a while.
    Remembered { elements_max: u32 },
}

impl MapKind {
    pub(super) fn data(self) -> &'static [Field] {
        match self {
            MapKind::Set | MapKind::Ranges | MapKind::ToVerdict => &[],
            MapKind::ToAddressAndPort | MapKind::Remembered { .. } => &[Field::DestinationAddress, Field::DestinationPort],
        }
    }
}

/// A set or map of the table. Data is empty in a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    pub name: String,
    pub kind: MapKind,
    pub key: Vec<Field>,
    pub elements: BTreeMap<Vec<Value>, Vec<Value>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<Value>,
    pub data: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    pub kind: ChainKind,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Others jump to it.
    Plain,
    Nat {
        hook: Hook,
        priority: i32,
    },
    Filter {
        hook: Hook,
        priority: i32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

/// All matches must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub matches: Vec<Match>,
    pub action: Action,
}

impl Rule {
    pub fn new(matches: impl IntoIterator<Item = Match>, action: Action) -> Self {
        Self { matches: matches.into_iter().collect(), action }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    SourceIn(Ipv4Net),
    SourceNotIn(Ipv4Net),
    DestinationIn(Ipv4Net),
    DestinationNotIn(Ipv4Net),
    /// Of a packet that came over Ethernet: whom the sender of the frame meant.
    DestinationHardwareAddress([u8; 6]),
    /// The destination is an address of this host.
    DestinationIsLocal,
    DestinationIsNotLocal,
    SourceIsLocal,
    Protocol(u8),
    /// The first packet of a connection.
    IsNewConnection,
    /// Rules changed the connection's destination.
    DestinationWasChanged,
    /// The map of the kind [`MapKind::Remembered`] has a target for the client.
    IsRemembered(String),
    /// Bits of the packet's mark, of which one must be set.
    HasMark(u32),
    /// The interface's name begins so.
    InputBegins(String),
    OutputBegins(String),
    Input(String),
    Output(String),
    /// The fields are a key of the set.
    InSet {
        set: String,
        key: Vec<Field>,
    },
    NotInSet {
        set: String,
        key: Vec<Field>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Accept,
    Drop,
    /// The packet's connection is not tracked.
    LeaveUntracked,
    Jump(String),
    Reject(Rejection),
    /// Sets bits of the packet's mark, and goes on with the next rule.
    SetMark(u32),
    /// Clears bits of the packet's mark that are set, then as [`Action::Masquerade`].
    ClearMarkAndMasquerade(u32),
    /// What the map has for the fields happens next; nothing when it has no element.
    Dispatch {
        map: String,
        key: Vec<Field>,
    },
    /// To one of the addresses and ports that the map has for the fields with a number below
    /// `count`, by chance.
    Balance(Balance),
    /// What the map has for the fields with a number below `count`, by chance, happens next.
    DispatchByChance(Balance),
    /// The map of the kind [`MapKind::Remembered`] has this target for the client; for so long
    /// after this connection. A target that it has for the client already stays.
    Remember {
        clients: String,
        seconds: u32,
        target: (Ipv4Addr, u16),
    },
    DestinationNatTo(Ipv4Addr, u16),
    /// The source becomes this host's address towards the destination, on a port that an attacker
    /// cannot guess.
    Masquerade,
    /// To the address and port that the map has for the fields; nothing happens when it has none.
    DestinationNat {
        map: String,
        key: Vec<Field>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    TcpReset,
    PortUnreachable,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    pub map: String,
    pub key: Vec<Field>,
    pub count: u32,
}

/// What an element of a map of verdicts says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Goto(String),
}
