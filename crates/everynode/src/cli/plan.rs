//! `everynode plan`: what applying manifests would do, node by node.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use brain::forecast::{Forecast, Lost, RESOURCES, forecast};
use brain::request::DAEMON_SETS;
use clap::Args;

use super::target::{Target, copy_state, dry_run};
use super::why::Output;
use super::{apply, block_on};

/// Nodes that are named in a line before "and N more".
const NAMED_MAX: usize = 10;

/// Exit code when a node would lose its pod for good.
const LOSES: u8 = 2;

/// Say what applying DaemonSets would do; change nothing.
///
/// The server checks the manifests as a dry run; then the real deciders run on a copy of the
/// cluster's state, with pods that start at once: which nodes gain and lose a pod, how many are
/// replaced in which waves, who is evicted, what will not fit. Exit code 2 when a node would lose
/// its pod for good.
#[derive(Debug, Args)]
pub struct Plan {
    /// Manifests: files, directories, or - for standard input. May be given more than once.
    #[arg(short = 'f', long = "filename", required = true)]
    files: Vec<PathBuf>,

    /// How to answer.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,

    #[command(flatten)]
    cluster: Target,
}

impl Plan {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let manifests = apply::read(&self.files)?;
        let forecasts = block_on(self.ask(&manifests))?;
        match self.output {
            Output::Text => print!("{}", forecasts.iter().map(text).collect::<String>()),
            Output::Json => println!("{}", serde_json::to_string_pretty(&forecasts).context("cannot write JSON")?),
        }
        let loses = forecasts.iter().any(Forecast::loses);
        Ok(if loses { ExitCode::from(LOSES) } else { ExitCode::SUCCESS })
    }

    async fn ask(&self, manifests: &[apply::Manifest]) -> anyhow::Result<Vec<Forecast>> {
        let (client, default_namespace) = self.cluster.client().await?;
        let mut sets = Vec::new();
        for manifest in manifests.iter().filter(|manifest| manifest.is_daemon_set()) {
            let namespace = manifest.named_namespace().unwrap_or(&default_namespace);
            sets.push(dry_run(&client, DAEMON_SETS, namespace, manifest.object()).await.with_context(|| manifest.origin().to_owned())?);
        }
        if sets.is_empty() {
            bail!("there is no DaemonSet in what was given: nothing to plan");
        }
        let state = copy_state(&client, &RESOURCES).await?;
        Ok(forecast(state, sets, jiff::Timestamp::now()))
    }
}

fn text(forecast: &Forecast) -> String {
    let mut lines = Vec::new();
    if !forecast.gained.is_empty() {
        lines.push(format!("gains a pod: {}", named(&forecast.gained)));
    }
    if forecast.replaced > 0 {
        let largest = forecast.waves.iter().map(Vec::len).max().unwrap_or(0);
        let waves = forecast.waves.len();
        lines.push(format!("replaces {} in {} of at most {largest}", counted(forecast.replaced, "pod"), counted(waves, "wave")));
        for (at, wave) in forecast.waves.iter().take(NAMED_MAX).enumerate() {
            lines.push(format!("  wave {}: {}", at + 1, named(wave)));
        }
        if waves > NAMED_MAX {
            lines.push(format!("  and {} more", counted(waves - NAMED_MAX, "wave")));
        }
        lines.push(format!("at most {} without an available pod at a time", counted(forecast.unavailable_at_most, "node")));
    }
    if forecast.unavailable_before > 0 {
        lines.push(format!("without an available pod already: {}", counted(forecast.unavailable_before, "node")));
    }
    lines.extend(forecast.lost.iter().map(|lost| without("loses its pod", lost)));
    lines.extend(forecast.stuck.iter().map(|stuck| without("gets no pod", stuck)));
    lines.extend(forecast.preempted.iter().map(|preempted| format!("evicts {} on {}", preempted.pod, preempted.node)));
    if forecast.kept > 0 {
        lines.push(format!("unchanged: {}", counted(forecast.kept, "pod")));
    }
    if forecast.is_cut {
        lines.push("the rollout takes longer than was followed".to_owned());
    }
    if lines.is_empty() {
        lines.push("nothing happens".to_owned());
    }
    let new = if forecast.is_new { " (new)" } else { "" };
    let body: String = lines.iter().map(|line| format!("  {line}\n")).collect();
    format!("daemonset {}/{}{new}\n{body}", forecast.namespace, forecast.name)
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn without(what: &str, lost: &Lost) -> String {
    format!("{} {what}: {}", lost.node, lost.reason)
}

fn named(nodes: &[String]) -> String {
    let shown = nodes.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if nodes.len() > NAMED_MAX { format!("{shown} and {} more", nodes.len() - NAMED_MAX) } else { shown }
}
