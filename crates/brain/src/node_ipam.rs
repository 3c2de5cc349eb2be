//! Gives each node its range of pod addresses, `spec.podCIDRs`, out of the cluster's range.
//!
//! After the range allocator of `pkg/controller/nodeipam`. A node that registers with a range of
//! its own keeps it, and what overlaps that, or the Services', is given to no other. Ranges are
//! taken in order, round the cluster's range, so that one that was given back rests as long as
//! possible. All nodes that wait are served by one plan: two plans at a time could give one range
//! to two nodes.
//!
//! A node learns the cluster's range by an annotation ([`CLUSTER_CIDR`]): what its pods send there
//! keeps their addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use kinds::address_range::AddressRange;
use serde_json::json;

use crate::controller::{Controller, Step, Work};
use crate::model::{Key, Node};
use crate::picture::{Change, Object, Picture};
use crate::request::{Event, EventType, NODES, Regarding, Request, Verb};

/// The range of all pods, the main family first, separated by commas.
pub const CLUSTER_CIDR: &str = "everynode.dev/cluster-cidr";

const COMPONENT: &str = "cidrAllocator";

/// A cluster's range is divided into 2^16 ranges of nodes at most: Kubernetes' limit for IPv6.
const DIVISION_BITS_MAX: u8 = 16;

/// Nodes of one plan, and how long the next one waits.
const PATCHES_MAX: usize = 100;
const REST: SignedDuration = SignedDuration::from_millis(100);

/// Why ranges cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("{0} and {1} are of one family of addresses: give one range for IPv4 and one for IPv6")]
    SameFamily(IpNet, IpNet),
    #[error("a node's range (/{prefix}) is not smaller than the cluster's ({cluster}): a mask from /{least} to /{most} fits")]
    Mask { cluster: IpNet, prefix: u8, least: u8, most: u8 },
}

/// The range of one family, and how much of it a node gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterRange {
    range: IpNet,
    /// Length of the prefix of a node's range.
    node_prefix: u8,
}

impl ClusterRange {
    /// `node_prefix`: 24 of a /16 gives 256 nodes 256 addresses each.
    pub fn new(range: IpNet, node_prefix: u8) -> Result<ClusterRange, RangeError> {
        let range = range.trunc();
        let least = range.prefix_len();
        let most = least.saturating_add(DIVISION_BITS_MAX).min(range.max_prefix_len());
        if node_prefix == 0 || !(least..=most).contains(&node_prefix) {
            return Err(RangeError::Mask { cluster: range, prefix: node_prefix, least, most });
        }
        Ok(ClusterRange { range, node_prefix })
    }

    pub fn range(self) -> IpNet {
        self.range
    }

    /// Length of the prefix of a node's range.
    pub fn node_prefix(self) -> u8 {
        self.node_prefix
    }

    fn slots(self) -> usize {
        1 << (self.node_prefix - self.range.prefix_len())
    }

    /// How far an address has to be shifted to be a slot's number.
    fn shift(self) -> u8 {
        self.range.max_prefix_len() - self.node_prefix
    }

    fn slot(self, number: usize) -> IpNet {
        let offset = u128::try_from(number).unwrap_or(0) << self.shift();
        let address = match self.range {
            IpNet::V4(range) => {
                let offset = u32::try_from(offset).unwrap_or(0);
                std::net::IpAddr::from(std::net::Ipv4Addr::from(u32::from(range.network()) + offset))
            }
            IpNet::V6(range) => std::net::IpAddr::from(std::net::Ipv6Addr::from(u128::from(range.network()) + offset)),
        };
        IpNet::new_assert(address, self.node_prefix)
    }

    /// The first and the last slot that a range touches.
    fn touched(self, claim: &IpNet) -> Option<(usize, usize)> {
        (is_ipv4(claim) == is_ipv4(&self.range)).then(|| self.touched_by(ends(claim)))?
    }

    /// The same for the addresses of Services, which are IPv4.
    fn touched_by_services(self, services: &AddressRange) -> Option<(usize, usize)> {
        let services = services.ipv4().filter(|_| is_ipv4(&self.range))?;
        self.touched_by(((*services.start()).into(), (*services.end()).into()))
    }

    fn touched_by(self, (first, last): (u128, u128)) -> Option<(usize, usize)> {
        let (own_first, own_last) = ends(&self.range);
        if last < own_first || first > own_last {
            return None;
        }
        let number = |address: u128| usize::try_from((address - own_first) >> self.shift()).unwrap_or(0);
        Some((number(first.max(own_first)), number(last.min(own_last))))
    }
}

