//! Paths inside a directory that is taken for the root, whatever symlinks say.
//!
//! Every step is taken from an open directory to a name in it, never following a link in the kernel: links are read and followed here, from
//! the root that is meant. So no path leads out. Assumes that nobody else writes to the directory meanwhile; it is a scratch directory.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// As many links as Linux follows in one path.
const LINKS_MAX: usize = 40;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub struct Root {
    handle: Arc<OwnedFd>,
    /// The parent that was found last, by the path that was asked for: archives go directory by directory.
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
    pub fn place(&mut self, path: &Path) -> io::Result<Place> {
        let name = path.file_name().ok_or(Errno::INVAL)?.to_owned();
        let asked = path.parent().unwrap_or(Path::new(""));
        let found = match &self.last {
            Some((last, found)) if last == asked => found.clone(),
            _ => {
                let found = self.walk(asked)?;
                self.last = Some((asked.to_owned(), found.clone()));
                found
            }
        };
        Ok(Place { path: found.path.join(&name), parent: found.handle, name })
    }

    /// Removes what is there, directories with their content.
    pub fn remove(&mut self, place: &Place) -> io::Result<()> {
        match rustix::fs::unlinkat(place.parent.as_fd(), &place.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => remove_tree(place.parent.as_fd(), &place.name)?,
            Err(error) => return Err(error.into()),
        }
        // It may have been on the way to the directory that is remembered.
        self.last = None;
        Ok(())
    }

    fn walk(&self, path: &Path) -> io::Result<Found> {
        let mut ahead: VecDeque<OsString> = path.iter().map(OsStr::to_owned).collect();
        let mut behind = vec![Found { handle: Arc::clone(&self.handle), path: PathBuf::new() }];
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            let here = behind.last().expect("the root is never taken away").clone();
            let place = Place { path: here.path.join(&name), parent: here.handle, name };
            match place.open_directory() {
                Ok(handle) => behind.push(Found { handle: Arc::new(handle), path: place.path }),
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(place.parent.as_fd(), &place.name, Mode::from_raw_mode(0o755))?;
                    // The mode of an implicit directory is not the creator's umask's business.
                    rustix::fs::chmodat(place.parent.as_fd(), &place.name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
                    ahead.push_front(place.name);
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP.into());
                    }
                    let target = place.read_link()?;
                    follow(&target, &mut behind, &mut ahead);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(behind.pop().expect("the root is never taken away"))
    }
}

/// Puts the components of a link's target before what is ahead. Upwards ends at the root, as it does at a container's.
fn follow(target: &Path, behind: &mut Vec<Found>, ahead: &mut VecDeque<OsString>) {
    let mut names = Vec::new();
    for component in target.components() {
        match component {
            Component::RootDir | Component::Prefix(_) => {
                behind.truncate(1);
            }
            Component::CurDir => {}
            Component::ParentDir if names.pop().is_some() => {}
            Component::ParentDir => behind.truncate(behind.len().saturating_sub(1).max(1)),
            Component::Normal(name) => names.push(name.to_owned()),
        }
    }
    for name in names.into_iter().rev() {
        ahead.push_front(name);
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

    fn open_directory(&self) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(self.parent.as_fd(), &self.name, DIRECTORY, Mode::empty())
    }

    fn read_link(&self) -> io::Result<PathBuf> {
        match rustix::fs::readlinkat(self.parent.as_fd(), &self.name, Vec::new()) {
            Ok(target) => Ok(PathBuf::from(OsString::from_vec(target.into_bytes()))),
            // It is no link at all.
            Err(Errno::INVAL) => Err(Errno::NOTDIR.into()),
            Err(error) => Err(error.into()),
        }
    }
}

fn remove_tree(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    let directory = rustix::fs::openat(&parent, name, DIRECTORY, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let child = OsStr::from_bytes(entry.file_name().to_bytes());
        if child == "." || child == ".." {
            continue;
        }
        match rustix::fs::unlinkat(&directory, child, AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_tree(&directory, child)?,
            other => other?,
        }
    }
    Ok(rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
}
