//! The cluster's DNS address on this node, and packets to it past the tracking of connections.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use net::netlink::{Address, Family, RouteSocket, Socket};
use net::nftables::{self, Action, Chain, ChainKind, Hook, Match, Rule, Ruleset};

use super::DnsError;

const LOOPBACK: &str = "lo";
/// Before connections are tracked.
const BEFORE_TRACKING: i32 = -300;

/// Makes it so; nothing when it is so already.
pub fn ensure(address: Ipv4Addr, table: &str) -> Result<(), DnsError> {
    let failed = |cause| DnsError::Address { address, cause };
    let mut route = RouteSocket::open().map_err(DnsError::Kernel)?;
    let loopback = route.link(LOOPBACK).map_err(failed)?;
    if let Some(link) = loopback {
        route.add_address(&own(link.index, address)).map_err(failed)?;
    }
    let mut netfilter = Socket::open(Family::Netfilter).map_err(DnsError::Kernel)?;
    nftables::replace(&mut netfilter, &rules(address, table)).map_err(failed)
}

/// Takes it all back.
pub fn remove(address: Ipv4Addr, table: &str) -> Result<(), DnsError> {
    let failed = |cause| DnsError::Address { address, cause };
    let mut route = RouteSocket::open().map_err(DnsError::Kernel)?;
    if let Some(link) = route.link(LOOPBACK).map_err(failed)? {
        route.delete_address(&own(link.index, address)).map_err(failed)?;
    }
    let mut netfilter = Socket::open(Family::Netfilter).map_err(DnsError::Kernel)?;
    nftables::remove(&mut netfilter, table).map_err(failed)
}

/// Of the link only: never what the node shows to others.
fn own(link: u32, address: Ipv4Addr) -> Address {
    Address { link, address: Ipv4Net::from(address), link_only: true }
}

/// A question and its answer are two packets. Tracking them costs entries of a table that is full
/// on busy nodes, and two questions from one socket at once can lose one of them there.
fn rules(address: Ipv4Addr, table: &str) -> Ruleset {
    let here = Ipv4Net::from(address);
    let untracked = |name: &str, hook| Chain {
        name: name.to_owned(),
        kind: ChainKind::Filter { hook, priority: BEFORE_TRACKING },
        rules: vec![
            Rule::new([Match::DestinationIn(here)], Action::LeaveUntracked),
            Rule::new([Match::SourceIn(here)], Action::LeaveUntracked),
        ],
    };
    Ruleset {
        table: table.to_owned(),
        maps: Vec::new(),
        chains: vec![untracked("arriving", Hook::Prerouting), untracked("of_node", Hook::Output)],
    }
}
