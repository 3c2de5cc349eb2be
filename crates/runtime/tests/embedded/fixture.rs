//! A node of its own for each test: directories, cgroup, image, network. Cleans up after itself,
//! also when the test fails.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use containers::{ContainerConfig, ContainerState, ContainerStatus, PodId, PortMapping, SandboxConfig};
use futures::FutureExt;
use futures::future::BoxFuture;
use runtime::embedded::{Runtime, Settings};
use runtime::images::{Content, Contents};
use runtime::port::{Runtime as _, SandboxNetwork};
use testing::Need;

use crate::until::until;

const BUSYBOX: &str = "/bin/busybox";
const NEEDS: [Need<'_>; 3] = [Need::Root, Need::Namespaces, testing::BUSYBOX];

pub struct Node {
    pub runtime: Runtime,
    pub sandbox: String,
    pub sandbox_config: SandboxConfig,
    pub place: Place,
    attempts: AtomicU32,
}

/// Everything of a node but the runtime; dropped last.
pub struct Place {
    pub dir: Dir,
    pub cgroup: String,
    image: Arc<Image>,
    /// None: another process's, which cleans up.
    own: Option<tempfile::TempDir>,
}

pub struct Dir(PathBuf);

impl Dir {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

pub struct Image {
    content: Content,
}

impl Contents for Image {
    fn content(&self, image_id: &str) -> containers::Result<Content> {
        if image_id == "busybox" {
            Ok(self.content.clone())
        } else {
            Err(containers::Error::NotFound { kind: "image", id: image_id.to_owned() })
        }
    }

    fn hold(&self, _: &str, _: &str) -> containers::Result<()> {
        Ok(())
    }

    fn release(&self, _: &str, _: &str) -> containers::Result<()> {
        Ok(())
    }
}

struct Addresses;

impl SandboxNetwork for Addresses {
    fn attach<'a>(&'a self, _: &'a str, namespace: &'a Path, _: &'a [PortMapping]) -> BoxFuture<'a, containers::Result<Vec<IpAddr>>> {
        assert!(namespace.exists());
        async { Ok(vec![IpAddr::from([10, 1, 2, 3])]) }.boxed()
    }

    fn detach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, containers::Result<()>> {
        async { Ok(()) }.boxed()
    }
}

/// What a container left.
#[derive(Debug)]
pub struct Left {
    pub status: ContainerStatus,
    pub log: String,
}

impl Left {
    /// The lines of standard output and error without their heads.
    pub fn lines(&self) -> Vec<&str> {
        self.log.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).collect()
    }
}

impl Place {
    /// None: the test cannot run here.
    pub fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !testing::can_run(&NEEDS) {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("everynode-test-").tempdir().unwrap();
        let dir_path = dir.path().to_owned();
        make_layer(&dir.path().join("layer"));
        let cgroup = format!("/everynode-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut place = Self::existing(dir_path, &cgroup);
        place.own = Some(dir);
        Some(place)
    }

    /// The place of another process.
    pub fn existing(dir: PathBuf, cgroup: &str) -> Self {
        let content = Content {
            id: "busybox".into(),
            layers: vec![dir.join("layer")],
            cmd: vec!["/bin/sh".into()],
            env: vec!["FROM_IMAGE=yes".into()],
            volumes: vec!["/declared".into()],
            ..Default::default()
        };
        Self { dir: Dir(dir), cgroup: cgroup.to_owned(), image: Arc::new(Image { content }), own: None }
    }

    pub async fn open(&self) -> Runtime {
        let settings = Settings {
            state_dir: self.dir.path().join("state"),
            root_dir: self.dir.path().join("root"),
            helper: PathBuf::from(env!("CARGO_BIN_EXE_runtime-helper")),
            contents: Arc::clone(&self.image) as Arc<dyn Contents>,
            network: Arc::new(Addresses),
            cgroup_root: self.cgroup.clone(),
            version: "test".into(),
        };
        Runtime::open(settings).await.unwrap()
    }

    pub fn container_dir(&self, id: &str) -> PathBuf {
        self.dir.path().join("state/containers").join(id)
    }

    pub fn sandbox_config(&self) -> SandboxConfig {
        SandboxConfig {
            pod: PodId { name: "pod".into(), namespace: "default".into(), uid: "u1".into() },
            hostname: "pod-name".into(),
            log_dir: self.dir.path().join("logs"),
            cgroup_parent: "/kubepods/podu1".into(),
            ..Default::default()
        }
    }

    pub fn shim_pid(&self, id: &str) -> i32 {
        fs::read_to_string(self.container_dir(id).join("shim.pid")).unwrap().parse().unwrap()
    }

    pub fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
        hierarchies.map(|h| h.join(self.cgroup.trim_start_matches('/'))).filter(|p| p.is_dir()).collect()
    }

    /// Mount points below the test's directory, innermost first.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|l| l.split(' ').nth(4)).map(PathBuf::from);
        let mut own: Vec<_> = points.filter(|p| p.starts_with(self.dir.path())).collect();
        own.reverse();
        own
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(own) = self.own.take() else { return };
        for container in fs::read_dir(self.dir.path().join("state/containers")).into_iter().flatten().flatten() {
            let pid = fs::read_to_string(container.path().join("shim.pid")).ok().and_then(|t| t.parse().ok());
            let is_ours = |pid: &i32| {
                fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.contains(&*self.dir.path().to_string_lossy()))
            };
            if let Some(pid) = pid.filter(is_ours) {
                kill(pid, libc::SIGKILL);
            }
        }
        for dir in self.cgroups() {
            empty(&dir);
        }
        for point in self.mounts() {
            let _ = nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH);
        }
        // The runtime of the test may be writing down the ends of what was just killed.
        let dir = own.keep();
        assert!(dir.file_name().is_some_and(|n| n.to_string_lossy().starts_with("everynode-test-")));
        for _ in 0..50 {
            if fs::remove_dir_all(&dir).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn empty(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        empty(&child.path());
    }
    for _ in 0..100 {
        for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines().filter_map(|l| l.parse().ok()) {
            kill(pid, libc::SIGKILL);
        }
        if fs::remove_dir(dir).is_ok() || !dir.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn kill(pid: i32, signal: i32) {
    // SAFETY: numbers only.
    unsafe { libc::kill(pid, signal) };
}

fn make_layer(layer: &Path) {
    for dir in ["bin", "etc", "tmp", "home/web", "proc", "sys", "dev"] {
        fs::create_dir_all(layer.join(dir)).unwrap();
    }
    fs::copy(BUSYBOX, layer.join("bin/busybox")).unwrap();
    let list = std::process::Command::new(BUSYBOX).arg("--list").output().unwrap();
    for name in String::from_utf8(list.stdout).unwrap().lines().filter(|n| *n != "busybox") {
        std::os::unix::fs::symlink("busybox", layer.join("bin").join(name)).unwrap();
    }
    fs::write(layer.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/home/web:/bin/sh\n").unwrap();
    fs::write(layer.join("etc/group"), "root:x:0:\nweb:x:34:\nlogs:x:77:web\n").unwrap();
    fs::write(layer.join("etc/plain"), "no program").unwrap();
}

impl Node {
    pub async fn new() -> Option<Self> {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut SandboxConfig)) -> Option<Self> {
        Some(Self::at(Place::new()?, change).await)
    }

    pub async fn at(place: Place, change: impl FnOnce(&mut SandboxConfig)) -> Self {
        let runtime = place.open().await;
        let mut sandbox_config = place.sandbox_config();
        change(&mut sandbox_config);
        let sandbox = runtime.run_sandbox(&sandbox_config).await.unwrap();
        Self { runtime, sandbox, sandbox_config, place, attempts: AtomicU32::new(0) }
    }

    /// A container that runs a shell script.
    pub fn script(&self, script: &str) -> ContainerConfig {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        ContainerConfig {
            name: "c".into(),
            attempt,
            image: "busybox:latest".into(),
            image_id: "busybox".into(),
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            log_path: PathBuf::from(format!("c/{attempt}.log")),
            ..Default::default()
        }
    }

    pub async fn create(&self, config: &ContainerConfig) -> containers::Result<String> {
        self.runtime.create_container(&self.sandbox, &self.sandbox_config, config).await
    }

    pub async fn start(&self, config: &ContainerConfig) -> String {
        let id = self.create(config).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    /// Waits for its end.
    pub async fn wait(&self, id: &str) -> Left {
        let status = wait_exited(&self.runtime, id).await;
        Left { log: fs::read_to_string(&status.log_path).unwrap_or_default(), status }
    }

    pub async fn run(&self, config: &ContainerConfig) -> Left {
        let id = self.start(config).await;
        self.wait(&id).await
    }

    pub async fn run_script(&self, script: &str) -> Left {
        self.run(&self.script(script)).await
    }

    /// Until its log contains that text.
    pub async fn wait_log(&self, id: &str, text: &str) {
        let path = self.runtime.container(id).await.unwrap().log_path;
        until(&format!("{text:?} in {}", path.display()), async || fs::read_to_string(&path).is_ok_and(|log| log.contains(text))).await;
    }
}

pub async fn wait_exited(runtime: &Runtime, id: &str) -> ContainerStatus {
    let mut changes = runtime.changes();
    let wait = async {
        loop {
            changes.borrow_and_update();
            let status = runtime.container(id).await.unwrap();
            if status.state == ContainerState::Exited {
                return status;
            }
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the container did not end")
}
