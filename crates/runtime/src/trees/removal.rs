//! Removing one tree: down into a folder, up when it is empty. What is too deep is moved up to the
//! top of the tree first, so that few folders are open at a time, however deep a container has
//! built.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Error, Left, reason};

/// Folders that are open at a time.
const DEPTH_MAX: usize = 48;

/// A folder in which entries appear while it is emptied is read again this often.
const PASSES_MAX: u32 = 64;

/// What is too deep is moved up this often: trees of 50 million levels. More is a process that
/// builds while we remove.
const MOVES_MAX: u64 = 1 << 20;

/// Names that are tried for what is moved up.
const NAMES_MAX: u64 = 16;

/// So many are reported.
const LEFT_MAX: usize = 8;

pub const MOUNTED: &str = "something is mounted there";

/// What [`open_dir`] met.
pub enum Found {
    Dir(OwnedFd),
    Nothing,
    /// A file or a link.
    NoDir,
    Mount,
    Error(Errno),
}

/// Opens a folder below another one: through no link, over no mount. An empty path is the folder
/// itself.
pub fn open_dir(parent: impl AsFd, path: &Path) -> Found {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(parent, path, flags, Mode::empty(), resolve) {
        Ok(fd) => Found::Dir(fd),
        Err(Errno::NOENT) => Found::Nothing,
        Err(Errno::NOTDIR | Errno::LOOP) => Found::NoDir,
        Err(Errno::XDEV) => Found::Mount,
        Err(error) => Found::Error(error),
    }
}

/// A folder that is being emptied.
struct Frame {
    name: OsString,
    dir: Dir,
    /// Something was taken out of it since it was last read from the start.
    is_progressing: bool,
    /// Something in it is reported already.
    has_left: bool,
    passes: u32,
}

pub struct Removal<'a> {
    root: BorrowedFd<'a>,
    /// For messages.
    path: PathBuf,
    frames: Vec<Frame>,
    moves: u64,
    left: BTreeMap<PathBuf, String>,
    is_more: bool,
}

impl<'a> Removal<'a> {
    pub fn new(root: &'a OwnedFd, path: PathBuf) -> Removal<'a> {
        Removal { root: root.as_fd(), path, frames: Vec::new(), moves: 0, left: BTreeMap::new(), is_more: false }
    }

    /// Removes one entry of the root, and everything below it.
    pub fn remove(&mut self, name: &OsStr) {
        self.visit(name, FileType::Unknown);
        while let Some(frame) = self.frames.last_mut() {
            match frame.dir.read() {
                Some(Ok(entry)) => {
                    let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
                    if name != "." && name != ".." {
                        self.visit(&name, entry.file_type());
                    }
                }
                Some(Err(error)) => {
                    self.note(None, &reason(error));
                    self.close(false);
                }
                None => self.end_folder(),
            }
        }
    }

    /// Removes all entries of the root but that one.
    pub fn remove_all(&mut self, keep: Option<&OsStr>) {
        let listed = Dir::read_from(self.root);
        let entries = match listed {
            Ok(entries) => entries,
            Err(error) => return self.note(None, &reason(error)),
        };
        for entry in entries {
            match entry {
                Ok(entry) => {
                    let name = OsStr::from_bytes(entry.file_name().to_bytes());
                    if name != "." && name != ".." && Some(name) != keep {
                        self.remove(name);
                    }
                }
                Err(error) => return self.note(None, &reason(error)),
            }
        }
    }

    pub fn finish(self, folder: &Path) -> Result<(), Error> {
        if self.left.is_empty() {
            return Ok(());
        }
        let left = self.left.into_iter().map(|(path, reason)| Left { path, reason }).collect();
        Err(Error::Left { folder: folder.to_owned(), left, is_more: self.is_more })
    }

    fn here(&self) -> BorrowedFd<'_> {
        match self.frames.last() {
            Some(frame) => frame.dir.fd().expect("an open folder has a descriptor"),
            None => self.root,
        }
    }

