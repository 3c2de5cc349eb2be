//! The rules of Services: chains that stay, and a chain for each number of endpoints.
//!
//! All of it can be said in the language of the nft program, so that administrators can read it
//! with `nft list table`.

use std::net::Ipv4Addr;

use crate::nftables::{Action, Balance, Chain, ChainKind, Field, Hook, Map, MapKind, Match, Rejection, Rule, Ruleset};

use super::{MapName, ServiceSettings};

/// Just before the rules of host ports, which have the usual places.
const FIREWALL: i32 = -110;
const DESTINATION_NAT: i32 = -105;
const FILTER: i32 = 0;
const SOURCE_NAT: i32 = 95;
const TCP: u8 = 6;
/// Clients of one list of endpoints that are remembered at once. One more is sent to an endpoint by
/// chance and not remembered. An element takes the kernel about 100 bytes.
const CLIENTS_MAX: u32 = 65_536;

const HERE: [Field; 3] = [Field::DestinationAddress, Field::Protocol, Field::DestinationPort];
const HERE_FROM: [Field; 4] = [Field::DestinationAddress, Field::Protocol, Field::DestinationPort, Field::SourceAddress];
const NODE_PORT: [Field; 2] = [Field::Protocol, Field::DestinationPort];
/// The bit of packets' marks that says that the node's address takes the place of the source. The
/// same one as in Kubernetes (`masqueradeBit`), so that other rules that leave it alone do so here.
const MASQUERADE: u32 = 1 << 14;

/// Address, protocol and port of Services that have no endpoint to go to: reject or drop.
pub const REFUSED: MapName = "refused";
pub const REFUSED_NODE_PORTS: MapName = "refused_node_ports";
/// Addresses of this node's endpoints, twice.
pub const HAIRPINS: MapName = "hairpins";
pub const CLUSTER_ADDRESSES: MapName = "cluster_addresses";
pub const NODE_ADDRESSES: MapName = "node_addresses";
/// Load balancers' addresses that only some sources may use, and which.
pub const RESTRICTED: MapName = "restricted";
pub const ALLOWED_SOURCES: MapName = "allowed_sources";

pub const REJECT_CHAIN: &str = "reject";

/// No map of the kernel: chains that balance, by name.
pub const CHAINS: MapName = "(chains)";
/// No map of the kernel: the maps of remembered clients, by name.
pub const CLIENTS: MapName = "(clients)";

/// The maps whose elements come from here, in an order in which what others need comes first.
pub const MAPS: [MapName; 19] = [
    By::Frontends.endpoints(),
    By::FrontendsInside.endpoints(),
    By::NodePorts.endpoints(),
    By::NodePortsInside.endpoints(),
    By::Frontends.endpoint_chains(),
    By::FrontendsInside.endpoint_chains(),
    By::NodePorts.endpoint_chains(),
    By::NodePortsInside.endpoint_chains(),
    HAIRPINS,
    ALLOWED_SOURCES,
    NODE_ADDRESSES,
    RESTRICTED,
    By::Frontends.verdicts(),
    By::FrontendsInside.verdicts(),
    By::NodePorts.verdicts(),
    By::NodePortsInside.verdicts(),
    REFUSED,
    REFUSED_NODE_PORTS,
    CLUSTER_ADDRESSES,
];

/// A way to a Service, with two maps: which chain connections go to, and the endpoints by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Cluster addresses and external ones.
    Frontends,
    /// External addresses, for clients in pods and on the node, where they take another course than
    /// others.
    FrontendsInside,
    NodePorts,
    NodePortsInside,
}

impl By {
    const ALL: [By; 4] = [By::Frontends, By::FrontendsInside, By::NodePorts, By::NodePortsInside];

    pub const fn verdicts(self) -> MapName {
        match self {
            By::Frontends => "frontends",
            By::FrontendsInside => "frontends_inside",
            By::NodePorts => "node_ports",
            By::NodePortsInside => "node_ports_inside",
        }
    }

    /// For Services that remember their clients: the chain of each endpoint, by number.
    pub const fn endpoint_chains(self) -> MapName {
        match self {
            By::Frontends => "endpoint_chains",
            By::FrontendsInside => "endpoint_chains_inside",
            By::NodePorts => "node_port_endpoint_chains",
            By::NodePortsInside => "node_port_endpoint_chains_inside",
        }
    }

