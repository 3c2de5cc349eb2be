//! Paths inside a directory that is taken for the root, whatever symlinks say.
//!
//! Every step is taken from an open directory to a name in it, never following a link in the
//! kernel: links are read and followed here, from the root that is meant. So no path leads out. One
//! directory is open at a time, however deep a path leads. Assumes that no other process writes to
//! the directory meanwhile; it is a scratch directory. [`crate::below`] says why it does not do.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Problem;
use super::limits::Limits;
use crate::{below, trees};

/// As many links as Linux follows in one path.
const LINKS_MAX: usize = 40;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub struct Root {
    handle: Arc<OwnedFd>,
    /// The parent that was found last, by the path that was asked for: archives go directory by
    /// directory.
    last: Option<(PathBuf, Found)>,
}

/// A name in an open directory; there may be something under it or not.
pub struct Place {
    pub parent: Arc<OwnedFd>,
    pub name: OsString,
    /// From the root, without links except perhaps the last component.
    pub path: PathBuf,
}

#[derive(Clone)]
struct Found {
    handle: Arc<OwnedFd>,
    path: PathBuf,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl Root {
    pub fn open(directory: &Path) -> io::Result<Root> {
        let handle = rustix::fs::open(directory, DIRECTORY, Mode::empty())?;
        Ok(Root { handle: Arc::new(handle), last: None })
    }

    /// The root itself, to be changed but not removed.
    pub fn own_place(&self) -> Place {
        Place { parent: Arc::clone(&self.handle), name: OsString::from("."), path: PathBuf::new() }
    }

    /// Where the path (of normal components, at least one) leads. Directories on the way are made.
    pub fn place(&mut self, path: &Path, limits: &mut Limits) -> Result<Place, Problem> {
        let name = path.file_name().ok_or(Errno::INVAL)?.to_owned();
        let asked = path.parent().unwrap_or(Path::new(""));
        let found = match &self.last {
            Some((last, found)) if last == asked => found.clone(),
            _ => {
                let found = self.walk(asked, Missing::Make, limits)?;
                self.last = Some((asked.to_owned(), found.clone()));
                found
            }
        };
        Ok(Place { path: found.path.join(&name), parent: found.handle, name })
    }

    /// As [`Root::place`], for what must be there already.
    pub fn existing(&self, path: &Path, limits: &mut Limits) -> Result<Place, Problem> {
        let name = path.file_name().ok_or(Errno::INVAL)?.to_owned();
        let found = self.walk(path.parent().unwrap_or(Path::new("")), Missing::Fail, limits)?;
        Ok(Place { path: found.path.join(&name), parent: found.handle, name })
    }

    /// The directory that is at that path itself, through no link; None when there is another thing
    /// or nothing.
    pub fn directory(&self, path: &Path) -> Option<Place> {
        let handle = below::open_dir(&self.handle, path, DIRECTORY).ok()?;
        Some(Place { parent: Arc::new(handle), name: OsString::from("."), path: path.to_owned() })
    }

    /// Removes what is there, directories with their content.
    pub fn remove(&mut self, place: &Place) -> Result<(), Problem> {
        match rustix::fs::unlinkat(place.parent.as_fd(), &place.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => trees::remove_entry(&place.parent, &place.path, &place.name).map_err(io::Error::from)?,
            Err(error) => return Err(error.into()),
        }
        // It may have been on the way to the directory that is remembered.
        self.last = None;
        Ok(())
    }

    fn walk(&self, path: &Path, missing: Missing, limits: &mut Limits) -> Result<Found, Problem> {
        let mut ahead: VecDeque<OsString> = path.iter().map(OsStr::to_owned).collect();
        let mut here = self.top();
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            limits.take_step(here.path.as_os_str().len() + 1 + name.len())?;
            match open_directory(&here, &name) {
                Ok(handle) => here.enter(handle, &name),
                Err(Errno::NOENT) if missing == Missing::Make => {
                    limits.take_inodes(1, self)?;
                    here.make(&name)?;
                    ahead.push_front(name);
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP.into());
                    }
                    let target = read_link(&here, &name)?;
                    self.follow(&target, &mut here, &mut ahead)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(here)
    }

    fn top(&self) -> Found {
        Found { handle: Arc::clone(&self.handle), path: PathBuf::new() }
    }

    /// Puts the components of a link's target before what is ahead. Upwards ends at the root, as it
    /// does at a container's.
    fn follow(&self, target: &Path, here: &mut Found, ahead: &mut VecDeque<OsString>) -> io::Result<()> {
        let mut names = Vec::new();
        for component in target.components() {
            match component {
                Component::RootDir | Component::Prefix(_) => *here = self.top(),
                Component::CurDir => {}
                Component::ParentDir if names.pop().is_some() => {}
                Component::ParentDir => here.leave()?,
                Component::Normal(name) => names.push(name.to_owned()),
            }
        }
        for name in names.into_iter().rev() {
            ahead.push_front(name);
        }
        Ok(())
    }
}

/// What to do about a directory on the way that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Fail,
}

impl Found {
    fn enter(&mut self, handle: OwnedFd, name: &OsStr) {
        self.handle = Arc::new(handle);
        self.path.push(name);
    }

    /// To the directory above; the root has none. No directory is moved while a layer is unpacked:
    /// `..` leads back to where it was entered.
    fn leave(&mut self) -> io::Result<()> {
        if self.path.pop() {
            self.handle = Arc::new(rustix::fs::openat(&self.handle, "..", DIRECTORY, Mode::empty())?);
        }
        Ok(())
    }

    fn make(&self, name: &OsStr) -> io::Result<()> {
        rustix::fs::mkdirat(&self.handle, name, Mode::from_raw_mode(0o755))?;
        // The creator's umask does not decide the mode of an implicit directory.
        Ok(rustix::fs::chmodat(&self.handle, name, Mode::from_raw_mode(0o755), AtFlags::empty())?)
    }
}

fn open_directory(parent: &Found, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(&parent.handle, name, DIRECTORY, Mode::empty())
}

fn read_link(parent: &Found, name: &OsStr) -> io::Result<PathBuf> {
    match rustix::fs::readlinkat(&parent.handle, name, Vec::new()) {
        Ok(target) => Ok(PathBuf::from(OsString::from_vec(target.into_bytes()))),
        // It is no link at all.
        Err(Errno::INVAL) => Err(Errno::NOTDIR.into()),
        Err(error) => Err(error.into()),
    }
}

impl Place {
    /// Another name in the same directory.
    pub fn sibling(&self, name: &[u8]) -> Place {
        let name = OsStr::from_bytes(name).to_owned();
        Place { parent: Arc::clone(&self.parent), path: self.path.with_file_name(&name), name }
    }

    /// The directory that this is in.
    pub fn parent_as_place(&self) -> Place {
        let path = self.path.parent().unwrap_or(Path::new("")).to_owned();
        Place { parent: Arc::clone(&self.parent), name: OsString::from("."), path }
    }

    /// Links do not count.
    pub fn is_directory(&self) -> bool {
        let status = rustix::fs::statat(self.parent.as_fd(), &self.name, AtFlags::SYMLINK_NOFOLLOW);
        status.is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Directory)
    }
}
