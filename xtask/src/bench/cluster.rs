//! A local cluster with real nodes, for a measurement.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::client::{Connection, Connector};
use super::process;
use crate::server::release_folder;

/// It ends with this value.
pub struct Cluster {
    program: PathBuf,
    name: &'static str,
    dir: Folder,
    address: String,
}

impl Cluster {
    /// A control plane and so many workers, Ready.
    pub fn up(name: &'static str, workers: u8) -> anyhow::Result<Cluster> {
        let program = release_folder()?.join("everynode");
        let mut cluster = Cluster { program, name, dir: Folder::new()?, address: String::new() };
        cluster.everynode(&["up", "--workers", &workers.to_string()])?;
        let record = std::fs::read(cluster.dir.path.join("cluster.json")).context("the cluster has no record")?;
        let record: Value = serde_json::from_slice(&record).context("the record is no JSON")?;
        let address = record["address"].as_str().and_then(|address| address.strip_prefix("https://")).context("no address")?;
        address.clone_into(&mut cluster.address);
        Ok(cluster)
    }

    pub fn control_plane(&self) -> String {
        format!("{}-control-plane", self.name)
    }

    pub fn worker(&self) -> String {
        format!("{}-worker", self.name)
    }

    /// As its administrator.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        Connector::new(&self.dir.path.join("admin.kubeconfig"), &self.address)?.connect().await
    }

    fn everynode(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .args(["--name", self.name, "--data-dir"])
            .arg(&self.dir.path)
            .env("KUBECONFIG", self.dir.path.with_extension("kubeconfig"));
        let output = command.output().with_context(|| format!("cannot run {}", self.program.display()))?;
        if output.status.success() { Ok(()) } else { bail!("everynode {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)) }
    }

    /// A node's agent: the process of the node that was started as `agent`.
    pub fn agent(&self, node: &str) -> anyhow::Result<u32> {
        self.processes(node, "agent").first().copied().context("there is no agent")
    }

    /// Processes of the node whose first argument is that one.
    fn processes(&self, node: &str, mode: &str) -> Vec<u32> {
        let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory", "/sys/fs/cgroup"];
        let path = format!("everynode/{}/{node}/agent/cgroup.procs", self.name);
        let text = roots.iter().find_map(|root| std::fs::read_to_string(Path::new(root).join(&path)).ok()).unwrap_or_default();
        let pids = text.lines().filter_map(|line| line.parse::<u32>().ok());
        let is_wanted = |pid: &u32| {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments.split(|byte| *byte == 0).nth(1).is_some_and(|first| first == mode.as_bytes())
        };
        pids.filter(is_wanted).collect()
    }

    /// Of the control plane's node.
    pub fn memory(&self, agent: u32) -> anyhow::Result<String> {
        let shims = self.processes(&self.control_plane(), "everynode-shim");
        let private: Vec<f64> = shims.iter().filter_map(|pid| process::private_mb(*pid).ok()).collect();
        let each = private.iter().sum::<f64>() / private.len().max(1) as f64;
        let agent = process::resident_mb(agent)?;
        Ok(format!("{agent:>9.1} MB   resident; {} shims, {each:.2} MB private each", shims.len()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.everynode(&["down"]) {
            eprintln!("{error:#}");
        }
        let _ = std::fs::remove_file(self.dir.path.with_extension("kubeconfig"));
    }
}

/// A folder of this measurement's own.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> anyhow::Result<Folder> {
        let path = std::env::temp_dir().join(format!("everynode-bench-{}", std::process::id()));
        ensure!(!path.exists(), "{} is there already", path.display());
        Ok(Folder { path })
    }
}