    pub const fn endpoints(self) -> MapName {
        match self {
            By::Frontends => "endpoints",
            By::FrontendsInside => "endpoints_inside",
            By::NodePorts => "node_port_endpoints",
            By::NodePortsInside => "node_port_endpoints_inside",
        }
    }

    fn key(self) -> Vec<Field> {
        match self {
            By::Frontends | By::FrontendsInside => HERE.to_vec(),
            By::NodePorts | By::NodePortsInside => NODE_PORT.to_vec(),
        }
    }
}

/// A chain that sends connections to one of some endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceChain {
    pub by: By,
    pub endpoints: u32,
    pub masquerade: Masquerade,
    pub affinity: Option<Affinity>,
}

/// For which clients the node's address takes the place of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masquerade {
    /// Cluster addresses keep the client's; so do external ones by policy `Local`.
    Never,
    /// By policy `Cluster`, another node may have the endpoint: its answer must come back here.
    Always,
    /// By policy `Local`, only the node itself has an address that pods elsewhere may not answer
    /// to.
    ThisNode,
}

impl Masquerade {
    const ALL: [Masquerade; 3] = [Masquerade::Never, Masquerade::Always, Masquerade::ThisNode];

    fn name(self) -> &'static str {
        match self {
            Masquerade::Never => "direct",
            Masquerade::Always => "masquerade",
            Masquerade::ThisNode => "masquerade_node",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affinity {
    /// The map of the clients of this list of endpoints, by whatever way they come.
    pub clients: String,
    pub seconds: u32,
}

impl BalanceChain {
    /// The chain's name. It says everything about the chain, so that chains can be compared by
    /// name.
    pub fn name(&self) -> String {
        let name = format!("{}.{}.{}", self.by.verdicts(), self.endpoints, self.masquerade.name());
        match &self.affinity {
            None => name,
            Some(Affinity { clients, seconds }) => format!("{name}.{clients}.{seconds}"),
        }
    }

    fn from_name(name: &str) -> Option<BalanceChain> {
        let mut parts = name.split('.');
        let way = parts.next()?;
        let by = By::ALL.into_iter().find(|by| by.verdicts() == way)?;
        let endpoints = parts.next()?.parse().ok()?;
        let masquerade = parts.next()?;
        let masquerade = Masquerade::ALL.into_iter().find(|of| of.name() == masquerade)?;
        let affinity = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => None,
            (Some(clients), Some(seconds), None) => Some(Affinity { clients: clients.to_string(), seconds: seconds.parse().ok()? }),
            _ => return None,
        };
        Some(BalanceChain { by, endpoints, masquerade, affinity })
    }

    fn chain(&self) -> Chain {
        let choice = |map: MapName| Balance { map: map.to_string(), key: self.by.key(), count: self.endpoints };
        let mut rules = match self.masquerade {
            Masquerade::Never => Vec::new(),
            Masquerade::Always => vec![Rule::new([], Action::SetMark(MASQUERADE))],
            Masquerade::ThisNode => vec![Rule::new([Match::SourceIsLocal], Action::SetMark(MASQUERADE))],
        };
        match &self.affinity {
            None => rules.push(Rule::new([], Action::Balance(choice(self.by.endpoints())))),
            Some(Affinity { clients, seconds }) => rules.extend([
                // The target stays as it is: only the time begins anew. (If it ends between match
                // and action, there is no target, and the next rule does not match.)
                Rule::new([Match::IsRemembered(clients.clone())], remember(clients, *seconds, (Ipv4Addr::UNSPECIFIED, 0))),
                Rule::new(
                    [Match::IsRemembered(clients.clone())],
                    Action::DestinationNat { map: clients.clone(), key: vec![Field::SourceAddress] },
                ),
                Rule::new([], Action::DispatchByChance(choice(self.by.endpoint_chains()))),
            ]),
        }
        plain(&self.name(), rules)
    }
}

/// The chain of an endpoint of a Service that remembers its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointChain {
    pub affinity: Affinity,
    pub address: Ipv4Addr,
    pub port: u16,
}

impl EndpointChain {
    const WORD: &str = "to";

