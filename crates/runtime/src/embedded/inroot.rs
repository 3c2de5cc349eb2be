//! Paths of a container resolved as the container would: symbolic links lead nowhere outside of its
//! root, however they were laid.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// /etc/passwd and its like; larger ones are an attack.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Opens `path` as if `root` were `/`.
fn open(root: &OwnedFd, path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: open_how is three integers; all zero is a valid value of it.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: path and how live over the call and the size is that of how.
    let fd = unsafe { libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &how, size_of_val(&how)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn open_root(root: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(root)?.into())
}

/// What is at `path` below `root`, to be mounted.
pub fn find(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    open(&open_root(root)?, path, libc::O_PATH)
}

/// Makes the directories of `path` below `root` that are missing; they belong to `owner`, or to the
/// calling process's user.
pub fn create_dir_all(root: &Path, path: &Path, owner: Option<u32>) -> io::Result<()> {
    let root = open_root(root)?;
    let mut done = PathBuf::from("/");
    let mut parent = open(&root, &done, libc::O_PATH | libc::O_DIRECTORY)?;
    for part in path.components().filter(|c| matches!(c, std::path::Component::Normal(_))) {
        done.push(part);
        parent = match open(&root, &done, libc::O_PATH | libc::O_DIRECTORY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let name = Path::new(part.as_os_str());
                nix::sys::stat::mkdirat(Some(parent.as_raw_fd()), name, nix::sys::stat::Mode::from_bits_truncate(0o755))?;
                let made = open(&root, &done, libc::O_PATH | libc::O_DIRECTORY)?;
                if owner.is_some() {
                    std::os::unix::fs::chown(format!("/proc/self/fd/{}", made.as_raw_fd()), owner, owner)?;
                }
                made
            }
            opened => opened?,
        };
    }
    Ok(())
}

/// The file's text as the stacked layers (topmost first) show it; None when no layer has it or an
/// upper one hides it.
pub fn read_from_layers(layers: &[PathBuf], path: &Path) -> io::Result<Option<String>> {
    for layer in layers {
        if is_whiteout(&layer.join(path)) || path.parent().is_some_and(|dir| is_whiteout(&layer.join(dir))) {
            return Ok(None);
        }
        let file = match open(&open_root(layer)?, path, libc::O_PATH) {
            Ok(file) => File::from(file),
            // A link may lead to another layer; few images do that to these files, and those get
            // the default.
            Err(_) if is_opaque(layer, path) => return Ok(None),
            Err(_) => continue,
        };
        return read(&file).map(Some);
    }
    Ok(None)
}

/// A pipe would wait and a device act when it is opened: only files are.
fn read(found: &File) -> io::Result<String> {
    let metadata = found.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("is not a file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("has {} bytes; at most {FILE_BYTES_MAX} are read", metadata.len())));
    }
    let mut text = Vec::new();
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
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
    fn links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink("/real", root.join("link")).unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        create_dir_all(&root, Path::new("/link/a/b"), None).unwrap();
        create_dir_all(&root, Path::new("/link/a/b"), None).unwrap();
        assert!(root.join("real/a/b").is_dir());
    }

    #[test]
    fn upper_layers_win() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = ["top", "bottom"].iter().map(|n| dir.path().join(n)).collect();
        for layer in &layers {
            std::fs::create_dir_all(layer.join("etc")).unwrap();
        }
        std::fs::write(layers[1].join("etc/passwd"), "low").unwrap();
        let read = || read_from_layers(&layers, Path::new("etc/passwd")).unwrap();
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
        let read = || read_from_layers(&layers, Path::new("etc/passwd")).map_err(|e| e.to_string());
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
        File::create(&passwd).unwrap().set_len(1 << 40).unwrap();
        assert!(read().unwrap_err().starts_with("has 1099511627776 bytes"));
    }
}
