//! Local clusters: where their files are, which of them run, and how to start and stop them.
//!
//! A cluster is a data directory; `cluster.json` in it names the process that serves it. The process is told apart from a later one
//! with the same id by its start time.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// How long a server gets to say that it is ready, and to end.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const POLL_PERIOD: Duration = Duration::from_millis(20);

/// What is remembered of a cluster that was started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub address: String,
    pub simulated_nodes: usize,
    pid: i32,
    /// Field 22 of /proc/PID/stat.
    started: u64,
}

/// A local cluster by name.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub name: String,
    pub dir: PathBuf,
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
            Some(dir) => dir.to_owned(),
            None => clusters_dir()?.join(name),
        };
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

    fn record_path(&self) -> PathBuf {
        self.dir.join("cluster.json")
    }

    /// The record, if the process it names still runs.
    pub fn running(&self) -> Option<Record> {
        let record = self.record()?;
        (process_start(record.pid) == Some(record.started)).then_some(record)
    }

    pub fn record(&self) -> Option<Record> {
        serde_json::from_slice(&std::fs::read(self.record_path()).ok()?).ok()
    }

    /// Starts the server in the background and waits until it serves.
    pub fn start(&self, simulated_nodes: usize) -> anyhow::Result<Record> {
        crate::roles::server::make_private_dir(&self.dir)?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .with_context(|| format!("cannot open {}", self.log().display()))?;
        let program = std::env::current_exe().context("cannot tell which program this is")?;
        let mut command = Command::new(program);
        command
            .args([
                "server",
                "--listen",
                "127.0.0.1:0",
                "--simulate",
                &simulated_nodes.to_string(),
                "--cluster-name",
                &self.name,
                "--data-dir",
            ])
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .current_dir("/")
            // A group of its own: keys typed at the terminal are not for it.
            .process_group(0);
        let mut child = command.spawn().context("cannot start the server")?;
        let address = self.wait_until_ready(&mut child)?;
        let pid = i32::try_from(child.id()).context("process ids fit into 32 bits")?;
        let started = process_start(pid).context("the server ended right after it was ready")?;
        let record = Record { address, simulated_nodes, pid, started };
        crate::kubeconfig::write_private(&self.record_path(), &serde_json::to_string(&record)?)?;
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

    /// Stops the server, if it runs, and removes everything.
    pub fn remove(&self) -> anyhow::Result<()> {
        if let Some(record) = self.running() {
            stop(&record)?;
        }
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.dir.display()))
            }
            _ => Ok(()),
        }
    }
}

fn stop(record: &Record) -> anyhow::Result<()> {
    let pid = Pid::from_raw(record.pid).context("the recorded process id is none")?;
    kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop process {}", record.pid))?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    while is_alive(record) {
        if Instant::now() > deadline {
            let _ = kill_process(pid, Signal::KILL);
            break;
        }
        std::thread::sleep(POLL_PERIOD);
    }
    Ok(())
}

fn is_alive(record: &Record) -> bool {
    process_start(record.pid) == Some(record.started)
}

/// When a process started, in the kernel's ticks; None when there is none, or only its remains.
fn process_start(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold anything; the fields begin after its closing parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.first() == Some(&"Z") { None } else { fields.get(19)?.parse().ok() }
}

fn tail(path: &Path) -> String {
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
