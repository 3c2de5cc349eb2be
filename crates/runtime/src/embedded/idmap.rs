//! Mounts that show files as other users': what is root's on the disk is root's in a container with
//! users of its own.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// From linux/mount.h.
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// A copy of the mounts at `path` and below that no process sees yet.
pub fn clone(path: &Path) -> io::Result<OwnedFd> {
    let name = c_path(path)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as libc::c_uint;
    // SAFETY: the name is a C string that lives over the call; the rest are numbers.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// From now on these mounts do not follow those that they were copied from.
pub fn make_private(tree: &OwnedFd) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    set_attributes(tree, libc::AT_EMPTY_PATH | libc::AT_RECURSIVE, &attributes)
}

fn set_attributes(tree: &OwnedFd, flags: libc::c_int, attributes: &libc::mount_attr) -> io::Result<()> {
    let empty = c"";
    let size = size_of_val(attributes);
    // SAFETY: name and attributes live over the call, and the size is that of the attributes.
    let done = unsafe { libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), empty.as_ptr(), flags, attributes, size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Shows the files of the topmost mount as those of `users`. What is mounted below keeps its
/// owners, whom the container knows as nobody.
pub fn map(tree: &OwnedFd, users: &File, path: &Path) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd: users.as_raw_fd() as u64 };
    let Err(error) = set_attributes(tree, libc::AT_EMPTY_PATH, &attributes) else { return Ok(()) };
    let hint = match error.raw_os_error() {
        Some(libc::EINVAL) => " (maybe the filesystem used doesn't support idmap mounts on this kernel?)",
        _ => "",
    };
    Err(io::Error::other(format!("failed to set MOUNT_ATTR_IDMAP on {}: {}{hint}", path.display(), crate::words::plain(&error))))
}

/// Puts such a copy at `place`.
pub fn attach(tree: &OwnedFd, place: &Path) -> io::Result<()> {
    let name = c_path(place)?;
    let empty = c"";
    // SAFETY: both names are C strings that live over the call; the rest are numbers.
    let done = unsafe {
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), empty.as_ptr(), libc::AT_FDCWD, name.as_ptr(), libc::MOVE_MOUNT_F_EMPTY_PATH)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
