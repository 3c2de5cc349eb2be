//! subPath: a part of a volume. It may not lead out of the volume, through `..` or through links
//! that a container left there.
//!
//! What was checked could be replaced by a link before the runtime mounts it. So it is opened from
//! the volume's folder on without following any link, and what was opened, not its name, is bound
//! to a place of the agent's own, as kubelets do it (`volume-subpaths/VOLUME/CONTAINER/N` of the
//! pod's folder). The runtime mounts that place.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use runtime::below::{Found, Root};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::node::settings::make_closed_dir;

/// As kubelets make missing folders.
const DIR_MODE: u32 = 0o750;

/// Why a part of a volume cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: std::io::Error },
    #[error("{} must not be absolute or contain '..'", .0.display())]
    Outside(PathBuf),
    #[error("subpath {} is not within the volume path {}", sub.display(), volume.display())]
    LeadsOut { sub: PathBuf, volume: PathBuf },
}

fn failed(path: &Path, cause: impl Into<std::io::Error>) -> SubPathError {
    SubPathError::File { path: path.to_owned(), cause: cause.into() }
}

/// Binds the part `sub` of the volume to `place`, anew if something is bound there; folders that
/// are missing in the volume are made.
pub fn bind(volume: &Path, sub: &str, place: &Path) -> Result<(), SubPathError> {
    let part = open(volume, sub)?;
    unmount_all(place).map_err(|error| failed(place, error))?;
    make_place(place, &part).map_err(|error| failed(place, error))?;
    rustix::mount::mount_bind(part.name(), place).map_err(|error| failed(place, error))
}

fn open(volume: &Path, sub: &str) -> Result<Found, SubPathError> {
    let sub = Path::new(sub);
    if sub.is_absolute() || sub.components().any(|part| part == Component::ParentDir) {
        return Err(SubPathError::Outside(sub.to_owned()));
    }
    let root = volume.canonicalize().map_err(|error| failed(volume, error))?;
    let (there, missing) = resolve(&root, sub)?;
    let below = there.strip_prefix(&root).map_err(|_| SubPathError::LeadsOut { sub: sub.to_owned(), volume: volume.to_owned() })?;
    let volume = Root::open(&root).map_err(|error| failed(&root, error))?.without_links();
    let part: PathBuf = below.iter().chain(missing.iter().map(OsString::as_os_str)).collect();
    if !missing.is_empty() {
        volume.make_dirs(&part, DIR_MODE, None).map_err(|error| failed(&root.join(&part), error))?;
    }
    volume.find(&part).map_err(|error| failed(&root.join(&part), error))
}

/// The real place of that part of `sub` which is there, wherever it is, and the names of what is
/// not.
fn resolve(root: &Path, sub: &Path) -> Result<(PathBuf, Vec<OsString>), SubPathError> {
    let mut there = root.to_owned();
    let mut names = sub.components().filter(|part| *part != Component::CurDir).map(|part| part.as_os_str().to_owned());
    while let Some(name) = names.next() {
        let next = there.join(&name);
        there = match next.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((there, std::iter::once(name).chain(names).collect())),
            Err(error) => return Err(failed(&next, error)),
        };
    }
    Ok((there, Vec::new()))
}

/// A file for a file, a folder for a folder: only then can one be bound to the other.
fn make_place(place: &Path, part: impl AsFd) -> std::io::Result<()> {
    let is_dir = FileType::from_raw_mode(rustix::fs::statat(part, "", AtFlags::EMPTY_PATH)?.st_mode) == FileType::Directory;
    if let Some(parent) = place.parent() {
        make_closed_dir(parent)?;
    }
    remove_place(place)?;
    if is_dir { std::fs::create_dir(place) } else { std::fs::File::create_new(place).map(drop) }
}

/// Whatever lies over it.
fn unmount_all(place: &Path) -> std::io::Result<()> {
    loop {
        match rustix::mount::unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// An empty folder or a file, not more.
fn remove_place(place: &Path) -> std::io::Result<()> {
    let is_dir = match std::fs::symlink_metadata(place) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        meta => meta?.is_dir(),
    };
    absent_is_fine(if is_dir { std::fs::remove_dir(place) } else { std::fs::remove_file(place) })
}

fn absent_is_fine(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn path_of(opened: &Found) -> PathBuf {
        std::fs::read_link(opened.name()).unwrap()
    }

    fn volume() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().canonicalize().unwrap().join("volume");
        std::fs::create_dir_all(volume.join("a/b")).unwrap();
        std::fs::create_dir(dir.path().join("secret")).unwrap();
        (dir, volume)
    }

    #[test]
    fn parts_are_opened_and_missing_folders_made() {
        let (_dir, volume) = volume();
        std::fs::write(volume.join("a/file"), "").unwrap();
        symlink("a", volume.join("inside")).unwrap();
        symlink(volume.join("a"), volume.join("absolute")).unwrap();
        for (sub, place) in [(".", ""), ("a/./b", "a/b"), ("inside/file", "a/file"), ("absolute/b", "a/b"), ("new/deep", "new/deep")] {
            let opened = open(&volume, sub).unwrap();
            assert_eq!(path_of(&opened), volume.join(place).components().collect::<PathBuf>(), "{sub}");
        }
    }

    #[test]
    fn nothing_leads_out_of_the_volume() {
        let (dir, volume) = volume();
        symlink("../secret", volume.join("out")).unwrap();
        symlink("../nowhere", volume.join("dangling")).unwrap();
        symlink("..", volume.join("a/up")).unwrap();
        assert!(open(&volume, "a/up").is_ok(), "up to the volume itself is within it");
        for sub in ["../secret", "/etc", "a/../..", "out", "out/new", "a/up/out", "dangling", "dangling/new"] {
            assert!(open(&volume, sub).is_err(), "{sub}");
        }
        assert!(!dir.path().join("nowhere").exists() && !dir.path().join("secret/new").exists(), "nothing is made outside either");
    }

    /// A container that puts a link where a folder was, between the check and the opening.
    #[test]
    fn what_becomes_a_link_meanwhile_is_not_followed() {
        let (_dir, volume) = volume();
        let root = Root::open(&volume).unwrap().without_links();
        let (there, _) = resolve(&volume, Path::new("a/b")).unwrap();
        let below = there.strip_prefix(&volume).unwrap();
        assert!(root.find(below).is_ok());
        std::fs::remove_dir(volume.join("a/b")).unwrap();
        symlink("../../secret", volume.join("a/b")).unwrap();
        assert_eq!(root.find(below).unwrap_err().raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    }
}
