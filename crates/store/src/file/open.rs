//! From a path to an open database that is known to be a store of ours.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, StorageBackend, StorageError};

use super::checksum::Sum;
use super::format;
use super::guard::guarded;
use super::held_back::HeldBack;
use crate::OpenError;
use crate::objects::Objects;

/// redb caches pages to answer reads; ours come from memory, so it only needs the upper levels of
/// its trees and the pages one group of commits changes (a tenth of this).
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// An open file, and everything that it holds.
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) objects: Objects,
    pub(super) sum: Sum,
}

/// Opens the store at this path, making an empty one where there is nothing.
pub(super) fn open_path(path: &Path) -> Result<Opened, OpenError> {
    match find(path)? {
        Some(file) => open_file(path, file),
        None => create(path),
    }
}

/// Opens or makes a store in any storage. The path is for messages. Everything is read and checked
/// before anything is written.
pub(super) fn open_storage(path: &Path, storage: Box<dyn StorageBackend>) -> Result<Opened, OpenError> {
    let empty = storage.len().map_err(|source| OpenError::Io { path: path.to_owned(), operation: "read the length of", source })? == 0;
    let (held_back, release) = HeldBack::new(storage);
    let read = guarded(|| {
        let database = database(path, held_back)?;
        if empty {
            format::initialise(&database).map_err(|error| write_error(path, error))?;
            return Ok((format::load(&database, path)?, database));
        }
        format::check(&database, path)?;
        let database = check_pages(database, path)?;
        Ok((format::load(&database, path)?, database))
    });
    let (loaded, database) = read.unwrap_or_else(|| Err(format::damaged(path, CONTRADICTION)))?;
    release.release().map_err(|source| OpenError::Io { path: path.to_owned(), operation: "write to", source })?;
    format::upgrade(&database, &loaded).map_err(|error| write_error(path, error))?;
    Ok(Opened { database, objects: loaded.objects, sum: loaded.sum })
}

/// How a panic while reading reads.
pub(super) const CONTRADICTION: &str = "its pages contradict each other";

pub(super) fn database(path: &Path, storage: impl StorageBackend) -> Result<Database, OpenError> {
    Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(storage).map_err(|error| database_error(path, error))
}

/// Checks the pages of the container: one that is wrongly taken for free would be overwritten
/// later.
pub(super) fn check_pages(mut database: Database, path: &Path) -> Result<Database, OpenError> {
    match database.check_integrity() {
        Ok(true) => Ok(database),
        Ok(false) => Err(format::damaged(path, "the checksums of its pages are wrong")),
        Err(error) => Err(database_error(path, error)),
    }
}

fn write_error(path: &Path, source: redb::Error) -> OpenError {
    OpenError::Disk { path: path.to_owned(), operation: "write to", source: Box::new(source) }
}

/// The file at this path, unless there is none. An empty one was cut off: a new store is complete
/// when it gets its name.
pub(super) fn find(path: &Path) -> Result<Option<File>, OpenError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(path, "open", error)),
    };
    if metadata.is_dir() {
        return Err(OpenError::Directory { path: path.to_owned() });
    }
    if !metadata.is_file() {
        return Err(OpenError::NotAFile { path: path.to_owned() });
    }
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|error| io_error(path, "open", error))?;
    if metadata.len() == 0 {
        return Err(format::damaged(path, "it is empty, and held a store before"));
    }
    Ok(Some(file))
}

fn open_file(path: &Path, file: File) -> Result<Opened, OpenError> {
    let storage = FileBackend::new(file).map_err(|error| database_error(path, error))?;
    open_storage(path, Box::new(storage))
}

/// Makes the store under another name first: a crash on the way leaves nothing at `path`, never
/// half a store.
fn create(path: &Path) -> Result<Opened, OpenError> {
    let directory = directory_of(path);
    if !directory.is_dir() {
        return Err(OpenError::NoDirectory { path: directory.to_owned() });
    }
    let new_path = new_path(path);
    let file = open_new(&new_path).map_err(|error| io_error(path, "create", error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::Locked { path: path.to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(io_error(&new_path, "lock", error)),
    }
    // The process that held the lock before may have finished: then what we hold is the store,
    // under its name already, or a second new file that no store needs.
    if let Some(file) = find(path)? {
        return open_file(path, file);
    }
    file.set_len(0).map_err(|error| io_error(&new_path, "empty", error))?;
    let opened = open_file(path, file)?;
    fs::rename(&new_path, path).map_err(|error| io_error(path, "create", error))?;
    sync_directory(directory).map_err(|error| io_error(directory, "sync", error))?;
    Ok(opened)
}

pub(super) fn open_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Not truncated: it may be another process's, which only the lock tells.
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        // Objects include secrets.
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    options.open(path)
}

/// Without this a power cut may lose the name of the file, and with it every commit acknowledged in
/// it.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn new_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

pub(super) fn io_error(path: &Path, operation: &'static str, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => OpenError::Permission { path, operation, source },
        _ => OpenError::Io { path, operation, source },
    }
}

pub(super) fn database_error(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::Locked { path },
        DatabaseError::UpgradeRequired(version) => OpenError::NotOurs { path, reason: format!("a redb file of the old version {version}") },
        // How redb says that a later redb wrote the file, which no store up to this format was.
        DatabaseError::Storage(StorageError::Corrupted(reason)) if reason.starts_with("Expected file format version") => {
            OpenError::NotOurs { path, reason }
        }
        DatabaseError::Storage(StorageError::Corrupted(reason)) => OpenError::Damaged { path, reason },
        DatabaseError::Storage(StorageError::Io(source)) => match source.kind() {
            // How redb says that its magic number is not there.
            io::ErrorKind::InvalidData => OpenError::NotOurs { path, reason: source.to_string() },
            io::ErrorKind::UnexpectedEof => OpenError::Damaged { path, reason: "the file is shorter than it says".to_owned() },
            _ => io_error(&path, "open", source),
        },
        error => OpenError::Disk { path, operation: "open", source: Box::new(error.into()) },
    }
}
