//! `everynode local-node`: the process of a node of a local cluster. Started by `up`, not by
//! people.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::nodes::boot;

/// Keep a node of a local cluster: its namespaces, and the agent in them.
#[derive(Debug, Args)]
pub struct LocalNode {
    /// The node's folder.
    dir: PathBuf,
}

impl LocalNode {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        boot::run(&self.dir)?;
        Ok(ExitCode::SUCCESS)
    }
}
