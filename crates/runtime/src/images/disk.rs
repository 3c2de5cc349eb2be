//! Files of the store: written whole or not at all, locked between processes, scratch directories
//! that vanish.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{Error, Result};
use crate::trees;

/// Replaces the file: after a crash it has the old content or the new, never a part.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let parent = path.parent().expect("files of the store are in directories");
    let temporary = parent.join(format!(".{}.new", unique()));
    let written = write_durably(&temporary, content).and_then(|()| fs::rename(&temporary, path)).and_then(|()| sync_directory(parent));
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        Error::io("write", path)(source)
    })
}

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Different for all processes and calls on this machine.
pub fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Process numbers come again after a reboot, and are the same in different containers; the time
    // tells those apart.
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    format!("{}-{time:x}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Whether [`unique`] may have made that name.
fn is_unique(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts.len() == 3 && parts.iter().all(is_number)
}

pub fn remove_file_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

pub fn remove_tree_if_there(parent: &Path, name: &str) -> Result<()> {
    Ok(trees::remove(parent, name)?)
}

/// The names in a directory, sorted; none when the directory is missing.
pub fn names_in(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", path)(error)),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<io::Result<Vec<String>>>().map_err(Error::io("list", path))?;
    names.sort();
    Ok(names)
}

/// Held until dropped; of the open file, so that it also works between threads of one process.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    /// Closing is not enough: a process that was just forked has the file open too, until it runs
    /// its program.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

fn open_lock(path: &Path) -> Result<File> {
    File::options().create(true).truncate(false).write(true).read(true).open(path).map_err(Error::io("open", path))
}

pub fn lock(path: &Path) -> Result<Lock> {
    let file = open_lock(path)?;
    file.lock().map_err(Error::io("lock", path))?;
    Ok(Lock { file })
}

pub fn lock_shared(path: &Path) -> Result<Lock> {
    let file = open_lock(path)?;
    file.lock_shared().map_err(Error::io("lock", path))?;
    Ok(Lock { file })
}

/// None while another process or task holds it.
pub fn try_lock(path: &Path) -> Result<Option<Lock>> {
    let file = open_lock(path)?;
    Ok(try_lock_file(&file, path)?.then_some(Lock { file }))
}

/// Whether the lock on that open file is ours now.
pub fn try_lock_file(file: &File, path: &Path) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
    }
}

/// Whether the path still leads to that open file: the process that held the lock before may have
/// removed it.
pub fn is_same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.ino() == named.ino() && open.dev() == named.dev(),
        _ => false,
    }
}

/// A directory to work in, removed when dropped. Its lock tells other processes that its maker
/// lives.
#[derive(Debug)]
pub struct Scratch {
    parent: PathBuf,
    name: String,
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// The caller holds the store's lock: between making and locking the directory no other process
    /// may clean up.
    pub fn create(parent: &Path) -> Result<Scratch> {
        let name = unique();
        let path = parent.join(&name);
        fs::create_dir(&path).map_err(Error::io("make", &path))?;
        let handle = File::open(&path).map_err(Error::io("open", &path))?;
        handle.lock().map_err(Error::io("lock", &path))?;
        Ok(Scratch { parent: parent.to_owned(), name, path, _lock: handle })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree_if_there(&self.parent, &self.name) {
            // The next process that opens the store tries again.
            tracing::warn!(path = %self.path.display(), error = error.chain(), "cannot remove a scratch directory");
        }
    }
}

/// Removes what crashed processes left in the directory of scratch directories, and nothing else: a
/// folder `tmp` may belong to another program, too, when the store was put in an odd place. The
/// caller holds the store's lock.
pub fn remove_abandoned(parent: &Path) -> Result<()> {
    for name in names_in(parent)?.into_iter().filter(|name| is_unique(name)) {
        let path = parent.join(&name);
        let handle = match File::open(&path) {
            Ok(handle) => handle,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("open", &path)(error)),
        };
        if !try_lock_file(&handle, &path)? {
            continue;
        }
        remove_tree_if_there(parent, &name)?;
    }
    Ok(())
}

/// What a directory takes on the disk, itself included: bytes and inodes.
pub fn measure(path: &Path) -> io::Result<(u64, u64)> {
    let own = fs::symlink_metadata(path)?;
    let below = trees::measure(path);
    Ok((own.blocks() * 512 + below.bytes, 1 + below.inodes))
}
