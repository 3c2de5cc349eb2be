//! `everynode up`: a local cluster, started or found running.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent::tree::Tree;
use anyhow::{Context, bail};
use brain::model::Key;
use clap::Args;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};

use super::apply::{self, Manifest};
use super::live;
use super::local::Local;
use super::progress::Progress;
use crate::addons::PodNetworkChoice;
use crate::clusters::{Cluster, Record, ServerOptions};
use crate::nodes::network::Network;
use crate::nodes::setup::NodeAddons;
use crate::{addons, data_dir, kubeconfig, nodes, program};

/// What there is when nothing is asked for: with root, and without.
const WORKERS: u8 = 2;
const SIMULATED: u32 = 3;

const POLL_PERIOD: Duration = Duration::from_millis(50);

/// The taint of nodes that are not Ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// Start a local cluster and make it kubectl's current one.
///
/// Does nothing to a cluster that runs already, except applying what `-f` names. Returns when all
/// nodes are Ready and every DaemonSet of `-f` has rolled out. The context is called everynode-NAME
/// and goes into the first file of $KUBECONFIG, or ~/.kube/config.
#[derive(Debug, Args)]
pub struct Up {
    #[command(flatten)]
    local: Local,

    /// How many workers to run besides the control plane's node, each with real containers, in
    /// namespaces of this machine. Needs root. Two, unless nodes are simulated.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=200))]
    workers: Option<u8>,

    /// How many simulated nodes to run: they run pods without containers. Three where there can be
    /// no real ones.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    simulate: Option<u32>,

    /// Names for the control plane's node and the workers, in this order, instead of
    /// NAME-control-plane, NAME-worker, NAME-worker2, ...
    #[arg(long, value_delimiter = ',')]
    node_names: Vec<String>,

    /// YAML file with mirrors and insecure registries for a new cluster's nodes.
    #[arg(long)]
    registries: Option<PathBuf>,

    /// Manifests to apply: files, directories, or - for standard input. May be given more than
    /// once.
    #[arg(short = 'f', long = "filename")]
    files: Vec<PathBuf>,

    /// Make a new cluster without the DaemonSets that clusters with real nodes have in kube-system:
    /// pod-network, kube-proxy and node-dns.
    #[arg(long)]
    without_addons: bool,

    /// What connects the pods of a new cluster's nodes: direct, vxlan, wireguard, or none for
    /// routes of this machine.
    #[arg(long, default_value_t = PodNetworkChoice::default(), value_name = "direct|vxlan|wireguard|none")]
    pod_network: PodNetworkChoice,

    /// Give up waiting after this many seconds.
    #[arg(long, default_value_t = 300)]
    timeout_seconds: u64,
}

impl Up {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let manifests = apply::read(&self.files)?;
        nodes::setup::check_names(&self.node_names)?;
        let cluster = self.local.cluster()?;
        let progress = Progress::start();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the async runtime")?;
        let timeout = Duration::from_secs(self.timeout_seconds);
        let record = match runtime.block_on(serving(&cluster, timeout, &progress))? {
            Some(record) => {
                // Versions before did not write it down.
                data_dir::claim(&cluster.dir, &cluster.name)?;
                progress.done(&format!("cluster {} runs already at {}", cluster.name, record.address));
                record
            }
            None => {
                progress.doing("starting the control plane");
                let record = self.start(&cluster, &progress)?;
                progress.done(&format!("control plane at {}", record.address));
                record
            }
        };
        let nodes = cluster.nodes()?;
        for node in nodes.iter().filter(|node| !node.spec.is_stopped) {
            progress.doing(&format!("starting node {}", node.spec.name));
            node.start()?;
        }
        let wanted = record.simulated_nodes + nodes.iter().filter(|node| !node.spec.is_stopped).count();
        let context = kubeconfig::merge(&cluster.kubeconfig(), &cluster.name)?;
        progress.done(&format!("kubectl context {context} in {}", kubeconfig::user_path()?.display()));
        let addons = addons(&nodes)?;
        let sets: Vec<Key> = manifests.iter().filter(|manifest| manifest.is_daemon_set()).map(Manifest::key).collect();
        let work = async {
            let client = kubeconfig::client(&cluster.kubeconfig()).await?;
            apply::apply_quietly(&client, &addons).await?;
            let labels = nodes.iter().map(|node| (node.spec.name.as_str(), &node.spec.labels)).collect();
            wait_for_nodes(&client, wanted, &labels, &progress).await?;
            apply::apply(&client, &manifests, &progress).await?;
            roll_out(&client, &record.address, &sets, &progress).await
        };
        match runtime.block_on(async { tokio::time::timeout(timeout, work).await }) {
            Ok(result) => result?,
            Err(_) => {
                let log = cluster.log();
                bail!(
                    "not everything was ready within {} s; see `everynode status`, `everynode why` and {}",
                    self.timeout_seconds,
                    log.display()
                )
            }
        }
        progress.finish(&self.next(&sets));
        Ok(ExitCode::SUCCESS)
    }

    /// What to type next.
    fn next(&self, sets: &[Key]) -> String {
        let (program, which) = (program::typed(), self.local.arguments());
        let mut lines = vec!["next:".to_owned()];
        match sets.first() {
            None => lines.push("  kubectl get nodes".to_owned()),
            Some(Key { namespace, name }) => {
                let of = if &**namespace == "default" { String::new() } else { format!(" -n {namespace}") };
                lines.push(format!("  kubectl get pods -o wide{of}"));
                lines.push(format!("  {program} why ds/{name}{of}"));
            }
        }
        lines.extend(["status", "down"].map(|command| format!("  {program} {command}{which}")));
        lines.join("\n")
    }
}