fn is_ipv4(range: &IpNet) -> bool {
    matches!(range, IpNet::V4(_))
}

/// The first and the last address of a range, as numbers.
fn ends(range: &IpNet) -> (u128, u128) {
    match range {
        IpNet::V4(range) => (u32::from(range.network()).into(), u32::from(range.broadcast()).into()),
        IpNet::V6(range) => (range.network().into(), range.broadcast().into()),
    }
}

/// Ranges of the cluster, one for each family, the main one first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterRanges(Vec<ClusterRange>);

impl ClusterRanges {
    pub fn new(ranges: Vec<ClusterRange>) -> Result<ClusterRanges, RangeError> {
        for (at, range) in ranges.iter().enumerate() {
            if let Some(other) = ranges[..at].iter().find(|other| is_ipv4(&other.range) == is_ipv4(&range.range)) {
                return Err(RangeError::SameFamily(other.range, range.range));
            }
        }
        Ok(ClusterRanges(ranges))
    }

    pub fn iter(&self) -> impl Iterator<Item = &ClusterRange> {
        self.0.iter()
    }

    fn annotation(&self) -> String {
        self.0.iter().map(|range| range.range.to_string()).collect::<Vec<_>>().join(",")
    }
}

/// The controller; nodes get no ranges from it where the cluster has none.
#[derive(Debug, Default)]
pub struct NodeIpam {
    ranges: ClusterRanges,
    /// The slot after the last one given, for each range.
    next: Vec<usize>,
    /// What was given to nodes that do not show it yet, by name. An answer that got lost does not
    /// mean that the node has nothing.
    given: BTreeMap<Arc<str>, Vec<IpNet>>,
    /// Nodes that were told that there is no range left for them.
    told: BTreeSet<Arc<str>>,
}

impl NodeIpam {
    pub fn new(ranges: ClusterRanges) -> NodeIpam {
        NodeIpam { next: vec![0; ranges.0.len()], ranges, ..NodeIpam::default() }
    }
}

impl NodeIpam {
    /// A node that brought a range of the cluster's, or registered again with the one that it had.
    fn lacks_annotation(&self, node: &Node) -> bool {
        let is_of_cluster = |range: &IpNet| self.ranges.0.iter().any(|cluster| cluster.touched(range).is_some());
        let is_told = || node.meta.annotations.get(CLUSTER_CIDR) == Some(&*self.ranges.annotation());
        let has_range = !node.pod_cidrs.is_empty() && node.pod_cidrs.iter().all(is_of_cluster);
        has_range && !node.meta.is_deleted() && !node.is_simulated() && !is_told()
    }
}

impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn concerns(&mut self, _picture: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        if self.ranges.0.is_empty() {
            return;
        }
        match (&change.old, &change.new) {
            (_, Some(Object::Node(node))) => {
                if !node.pod_cidrs.is_empty() {
                    self.given.remove(&node.meta.name);
                }
                if waits(node) || self.lacks_annotation(node) {
                    add(Key::default());
                }
            }
            // Its range is free for those that wait.
            (Some(Object::Node(node)), None) => {
                self.told.remove(&node.meta.name);
                self.given.remove(&node.meta.name);
                add(Key::default());
            }
            _ => {}
        }
    }

    fn plan(&mut self, picture: &Picture, _key: &Key, _now: Timestamp) -> Work {
        let unannotated = picture.nodes.values().filter(|node| self.lacks_annotation(node)).take(PATCHES_MAX);
        let annotations: Vec<Request> = unannotated.map(|node| patch(node, None, &self.ranges.annotation())).collect();
        let waiting: Vec<&Arc<Node>> = picture.nodes.values().filter(|node| waits(node)).take(PATCHES_MAX).collect();
        if waiting.is_empty() && annotations.is_empty() {
            return Work::default();
        }
        let claims = || picture.nodes.values().flat_map(|node| &node.pod_cidrs).chain(self.given.values().flatten());
        // A pod with the address of a Service would not be reached.
        let services = || picture.service_cidrs.values().flat_map(|cidr| &cidr.ranges);
        let table = |(range, next): (&ClusterRange, &usize)| {
            let touched = claims().filter_map(|claim| range.touched(claim));
            Table::new(*range, *next, touched.chain(services().filter_map(|services| range.touched_by_services(services))))
        };
        let mut tables: Vec<Table> = self.ranges.0.iter().zip(&self.next).map(table).collect();
        let more = waiting.len() == PATCHES_MAX || annotations.len() == PATCHES_MAX;
        let mut work = Work { more, rest: REST, ..Work::default() };
        let mut requests = annotations;
        for node in waiting {
            let given = self.given.get(&node.meta.name).cloned();
            match given.or_else(|| tables.iter_mut().map(Table::take).collect()) {
                Some(shares) => {
                    requests.push(patch(node, Some(&shares), &self.ranges.annotation()));
                    self.given.insert(node.meta.name.clone(), shares);
                }
                None => {
                    if self.told.insert(node.meta.name.clone()) {
                        work.events.push(none_left(node));
                    }
                }
            }
        }
        self.next = tables.iter().map(|table| table.next).collect();
        work.steps = vec![Step { independent: true, ..Step::all_at_once(requests) }];
        work
    }
}

