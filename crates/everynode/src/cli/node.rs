//! `everynode node`: adding, removing, stopping and starting nodes of a local cluster.

use std::process::ExitCode;

use agent::tree::Tree;
use anyhow::{Context, bail};
use brain::model::SIMULATED;
use clap::{Args, Subcommand};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::block_on;
use super::local::Local;
use crate::clusters::Cluster;
use crate::kubeconfig;
use crate::nodes::{self, Node};

type ApiNode = Tree<k8s_openapi::api::core::v1::Node>;

/// The annotation of simulated nodes that play dead.
const STOPPED: &str = "sim.everynode.dev/stopped";

/// Add, remove, stop and start nodes of a local cluster.
#[derive(Debug, Args)]
pub struct NodeCommand {
    #[command(subcommand)]
    what: What,

    #[command(flatten)]
    local: Local,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Add a worker: the next one in line, or of that name.
    Add { node: Option<String> },
    /// Stop a node and take it out of the cluster, with its files.
    Remove { node: String },
    /// Switch a node off: everything that runs on it ends at once. Its files stay.
    Stop {
        node: String,
        /// Let its pods end first, as a machine does that is shut down in order.
        #[arg(long)]
        graceful: bool,
    },
    /// Switch a stopped node on again.
    Start { node: String },
}

impl NodeCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let cluster = self.local.cluster()?;
        if cluster.running().is_none() {
            bail!("cluster {} does not run: start it with `everynode up`", cluster.name);
        }
        match self.what {
            What::Add { node } => add(&cluster, node),
            What::Remove { node } => remove(&cluster, &node),
            What::Stop { node, graceful } => set_stopped(&cluster, &node, Some(graceful)),
            What::Start { node } => set_stopped(&cluster, &node, None),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A node of a cluster: one of its own, or one that is only played.
enum Kind {
    Own(Box<Node>),
    Simulated,
}

fn add(cluster: &Cluster, name: Option<String>) -> anyhow::Result<()> {
    if cluster.nodes()?.is_empty() {
        return with_client(cluster, async |client| add_simulated(client, cluster, name).await);
    }
    let node = nodes::setup::add(cluster, name)?;
    node.start()?;
    eprintln!("node {} starts; see `kubectl get nodes`", node.spec.name);
    Ok(())
}

async fn add_simulated(client: Client, cluster: &Cluster, name: Option<String>) -> anyhow::Result<()> {
    let nodes: Api<ApiNode> = Api::all(client);
    let there = nodes.list(&ListParams::default()).await.context("cannot list nodes")?;
    let is_free = |name: &String| there.items.iter().all(|node| node.metadata.name.as_ref() != Some(name));
    let name = match name {
        Some(name) => name,
        None => (1..).map(|number| format!("{}-{number}", nodes::base(&cluster.name))).find(is_free).context("there is no name left")?,
    };
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {SIMULATED: "true", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "status": {
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}, "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastHeartbeatTime": null}],
        },
    });
    let node: ApiNode = serde_json::from_value(object).context("the node is well-formed")?;
    nodes.create(&PostParams::default(), &node).await.with_context(|| format!("cannot make the node {name}"))?;
    eprintln!("simulated node {name} is there");
    Ok(())
}

fn find(cluster: &Cluster, name: &str) -> anyhow::Result<Kind> {
    let nodes = cluster.nodes()?;
    let names: Vec<String> = nodes.iter().map(|node| node.spec.name.clone()).collect();
    if let Some(node) = nodes.into_iter().find(|node| node.spec.name == name) {
        return Ok(Kind::Own(Box::new(node)));
    }
    with_client(cluster, async |client| {
        let node = Api::<ApiNode>::all(client).get_opt(name).await.context("cannot look for the node")?;
        match node {
            Some(node) if node.labels().get(SIMULATED).is_some_and(|value| value == "true") => Ok(Kind::Simulated),
            Some(_) => bail!("node {name} is neither one of this machine's nor simulated: its own machine must be asked"),
            None if names.is_empty() => bail!("cluster {} has no node {name}; see `kubectl get nodes`", cluster.name),
            None => bail!("cluster {} has no node {name}; of its own it has: {}", cluster.name, names.join(", ")),
        }
    })
}

fn remove(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    if let Kind::Own(node) = find(cluster, name)? {
        node.remove()?;
    }
    with_client(cluster, async |client| match Api::<ApiNode>::all(client).delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(drop).with_context(|| format!("cannot delete the Node object {name}")),
    })?;
    eprintln!("node {name} is gone");
    Ok(())
}

/// `stop`: whether it is to be stopped, and gracefully.
fn set_stopped(cluster: &Cluster, name: &str, stop: Option<bool>) -> anyhow::Result<()> {
    let is_stopped = stop.is_some();
    match find(cluster, name)? {
        Kind::Own(mut node) => {
            node.spec.is_stopped = is_stopped;
            node.write()?;
            match stop {
                Some(true) => node.shut_down()?,
                Some(false) => node.stop()?,
                None => node.start()?,
            }
        }
        Kind::Simulated => with_client(cluster, async |client| {
            let value = if is_stopped { json!("true") } else { json!(null) };
            let patch = Patch::Merge(json!({"metadata": {"annotations": {STOPPED: value}}}));
            let patched = Api::<ApiNode>::all(client).patch(name, &PatchParams::default(), &patch).await;
            patched.map(drop).with_context(|| format!("cannot change the node {name}"))
        })?,
    }
    eprintln!("node {name} {}", if is_stopped { "is off" } else { "starts" });
    Ok(())
}

fn with_client<T>(cluster: &Cluster, work: impl AsyncFnOnce(Client) -> anyhow::Result<T>) -> anyhow::Result<T> {
    block_on(async { work(kubeconfig::client(&cluster.kubeconfig()).await?).await })
}
