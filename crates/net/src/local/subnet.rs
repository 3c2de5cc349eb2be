//! Which ranges a new local cluster gets.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{LocalNetworkError, Result};
use crate::netlink::RouteSocket;

/// Where the nodes of all local clusters are.
const ALL_NODES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 30, 0, 0), 16);
/// Pods of the first slot are in 10.244.0.0/16, those of later ones below.
const FIRST_POD_OCTET: u8 = 244;

/// The ranges of a local cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    pub slot: u8,
    /// Of the nodes and the bridge: a /24.
    pub nodes: Ipv4Net,
    /// Of the pods of all nodes: a /16.
    pub pods: Ipv4Net,
}

impl Subnet {
    fn of_slot(slot: u8) -> Self {
        let nodes = Ipv4Net::new_assert(Ipv4Addr::new(172, 30, slot, 0), 24);
        let pods = Ipv4Net::new_assert(Ipv4Addr::new(10, FIRST_POD_OCTET - slot, 0, 0), 16);
        Self { slot, nodes, pods }
    }

    /// The bridge's address, with the nodes' prefix length.
    pub fn gateway(&self) -> Ipv4Net {
        let [a, b, c, _] = self.nodes.addr().octets();
        Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 1), self.nodes.prefix_len())
    }
}

/// The first slot whose ranges no route and no address of this host overlaps.
pub fn choose_subnet() -> Result<Subnet> {
    let mut socket = RouteSocket::open().map_err(LocalNetworkError::Socket)?;
    let mut used: Vec<Ipv4Net> = socket.addresses()?.into_iter().map(|address| address.address).collect();
    used.extend(socket.routes()?.into_iter().filter(|route| !route.is_default()).map(|route| route.destination));
    plan_subnet(&used).ok_or(LocalNetworkError::NoSubnetLeft(ALL_NODES))
}

/// The first slot that overlaps none of these.
pub fn plan_subnet(used: &[Ipv4Net]) -> Option<Subnet> {
    let free = |range: &Ipv4Net| used.iter().all(|used| !used.contains(range) && !range.contains(used) && !range.contains(&used.addr()));
    (0..=FIRST_POD_OCTET).map(Subnet::of_slot).find(|subnet| free(&subnet.nodes) && free(&subnet.pods))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(used: &[&str]) -> Option<u8> {
        let used: Vec<Ipv4Net> = used.iter().map(|range| range.parse().expect("a range")).collect();
        plan_subnet(&used).map(|subnet| subnet.slot)
    }

    #[test]
    fn takes_the_first_slot_whose_both_ranges_are_free() {
        assert_eq!(slot(&[]), Some(0));
        assert_eq!(slot(&["172.30.0.1/24"]), Some(1));
        assert_eq!(slot(&["10.244.3.0/24", "172.30.1.9/32"]), Some(2));
        assert_eq!(slot(&["10.240.0.0/12"]), Some(5));
        assert_eq!(slot(&["172.16.0.0/12"]), None);
        assert_eq!(slot(&["10.0.0.0/8"]), None);
    }

    #[test]
    fn ranges_of_a_slot() {
        let subnet = Subnet::of_slot(3);
        assert_eq!(
            (subnet.nodes.to_string().as_str(), subnet.pods.to_string().as_str(), subnet.gateway().to_string().as_str()),
            ("172.30.3.0/24", "10.241.0.0/16", "172.30.3.1/24")
        );
    }
}
