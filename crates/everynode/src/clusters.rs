//! Local clusters: where their files are, which of them run, and how to start and stop them.
//!
//! A cluster is a data directory; `cluster.json` in it names the process that serves it. The start
//! time of the process distinguishes it from a later one with the same id.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::data_dir;
use crate::nodes::network::Network;
use crate::nodes::process::Process;
use crate::nodes::{Node, cgroups, network};
use crate::server_lock::{self, ServerLock};

/// The name of the cluster that is meant where none is named, for users who work with another one
/// all the time.
const NAME_VARIABLE: &str = "EVERYNODE_CLUSTER";
const NAME: &str = "everynode";

/// How long a server gets to say that it is ready, and to end.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const POLL_PERIOD: Duration = Duration::from_millis(20);

/// What is remembered of a cluster that was started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub address: String,
    pub simulated_nodes: usize,
    #[serde(flatten)]
    pub process: Process,
}

/// What the server of a cluster is started with.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    pub simulated_nodes: usize,
    /// The addresses of nodes in namespaces of their own, and of their pods.
    pub network: Option<Network>,
}

/// A local cluster by name.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub name: String,
    pub dir: PathBuf,
}

/// $EVERYNODE_CLUSTER, or else `everynode`.
pub fn default_name() -> String {
    std::env::var(NAME_VARIABLE).ok().filter(|name| !name.is_empty()).unwrap_or_else(|| NAME.to_owned())
}

impl Cluster {
    /// The cluster of that name, whether it exists or not.
    pub fn named(name: &str, data_dir: Option<&Path>) -> anyhow::Result<Cluster> {
        let well_formed =
            !name.is_empty() && name.len() <= 63 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !well_formed || name.starts_with('-') || name.ends_with('-') {
            bail!("{name:?} is no name for a cluster: use lower-case letters, digits and dashes, at most 63");
        }
        let dir = match data_dir {
            Some(dir) => std::path::absolute(dir).with_context(|| format!("{} is no path", dir.display()))?,
            None => clusters_dir()?.join(name),
        };
        data_dir::check_name(&dir, name)?;
        Ok(Cluster { name: name.to_owned(), dir })
    }