    /// As [`BalanceChain::name`].
    pub fn name(&self) -> String {
        let [a, b, c, d] = self.address.octets();
        format!("{}.{}.{}.{a}.{b}.{c}.{d}.{}", Self::WORD, self.affinity.clients, self.affinity.seconds, self.port)
    }

    fn from_name(name: &str) -> Option<EndpointChain> {
        let parts: Vec<&str> = name.split('.').collect();
        let [Self::WORD, clients, seconds, a, b, c, d, port] = parts[..] else { return None };
        let octet = |text: &str| text.parse::<u8>().ok();
        Some(EndpointChain {
            affinity: Affinity { clients: clients.to_string(), seconds: seconds.parse().ok()? },
            address: Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?),
            port: port.parse().ok()?,
        })
    }

    fn chain(&self) -> Chain {
        let target = (self.address, self.port);
        // The second one also for clients that there is no place left to remember.
        let rules = vec![
            Rule::new([], remember(&self.affinity.clients, self.affinity.seconds, target)),
            Rule::new([], Action::DestinationNatTo(self.address, self.port)),
        ];
        plain(&self.name(), rules)
    }
}

fn remember(clients: &str, seconds: u32, target: (Ipv4Addr, u16)) -> Action {
    Action::Remember { clients: clients.to_string(), seconds, target }
}

/// The chain of that name. None for a name that nothing here gave.
pub fn chain_of_name(name: &str) -> Option<Chain> {
    let balance = BalanceChain::from_name(name).map(|chain| chain.chain());
    balance.or_else(|| EndpointChain::from_name(name).map(|chain| chain.chain()))
}

/// A map of clients and the endpoints that they go back to; rules write it.
pub fn clients(name: &str) -> Map {
    map(name, MapKind::Remembered { elements_max: CLIENTS_MAX }, &[Field::SourceAddress])
}

/// All rules and maps, without elements and without the chains that balance.
pub fn skeleton(settings: &ServiceSettings) -> Ruleset {
    Ruleset { table: settings.table.clone(), maps: maps(), chains: chains(settings) }
}

fn maps() -> Vec<Map> {
    let ways = By::ALL.into_iter().flat_map(|by| {
        let endpoint = [by.key(), vec![Field::Index]].concat();
        [
            map(by.endpoints(), MapKind::ToAddressAndPort, &endpoint),
            map(by.endpoint_chains(), MapKind::ToVerdict, &endpoint),
            map(by.verdicts(), MapKind::ToVerdict, &by.key()),
        ]
    });
    let others = [
        map(REFUSED, MapKind::ToVerdict, &HERE),
        map(REFUSED_NODE_PORTS, MapKind::ToVerdict, &NODE_PORT),
        map(HAIRPINS, MapKind::Set, &[Field::SourceAddress, Field::DestinationAddress]),
        map(CLUSTER_ADDRESSES, MapKind::Set, &[Field::DestinationAddress]),
        map(NODE_ADDRESSES, MapKind::Set, &[Field::DestinationAddress]),
        map(RESTRICTED, MapKind::Set, &HERE),
        map(ALLOWED_SOURCES, MapKind::Ranges, &HERE_FROM),
    ];
    ways.chain(others).collect()
}

fn map(name: &str, kind: MapKind, key: &[Field]) -> Map {
    Map { name: name.to_string(), kind, key: key.to_vec(), elements: Default::default() }
}

fn chains(settings: &ServiceSettings) -> Vec<Chain> {
    let jump = |chain: &str| Rule::new([], Action::Jump(chain.to_string()));
    let for_new = |chain: &str| Rule::new([Match::IsNewConnection], Action::Jump(chain.to_string()));
    vec![
        plain(
            REJECT_CHAIN,
            vec![
                Rule::new([Match::Protocol(TCP)], Action::Reject(Rejection::TcpReset)),
                Rule::new([], Action::Reject(Rejection::PortUnreachable)),
            ],
        ),
        plain("firewall", firewall()),
        plain("services", services(settings)),
        plain("no_endpoints", no_endpoints()),
        plain("unknown", unknown(settings)),
        filter("firewall_of_arriving", Hook::Prerouting, FIREWALL, vec![for_new("firewall")]),
        filter("firewall_of_node", Hook::Output, FIREWALL, vec![for_new("firewall")]),
        nat("arriving", Hook::Prerouting, DESTINATION_NAT, vec![jump("services")]),
        nat("from_node", Hook::Output, DESTINATION_NAT, vec![jump("services")]),
        filter("refuse_at_node", Hook::Input, FILTER, vec![for_new("no_endpoints")]),
        filter("refuse_on_the_way", Hook::Forward, FILTER, vec![for_new("no_endpoints"), for_new("unknown")]),
        filter("refuse_of_node", Hook::Output, FILTER, vec![for_new("no_endpoints"), for_new("unknown")]),
        nat("leaving", Hook::Postrouting, SOURCE_NAT, leaving()),
    ]
}

