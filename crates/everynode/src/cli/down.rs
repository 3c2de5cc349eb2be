//! `everynode down`: a local cluster and everything it made, gone.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::clusters::Cluster;
use crate::kubeconfig;

/// Stop a local cluster and remove everything it made.
///
/// Its process, its data directory and its entries in the kubeconfig. Also works after a crash. Nothing to remove is no error.
#[derive(Debug, Args)]
pub struct Down {
    /// Name of the cluster.
    #[arg(long, default_value = "everynode", conflicts_with = "all")]
    name: String,

    /// All local clusters.
    #[arg(long)]
    all: bool,

    /// Where the cluster's state lives, if it was given to `up`.
    #[arg(long, conflicts_with = "all")]
    data_dir: Option<PathBuf>,
}

impl Down {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let clusters = if self.all { Cluster::all()? } else { vec![Cluster::named(&self.name, self.data_dir.as_deref())?] };
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
    cluster.remove()?;
    kubeconfig::remove(&cluster.name)?;
    match existed {
        true => eprintln!("cluster {} is gone", cluster.name),
        false => eprintln!("there is no cluster {}", cluster.name),
    }
    Ok(())
}
