//! What a container with users of its own is made of, where root of these users can reach it and as theirs: image layers, volumes,
//! namespaces. The folders of the node in which they lie are closed to everybody but the node's root.
//!
//! Everything hangs below a file system in memory that only the shim's mount namespace has: nothing is left when it ends.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::super::idmap;
use super::super::record::OwnUsers;

/// The same for all containers: each shim sees its own. On the node it holds nothing.
pub const STAGE: &str = "/run/everynode-stage";

pub fn rootfs() -> PathBuf {
    Path::new(STAGE).join("rootfs")
}

/// Where the container's nth mount comes from.
pub fn source(n: usize) -> PathBuf {
    Path::new(STAGE).join("m").join(n.to_string())
}

pub fn layer(n: usize) -> PathBuf {
    Path::new(STAGE).join("l").join(n.to_string())
}

/// Of a namespace that the sandbox keeps.
pub fn namespace(kind: &str) -> PathBuf {
    Path::new(STAGE).join("ns").join(kind)
}

/// Needs a mount namespace of the caller's own.
pub fn set(users: &OwnUsers, layers: &[PathBuf]) -> io::Result<()> {
    let namespace = File::open(users.namespaces.join("user"))?;
    // All copies are taken before the stage hides what may lie under it.
    let layers = copies(layers, &namespace)?;
    let mounts = copies(&users.mounts, &namespace)?;
    let namespaces = idmap::clone(&users.namespaces)?;
    fs::create_dir_all(STAGE)?;
    mount(Some("tmpfs"), STAGE, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))?;
    for dir in ["rootfs", "l", "m", "ns"] {
        fs::create_dir(Path::new(STAGE).join(dir))?;
    }
    idmap::attach(&namespaces, &Path::new(STAGE).join("ns"))?;
    put(&layers, layer)?;
    put(&mounts, source)
}

struct Copy {
    tree: OwnedFd,
    is_dir: bool,
}

fn copies(paths: &[PathBuf], users: &File) -> io::Result<Vec<Copy>> {
    let copy = |path: &PathBuf| {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {}", path.display(), crate::words::plain(&e)));
        let is_dir = fs::metadata(path).map_err(named)?.is_dir();
        let tree = idmap::clone(path).map_err(named)?;
        idmap::map(&tree, users, path)?;
        Ok(Copy { tree, is_dir })
    };
    paths.iter().map(copy).collect()
}

fn put(copies: &[Copy], place: impl Fn(usize) -> PathBuf) -> io::Result<()> {
    for (n, copy) in copies.iter().enumerate() {
        let place = place(n);
        if copy.is_dir {
            fs::create_dir(&place)?
        } else {
            drop(File::create(&place)?)
        }
        idmap::attach(&copy.tree, &place)?;
    }
    Ok(())
}
