//! Paths below a root, on `pathrs`: whatever links a container or an image laid, and whenever it
//! lays them, nothing outside of the root is found, opened or made.
//!
//! [`Root`] resolves paths as if the root were `/`, in one system call where the kernel has it
//! (`openat2`), else step by step with checks. Links of the kernel (`/proc/PID/cwd`) are refused.
//! What is found is a place ([`Found`]); only then it is decided whether to open it, since opening
//! waits at a pipe and acts on a device.
//!
//! Three places resolve paths themselves, because `pathrs` cannot:
//!
//! - `trees` must not cross a mount (`RESOLVE_NO_XDEV`), which no flag of `pathrs` asks for.
//! - `images::unpack::rooted` makes what a dangling link leads to, as archives of images need it
//!   (`/var/run`), counts each step against limits, and has to know the path without links.
//! - `agent::node::volumes::sub_path` refuses a link out of the volume, where `pathrs` would follow
//!   it inside: it asks the node where the path leads, and opens that here, through no link.

use std::fs::{File, Metadata, Permissions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use pathrs::error::{Error as PathError, ErrorKind};
use pathrs::flags::{OpenFlags, ResolverFlags};
use pathrs::{HandleRef, RootRef};
use rustix::fs::{Mode, OFlags};

const PLACE: OpenFlags = OpenFlags::O_PATH.union(OpenFlags::O_CLOEXEC);
const PLACE_OF_DIR: OpenFlags = PLACE.union(OpenFlags::O_DIRECTORY);

/// A directory that stands for `/`.
#[derive(Debug)]
pub struct Root(pathrs::Root);

impl Root {
    /// Links to the directory itself are followed: they are the node's. (`pathrs` would refuse the
    /// last one.)
    pub fn open(dir: &Path) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Root(pathrs::Root::from_fd(rustix::fs::open(dir, flags, Mode::empty())?)))
    }

    /// From now on links are not followed but refused (`ELOOP`).
    pub fn without_links(self) -> Root {
        Root(self.0.with_resolver_flags(ResolverFlags::NO_SYMLINKS))
    }

    pub fn find(&self, path: &Path) -> io::Result<Found> {
        self.open_place(path, PLACE).map(Found)
    }

    /// Makes the directories of the path that are missing; they belong to `owner`, or to the
    /// calling process's user.
    pub fn make_dirs(&self, path: &Path, mode: u32, owner: Option<u32>) -> io::Result<()> {
        let mut done = PathBuf::from("/");
        for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
            done.push(part);
            match self.open_place(&done, PLACE_OF_DIR) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let made = self.0.mkdir_all(&done, &Permissions::from_mode(mode)).map_err(plain)?;
                    if owner.is_some() {
                        std::os::unix::fs::fchown(made, owner, owner)?;
                    }
                }
                found => drop(found?),
            }
        }
        Ok(())
    }

    fn open_place(&self, path: &Path, flags: OpenFlags) -> io::Result<File> {
        self.0.open_subpath(or_itself(path), flags).map_err(plain)
    }
}

/// What is at a path, not yet opened.
#[derive(Debug)]
pub struct Found(File);

impl Found {
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }

    /// Opens what was found, whatever has taken its name since. The caller knows that it is a file
    /// or a directory.
    pub fn open(&self) -> io::Result<File> {
        HandleRef::from_fd(self.0.as_fd()).reopen(OpenFlags::O_RDONLY).map_err(plain)
    }

    /// The content of a file that is no longer than that. Nothing else is opened.
    pub fn read(&self, bytes_max: u64) -> io::Result<Vec<u8>> {
        let metadata = self.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("is not a file"));
        }
        if metadata.len() > bytes_max {
            return Err(io::Error::other(format!("has {} bytes; at most {bytes_max} are read", metadata.len())));
        }
        let mut content = Vec::new();
        // It may grow meanwhile.
        self.open()?.take(bytes_max).read_to_end(&mut content)?;
        Ok(content)
    }

    /// A name for calls that take only names, as long as this value lives.
    pub fn name(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

impl AsFd for Found {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What is at the path on the node, if that lies in the folder. Links may lead anywhere on the way;
/// the place at their end is opened below the folder, through no link: one that is laid meanwhile
/// is refused.
pub fn find_real(folder: &Path, path: &Path) -> io::Result<Found> {
    let folder = folder.canonicalize()?;
    let real = folder.join(path).canonicalize()?;
    let below = real.strip_prefix(&folder).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
    Root::open(&folder)?.without_links().find(below)
}

/// Opens a directory below another one through no link. An empty path is the directory itself.
pub fn open_dir(parent: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let root = RootRef::from_fd(parent.as_fd()).with_resolver_flags(ResolverFlags::NO_SYMLINKS);
    let flags = OpenFlags::from_bits_retain(flags.bits().into()) | OpenFlags::O_DIRECTORY | OpenFlags::O_CLOEXEC;
    root.open_subpath(or_itself(path), flags).map(OwnedFd::from).map_err(plain)
}

fn or_itself(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// The kernel's own error where there is one: callers tell by it what is the matter.
fn plain(error: PathError) -> io::Error {
    match error.kind() {
        ErrorKind::OsError(Some(code)) => io::Error::from_raw_os_error(code),
        _ => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests;