    /// All clusters in the usual place, by name.
    pub fn all() -> anyhow::Result<Vec<Cluster>> {
        let dir = clusters_dir()?;
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot list {}", dir.display()))?,
        };
        let mut clusters: Vec<Cluster> = entries
            .filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()))
            .map(|entry| Cluster { name: entry.file_name().to_string_lossy().into_owned(), dir: entry.path() })
            .collect();
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(clusters)
    }

    pub fn exists(&self) -> bool {
        self.dir.exists()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// Where the images of its nodes are.
    pub fn image_dir(&self) -> PathBuf {
        self.dir.join("images")
    }

    fn record_path(&self) -> PathBuf {
        self.dir.join("cluster.json")
    }

    /// The record, if the process it names still runs.
    pub fn running(&self) -> Option<Record> {
        self.record().filter(|record| record.process.is_alive())
    }

    pub fn record(&self) -> Option<Record> {
        serde_json::from_slice(&std::fs::read(self.record_path()).ok()?).ok()
    }

    /// Starts the server in the background and waits until it serves.
    pub fn start(&self, options: ServerOptions) -> anyhow::Result<Record> {
        data_dir::prepare(&self.dir)?;
        data_dir::claim(&self.dir, &self.name)?;
        let lock = ServerLock::take(&self.dir)?;
        lock.give_to_children()?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .with_context(|| format!("cannot open {}", self.log().display()))?;
        let program = crate::program::path()?;
        let mut command = Command::new(program);
        command
            .args([
                "server",
                "--listen",
                "127.0.0.1:0",
                "--simulate",
                &options.simulated_nodes.to_string(),
                "--cluster-name",
                &self.name,
                "--data-dir",
            ])
            .arg(&self.dir)
            .args(options.network.iter().flat_map(|network| {
                ["--also-listen".to_owned(), network.server().to_string(), "--cluster-cidr".to_owned(), network.cluster_cidr()]
            }))
            .env(server_lock::INHERITED, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .current_dir("/")
            // A group of its own: keys typed at the terminal are not for it.
            .process_group(0);
        let mut child = command.spawn().context("cannot start the server")?;
        // From here on the server alone holds it: it is found also if this process ends before it
        // has written who serves.
        drop(lock);
        let address = self.wait_until_ready(&mut child)?;
        let process = Process::of(child.id()).context("the server ended right after it was ready")?;
        let record = Record { address, simulated_nodes: options.simulated_nodes, process };
        crate::private_file::write(&self.record_path(), &serde_json::to_string(&record)?)?;
        Ok(record)
    }

    fn wait_until_ready(&self, child: &mut Child) -> anyhow::Result<String> {
        let stdout = child.stdout.take().context("the server's output was asked for")?;
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = send.send(line);
        });
        let line = receive.recv_timeout(START_TIMEOUT).unwrap_or_default();
        match line.trim().strip_prefix("ready ") {
            Some(address) => Ok(address.to_owned()),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("the server did not start; its log {} says:\n{}", self.log().display(), tail(&self.log()))
            }
        }
    }

    /// Where its nodes have their folders.
    pub fn nodes_dir(&self) -> PathBuf {
        self.dir.join("nodes")
    }

    /// Its nodes in namespaces of their own, whether they run or not.
    pub fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        Node::all(&self.nodes_dir())
    }

    /// Ends the server, also one that is starting: it may not have said yet who it is.
    fn stop_server(&self) -> anyhow::Result<()> {
        if let Some(record) = self.running() {
            stop(&record.process)?;
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while server_lock::is_held(&self.dir)? {
            if let Some(process) = server_lock::holder(&self.dir) {
                stop(&process)?;
            }
            if Instant::now() > deadline {
                bail!("a process holds {} and does not say which it is", server_lock::path(&self.dir).display());
            }
            std::thread::sleep(POLL_PERIOD);
        }
        Ok(())
    }

    /// Whether there is anything that is certainly this cluster's. Its network, control groups and
    /// kubectl's context are found by its name alone, which a user may have typed beside another
    /// folder: so the folder must say the same name, or lie where clusters of that name do.
    pub fn is_known(&self) -> anyhow::Result<bool> {
        data_dir::check_removable(&self.dir)?;
        data_dir::check_name(&self.dir, &self.name)?;
        let is_usual = clusters_dir().is_ok_and(|dir| dir.join(&self.name) == self.dir);
        if is_usual || data_dir::cluster_name(&self.dir)?.is_some() {
            return Ok(true);
        }
        if data_dir::is_empty(&self.dir)? {
            return Ok(false);
        }
        let nodes = self.nodes()?;
        if !nodes.is_empty() && nodes.iter().all(|node| node.spec.cluster == self.name) {
            return Ok(true);
        }
        let (dir, name) = (self.dir.display(), &self.name);
        bail!(
            "{dir} does not say that it is cluster {name}'s. Nothing was removed; if it is, run `everynode up --name {name} --data-dir {dir}` once"
        )
    }

    /// Stops everything that runs and removes everything that was made; goes on after a failure and
    /// reports the first.
    pub fn remove(&self) -> anyhow::Result<()> {
        if !self.is_known()? {
            return Ok(());
        }
        let mut results = Vec::new();
        results.push(self.stop_server());
        match self.nodes() {
            Ok(nodes) => results.extend(nodes.iter().map(Node::remove)),
            Err(error) => results.push(Err(error)),
        }
        results.push(network::remove(self));
        results.push(cgroups::remove_cluster(&self.name).context("cannot remove the cluster's control groups"));
        results.into_iter().collect::<anyhow::Result<()>>()?;
        data_dir::remove(&self.dir)
    }
}

fn stop(process: &Process) -> anyhow::Result<()> {
    for signal in [Signal::TERM, Signal::KILL] {
        match process.signal(signal) {
            // It ended on its own this moment.
            Err(_) if !process.is_alive() => return Ok(()),
            sent => sent?,
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if !process.is_alive() {
                return Ok(());
            }
            std::thread::sleep(POLL_PERIOD);
        }
    }
    bail!("process {} does not end", process.pid)
}

/// The end of a log, for messages.
pub fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// `$XDG_STATE_HOME/everynode/clusters`, usually `~/.local/state/everynode/clusters`.
fn clusters_dir() -> anyhow::Result<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let state = match state {
        Some(dir) => dir,
        None => {
            PathBuf::from(std::env::var_os("HOME").context("neither XDG_STATE_HOME nor HOME is set; give --data-dir")?).join(".local/state")
        }
    };
    Ok(state.join("everynode/clusters"))
}
