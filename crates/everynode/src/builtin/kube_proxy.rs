//! `kube-proxy`: the program of the DaemonSet of that name.

use std::net::SocketAddr;

use addons::kube_proxy::{self, Settings};
use anyhow::Context as _;
use clap::Parser;
use ipnet::Ipv4Net;

use super::in_cluster;

/// Keep the rules for addresses of Services on this node.
#[derive(Debug, Parser)]
#[command(name = "kube-proxy", no_binary_name = true)]
struct Arguments {
    #[command(flatten)]
    cluster: in_cluster::Connection,

    /// Ranges from which Services get their addresses, where the server has no ServiceCIDRs.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/12")]
    service_cidr: Vec<Ipv4Net>,

    /// Range of the pods of all nodes.
    #[arg(long)]
    cluster_cidr: Ipv4Net,

    /// Where /healthz answers.
    #[arg(long, default_value = "0.0.0.0:10256")]
    healthz_bind_address: SocketAddr,

    /// Where /metrics answers.
    #[arg(long, default_value = "127.0.0.1:10249")]
    metrics_bind_address: SocketAddr,
}

/// The table of rules for Services.
const TABLE: &str = "everynode-services";

pub fn run(arguments: &[String]) -> Result<(), String> {
    let arguments = Arguments::try_parse_from(arguments).map_err(|error| error.to_string())?;
    in_cluster::run(1, &arguments.cluster, async |client, shutdown| {
        let settings = Settings {
            own_set: arguments.cluster.own_set(),
            node_name: arguments.cluster.node_name.clone(),
            table: TABLE.to_owned(),
            cluster_cidr: arguments.cluster_cidr,
            service_cidrs: arguments.service_cidr.clone(),
            healthz: Some(arguments.healthz_bind_address),
            metrics: Some(arguments.metrics_bind_address),
        };
        kube_proxy::run(client, settings, shutdown).await.context("rules of Services cannot be kept")
    })
}
