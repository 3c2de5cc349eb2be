//! A command in a container with users of its own. The library enters all namespaces of a container
//! but the users', so its commands would run as the node's root: these are run without it.
//!
//! ```text
//! helper ─fork─► scout: waits until it is in the container's control groups, enters the namespaces ─clone─► the command, the helper's child
//! ```

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use oci_spec::runtime::Process;

use super::control::Told;
use super::executor::{Program, ProgramError, UnableToStart};
use super::paths::ContainerDir;
use super::record::{self, Launch, OwnUsers, StartRecord};
use super::shim::open_pidfd;
use super::{capabilities, control};
use crate::cgroup::Cgroup;
use crate::words::{Refused, refused};

/// Errors of a step are one sentence.
const TEXT_BYTES_MAX: u64 = 16 * 1024;

const KINDS: [(&str, CloneFlags); 7] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
];

pub struct Joined {
    pub pid: Pid,
    /// The controlling end, if the command has a terminal.
    pub terminal: Option<OwnedFd>,
}

/// Why a command does not run in a container with users of its own.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the container is not running")]
    NotRunning,
    /// The scout, or the command in the container.
    #[error(transparent)]
    Told(#[from] Told),
    #[error("join the container: the helper ended without a word")]
    SilentHelper,
}

const JOIN: &str = "join the container";

/// What the scout and the command need.
struct Way {
    pidfd: OwnedFd,
    namespaces: CloneFlags,
    process: Process,
    program: Program,
    capabilities: u64,
}

/// The command's streams are the caller's own.
pub fn join(dir: &ContainerDir, launch: &Launch, users: &OwnUsers, process: Process, program: Program) -> Result<Joined, JoinError> {
    let words = |e: io::Error| refused(JOIN)(e);
    let start: StartRecord = record::read(&dir.started()).map_err(words)?.ok_or(JoinError::NotRunning)?;
    let pidfd = open_pidfd(start.pid).map_err(words)?;
    let namespaces = foreign(start.pid, users).map_err(words)?;
    let tty = process.terminal().unwrap_or(false);
    let way = Way { pidfd, namespaces, process, program, capabilities: launch.capabilities };
    let (our_socket, their_socket) = UnixStream::pair().map_err(words)?;
    let (go, tell_go) = io::pipe().map_err(words)?;
    let (pid, tell_pid) = io::pipe().map_err(words)?;
    let (trouble, tell_trouble) = io::pipe().map_err(words)?;
    // SAFETY: this process has one thread, so the child may do everything.
    match unsafe { fork() }.map_err(|e| words(e.into()))? {
        ForkResult::Child => {
            drop((tell_go, our_socket));
            scout(&way, go, tell_pid, tell_trouble, &their_socket)
        }
        ForkResult::Parent { child } => {
            drop((go, tell_pid, tell_trouble, their_socket));
            let entered = Cgroup::new(&launch.cgroup).add(child.as_raw()).map_err(words);
            if entered.is_ok() {
                let _ = { tell_go }.write_all(b".");
            }
            let _ = waitpid(child, None);
            entered?;
            let terminal = if tty { receive_terminal(&our_socket) } else { None };
            let pid = follow(pid, trouble)?;
            Ok(Joined { pid, terminal })
        }
    }
}

/// The namespaces that are not our own. Those of a process that took the number of one that ended
/// are refused.
fn foreign(pid: i32, users: &OwnUsers) -> io::Result<CloneFlags> {
    let identity = |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    let theirs = Path::new("/proc").join(pid.to_string()).join("ns");
    if identity(&theirs.join("user"))? != identity(&users.namespaces.join("user"))? {
        return Err(io::Error::other("it has ended"));
    }
    let mut flags = CloneFlags::empty();
    for (kind, flag) in KINDS {
        flags.set(flag, identity(&theirs.join(kind))? != identity(&Path::new("/proc/self/ns").join(kind))?);
    }
    Ok(flags)
}

fn receive_terminal(socket: &UnixStream) -> Option<OwnedFd> {
    control::receive(socket.as_raw_fd(), &mut [0]).ok()?.1.pop()
}