/// Simulated nodes have no network that could lead anywhere.
fn waits(node: &Node) -> bool {
    node.pod_cidrs.is_empty() && !node.meta.is_deleted() && !node.is_simulated()
}

/// Which slots of a range are taken.
struct Table {
    range: ClusterRange,
    taken: Vec<bool>,
    next: usize,
}

impl Table {
    /// `taken`: first and last of the slots that something has.
    fn new(range: ClusterRange, next: usize, taken: impl Iterator<Item = (usize, usize)>) -> Table {
        // How many claims begin and end at each slot: a claim of any size costs two steps.
        let mut edges = vec![0_i64; range.slots() + 1];
        for (first, last) in taken {
            edges[first] += 1;
            edges[last + 1] -= 1;
        }
        let mut depth = 0;
        let taken = edges[..range.slots()].iter().map(|edge| {
            depth += edge;
            depth > 0
        });
        Table { range, taken: taken.collect(), next }
    }

    fn take(&mut self) -> Option<IpNet> {
        let slots = self.taken.len();
        let free = (0..slots).map(|step| (self.next + step) % slots).find(|&slot| !self.taken[slot])?;
        self.taken[free] = true;
        self.next = free + 1;
        Some(self.range.slot(free))
    }
}

/// Gives the node these ranges, if any, and tells it the cluster's.
fn patch(node: &Node, shares: Option<&[IpNet]>, cluster: &str) -> Request {
    let mut patch = json!({"metadata": {"uid": node.meta.uid, "annotations": {CLUSTER_CIDR: cluster}}});
    if let Some(shares) = shares {
        let shares: Vec<String> = shares.iter().map(IpNet::to_string).collect();
        patch["spec"] = json!({"podCIDR": shares[0], "podCIDRs": shares});
    }
    Request::new(NODES, node.meta.key(), Verb::Merge(patch))
}

