//! `everynode ls`: the local clusters.

use std::process::ExitCode;

use clap::Args;

use crate::clusters::Cluster;

/// List local clusters.
#[derive(Debug, Args)]
pub struct Ls {}

impl Ls {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        println!("{:<20} {:<10} {:<26} {:>6}", "NAME", "STATE", "SERVER", "NODES");
        for cluster in Cluster::all()? {
            let running = cluster.running();
            let state = if running.is_some() { "running" } else { "stopped" };
            let (address, nodes) = match running.or_else(|| cluster.record()) {
                Some(record) => (record.address, (record.simulated_nodes + cluster.nodes()?.len()).to_string()),
                None => ("-".to_owned(), "-".to_owned()),
            };
            println!("{:<20} {state:<10} {address:<26} {nodes:>6}", cluster.name);
        }
        Ok(ExitCode::SUCCESS)
    }
}
