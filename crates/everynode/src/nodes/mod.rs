//! The nodes of a local cluster: each is a process in namespaces of its own, with its own address,
//! logs and files.
//!
//! [`boot`] is that process: it keeps the namespaces and the agent in them. [`cgroups`] finds
//! everything that belongs to a node, whichever process its parent is by now. A node that is
//! stopped is like a machine that was switched off: what runs on it ends.

pub mod boot;
pub mod cgroups;
pub mod network;
pub mod process;
pub mod setup;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::addons::PodNetworkChoice;
use process::Process;
use runtime::trees;
use rustix::process::Signal;

const POLL_PERIOD: Duration = Duration::from_millis(20);

/// How long a node gets to make its namespaces.
const BOOT_TIMEOUT: Duration = Duration::from_secs(20);

/// What a node is made of; kept in its folder as `node.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    pub name: String,
    pub cluster: String,
    /// Its place in the cluster, from 0: the control plane.
    pub index: u8,
    pub address: Ipv4Addr,
    /// Of the cluster's network.
    pub slot: u8,
    pub pod_cidr: String,
    pub cluster_cidr: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<String>,
    /// Shared by the nodes of the cluster.
    pub image_dir: PathBuf,
    pub registries: Option<PathBuf>,
    /// The cluster has the built-in DaemonSets, and its pods ask their resolver.
    #[serde(default)]
    pub has_addons: bool,
    /// What connects its pods with those of other nodes. Clusters from before the built-in network
    /// have the machine's routes.
    #[serde(default = "none")]
    pub pod_network: PodNetworkChoice,
    /// Removed from the cluster on purpose: not started again.
    #[serde(default)]
    pub is_stopped: bool,
}

fn none() -> PodNetworkChoice {
    PodNetworkChoice::None
}

impl Spec {
    /// The control group that holds everything of this node.
    pub fn cgroup(&self) -> String {
        format!("{}/{}", cgroups::of_cluster(&self.cluster), self.name)
    }
}

/// A node in its folder.
#[derive(Debug, Clone)]
pub struct Node {
    pub dir: PathBuf,
    pub spec: Spec,
}

impl Node {
    /// All nodes below that folder, in the order in which they were made.
    pub fn all(nodes_dir: &Path) -> anyhow::Result<Vec<Node>> {
        let mut nodes = Vec::new();
        let entries = match std::fs::read_dir(nodes_dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(nodes),
            entries => entries.with_context(|| format!("cannot list {}", nodes_dir.display()))?,
        };
        for entry in entries {
            let dir = entry.with_context(|| format!("cannot list {}", nodes_dir.display()))?.path();
            if dir.join("node.json").exists() {
                nodes.push(Node::read(&dir)?);
            }
        }
        nodes.sort_by_key(|node| node.spec.index);
        Ok(nodes)
    }

    pub fn read(dir: &Path) -> anyhow::Result<Node> {
        let path = dir.join("node.json");
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let spec = serde_json::from_slice(&text).with_context(|| format!("{} does not describe a node", path.display()))?;
        Ok(Node { dir: dir.to_owned(), spec })
    }

