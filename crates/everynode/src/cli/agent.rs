//! `everynode agent`: this machine as a node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ::agent::node::Settings;
use anyhow::{Context, bail};
use brain::podsync::eviction::Thresholds;
use clap::Args;
use kinds::quantity::Quantity;

use crate::certificates::TlsFiles;
use crate::roles;

/// Make this machine a node of a cluster: register it and run the pods bound to it, in the
/// foreground.
///
/// Needs root. SIGTERM and SIGINT stop the agent; its containers go on running, and the next agent
/// finds them.
#[derive(Debug, Args)]
pub struct Agent {
    /// How to reach the API server, and as which user (system:node:NAME of the group system:nodes).
    #[arg(long)]
    kubeconfig: PathBuf,

    /// Name of the Node object; this machine's host name when left out.
    #[arg(long)]
    node_name: Option<String>,

    /// Addresses of this node, the main one first; the one that leads to the default route when
    /// left out.
    #[arg(long = "node-ip", value_delimiter = ',')]
    addresses: Vec<IpAddr>,

    /// Labels for the node: key=value.
    #[arg(long = "node-labels", value_delimiter = ',', value_parser = parse_label)]
    labels: Vec<(String, String)>,

    /// Taints for a node that registers for the first time: key=value:Effect.
    #[arg(long = "register-with-taints", value_delimiter = ',')]
    taints: Vec<String>,

    /// The name of this machine at its provider, for the Node object: aws:///zone/id.
    #[arg(long)]
    provider_id: Option<String>,

    /// Range of this node's pod addresses; by default the one that the server gives it.
    #[arg(long)]
    pod_cidr: Option<String>,

    /// Range of all pods of the cluster: what goes there keeps its sender's address. For nodes with
    /// --pod-cidr; the others learn it from the server.
    #[arg(long, requires = "pod_cidr")]
    cluster_cidr: Option<String>,

    /// `none` for a node that connects no pods itself: only pods with hostNetwork run on it, or
    /// containerd connects them with plugins of its own.
    #[arg(long, default_value = "routed", value_parser = ["routed", "none"], conflicts_with = "pod_cidr")]
    pod_network: String,

    /// Volumes and files of pods.
    #[arg(long, default_value = "/var/lib/kubelet")]
    root_dir: PathBuf,

    /// What containers write, and their records.
    #[arg(long, default_value = "/var/lib/everynode/containers")]
    data_dir: PathBuf,

    /// Sockets and namespaces of running containers.
    #[arg(long, default_value = "/run/everynode")]
    state_dir: PathBuf,

    /// Images; may be shared by the nodes of a machine.
    #[arg(long, default_value = "/var/lib/everynode/images")]
    image_dir: PathBuf,

    /// Pods' logs go to LOG_DIR/pods, links to them to LOG_DIR/containers.
    #[arg(long, default_value = "/var/log")]
    log_dir: PathBuf,

    /// Manifests of static pods.
    #[arg(long = "pod-manifest-path")]
    manifest_dir: Option<PathBuf>,

    /// YAML file with mirrors and insecure registries.
    #[arg(long)]
    registries: Option<PathBuf>,

    /// Socket of containerd or CRI-O, to use instead of the embedded runtime:
    /// unix:///run/containerd/containerd.sock.
    #[arg(long)]
    container_runtime_endpoint: Option<String>,

    /// Control group above those of this node's pods.
    #[arg(long, default_value = "everynode")]
    cgroup_root: String,

    /// The cluster's resolvers.
    #[arg(long, value_delimiter = ',')]
    cluster_dns: Vec<IpAddr>,

    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,

    /// Pods that this node takes at most.
    #[arg(long, default_value_t = 250)]
    max_pods: u32,

    /// Port of this agent's own endpoints: logs, exec, statistics.
    #[arg(long, default_value_t = 10250)]
    port: u16,

    /// Certificate and key of this agent's endpoints, and the authority whose clients may use them;
    /// all three or none.
    #[arg(long, requires_all = ["tls_private_key_file", "client_ca_file"])]
    tls_cert_file: Option<PathBuf>,

    #[arg(long)]
    tls_private_key_file: Option<PathBuf>,

    #[arg(long)]
    client_ca_file: Option<PathBuf>,

    /// Seconds that all pods together get to end when the machine goes down (systemd stops it, or
    /// SIGPWR); 0 leaves them alone.
    #[arg(long, default_value_t = 0)]
    shutdown_grace_period: u64,

    /// The part of it that is kept for critical pods, which end last.
    #[arg(long, default_value_t = 0)]
    shutdown_grace_period_critical_pods: u64,

