//! What on a host keeps forwarded packets, and those of tunnels, from passing, whatever our own
//! rules say.
//!
//! All tables must let a packet pass: an accept in one does not overrule a drop in another. A
//! forward chain that drops by default (as other container engines and firewalls set it up)
//! therefore stops pods from reaching anything but their own node. With bridge-nf-call-iptables
//! such a chain also sees what goes from node to node over one bridge. We do not touch foreign
//! tables; their administrator has to let the ranges pass. Chains of the older iptables interface
//! are not visible here.

use ipnet::Ipv4Net;

use crate::netlink::{Result, Socket};
use crate::nftables;

const BRIDGE_CALLS_IPTABLES: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// A sentence for each foreign chain that drops forwarded packets by default.
pub fn of_forwarding(netfilter: &mut Socket, own_table: &str, range: Ipv4Net) -> Result<Vec<String>> {
    let chains = nftables::base_chains(netfilter)?;
    let dropping = chains.iter().filter(|chain| chain.is_forward && chain.drops_by_default && chain.table != own_table);
    Ok(dropping
        .map(|chain| {
            let (table, name) = (&chain.table, &chain.name);
            format!("chain {name} of table {table} drops forwarded packets that it does not accept: let it accept {range}")
        })
        .collect())
}

/// A sentence for each chain that drops packets to this host by default, and with them those of a
/// tunnel.
pub fn of_tunnel(netfilter: &mut Socket, udp_port: u16) -> Result<Vec<String>> {
    let chains = nftables::base_chains(netfilter)?;
    let dropping = chains.iter().filter(|chain| chain.is_input && chain.drops_by_default);
    Ok(dropping
        .map(|chain| {
            let (table, name) = (&chain.table, &chain.name);
            format!("chain {name} of table {table} drops packets to this node that it does not accept: let it accept UDP port {udp_port}")
        })
        .collect())
}

/// Whether those chains see packets between neighbours on a bridge too. Of the calling thread's
/// namespace.
pub fn concern_bridges() -> bool {
    std::fs::read_to_string(BRIDGE_CALLS_IPTABLES).is_ok_and(|value| value.trim() == "1")
}
