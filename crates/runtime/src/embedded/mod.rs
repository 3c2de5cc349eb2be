//! Containers without anything else installed.
//!
//! [`Runtime`] implements the port. What it makes lives on without it: namespaces are kept by bind
//! mounts, each running container has a [`shim`] of its own, and what there is to know is in files
//! ([`paths`], [`record`]) that the next agent loads.
//!
//! ```text
//! request -> prepare (checks, OCI specification) -> lifecycle -> shim -> library -> executor -> the program
//! ```
//!
//! The container library clones its caller and goes on in the clone as if it were alone, so it is
//! never called in the agent: only in the helpers ([`helper`]), which have one thread. A
//! container's shim is started with the container, not with its creation: what the runtime finds
//! wrong with a program is an error of the start, as with other runtimes.

mod capabilities;
mod causes;
mod console;
mod control;
mod device_filter;
mod devices;
mod exec;
mod executor;
mod failure;
pub mod helper;
mod idmap;
mod join;
mod layers;
mod lifecycle;
mod log;
mod namespace;
mod paths;
mod pause;
mod prepare;
mod record;
mod sandbox;
mod sandboxes;
mod seccomp;
mod sessions;
mod shim;
mod signals;
mod spec;
mod stats;
mod sysctl;
mod table;
mod user;
mod users;
mod watcher;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, watch};

use self::failure::Failure;
use crate::cgroup;
use crate::images::Contents;
use crate::port::{self, Reader, SandboxNetwork, Session, Writer};
use crate::words;
use containers::{
    ContainerConfig, ContainerStats, ContainerStatus, ExecOutput, PodRange, Resources, Result, SandboxConfig, SandboxStats, SandboxStatus,
    StreamRequest, Version,
};

pub struct Settings {
    /// For what is lost when the node restarts: `/run/everynode`.
    pub state_dir: PathBuf,
    /// For what containers write: `/var/lib/everynode`.
    pub root_dir: PathBuf,
    /// The program whose `main` calls [`helper::main_if_asked`].
    pub helper: PathBuf,
    pub contents: Arc<dyn Contents>,
    pub network: Arc<dyn SandboxNetwork>,
    /// Put before each sandbox's cgroup; empty for none.
    pub cgroup_root: String,
    pub version: String,
}

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
}

struct Shared {
    layout: paths::Layout,
    helper: PathBuf,
    contents: Arc<dyn Contents>,
    network: Arc<dyn SandboxNetwork>,
    cgroup_root: String,
    version: String,
    has_user_namespaces: bool,
    table: table::Table,
    disk_usage: Arc<stats::DiskUsage>,
    /// Held by the task that has the kernel prepare for moves between control groups: one at a time
    /// is enough.
    expecting_moves: Arc<Mutex<()>>,
    /// Threads that may hang in what containers are to mount.
    mount_checks: Arc<Semaphore>,
}

/// So many may hang.
const MOUNT_CHECKS_MAX: usize = 64;

impl Runtime {
    /// Finds what earlier agents left, running or not, and takes apart what they did not finish. To
    /// be called in a tokio runtime.
    pub async fn open(settings: Settings) -> Result<Self> {
        let layout = paths::Layout { state: settings.state_dir, root: settings.root_dir };
        let program = settings.helper;
        let (for_helper, original) = (layout.clone(), program.clone());
        let (helper, has_user_namespaces) = blocking(move || {
            let helper = watcher::protect_helper(&for_helper, &original);
            let made = std::fs::create_dir_all(&for_helper.root);
            let users = made.and_then(|()| users::check(&for_helper.state, &[&for_helper.root], &helper));
            if let Err(why) = &users {
                tracing::info!(why = words::plain(why), "pods cannot have users of their own on this node (hostUsers: false)");
            }
            Ok((helper, users.is_ok()))
        })
        .await?;
        let shared = Arc::new(Shared {
            layout,
            helper,
            contents: settings.contents,
            network: settings.network,
            cgroup_root: settings.cgroup_root,
            version: settings.version,
            has_user_namespaces,
            table: table::Table::default(),
            disk_usage: Arc::default(),
            expecting_moves: Arc::default(),
            mount_checks: Arc::new(Semaphore::new(MOUNT_CHECKS_MAX)),
        });
        let runtime = Self { shared };
        runtime.load().await?;
        Ok(runtime)
    }

    /// A container will be started soon: what the kernel needs time for begins now, beside
    /// everything else.
    fn expect_start(&self) {
        let one = Arc::clone(&self.shared.expecting_moves);
        tokio::task::spawn_blocking(move || {
            if let Ok(_held) = one.try_lock() {
                cgroup::expect_moves();
            }
        });
    }

