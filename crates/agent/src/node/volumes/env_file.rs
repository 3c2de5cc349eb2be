//! Reading files of variables from volumes: a container wrote them and what leads to them, and must
//! not make the agent read anything else.

use std::path::Path;

use runtime::below::Root;

/// Longer ones hold no variables that a program could be started with.
const BYTES_MAX: u64 = 1024 * 1024;

/// Why a file of variables cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot open the volume: {0}")]
    Volume(#[source] std::io::Error),
    #[error("cannot read the file: {0}")]
    File(#[source] std::io::Error),
    #[error("it is not UTF-8")]
    Encoding,
}

/// None when it is not there. Links are followed as if the volume were all there is.
pub fn read(volume: &Path, path: &str) -> Result<Option<String>, ReadError> {
    let is_missing = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let root = match Root::open(volume) {
        Err(error) if is_missing(&error) => return Ok(None),
        root => root.map_err(ReadError::Volume)?,
    };
    match root.find(Path::new(path)).and_then(|found| found.read(BYTES_MAX)) {
        Err(error) if is_missing(&error) => Ok(None),
        content => String::from_utf8(content.map_err(ReadError::File)?).map(Some).map_err(|_| ReadError::Encoding),
    }
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
        let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, volume.join("pipe"), fifo, mode, 0).unwrap();
        std::fs::File::create(volume.join("huge")).unwrap().set_len(1 << 40).unwrap();
        for name in ["pipe", "huge", "."] {
            assert!(matches!(read(&volume, name), Err(ReadError::File(_))), "{name}");
        }
    }
}
