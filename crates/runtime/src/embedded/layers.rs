//! Files of an image as its container would see them, read from its layers: links lead nowhere
//! outside of a layer, however they were laid.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::below::Root;

/// /etc/passwd and its like; larger ones are an attack.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The file's text as the stacked layers (topmost first) show it; None when no layer has it or an
/// upper one hides it.
pub fn read(layers: &[PathBuf], path: &Path) -> io::Result<Option<String>> {
    for layer in layers {
        if is_whiteout(&layer.join(path)) || path.parent().is_some_and(|dir| is_whiteout(&layer.join(dir))) {
            return Ok(None);
        }
        let found = match Root::open(layer)?.find(path) {
            Ok(found) => found,
            // A link may lead to another layer; few images do that to these files, and those get
            // the default.
            Err(_) if is_opaque(layer, path) => return Ok(None),
            Err(_) => continue,
        };
        return Ok(Some(String::from_utf8_lossy(&found.read(FILE_BYTES_MAX)?).into_owned()));
    }
    Ok(None)
}

/// Whether the layer's folder stands for itself: lower layers do not show through.
fn is_opaque(layer: &Path, path: &Path) -> bool {
    let mut value = [0u8; 2];
    let dir = path.parent().map(|dir| layer.join(dir));
    dir.is_some_and(|dir| rustix::fs::lgetxattr(&dir, "trusted.overlay.opaque", &mut value).is_ok_and(|length| value[..length] == *b"y"))
}

/// What overlayfs takes for "removed in this layer": a character device 0, 0.
fn is_whiteout(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    path.symlink_metadata().is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_layers_win() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = ["top", "bottom"].iter().map(|n| dir.path().join(n)).collect();
        for layer in &layers {
            std::fs::create_dir_all(layer.join("etc")).unwrap();
        }
        std::fs::write(layers[1].join("etc/passwd"), "low").unwrap();
        let read = || super::read(&layers, Path::new("etc/passwd")).unwrap();
        assert_eq!(read().as_deref(), Some("low"));
        std::fs::write(layers[0].join("etc/passwd"), "high").unwrap();
        assert_eq!(read().as_deref(), Some("high"));
    }

    #[test]
    fn only_files_of_a_bearable_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let layers = [dir.path().join("layer")];
        let passwd = layers[0].join("etc/passwd");
        std::fs::create_dir_all(&passwd).unwrap();
        let read = || super::read(&layers, Path::new("etc/passwd")).map_err(|e| e.to_string());
        assert_eq!(read(), Err("is not a file".to_owned()), "a folder");
        std::fs::remove_dir(&passwd).unwrap();
        nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(), Err("is not a file".to_owned()), "a pipe that nobody writes to");
        std::fs::remove_file(&passwd).unwrap();
        for target in ["/dev/zero", "passwd", "../../../../../../root/passwd"] {
            std::os::unix::fs::symlink(target, &passwd).unwrap();
            assert_eq!(read(), Ok(None), "a link to {target}, which the layer does not have");
            std::fs::remove_file(&passwd).unwrap();
        }
        // Holes make it as large as an attacker likes.
        std::fs::File::create(&passwd).unwrap().set_len(1 << 40).unwrap();
        assert!(read().unwrap_err().starts_with("has 1099511627776 bytes"));
    }
}
