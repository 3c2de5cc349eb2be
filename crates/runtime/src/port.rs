//! The port between the agent and whatever runs containers, shaped like CRI (`k8s.io/cri-api`, v1):
//! sandboxes, containers, images, streams, statistics.
//!
//! A pod is one sandbox (its namespaces, its address) and containers in it. All calls may be
//! repeated: stopping what is stopped and removing what is gone succeed. What a call made survives
//! the agent: the next agent finds it with [`Runtime::sandboxes`] and [`Runtime::containers`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

/// Why a call failed. The texts reach users in events and container statuses: they say what was
/// wrong and with which part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{kind} {id:?} not found")]
    NotFound { kind: &'static str, id: String },
    /// The call cannot succeed in the state that the container or sandbox is in.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The request itself is wrong: a malformed image name, an unknown capability.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    DeadlineExceeded(String),
    /// The registry wants other credentials.
    #[error("{0}")]
    Unauthorized(String),
    #[error("{0}")]
    Failed(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// The name and version that a Node shows: `everynode`, `0.1.0` becomes `everynode://0.1.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub name: String,
    pub version: String,
}

/// Which of the node's namespaces a sandbox shares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNamespaces {
    pub network: bool,
    pub pid: bool,
    pub ipc: bool,
}

/// Users of a sandbox's own: its ids from 0 are the node's from `first`, as many as `length`, users
/// and groups alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    pub first: u32,
    pub length: u32,
}

/// Names a pod to the runtime: unique by `uid` and `attempt`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodId {
    pub name: String,
    pub namespace: String,
    pub uid: String,
}

/// A sandbox to make.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxConfig {
    pub pod: PodId,
    /// Counts the sandboxes made for this pod.
    pub attempt: u32,
    pub hostname: String,
    /// Which of the runtime's ways to run containers; the usual one when empty.
    #[serde(default)]
    pub handler: String,
    /// Where the logs of its containers go; made if it is not there.
    pub log_dir: PathBuf,
    pub dns: DnsConfig,
    pub port_mappings: Vec<PortMapping>,
    pub host: HostNamespaces,
    /// All containers see each other's processes.
    pub share_process_namespace: bool,
    /// Relative to the root of each cgroup hierarchy:
    /// `/everynode/node/kubepods/burstable/pod<uid>`. Made and limited here.
    pub cgroup_parent: String,
    pub resources: Resources,
    pub sysctls: BTreeMap<String, String>,
    /// None: the node's users.
    #[serde(default)]
    pub user_namespace: Option<UserNamespace>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// What the sandbox's resolv.conf is to say; empty lists leave out their lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A port of the node that leads to a port of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    /// None: all addresses of the node.
    pub host_ip: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    Ready,
    NotReady,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxStatus {
    pub id: String,
    pub pod: PodId,
    pub attempt: u32,
    pub state: SandboxState,
    pub created_at: Timestamp,
    /// Empty for the node's network.
    pub addresses: Vec<IpAddr>,
    pub host: HostNamespaces,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

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

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    /// Whoever watched it is gone and its exit is not recorded.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

/// A process to run in a running container, or a terminal to join.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamRequest {
    /// Empty for attach.
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    /// Not with a terminal: there is one stream then.
    pub stderr: bool,
    pub tty: bool,
}

pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// The streams of a process. Dropping `stdin` closes its standard input.
pub struct Session {
    pub stdin: Option<Writer>,
    pub stdout: Option<Reader>,
    pub stderr: Option<Reader>,
    /// There with a terminal.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// For exec: the exit code. For attach: ends with the container (0).
    pub exit: BoxFuture<'static, Result<i32>>,
}

/// What a process that ran to its end left behind; output beyond the limit is cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// What a container uses now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerStats {
    pub container_id: String,
    pub at: Option<Timestamp>,
    /// Processor time since its start.
    pub cpu_nanoseconds: u64,
    pub memory_usage_bytes: u64,
    /// Usage less what the kernel could give back at once.
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub memory_page_faults: u64,
    pub memory_major_page_faults: u64,
    pub processes: u64,
    pub rootfs_used_bytes: u64,
    pub rootfs_inodes_used: u64,
    pub log_used_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxStats {
    pub sandbox_id: String,
    pub receive_bytes: u64,
    pub transmit_bytes: u64,
    pub receive_errors: u64,
    pub transmit_errors: u64,
}

/// What runs containers.
pub trait Runtime: Send + Sync {
    /// Cheap enough to be asked every few seconds; an error means that the runtime is not usable
    /// now.
    fn version(&self) -> BoxFuture<'_, Result<Version>>;

    /// Whether sandboxes can have users of their own.
    fn has_user_namespaces(&self) -> bool {
        false
    }