    /// An entry of the folder that was opened last: removed, or entered.
    fn visit(&mut self, name: &OsStr, kind: FileType) {
        if kind != FileType::Directory {
            match rustix::fs::unlinkat(self.here(), name, AtFlags::empty()) {
                Ok(()) => return self.progress(),
                Err(Errno::NOENT) => return,
                // A folder after all. (PERM is what POSIX wants for folders, and what immutable
                // files get.)
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return self.note_busy(name, error),
            }
        }
        if self.frames.len() >= DEPTH_MAX {
            return self.move_up(name);
        }
        match open_dir(self.here(), Path::new(name)) {
            Found::Dir(fd) => match Dir::new(fd) {
                Ok(dir) => self.frames.push(Frame { name: name.to_owned(), dir, is_progressing: false, has_left: false, passes: 0 }),
                Err(error) => self.note(Some(name), &reason(error)),
            },
            Found::Nothing => {}
            Found::NoDir => self.unlink_again(name),
            Found::Mount => self.note(Some(name), MOUNTED),
            Found::Error(error) => self.note(Some(name), &reason(error)),
        }
    }

    /// What was a folder a moment ago, or looked like one because it cannot be removed.
    fn unlink_again(&mut self, name: &OsStr) {
        match rustix::fs::unlinkat(self.here(), name, AtFlags::empty()) {
            Ok(()) => self.progress(),
            Err(Errno::NOENT) => {}
            Err(error) => self.note_busy(name, error),
        }
    }

    /// From the deepest folder that is open to the one on top, which is read again when all below
    /// it is done.
    fn move_up(&mut self, name: &OsStr) {
        if self.moves >= MOVES_MAX {
            return self.note(Some(name), "it is too deep");
        }
        let top = self.frames.first().and_then(|frame| frame.dir.fd().ok()).expect("what is too deep lies in an open folder");
        let mut result = Err(Errno::EXIST);
        for _ in 0..NAMES_MAX {
            self.moves += 1;
            result = rustix::fs::renameat(self.here(), name, top, format!(".everynode-moved-{}", self.moves));
            // Whatever has that name goes, too.
            if !matches!(result, Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR | Errno::BUSY)) {
                break;
            }
        }
        match result {
            Ok(()) => {
                self.progress();
                let top = &mut self.frames[0];
                top.is_progressing = true;
                top.passes = 0;
            }
            Err(Errno::NOENT) => {}
            Err(error) => self.note_busy(name, error),
        }
    }

    /// Everything that was listed is done: the folder goes, or is read again if something came
    /// meanwhile.
    fn end_folder(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        let result = rustix::fs::unlinkat(self.here(), &frame.name, AtFlags::REMOVEDIR);
        self.frames.push(frame);
        let frame = self.frames.last_mut().expect("put there a moment ago");
        match result {
            Ok(()) | Err(Errno::NOENT) => self.close(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) if frame.is_progressing && frame.passes < PASSES_MAX => {
                frame.is_progressing = false;
                frame.passes += 1;
                frame.dir.rewind();
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                if !frame.has_left {
                    self.note(None, "entries are added while it is removed");
                }
                self.close(false);
            }
            Err(error) => {
                let reason = if error == Errno::BUSY { MOUNTED.to_owned() } else { reason(error) };
                self.note(None, &reason);
                self.close(false);
            }
        }
    }

    fn close(&mut self, is_gone: bool) {
        let closed = self.frames.pop();
        if let Some(parent) = self.frames.last_mut() {
            parent.is_progressing |= is_gone;
            parent.has_left |= closed.is_some_and(|closed| closed.has_left) || !is_gone;
        }
    }

    fn progress(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.is_progressing = true;
        }
    }

    /// BUSY is what the kernel says to the removal of what a mount lies on.
    fn note_busy(&mut self, name: &OsStr, error: Errno) {
        let reason = if error == Errno::BUSY { MOUNTED.to_owned() } else { reason(error) };
        self.note(Some(name), &reason);
    }

    /// An entry of the folder that was opened last, or that folder.
    fn note(&mut self, name: Option<&OsStr>, reason: &str) {
        let mut path = self.path.clone();
        path.extend(self.frames.iter().map(|frame| &frame.name));
        path.extend(name);
        if let Some(frame) = self.frames.last_mut() {
            frame.has_left = true;
        }
        if self.left.len() < LEFT_MAX || self.left.contains_key(&path) {
            self.left.insert(path, reason.to_owned());
        } else {
            self.is_more = true;
        }
    }
}
