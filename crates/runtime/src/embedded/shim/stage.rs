//! What the library could not mount itself is laid out before it begins: image layers and volumes
//! with the owners that a container with users of its own knows, where root of these users can
//! reach them (only the node's root may enter the node's folders); images as volumes; and volumes
//! that must not follow what the node mounts later.
//!
//! Everything hangs below a file system in memory that only the shim's mount namespace has: nothing
//! is left when it ends.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::super::idmap;
use super::super::record::{Launch, Source};
use crate::below::Root;

/// The same for all containers: each shim sees its own. On the node it holds nothing.
pub const STAGE: &str = "/run/everynode-stage";

pub fn rootfs() -> PathBuf {
    Path::new(STAGE).join("rootfs")
}

/// Where the container's nth mount from outside comes from.
pub fn source(n: usize) -> PathBuf {
    Path::new(STAGE).join("m").join(n.to_string())
}

/// Of the root filesystem of a container with users of its own.
pub fn layer(n: usize) -> PathBuf {
    Path::new(STAGE).join("l").join(n.to_string())
}

/// Of a namespace that the sandbox keeps.
pub fn namespace(kind: &str) -> PathBuf {
    Path::new(STAGE).join("ns").join(kind)
}

/// Needs a mount namespace of the caller's own. Leaves the caller in another folder.
pub fn set(launch: &Launch) -> io::Result<()> {
    let users = launch.users.as_ref().map(|users| File::open(users.namespaces.join("user"))).transpose()?;
    let copy = |path: &PathBuf, private| Copy::of(path, users.as_ref(), private);
    // All copies are taken before the stage hides what may lie under it.
    let layers: Vec<Copy> = match &users {
        Some(_) => launch.layers.iter().map(|layer| copy(layer, true)).collect::<io::Result<_>>()?,
        None => Vec::new(),
    };
    let mut mounts = Vec::new();
    for staged in &launch.staged {
        let copies = match &staged.source {
            Source::Node(path) => vec![copy(path, staged.private)?],
            Source::Image(layers, _) => layers.iter().map(|layer| copy(layer, true)).collect::<io::Result<_>>()?,
        };
        mounts.push((staged, copies));
    }
    let namespaces = launch.users.as_ref().map(|users| idmap::clone(&users.namespaces)).transpose()?;
    fs::create_dir_all(STAGE)?;
    mount(Some("tmpfs"), STAGE, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))?;
    for dir in ["rootfs", "l", "m", "ns", "i"] {
        fs::create_dir(Path::new(STAGE).join(dir))?;
    }
    if let Some(namespaces) = namespaces {
        idmap::attach(&namespaces, &Path::new(STAGE).join("ns"))?;
    }
    layers.iter().enumerate().try_for_each(|(n, copy)| copy.put(&layer(n)))?;
    for (staged, copies) in mounts {
        match &staged.source {
            Source::Node(_) => copies.iter().try_for_each(|copy| copy.put(&source(staged.number)))?,
            Source::Image(_, part) => put_image(&copies, part.as_deref(), staged.number)?,
        }
    }
    Ok(())
}

/// A copy of a mount that no process sees yet.
struct Copy {
    tree: OwnedFd,
    is_dir: bool,
}

impl Copy {
    fn of(path: &Path, users: Option<&File>, private: bool) -> io::Result<Copy> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {}", path.display(), crate::words::plain(&e)));
        let is_dir = fs::metadata(path).map_err(named)?.is_dir();
        let tree = idmap::clone(path).map_err(named)?;
        if private {
            idmap::make_private(&tree).map_err(named)?;
        }
        if let Some(users) = users {
            idmap::map(&tree, users, path)?;
        }
        Ok(Copy { tree, is_dir })
    }

    fn put(&self, place: &Path) -> io::Result<()> {
        if self.is_dir {
            fs::create_dir(place)?
        } else {
            drop(File::create(place)?)
        }
        idmap::attach(&self.tree, place)
    }
}

/// Layers over each other, with an empty one so that there are always two.
fn put_image(layers: &[Copy], part: Option<&Path>, number: usize) -> io::Result<()> {
    let dir = Path::new(STAGE).join("i").join(number.to_string());
    let whole = dir.join("whole");
    for made in [dir.clone(), dir.join("e"), whole.clone()] {
        fs::create_dir(made)?;
    }
    layers.iter().enumerate().try_for_each(|(n, copy)| copy.put(&dir.join(n.to_string())))?;
    // Mount options fit in a page, many whole paths do not.
    std::env::set_current_dir(&dir)?;
    let lower: Vec<String> = (0..layers.len()).map(|n| n.to_string()).chain(["e".to_owned()]).collect();
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = format!("lowerdir={}", lower.join(":"));
    mount(Some("overlay"), &whole, Some("overlay"), flags, Some(options.as_str()))?;
    let found = Root::open(&whole)?.find(part.unwrap_or(Path::new("/")))?;
    Copy::of(&found.name(), None, true)?.put(&source(number))
}