    /// Makes the sandbox and its network; answers its id. Leaves nothing behind when it fails.
    fn run_sandbox<'a>(&'a self, config: &'a SandboxConfig) -> BoxFuture<'a, Result<String>>;
    /// Ends whatever still runs in it and gives its address back.
    fn stop_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Removes it with its containers; stops it before if need be. Logs stay.
    fn remove_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<SandboxStatus>>>;
    /// Changes the limits of all its containers together. -1 lifts one.
    fn update_sandbox_resources<'a>(&'a self, id: &'a str, resources: &'a Resources) -> BoxFuture<'a, Result<()>>;

    /// Makes a container, ready to be started; answers its id.
    fn create_container<'a>(
        &'a self,
        sandbox_id: &'a str,
        sandbox: &'a SandboxConfig,
        config: &'a ContainerConfig,
    ) -> BoxFuture<'a, Result<String>>;
    /// An error leaves the container exited, with the reason in its status.
    fn start_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Sends the stop signal, and SIGKILL to all its processes when `grace` is over. Returns when
    /// it has ended.
    fn stop_container<'a>(&'a self, id: &'a str, grace: Duration) -> BoxFuture<'a, Result<()>>;
    /// Ends it if it runs. Its log stays.
    fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>>>;
    fn container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerStatus>>;
    /// The log was moved away: writes from now on go to a new file under the old name.
    fn reopen_log<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Changes the limits of a running container.
    fn update_resources<'a>(&'a self, id: &'a str, resources: &'a Resources) -> BoxFuture<'a, Result<()>>;

    /// Runs a command to its end, or to `timeout` (then the process is killed and the answer is
    /// DeadlineExceeded).
    fn exec_sync<'a>(&'a self, id: &'a str, command: &'a [String], timeout: Option<Duration>) -> BoxFuture<'a, Result<ExecOutput>>;
    fn exec<'a>(&'a self, id: &'a str, request: &'a StreamRequest) -> BoxFuture<'a, Result<Session>>;
    fn attach<'a>(&'a self, id: &'a str, request: &'a StreamRequest) -> BoxFuture<'a, Result<Session>>;
    /// A connection to a port of the sandbox's loopback interface.
    fn port_forward<'a>(&'a self, sandbox_id: &'a str, port: u16) -> BoxFuture<'a, Result<(Reader, Writer)>>;

    fn container_stats(&self) -> BoxFuture<'_, Result<Vec<ContainerStats>>>;
    fn sandbox_stats(&self) -> BoxFuture<'_, Result<Vec<SandboxStats>>>;

    /// Counts up whenever a container or sandbox may have changed. Wakes, carries no data.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// What a registry wants to know before it gives an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    Basic {
        username: String,
        password: String,
    },
    /// A token that is sent as it is.
    Bearer(String),
}

/// An image on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The digest of its configuration: `sha256:...`.
    pub id: String,
    /// Full names with tags: `docker.io/library/busybox:1.36`.
    pub tags: Vec<String>,
    /// Full names with the digests of manifests: `docker.io/library/busybox@sha256:...`.
    pub digests: Vec<String>,
    /// What its layers take, compressed, as registries count.
    pub size_bytes: u64,
    /// Of the image's `User`, when it is a number.
    pub uid: Option<i64>,
    /// Of the image's `User`, when it is a name.
    pub username: String,
    /// Never collected.
    pub pinned: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilesystemUsage {
    pub used_bytes: u64,
    pub inodes_used: u64,
}

/// An image that no container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusedImage {
    pub image: Image,
    pub last_used: Timestamp,
    /// What its removal would free: layers that others use stay.
    pub frees_bytes: u64,
}

/// The images of a node.
pub trait Images: Send + Sync {
    fn list(&self) -> BoxFuture<'_, Result<Vec<Image>>>;
    /// Of a reference as users write it, or an id.
    fn status<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>>>;
    /// Brings the image here (asking the registry also when it is here already) and answers its id.
    /// Credentials are tried in order; without any, anonymously.
    fn pull<'a>(&'a self, reference: &'a str, credentials: &'a [Credentials]) -> BoxFuture<'a, Result<String>>;
    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
    fn usage(&self) -> BoxFuture<'_, Result<FilesystemUsage>>;
    /// The images that no container uses. Runtimes that keep no such account answer none: they
    /// collect on their own.
    fn unused(&self) -> BoxFuture<'_, Result<Vec<UnusedImage>>>;
}

/// The network of sandboxes, for runtimes that make the namespaces but not what connects them.
pub trait SandboxNetwork: Send + Sync {
    /// Connects the network namespace at that path; answers the sandbox's addresses. Repeating it
    /// answers the same.
    fn attach<'a>(
        &'a self,
        sandbox_id: &'a str,
        namespace: &'a std::path::Path,
        ports: &'a [PortMapping],
    ) -> BoxFuture<'a, Result<Vec<IpAddr>>>;
    /// Gives the addresses and host ports back; the namespace may be gone already.
    fn detach<'a>(&'a self, sandbox_id: &'a str) -> BoxFuture<'a, Result<()>>;
}
