//! A runtime whose containers are nothing but a log file, and whose processes are this machine's.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use containers::*;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use runtime::port::{Images, Reader, Runtime, Session, Writer};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};

#[derive(Default)]
struct State {
    sandboxes: Vec<SandboxStatus>,
    containers: Vec<ContainerStatus>,
    cpu_nanoseconds: u64,
    size: Option<TerminalSize>,
}

pub struct Fake {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
    processes: Arc<AtomicUsize>,
}

impl Fake {
    pub fn new() -> Arc<Fake> {
        Arc::new(Fake { state: Arc::default(), changes: watch::channel(0).0, processes: Arc::default() })
    }

    /// Writes lines as the container that was started last.
    pub fn log(&self, text: &str) {
        let path = self.state.lock().unwrap().containers.last().unwrap().log_path.clone();
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        for line in text.lines() {
            file.write_all(format!("{} stdout F {line}\n", Timestamp::now()).as_bytes()).unwrap();
        }
    }

    pub fn end_container(&self, exit_code: i32) {
        for container in &mut self.state.lock().unwrap().containers {
            end(container, exit_code);
        }
        self.changes.send_modify(|count| *count += 1);
    }

    pub fn is_empty(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.sandboxes.is_empty() && state.containers.is_empty()
    }

    pub fn is_running(&self) -> bool {
        self.state.lock().unwrap().containers.iter().any(|container| container.state == ContainerState::Running)
    }

    pub fn processes(&self) -> usize {
        self.processes.load(Ordering::SeqCst)
    }

    pub fn last_size(&self) -> Option<TerminalSize> {
        self.state.lock().unwrap().size
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let outcome = act(&mut self.state.lock().unwrap());
        self.changes.send_modify(|count| *count += 1);
        outcome
    }
}

fn end(container: &mut ContainerStatus, exit_code: i32) {
    if container.state != ContainerState::Exited {
        container.state = ContainerState::Exited;
        container.exit_code = exit_code;
        container.finished_at = Some(Timestamp::now());
        container.reason = "Completed".to_owned();
    }
}

fn now<'a, T: Send + 'a>(value: containers::Result<T>) -> BoxFuture<'a, containers::Result<T>> {
    std::future::ready(value).boxed()
}