    /// When pods are evicted, where it differs from
    /// 'memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,pid.available<5%'.
    #[arg(long, default_value = "", hide_default_value = true)]
    eviction_hard: String,

    /// Sysctls that pods may set besides the safe ones: names, or prefixes that end in '*'
    /// (net.core.*). Only those of a pod's own namespaces.
    #[arg(long, value_delimiter = ',')]
    allowed_unsafe_sysctls: Vec<String>,

    /// Users of pods with users of their own (hostUsers: false) are those of the machine from here
    /// on; agents that share a machine get different ones. 65536 when left out; 0: there are none
    /// for this agent, and it makes no such pods.
    #[arg(long)]
    first_user_id: Option<u32>,

    /// Images that nothing uses are removed from this percentage of the disk on; 100: only when the
    /// disk is short.
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(i64).range(0..=100))]
    image_gc_high_threshold: i64,

    /// They are removed until this percentage.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(i64).range(0..=100))]
    image_gc_low_threshold: i64,

    /// What the node says it has instead of what the machine has.
    #[arg(long)]
    cpu: Option<String>,

    #[arg(long)]
    memory: Option<String>,
}

/// What threads that still write something get when the agent ends.
const THREADS_TIMEOUT: Duration = Duration::from_secs(10);

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is no label: write key=value"))?;
    if !kinds::names::may_be_set_by_nodes(key) {
        return Err(format!(
            "a node may not set {key} on itself: the API server would refuse it; set it as an administrator, with `kubectl label node`"
        ));
    }
    Ok((key.to_owned(), value.to_owned()))
}

impl Agent {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if !rustix::process::geteuid().is_root() {
            bail!("the agent makes namespaces, mounts and control groups for containers: run it as root");
        }
        let addresses = if self.addresses.is_empty() { vec![default_address()?] } else { self.addresses };
        let amount = |text: &Option<String>, what: &str| match text {
            None => Ok(None),
            Some(text) => Quantity::parse(text).map(Some).with_context(|| format!("--{what} {text:?} is no quantity")),
        };
        let mut thresholds = Thresholds {
            images_high_percent: self.image_gc_high_threshold,
            images_low_percent: self.image_gc_low_threshold,
            ..Thresholds::default()
        };
        thresholds.set(&self.eviction_hard).map_err(|error| anyhow::anyhow!("--eviction-hard: {error}"))?;
        let node = Settings {
            name: self.node_name.unwrap_or_else(roles::hostname),
            addresses,
            labels: self.labels.into_iter().collect::<BTreeMap<_, _>>(),
            taints: self.taints,
            root_dir: self.root_dir,
            image_dir: self.image_dir,
            log_dir: self.log_dir,
            manifest_dir: self.manifest_dir,
            cgroup_root: self.cgroup_root,
            cluster_dns: self.cluster_dns,
            cluster_domain: self.cluster_domain,
            max_pods: self.max_pods,
            port: self.port,
            provider_id: self.provider_id,
            pod_cidr: self.pod_cidr,
            allowed_unsafe_sysctls: self.allowed_unsafe_sysctls,
            first_user_id: self.first_user_id,
            thresholds,
            cpu_millis: amount(&self.cpu, "cpu")?.map(|quantity| quantity.millis()),
            memory_bytes: amount(&self.memory, "memory")?.map(|quantity| quantity.value()),
        };
        let options = roles::agent::Options {
            node,
            kubeconfig: self.kubeconfig,
            cluster_cidr: self.cluster_cidr,
            has_pod_network: self.pod_network != "none",
            data_dir: self.data_dir,
            state_dir: self.state_dir,
            registries: self.registries,
            container_runtime: self.container_runtime_endpoint,
            tls: match (self.tls_cert_file, self.tls_private_key_file, self.client_ca_file) {
                (Some(certificate), Some(key), Some(authority)) => Some(TlsFiles { certificate, key, authority }),
                _ => None,
            },
            shutdown: ::agent::node::shutdown::Periods {
                all: Duration::from_secs(self.shutdown_grace_period),
                critical: Duration::from_secs(self.shutdown_grace_period_critical_pods),
            },
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
        let ran = runtime.block_on(roles::agent::run(options));
        // A thread that hangs in a pod's file system would keep the agent from ending.
        runtime.shutdown_timeout(THREADS_TIMEOUT);
        ran.map(|()| ExitCode::SUCCESS)
    }
}

/// The address from which packets to the outside would go; nothing is sent.
fn default_address() -> anyhow::Result<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").context("cannot open a socket")?;
    socket.connect("192.0.2.1:9").context("there is no default route; give --node-ip")?;
    Ok(socket.local_addr().context("cannot tell this node's address; give --node-ip")?.ip())
}
