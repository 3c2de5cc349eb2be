//! `everynode why`: for every node, why it runs a set's pod or does not.

use std::process::ExitCode;

use anyhow::{Context, bail};
use brain::model::Key;
use brain::why::{Explanation, RunState, why};
use clap::{Args, ValueEnum};

use super::block_on;
use super::table::{NOTHING, aligned};
use super::target::{Target, copy_state, set_name};

/// Say for every node why it runs a DaemonSet's pod or does not.
///
/// Asks the cluster of the current kubeconfig (any Kubernetes), and changes nothing. One line for
/// each node: its name, `runs`, `waits` or `-`, the pod, its revision, and the reason.
#[derive(Debug, Args)]
pub struct Why {
    /// The DaemonSet: ds/NAME.
    target: String,

    /// Only this node.
    node: Option<String>,

    /// How to answer.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,

    #[command(flatten)]
    cluster: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

impl Why {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let explanation = block_on(self.ask())?;
        match self.output {
            Output::Text => print!("{}", text(&explanation)),
            Output::Json => println!("{}", serde_json::to_string_pretty(&explanation).context("cannot write JSON")?),
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn ask(&self) -> anyhow::Result<Explanation> {
        let name = set_name(&self.target)?;
        let (client, namespace) = self.cluster.client().await?;
        let cluster = copy_state(&client, &brain::forecast::RESOURCES).await?.picture();
        if let Some(node) = self.node.as_deref().filter(|node| !cluster.nodes.contains_key(*node)) {
            bail!("there is no node {node:?}; `kubectl get nodes` lists them");
        }
        let key = Key::new(&namespace, name);
        match why(&cluster, &key, self.node.as_deref(), jiff::Timestamp::now()) {
            Some(explanation) => Ok(explanation),
            None => bail!("there is no DaemonSet {name:?} in namespace {namespace:?}; `kubectl get ds -A` lists them"),
        }
    }
}

fn text(explanation: &Explanation) -> String {
    let mut out: String = explanation.summary.iter().map(|line| format!("{line}\n")).collect();
    let mut rows = Vec::new();
    for node in &explanation.nodes {
        let state = match node.state {
            RunState::Runs => "runs",
            RunState::Waits => "waits",
            RunState::DoesNotRun => "-",
        };
        let revision = node.revision.map_or_else(|| NOTHING.to_owned(), |revision| revision.to_string());
        rows.push(vec![
            node.node.clone(),
            state.to_owned(),
            node.pod.clone().unwrap_or_else(|| NOTHING.to_owned()),
            revision,
            node.reason.clone(),
        ]);
    }
    out.extend(aligned(&["NODE", "STATE", "POD", "REVISION", "REASON"], &rows).iter().map(|line| format!("{line}\n")));
    out
}
