//! `everynode status`: nodes and DaemonSets at a glance.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt};

use crate::clusters::Cluster;
use crate::kubeconfig;

/// Show the nodes and DaemonSets of a local cluster.
#[derive(Debug, Args)]
pub struct Status {
    /// Name of the cluster.
    #[arg(long, default_value = "everynode")]
    name: String,

    /// Print again whenever something changed, until interrupted.
    #[arg(short, long)]
    watch: bool,

    /// Where the cluster's state lives, if it was given to `up`.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

const WATCH_PERIOD: Duration = Duration::from_millis(500);

impl Status {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let cluster = Cluster::named(&self.name, self.data_dir.as_deref())?;
        let Some(record) = cluster.running() else {
            bail!(
                "cluster {} does not run; `everynode ls` lists what there is, `everynode up --name {}` starts it",
                cluster.name,
                cluster.name
            );
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the async runtime")?;
        runtime.block_on(async {
            let client = kubeconfig::client(&cluster.kubeconfig()).await?;
            let mut shown = String::new();
            loop {
                let text = report(&client, &record.address).await?;
                if text != shown {
                    print!("{text}");
                    shown = text;
                }
                if !self.watch {
                    return Ok(ExitCode::SUCCESS);
                }
                tokio::time::sleep(WATCH_PERIOD).await;
            }
        })
    }
}

async fn report(client: &Client, address: &str) -> anyhow::Result<String> {
    let nodes = Api::<Node>::all(client.clone()).list(&Default::default()).await.context("cannot list nodes")?.items;
    let sets = Api::<DaemonSet>::all(client.clone()).list(&Default::default()).await.context("cannot list DaemonSets")?.items;
    let ready = nodes.iter().filter(|node| is_ready(node)).count();
    let mut text = format!("server {address}\nnodes  {ready} of {} Ready\n", nodes.len());
    if !sets.is_empty() {
        text += &format!("{:<20} {:<24} {:>8} {:>8} {:>8} {:>10}\n", "NAMESPACE", "DAEMONSET", "DESIRED", "READY", "UPDATED", "AVAILABLE");
    }
    for set in sets {
        let status = set.status.clone().unwrap_or_default();
        text += &format!(
            "{:<20} {:<24} {:>8} {:>8} {:>8} {:>10}\n",
            set.namespace().unwrap_or_default(),
            set.name_any(),
            status.desired_number_scheduled,
            status.number_ready,
            status.updated_number_scheduled.unwrap_or(0),
            status.number_available.unwrap_or(0)
        );
    }
    Ok(text)
}

/// Is the node's Ready condition true?
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
