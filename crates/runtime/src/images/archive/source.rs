//! The files in an archive, by name: in a directory, or in a tar that is read in place.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::images::disk::Scratch;
use crate::images::error::{Error, Result};
use crate::images::store::Store;
use crate::images::unpack;

/// Manifests and configurations are kept in memory; real ones have some kilobytes.
const DOCUMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;
const ENTRIES_MAX: usize = 100_000;
const LINKS_MAX: usize = 8;
const BUFFER_BYTES: usize = 256 * 1024;

pub enum Source {
    Directory(PathBuf),
    Tar {
        file: File,
        entries: BTreeMap<String, Entry>,
        /// Where a compressed tar was unpacked to.
        _scratch: Option<Scratch>,
    },
}

#[derive(Clone)]
pub enum Entry {
    File {
        offset: u64,
        size: u64,
    },
    /// Older versions of Docker write a layer that two images share once, with links to it.
    Link(String),
}

impl Source {
    pub fn open(store: &Store, path: &Path) -> Result<Source> {
        if path.is_dir() {
            return Ok(Source::Directory(path.to_owned()));
        }
        let file = File::open(path).map_err(Error::io("open", path))?;
        let (mut file, scratch) = decompressed(store, file, path)?;
        file.rewind().map_err(Error::io("read", path))?;
        let entries = list(&file)?;
        Ok(Source::Tar { file, entries, _scratch: scratch })
    }

    pub fn has(&self, name: &str) -> bool {
        match self {
            Source::Directory(directory) => directory.join(name).is_file(),
            Source::Tar { entries, .. } => entries.contains_key(name),
        }
    }

    pub fn size(&self, name: &str) -> Result<u64> {
        match self {
            Source::Directory(directory) => {
                fs::metadata(inside(directory, name)?).map(|metadata| metadata.len()).map_err(|_| missing(name))
            }
            Source::Tar { entries, .. } => section(entries, name).map(|(_, size)| size),
        }
    }

    pub fn reader(&self, name: &str) -> Result<Box<dyn Read + '_>> {
        match self {
            Source::Directory(directory) => {
                let file = File::open(inside(directory, name)?).map_err(|_| missing(name))?;
                Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
            }
            Source::Tar { file, entries, .. } => {
                let (offset, size) = section(entries, name)?;
                Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, Section { file, offset, end: offset + size })))
            }
        }
    }

    /// A small file, whole.
    pub fn document(&self, name: &str) -> Result<Vec<u8>> {
        if self.size(name)? > DOCUMENT_BYTES_MAX {
            return Err(Error::Archived(format!("its {name} is larger than {DOCUMENT_BYTES_MAX} bytes")));
        }
        let mut bytes = Vec::new();
        let read = self.reader(name)?.take(DOCUMENT_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|error| Error::Archived(format!("its {name} cannot be read: {error}")))?;
        Ok(bytes)
    }
}

fn missing(name: &str) -> Error {
    Error::Archived(format!("it lacks {name}"))
}

fn inside(directory: &Path, name: &str) -> Result<PathBuf> {
    let stays = Path::new(name).components().all(|component| matches!(component, std::path::Component::Normal(_)));
    if stays { Ok(directory.join(name)) } else { Err(Error::Archived(format!("it names the file {name:?}, which is outside of it"))) }
}

/// The file itself, or a plain copy of it: files inside are read in any order.
fn decompressed(store: &Store, file: File, path: &Path) -> Result<(File, Option<Scratch>)> {
    let mut start = [0; 4];
    let n = file.read_at(&mut start, 0).map_err(Error::io("read", path))?;
    if !unpack::is_compressed(&start[..n]) {
        return Ok((file, None));
    }
    let scratch = store.scratch()?;
    let plain_path = scratch.path().join("archive.tar");
    let mut plain = File::options().create_new(true).read(true).write(true).open(&plain_path).map_err(Error::io("make", &plain_path))?;
    let mut reader = unpack::decompress(BufReader::with_capacity(BUFFER_BYTES, file)).map_err(Error::io("read", path))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let n = reader.read(&mut buffer).map_err(Error::io("decompress", path))?;
        if n == 0 {
            return Ok((plain, Some(scratch)));
        }
        plain.write_all(&buffer[..n]).map_err(Error::io("write", &plain_path))?;
    }
}

fn list(file: &File) -> Result<BTreeMap<String, Entry>> {
    let unreadable = |error: io::Error| Error::Archived(format!("it is not a complete tar archive: {error}"));
    let length = file.metadata().map_err(unreadable)?.len();
    if length == 0 {
        return Err(Error::Archived("it is empty".to_owned()));
    }
    let mut entries = BTreeMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = normal(&String::from_utf8_lossy(&entry.path_bytes()), "");
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let (offset, size) = (entry.raw_file_position(), entry.size());
            if offset + size > length {
                return Err(Error::Archived(format!("it is not a complete tar archive: it ends within {name}")));
            }
            entries.insert(name, Entry::File { offset, size });
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default();
            let base = if kind.is_symlink() { name.rsplit_once('/').map_or("", |(directory, _)| directory) } else { "" };
            let target = normal(&String::from_utf8_lossy(&target), base);
            entries.insert(name, Entry::Link(target));
        }
        if entries.len() > ENTRIES_MAX {
            return Err(Error::Archived(format!("it has more than {ENTRIES_MAX} files")));
        }
    }
    Ok(entries)
}

/// Names are only compared with one another: going up from the top stays there.
fn normal(name: &str, base: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    parts.join("/")
}

/// Where a file is in the tar.
fn section(entries: &BTreeMap<String, Entry>, name: &str) -> Result<(u64, u64)> {
    let mut current = normal(name, "");
    for _ in 0..LINKS_MAX {
        match entries.get(&current) {
            Some(Entry::File { offset, size }) => return Ok((*offset, *size)),
            Some(Entry::Link(target)) => current = target.clone(),
            None => break,
        }
    }
    Err(missing(name))
}

/// A part of a file, read without moving any other reader's place in it.
struct Section<'a> {
    file: &'a File,
    offset: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let n = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        if n == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += n as u64;
        Ok(n)
    }
}
