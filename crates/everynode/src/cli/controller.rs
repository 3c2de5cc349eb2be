//! `everynode controller`: the DaemonSet controller for a Kubernetes that exists.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tokio::sync::watch;

use super::target::Target;
use crate::roles::{hostname, signalled};

/// Run the DaemonSet controller against an existing Kubernetes.
///
/// Switch upstream's off first: kube-controller-manager --controllers=*,-daemonset-controller. Run
/// one of it. SIGTERM and SIGINT stop it.
#[derive(Debug, Args)]
pub struct Controller {
    #[command(flatten)]
    cluster: Target,
}

impl Controller {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
        runtime.block_on(async {
            let signalled = signalled()?;
            let (client, _) = self.cluster.client().await?;
            let (stop, shutdown) = watch::channel(false);
            let running = tokio::spawn(controllers::run_daemon_sets(client, hostname(), shutdown));
            signalled.await;
            stop.send_replace(true);
            running.await.context("the controller failed")
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
