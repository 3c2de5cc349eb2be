//! A layer: from a stream of bytes to a directory that overlayfs takes as a lower one.
//!
//! Deletions become what overlayfs reads: a character device 0:0 for a name, the attribute
//! `trusted.overlay.opaque` for a directory. Each layer is unpacked alone, without those below it:
//! a directory that the layer goes through but does not list itself gets the mode 0755. Nothing is
//! ever written outside of the directory: names with `..` are refused, symlinks are followed as if
//! it were the root.

mod compression;
mod limits;
mod metadata;
mod metered;
mod rooted;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::digest::{Digest, HashingReader};
use super::error::{Error, Result};
use super::stop::Stop;
pub use compression::{decompress, is_compressed};
use limits::{Bounded, Limits};
use metadata::{Metadata, Modified};
use metered::{Budget, Metered};
use rooted::{Place, Root};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
/// Names with this start are notes of an old storage driver, not deletions.
const RESERVED_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
/// Long names and attributes come before an entry and are read into memory as a whole.
const HEADERS_BYTES_MAX: u64 = 4 * 1024 * 1024;
const COPY_BUFFER_BYTES: usize = 128 * 1024;
/// Shorter runs of zeros are written.
const HOLE_BYTES_MIN: usize = 4096;

/// Unpacks a layer, compressed or not, into an empty directory; answers its diff id and the length
/// of its archive. Ends with an error soon after `stop` is set.
pub fn unpack(layer: impl BufRead, directory: &Path, stop: &Stop) -> Result<(Digest, u64)> {
    unpack_within(Limits::new(stop.clone()), layer, directory)
}

fn unpack_within(limits: Limits, layer: impl BufRead, directory: &Path) -> Result<(Digest, u64)> {
    let bounded = Bounded::new(decompress(layer).map_err(Error::LayerRead)?, &limits);
    let mut reader = HashingReader::new(bounded);
    Unpacker::new(directory, limits)?.run(&mut reader)?;
    // What follows the end of the archive counts for the digest too.
    reader.finish().map_err(Error::LayerRead)
}

struct Unpacker {
    root: Root,
    buffer: Vec<u8>,
    limits: Limits,
    /// Paths without symlinks of what this layer has put there: deletions are about the layers
    /// below only.
    made: BTreeSet<PathBuf>,
    whiteouts: BTreeSet<PathBuf>,
    /// Set at the end: what is put into a directory changes its time.
    directory_times: BTreeMap<PathBuf, Modified>,
}

impl Unpacker {
    fn new(directory: &Path, limits: Limits) -> Result<Unpacker> {
        let root = Root::open(directory).map_err(Error::io("open", directory))?;
        let buffer = vec![0; COPY_BUFFER_BYTES];
        Ok(Unpacker { root, buffer, limits, made: BTreeSet::new(), whiteouts: BTreeSet::new(), directory_times: BTreeMap::new() })
    }

    fn run(mut self, reader: impl Read) -> Result<()> {
        let budget = Budget::new(HEADERS_BYTES_MAX);
        let mut archive = tar::Archive::new(Metered::new(reader, &budget));
        for entry in archive.entries().map_err(Error::LayerRead)? {
            let mut entry = entry.map_err(Error::LayerRead)?;
            let path = entry.path_bytes().into_owned();
            budget.set(u64::MAX);
            let done = self.entry(&path, &mut entry).and_then(|()| self.skip(&mut entry));
            done.map_err(|problem| problem.at(&path))?;
            budget.set(HEADERS_BYTES_MAX);
        }
        self.set_directory_times()
    }

    fn entry<R: Read>(&mut self, path: &[u8], entry: &mut tar::Entry<'_, R>) -> std::result::Result<(), Problem> {
        self.limits.take_entry(path, entry.size(), &self.root)?;
        if matches!(entry.header().entry_type(), tar::EntryType::XGlobalHeader) {
            return Ok(());
        }
        let path = clean(path)?;
        let metadata = Metadata::of(entry)?;
        let Some(name) = path.file_name().map(|name| name.as_bytes().to_owned()) else {
            return self.root_directory(metadata);
        };
        let place = self.root.place(&path, &mut self.limits)?;
        if name == OPAQUE_NAME {
            return Ok(make_opaque(&place.parent_as_place())?);
        }
        if name.starts_with(RESERVED_PREFIX) {
            return Ok(());
        }
        match name.strip_prefix(WHITEOUT_PREFIX) {
            Some(b"" | b"." | b"..") => Err(Problem::Refused("the name of what it deletes is not one".to_owned())),
            Some(deleted) => self.whiteout(place.sibling(deleted)),
            None => self.make(place, metadata, entry),
        }
    }

