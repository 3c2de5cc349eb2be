//! `cargo xtask bench containers`: making, starting and ending a container, beside crun and runc:
//! the same program in a root file system of the same files.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use containers::{ContainerConfig, ContainerState, PodId, PortMapping, SandboxConfig};
use futures::future::BoxFuture;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use runtime::embedded;
use runtime::images::{Content, Contents};
use runtime::port::{Runtime as _, SandboxNetwork};
use serde_json::{Value, json};

use super::figures::{Latencies, line};
use super::process::find;
use crate::server::release_folder;

const BUSYBOX: &str = "/bin/busybox";

/// Between two containers, as on a node where one is started now and then. What the kernel has just
/// done for one container is not there for the next: without the pause, joining control groups
/// costs only the first of them.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Args)]
pub struct Containers {
    /// Containers of each runtime.
    #[arg(long, default_value_t = 30)]
    rounds: usize,

    /// The program that has the runtime's helpers, if not everynode's release build.
    #[arg(long)]
    program: Option<PathBuf>,
}

impl Containers {
    pub fn run(self) -> anyhow::Result<()> {
        let program = match self.program {
            Some(program) => program,
            None => release_folder()?.join("everynode"),
        };
        measure(&program, self.rounds)
    }
}

/// One container of each runtime in turn, so that what else the machine does meets all of them.
fn measure(program: &Path, rounds: usize) -> anyhow::Result<()> {
    if !Path::new(BUSYBOX).exists() {
        line("containers alone", "left out: there is no /bin/busybox");
        return Ok(());
    }
    let dir = Scratch::new()?;
    let rootfs = dir.rootfs()?;
    let ours = Ours::open(program, &dir.0)?;
    let bundle = ours.bundle(&dir.0, &rootfs)?;
    hide_hybrid_cgroups()?;
    let mut runners = vec![("everynode", Times::default())];
    for name in ["crun", "runc"] {
        match find(name) {
            Some(_) => runners.push((name, Times::default())),
            None => line(&format!("container start, {name}"), "left out: it is not installed"),
        }
    }
    for round in 0..rounds {
        for (name, times) in &mut runners {
            std::thread::sleep(PAUSE);
            match *name {
                "everynode" => ours.run(round, times)?,
                other => theirs(other, &bundle, round, times)?,
            }
        }
    }
    print("create and start", &runners, |times| &times.started);
    print("create to end", &runners, |times| &times.ended);
    Ok(())
}

/// From the request on.
#[derive(Default)]
struct Times {
    started: Vec<Duration>,
    ended: Vec<Duration>,
}

fn print(what: &str, runners: &[(&str, Times)], part: impl Fn(&Times) -> &Vec<Duration>) {
    let mut ours_ms = None;
    for (name, times) in runners {
        let latencies = Latencies::new(part(times).clone(), Duration::from_secs(1));
        let (p50, p99) = (latencies.ms(0.5), latencies.ms(0.99));
        let ratio = ours_ms.map_or_else(String::new, |ours: f64| format!(", {:.2} times as long", p50 / ours));
        ours_ms.get_or_insert(p50);
        line(&format!("container, {what}, {name}"), &format!("{p50:>9.1} ms   p99 {p99:.1} ms{ratio}"));
    }
}

/// The embedded runtime, from the request to create a container until its program has ended.
struct Ours {
    runtime: embedded::Runtime,
    sandbox: SandboxConfig,
    sandbox_id: String,
    tokio: tokio::runtime::Runtime,
}

impl Ours {
    fn open(program: &Path, dir: &Path) -> anyhow::Result<Ours> {
        let tokio =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().context("cannot start the runtime")?;
        let (runtime, sandbox, sandbox_id) = tokio.block_on(async {
            let settings = embedded::Settings {
                state_dir: dir.join("state"),
                root_dir: dir.join("containers"),
                helper: program.to_owned(),
                contents: Arc::new(OneImage(dir.join("rootfs"))),
                network: Arc::new(NoNetwork),
                cgroup_root: cgroup_root(),
                version: "bench".to_owned(),
            };
            let runtime = embedded::Runtime::open(settings).await.context("cannot open the runtime")?;
            let sandbox = SandboxConfig {
                pod: PodId { name: "bench".into(), namespace: "bench".into(), uid: "bench".into() },
                hostname: "bench".into(),
                log_dir: dir.join("logs"),
                cgroup_parent: "/pods/bench".into(),
                ..SandboxConfig::default()
            };
            let id = runtime.run_sandbox(&sandbox).await.context("cannot make a sandbox")?;
            anyhow::Ok((runtime, sandbox, id))
        })?;
        Ok(Ours { runtime, sandbox, sandbox_id, tokio })
    }

    fn run(&self, round: usize, times: &mut Times) -> anyhow::Result<()> {
        self.tokio.block_on(async {
            let mut changes = self.runtime.changes();
            let begin = Instant::now();
            let id = self.create(&format!("c{round}")).await?;
            self.runtime.start_container(&id).await.context("cannot start a container")?;
            times.started.push(begin.elapsed());
            while self.runtime.container(&id).await.context("the container is gone")?.state != ContainerState::Exited {
                let _ = changes.changed().await;
            }
            times.ended.push(begin.elapsed());
            Ok(())
        })
    }

