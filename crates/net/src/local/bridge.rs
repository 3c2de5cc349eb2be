//! The bridge of a local cluster, and the links of its nodes.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{LocalNetworkError, Result};
use crate::namespace::{self, Ipv6};
use crate::netlink::{Address, DeviceSettings, Family, Route, RouteSocket, Socket, Veth};
use crate::nftables::{self, Action, Chain, ChainKind, Hook, Match, Rule, Ruleset};
use crate::{names, obstacles};

const SOURCE_NAT: i32 = 100;
const FILTER: i32 = 0;
const ANYWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
const INSIDE: &str = "eth0";
const MTU_BYTES: u32 = 1500;

/// Who connects pods of different nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodRoutes {
    /// This host, which is the nodes' router.
    OfThisHost,
    /// The nodes: as on a real network, the router leads from one pod to another nowhere.
    OfNodes,
}

/// A node to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLink {
    /// Of a process in the node's network namespace.
    pub pid: u32,
    pub name: String,
    /// One of the bridge's range.
    pub address: Ipv4Addr,
    pub pod_cidr: Ipv4Net,
}

#[derive(Debug)]
pub struct Bridge {
    cluster: String,
    name: String,
    index: u32,
    gateway: Ipv4Net,
    route: RouteSocket,
}

impl Bridge {
    /// Makes what is missing of the bridge, its address and its rules. `gateway` is its address
    /// with the nodes' prefix length, `pods` the range of the pods of all nodes, `between` who
    /// connects pods of different nodes.
    pub fn ensure(cluster: &str, gateway: Ipv4Net, pods: Ipv4Net, between: PodRoutes) -> Result<Self> {
        namespace::set_sysctl("ipv4/ip_forward", "1").map_err(LocalNetworkError::Forwarding)?;
        let mut route = RouteSocket::open().map_err(LocalNetworkError::Socket)?;
        let mut netfilter = Socket::open(Family::Netfilter).map_err(LocalNetworkError::Socket)?;
        let name = names::bridge(cluster);
        nftables::replace(&mut netfilter, &desired(&name, gateway.trunc(), pods, between))?;
        let index = route.ensure_bridge(&name, names::hardware_address(&name))?;
        close_ipv6(&name)?;
        // Nodes send packets for each other's pods here although they are neighbours: that is as it
        // should be.
        route.set_up(index, &DeviceSettings { send_redirects: Some(false), ..DeviceSettings::default() })?;
        route.add_address(&Address { link: index, address: gateway, link_only: false })?;
        Ok(Self { cluster: cluster.to_string(), name, index, gateway, route })
    }

    /// Its interface, as listings show it.
    pub fn interface(&self) -> &str {
        &self.name
    }

    /// Gives the node's namespace an `eth0` on the bridge, and the host the way to the node's pods.
    /// A failure leaves at most what a repetition or [`Bridge::disconnect`] finds.
    pub fn connect(&mut self, node: &NodeLink) -> Result<()> {
        let refused = |cause| LocalNetworkError::Namespace { pid: node.pid, cause };
        let namespace = namespace::of_process(node.pid).map_err(refused)?;
        let mut inside = RouteSocket::open_in(&namespace).map_err(refused)?;
        let outside_name = names::node_link(&self.cluster, &node.name);
        let hardware_address = Some(names::hardware_address(&outside_name));
        let veth = Veth { outside: &outside_name, inside: INSIDE, mtu: MTU_BYTES, controller: Some(self.index), hardware_address };
        let pair = self.route.ensure_veth(&namespace, &mut inside, &veth)?;
        close_ipv6(&outside_name)?;
        let close_inside = || namespace::close_ipv6(INSIDE, Ipv6::Unrouted);
        namespace::inside(&namespace, close_inside).map_err(|cause| LocalNetworkError::Ipv6 { interface: INSIDE.to_string(), cause })?;
        self.route.set_up(pair.outside, &DeviceSettings { controller: Some(self.index), ..DeviceSettings::default() })?;
        self.configure_node(&mut inside, pair.inside, node.address)?;
        Ok(self.route.replace_route(&Route::via(node.pod_cidr, node.address, self.index))?)
    }

    fn configure_node(&self, inside: &mut RouteSocket, link: u32, address: Ipv4Addr) -> Result<()> {
        if let Some(loopback) = inside.link("lo")? {
            inside.set_up(loopback.index, &DeviceSettings::default())?;
        }
        inside.set_up(link, &DeviceSettings::default())?;
        let address = Ipv4Net::new_assert(address, self.gateway.prefix_len());
        inside.add_address(&Address { link, address, link_only: false })?;
        Ok(inside.replace_route(&Route::via(ANYWHERE, self.gateway.addr(), link))?)
    }

    /// Takes the node's link and the routes through it away; succeeds when they are gone, and so is
    /// the node.
    pub fn disconnect(&mut self, name: &str, address: Ipv4Addr) -> Result<()> {
        let routes = self.route.routes()?;
        for route in routes.iter().filter(|route| route.link == self.index && route.gateway == Some(address)) {
            self.route.delete_route(route)?;
        }
        Ok(self.route.delete_link(&names::node_link(&self.cluster, name))?)
    }

