//! `cargo xtask golden`: starts the API alone, as the cases were recorded, and replays them against it.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use clap::Args;

#[derive(Args)]
pub struct Golden {
    /// The program that replays cases and compares answers.
    #[arg(long, env = "EVERYNODE_GOLDEN_REPLAY")]
    replay: PathBuf,

    /// Folders of recorded cases.
    #[arg(env = "EVERYNODE_GOLDEN", required = true)]
    cases: Vec<PathBuf>,

    /// Only cases whose path contains this.
    #[arg(long, default_value = "")]
    only: String,
}

impl Golden {
    pub fn run(self) -> anyhow::Result<()> {
        let built =
            Command::new(env!("CARGO")).args(["build", "--release", "--package", "everynode"]).status().context("cannot run cargo")?;
        if !built.success() {
            bail!("everynode does not build");
        }
        let server = Server::start(&["--controllers", "none", "--disable-admission-plugins", "ServiceAccount"])?;
        let status = Command::new(&self.replay)
            .arg("--kubeconfig")
            .arg(server.kubeconfig())
            .args(["--only", &self.only])
            .args(&self.cases)
            .status()
            .with_context(|| format!("cannot run {}", self.replay.display()))?;
        if status.success() {
            Ok(())
        } else {
            bail!("some answers differ from the recorded ones; docs/kubernetes-differences.md lists those that are meant to")
        }
    }
}

/// A server of the release build with a data directory of its own; both end with this value.
pub struct Server {
    process: Child,
    dir: PathBuf,
    pub address: String,
}

impl Server {
    pub fn start(more: &[&str]) -> anyhow::Result<Server> {
        let dir = std::env::temp_dir().join(format!("everynode-xtask-{}", std::process::id()));
        let program = crate::tidy::root()?.join("target/release/everynode");
        let mut process = Command::new(&program)
            .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&dir)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = process.stdout.take().context("the output was asked for")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("cannot read the server's output")?;
        let address = line.trim().strip_prefix("ready ").map(str::to_owned);
        let server = Server { process, dir, address: address.clone().unwrap_or_default() };
        if address.is_some() { Ok(server) } else { bail!("the server did not start") }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
