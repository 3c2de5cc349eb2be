//! Containers: what one is made of, and what is seen of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::PodId;

/// A container to make.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerConfig {
    pub name: String,
    /// Counts the containers made under this name in the sandbox's pod.
    pub attempt: u32,
    /// The reference the user wrote; shown in lists.
    pub image: String,
    /// The id that [`Images::pull`] or [`Images::status`] answered.
    pub image_id: String,
    /// Replaces the image's entrypoint (and its arguments) unless empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments unless empty.
    pub args: Vec<String>,
    /// The image's when None. Made inside the container when it is missing.
    pub working_dir: Option<String>,
    /// Added to the image's, later names win.
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    /// Relative to the sandbox's log directory: `c/0.log`.
    pub log_path: PathBuf,
    pub stdin: bool,
    /// Standard input is closed when the first client that attached goes.
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: Resources,
    pub security: SecurityContext,
    /// The image's, or SIGTERM, when None: `SIGUSR1`.
    pub stop_signal: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// Something of the node that the container sees: the source must exist. Or the content of an
/// image, which has no place on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    pub read_only: bool,
    /// Makes submounts read-only too.
    pub recursive_read_only: bool,
    pub propagation: Propagation,
    #[serde(default)]
    pub image: Option<ImageMount>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// An image as a volume: always read-only, and nothing in it can be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMount {
    /// The id that [`Images::pull`] or [`Images::status`] answered.
    pub id: String,
    /// A part of it, relative to its root.
    pub sub_path: Option<PathBuf>,
}

/// A device of the node that the container may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    /// Some of `r`, `w`, `m`.
    pub permissions: String,
}

/// Limits. None and 0 leave the kernel's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// cgroup v1's unit: 1024 is one processor's worth; turned into a weight on v2.
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time in each period.
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub memory_limit_bytes: Option<i64>,
    pub pids_limit: Option<i64>,
    /// -1000 to 1000; lower ones than the agent's own need privileges and are then left out.
    pub oom_score_adj: Option<i32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityContext {
    /// All capabilities, all devices, nothing masked, nothing read-only.
    pub privileged: bool,
    /// Names without `CAP_`, or `ALL`; applied to the runtime's default set: first drops, then
    /// additions.
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    /// The image's user when both are None.
    pub run_as_user: Option<i64>,
    pub run_as_username: Option<String>,
    /// The user's primary group by the image's /etc/passwd, or 0, when None.
    pub run_as_group: Option<i64>,
    pub supplemental_groups: Vec<i64>,
    /// Do not add the groups that the image's /etc/group lists for the user.
    pub strict_supplemental_groups: bool,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// Leave /proc as it is (`procMount: Unmasked`). Only in a sandbox with users of its own: root
    /// of the node could change the node there.
    pub unmasked_proc: bool,
    /// Join the process namespace of that container (ephemeral containers with a target).
    pub target_container: Option<String>,
}

/// A seccomp filter for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    #[default]
    Unconfined,
    /// The runtime's own list of what containers may call.
    RuntimeDefault,
    /// A file on the node in the format of `containers/common` and Docker.
    Localhost(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    /// The process that watched it is gone, and its exit is not recorded.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerStatus {
    pub id: String,
    pub sandbox_id: String,
    pub pod: PodId,
    pub name: String,
    pub attempt: u32,
    pub state: ContainerState,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// 128 + n for a process that signal n ended; 128 with the reason `StartError` for one that
    /// never started.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, ...; empty while it has not ended.
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_id: String,
    /// Absolute.
    pub log_path: PathBuf,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Who its first process runs as, once known.
    pub user: Option<User>,
    pub resources: Resources,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: i64,
    pub gid: i64,
    pub supplemental_groups: Vec<i64>,
}