    /// Sentences about what on this host keeps the nodes and their pods from being reached.
    pub fn obstacles(&self, pods: Ipv4Net) -> Result<Vec<String>> {
        let mut netfilter = Socket::open(Family::Netfilter).map_err(LocalNetworkError::Socket)?;
        let mut found = obstacles::of_forwarding(&mut netfilter, &table(&self.name), pods)?;
        if !found.is_empty() && obstacles::concern_bridges() {
            let nodes = self.gateway.trunc();
            found.push(format!("bridge-nf-call-iptables is on: such chains also drop what goes from node to node within {nodes}"));
        }
        Ok(found)
    }

    /// Removes all that the cluster has on this host: links of nodes, the bridge with its routes,
    /// the rules. Succeeds when nothing is there. Forwarding stays on: others may count on it by
    /// now.
    pub fn remove(cluster: &str) -> Result<()> {
        let mut route = RouteSocket::open().map_err(LocalNetworkError::Socket)?;
        let mut netfilter = Socket::open(Family::Netfilter).map_err(LocalNetworkError::Socket)?;
        let (bridge, nodes) = (names::bridge(cluster), names::node_links(cluster));
        let of_node = |name: &str| name.starts_with(&nodes);
        for link in route.links()?.iter().filter(|link| link.kind == "veth" && of_node(&link.name)) {
            route.delete_link(&link.name)?;
        }
        route.delete_link(&bridge)?;
        Ok(nftables::remove(&mut netfilter, &table(&bridge))?)
    }
}

/// Nodes may run whatever their pods bring: the host believes no router among them.
fn close_ipv6(interface: &str) -> Result<()> {
    namespace::close_ipv6(interface, Ipv6::Off).map_err(|cause| LocalNetworkError::Ipv6 { interface: interface.to_string(), cause })
}

fn table(bridge: &str) -> String {
    format!("everynode-{bridge}")
}

/// The host's rules for one cluster.
fn desired(bridge: &str, nodes: Ipv4Net, pods: Ipv4Net, between: PodRoutes) -> Ruleset {
    let leaves = |from: Ipv4Net| {
        Rule::new([Match::SourceIn(from), Match::DestinationNotIn(nodes), Match::DestinationNotIn(pods)], Action::Masquerade)
    };
    // Accepting ends this chain only: another program's chain that drops still drops.
    let accept = |interface: Match| Rule::new([interface], Action::Accept);
    // What one node sends another by the bridge is not meant for the host, and goes on.
    let routed_here = Match::DestinationHardwareAddress(names::hardware_address(bridge));
    let between_pods = [Match::Input(bridge.to_string()), routed_here, Match::SourceIn(pods), Match::DestinationIn(pods)];
    let not_here = (between == PodRoutes::OfNodes).then(|| Rule::new(between_pods, Action::Drop));
    let accepted = [accept(Match::Input(bridge.to_string())), accept(Match::Output(bridge.to_string()))];
    let chains = vec![
        Chain {
            name: "forward".to_string(),
            kind: ChainKind::Filter { hook: Hook::Forward, priority: FILTER },
            rules: not_here.into_iter().chain(accepted).collect(),
        },
        Chain {
            name: "leaving".to_string(),
            kind: ChainKind::Nat { hook: Hook::Postrouting, priority: SOURCE_NAT },
            rules: vec![leaves(nodes), leaves(pods)],
        },
    ];
    Ruleset { table: table(bridge), maps: Vec::new(), chains }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn the_rules_of_a_cluster() {
        let nodes = "172.30.0.0/24".parse().expect("a range");
        let pods = "10.244.0.0/16".parse().expect("a range");
        expect![[r#"
            table ip everynode-evb12345678 {
              chain forward {
                type filter hook forward priority 0
                iifname "evb12345678" accept
                oifname "evb12345678" accept
              }
              chain leaving {
                type nat hook postrouting priority 100
                ip saddr 172.30.0.0/24 ip daddr != 172.30.0.0/24 ip daddr != 10.244.0.0/16 masquerade fully-random
                ip saddr 10.244.0.0/16 ip daddr != 172.30.0.0/24 ip daddr != 10.244.0.0/16 masquerade fully-random
              }
            }
        "#]]
        .assert_eq(&desired("evb12345678", nodes, pods, PodRoutes::OfThisHost).to_string());
        let forward = desired("evb12345678", nodes, pods, PodRoutes::OfNodes).to_string();
        let dropped = forward.lines().find(|line| line.ends_with("drop")).expect("a rule that drops");
        let mac = names::hardware_address("evb12345678").map(|byte| format!("{byte:02x}")).join(":");
        assert_eq!(dropped.trim(), format!("iifname \"evb12345678\" ether daddr {mac} ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 drop"));
    }
}
