//! Creating and starting a container, beside crun and runc: the same program in a root file system of the same files.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::future::BoxFuture;
use runtime::embedded;
use runtime::images::{Content, Contents};
use runtime::port::{self, ContainerConfig, ContainerState, PodId, PortMapping, Runtime as _, SandboxConfig, SandboxNetwork};
use serde_json::json;

use super::figures::{Latencies, line};

const BUSYBOX: &str = "/bin/busybox";

/// Times `rounds` starts of each runtime, in turn, so that what else the machine does meets all of them.
pub fn run(program: &Path, rounds: usize) -> anyhow::Result<()> {
    if !Path::new(BUSYBOX).exists() {
        line("containers alone", "left out: there is no /bin/busybox");
        return Ok(());
    }
    let dir = Scratch::new()?;
    let bundle = dir.bundle()?;
    let ours = Ours::open(program, &dir.0)?;
    hide_hybrid_cgroups()?;
    let mut runners: Vec<(&str, Vec<Duration>)> = vec![("everynode", Vec::new())];
    for name in ["crun", "runc"] {
        match find(name) {
            Some(_) => runners.push((name, Vec::new())),
            None => line(&format!("container start, {name}"), "left out: it is not installed"),
        }
    }
    for round in 0..rounds {
        for (name, times) in &mut runners {
            let start = Instant::now();
            match *name {
                "everynode" => ours.run(round)?,
                other => theirs(other, &bundle, round)?,
            }
            times.push(start.elapsed());
        }
    }
    let mut ours_ms = None;
    for (name, times) in runners {
        let latencies = Latencies::new(times, Duration::from_secs(1));
        let (p50, p99) = (latencies.ms(0.5), latencies.ms(0.99));
        let ratio = ours_ms.map_or_else(String::new, |ours: f64| format!(", {:.2} times as long", p50 / ours));
        ours_ms.get_or_insert(p50);
        line(&format!("container start to end, {name}"), &format!("{p50:>9.1} ms   p99 {p99:.1} ms{ratio}"));
    }
    Ok(())
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

    fn run(&self, round: usize) -> anyhow::Result<()> {
        let name = format!("c{round}");
        let config = ContainerConfig {
            name: name.clone(),
            image_id: "bench".into(),
            command: vec!["/bin/busybox".into(), "true".into()],
            log_path: format!("{name}.log").into(),
            ..ContainerConfig::default()
        };
        self.tokio.block_on(async {
            let mut changes = self.runtime.changes();
            let id = self.runtime.create_container(&self.sandbox_id, &self.sandbox, &config).await.context("cannot create a container")?;
            self.runtime.start_container(&id).await.context("cannot start a container")?;
            while self.runtime.container(&id).await.context("the container is gone")?.state != ContainerState::Exited {
                let _ = changes.changed().await;
            }
            anyhow::Ok(())
        })
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

/// The runtime leaves what it was told to put its groups into.
fn remove_cgroups(group: &str) {
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let root = hierarchy.path().join(group);
        for dir in [root.join("pods/bench"), root.join("pods"), root] {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

struct OneImage(PathBuf);

impl Contents for OneImage {
    fn content(&self, image_id: &str) -> port::Result<Content> {
        Ok(Content { id: image_id.to_owned(), layers: vec![self.0.clone()], ..Content::default() })
    }

    fn hold(&self, _: &str, _: &str) -> port::Result<()> {
        Ok(())
    }

    fn release(&self, _: &str, _: &str) -> port::Result<()> {
        Ok(())
    }
}

struct NoNetwork;

impl SandboxNetwork for NoNetwork {
    fn attach<'a>(&'a self, _: &'a str, _: &'a Path, _: &'a [PortMapping]) -> BoxFuture<'a, port::Result<Vec<IpAddr>>> {
        Box::pin(async { Ok(vec![IpAddr::from([127, 0, 0, 1])]) })
    }

    fn detach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, port::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

fn theirs(name: &str, bundle: &Path, round: usize) -> anyhow::Result<()> {
    let output = Command::new(name)
        .args(["run", "--bundle"])
        .arg(bundle)
        .arg(format!("everynode-bench-{round}"))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if output.status.success() { Ok(()) } else { bail!("{name}: {}", String::from_utf8_lossy(&output.stderr)) }
}

/// crun refuses machines that have both versions of control groups mounted: the empty second one is taken away for this thread and what it starts.
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

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Scratch> {
        let path = std::env::temp_dir().join(format!("everynode-bench-containers-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch(path))
    }

    fn bundle(&self) -> anyhow::Result<PathBuf> {
        let root = self.0.join("rootfs");
        for dir in ["bin", "proc", "dev", "sys", "tmp"] {
            std::fs::create_dir_all(root.join(dir))?;
        }
        std::fs::copy(BUSYBOX, root.join("bin/busybox")).context("cannot copy busybox")?;
        let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/busybox", "true"], "env": ["PATH=/bin"], "cwd": "/", "noNewPrivileges": true},
            "root": {"path": root, "readonly": false},
            "hostname": "bench",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            ],
            "linux": {"namespaces": namespaces, "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"]},
        });
        std::fs::write(self.0.join("config.json"), config.to_string())?;
        Ok(self.0.clone())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0.join("state/helper"), nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
