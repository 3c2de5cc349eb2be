//! Ways to pods of other nodes: traffic by routes, VXLAN and WireGuard beside a pair of links with
//! nothing between, and writing the ways to many nodes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, ensure};
use containers::{Peer, Way as Travel, WireGuardKey};
use ipnet::{IpNet, Ipv4Net};
use net::peers::{PeerNetwork, PeerNetworkSettings};

use super::super::figures::line;
use super::cluster;
use super::traffic::{self, Way};
use super::world::Namespace;

const PEERS: u32 = 5000;
const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 9, 1), Ipv4Addr::new(192, 168, 9, 2)];
/// What fits through a tunnel over links of 1,500 bytes.
const VXLAN_MTU: u32 = 1450;
const WIREGUARD_MTU: u32 = 1440;
const PLAIN_MTU: u32 = 1500;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Direct,
    Vxlan,
    WireGuard,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Direct, Kind::Vxlan, Kind::WireGuard];

    fn name(self) -> &'static str {
        match self {
            Kind::Direct => "routes",
            Kind::Vxlan => "VXLAN",
            Kind::WireGuard => "WireGuard",
        }
    }

    fn mtu(self) -> u32 {
        match self {
            Kind::Direct => PLAIN_MTU,
            Kind::Vxlan => VXLAN_MTU,
            Kind::WireGuard => WIREGUARD_MTU,
        }
    }

    fn way(self, key: WireGuardKey) -> Travel {
        match self {
            Kind::Direct => Travel::Direct,
            Kind::Vxlan => Travel::Vxlan,
            Kind::WireGuard => Travel::WireGuard { public_key: key },
        }
    }
}

pub fn measure() -> anyhow::Result<()> {
    let (client, server) = (Namespace::new()?, Namespace::new()?);
    client.cable("eth1", "10.0.0.1/24", &server, "10.0.0.2/24")?;
    traffic::serve(&server)?;
    let worlds = Kind::ALL.into_iter().map(World::new).collect::<anyhow::Result<Vec<World>>>()?;
    let pair = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 2), cluster::TARGET_PORT));
    let mut ways = vec![Way { what: "a pair of links".to_owned(), from: &client, target: pair }];
    ways.extend(worlds.iter().map(|world| Way {
        what: format!("pod to pod of another node, {}", world.kind.name()),
        from: &world.client,
        target: SocketAddr::from((Ipv4Addr::new(10, 244, 1, 2), cluster::TARGET_PORT)),
    }));
    traffic::compare(ways)?;
    // Many WireGuard peers are the kernel's affair, where it has WireGuard.
    [Kind::Direct, Kind::Vxlan].into_iter().try_for_each(write_many)
}

/// Two nodes on one link, a pod on each.
struct World {
    kind: Kind,
    client: Namespace,
    _others: Vec<Namespace>,
    _networks: Vec<PeerNetwork>,
}

impl World {
    fn new(kind: Kind) -> anyhow::Result<World> {
        let nodes = [Namespace::new()?, Namespace::new()?];
        let pods = [Namespace::new()?, Namespace::new()?];
        nodes[0].cable("link", &format!("{}/24", NODES[0]), &nodes[1], &format!("{}/24", NODES[1]))?;
        let mut networks = Vec::new();
        for (number, (node, pod)) in nodes.iter().zip(&pods).enumerate() {
            node.cable_of(kind.mtu(), "pod", &format!("10.244.{number}.1/24"), pod, &format!("10.244.{number}.2/24"))?;
            networks.push(open(node, NODES[number], range(u32::try_from(number)? * 256))?);
        }
        let keys: Vec<WireGuardKey> = match kind {
            Kind::WireGuard => networks.iter_mut().map(PeerNetwork::public_key).collect::<Result<_, _>>().context("no WireGuard")?,
            _ => vec![WireGuardKey([0; 32]); 2],
        };
        for (number, network) in networks.iter_mut().enumerate() {
            let other = 1 - number;
            let peer = peer(u32::try_from(other)? * 256, NODES[other], kind.way(keys[other]));
            let applied = network.apply(&[peer]).context("cannot write the way to the other node")?;
            ensure!(applied.failed.is_empty(), "{:?}", applied.failed.values());
        }
        let [client, server] = pods;
        traffic::serve(&server)?;
        Ok(World { kind, client, _others: nodes.into_iter().chain([server]).collect(), _networks: networks })
    }
}

fn open(node: &Namespace, address: Ipv4Addr, pod_cidr: Ipv4Net) -> anyhow::Result<PeerNetwork> {
    let opened = node.inside(|| PeerNetwork::open(PeerNetworkSettings::new(address, pod_cidr)).map_err(std::io::Error::other));
    opened.context("cannot open the network of a node")
}

/// The /24 that begins so many addresses after 10.244.0.0.
fn range(offset: u32) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 0, 0)) + offset), 24)
}

fn peer(offset: u32, address: Ipv4Addr, way: Travel) -> Peer {
    Peer { name: format!("node-{offset}"), address: IpAddr::V4(address), pod_cidr: IpNet::V4(range(offset)), way }
}

/// Writes the ways to many nodes of one network, then changes one.
fn write_many(kind: Kind) -> anyhow::Result<()> {
    let (node, other) = (Namespace::new()?, Namespace::new()?);
    node.cable("link", "172.16.0.1/12", &other, "172.16.0.2/12")?;
    let own = Ipv4Net::new_assert(Ipv4Addr::new(10, 243, 0, 0), 24);
    let open = || open(&node, Ipv4Addr::new(172, 16, 0, 1), own);
    let address = |number: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 1, 0)) + number);
    let way = kind.way(WireGuardKey([0; 32]));
    let mut peers: Vec<Peer> = (0..PEERS).map(|number| peer(number * 256, address(number), way)).collect();
    let mut network = open()?;
    let timed = |network: &mut PeerNetwork, peers: &[Peer]| -> anyhow::Result<(f64, usize)> {
        let began = Instant::now();
        let applied = network.apply(peers).context("cannot write the ways")?;
        ensure!(applied.failed.is_empty(), "{:?}", applied.failed.values().next());
        Ok((began.elapsed().as_secs_f64() * 1000.0, applied.messages))
    };
    let (cold, messages) = timed(&mut network, &peers)?;
    peers[0].address = IpAddr::V4(address(PEERS));
    let (one, changed) = timed(&mut network, &peers)?;
    let (again, restarted) = timed(&mut open()?, &peers)?;
    line(
        &format!("ways to {PEERS} nodes, {}", kind.name()),
        &format!("all {cold:.0} ms ({messages} messages), one moves {one:.0} ms ({changed}), restart {again:.0} ms ({restarted})"),
    );
    Ok(())
}
