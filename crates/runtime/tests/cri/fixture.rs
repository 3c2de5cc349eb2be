//! A containerd of its own for each test: configuration, directories, socket, network, cgroup.
//! Cleans up after itself, also when the test fails: first the sandboxes, then containerd and
//! whatever shims are left, each by its pid.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use containers::{ContainerConfig, ContainerState, ContainerStatus, PodId, Resources, SandboxConfig, SandboxState};
use runtime::cri::Client;
use runtime::port::{Images as _, Runtime as _};
use serde_json::json;
use tempfile::TempDir;
use testing::Need;

use crate::image;
use crate::until::until;

pub const IMAGE: &str = "docker.io/library/busybox:test";
const PAUSE: &str = "everynode.test/pause:1";
const PLUGINS: &str = "/usr/lib/cni";
const WAIT_SECONDS_MAX: u64 = 30;

pub struct Daemon {
    pub dir: TempDir,
    pub client: Client,
    pub cgroup: String,
    containerd: Option<Child>,
}

impl Daemon {
    /// None: the test cannot run here.
    pub async fn start() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !testing::can_run(&[Need::Root, testing::BUSYBOX]) || !testing::can_run(&testing::CONTAINERD) {
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new().prefix("everynode-cri-").tempdir().unwrap();
        configure(dir.path(), number);
        let containerd = spawn(dir.path());
        let cleaner = Cleaner { dir: dir.path(), containerd: Some(containerd) };
        let client = connect(dir.path()).await;
        let cgroup = format!("/everynode-cri-{}-{number}", std::process::id());
        let containerd = cleaner.disarm();
        let daemon = Self { dir, client, cgroup, containerd };
        daemon.import();
        Some(daemon)
    }

    fn import(&self) {
        let archive = self.dir.path().join("images.tar");
        let busybox = json!({"Cmd": ["sh"], "Env": ["PATH=/bin", "FROM_IMAGE=yes"]});
        let pause = json!({"Entrypoint": ["/bin/busybox", "sleep", "1000000"], "Env": ["PATH=/bin"]});
        image::write(&archive, &[(IMAGE, busybox), (PAUSE, pause)]);
        let mut import = Command::new("ctr");
        import.arg("-a").arg(socket(self.dir.path())).args(["-n", "k8s.io", "images", "import", "--snapshotter", "native"]).arg(archive);
        let output = import.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn sandbox_config(&self, name: &str) -> SandboxConfig {
        SandboxConfig {
            pod: PodId { name: name.into(), namespace: "default".into(), uid: format!("uid-{name}") },
            hostname: name.into(),
            log_dir: self.path("logs").join(name),
            cgroup_parent: format!("{}/pod-{name}", self.cgroup),
            labels: BTreeMap::from([("mine".into(), "1".into())]),
            annotations: BTreeMap::from([("note".into(), "of the sandbox".into())]),
            resources: Resources { pids_limit: Some(200), ..Default::default() },
            ..Default::default()
        }
    }

    pub async fn sandbox(&self, config: &SandboxConfig) -> String {
        self.client.run_sandbox(config).await.unwrap()
    }

    pub async fn image_id(&self) -> String {
        self.client.status(IMAGE).await.unwrap().expect("it was imported").id
    }

    /// Of a shell with that script.
    pub async fn config(&self, name: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            name: name.into(),
            image: "busybox:test".into(),
            image_id: self.image_id().await,
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("{name}/0.log").into(),
            annotations: BTreeMap::from([("note".into(), "of the container".into())]),
            ..Default::default()
        }
    }

    pub async fn run(&self, sandbox: &str, pod: &SandboxConfig, config: &ContainerConfig) -> String {
        let id = self.client.create_container(sandbox, pod, config).await.unwrap();
        self.client.start_container(&id).await.unwrap();
        id
    }

    pub async fn ended(&self, id: &str) -> ContainerStatus {
        until(&format!("the end of {id}"), async || self.client.container(id).await.unwrap().state == ContainerState::Exited).await;
        self.client.container(id).await.unwrap()
    }

    /// Until its log contains that text.
    pub async fn wait_log(&self, id: &str, text: &str) {
        let path = self.client.container(id).await.unwrap().log_path;
        until(&format!("{text:?} in {}", path.display()), async || fs::read_to_string(&path).is_ok_and(|log| log.contains(text))).await;
    }

