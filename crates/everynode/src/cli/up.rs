//! `everynode up`: a local cluster, started or found running.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};

use super::apply;
use super::progress::Progress;
use crate::clusters::{Cluster, Record, ServerOptions};
use crate::nodes::network::Network;
use crate::{kubeconfig, nodes};

/// What there is when nothing is asked for: with root, and without.
const WORKERS: u8 = 2;
const SIMULATED: u32 = 3;

/// Start a local cluster and make it kubectl's current one.
///
/// Does nothing to a cluster that runs already, except applying what `-f` names. Returns when all nodes are Ready and every
/// DaemonSet of `-f` has rolled out. The context is called everynode-NAME and goes into the first file of $KUBECONFIG, or ~/.kube/config.
#[derive(Debug, Args)]
pub struct Up {
    /// Name of the cluster.
    #[arg(long, default_value = "everynode")]
    name: String,

    /// How many workers to run besides the control plane's node, each with real containers, in namespaces of this machine. Needs root.
    /// Two, unless nodes are simulated.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=200))]
    workers: Option<u8>,

    /// How many simulated nodes to run: they run pods without containers. Three where there can be no real ones.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    simulate: Option<u32>,

    /// Names for the control plane's node and the workers, in this order, instead of NAME-control-plane, NAME-worker, NAME-worker2, ...
    #[arg(long, value_delimiter = ',')]
    node_names: Vec<String>,

    /// YAML file with mirrors and insecure registries for a new cluster's nodes.
    #[arg(long)]
    registries: Option<PathBuf>,

    /// Manifests to apply: files, directories, or - for standard input. May be given more than once.
    #[arg(short = 'f', long = "filename")]
    files: Vec<PathBuf>,

    /// Where the cluster's state lives.
    #[arg(long)]
    data_dir: Option<PathBuf>,

    /// Give up waiting after this many seconds.
    #[arg(long, default_value_t = 300)]
    timeout_seconds: u64,
}

impl Up {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let manifests = apply::read(&self.files)?;
        let cluster = Cluster::named(&self.name, self.data_dir.as_deref())?;
        let progress = Progress::start();
        let record = match cluster.running() {
            Some(record) => {
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the async runtime")?;
        let timeout = Duration::from_secs(self.timeout_seconds);
        let work = async {
            let client = kubeconfig::client(&cluster.kubeconfig()).await?;
            wait_for_nodes(&client, wanted, &progress).await?;
            apply::apply(&client, &manifests, &progress).await
        };
        match runtime.block_on(async { tokio::time::timeout(timeout, work).await }) {
            Ok(result) => result?,
            Err(_) => {
                bail!("not everything was ready within {} s; see `everynode status` and {}", self.timeout_seconds, cluster.log().display())
            }
        }
        progress.finish("try: kubectl get nodes");
        Ok(ExitCode::SUCCESS)
    }
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
        crate::roles::server::make_private_dir(&cluster.dir)?;
        let mut options = ServerOptions { simulated_nodes: mix.simulated as usize, node_facing: None };
        if let Some(path) = &self.registries {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            kubeconfig::write_private(&cluster.dir.join("registries.yaml"), &text)?;
        }
        if let Some(workers) = mix.workers {
            nodes::setup::prepare(cluster, workers, &self.node_names)?;
            options.node_facing = Some(Network::ensure(cluster)?.server());
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

async fn wait_for_nodes(client: &Client, wanted: usize, progress: &Progress) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    loop {
        let listed = nodes.list(&Default::default()).await.context("cannot list nodes")?;
        let ready = listed.items.iter().filter(|node| super::status::is_ready(node)).count();
        progress.doing(&format!("{ready} of {wanted} nodes are Ready"));
        if ready >= wanted {
            progress.done(&format!("{ready} nodes are Ready"));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
