//! Preparing the nodes of a local cluster: names, addresses, certificates.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};

use super::network::Network;
use super::{Node, Spec, name};
use crate::addons::PodNetworkChoice;
use crate::certificates::{self, Authority};
use crate::clusters::Cluster;
use crate::kubeconfig;

/// Addresses and pod ranges are enough for this many nodes.
pub const NODES_MAX: u8 = 250;

/// The value of a label, and shorter than the kernel's longest host name.
const NAME_LENGTH_MAX: usize = 63;

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Makes what is missing of a cluster with a control plane and so many workers; nodes that are
/// there stay as they are.
pub fn prepare(cluster: &Cluster, workers: u8, names: &[String], addons: NodeAddons) -> anyhow::Result<Vec<Node>> {
    let mut nodes = cluster.nodes()?;
    if !nodes.is_empty() {
        return Ok(nodes);
    }
    let network = Network::ensure(cluster, addons.pod_network)?;
    for index in 0..=workers {
        let name = names.get(usize::from(index)).cloned().unwrap_or_else(|| name(&cluster.name, index));
        nodes.push(make(cluster, &network, &New { index, name: &name, has_workers: workers > 0, addons })?);
    }
    Ok(nodes)
}

/// Makes another worker.
pub fn add(cluster: &Cluster, wanted: Option<String>) -> anyhow::Result<Node> {
    let nodes = cluster.nodes()?;
    if nodes.is_empty() {
        bail!("cluster {} has no nodes of its own: it was started without root, or with simulated nodes only", cluster.name);
    }
    let index =
        (0..NODES_MAX).find(|index| nodes.iter().all(|node| node.spec.index != *index)).context("there is no room for another node")?;
    let name = wanted.unwrap_or_else(|| name(&cluster.name, index));
    check_names(std::slice::from_ref(&name))?;
    if nodes.iter().any(|node| node.spec.name == name) {
        bail!("there is a node {name} already");
    }
    let addons = NodeAddons::of(&nodes);
    make(cluster, &Network::ensure(cluster, addons.pod_network)?, &New { index, name: &name, has_workers: true, addons })
}

/// A node to make.
struct New<'a> {
    index: u8,
    name: &'a str,
    /// The cluster has other nodes than the control plane.
    has_workers: bool,
    addons: NodeAddons,
}

/// What the cluster gives its nodes, besides the API.
#[derive(Debug, Clone, Copy)]
pub struct NodeAddons {
    /// The cluster has the built-in DaemonSets.
    has_addons: bool,
    pod_network: PodNetworkChoice,
}

impl NodeAddons {
    /// All of them, with that network.
    pub fn with(pod_network: PodNetworkChoice) -> NodeAddons {
        NodeAddons { has_addons: true, pod_network }
    }

    pub fn none() -> NodeAddons {
        NodeAddons { has_addons: false, pod_network: PodNetworkChoice::None }
    }

    /// As the nodes that are there have it.
    fn of(nodes: &[Node]) -> NodeAddons {
        let has_addons = nodes.iter().any(|node| node.spec.has_addons);
        let pod_network = nodes.first().map_or(PodNetworkChoice::None, |node| node.spec.pod_network);
        NodeAddons { has_addons, pod_network }
    }
}

fn make(cluster: &Cluster, network: &Network, new: &New<'_>) -> anyhow::Result<Node> {
    let New { index, name, has_workers, addons } = *new;
    let mut labels = BTreeMap::new();
    let mut taints = Vec::new();
    if index == 0 {
        // As kubeadm and kind mark it: pods stay off it when there are workers.
        labels.insert(CONTROL_PLANE.to_owned(), String::new());
        labels.insert("node.kubernetes.io/exclude-from-external-load-balancers".to_owned(), String::new());
        if has_workers {
            taints.push(format!("{CONTROL_PLANE}:NoSchedule"));
        }
    }
    let spec = Spec {
        name: name.to_owned(),
        cluster: cluster.name.clone(),
        index,
        address: network.node(index),
        slot: network.slot,
        pod_cidr: network.pod_cidr(index),
        cluster_cidr: network.cluster_cidr(),
        labels,
        taints,
        image_dir: cluster.image_dir(),
        registries: Some(cluster.dir.join("registries.yaml")).filter(|path| path.exists()),
        has_addons: addons.has_addons,
        pod_network: addons.pod_network,
        is_stopped: false,
    };
    let node = Node::create(&cluster.nodes_dir(), spec)?;
    certify(&cluster.dir.join("pki"), &node)?;
    Ok(node)
}

/// Names that nodes can have: they become folders, host names and values of labels, and identify
/// the nodes.
pub fn check_names(names: &[String]) -> anyhow::Result<()> {
    for (at, name) in names.iter().enumerate() {
        let is_label = name.len() <= NAME_LENGTH_MAX;
        if !is_label || !kinds::names::dns1123_subdomain(name).is_empty() {
            bail!("{name:?} is no name for a node: use lower-case letters, digits, dashes and dots, at most {NAME_LENGTH_MAX}");
        }
        if names[..at].contains(name) {
            bail!("two nodes cannot have the same name {name}");
        }
    }
    Ok(())
}

/// Makes the credentials of a node anew if they end soon.
pub fn renew(node: &Node) -> anyhow::Result<()> {
    let is_due = certificates::is_due(&std::fs::read_to_string(node.dir.join("kubelet.crt")).unwrap_or_default());
    match node.dir.ancestors().nth(2).map(|dir| dir.join("pki")) {
        Some(pki) if is_due && pki.join("ca.key").exists() => certify(&pki, node),
        _ => Ok(()),
    }
}

/// Gives a node its credentials: a kubeconfig for its agent, a certificate for the agent's
/// endpoints.
fn certify(pki: &Path, node: &Node) -> anyhow::Result<()> {
    let authority = Authority::load_or_create(pki)?;
    let network = Network { slot: node.spec.slot };
    kubeconfig::write_node(&node.kubeconfig(), &authority, network.server(), &node.spec.name)?;
    let server = authority.node_server(&node.spec.name, node.spec.address.into())?;
    crate::private_file::write(&node.dir.join("kubelet.crt"), &server.certificate_pem)?;
    crate::private_file::write(&node.dir.join("kubelet.key"), &server.key_pem)?;
    crate::private_file::write(&node.dir.join("ca.crt"), &authority.certificate_pem)
}