    /// Runs it to its end; its lines without their heads.
    pub async fn output(&self, sandbox: &str, pod: &SandboxConfig, config: &ContainerConfig) -> (ContainerStatus, Vec<String>) {
        let id = self.run(sandbox, pod, config).await;
        let status = self.ended(&id).await;
        let log = fs::read_to_string(&status.log_path).unwrap();
        (status, log.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).map(str::to_owned).collect())
    }

    /// As a crash, or an update of the package, does: containers and their shims stay.
    pub fn stop_containerd(&mut self) {
        let mut containerd = self.containerd.take().expect("it runs");
        terminate(&mut containerd);
    }

    pub fn start_containerd(&mut self) {
        self.containerd = Some(spawn(self.dir.path()));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.containerd.is_none() {
            self.start_containerd();
        }
        let dir = self.dir.path().to_owned();
        // A thread of its own: this one runs the test's tasks.
        let removed = std::thread::spawn(move || remove_sandboxes(&dir)).join();
        if removed.is_err() {
            println!("not all sandboxes could be removed");
        }
        drop(Cleaner { dir: self.dir.path(), containerd: self.containerd.take() });
        remove_cgroup(&self.cgroup);
    }
}

/// Ends containerd and what it left running in that directory.
struct Cleaner<'a> {
    dir: &'a Path,
    containerd: Option<Child>,
}

impl Cleaner<'_> {
    fn disarm(mut self) -> Option<Child> {
        let containerd = self.containerd.take();
        std::mem::forget(self);
        containerd
    }
}

impl Drop for Cleaner<'_> {
    fn drop(&mut self) {
        if let Some(containerd) = &mut self.containerd {
            terminate(containerd);
        }
        let marker = self.dir.to_string_lossy().into_owned();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains("containerd-shim") && line.contains(&marker) {
                // SAFETY: kill takes two numbers and touches no memory.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
        unmount_all(&marker);
    }
}

fn unmount_all(prefix: &str) {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|p| p.starts_with(prefix));
    let points: Vec<&str> = points.collect();
    for point in points.into_iter().rev() {
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn terminate(containerd: &mut Child) {
    // SAFETY: kill takes two numbers and touches no memory; the child was not waited for yet, so
    // the pid is its own.
    unsafe { libc::kill(containerd.id() as i32, libc::SIGTERM) };
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until && matches!(containerd.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = containerd.kill();
    let _ = containerd.wait();
}

fn remove_sandboxes(dir: &Path) {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let client = connect(dir).await;
        for sandbox in client.sandboxes().await.unwrap() {
            client.remove_sandbox(&sandbox.id).await.unwrap();
        }
    });
}

fn remove_cgroup(path: &str) {
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let dir = hierarchy.path().join(path.trim_start_matches('/'));
        for pod in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(pod.path());
        }
        let _ = fs::remove_dir(&dir);
    }
}

pub fn socket(dir: &Path) -> PathBuf {
    dir.join("containerd.sock")
}

async fn connect(dir: &Path) -> Client {
    let endpoint = format!("unix://{}", socket(dir).display());
    let until = Instant::now() + Duration::from_secs(WAIT_SECONDS_MAX);
    loop {
        match Client::connect(&endpoint).await {
            Ok(client) => return client,
            Err(error) if Instant::now() > until => panic!("{error}\n{}", fs::read_to_string(dir.join("containerd.log")).unwrap()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn spawn(dir: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(dir.join("containerd.log")).unwrap();
    let mut containerd = Command::new("containerd");
    containerd.arg("--config").arg(dir.join("config.toml")).stdin(Stdio::null());
    containerd.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

fn configure(dir: &Path, number: u32) {
    let here = dir.display();
    fs::create_dir_all(dir.join("cni")).unwrap();
    let config = format!(
        r#"version = 2
root = "{here}/root"
state = "{here}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{here}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{here}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
stream_server_address = "127.0.0.1"
stream_server_port = "0"
netns_mounts_under_state_dir = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{here}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
Root = "{here}/runc"
"#
    );
    fs::write(dir.join("config.toml"), config).unwrap();
    let third = (std::process::id() + number) % 250;
    let network = json!({
        "cniVersion": "0.4.0",
        "name": "test",
        "plugins": [{
            "type": "ptp",
            "ipam": {"type": "host-local", "dataDir": dir.join("ipam"), "ranges": [[{"subnet": format!("10.253.{third}.0/24")}]]},
        }],
    });
    fs::write(dir.join("cni/10-test.conflist"), network.to_string()).unwrap();
}

pub async fn is_ready(client: &Client, id: &str) -> bool {
    let sandboxes = client.sandboxes().await.unwrap();
    sandboxes.iter().any(|s| s.id == id && s.state == SandboxState::Ready)
}