/// Until the command runs: that closes the pipe.
fn follow(mut pid: PipeReader, trouble: PipeReader) -> Result<Pid, JoinError> {
    let mut said = String::new();
    let _ = trouble.take(TEXT_BYTES_MAX).read_to_string(&mut said);
    let mut number = String::new();
    let _ = pid.read_to_string(&mut number);
    let number = number.parse().map(Pid::from_raw);
    match (number, said.is_empty()) {
        (Ok(pid), true) => Ok(pid),
        (Ok(pid), false) => {
            let _ = waitpid(pid, None);
            Err(Told(said).into())
        }
        (Err(_), false) => Err(Told(said).into()),
        (Err(_), true) => Err(JoinError::SilentHelper),
    }
}

/// Never comes back.
fn scout(way: &Way, mut go: PipeReader, mut tell_pid: PipeWriter, mut tell_trouble: PipeWriter, socket: &UnixStream) -> ! {
    let mut step = || -> io::Result<()> {
        go.read_exact(&mut [0])?;
        // Processes of the container must not look into this one while it holds what is the node's:
        // only the node's root may. SAFETY: prctl with these arguments takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
        // SAFETY: the descriptor is open over the call; the flags are a number. All namespaces are
        // entered, or none.
        if unsafe { libc::setns(way.pidfd.as_raw_fd(), way.namespaces.bits()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: like fork, with a sibling instead of a child; this process has one thread.
        match unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) } {
            0 => {
                let failed = command(way, socket);
                let _ = tell_trouble.write_all(Told::of(&failed).0.as_bytes());
                leave()
            }
            pid if pid > 0 => write!(tell_pid, "{pid}"),
            _ => Err(io::Error::last_os_error()),
        }
    };
    if let Err(e) = step() {
        let _ = tell_trouble.write_all(Told::of(&refused(JOIN)(e)).0.as_bytes());
    }
    leave()
}

/// Without anything that this process inherited to do at its end.
fn leave() -> ! {
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(1) }
}

/// Comes back only with an error.
fn command(way: &Way, socket: &UnixStream) -> UnableToStart {
    UnableToStart(match become_user(way, socket) {
        Ok(()) => way.program.become_process(&way.process),
        Err(e) => ProgramError::User(e.into()),
    })
}

fn become_user(way: &Way, socket: &UnixStream) -> io::Result<()> {
    let user = way.process.user();
    nix::unistd::setsid()?;
    if way.process.terminal().unwrap_or(false) {
        take_terminal(socket, user.uid())?;
    }
    nix::unistd::chdir(way.process.cwd().as_path())?;
    let groups: Vec<_> = user.additional_gids().iter().flatten().map(|gid| nix::unistd::Gid::from_raw(*gid)).collect();
    nix::unistd::setgroups(&groups)?;
    let (uid, gid) = (nix::unistd::Uid::from_raw(user.uid()), nix::unistd::Gid::from_raw(user.gid()));
    capabilities::keep()?;
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    capabilities::set_current(way.capabilities | capabilities::SYS_ADMIN | capabilities::SETPCAP)?;
    capabilities::limit_bounding(way.capabilities)?;
    if way.program.no_new_privileges {
        // SAFETY: prctl with these arguments takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    }
    // SAFETY: marks descriptors; nothing is closed yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Ok(())
}

/// A terminal of the container, whose controlling end goes to the helper.
fn take_terminal(socket: &UnixStream, uid: u32) -> io::Result<()> {
    let controlling = File::options().read(true).write(true).open("/dev/ptmx")?;
    let unlocked = 0;
    // SAFETY: TIOCSPTLCK reads one number, which lives over the call.
    let done = unsafe { libc::ioctl(controlling.as_raw_fd(), libc::TIOCSPTLCK, &unlocked) };
    // SAFETY: opens the other end by the descriptor alone, whatever the container put into
    // /dev/pts.
    let fd = unsafe { libc::ioctl(controlling.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) };
    if done != 0 || fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    let terminal = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: numbers only; a failure leaves the owner as it is.
    unsafe { libc::fchown(terminal.as_raw_fd(), uid, u32::MAX) };
    control::send(socket, b".", &[controlling.as_raw_fd()])?;
    // SAFETY: numbers only.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    (0..3).try_for_each(|fd| nix::unistd::dup2(terminal.as_raw_fd(), fd).map(drop).map_err(Into::into))
}
