//! `pod-network`: the program of the DaemonSet of that name.

use std::net::SocketAddr;

use addons::pod_network::{self, Settings};
use anyhow::Context as _;
use brain::pod_network::Mode;
use clap::Parser;
use ipnet::Ipv4Net;

use super::in_cluster;

/// Keep the routes from this node to the pods of all others.
#[derive(Debug, Parser)]
#[command(name = "pod-network", no_binary_name = true)]
struct Arguments {
    #[command(flatten)]
    cluster: in_cluster::Connection,

    /// How packets between nodes travel: direct, vxlan or wireguard.
    #[arg(long, default_value_t = Mode::default())]
    mode: Mode,

    /// Range of the pods of all nodes.
    #[arg(long)]
    cluster_cidr: Ipv4Net,

    /// Where /healthz and /readyz answer.
    #[arg(long, default_value = "0.0.0.0:10255")]
    health_bind_address: SocketAddr,
}

pub fn run(arguments: &[String]) -> Result<(), String> {
    let arguments = Arguments::try_parse_from(arguments).map_err(|error| error.to_string())?;
    in_cluster::run(1, &arguments.cluster, async |client, shutdown| {
        let settings = Settings {
            own_set: arguments.cluster.own_set(),
            node_name: arguments.cluster.node_name.clone(),
            mode: arguments.mode,
            cluster_cidr: arguments.cluster_cidr,
            health: Some(arguments.health_bind_address),
        };
        pod_network::run(client, settings, shutdown).await.context("the pod network cannot be kept")
    })
}
