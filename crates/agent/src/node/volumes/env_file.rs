//! Reading files of variables from volumes: a container wrote them and what leads to them, and must
//! not make the agent read anything else.

use std::path::Path;

use runtime::below::Root;

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
    let content = Root::open(volume)?.find(Path::new(path))?.read(BYTES_MAX)?;
    String::from_utf8(content).map_err(|_| std::io::Error::other("is not UTF-8"))
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
        let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, volume.join("pipe"), fifo, mode, 0).unwrap();
        std::fs::File::create(volume.join("huge")).unwrap().set_len(1 << 40).unwrap();
        for name in ["pipe", "huge", "."] {
            assert!(read(&volume, name).unwrap().is_err(), "{name}");
        }
    }
}
