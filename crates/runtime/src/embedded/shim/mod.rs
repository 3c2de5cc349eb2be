//! The shim: one small process per running container. It makes the container, starts it, carries
//! its streams, keeps its log and writes down how it ended. It lives as long as the container and
//! does not need the agent.
//!
//! Single-threaded: the library clones the process and goes on allocating in the clone, which hangs
//! when another thread holds the allocator's lock. The lock on `shim.lock` tells whether a shim
//! lives, never a process id.

mod launch;
mod propagation;
mod relay;
pub mod stage;
mod streams;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};

use launch::StartError;
pub use launch::{open_pidfd, program, send_signal};

use super::control::{self, Report, Told};
use super::log::Log;
use super::paths::{ContainerDir, LIBRARY_STATE, SOCKET};
use super::record::{self, ContainerRecord, ExitRecord, Launch, StartRecord};
use crate::cgroup::Cgroup;
use crate::trees;
use crate::words::{plain, refused};

/// They were killed before or are about to end by themselves.
const REAP_MILLISECONDS_MAX: u64 = 1000;

/// `everynode-shim DIR`.
pub fn main(dir: &Path) -> ExitCode {
    match run(&ContainerDir(dir.to_owned())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // The container may not have started yet, and then the agent waits for this line.
            let _ = report(&Report::Failed(Told(plain(&e))));
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &ContainerDir) -> io::Result<()> {
    detach()?;
    let _lock = begin(dir)?;
    let record: ContainerRecord = record::read(&dir.record())?.ok_or(io::ErrorKind::NotFound)?;
    // Sockets are named relative to here.
    std::env::set_current_dir(&dir.0)?;
    match live(dir, &record) {
        Ok(()) => Ok(()),
        Err(e) => fail(dir, &record.launch, Told::of(&e)),
    }
}

/// From the agent's session, process group and signals.
fn detach() -> io::Result<()> {
    let _ = nix::unistd::setsid();
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: prctl with these arguments takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A container begins once, whatever crashes in between: the lock keeps two shims apart, the file a
/// second one from following a dead one.
fn begin(dir: &ContainerDir) -> io::Result<Flock<File>> {
    let lock = File::options().create(true).append(true).open(dir.lock())?;
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|_| io::Error::other("the container is being started"))?;
    File::options()
        .create_new(true)
        .write(true)
        .open(dir.begun())
        .and_then(|mut f| write!(f, "{}", std::process::id()))
        .map_err(|e| io::Error::new(e.kind(), format!("the container was started before: {e}")))?;
    Ok(lock)
}

fn live(dir: &ContainerDir, record: &ContainerRecord) -> Result<(), StartError> {
    let launch = &record.launch;
    let listener = UnixListener::bind(SOCKET).and_then(|l| l.set_nonblocking(true).map(|()| l)).map_err(refused("bind control socket"))?;
    let log = Log::open(&launch.log_path).map_err(refused(format!("open log {}", launch.log_path.display())))?;
    let mut started = launch::launch(dir, launch)?;
    if launch.shared_mounts {
        propagation::settle(started.pid, &record.config.mounts)?;
    }
    record::write(&dir.started(), &StartRecord { pid: started.pid, at: Timestamp::now() }).map_err(refused("write start record"))?;
    started.container.start().map_err(|e| started.causes.explain(&e))?;
    let _ = report(&Report::Started(started.pid));
    hush();
    let mut relay = relay::Relay::new(launch, started.streams, started.pidfd, listener, log);
    let end = relay.run(started.pid);
    finish(dir, launch, end);
    // Its connections tell the agent that everything is written down and cleared away.
    drop(relay);
    Ok(())
}

/// The agent reads standard output to its end.
fn report(report: &Report) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(&control::line(report))?;
    stdout.flush()
}

fn hush() {
    use std::os::fd::AsRawFd;
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2(null.as_raw_fd(), 1);
    }
}

/// What could not be started ends like a container that ended, with the text for its status.
fn fail(dir: &ContainerDir, launch: &Launch, told: Told) -> io::Result<()> {
    let message = told.0.clone();
    let exit = ExitRecord { code: 128, signal: 0, oom: false, at: Timestamp::now(), reason: "StartError".into(), message };
    record::write(&dir.exit(), &exit)?;
    clean_up(dir, launch);
    let _ = report(&Report::Failed(told));
    Ok(())
}

/// The record first: an interruption after it leaves rubbish, one before it would lose the truth.
fn finish(dir: &ContainerDir, launch: &Launch, end: relay::End) {
    let oom = Cgroup::new(&launch.cgroup).oom_kills() > 0 && (end.signal == libc::SIGKILL || end.code == 128 + libc::SIGKILL);
    let reason = match end.code {
        _ if oom => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    };
    let exit = ExitRecord { code: end.code, signal: end.signal, oom, at: end.at, reason: reason.into(), message: String::new() };
    if let Err(e) = record::write(&dir.exit(), &exit) {
        eprintln!("write exit record: {e}");
    }
    clean_up(dir, launch);
}

fn clean_up(dir: &ContainerDir, launch: &Launch) {
    let group = Cgroup::new(&launch.cgroup);
    group.kill_all();
    reap();
    if let Err(e) = group.remove() {
        eprintln!("{e}");
    }
    if launch.shared_mounts {
        let _ = nix::mount::umount2(&dir.rootfs(), nix::mount::MntFlags::MNT_DETACH);
    }
    if let Err(e) = trees::remove(&dir.0, LIBRARY_STATE) {
        eprintln!("{e}");
    }
    let _ = fs::remove_file(SOCKET);
}

/// Waits for all children that end soon: orphans of the container, and what the library left. A
/// dead process that its parent has not waited for keeps its process namespace from ending.
pub fn reap() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    let until = Instant::now() + Duration::from_millis(REAP_MILLISECONDS_MAX);
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(_) => return,
            Ok(WaitStatus::StillAlive) if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
            Ok(WaitStatus::StillAlive) => return,
            Ok(_) => {}
        }
    }
}