    async fn create(&self, name: &str) -> anyhow::Result<String> {
        let config = ContainerConfig {
            name: name.to_owned(),
            image_id: "bench".into(),
            command: vec!["/bin/busybox".into(), "true".into()],
            log_path: format!("{name}.log").into(),
            ..ContainerConfig::default()
        };
        self.runtime.create_container(&self.sandbox_id, &self.sandbox, &config).await.context("cannot create a container")
    }

    /// The specification that this runtime makes, for the others: same mounts, namespaces, limits
    /// and rights.
    fn bundle(&self, dir: &Path, rootfs: &Path) -> anyhow::Result<PathBuf> {
        let id = self.tokio.block_on(self.create("example"))?;
        let path = dir.join("state/containers").join(id).join("bundle/config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?)?;
        config["root"]["path"] = json!(rootfs);
        config["linux"]["cgroupsPath"] = json!(format!("/{}/pods/bench/other", cgroup_root()));
        // A container sees its own control groups, which are bound from where they are.
        for mount in config["mounts"].as_array().into_iter().flatten() {
            if let Some(source) = mount["source"].as_str().filter(|source| source.starts_with("/sys/fs/cgroup/")) {
                std::fs::create_dir_all(source).with_context(|| format!("cannot make {source}"))?;
            }
        }
        std::fs::write(dir.join("config.json"), config.to_string())?;
        Ok(dir.to_owned())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        if let Err(error) = self.tokio.block_on(async { self.runtime.remove_sandbox(&self.sandbox_id).await }) {
            eprintln!("cannot remove the sandbox: {error}");
        }
        remove_cgroups(&cgroup_root());
    }
}

/// Above the control groups of this measurement's containers.
fn cgroup_root() -> String {
    format!("everynode-bench-{}", std::process::id())
}

/// The runtime leaves the group that it got to put its groups into.
fn remove_cgroups(group: &str) {
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let root = hierarchy.path().join(group);
        let bench = root.join("pods/bench");
        let containers = std::fs::read_dir(&bench).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
        for dir in containers.chain([bench.clone(), root.join("pods"), root]) {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

struct OneImage(PathBuf);

impl Contents for OneImage {
    fn content(&self, image_id: &str) -> containers::Result<Content> {
        Ok(Content { id: image_id.to_owned(), layers: vec![self.0.clone()], ..Content::default() })
    }

    fn hold(&self, _: &str, _: &str) -> containers::Result<()> {
        Ok(())
    }

    fn release(&self, _: &str, _: &str) -> containers::Result<()> {
        Ok(())
    }
}

struct NoNetwork;

impl SandboxNetwork for NoNetwork {
    fn attach<'a>(&'a self, _: &'a str, _: &'a Path, _: &'a [PortMapping]) -> BoxFuture<'a, containers::Result<Vec<IpAddr>>> {
        Box::pin(async { Ok(vec![IpAddr::from([127, 0, 0, 1])]) })
    }

    fn detach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, containers::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// `create` and `start` as a node's agent would call them; it learns of the end by waiting for the
/// process, then deletes.
fn theirs(name: &str, bundle: &Path, round: usize, times: &mut Times) -> anyhow::Result<()> {
    let id = format!("everynode-bench-{}-{round}", std::process::id());
    let pid_file = bundle.join("pid");
    let call = |arguments: &[&OsStr]| -> anyhow::Result<()> {
        let status = Command::new(name).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
        let status = status.with_context(|| format!("cannot run {name}"))?;
        if status.success() { Ok(()) } else { bail!("{name} {arguments:?} failed") }
    };
    let begin = Instant::now();
    call(&["create".as_ref(), "--bundle".as_ref(), bundle.as_ref(), "--pid-file".as_ref(), pid_file.as_ref(), id.as_ref()])?;
    let process = pidfd(&pid_file)?;
    call(&["start".as_ref(), id.as_ref()])?;
    times.started.push(begin.elapsed());
    nix::poll::poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).context("cannot wait")?;
    call(&["delete".as_ref(), id.as_ref()])?;
    times.ended.push(begin.elapsed());
    Ok(())
}

fn pidfd(file: &Path) -> anyhow::Result<OwnedFd> {
    let pid: i32 = std::fs::read_to_string(file).context("no process id was written")?.trim().parse()?;
    let pid = rustix::process::Pid::from_raw(pid).context("process ids are positive")?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).context("cannot open a process")
}

/// crun refuses machines that have both versions of control groups mounted: the empty second one is
/// taken away for this thread and what it starts.
fn hide_hybrid_cgroups() -> anyhow::Result<()> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    const UNIFIED: &str = "/sys/fs/cgroup/unified";
    if !Path::new(UNIFIED).exists() {
        return Ok(());
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).context("cannot keep mounts to itself")?;
    umount2(UNIFIED, MntFlags::MNT_DETACH).context("cannot unmount the second version of control groups")
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Scratch> {
        // In memory, as the state of nodes and of the other runtimes is.
        let path = Path::new("/dev/shm").join(format!("everynode-bench-containers-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch(path))
    }

    fn rootfs(&self) -> anyhow::Result<PathBuf> {
        let root = self.0.join("rootfs");
        for dir in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
            std::fs::create_dir_all(root.join(dir))?;
        }
        std::fs::copy(BUSYBOX, root.join("bin/busybox")).context("cannot copy busybox")?;
        Ok(root)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let (Some(parent), Some(name)) = (self.0.parent(), self.0.file_name()) {
            let _ = runtime::trees::detach_and_remove(parent, name);
        }
    }
}
