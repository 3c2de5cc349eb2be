//! The port between the agent and whatever runs containers, shaped like CRI (`k8s.io/cri-api`, v1).
//! What goes through it is data of the crate `containers`.
//!
//! All calls may be repeated: stopping what is stopped and removing what is gone succeed. What a
//! call made survives the agent: the next agent finds it with [`Runtime::sandboxes`] and
//! [`Runtime::containers`].

use std::net::IpAddr;
use std::time::Duration;

use containers::{
    ContainerConfig, ContainerStats, ContainerStatus, Credentials, ExecOutput, FilesystemUsage, Image, PodRange, PortMapping, Resources,
    Result, SandboxConfig, SandboxStats, SandboxStatus, StreamRequest, TerminalSize, UnusedImage, Version,
};
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

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

/// What runs containers.
pub trait Runtime: Send + Sync {
    /// Cheap enough to be asked every few seconds; an error means that the runtime is not usable
    /// now.
    fn version(&self) -> BoxFuture<'_, Result<Version>>;

    /// Whether sandboxes can have users of their own.
    fn has_user_namespaces(&self) -> bool {
        false
    }

    /// Why pods get no network of their own on this node; None when they do. Asked every few
    /// seconds.
    fn network_problem(&self) -> BoxFuture<'_, Result<Option<String>>>;
    /// Pods get addresses from this range from now on. Repeating it changes nothing.
    fn use_pod_range<'a>(&'a self, range: &'a PodRange) -> BoxFuture<'a, Result<()>>;

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
    /// Why nothing can be attached; None when it can.
    fn problem(&self) -> Option<String> {
        None
    }
    /// Takes addresses from this range from now on. `live` are the ids of the sandboxes that there
    /// are.
    fn use_pod_range<'a>(&'a self, _range: &'a PodRange, _live: &'a [String]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
    /// Gives the addresses and host ports back; the namespace may be gone already.
    fn detach<'a>(&'a self, sandbox_id: &'a str) -> BoxFuture<'a, Result<()>>;
}
