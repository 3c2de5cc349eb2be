//! How much a tree takes on its file system. Containers make these trees: the walk is bounded in memory and open files, what lies deeper than
//! paths can name is not counted, and nothing that is mounted in it is looked at: the server behind a mount may hang.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

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

/// Folders that wait to be read, and files with several names that are remembered; beyond that each name counts.
const REMEMBERED_MAX: usize = 1_000_000;

/// After so many entries the walk ends with the folder it is in: what was counted so far counts.
const ENTRIES_MAX: usize = 5_000_000;

/// Each file once, however many names it has. What is mounted below is not counted. What cannot be read counts nothing.
pub fn measure(dir: &Path) -> Measure {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty()).map_or_else(|_| Measure::default(), |root| walk(&root, Path::new("")))
}

/// As [`measure`], of a folder in one that is the caller's: nothing when something is mounted there, or a link.
pub fn measure_in(folder: &Path, name: &OsStr) -> Measure {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(folder, flags, Mode::empty());
    root.map_or_else(|_| Measure::default(), |root| walk(&root, Path::new(name)))
}

/// A file of the caller's that a container may have made as long as it liked.
pub fn measure_file(path: &Path) -> Measure {
    rustix::fs::lstat(path).map_or_else(|_| Measure::default(), |stat| Measure { bytes: bytes(&stat), inodes: 1 })
}

fn walk(root: &OwnedFd, top: &Path) -> Measure {
    let mut sum = Measure::default();
    let mut seen = HashSet::new();
    let mut folders = vec![top.to_owned()];
    let mut entries = 0;
    while let Some(folder) = folders.pop().filter(|_| entries < ENTRIES_MAX) {
        // Through no link and over no mount: a container may have put one there since its parent was read.
        let Found::Dir(open) = open_dir(root, &folder) else { continue };
        for entry in Dir::read_from(&open).into_iter().flatten().flatten() {
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            entries += 1;
            let Some(stat) = stat_unless_mounted(&open, name) else { continue };
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let has_names = stat.st_nlink > 1 && !is_dir;
            if has_names && seen.len() < REMEMBERED_MAX && !seen.insert(stat.st_ino) {
                continue;
            }
            sum = sum.plus(Measure { bytes: bytes(&stat), inodes: 1 });
            if is_dir && folders.len() < REMEMBERED_MAX {
                folders.push(PathBuf::from(&folder).join(name));
            }
        }
    }
    sum
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
