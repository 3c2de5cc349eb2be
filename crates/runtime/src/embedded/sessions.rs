//! Commands run in containers, and clients attached to them: the agent's side of the exec helper
//! and of the shim's streams.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::control::{self, Report, Request};
use super::exec::CHANNEL;
use super::failure::Failure;
use super::paths::ContainerDir;
use super::{Runtime, blocking, console, helper, spec};
use crate::port::{Reader, Session, Writer};
use crate::words::failed;
use containers::{ExecOutput, Result, StreamRequest, TerminalSize};

/// Of each stream of a command that runs to its end, as other runtimes limit it.
const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;

const READ_BYTES: usize = 32 * 1024;

/// What a command left running may hold its streams open forever.
const DRAIN_SECONDS_MAX: u64 = 2;

/// Joining a container takes milliseconds.
const JOIN_SECONDS_MAX: u64 = 60;

/// People resize windows slowly; the last size counts.
const RESIZES_MAX: usize = 16;

/// A command on its way.
struct Running {
    child: Child,
    channel: Channel,
    terminal: Option<OwnedFd>,
}

/// The helper's reports.
struct Channel {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Channel {
    async fn report(&mut self) -> Option<Report> {
        loop {
            if let Some(end) = self.received.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line).ok();
            }
            if self.stream.read_buf(&mut self.received).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Until the command has ended.
    async fn exit(&mut self) -> Result<i32> {
        match self.report().await {
            Some(Report::Exited(code)) => Ok(code),
            Some(Report::Failed(told)) => Err(Failure::Told(told).into()),
            _ => Err(Failure::HelperGone.into()),
        }
    }
}

impl Runtime {
    pub(super) async fn exec_to_end(&self, id: &str, command: &[String], limit: Option<Duration>) -> Result<ExecOutput> {
        let request = StreamRequest { command: command.to_vec(), stdout: true, stderr: true, ..Default::default() };
        let mut running = self.run(id, &request).await?;
        let (stdout, stderr) = (running.child.stdout.take(), running.child.stderr.take());
        let (out, err) = (Collected::new(stdout), Collected::new(stderr));
        let exit = match limit.filter(|l| !l.is_zero()) {
            Some(limit) => timeout(limit, running.channel.exit()).await,
            None => Ok(running.channel.exit().await),
        };
        let Ok(exit) = exit else {
            let _ = running.channel.stream.write_all(b"k").await;
            let _ = timeout(Duration::from_secs(DRAIN_SECONDS_MAX), running.channel.exit()).await;
            out.task.abort();
            err.task.abort();
            tokio::spawn(async move { running.child.wait().await });
            let seconds = limit.unwrap_or_default().as_secs_f64();
            return Err(Failure::CommandTimeout { seconds }.into());
        };
        let _ = running.child.wait().await;
        Ok(ExecOutput { stdout: out.finish().await, stderr: err.finish().await, exit_code: exit? })
    }

