//! From a path to an open database that is known to be a store of ours.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, StorageBackend, StorageError};

use super::format;
use super::held_back::HeldBack;
use crate::OpenError;

/// redb caches pages to answer reads; ours come from memory, so it only needs the upper levels of its trees and the
/// pages one group of commits changes (a tenth of this).
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Opens the store at this path, making an empty one where there is nothing (or an empty file).
pub(super) fn open_path(path: &Path) -> Result<Database, OpenError> {
    match find(path)? {
        Some(file) => open_file(path, file),
        None => create(path),
    }
}

/// Opens or makes a store in any storage. The path is for messages.
pub(super) fn open_storage(path: &Path, storage: Box<dyn StorageBackend>) -> Result<Database, OpenError> {
    let empty = storage.len().map_err(|source| OpenError::Io { path: path.to_owned(), operation: "read the length of", source })? == 0;
    let (held_back, release) = HeldBack::new(storage);
    let database =
        Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(held_back).map_err(|error| database_error(path, error))?;
    if empty {
        format::initialise(&database).map_err(|source| OpenError::Disk {
            path: path.to_owned(),
            operation: "write to",
            source: Box::new(source),
        })?;
    } else {
        format::check(&database, path)?;
    }
    release.release().map_err(|source| OpenError::Io { path: path.to_owned(), operation: "write to", source })?;
    Ok(database)
}

/// The file at this path, unless there is none or it is empty.
fn find(path: &Path) -> Result<Option<File>, OpenError> {
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
    Ok((metadata.len() > 0).then_some(file))
}

fn open_file(path: &Path, file: File) -> Result<Database, OpenError> {
    let storage = FileBackend::new(file).map_err(|error| database_error(path, error))?;
    open_storage(path, Box::new(storage))
}

/// Makes the store under another name first: a crash on the way leaves nothing at `path`, never half a store.
fn create(path: &Path) -> Result<Database, OpenError> {
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
    // Whoever held the lock before may have finished: then what we hold is the store, under its name already, or a
    // second new file that nobody wants.
    if let Some(file) = find(path)? {
        return open_file(path, file);
    }
    file.set_len(0).map_err(|error| io_error(&new_path, "empty", error))?;
    let database = open_file(path, file)?;
    fs::rename(&new_path, path).map_err(|error| io_error(path, "create", error))?;
    sync_directory(directory).map_err(|error| io_error(directory, "sync", error))?;
    Ok(database)
}

fn open_new(path: &Path) -> io::Result<File> {
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

/// Without this a power cut may lose the name of the file, and with it every commit acknowledged in it.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
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

fn io_error(path: &Path, operation: &'static str, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => OpenError::Permission { path, operation, source },
        _ => OpenError::Io { path, operation, source },
    }
}

fn database_error(path: &Path, error: DatabaseError) -> OpenError {
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
