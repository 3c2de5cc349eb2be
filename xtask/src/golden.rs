//! `cargo xtask golden`: starts the API alone, as the cases were recorded, and replays them against
//! it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;

use crate::server::Server;

#[derive(Args)]
pub struct Golden {
    /// The program that replays cases and compares answers.
    #[arg(long, env = "EVERYNODE_GOLDEN_REPLAY")]
    replay: PathBuf,

    /// Folders of recorded cases.
    #[arg(env = "EVERYNODE_GOLDEN", required = true)]
    cases: Vec<PathBuf>,

    /// Only cases whose path contains this.
    #[arg(long, default_value = "")]
    only: String,
}

impl Golden {
    pub fn run(self) -> anyhow::Result<()> {
        let server = Server::build_and_start()?;
        let status = Command::new(&self.replay)
            .arg("--kubeconfig")
            .arg(server.kubeconfig())
            .args(["--only", &self.only])
            .args(&self.cases)
            .status()
            .with_context(|| format!("cannot run {}", self.replay.display()))?;
        if status.success() {
            Ok(())
        } else {
            bail!("some answers differ from the recorded ones; docs/kubernetes-differences.md lists those that are meant to")
        }
    }
}