    fn root_directory(&mut self, metadata: Metadata) -> std::result::Result<(), Problem> {
        self.apply(&metadata, &self.root.own_place(), FileType::Directory)?;
        self.directory_times.insert(PathBuf::new(), metadata.modified());
        Ok(())
    }

    fn apply(&mut self, metadata: &Metadata, place: &Place, kind: FileType) -> std::result::Result<(), Problem> {
        let (count, bytes) = metadata.attributes();
        self.limits.take_inodes(count, &self.root)?;
        self.limits.take_bytes(bytes, &self.root)?;
        Ok(metadata.apply(place, kind)?)
    }

    /// What is left of an entry counts as if it were kept: holes cost nothing in the archive, and
    /// time to go through.
    fn skip(&mut self, entry: &mut impl Read) -> std::result::Result<(), Problem> {
        loop {
            let n = entry.read(&mut self.buffer)?;
            if n == 0 {
                return Ok(());
            }
            self.limits.take_bytes(n as u64, &self.root)?;
        }
    }

    fn whiteout(&mut self, place: Place) -> std::result::Result<(), Problem> {
        if self.made.contains(&place.path) || self.whiteouts.contains(&place.path) {
            return Ok(());
        }
        self.limits.take_remembered(place.path.as_os_str().len())?;
        self.whiteouts.insert(place.path.clone());
        self.root.remove(&place)?;
        rustix::fs::mknodat(place.parent.as_fd(), &place.name, FileType::CharacterDevice, Mode::empty(), 0)?;
        Ok(())
    }

    fn make<R: Read>(&mut self, place: Place, metadata: Metadata, entry: &mut tar::Entry<'_, R>) -> std::result::Result<(), Problem> {
        let kind = entry.header().entry_type();
        let replaces_whiteout = self.whiteouts.remove(&place.path);
        let is_kept = kind.is_dir() && place.is_directory();
        if !is_kept {
            self.root.remove(&place)?;
        }
        let file_type = match kind {
            tar::EntryType::Directory => self.directory(&place, &metadata, replaces_whiteout)?,
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => self.file(&place, entry)?,
            tar::EntryType::Symlink => self.symlink(&place, &link_target(entry)?)?,
            // Owner, mode and times are those of the file that is linked to.
            tar::EntryType::Link => return self.hard_link(&place, &link_target(entry)?),
            tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => device(&place, kind, entry)?,
            other => return Err(Problem::Refused(format!("entries of type {other:?} are not known"))),
        };
        self.apply(&metadata, &place, file_type)?;
        self.remember_made(place.path)
    }

    fn remember_made(&mut self, path: PathBuf) -> std::result::Result<(), Problem> {
        if !self.made.contains(&path) {
            self.limits.take_remembered(path.as_os_str().len())?;
            self.made.insert(path);
        }
        Ok(())
    }

    fn directory(&mut self, place: &Place, metadata: &Metadata, replaces_whiteout: bool) -> std::result::Result<FileType, Problem> {
        if !place.is_directory() {
            rustix::fs::mkdirat(place.parent.as_fd(), &place.name, Mode::from_raw_mode(0o700))?;
        }
        if replaces_whiteout {
            // The name was deleted and made anew: nothing of the directory below may shine through.
            make_opaque(place)?;
        }
        if !self.directory_times.contains_key(&place.path) {
            self.limits.take_remembered(place.path.as_os_str().len())?;
        }
        self.directory_times.insert(place.path.clone(), metadata.modified());
        Ok(FileType::Directory)
    }

