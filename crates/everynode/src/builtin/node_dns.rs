//! `node-dns`: the program of the DaemonSet of that name.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use addons::node_dns::{self, Settings};
use anyhow::Context as _;
use clap::Parser;
use ipnet::IpNet;

use super::in_cluster;

/// Answer for the cluster's names on this node.
#[derive(Debug, Parser)]
#[command(name = "node-dns", no_binary_name = true)]
struct Arguments {
    #[command(flatten)]
    cluster: in_cluster::Connection,

    /// Where pods ask; the node gets it as an address of its own.
    #[arg(long)]
    address: Ipv4Addr,

    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,

    /// Ranges from which Services get their addresses.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/12")]
    service_cidr: Vec<IpNet>,

    /// Range of the pods of all nodes.
    #[arg(long)]
    cluster_cidr: IpNet,

    /// Names the resolvers that are asked for other names.
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,

    /// Where /health, /ready and /metrics answer.
    #[arg(long, default_value = "0.0.0.0:8181")]
    health_bind_address: SocketAddr,

    /// Go through the search paths for pods of this node: one question instead of four to seven for
    /// a name outside of the cluster. Needs the right to list and watch pods. The answer can be
    /// wrong for pods that started before the search paths of the node's resolv.conf changed, and
    /// for those that bring a resolv.conf of their own.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    autopath: bool,
}

/// The table of rules for the resolver's address.
const TABLE: &str = "everynode-dns";
const PORT: u16 = 53;

pub fn run(arguments: &[String]) -> Result<(), String> {
    let arguments = Arguments::try_parse_from(arguments).map_err(|error| error.to_string())?;
    in_cluster::run(node_dns::threads(), &arguments.cluster, async |client, shutdown| {
        let settings = Settings {
            own_set: arguments.cluster.own_set(),
            domain: arguments.cluster_domain.trim_end_matches('.').to_ascii_lowercase(),
            address: arguments.address,
            port: PORT,
            ranges: arguments.service_cidr.iter().copied().chain([arguments.cluster_cidr]).collect(),
            resolv_conf: arguments.resolv_conf.clone(),
            health: Some(arguments.health_bind_address),
            table: Some(TABLE.to_owned()),
            autopath: arguments.autopath.then(|| arguments.cluster.node_name.clone()),
        };
        node_dns::run(client, settings, shutdown).await.context("names cannot be answered")
    })
}
