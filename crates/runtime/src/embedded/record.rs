//! What survives the agent: one JSON file per fact, each written once and whole.
//!
//! A sandbox or container exists as soon as its record does; a directory without one is a creation
//! that a crash interrupted.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use containers::{ContainerConfig, PodId, SandboxConfig, User};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxRecord {
    pub id: String,
    pub config: SandboxConfig,
    pub created_at: Timestamp,
    pub addresses: Vec<IpAddr>,
    /// What containers see as their host name: the config's, or the node's.
    pub hostname: String,
    /// Of the sandbox, with the prefix.
    pub cgroup: String,
    /// The process that holds the shared process namespace.
    pub pause: Option<i32>,
    pub stopped: bool,
    /// False while it is being made: the next agent takes it apart.
    pub complete: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: String,
    pub sandbox_id: String,
    pub pod: PodId,
    pub config: ContainerConfig,
    pub created_at: Timestamp,
    pub log_path: PathBuf,
    pub user: User,
    pub launch: Launch,
}

/// What shim and exec helper need beside the OCI specification.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    pub id: String,
    /// Overlay layers, the topmost first.
    pub layers: Vec<PathBuf>,
    /// Upper and work directory are in here.
    pub writable: PathBuf,
    #[serde(default)]
    pub working_dir_place: WorkingDirPlace,
    pub cgroup: String,
    pub log_path: PathBuf,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub oom_score_adj: Option<i32>,
    pub stop_signal: i32,
    /// The rootfs must be where the node sees it, or mounts made inside would not propagate.
    pub shared_mounts: bool,
    pub own_pid_namespace: bool,
    pub seccomp: Option<super::seccomp::Profile>,
    /// Bit n is capability n. What the process has when it runs; the specification may give it more
    /// until the filter is in place.
    pub capabilities: u64,
    pub no_new_privileges: bool,
    #[serde(default)]
    pub users: Option<OwnUsers>,
    #[serde(default)]
    pub staged: Vec<Staged>,
}

/// Where to make the container's working directory if it is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkingDirPlace {
    /// In the root filesystem.
    Root(PathBuf),
    /// In a folder of the node, at that path.
    Mount(PathBuf, PathBuf),
    #[default]
    Nowhere,
}

/// Of a sandbox with users of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwnUsers {
    /// The node's id of the container's root.
    pub first: u32,
    /// Where the sandbox keeps its namespaces.
    pub namespaces: PathBuf,
}

/// A mount that is laid out before the library sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Staged {
    /// Its number among the mounts of the specification that come from outside.
    pub number: usize,
    pub source: Source,
    /// What is mounted on the node later does not show in it.
    pub private: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Source {
    Node(PathBuf),
    /// Layers, the topmost first, and a part of what they make together.
    Image(Vec<PathBuf>, Option<PathBuf>),
}

impl Launch {
    /// The node's id of one of the container's users.
    pub fn node_id(&self, id: u32) -> u32 {
        self.users.as_ref().map_or(0, |users| users.first).saturating_add(id)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartRecord {
    /// Of the container's first process, as the node sees it.
    pub pid: i32,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub code: i32,
    pub signal: i32,
    pub oom: bool,
    pub at: Timestamp,
    pub reason: String,
    pub message: String,
}

/// Readers see the old file or the new one, and after a power cut as well.
pub fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_data()?;
    fs::rename(&temporary, path)
}

/// None when it is not there.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