    /// Runs `task` to its end even when the caller stops waiting: no other task would finish half a
    /// start or removal.
    fn whole<T: Send + 'static>(&self, task: impl Future<Output = Result<T>> + Send + 'static) -> BoxFuture<'static, Result<T>> {
        let task = tokio::spawn(task);
        async move { task.await.unwrap_or_else(|e| Err(Failure::from(e).into())) }.boxed()
    }
}

/// File system and process calls belong on threads that may wait.
async fn blocking<T: Send + 'static>(task: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(task).await.unwrap_or_else(|e| Err(Failure::from(e).into()))
}

impl port::Runtime for Runtime {
    fn version(&self) -> BoxFuture<'_, Result<Version>> {
        let version = Version { name: "everynode".to_owned(), version: self.shared.version.clone() };
        async move { Ok(version) }.boxed()
    }

    fn has_user_namespaces(&self) -> bool {
        self.shared.has_user_namespaces
    }

    fn network_problem(&self) -> BoxFuture<'_, Result<Option<String>>> {
        let problem = self.shared.network.problem();
        async move { Ok(problem) }.boxed()
    }

    fn use_pod_range<'a>(&'a self, range: &'a PodRange) -> BoxFuture<'a, Result<()>> {
        async move {
            let live: Vec<String> = self.sandboxes().await?.into_iter().map(|sandbox| sandbox.id).collect();
            self.shared.network.use_pod_range(range, &live).await
        }
        .boxed()
    }

    fn run_sandbox<'a>(&'a self, config: &'a SandboxConfig) -> BoxFuture<'a, Result<String>> {
        let (this, config) = (self.clone(), config.clone());
        self.expect_start();
        self.whole(async move { this.make_sandbox(config).await })
    }

    fn stop_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        let (this, id) = (self.clone(), id.to_owned());
        self.whole(async move { this.end_sandbox(&id).await })
    }

    fn remove_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        let (this, id) = (self.clone(), id.to_owned());
        self.whole(async move { this.unmake_sandbox(&id).await })
    }

    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<SandboxStatus>>> {
        let all = self.shared.table.rows().sandboxes.values().map(table::sandbox_status).collect();
        async move { Ok(all) }.boxed()
    }

    fn update_sandbox_resources<'a>(&'a self, id: &'a str, resources: &'a Resources) -> BoxFuture<'a, Result<()>> {
        self.limit_sandbox(id, resources).boxed()
    }

    fn create_container<'a>(
        &'a self,
        sandbox_id: &'a str,
        sandbox: &'a SandboxConfig,
        config: &'a ContainerConfig,
    ) -> BoxFuture<'a, Result<String>> {
        let (this, id, sandbox, config) = (self.clone(), sandbox_id.to_owned(), sandbox.clone(), config.clone());
        self.expect_start();
        self.whole(async move { this.create(&id, sandbox, config).await })
    }

    fn start_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        let (this, id) = (self.clone(), id.to_owned());
        self.expect_start();
        self.whole(async move { this.start(&id).await })
    }

    fn stop_container<'a>(&'a self, id: &'a str, grace: Duration) -> BoxFuture<'a, Result<()>> {
        self.stop(id, grace).boxed()
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        let (this, id) = (self.clone(), id.to_owned());
        self.whole(async move { this.remove(&id).await })
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>>> {
        let all = self.shared.table.containers().iter().map(table::Container::status).collect();
        async move { Ok(all) }.boxed()
    }

    fn container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerStatus>> {
        let status = self.shared.table.container(id).map(|c| c.status());
        async move { status }.boxed()
    }

    fn reopen_log<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        self.reopen(id).boxed()
    }

    fn update_resources<'a>(&'a self, id: &'a str, resources: &'a Resources) -> BoxFuture<'a, Result<()>> {
        self.update(id, resources).boxed()
    }

    fn exec_sync<'a>(&'a self, id: &'a str, command: &'a [String], timeout: Option<Duration>) -> BoxFuture<'a, Result<ExecOutput>> {
        self.exec_to_end(id, command, timeout).boxed()
    }

    fn exec<'a>(&'a self, id: &'a str, request: &'a StreamRequest) -> BoxFuture<'a, Result<Session>> {
        self.exec_session(id, request).boxed()
    }

    fn attach<'a>(&'a self, id: &'a str, request: &'a StreamRequest) -> BoxFuture<'a, Result<Session>> {
        self.attach_session(id, request).boxed()
    }

    fn port_forward<'a>(&'a self, sandbox_id: &'a str, port: u16) -> BoxFuture<'a, Result<(Reader, Writer)>> {
        self.forward(sandbox_id, port).boxed()
    }

    fn container_stats(&self) -> BoxFuture<'_, Result<Vec<ContainerStats>>> {
        self.measure_containers().boxed()
    }

    fn sandbox_stats(&self) -> BoxFuture<'_, Result<Vec<SandboxStats>>> {
        self.measure_sandboxes().boxed()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.table.changes()
    }
}
