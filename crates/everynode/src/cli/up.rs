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
use crate::clusters::Cluster;
use crate::kubeconfig;

/// Start a local cluster and make it kubectl's current one.
///
/// Does nothing to a cluster that runs already, except applying what `-f` names. Returns when all nodes are Ready and every
/// DaemonSet of `-f` has rolled out. The context is called everynode-NAME and goes into the first file of $KUBECONFIG, or ~/.kube/config.
#[derive(Debug, Args)]
pub struct Up {
    /// Name of the cluster.
    #[arg(long, default_value = "everynode")]
    name: String,

    /// How many simulated nodes to run: they run pods without containers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    simulate: u32,

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
                let record = cluster.start(self.simulate as usize)?;
                progress.done(&format!("control plane at {}", record.address));
                record
            }
        };
        let context = kubeconfig::merge(&cluster.kubeconfig(), &cluster.name)?;
        progress.done(&format!("kubectl context {context} in {}", kubeconfig::user_path()?.display()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the async runtime")?;
        let timeout = Duration::from_secs(self.timeout_seconds);
        let work = async {
            let client = kubeconfig::client(&cluster.kubeconfig()).await?;
            wait_for_nodes(&client, record.simulated_nodes, &progress).await?;
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