    pub(super) async fn exec_session(&self, id: &str, request: &StreamRequest) -> Result<Session> {
        let mut running = self.run(id, request).await?;
        let mut session = Session { stdin: None, stdout: None, stderr: None, resize: None, exit: futures::future::pending().boxed() };
        if let Some(terminal) = running.terminal.take() {
            wire_terminal(&mut session, terminal, request).map_err(failed("terminal"))?;
        } else {
            session.stdin = running.child.stdin.take().map(|s| Box::new(s) as Writer);
            session.stdout = running.child.stdout.take().map(|s| Box::new(s) as Reader);
            session.stderr = running.child.stderr.take().map(|s| Box::new(s) as Reader);
        }
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            let exit = running.channel.exit().await;
            let _ = running.child.wait().await;
            let _ = sender.send(exit);
        });
        session.exit = receiver.map(|r| r.unwrap_or_else(|_| Err(Failure::SessionGone.into()))).boxed();
        Ok(session)
    }

    /// Until the command runs in the container, or an error says why it does not.
    async fn run(&self, id: &str, request: &StreamRequest) -> Result<Running> {
        self.shared.table.container(id)?.running()?;
        if request.command.is_empty() {
            return Err(Failure::from(spec::Error::NoCommand).into());
        }
        let dir = self.shared.layout.container(id);
        let (place, command, tty) = (dir.clone(), request.command.clone(), request.tty);
        let process = blocking(move || write_process(&place, command, tty).map_err(failed("write process"))).await?;
        let (own, theirs) = BlockingStream::pair().map_err(failed("make a channel"))?;
        let child = spawn(&self.shared.helper, &dir, &process, request, &theirs).map_err(failed("start the exec helper"))?;
        drop(theirs);
        own.set_read_timeout(Some(Duration::from_secs(JOIN_SECONDS_MAX))).map_err(failed("make a channel"))?;
        let (own, first, descriptors) = blocking(move || {
            let mut bytes = vec![0u8; control::LINE_BYTES_MAX];
            let (count, descriptors) = control::receive(own.as_raw_fd(), &mut bytes).map_err(failed("exec"))?;
            bytes.truncate(count);
            own.set_nonblocking(true).map_err(failed("exec"))?;
            Ok((own, bytes, descriptors))
        })
        .await?;
        let stream = UnixStream::from_std(own).map_err(failed("exec"))?;
        let mut channel = Channel { stream, received: first };
        let mut child = child;
        match channel.report().await {
            Some(Report::Started(_)) => Ok(Running { child, channel, terminal: descriptors.into_iter().next() }),
            Some(Report::Failed(told)) => {
                let _ = child.wait().await;
                Err(Failure::Exec(told).into())
            }
            _ => {
                let _ = child.wait().await;
                Err(Failure::SilentHelper.into())
            }
        }
    }

    pub(super) async fn attach_session(&self, id: &str, request: &StreamRequest) -> Result<Session> {
        let container = self.shared.table.container(id)?;
        container.running()?;
        let launch = &container.record.launch;
        let (stdin, stdout) = (request.stdin && launch.stdin, request.stdout);
        // A terminal has one stream only.
        let stderr = request.stderr && !launch.tty;
        let mut session = Session { stdin: None, stdout: None, stderr: None, resize: None, exit: futures::future::pending().boxed() };
        let mut theirs: Vec<BlockingStream> = Vec::new();
        let mut pair = || -> io::Result<UnixStream> {
            let (own, other) = BlockingStream::pair()?;
            own.set_nonblocking(true)?;
            theirs.push(other);
            UnixStream::from_std(own)
        };
        if stdin {
            session.stdin = Some(Box::new(pair().map_err(failed("attach"))?));
        }
        if stdout {
            session.stdout = Some(Box::new(pair().map_err(failed("attach"))?));
        }
        if stderr {
            session.stderr = Some(Box::new(pair().map_err(failed("attach"))?));
        }
        let dir = self.shared.layout.container(id);
        let stream = blocking(move || {
            let stream = control::connect(&dir.0).map_err(failed("connect to the container's shim"))?;
            let descriptors: Vec<RawFd> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
            let answer = control::ask(&stream, &Request::Attach { stdin, stdout, stderr }, &descriptors).map_err(failed("attach"))?;
            answer.map_err(Failure::Told)?;
            stream.set_nonblocking(true).map_err(failed("attach"))?;
            Ok(stream)
        })
        .await?;
        let stream = UnixStream::from_std(stream).map_err(failed("attach"))?;
        let (resizes, sizes) = mpsc::channel(RESIZES_MAX);
        session.resize = launch.tty.then_some(resizes);
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(attended(stream, sizes, sender));
        session.exit = receiver.map(|_| Ok(0)).boxed();
        Ok(session)
    }
}

/// The attachment lasts while this connection does.
async fn attended(mut stream: UnixStream, mut sizes: mpsc::Receiver<TerminalSize>, mut ended: oneshot::Sender<()>) {
    let mut byte = [0u8];
    let mut open = true;
    loop {
        tokio::select! {
            // Cancel-safe: a size not taken stays in the queue.
            size = sizes.recv(), if open => match size {
                Some(TerminalSize { columns, rows }) => {
                    let _ = stream.write_all(&control::line(&Request::Resize { columns, rows })).await;
                }
                None => open = false,
            },
            // Cancel-safe: nothing is ever sent to us; only the end matters.
            _ = stream.read(&mut byte) => break,
            // Cancel-safe: the caller gave the session up.
            () = ended.closed() => break,
        }
    }
    let _ = ended.send(());
}