/// Before destinations change: who may use a load balancer's address.
fn firewall() -> Vec<Rule> {
    let is_restricted = Match::InSet { set: RESTRICTED.to_string(), key: HERE.to_vec() };
    let is_not_allowed = Match::NotInSet { set: ALLOWED_SOURCES.to_string(), key: HERE_FROM.to_vec() };
    vec![Rule::new([is_restricted, is_not_allowed], Action::Drop)]
}

/// Clients in pods and on the node come first: where the policy is `Local`, they may use all
/// endpoints. Node ports are ports of the node's addresses only.
fn services(settings: &ServiceSettings) -> Vec<Rule> {
    let go = |by: By| Action::Dispatch { map: by.verdicts().to_string(), key: by.key() };
    let from_pods = || Match::SourceIn(settings.cluster_cidr);
    let to_cluster_address = Match::InSet { set: CLUSTER_ADDRESSES.to_string(), key: vec![Field::DestinationAddress] };
    vec![
        // Pods on other nodes do not know the way to clients outside, or have another one.
        Rule::new([Match::SourceNotIn(settings.cluster_cidr), to_cluster_address], Action::SetMark(MASQUERADE)),
        Rule::new([from_pods()], go(By::FrontendsInside)),
        Rule::new([Match::SourceIsLocal], go(By::FrontendsInside)),
        Rule::new([], go(By::Frontends)),
        Rule::new([to_node(), from_pods()], go(By::NodePortsInside)),
        Rule::new([to_node(), Match::SourceIsLocal], go(By::NodePortsInside)),
        Rule::new([to_node()], go(By::NodePorts)),
    ]
}

fn to_node() -> Match {
    Match::InSet { set: NODE_ADDRESSES.to_string(), key: vec![Field::DestinationAddress] }
}

/// What still has a Service's destination had no endpoint to go to.
fn no_endpoints() -> Vec<Rule> {
    let refuse = |map: &str, key: &[Field]| Action::Dispatch { map: map.to_string(), key: key.to_vec() };
    vec![Rule::new([], refuse(REFUSED, &HERE)), Rule::new([to_node()], refuse(REFUSED_NODE_PORTS, &NODE_PORT))]
}

/// Ports that the Service does not have are refused at once; addresses that no Service has are
/// dropped, or packets to them would leave the node by its default route.
fn unknown(settings: &ServiceSettings) -> Vec<Rule> {
    let known = Match::InSet { set: CLUSTER_ADDRESSES.to_string(), key: vec![Field::DestinationAddress] };
    let elsewhere = settings.service_cidrs.iter();
    let drops = elsewhere.map(|range| Rule::new([Match::DestinationIn(*range), Match::DestinationIsNotLocal], Action::Drop));
    [Rule::new([known], Action::Jump(REJECT_CHAIN.to_string()))].into_iter().chain(drops).collect()
}

fn leaving() -> Vec<Rule> {
    let to_itself = Match::InSet { set: HAIRPINS.to_string(), key: vec![Field::SourceAddress, Field::DestinationAddress] };
    vec![
        // A pod that gets a packet from itself answers itself, past the node that has to turn the
        // addresses back.
        Rule::new([Match::DestinationWasChanged, to_itself], Action::Masquerade),
        Rule::new([Match::HasMark(MASQUERADE)], Action::ClearMarkAndMasquerade(MASQUERADE)),
    ]
}

fn plain(name: &str, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_string(), kind: ChainKind::Plain, rules }
}

fn nat(name: &str, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_string(), kind: ChainKind::Nat { hook, priority }, rules }
}

fn filter(name: &str, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_string(), kind: ChainKind::Filter { hook, priority }, rules }
}
