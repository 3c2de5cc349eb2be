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

/// None when it is not there. Links are followed as if the volume were all there is.
pub fn read(volume: &Path, path: &str) -> Option<Result<String, String>> {
    match try_read(volume, path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        read => Some(read.map_err(|error| error.to_string())),
    }
}

fn try_read(volume: &Path, path: &str) -> std::io::Result<String> {
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = File::from(rustix::fs::openat2(&root, path.trim_start_matches('/'), flags, Mode::empty(), resolve)?);
    let metadata = found.metadata()?;
    // A pipe would wait, a device act.
    if !metadata.is_file() || metadata.len() > BYTES_MAX {
        return Err(Errno::INVAL.into());
    }
    let mut text = String::new();
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?.take(BYTES_MAX).read_to_string(&mut text)?;
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
        assert_eq!(read(&volume, "vars"), Some(Ok("A=1".to_owned())));
        assert_eq!(read(&volume, "none"), None);
        let secret = dir.path().join("secret");
        for target in ["../secret", secret.to_str().unwrap(), "/etc/passwd", "/proc/self/environ"] {
            std::os::unix::fs::symlink(target, volume.join("link")).unwrap();
            assert!(read(&volume, "link").is_none_or(|read| read.is_err()), "{target}");
            std::fs::remove_file(volume.join("link")).unwrap();
        }
        assert!(read(&volume, "../secret").is_none_or(|read| read.is_err()));
        rustix::fs::mknodat(rustix::fs::CWD, volume.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        File::create(volume.join("huge")).unwrap().set_len(1 << 40).unwrap();
        for name in ["pipe", "huge", "."] {
            assert!(read(&volume, name).unwrap().is_err(), "{name}");
        }
    }
}