/// The container's own process with another command: same user, environment, capabilities.
fn write_process(dir: &ContainerDir, command: Vec<String>, tty: bool) -> io::Result<PathBuf> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let spec: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.spec())?)?;
    let mut process = spec["process"].clone();
    process["args"] = command.into();
    process["terminal"] = tty.into();
    if let Some(env) =
        process["env"].as_array_mut().filter(|env| tty && !env.iter().any(|v| v.as_str().is_some_and(|v| v.starts_with("TERM="))))
    {
        env.push("TERM=xterm".into());
    }
    let name = format!("exec-{}-{}.json", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let path = dir.0.join(name);
    std::fs::write(&path, serde_json::to_vec(&process)?)?;
    Ok(path)
}

fn spawn(program: &PathBuf, dir: &ContainerDir, process: &PathBuf, request: &StreamRequest, channel: &BlockingStream) -> io::Result<Child> {
    let piped = |wanted: bool| if wanted && !request.tty { Stdio::piped() } else { Stdio::null() };
    let mut command = Command::new(program);
    command.arg(helper::EXEC).arg(&dir.0).arg(process).env_clear().current_dir("/");
    command.stdin(piped(request.stdin)).stdout(piped(request.stdout)).stderr(piped(request.stderr));
    let channel = channel.as_raw_fd();
    // SAFETY: between fork and exec only dup2 and fcntl are called, which are async-signal-safe;
    // the descriptor is open until after spawn.
    unsafe {
        command.pre_exec(move || {
            let done = if channel == CHANNEL { libc::fcntl(channel, libc::F_SETFD, 0) } else { libc::dup2(channel, CHANNEL) };
            if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    command.spawn()
}

fn wire_terminal(session: &mut Session, terminal: OwnedFd, request: &StreamRequest) -> io::Result<()> {
    console::set_nonblocking(&terminal)?;
    if request.stdin {
        session.stdin = Some(Box::new(pipe::Sender::from_owned_fd_unchecked(terminal.try_clone()?)?));
    }
    session.stdout = Some(Box::new(Terminal(pipe::Receiver::from_owned_fd_unchecked(terminal.try_clone()?)?)));
    let (sender, mut sizes) = mpsc::channel::<TerminalSize>(RESIZES_MAX);
    session.resize = Some(sender);
    tokio::spawn(async move {
        while let Some(size) = sizes.recv().await {
            console::resize(terminal.as_raw_fd(), size.columns, size.rows);
        }
    });
    Ok(())
}

/// A terminal that all programs have left answers an error where a pipe would end.
struct Terminal(pipe::Receiver);

impl AsyncRead for Terminal {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(context, buffer) {
            Poll::Ready(Err(e)) if e.raw_os_error() == Some(libc::EIO) => Poll::Ready(Ok(())),
            polled => polled,
        }
    }
}

/// What a stream has brought so far, and the task that reads on: the command never blocks, and what
/// is over the limit is thrown away.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Collected {
    fn new(stream: Option<impl AsyncRead + Unpin + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let task = tokio::spawn(async move {
            let Some(mut stream) = stream else { return };
            let mut buffer = vec![0u8; READ_BYTES];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                let mut bytes = into.lock().unwrap_or_else(PoisonError::into_inner);
                let room = OUTPUT_BYTES_MAX.saturating_sub(bytes.len());
                bytes.extend_from_slice(&buffer[..count.min(room)]);
            }
        });
        Self { bytes, task }
    }

    async fn finish(mut self) -> Vec<u8> {
        if timeout(Duration::from_secs(DRAIN_SECONDS_MAX), &mut self.task).await.is_err() {
            self.task.abort();
        }
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
