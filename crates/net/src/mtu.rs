//! How large packets may be: of the links that they leave by, and of what is put around them.

use std::net::Ipv4Addr;

use crate::names::{VXLAN_DEVICE, WIREGUARD_DEVICE};
use crate::netlink::{Link, Result, RouteSocket};

/// An address of a documentation range: only the default route leads there.
const SOMEWHERE_OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ETHERNET_BYTES: u32 = 1500;

/// Packets of a pod leave by the node's default interface or by a tunnel, so larger ones would only
/// be cut.
pub fn of_pods(route: &mut RouteSocket) -> Result<u32> {
    let mut smallest = of_default_link(route)?;
    for tunnel in [VXLAN_DEVICE, WIREGUARD_DEVICE] {
        smallest = route.link(tunnel)?.map_or(smallest, |link| smallest.min(link.mtu));
    }
    Ok(smallest)
}

/// Of the link that has this address of the node; of the default interface when none has.
pub fn towards_nodes(route: &mut RouteSocket, node_address: Ipv4Addr) -> Result<u32> {
    let of_node = route.addresses()?.into_iter().find(|address| address.address.addr() == node_address);
    match of_node {
        Some(address) => Ok(bytes(route.link_at(address.link)?)),
        None => of_default_link(route),
    }
}

fn of_default_link(route: &mut RouteSocket) -> Result<u32> {
    let Some(index) = route.link_towards(SOMEWHERE_OUTSIDE)? else { return Ok(ETHERNET_BYTES) };
    Ok(bytes(route.link_at(index)?))
}

fn bytes(link: Option<Link>) -> u32 {
    link.map_or(ETHERNET_BYTES, |link| link.mtu)
}
