//! The exec helper: one process per command run in a container. It joins the container, tells over
//! descriptor 3 that the command runs (with the terminal's controlling end if there is one) and how
//! it ended, and kills it when anything is written there.
//!
//! The command's streams are the helper's own: nothing is copied.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::causes::Causes;
use super::console;
use super::control::{self, Report, Told};
use super::join::{self, JoinError};
use super::paths::ContainerDir;
use super::record::{self, ContainerRecord};
use super::seccomp;
use super::shim::{open_pidfd, program, reap, send_signal};
use crate::words::{Refused, refused};

/// Where the agent listens.
pub const CHANNEL: RawFd = 3;

/// `everynode-exec DIR PROCESS`: the process in the format of the OCI specification.
pub fn main(dir: &Path, process: &Path) -> ExitCode {
    // SAFETY: the agent put the channel there for this process alone.
    let channel = UnixStream::from(unsafe { OwnedFd::from_raw_fd(CHANNEL) });
    let causes = match Causes::new() {
        Ok(causes) => causes,
        Err(_) => return ExitCode::FAILURE,
    };
    causes.collect();
    match run(&ContainerDir(dir.to_owned()), process, &channel, &causes) {
        Ok(code) => tell(&channel, &Report::Exited(code), None),
        Err(error) => {
            tell(&channel, &Report::Failed(Told::of(&error)), None);
            // What the library began in the container's process namespace has ended, and the
            // namespace waits for its burial.
            reap();
        }
    }
    ExitCode::SUCCESS
}

fn tell(channel: &UnixStream, report: &Report, terminal: Option<RawFd>) {
    let _ = control::send(channel, &control::line(report), terminal.as_slice());
}

/// Why a command does not run in a container.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("the container is gone")]
    Gone,
    #[error("read the process")]
    Process(#[source] serde_json::Error),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Filter(#[from] seccomp::Error),
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The container library, or what it started.
    #[error(transparent)]
    Library(#[from] Told),
}

fn run(dir: &ContainerDir, process: &Path, channel: &UnixStream, causes: &Causes) -> Result<i32, ExecError> {
    let record: Option<ContainerRecord> = record::read(&dir.record()).map_err(refused("read the container's record"))?;
    let record = record.ok_or(ExecError::Gone)?;
    let description = std::fs::read(process).map_err(refused("read the process"))?;
    let description: serde_json::Value = serde_json::from_slice(&description).map_err(ExecError::Process)?;
    let tty = description["terminal"].as_bool().unwrap_or(false);
    let uid = description["user"]["uid"].as_u64().and_then(|uid| u32::try_from(uid).ok());
    give_streams(uid.map(|uid| record.launch.node_id(uid)));
    if let Some(users) = &record.launch.users {
        let wanted = serde_json::from_value(description).map_err(ExecError::Process)?;
        let _ = std::fs::remove_file(process);
        let joined = join::join(dir, &record.launch, users, wanted, program(&record.launch, causes.clone())?)?;
        return Ok(report_and_watch(joined.pid, joined.terminal, channel)?);
    }
    let socket = process.with_extension("sock");
    // Paths of sockets are short by law: bound by name alone.
    std::env::set_current_dir(&dir.0).map_err(refused("enter the container's folder"))?;
    let name = socket.file_name().expect("it has just been named");
    let listener = if tty { Some(UnixListener::bind(name).map_err(refused("bind the terminal's socket"))?) } else { None };
    let mut builder = ContainerBuilder::new(record.id.clone(), SyscallType::default())
        .with_root_path(dir.library_state())
        .map_err(|e| causes.explain(&e))?
        .with_executor(program(&record.launch, causes.clone())?);
    if tty {
        builder = builder.with_console_socket(Some(&socket));
    }
    let built = builder.as_tenant().with_process(Some(process)).with_detach(tty).build();
    let _ = std::fs::remove_file(process);
    let terminal = listener.as_ref().filter(|_| built.is_ok()).map(console::receive_terminal);
    let _ = std::fs::remove_file(&socket);
    let pid = built.map_err(|e| causes.explain(&e))?;
    let terminal = terminal.transpose().map_err(refused("receive the terminal"))?;
    Ok(report_and_watch(pid, terminal, channel)?)
}

fn report_and_watch(pid: Pid, terminal: Option<OwnedFd>, channel: &UnixStream) -> Result<i32, Refused> {
    let pidfd = open_pidfd(pid.as_raw()).map_err(refused("open the process"))?;
    tell(channel, &Report::Started(pid.as_raw()), terminal.as_ref().map(AsRawFd::as_raw_fd));
    drop(terminal);
    Ok(watch(pid, &pidfd, channel))
}

/// A program of another user opens /dev/stdout anew, which is a pipe of ours.
fn give_streams(uid: Option<u32>) {
    for fd in 0..3 {
        let is_pipe = nix::sys::stat::fstat(fd).is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFIFO);
        if let Some(uid) = uid.filter(|_| is_pipe) {
            // SAFETY: numbers only; a failure leaves the owner as it is.
            unsafe { libc::fchown(fd, uid, u32::MAX) };
        }
    }
}

fn watch(pid: Pid, pidfd: &OwnedFd, channel: &UnixStream) -> i32 {
    let mut listening = true;
    loop {
        let mut polled = [
            libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 },
            libc::pollfd { fd: if listening { channel.as_raw_fd() } else { -1 }, events: libc::POLLIN, revents: 0 },
        ];
        // SAFETY: the array lives over the call and its length is passed.
        unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) };
        if polled[0].revents != 0 {
            return match waitpid(pid, None) {
                Ok(WaitStatus::Exited(_, code)) => code,
                Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
                _ => 255,
            };
        }
        if polled[1].revents != 0 {
            let mut byte = [0u8];
            match io::Read::read(&mut &*channel, &mut byte) {
                // The agent is gone; the command goes on without it.
                Ok(0) | Err(_) => listening = false,
                Ok(_) => drop(send_signal(pidfd, libc::SIGKILL)),
            }
        }
    }
}
