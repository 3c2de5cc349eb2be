//! Reading files of variables from volumes: a container wrote them and what leads to them, and must
//! not make the agent read anything else.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Longer ones hold no variables that a program could be started with.
const BYTES_MAX: u64 = 1024 * 1024;

/// Why a file of variables cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot open the volume: {0}")]
    Volume(#[source] Errno),
    #[error("cannot open the file: {0}")]
    Open(#[source] std::io::Error),
    #[error("it is no regular file")]
    Irregular,
    #[error("it has {0} bytes, more than {BYTES_MAX}")]
    Long(u64),
    #[error("cannot read the file: {0}")]
    Read(#[source] std::io::Error),
}

/// None when it is not there. Links are followed as if the volume were all there is.
pub fn read(volume: &Path, path: &str) -> Result<Option<String>, ReadError> {
    match open(volume, path) {
        Err(ReadError::Volume(Errno::NOENT)) => Ok(None),
        Err(ReadError::Open(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        found => Ok(Some(read_whole(&found?)?)),
    }
}

/// The place of a file in a volume, before anything of it is touched.
fn open(volume: &Path, path: &str) -> Result<File, ReadError> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(volume, folder, Mode::empty()).map_err(ReadError::Volume)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::openat2(&root, path.trim_start_matches('/'), flags, Mode::empty(), resolve);
    Ok(File::from(found.map_err(|error| ReadError::Open(error.into()))?))
}

fn read_whole(found: &File) -> Result<String, ReadError> {
    let metadata = found.metadata().map_err(ReadError::Open)?;
    // A pipe would wait, a device act.
    if !metadata.is_file() {
        return Err(ReadError::Irregular);
    }
    if metadata.len() > BYTES_MAX {
        return Err(ReadError::Long(metadata.len()));
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(ReadError::Open)?;
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text).map_err(ReadError::Read)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_of_the_volume_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(dir.path().join("secret"), "S=1").unwrap();
        std::fs::write(volume.join("vars"), "A=1").unwrap();
        assert_eq!(read(&volume, "vars").unwrap(), Some("A=1".to_owned()));
        assert_eq!(read(&volume, "none").unwrap(), None);
        assert_eq!(read(&dir.path().join("none"), "vars").unwrap(), None);
        let secret = dir.path().join("secret");
        for target in ["../secret", secret.to_str().unwrap(), "/etc/passwd", "/proc/self/environ"] {
            std::os::unix::fs::symlink(target, volume.join("link")).unwrap();
            assert!(!matches!(read(&volume, "link"), Ok(Some(_))), "{target}");
            std::fs::remove_file(volume.join("link")).unwrap();
        }
        assert!(!matches!(read(&volume, "../secret"), Ok(Some(_))));
        rustix::fs::mknodat(rustix::fs::CWD, volume.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        File::create(volume.join("huge")).unwrap().set_len(1 << 40).unwrap();
        for name in ["pipe", "."] {
            assert!(matches!(read(&volume, name), Err(ReadError::Irregular)), "{name}");
        }
        assert!(matches!(read(&volume, "huge"), Err(ReadError::Long(_))));
    }
}
