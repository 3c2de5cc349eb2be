//! `everynode status`: nodes and DaemonSets at a glance.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use brain::model::Key;
use clap::Args;
use kube::Client;

use super::board::{Board, Room};
use super::local::Local;
use super::progress::Screen;
use super::target::Target;
use super::{block_on, live};
use crate::{connection, kubeconfig};

/// Show the nodes and DaemonSets of a cluster.
///
/// Of a local cluster; or, with --kubeconfig or --context, of any. Of all namespaces, unless -n
/// names one.
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    local: Local,

    #[command(flatten)]
    asked: Asked,
}

/// What is asked of a cluster, whichever it is.
#[derive(Debug, Args)]
pub struct Asked {
    /// Follow what happens, until interrupted: drawn in place on a terminal, printed again after
    /// every change elsewhere.
    #[arg(short, long)]
    watch: bool,

    #[command(flatten)]
    cluster: Target,
}

/// Pause between two looks of a user who watches.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

impl Status {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let is_local = self.local.name.is_some() || self.local.data_dir.is_some();
        let names_another = self.asked.cluster.kubeconfig.is_some() || self.asked.cluster.context.is_some();
        match (is_local, names_another) {
            (true, true) => {
                bail!("--name and --data-dir are for local clusters, --kubeconfig and --context for any: give one or the other")
            }
            (false, true) => self.asked.run(),
            (_, false) => self.local_run(),
        }
    }

    fn local_run(self) -> anyhow::Result<ExitCode> {
        let cluster = self.local.cluster()?;
        let Some(record) = cluster.running() else {
            let name = &cluster.name;
            bail!("cluster {name} does not run; `everynode ls` lists what there is, `everynode up --name {name}` starts it");
        };
        block_on(async { self.asked.show(&kubeconfig::client(&cluster.kubeconfig()).await?, &record.address).await })
    }
}

impl Asked {
    /// Asks the cluster that kubectl would ask.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        block_on(async {
            let config = self.cluster.config().await?;
            let server = config.cluster_url.to_string();
            let client = connection::client(config)?;
            self.show(&client, server.trim_end_matches('/')).await
        })
    }

    async fn show(&self, client: &Client, server: &str) -> anyhow::Result<ExitCode> {
        let wanted = |key: &Key| self.cluster.namespace.as_deref().is_none_or(|namespace| namespace == &*key.namespace);
        if !self.watch {
            print(&live::look(client, server, wanted).await?);
            return Ok(ExitCode::SUCCESS);
        }
        let screen = Screen::stdout();
        let mut last: Option<Board> = None;
        let show = |board: Board| {
            match &screen {
                Some(screen) => screen.show(&board.lines(screen.room()).join("\n")),
                None if last.as_ref().is_some_and(|last| last.tells_the_same_as(&board)) => {}
                None => print(&board),
            }
            last = Some(board);
        };
        match live::follow(client, server, WATCH_PERIOD, wanted, show).await? {}
    }
}

fn print(board: &Board) {
    board.lines(Room::default()).iter().for_each(|line| println!("{line}"));
}
