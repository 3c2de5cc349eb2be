//! Trees of files: the one place of the program that removes them, and the one that measures them.
//!
//! Code that removes a tree opens a [`Folder`] that it owns and names what is to go below it.
//! Nothing leads out of that folder: no link is followed, `..` is refused, and no mount is crossed,
//! not even a bind mount of the same file system (`openat2` with `RESOLVE_NO_XDEV` decides that for
//! each folder at the moment it is opened). What is mounted below, and is known to belong there, is
//! detached first ([`Folder::detach`]).
//!
//! Containers make the trees, so that depth, number and names are theirs: memory and open files are
//! bounded whatever is found, and what cannot be removed is reported after the rest is gone. Needs
//! Linux 5.6 or newer; an older kernel removes nothing.

mod measure;
mod mounts;
mod removal;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

pub use measure::{Measure, measure, measure_file, measure_in};
pub use mounts::points as mount_points;
use removal::{Found, Removal};

/// Why something could not be removed; what could be is gone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no path below {}", below.display(), folder.display())]
    Outside { folder: PathBuf, below: PathBuf },
    #[error("cannot remove everything below {}: {}", folder.display(), describe(left, *is_more))]
    Left { folder: PathBuf, left: Vec<Left>, is_more: bool },
    #[error("cannot list mounts")]
    Mounts(#[source] io::Error),
    #[error("cannot detach what is mounted at {}", path.display())]
    Detach {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is still mounted below {}", path.display(), folder.display())]
    StillMounted { folder: PathBuf, path: PathBuf },
}

/// Something that is still there, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub path: PathBuf,
    pub reason: String,
}

fn describe(left: &[Left], is_more: bool) -> String {
    let listed: Vec<String> = left.iter().map(|left| format!("{}: {}", left.path.display(), left.reason)).collect();
    format!("{}{}", listed.join("; "), if is_more { "; and more" } else { "" })
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let text = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        io::Error::other(text)
    }
}

/// A folder that the caller owns, open: later changes of its path do not lead elsewhere.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens the folder; its own path may lead through links. None: there is nothing.
    pub fn open(path: &Path) -> Result<Option<Folder>, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Folder { fd, path: path.to_owned() })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(Error::Open { path: path.to_owned(), source: error.into() }),
        }
    }

    /// Whether there is an ordinary file of that name in it.
    pub fn has_file(&self, name: &str) -> bool {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file())
    }

    /// Removes what is at `below`, a file or a tree. Nothing there is no error.
    pub fn remove(&self, below: &Path) -> Result<(), Error> {
        let (parents, name) = self.split(below)?;
        let parent = match removal::open_dir(&self.fd, &parents) {
            Found::Dir(parent) => parent,
            Found::Nothing => return Ok(()),
            Found::NoDir => return Err(self.left(&parents, "it is no folder, or leads through a link")),
            Found::Mount => return Err(self.left(&parents, removal::MOUNTED)),
            Found::Error(error) => return Err(self.left(&parents, &reason(error))),
        };
        let mut removal = Removal::new(&parent, self.path.join(&parents));
        removal.remove(&name);
        removal.finish(&self.path)
    }

    /// Removes everything in the folder but the entry of that name; the folder stays.
    pub fn clear(&self, keep: Option<&str>) -> Result<(), Error> {
        let mut removal = Removal::new(&self.fd, self.path.clone());
        removal.remove_all(keep.map(OsStr::new));
        removal.finish(&self.path)
    }

    /// Detaches everything that is mounted at `below` or deeper. Mounts made by containers come
    /// here by propagation.
    pub fn detach(&self, below: &Path) -> Result<(), Error> {
        let (parents, name) = self.split(below)?;
        mounts::detach(&self.fd, &self.path, &parents.join(name))
    }

    /// Its parent and its name; refuses what might lead elsewhere.
    fn split(&self, below: &Path) -> Result<(PathBuf, OsString), Error> {
        let outside = || Error::Outside { folder: self.path.clone(), below: below.to_owned() };
        let is_plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        let name = below.file_name().filter(|_| is_plain).ok_or_else(outside)?;
        Ok((below.parent().map(Path::to_owned).unwrap_or_default(), name.to_owned()))
    }

    fn left(&self, below: &Path, reason: &str) -> Error {
        let left = Left { path: self.path.join(below), reason: reason.to_owned() };
        Error::Left { folder: self.path.clone(), left: vec![left], is_more: false }
    }
}

/// Removes what is at `below` in a folder of the caller's; neither has to be there.
pub fn remove(folder: &Path, below: impl AsRef<Path>) -> Result<(), Error> {
    match Folder::open(folder)? {
        Some(folder) => folder.remove(below.as_ref()),
        None => Ok(()),
    }
}

/// Detaches what is mounted at `below` or deeper, then removes it: for trees whose mounts are all
/// the caller's.
pub fn detach_and_remove(folder: &Path, below: impl AsRef<Path>) -> Result<(), Error> {
    match Folder::open(folder)? {
        Some(folder) => folder.detach(below.as_ref()).and_then(|()| folder.remove(below.as_ref())),
        None => Ok(()),
    }
}

/// Removes one entry of an open folder, and everything below it; `path` is the entry's, for
/// messages.
pub(crate) fn remove_entry(folder: &OwnedFd, path: &Path, name: &OsStr) -> Result<(), Error> {
    let folder_path = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut removal = Removal::new(folder, folder_path.clone());
    removal.remove(name);
    removal.finish(&folder_path)
}

/// What the system says, without its number.
fn reason(error: Errno) -> String {
    match error {
        Errno::NOSYS => "this needs Linux 5.6 or newer".to_owned(),
        Errno::PERM => "operation not permitted (it may be immutable)".to_owned(),
        error => nix::errno::Errno::from_raw(error.raw_os_error()).desc().to_lowercase(),
    }
}
