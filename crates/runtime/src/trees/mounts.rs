//! What is mounted below a folder, and detaching it.
//!
//! The kernel's list of mounts is read again after each round: what a mount covered shows then, and
//! whether anything is left.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rustix::fs::OFlags;

use super::Error;
use crate::below;

/// Each round detaches everything that shows; more are needed only while another process mounts.
const ROUNDS_MAX: usize = 16;

/// Detaches everything at `below` in the folder, and deeper.
///
/// The outermost mounts go first: what is inside them goes with them, and no name is looked up
/// inside a file system whose server may hang.
pub fn detach(folder: &OwnedFd, path: &Path, below: &Path) -> Result<(), Error> {
    let real = std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).map_err(Error::Mounts)?;
    let top = real.join(below);
    for _ in 0..ROUNDS_MAX {
        let mounts = below_of(&top).map_err(Error::Mounts)?;
        if mounts.is_empty() {
            return Ok(());
        }
        for mount in mounts {
            let inside = mount.strip_prefix(&real).expect("it was found by that beginning");
            detach_one(folder, inside).map_err(|source| Error::Detach { path: mount.clone(), source })?;
        }
    }
    match below_of(&top).map_err(Error::Mounts)?.into_iter().next() {
        None => Ok(()),
        Some(mount) => Err(Error::StillMounted { folder: path.to_owned(), path: mount }),
    }
}

/// Through its parent, opened without following links: a container could have put one there since
/// the mounts were listed.
fn detach_one(folder: &OwnedFd, inside: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (inside.parent(), inside.file_name()) else { return Ok(()) };
    let parent = match below::open_dir(folder, parent, OFlags::PATH) {
        Ok(parent) => parent,
        // It lay inside a mount that is detached by now.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let target = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
    match umount2(&target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The mount points at that path and below it, the outermost first.
fn below_of(top: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = points(Path::new("/proc/thread-self/mountinfo"))?;
    found.retain(|path| path.starts_with(top));
    found.sort_by_key(|path| path.components().count());
    Ok(found)
}

/// All mount points of such a list, a point again for each mount that lies over another one there.
pub fn points(list: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in BufReader::new(File::open(list)?).split(b'\n') {
        if let Some(field) = line?.split(|&byte| byte == b' ').nth(4) {
            found.push(PathBuf::from(OsStr::from_bytes(&unescape(field))));
        }
    }
    Ok(found)
}

/// Spaces, tabs, line ends and backslashes are three octal digits in the list.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) => {
                text.push(code);
                rest = &after[3..];
            }
            None => {
                text.push(byte);
                rest = after;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn names_in_the_list_of_mounts_are_unescaped() {
        for (listed, name) in [("plain", "plain"), (r"a\040b", "a b"), (r"a\134040", r"a\040"), (r"end\", r"end\"), (r"x\9", r"x\9")] {
            assert_eq!(unescape(listed.as_bytes()), name.as_bytes(), "{listed}");
        }
    }
}
