//! `everynode down`: a local cluster and everything it made, gone.

use std::process::ExitCode;

use clap::Args;

use super::local::Local;
use crate::clusters::Cluster;
use crate::kubeconfig;

/// Stop a local cluster and remove everything it made.
///
/// Its process, its data directory and its entries in the kubeconfig. Also works after a crash.
/// Nothing to remove is no error.
#[derive(Debug, Args)]
pub struct Down {
    #[command(flatten)]
    local: Local,

    /// All local clusters.
    #[arg(long, conflicts_with_all = ["name", "data_dir"])]
    all: bool,
}

impl Down {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let clusters = if self.all { Cluster::all()? } else { vec![self.local.cluster()?] };
        if clusters.is_empty() {
            eprintln!("there are no clusters");
        }
        // All are tried; the first failure is reported after the others are gone.
        let mut first_error = None;
        for cluster in clusters {
            match remove(&cluster) {
                Ok(()) => {}
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(ExitCode::SUCCESS), Err)
    }
}

fn remove(cluster: &Cluster) -> anyhow::Result<()> {
    let existed = cluster.exists();
    if cluster.is_known()? {
        cluster.remove()?;
        kubeconfig::remove(&cluster.name)?;
    }
    match existed {
        true => eprintln!("cluster {} is gone", cluster.name),
        false => eprintln!("there is no cluster {}", cluster.name),
    }
    Ok(())
}
