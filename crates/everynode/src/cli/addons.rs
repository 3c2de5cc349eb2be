//! `everynode addons`: the manifests of the built-in DaemonSets, for clusters that `up` did not
//! make.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use ipnet::Ipv4Net;
use serde_json::json;

use crate::addons::{self, PodNetworkChoice, Site};

/// Print the manifests of pod-network, kube-proxy and node-dns, for `kubectl apply -f -`.
///
/// `everynode up` applies them to local clusters by itself. The agents of a fleet also need
/// `--cluster-dns 10.96.0.10`.
#[derive(Debug, Args)]
pub struct Addons {
    /// Where nodes reach the API server: an address or a name that its certificate has, and a port.
    #[arg(long, value_name = "HOST:PORT")]
    server: String,

    /// Range of the pods of all nodes.
    #[arg(long, value_name = "RANGE")]
    cluster_cidr: Ipv4Net,

    /// What connects the pods of different nodes. direct: routes between nodes of one network,
    /// VXLAN to others; vxlan: VXLAN only; wireguard: all of it encrypted; none: something else,
    /// that you bring.
    #[arg(long, default_value_t = PodNetworkChoice::default(), value_name = "direct|vxlan|wireguard|none")]
    pod_network: PodNetworkChoice,

    /// Let node-dns go through the search paths for pods: one question instead of four to seven for
    /// a name outside of the cluster. The resolver of each node may then read all pods. Not for
    /// nodes whose resolv.conf gets other search paths while pods run.
    #[arg(long)]
    autopath: bool,
}

impl Addons {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
        if !self.server.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && is_port(port)) {
            bail!("--server {:?} is no host and port, as in 192.0.2.10:6443", self.server);
        }
        let site = Site {
            server: self.server,
            cluster_cidr: self.cluster_cidr.to_string(),
            pod_network: self.pod_network,
            autopath: self.autopath,
        };
        let list = json!({"apiVersion": "v1", "kind": "List", "items": addons::manifests(&site)});
        let text = serde_json::to_string_pretty(&list).context("the manifests cannot be written")?;
        writeln!(std::io::stdout(), "{text}").context("cannot print the manifests")?;
        Ok(ExitCode::SUCCESS)
    }
}
