//! `everynode node`: adding, removing, stopping and starting nodes of a local cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::Node as ApiNode;
use kube::Api;
use kube::api::DeleteParams;

use crate::clusters::Cluster;
use crate::kubeconfig;
use crate::nodes::{self, Node};

/// Add, remove, stop and start nodes of a local cluster.
#[derive(Debug, Args)]
pub struct NodeCommand {
    #[command(subcommand)]
    what: What,

    /// Name of the cluster.
    #[arg(long, default_value = "everynode", global = true)]
    name: String,

    /// Where the cluster's state lives, if it was given to `up`.
    #[arg(long, global = true)]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Add a worker: the next one in line, or of that name.
    Add { node: Option<String> },
    /// Stop a node and take it out of the cluster, with its files.
    Remove { node: String },
    /// Switch a node off: everything that runs on it ends at once. Its files stay.
    Stop { node: String },
    /// Switch a stopped node on again.
    Start { node: String },
}

impl NodeCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let cluster = Cluster::named(&self.name, self.data_dir.as_deref())?;
        if cluster.running().is_none() {
            bail!("cluster {} does not run: start it with `everynode up`", cluster.name);
        }
        match self.what {
            What::Add { node } => add(&cluster, node),
            What::Remove { node } => remove(&cluster, &node),
            What::Stop { node } => set_stopped(&cluster, &node, true),
            What::Start { node } => set_stopped(&cluster, &node, false),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

fn add(cluster: &Cluster, name: Option<String>) -> anyhow::Result<()> {
    let node = nodes::setup::add(cluster, name)?;
    node.start()?;
    eprintln!("node {} starts; see `kubectl get nodes`", node.spec.name);
    Ok(())
}

fn find(cluster: &Cluster, name: &str) -> anyhow::Result<Node> {
    let nodes = cluster.nodes()?;
    let names: Vec<String> = nodes.iter().map(|node| node.spec.name.clone()).collect();
    let found = nodes.into_iter().find(|node| node.spec.name == name);
    found.with_context(|| format!("cluster {} has no node {name} of its own; it has: {}", cluster.name, names.join(", ")))
}

fn remove(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let node = find(cluster, name)?;
    node.remove()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the async runtime")?;
    runtime.block_on(async {
        let client = kubeconfig::client(&cluster.kubeconfig()).await?;
        match Api::<ApiNode>::all(client).delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.map(drop).with_context(|| format!("cannot delete the Node object {name}")),
        }
    })?;
    eprintln!("node {name} is gone");
    Ok(())
}

fn set_stopped(cluster: &Cluster, name: &str, is_stopped: bool) -> anyhow::Result<()> {
    let mut node = find(cluster, name)?;
    node.spec.is_stopped = is_stopped;
    node.write()?;
    if is_stopped {
        node.stop()?
    } else {
        node.start()?
    }
    eprintln!("node {name} {}", if is_stopped { "is off" } else { "starts" });
    Ok(())
}
