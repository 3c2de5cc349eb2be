//! `kubectl everynode`: what there is to ask of any cluster, when this program is called by the
//! name that kubectl's plugins have.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::{plan, status, why};

/// The name that a link to this program must have, in a folder of $PATH.
const NAME: &str = "kubectl-everynode";

/// Ask a cluster about its DaemonSets: the one that kubectl asks.
#[derive(Debug, Parser)]
#[command(name = "kubectl-everynode", bin_name = "kubectl everynode", version, disable_help_subcommand = true)]
pub struct Plugin {
    /// Say more on stderr; twice for everything. RUST_LOG overrides.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,

    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    Why(why::Why),
    Plan(plan::Plan),
    /// Show the nodes and DaemonSets of a cluster; of all namespaces, unless -n names one.
    Status(status::Asked),
}

/// Whether kubectl started this program, or a user called it by the plugin's name.
pub fn is_asked() -> bool {
    let called = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&called).file_name().is_some_and(|name| name == NAME)
}

impl Plugin {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.question {
            Question::Why(why) => why.run(),
            Question::Plan(plan) => plan.run(),
            Question::Status(status) => status.run(),
        }
    }
}