/// Counts a process as long as it is held.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Runtime for Fake {
    fn version(&self) -> BoxFuture<'_, containers::Result<Version>> {
        now(Ok(Version { name: "fake".to_owned(), version: "1".to_owned() }))
    }

    fn network_problem(&self) -> BoxFuture<'_, containers::Result<Option<String>>> {
        now(Ok(None))
    }

    fn use_pod_range<'a>(&'a self, _: &'a PodRange) -> BoxFuture<'a, containers::Result<()>> {
        now(Ok(()))
    }

    fn run_sandbox<'a>(&'a self, config: &'a SandboxConfig) -> BoxFuture<'a, containers::Result<String>> {
        let id = format!("s{}", config.attempt);
        self.change(|state| {
            state.sandboxes.push(SandboxStatus {
                id: id.clone(),
                pod: config.pod.clone(),
                attempt: config.attempt,
                state: SandboxState::Ready,
                created_at: Timestamp::now(),
                addresses: vec!["127.0.0.1".parse().unwrap()],
                host: config.host,
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            });
        });
        now(Ok(id))
    }

    fn stop_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, containers::Result<()>> {
        self.change(|state| {
            state.sandboxes.iter_mut().filter(|sandbox| sandbox.id == id).for_each(|sandbox| sandbox.state = SandboxState::NotReady);
        });
        now(Ok(()))
    }

    fn remove_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, containers::Result<()>> {
        self.change(|state| state.sandboxes.retain(|sandbox| sandbox.id != id));
        now(Ok(()))
    }

    fn sandboxes(&self) -> BoxFuture<'_, containers::Result<Vec<SandboxStatus>>> {
        now(Ok(self.state.lock().unwrap().sandboxes.clone()))
    }

    fn create_container<'a>(
        &'a self,
        sandbox_id: &'a str,
        sandbox: &'a SandboxConfig,
        config: &'a ContainerConfig,
    ) -> BoxFuture<'a, containers::Result<String>> {
        let id = format!("{}-{}", config.name, config.attempt);
        let log_path: PathBuf = sandbox.log_dir.join(&config.log_path);
        std::fs::create_dir_all(log_path.parent().unwrap()).unwrap();
        self.change(|state| {
            state.containers.push(ContainerStatus {
                id: id.clone(),
                sandbox_id: sandbox_id.to_owned(),
                pod: sandbox.pod.clone(),
                name: config.name.clone(),
                attempt: config.attempt,
                state: ContainerState::Created,
                created_at: Timestamp::now(),
                started_at: None,
                finished_at: None,
                exit_code: 0,
                reason: String::new(),
                message: String::new(),
                image: config.image.clone(),
                image_id: config.image_id.clone(),
                log_path,
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
                user: None,
                resources: config.resources.clone(),
            });
        });
        now(Ok(id))
    }

    fn start_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, containers::Result<()>> {
        self.change(|state| {
            for container in state.containers.iter_mut().filter(|container| container.id == id) {
                container.state = ContainerState::Running;
                container.started_at = Some(Timestamp::now());
            }
        });
        now(Ok(()))
    }

    fn stop_container<'a>(&'a self, id: &'a str, _grace: Duration) -> BoxFuture<'a, containers::Result<()>> {
        self.change(|state| state.containers.iter_mut().filter(|container| container.id == id).for_each(|container| end(container, 137)));
        now(Ok(()))
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, containers::Result<()>> {
        self.change(|state| state.containers.retain(|container| container.id != id));
        now(Ok(()))
    }

    fn containers(&self) -> BoxFuture<'_, containers::Result<Vec<ContainerStatus>>> {
        now(Ok(self.state.lock().unwrap().containers.clone()))
    }

    fn container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, containers::Result<ContainerStatus>> {
        let found = self.state.lock().unwrap().containers.iter().find(|container| container.id == id).cloned();
        now(found.ok_or_else(|| containers::Error::NotFound { kind: "container", id: id.to_owned() }))
    }

    fn reopen_log<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, containers::Result<()>> {
        now(Ok(()))
    }

    fn update_sandbox_resources<'a>(&'a self, _id: &'a str, _resources: &'a Resources) -> BoxFuture<'a, containers::Result<()>> {
        now(Ok(()))
    }

    fn update_resources<'a>(&'a self, _id: &'a str, _resources: &'a Resources) -> BoxFuture<'a, containers::Result<()>> {
        now(Ok(()))
    }

    fn exec_sync<'a>(&'a self, _: &'a str, _: &'a [String], _: Option<Duration>) -> BoxFuture<'a, containers::Result<ExecOutput>> {
        now(Ok(ExecOutput { stdout: b"ran".to_vec(), ..ExecOutput::default() }))
    }

    fn exec<'a>(&'a self, _id: &'a str, request: &'a StreamRequest) -> BoxFuture<'a, containers::Result<Session>> {
        let [program, arguments @ ..] = request.command.as_slice() else {
            return now(Err(containers::Error::Invalid("no command".into())));
        };
        let piped = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
        let spawned = Command::new(program)
            .args(arguments)
            .stdin(piped(request.stdin))
            .stdout(piped(request.stdout))
            .stderr(piped(request.stderr))
            .kill_on_drop(true)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => return now(Err(containers::Error::Failed(error.into()))),
        };
        self.processes.fetch_add(1, Ordering::SeqCst);
        let counted = Counted(self.processes.clone());
        let (sizes, mut resized) = mpsc::channel(4);
        let state = self.state.clone();
        tokio::spawn(async move {
            while let Some(size) = resized.recv().await {
                state.lock().unwrap().size = Some(size);
            }
        });
        now(Ok(Session {
            stdin: child.stdin.take().map(|stdin| Box::new(stdin) as Writer),
            stdout: child.stdout.take().map(|stdout| Box::new(stdout) as Reader),
            stderr: child.stderr.take().map(|stderr| Box::new(stderr) as Reader),
            resize: request.tty.then_some(sizes),
            exit: async move {
                let _counted = counted;
                let status = child.wait().await.map_err(|error| containers::Error::Failed(error.into()))?;
                Ok(status.code().unwrap_or(137))
            }
            .boxed(),
        }))
    }

    /// The container's process is one that answers what it is sent.
    fn attach<'a>(&'a self, id: &'a str, request: &'a StreamRequest) -> BoxFuture<'a, containers::Result<Session>> {
        let request = StreamRequest { command: vec!["cat".to_owned()], ..request.clone() };
        async move { self.exec(id, &request).await }.boxed()
    }

    fn port_forward<'a>(&'a self, _sandbox_id: &'a str, port: u16) -> BoxFuture<'a, containers::Result<(Reader, Writer)>> {
        async move {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
            let (reader, writer) = stream.map_err(|error| containers::Error::Failed(error.into()))?.into_split();
            Ok((Box::new(reader) as Reader, Box::new(writer) as Writer))
        }
        .boxed()
    }

    fn container_stats(&self) -> BoxFuture<'_, containers::Result<Vec<ContainerStats>>> {
        let mut state = self.state.lock().unwrap();
        state.cpu_nanoseconds += 1_000_000;
        let cpu_nanoseconds = state.cpu_nanoseconds;
        let stats = state.containers.iter().map(|container| ContainerStats {
            container_id: container.id.clone(),
            cpu_nanoseconds,
            memory_working_set_bytes: 1 << 20,
            ..ContainerStats::default()
        });
        now(Ok(stats.collect()))
    }

    fn sandbox_stats(&self) -> BoxFuture<'_, containers::Result<Vec<SandboxStats>>> {
        now(Ok(Vec::new()))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Has every image.
pub struct FakeImages;

impl Images for FakeImages {
    fn list(&self) -> BoxFuture<'_, containers::Result<Vec<Image>>> {
        now(Ok(Vec::new()))
    }

    fn status<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, containers::Result<Option<Image>>> {
        now(Ok(Some(Image { id: "sha256:1".to_owned(), tags: vec![reference.to_owned()], ..Image::default() })))
    }

    fn pull<'a>(&'a self, _: &'a str, _: &'a [Credentials]) -> BoxFuture<'a, containers::Result<String>> {
        now(Ok("sha256:1".to_owned()))
    }

    fn remove<'a>(&'a self, _: &'a str) -> BoxFuture<'a, containers::Result<()>> {
        now(Ok(()))
    }

    fn unused(&self) -> BoxFuture<'_, containers::Result<Vec<UnusedImage>>> {
        now(Ok(Vec::new()))
    }

    fn usage(&self) -> BoxFuture<'_, containers::Result<FilesystemUsage>> {
        now(Ok(FilesystemUsage::default()))
    }
}
