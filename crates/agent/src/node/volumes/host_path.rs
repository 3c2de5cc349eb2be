//! hostPath: the type that a pod asks for is checked, and made where it says `OrCreate`.

use std::fs::FileType;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The kubelet's permissions for what it makes.
const DIR_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// Why a hostPath cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum HostPathError {
    #[error("{}: {cause}", path.display())]
    Make { path: PathBuf, cause: std::io::Error },
    #[error("hostPath type check failed: {} is not a {wanted}", path.display())]
    WrongType { path: PathBuf, wanted: &'static str },
    #[error("{0} is an invalid volume type")]
    NoType(String),
}

pub fn set_up(path: &Path, kind: &str) -> Result<(), HostPathError> {
    let failed = |cause| HostPathError::Make { path: path.to_owned(), cause };
    match kind {
        // Not there is the container runtime's matter, which makes a folder: so do we, as the
        // kubelet's runtimes do.
        "" if path.exists() => Ok(()),
        "" => make_dir(path).map_err(failed),
        "DirectoryOrCreate" if !path.exists() => make_dir(path).map_err(failed),
        "FileOrCreate" if !path.exists() => make_file(path).map_err(failed),
        "DirectoryOrCreate" | "Directory" => check(path, FileType::is_dir, "directory"),
        "FileOrCreate" | "File" => check(path, FileType::is_file, "file"),
        "Socket" => check(path, FileType::is_socket, "socket file"),
        "CharDevice" => check(path, FileType::is_char_device, "character device"),
        "BlockDevice" => check(path, FileType::is_block_device, "block device"),
        other => Err(HostPathError::NoType(other.to_owned())),
    }
}

fn check(path: &Path, is: fn(&FileType) -> bool, wanted: &'static str) -> Result<(), HostPathError> {
    let holds = std::fs::metadata(path).is_ok_and(|meta| is(&meta.file_type()));
    if holds { Ok(()) } else { Err(HostPathError::WrongType { path: path.to_owned(), wanted }) }
}

fn make_dir(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(DIR_MODE))
}

fn make_file(path: &Path) -> std::io::Result<()> {
    std::fs::OpenOptions::new().create(true).append(true).mode(FILE_MODE).open(path).map(drop)
}
