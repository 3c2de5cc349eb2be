//! `everynode server`: the control plane in the foreground.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use apiserver::audit::Rotation;
use brain::node_ipam::{ClusterRange, ClusterRanges, RangeError};
use clap::Args;
use ipnet::IpNet;

use crate::roles;

/// Run the control plane in the foreground.
///
/// Serves the Kubernetes API, keeps its state in the data directory and runs the controllers. Once
/// it serves, it writes DATA_DIR/admin.kubeconfig (for cluster administrators, mode 0600) and
/// prints `ready https://ADDRESS:PORT`. SIGTERM and SIGINT stop it.
#[derive(Debug, Args)]
pub struct Server {
    /// Where state, certificates and admin.kubeconfig live; made if missing.
    #[arg(long)]
    data_dir: PathBuf,

    /// Address and port to serve on; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,

    /// Another address and port to serve on, for nodes that do not reach the first.
    #[arg(long)]
    also_listen: Option<SocketAddr>,

    /// Address at which pods reach this server by the Service `kubernetes`; by default one that it
    /// listens on, or the machine's own.
    #[arg(long)]
    advertise_address: Option<IpAddr>,

    /// Which controllers to run: `*` for all, `none` for the API alone.
    #[arg(long, default_value = "*", value_parser = ["*", "none"])]
    controllers: String,

    /// Also run this many simulated nodes in this process.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    simulate: u32,

    /// Name of the cluster, with which the names of simulated nodes begin.
    #[arg(long, default_value = "everynode")]
    cluster_name: String,

    /// Range of the pods of all nodes: each node that comes without a range gets its own out of it.
    /// Two, separated by a comma, for IPv4 and IPv6. None: nodes bring their ranges.
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,

    /// Length of the prefix of a node's range: 24 for 256 addresses.
    #[arg(long, default_value_t = 24)]
    node_cidr_mask_size: u8,

    /// The same for IPv6.
    #[arg(long, default_value_t = 64)]
    node_cidr_mask_size_ipv6: u8,

    /// Admission plugins to leave out; only ServiceAccount can be.
    #[arg(long, value_delimiter = ',', value_parser = ["ServiceAccount"])]
    disable_admission_plugins: Vec<String>,

    #[command(flatten)]
    audit: Audit,
}

/// The audit log: who did what.
#[derive(Debug, Args)]
struct Audit {
    /// Write audit.k8s.io/v1 events to this file, a line each.
    #[arg(long, value_name = "FILE")]
    audit_log_path: Option<PathBuf>,

    /// What to write: a Policy of audit.k8s.io/v1. Without it, the metadata of every request.
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    audit_policy_file: Option<PathBuf>,

    /// Begin a new file when one has so many megabytes; 0 for never.
    #[arg(long, value_name = "MB", default_value_t = 100, requires = "audit_log_path")]
    audit_log_maxsize: u64,

    /// Keep so many full files; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 10, requires = "audit_log_path")]
    audit_log_maxbackup: usize,

    /// Keep full files for so many days; 0 forever.
    #[arg(long, value_name = "DAYS", default_value_t = 0, requires = "audit_log_path")]
    audit_log_maxage: u64,
}

impl Audit {
    fn options(self) -> Option<roles::server::AuditOptions> {
        Some(roles::server::AuditOptions {
            path: self.audit_log_path?,
            policy: self.audit_policy_file,
            rotation: Rotation {
                megabytes_max: self.audit_log_maxsize,
                backups_max: self.audit_log_maxbackup,
                days_max: self.audit_log_maxage,
            },
        })
    }
}

impl Server {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let prefix = |range: &IpNet| if range.addr().is_ipv4() { self.node_cidr_mask_size } else { self.node_cidr_mask_size_ipv6 };
        let ranges: Result<Vec<ClusterRange>, RangeError> =
            self.cluster_cidr.iter().map(|range| ClusterRange::new(*range, prefix(range))).collect();
        let options = roles::server::Options {
            pod_ranges: ranges.and_then(ClusterRanges::new).context("--cluster-cidr")?,
            data_dir: self.data_dir,
            listen: self.listen,
            also_listen: self.also_listen,
            advertise: self.advertise_address,
            controllers: self.controllers != "none",
            simulated_nodes: (1..=self.simulate).map(|n| format!("{}-{n}", crate::nodes::base(&self.cluster_name))).collect(),
            service_account_admission: self.disable_admission_plugins.is_empty(),
            audit: self.audit.options(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
        runtime.block_on(roles::server::run(options))?;
        Ok(ExitCode::SUCCESS)
    }
}
