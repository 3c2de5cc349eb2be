//! How much a tree takes on its file system. Containers make these trees: the walk is bounded in
//! memory and open files, however deep they are, and nothing that is mounted in it is looked at:
//! the server behind a mount may hang.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

use super::removal::{Found, open_dir};

/// What is counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    pub bytes: u64,
    /// Files, folders and links, without the folder itself.
    pub inodes: u64,
}

impl Measure {
    pub fn plus(self, other: Measure) -> Measure {
        Measure { bytes: self.bytes.saturating_add(other.bytes), inodes: self.inodes.saturating_add(other.inodes) }
    }
}

const BLOCK_BYTES: u64 = 512;

/// Names of folders that wait to be read, and files with several names that are remembered; beyond
/// that each name counts.
const REMEMBERED_MAX: usize = 1_000_000;

/// After so many entries the walk ends with the folder it is in: what was counted so far counts.
const ENTRIES_MAX: usize = 5_000_000;

/// Each file once, however many names it has. What is mounted below is not counted. What cannot be
/// read counts nothing.
pub fn measure(dir: &Path) -> Measure {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty()).map_or_else(|_| Measure::default(), |root| walk(&root, Path::new("")))
}

/// As [`measure`], of a folder in one that is the caller's: nothing when something is mounted
/// there, or a link.
pub fn measure_in(folder: &Path, name: &OsStr) -> Measure {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(folder, flags, Mode::empty());
    root.map_or_else(|_| Measure::default(), |root| walk(&root, Path::new(name)))
}

/// A file of the caller's that a container may have made as long as it liked.
pub fn measure_file(path: &Path) -> Measure {
    rustix::fs::lstat(path).map_or_else(|_| Measure::default(), |stat| Measure { bytes: bytes(&stat), inodes: 1 })
}

/// Folders that are open at a time.
const OPEN_MAX: usize = 48;

/// A folder on the way to the one that is being read.
struct Level {
    id: (u64, u64),
    /// None while too many deeper ones are open; the way back to it is by `..` then.
    open: Option<OwnedFd>,
    /// Folders in it that were not read yet.
    waiting: Vec<OsString>,
}

#[derive(Default)]
struct Walk {
    sum: Measure,
    seen: HashSet<u64>,
    /// From the top down.
    levels: Vec<Level>,
    /// Names that wait, in all levels.
    waiting: usize,
    entries: usize,
}

fn walk(root: &OwnedFd, top: &Path) -> Measure {
    let mut walk = Walk::default();
    if let Found::Dir(open) = open_dir(root, top) {
        walk.enter(open);
    }
    while walk.entries < ENTRIES_MAX
        && let Some(level) = walk.levels.last_mut()
    {
        match (level.waiting.pop(), &level.open) {
            (Some(name), Some(open)) => {
                walk.waiting -= 1;
                // Through no link and over no mount: a container may have put one there since its
                // parent was read.
                if let Found::Dir(open) = open_dir(open, Path::new(&name)) {
                    walk.enter(open);
                }
            }
            _ => walk.leave(),
        }
    }
    walk.sum
}

impl Walk {
    fn enter(&mut self, open: OwnedFd) {
        let Ok(stat) = rustix::fs::fstat(&open) else { return };
        let mut waiting = Vec::new();
        for entry in Dir::read_from(&open).into_iter().flatten().flatten() {
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            self.entries += 1;
            let Some(stat) = stat_unless_mounted(&open, name) else { continue };
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let has_names = stat.st_nlink > 1 && !is_dir;
            if has_names && self.seen.len() < REMEMBERED_MAX && !self.seen.insert(stat.st_ino) {
                continue;
            }
            self.sum = self.sum.plus(Measure { bytes: bytes(&stat), inodes: 1 });
            if is_dir && self.waiting < REMEMBERED_MAX {
                self.waiting += 1;
                waiting.push(name.to_owned());
            }
        }
        self.levels.push(Level { id: (stat.st_dev, stat.st_ino), open: Some(open), waiting });
        // The top one stays open: to it there is always a way back.
        if let Some(closed) = self.levels.len().checked_sub(OPEN_MAX).filter(|closed| *closed > 0) {
            self.levels[closed].open = None;
        }
    }

    /// Back to the folder above. One that was moved away meanwhile is not found again, and what
    /// waits in it is passed over.
    fn leave(&mut self) {
        let left = self.levels.pop();
        while let Some(level) = self.levels.last_mut().filter(|level| level.open.is_none()) {
            level.open = left.as_ref().and_then(|left| above(left.open.as_ref()?, level.id));
            if level.open.is_some() {
                return;
            }
            self.waiting -= level.waiting.len();
            self.levels.pop();
        }
    }
}

/// The folder above another one, if it is the one that is meant.
fn above(folder: &OwnedFd, id: (u64, u64)) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::openat(folder, "..", flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&open).ok()?;
    ((stat.st_dev, stat.st_ino) == id).then_some(open)
}

/// The kernel says that something is mounted there before it asks what is mounted for anything.
fn stat_unless_mounted(dir: impl AsFd, name: &OsStr) -> Option<Stat> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let opened = rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve).ok()?;
    rustix::fs::fstat(opened).ok()
}

fn bytes(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK_BYTES)
}
