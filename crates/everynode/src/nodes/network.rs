//! The network of a local cluster: a bridge on this machine, a range for its nodes and one for
//! their pods.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use ipnet::Ipv4Net;
use net::local::{Bridge, NodeLink, PodRoutes};
use serde::{Deserialize, Serialize};

use super::Spec;
use crate::addons::PodNetworkChoice;
use crate::clusters::Cluster;

/// The port at which nodes reach the server; the address is the cluster's own.
const SERVER_PORT: u16 = 6443;

/// Held while addresses are chosen; clusters of all users share the machine's.
const LOCK: &str = "/run/everynode-network.lock";

/// Nodes have a /24 together.
const PREFIX: u8 = 24;

/// The first node's place in the range; the gateway has the first.
const FIRST_NODE: u8 = 2;

/// What was chosen for a cluster; kept, so that it is the same after a restart and can be removed
/// after a crash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// 172.30.SLOT.0/24.
    pub slot: u8,
}

fn path(cluster: &Cluster) -> PathBuf {
    cluster.dir.join("network.json")
}

impl Network {
    pub fn read(cluster: &Cluster) -> Option<Network> {
        serde_json::from_slice(&std::fs::read(path(cluster)).ok()?).ok()
    }

    /// The cluster's network, chosen the first time, made if it is not there.
    pub fn ensure(cluster: &Cluster, pods: PodNetworkChoice) -> anyhow::Result<Network> {
        // Two clusters that start at the same time must not choose the same addresses.
        let lock = std::fs::File::create(LOCK).with_context(|| format!("cannot make {LOCK}"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).with_context(|| format!("cannot lock {LOCK}"))?;
        let network = match Network::read(cluster) {
            Some(network) => network,
            None => {
                let choice = net::local::choose_subnet().context("cannot choose addresses for the nodes")?;
                let network = Network { slot: choice.slot };
                crate::private_file::write(&path(cluster), &serde_json::to_string(&network)?)?;
                network
            }
        };
        network.bridge(&cluster.name, pods)?;
        Ok(network)
    }

    fn bridge(&self, cluster: &str, between: PodNetworkChoice) -> anyhow::Result<Bridge> {
        let between = match between {
            PodNetworkChoice::BuiltIn(_) => PodRoutes::OfNodes,
            PodNetworkChoice::None => PodRoutes::OfThisHost,
        };
        let gateway = Ipv4Net::new(self.gateway(), PREFIX).context("the prefix is valid")?;
        let pods = Ipv4Net::new(Ipv4Addr::new(10, self.pod_octet(), 0, 0), 16).context("the prefix is valid")?;
        Bridge::ensure(cluster, gateway, pods, between).context("cannot make the bridge that connects the nodes")
    }

    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, self.slot, 1)
    }

    pub fn server(&self) -> SocketAddr {
        SocketAddr::from((self.gateway(), SERVER_PORT))
    }

    /// The address of the node at that place.
    pub fn node(&self, index: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, self.slot, FIRST_NODE + index)
    }

    fn pod_octet(&self) -> u8 {
        244 - self.slot
    }

    pub fn pod_cidr(&self, index: u8) -> String {
        format!("10.{}.{index}.0/24", self.pod_octet())
    }

    pub fn cluster_cidr(&self) -> String {
        format!("10.{}.0.0/16", self.pod_octet())
    }
}

/// Connects the namespace of a process with the cluster's bridge.
pub fn connect(spec: &Spec, pid: u32) -> anyhow::Result<()> {
    let network = Network { slot: spec.slot };
    let pod_cidr = spec.pod_cidr.parse().with_context(|| format!("{} is no range of addresses", spec.pod_cidr))?;
    let link = NodeLink { pid, name: spec.name.clone(), address: spec.address, pod_cidr };
    let connected = network.bridge(&spec.cluster, spec.pod_network)?.connect(&link);
    connected.with_context(|| format!("cannot connect node {} to the network", spec.name))
}

/// Takes a node's link and route away.
pub fn disconnect(spec: &Spec) -> anyhow::Result<()> {
    let network = Network { slot: spec.slot };
    let disconnected = network.bridge(&spec.cluster, spec.pod_network)?.disconnect(&spec.name, spec.address);
    disconnected.with_context(|| format!("cannot disconnect node {}", spec.name))
}

/// Removes the bridge and everything that belongs to it. A cluster that has none is left alone.
pub fn remove(cluster: &Cluster) -> anyhow::Result<()> {
    if Network::read(cluster).is_none() {
        return Ok(());
    }
    Bridge::remove(&cluster.name).context("cannot remove the bridge that connected the nodes")
}