fn none_left(node: &Node) -> Event {
    const REASON: &str = "CIDRNotAvailable";
    Event {
        about: Regarding::of(NODES, &node.meta),
        event_type: EventType::Normal,
        reason: REASON.into(),
        message: format!("Node {} status is now: {REASON}", node.meta.name),
        action: None,
        component: COMPONENT,
        host: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{now, picture};

    fn ranges(list: &[(&str, u8)]) -> ClusterRanges {
        let range = |(range, prefix): &(&str, u8)| ClusterRange::new(range.parse().unwrap(), *prefix).unwrap();
        ClusterRanges::new(list.iter().map(range).collect()).unwrap()
    }

    /// Node and ranges of each patch.
    fn given(work: &Work) -> Vec<(String, Vec<String>)> {
        let all = work.steps.iter().flat_map(|step| &step.requests);
        let requests = all.filter(|request| !request.body().2["spec"].is_null());
        let of = |request: &Request| {
            let body = request.body().2;
            assert_eq!(body["spec"]["podCIDR"], body["spec"]["podCIDRs"][0]);
            (request.key.name.to_string(), serde_json::from_value(body["spec"]["podCIDRs"].clone()).unwrap())
        };
        requests.map(of).collect()
    }

    /// The nodes that are only told the cluster's range.
    fn annotated(work: &Work) -> Vec<&str> {
        let all = work.steps.iter().flat_map(|step| &step.requests);
        all.filter(|request| request.body().2["spec"].is_null()).map(|request| &*request.key.name).collect()
    }

    fn plan(ipam: &mut NodeIpam, cluster: &str) -> Vec<(String, Vec<String>)> {
        given(&ipam.plan(&picture(cluster), &Key::default(), now()))
    }

    /// The only node of that cluster is deleted; how many keys that concerns.
    fn goes(ipam: &mut NodeIpam, cluster: &str) -> usize {
        let before = picture(cluster);
        let gone = Change { old: before.nodes.values().next().cloned().map(Object::Node), new: None };
        let mut keys = 0;
        ipam.concerns(&before, &gone, &mut |_| keys += 1);
        keys
    }

    fn one(node: &str, range: &str) -> (String, Vec<String>) {
        (node.to_owned(), vec![range.to_owned()])
    }

    #[test]
    fn nodes_get_ranges_in_order_and_none_twice() {
        let mut ipam = NodeIpam::new(ranges(&[("10.244.0.0/16", 24)]));
        assert_eq!(plan(&mut ipam, "node a; node b"), [one("a", "10.244.0.0/24"), one("b", "10.244.1.0/24")]);
        let cluster = "node a podCIDR=10.244.0.0/24; node b podCIDR=10.244.1.0/24; node c";
        assert_eq!(plan(&mut ipam, cluster), [one("c", "10.244.2.0/24")]);
        assert_eq!(plan(&mut ipam, "node a podCIDR=10.244.0.0/24"), []);
    }

    #[test]
    fn a_range_that_was_given_back_is_given_last() {
        let mut ipam = NodeIpam::new(ranges(&[("10.0.0.0/22", 24)]));
        assert_eq!(plan(&mut ipam, "node a"), [one("a", "10.0.0.0/24")]);
        goes(&mut ipam, "node a");
        let rest = plan(&mut ipam, "node b; node c; node d; node e");
        assert_eq!(rest, [one("b", "10.0.1.0/24"), one("c", "10.0.2.0/24"), one("d", "10.0.3.0/24"), one("e", "10.0.0.0/24")]);
    }

    #[test]
    fn a_node_whose_answer_got_lost_keeps_what_it_was_given() {
        let mut ipam = NodeIpam::new(ranges(&[("10.0.0.0/23", 24)]));
        assert_eq!(plan(&mut ipam, "node b"), [one("b", "10.0.0.0/24")]);
        assert_eq!(plan(&mut ipam, "node a; node b; node c"), [one("a", "10.0.1.0/24"), one("b", "10.0.0.0/24")]);
        let seen = picture("node b podCIDR=10.0.0.0/24");
        let change = Change { old: None, new: seen.nodes.get("b").cloned().map(Object::Node) };
        ipam.concerns(&seen, &change, &mut |_| ());
        assert_eq!(ipam.given.len(), 1);
    }

    #[test]
    fn simulated_nodes_get_none() {
        let mut ipam = NodeIpam::new(ranges(&[("10.0.0.0/24", 24)]));
        assert_eq!(plan(&mut ipam, "node a label=everynode.dev/simulated=true; node b"), [one("b", "10.0.0.0/24")]);
    }

    /// Without it, an agent that starts again takes pods of other nodes for strangers.
    #[test]
    fn nodes_that_came_with_a_range_of_the_cluster_are_told_of_it() {
        let mut ipam = NodeIpam::new(ranges(&[("10.0.0.0/16", 24)]));
        let cluster = picture(
            "node a podCIDR=10.0.3.0/24; node b podCIDR=192.168.0.0/24; node c podCIDR=10.0.4.0/24 label=everynode.dev/simulated=true",
        );
        let work = ipam.plan(&cluster, &Key::default(), now());
        assert_eq!((given(&work).len(), annotated(&work)), (0, vec!["a"]));
        let mut told = Node::clone(&cluster.nodes["a"]);
        told.meta.annotations.insert(CLUSTER_CIDR, "10.0.0.0/16");
        let mut cluster = cluster;
        cluster.put(Object::Node(told.into()));
        assert!(ipam.plan(&cluster, &Key::default(), now()).is_empty());
    }

    #[test]
    fn what_overlaps_the_range_of_a_node_is_taken() {
        let mut ipam = NodeIpam::new(ranges(&[("10.0.0.0/22", 24)]));
        let cluster = "node small podCIDR=10.0.0.64/26; node large podCIDR=10.0.2.0/23; node far podCIDR=192.168.0.0/24; node a";
        assert_eq!(plan(&mut ipam, cluster), [one("a", "10.0.1.0/24")]);
        let mut ipam = NodeIpam::new(ranges(&[("10.0.0.0/22", 24)]));
        assert_eq!(plan(&mut ipam, "node all podCIDR=10.0.0.0/8; node a"), []);
    }

    #[test]
    fn addresses_of_services_are_given_to_no_node() {
        let mut ipam = NodeIpam::new(ranges(&[("10.95.254.0/23", 24)]));
        let mut wide = NodeIpam::new(ranges(&[("10.0.0.0/8", 12)]));
        let mut cluster = picture("node a; node b; node c");
        let services = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12", "10.95.255.128/26"]}});
        cluster.put(Object::ServiceCidr(serde_json::from_value::<crate::model::ServiceCidr>(services).unwrap().into()));
        let work = ipam.plan(&cluster, &Key::default(), now());
        assert_eq!(given(&work), [one("a", "10.95.254.0/24")]);
        wide.next = vec![5];
        // 10.80.0.0/12 holds the smaller range, 10.96.0.0/12 is the larger one.
        let shares = [one("a", "10.112.0.0/12"), one("b", "10.128.0.0/12"), one("c", "10.144.0.0/12")];
        assert_eq!(given(&wide.plan(&cluster, &Key::default(), now())), shares);
    }

    #[test]
    fn both_families_are_given_at_once() {
        let mut ipam = NodeIpam::new(ranges(&[("10.244.0.0/16", 24), ("fd00:10::/48", 64)]));
        let cluster = "node old podCIDR=10.244.0.0/24; node a";
        assert_eq!(plan(&mut ipam, cluster), [("a".to_owned(), vec!["10.244.1.0/24".to_owned(), "fd00:10::/64".to_owned()])]);
    }

    #[test]
    fn a_node_without_a_range_is_told_once_and_gets_one_that_becomes_free() {
        let mut ipam = NodeIpam::new(ranges(&[("10.0.0.0/24", 24)]));
        let full = picture("node a podCIDR=10.0.0.0/24; node b; node c");
        let work = ipam.plan(&full, &Key::default(), now());
        assert_eq!(annotated(&work), ["a"]);
        let told: Vec<_> = work.events.iter().map(|event| event.message.as_str()).collect();
        assert_eq!(told, ["Node b status is now: CIDRNotAvailable", "Node c status is now: CIDRNotAvailable"]);
        let again = ipam.plan(&full, &Key::default(), now());
        assert!(given(&again).is_empty() && again.events.is_empty());
        assert_eq!((goes(&mut ipam, "node a podCIDR=10.0.0.0/24"), plan(&mut ipam, "node b; node c")), (1, vec![one("b", "10.0.0.0/24")]));
    }

    #[test]
    fn many_nodes_are_served_in_parts() {
        let mut ipam = NodeIpam::new(ranges(&[("10.0.0.0/8", 24)]));
        let text: Vec<String> = (0..150).map(|number| format!("node n{number}")).collect();
        let work = ipam.plan(&picture(&text.join(";")), &Key::default(), now());
        assert_eq!((given(&work).len(), work.more), (PATCHES_MAX, true));
    }

    #[test]
    fn ranges_that_cannot_be_divided_are_refused() {
        let range = |text: &str, prefix| ClusterRange::new(text.parse().unwrap(), prefix).map(drop).map_err(|error| error.to_string());
        let fits = |cluster: &str, prefix: u8, masks: &str| {
            Err(format!("a node's range (/{prefix}) is not smaller than the cluster's ({cluster}): a mask from {masks} fits"))
        };
        assert_eq!(range("10.0.0.0/16", 15), fits("10.0.0.0/16", 15, "/16 to /32"));
        assert_eq!(range("10.0.0.0/8", 25), fits("10.0.0.0/8", 25, "/8 to /24"));
        assert_eq!(range("fd00::/48", 65), fits("fd00::/48", 65, "/48 to /64"));
        assert_eq!(range("0.0.0.0/0", 16), Ok(()));
        let both =
            [("10.0.0.0/16", 24), ("10.1.0.0/16", 24)].map(|(range, prefix)| ClusterRange::new(range.parse().unwrap(), prefix).unwrap());
        assert!(ClusterRanges::new(both.to_vec()).is_err());
    }
}
