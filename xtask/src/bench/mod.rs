//! `cargo xtask bench`: measurements, with the figures that docs/performance.md keeps. They print,
//! and assert nothing about time.

mod api;
mod client;
mod cluster;
mod containers;
mod figures;
mod net;
mod objects;
mod pods;
mod process;
mod rollout;
mod watched;

use std::process::Command;

use anyhow::{Context, bail};
use clap::Subcommand;

use crate::server;

#[derive(Subcommand)]
pub enum Bench {
    /// The API server over loopback TLS: writes, reads, lists, watches, memory.
    Api(api::Api),
    /// DaemonSets over simulated nodes: seconds, CPU, memory, writes.
    Rollout(rollout::Rollout),
    /// Pods with real containers on one node. Needs root.
    Pods(pods::Pods),
    /// Containers alone, beside crun and runc. Needs root.
    Containers(containers::Containers),
    /// Rules of Services, traffic through them and between nodes, and names. Needs root.
    Net(net::Net),
}

impl Bench {
    /// Measures with a client of the release build; one built for development would be what is
    /// measured.
    pub fn run(self) -> anyhow::Result<()> {
        if !cfg!(debug_assertions) {
            return match self {
                Bench::Api(api) => api.run(),
                Bench::Rollout(rollout) => rollout.run(),
                Bench::Pods(pods) => pods.run(),
                Bench::Containers(containers) => containers.run(),
                Bench::Net(net) => net.run(),
            };
        }
        server::build(&["--package", "everynode", "--package", "xtask"])?;
        let program = server::release_folder()?.join("xtask");
        let arguments = std::env::args_os().skip(1);
        let status = Command::new(&program).args(arguments).status().with_context(|| format!("cannot run {}", program.display()))?;
        if status.success() { Ok(()) } else { bail!("the measurement failed") }
    }
}
