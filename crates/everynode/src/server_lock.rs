//! Who serves a data directory: a file in it that the server keeps locked as long as it lives, with
//! its process in it.
//!
//! A command that starts a server takes the lock and leaves it to the new process. So there is no
//! moment at which a server lives and `everynode down` does not see it, wherever the command that
//! started it is interrupted.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, FdFlags};

use crate::nodes::process::Process;

/// In the environment of a server whose starter gave it the lock.
pub const INHERITED: &str = "EVERYNODE_SERVER_LOCK_INHERITED";

/// Held until it is dropped, or by children.
#[derive(Debug)]
pub struct ServerLock(File);

pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("server.lock")
}

impl ServerLock {
    pub fn take(data_dir: &Path) -> anyhow::Result<ServerLock> {
        let path = path(data_dir);
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                bail!("a server for {} runs already, or is starting: it holds {}", data_dir.display(), path.display())
            }
            Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
        file.set_len(0).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(ServerLock(file))
    }

    /// Processes that are started from now on hold it, too.
    pub fn give_to_children(&self) -> anyhow::Result<()> {
        rustix::io::fcntl_setfd(self.0.as_fd(), FdFlags::empty()).context("cannot leave the lock to the server")
    }
}

/// For a server: takes the lock unless its starter did, and says who it is. None: the lock is held
/// by an inherited file.
pub fn serve(data_dir: &Path) -> anyhow::Result<Option<ServerLock>> {
    let lock = if std::env::var_os(INHERITED).is_some() { None } else { Some(ServerLock::take(data_dir)?) };
    let text = serde_json::to_string(&Process::of(std::process::id())?)?;
    let path = path(data_dir);
    // Written to the file that is locked, not to another one in its place.
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(lock)
}

pub fn is_held(data_dir: &Path) -> anyhow::Result<bool> {
    let path = path(data_dir);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// The process that wrote down that it serves, if it lives.
pub fn holder(data_dir: &Path) -> Option<Process> {
    Process::read(&path(data_dir)).filter(Process::is_alive)
}
