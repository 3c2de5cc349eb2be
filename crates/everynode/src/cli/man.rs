//! `everynode man`: the manual pages, for people who make packages.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory as _};

/// Write one manual page for each subcommand into a folder.
#[derive(Debug, Args)]
pub struct Man {
    /// Made if missing.
    dir: PathBuf,
}

impl Man {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let cannot = || format!("cannot write manual pages into {}", self.dir.display());
        std::fs::create_dir_all(&self.dir).with_context(cannot)?;
        clap_mangen::generate_to(super::Arguments::command(), &self.dir).with_context(cannot)?;
        Ok(ExitCode::SUCCESS)
    }
}