/// The manifests of what nodes need from the cluster; none for a cluster without real nodes, and
/// for one that was made without them.
fn addons(nodes: &[nodes::Node]) -> anyhow::Result<Vec<Manifest>> {
    let Some(node) = nodes.iter().find(|node| node.spec.has_addons) else { return Ok(Vec::new()) };
    let site = addons::Site {
        server: Network { slot: node.spec.slot }.server().to_string(),
        cluster_cidr: node.spec.cluster_cidr.clone(),
        pod_network: node.spec.pod_network,
        autopath: false,
    };
    addons::manifests(&site).into_iter().map(apply::of_object).collect()
}

/// The record of a server that serves. One that was ended a moment ago is still a process, but
/// answers no more: it is waited for until it is gone.
async fn serving(cluster: &Cluster, timeout: Duration, progress: &Progress) -> anyhow::Result<Option<Record>> {
    let deadline = Instant::now() + timeout;
    while let Some(record) = cluster.running() {
        if kubeconfig::is_answered(&cluster.kubeconfig()).await {
            return Ok(Some(record));
        }
        if Instant::now() > deadline {
            let log = cluster.log();
            bail!(
                "the server of cluster {} is process {}, but does not answer at {}; see {}, or end it and start the cluster again",
                cluster.name,
                record.process.pid,
                record.address,
                log.display()
            );
        }
        progress.doing("waiting for the server to answer, or to end");
        tokio::time::sleep(POLL_PERIOD).await;
    }
    Ok(None)
}

/// Waits for the DaemonSets, and shows how far they are.
async fn roll_out(client: &Client, server: &str, sets: &[Key], progress: &Progress) -> anyhow::Result<()> {
    if sets.is_empty() {
        return Ok(());
    }
    live::during(apply::rolled_out(client, sets, progress), client, server, sets, progress).await?;
    if let Some(screen) = progress.screen() {
        let board = live::look(client, server, |key| sets.contains(key)).await?;
        screen.leave(&board.lines(screen.room()).join("\n"));
    }
    Ok(())
}

/// How many nodes of which kind.
struct Mix {
    /// None: no real nodes.
    workers: Option<u8>,
    simulated: u32,
}

impl Up {
    fn start(&self, cluster: &Cluster, progress: &Progress) -> anyhow::Result<Record> {
        let mix = self.mix(progress)?;
        data_dir::prepare(&cluster.dir)?;
        let mut options = ServerOptions { simulated_nodes: mix.simulated as usize, network: None };
        if let Some(path) = &self.registries {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            crate::private_file::write(&cluster.dir.join("registries.yaml"), &text)?;
        }
        if let Some(workers) = mix.workers {
            let addons = if self.without_addons { NodeAddons::none() } else { NodeAddons::with(self.pod_network) };
            nodes::setup::prepare(cluster, workers, &self.node_names, addons)?;
            options.network = Network::read(cluster);
        }
        cluster.start(options)
    }

    fn mix(&self, progress: &Progress) -> anyhow::Result<Mix> {
        let is_root = rustix::process::geteuid().is_root();
        match (self.workers, self.simulate) {
            (Some(_), _) if !is_root => bail!(
                "real nodes need root: each is made of namespaces, mounts and control groups. Run this as root, or without --workers for simulated nodes"
            ),
            (Some(workers), simulated) => Ok(Mix { workers: Some(workers), simulated: simulated.unwrap_or(0) }),
            (None, Some(simulated)) => Ok(Mix { workers: None, simulated }),
            (None, None) if is_root => Ok(Mix { workers: Some(WORKERS), simulated: 0 }),
            (None, None) => {
                progress.done("without root there are no containers here: running simulated nodes, which only play their pods");
                Ok(Mix { workers: None, simulated: SIMULATED })
            }
        }
    }
}

/// The labels that each node of the cluster is to have.
type Labels<'a> = BTreeMap<&'a str, &'a BTreeMap<String, String>>;

async fn wait_for_nodes(client: &Client, wanted: usize, labels: &Labels<'_>, progress: &Progress) -> anyhow::Result<()> {
    let nodes: Api<Tree<Node>> = Api::all(client.clone());
    loop {
        let listed = nodes.list(&Default::default()).await.context("cannot list nodes")?;
        for node in &listed.items {
            label(&nodes, node, labels).await?;
        }
        let ready = listed.items.iter().filter(|node| is_ready(node)).count();
        progress.doing(&format!("{ready} of {wanted} nodes are Ready"));
        if ready >= wanted {
            progress.done(&format!("{ready} nodes are Ready"));
            return Ok(());
        }
        tokio::time::sleep(POLL_PERIOD).await;
    }
}

/// Gives a node the labels that it lacks. Those that say what a node is for are the administrator's
/// to set: by them others decide what runs there.
async fn label(nodes: &Api<Tree<Node>>, node: &Node, labels: &Labels<'_>) -> anyhow::Result<()> {
    let name = node.name_any();
    let Some(wanted) = labels.get(name.as_str()) else { return Ok(()) };
    let missing: BTreeMap<_, _> = wanted.iter().filter(|(key, value)| node.labels().get(*key) != Some(*value)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let patch = Patch::Merge(serde_json::json!({"metadata": {"labels": missing}}));
    nodes.patch(&name, &PatchParams::default(), &patch).await.with_context(|| format!("cannot label node {name}"))?;
    Ok(())
}

/// Is the node Ready, and does it take pods? The taint of a new node goes a moment after it became
/// Ready: until then a DaemonSet wants no pod there, and would have rolled out on no node at all.
fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        && taints.iter().all(|taint| taint.key != NOT_READY)
}
