//! Which local cluster a command is about.

use std::path::PathBuf;

use clap::Args;

use crate::clusters::{self, Cluster};

/// The arguments that all commands for local clusters have.
#[derive(Debug, Args)]
pub struct Local {
    /// Name of the cluster; by default $EVERYNODE_CLUSTER, or else everynode.
    #[arg(long, global = true)]
    pub name: Option<String>,

    /// Where the cluster's state lives. A cluster that was started with it needs it for every
    /// command.
    #[arg(long, global = true)]
    pub data_dir: Option<PathBuf>,
}

impl Local {
    pub fn cluster(&self) -> anyhow::Result<Cluster> {
        let name = self.name.clone().unwrap_or_else(clusters::default_name);
        Cluster::named(&name, self.data_dir.as_deref())
    }

    /// What has to be written behind other commands for the same cluster; nothing for the default
    /// one.
    pub fn arguments(&self) -> String {
        let name = self.name.iter().filter(|name| **name != clusters::default_name()).map(|name| format!(" --name {name}"));
        let data_dir = self.data_dir.iter().map(|dir| format!(" --data-dir {}", dir.display()));
        name.chain(data_dir).collect()
    }
}