    /// Blocks of zeros become holes: sparse files stay sparse, and what is all zeros costs no disk.
    fn file(&mut self, place: &Place, content: &mut impl Read) -> std::result::Result<FileType, Problem> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(place.parent.as_fd(), &place.name, flags, Mode::from_raw_mode(0o600))?);
        let mut length = 0;
        loop {
            let n = content.read(&mut self.buffer)?;
            if n == 0 {
                file.set_len(length)?;
                return Ok(FileType::RegularFile);
            }
            self.limits.take_bytes(n as u64, &self.root)?;
            length += n as u64;
            if n >= HOLE_BYTES_MIN && self.buffer[..n].iter().all(|&byte| byte == 0) {
                io::Seek::seek(&mut file, io::SeekFrom::Start(length))?;
            } else {
                io::Write::write_all(&mut file, &self.buffer[..n])?;
            }
        }
    }

    fn hard_link(&mut self, place: &Place, target: &[u8]) -> std::result::Result<(), Problem> {
        let target = self.root.existing(&clean(target)?, &mut self.limits)?;
        rustix::fs::linkat(target.parent.as_fd(), &target.name, place.parent.as_fd(), &place.name, AtFlags::empty())?;
        self.remember_made(place.path.clone())
    }

    /// The target stays as it is: it is followed in containers only, whose root this is.
    fn symlink(&mut self, place: &Place, target: &[u8]) -> std::result::Result<FileType, Problem> {
        self.limits.take_bytes(target.len() as u64, &self.root)?;
        rustix::fs::symlinkat(std::ffi::OsStr::from_bytes(target), place.parent.as_fd(), &place.name)?;
        Ok(FileType::Symlink)
    }

    /// Of the directories that are still there: a later entry may have put something else in their
    /// place.
    fn set_directory_times(mut self) -> Result<()> {
        for (path, modified) in std::mem::take(&mut self.directory_times) {
            let place = if path.as_os_str().is_empty() { Some(self.root.own_place()) } else { self.root.directory(&path) };
            let set = place.map_or(Ok(()), |place| modified.apply(&place));
            set.map_err(|source| Problem::Io(source).at(path.as_os_str().as_bytes()))?;
        }
        Ok(())
    }
}

/// Why an entry was not unpacked; the path is added where it is known.
enum Problem {
    Refused(String),
    Io(io::Error),
}

impl Problem {
    fn at(self, path: &[u8]) -> Error {
        let path = String::from_utf8_lossy(path).into_owned();
        match self {
            Problem::Refused(why) => Error::Entry { path, why },
            Problem::Io(source) => Error::EntryIo { path, source },
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Io(error)
    }
}

impl From<rustix::io::Errno> for Problem {
    fn from(error: rustix::io::Errno) -> Problem {
        Problem::Io(error.into())
    }
}

/// The path below the root. A leading slash counts for nothing; what points upwards is refused,
/// whether or not it would get out.
fn clean(path: &[u8]) -> std::result::Result<PathBuf, Problem> {
    let mut clean = PathBuf::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(Problem::Refused("its path leads upwards".to_owned())),
            _ if component.contains(&0) => return Err(Problem::Refused("its path contains a zero byte".to_owned())),
            _ => clean.push(std::ffi::OsStr::from_bytes(component)),
        }
    }
    Ok(clean)
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>) -> std::result::Result<Vec<u8>, Problem> {
    let target = entry.link_name_bytes().ok_or_else(|| Problem::Refused("it is a link to nothing".to_owned()))?;
    limits::check_path(&target, "the target of the link")?;
    Ok(target.into_owned())
}

fn device<R: Read>(place: &Place, kind: tar::EntryType, entry: &tar::Entry<'_, R>) -> io::Result<FileType> {
    let file_type = match kind {
        tar::EntryType::Char => FileType::CharacterDevice,
        tar::EntryType::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let number = if file_type == FileType::Fifo {
        0 // Its fields are often empty, which is not a number.
    } else {
        let header = entry.header();
        rustix::fs::makedev(header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0))
    };
    rustix::fs::mknodat(place.parent.as_fd(), &place.name, file_type, Mode::from_raw_mode(0o600), number)?;
    Ok(file_type)
}

fn make_opaque(place: &Place) -> io::Result<()> {
    metadata::set_attribute(place, OPAQUE_ATTRIBUTE, b"y")
}