    /// Makes the folder of a new node.
    pub fn create(nodes_dir: &Path, spec: Spec) -> anyhow::Result<Node> {
        let dir = nodes_dir.join(&spec.name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let node = Node { dir, spec };
        node.write()?;
        Ok(node)
    }

    pub fn write(&self) -> anyhow::Result<()> {
        crate::private_file::write(&self.dir.join("node.json"), &serde_json::to_string_pretty(&self.spec)?)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// The process that keeps the node, if it runs.
    pub fn running(&self) -> Option<Process> {
        Process::read(&self.dir.join("process.json")).filter(Process::is_alive)
    }

    /// Starts the node, unless it runs; its agent registers it soon after.
    pub fn start(&self) -> anyhow::Result<()> {
        if self.running().is_some() {
            return Ok(());
        }
        setup::renew(self)?;
        // What a crash left of its last life would meet the new one.
        self.stop()?;
        let mut child = self.spawn()?;
        let mut stdin = child.stdin.take().context("the node's input was asked for")?;
        if let Err(error) = self.boot(&mut child, &mut stdin) {
            let _ = child.kill();
            let _ = child.wait();
            let _ = self.stop();
            return Err(error);
        }
        Ok(())
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .with_context(|| format!("cannot open {}", self.log().display()))?;
        let program = crate::program::path()?;
        let mut command = Command::new(program);
        command.arg("local-node").arg(&self.dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).current_dir("/");
        // A group of its own: keys typed at the terminal are not for it.
        command.process_group(0).spawn().with_context(|| format!("cannot start node {}", self.spec.name))
    }

    /// Connects the node's namespace while it waits, then lets it go on.
    fn boot(&self, child: &mut Child, stdin: &mut ChildStdin) -> anyhow::Result<()> {
        let stdout = child.stdout.take().context("the node's output was asked for")?;
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let wait_for = |wanted: &str| match receive.recv_timeout(BOOT_TIMEOUT) {
            Ok(line) if line == wanted => Ok(()),
            _ => bail!("node {} did not start; {} says:\n{}", self.spec.name, self.log().display(), crate::clusters::tail(&self.log())),
        };
        wait_for(boot::NAMESPACES)?;
        network::connect(&self.spec, child.id())?;
        stdin.write_all(b"go\n").with_context(|| format!("node {} ended while it started", self.spec.name))?;
        wait_for(boot::RUNNING)?;
        Process::of(child.id())?.write(&self.dir.join("process.json"))
    }

    /// Lets the pods end in order, then switches the node off.
    pub fn shut_down(&self) -> anyhow::Result<()> {
        let agent = cgroups::processes(&self.spec.cgroup()).into_iter().find(|&pid| process::is_agent(pid));
        if let Some(process) = agent.and_then(|pid| Process::of(pid.unsigned_abs()).ok()) {
            process.signal(Signal::POWER)?;
            let deadline = Instant::now() + Duration::from_secs(boot::SHUTDOWN_SECONDS) + BOOT_TIMEOUT;
            while process.is_alive() && Instant::now() < deadline {
                std::thread::sleep(POLL_PERIOD);
            }
        }
        self.stop()
    }

    /// Ends everything that runs on the node.
    pub fn stop(&self) -> anyhow::Result<()> {
        cgroups::kill_all(&self.spec.cgroup()).with_context(|| format!("cannot stop node {}", self.spec.name))?;
        cgroups::remove(&self.spec.cgroup()).with_context(|| format!("cannot remove the control groups of node {}", self.spec.name))?;
        network::disconnect(&self.spec)?;
        let _ = std::fs::remove_file(self.dir.join("process.json"));
        Ok(())
    }

    /// Stops the node and removes its files.
    pub fn remove(&self) -> anyhow::Result<()> {
        self.stop()?;
        let nodes_dir = self.dir.parent().context("nodes have folders in the cluster's")?;
        trees::remove(nodes_dir, self.dir.file_name().unwrap_or_default())?;
        Ok(())
    }
}

/// Names as kind has them: `NAME-control-plane`, `NAME-worker`, `NAME-worker2`, ...
pub fn name(cluster: &str, index: u8) -> String {
    let cluster = base(cluster);
    match index {
        0 => format!("{cluster}-control-plane"),
        1 => format!("{cluster}-worker"),
        index => format!("{cluster}-worker{index}"),
    }
}

/// So much of a cluster's name is in the names of its nodes; with the rest of a node's name it fits
/// into a label.
const BASE_LENGTH_MAX: usize = 45;

/// What the names of a cluster's nodes begin with: the cluster's name, or when that is long its
/// beginning and a hash of all of it.
pub fn base(cluster: &str) -> String {
    if cluster.len() <= BASE_LENGTH_MAX {
        return cluster.to_owned();
    }
    // FNV-1a: only what is long and begins alike has to differ.
    let hash = cluster.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{}-{hash:08x}", cluster[..BASE_LENGTH_MAX - 9].trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::{base, name, setup};

    #[test]
    fn nodes_of_clusters_with_long_names_have_names_that_fit() {
        assert_eq!(name("short", 0), "short-control-plane");
        let (long, other) = ("x".repeat(63), format!("{}y", "x".repeat(62)));
        assert_ne!(base(&long), base(&other));
        let names: Vec<String> = (0..=200).map(|index| name(&long, index)).collect();
        setup::check_names(&names).unwrap();
        assert!(setup::check_names(&[format!("{}-20000", base(&long))]).is_ok());
    }

    #[test]
    fn names_that_lead_elsewhere_or_are_the_same_are_refused() {
        let check = |names: &[&str]| setup::check_names(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert!(check(&["a", "b.example", "c-1"]).is_ok());
        for names in [&["a", "../../b"][..], &["a", "a"], &[""], &["."], &["A"], &["a/b"], &["a_b"], &["-a"], &[&"a".repeat(64)]] {
            assert!(check(names).is_err(), "{names:?}");
        }
    }
}
