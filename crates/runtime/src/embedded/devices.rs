//! The device nodes of a container beside the usual ones: those it asks for, or for privileged ones
//! all that the node has.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use containers::ContainerConfig;

/// A node with more has a driver that went mad.
const DEVICES_MAX: usize = 4096;

/// Not devices of the node but of the terminal, file system or container that shows them.
const NOT_PASSED_ON: [&str; 8] = ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("device {0:?} does not exist")]
    Missing(PathBuf),
    #[error("{0:?} is not a device")]
    NotADevice(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    path: PathBuf,
    kind: char,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    permissions: String,
}

pub fn for_container(config: &ContainerConfig) -> Result<Vec<Node>, Error> {
    let mut nodes = Vec::new();
    if config.security.privileged {
        walk(Path::new("/dev"), &mut nodes);
    }
    for device in &config.devices {
        let mut node = node(&device.host_path, &device.container_path)?;
        device.permissions.clone_into(&mut node.permissions);
        nodes.retain(|n| n.path != node.path);
        nodes.push(node);
    }
    Ok(nodes)
}

fn walk(dir: &Path, nodes: &mut Vec<Node>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|e| !NOT_PASSED_ON.iter().any(|n| e.file_name() == *n)) {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, nodes),
            Ok(kind) if nodes.len() < DEVICES_MAX && (kind.is_char_device() || kind.is_block_device()) => nodes.extend(node(&path, &path)),
            _ => {}
        }
    }
}

fn node(from: &Path, to: &Path) -> Result<Node, Error> {
    let metadata = fs::metadata(from).map_err(|_| Error::Missing(from.to_owned()))?;
    let kind = match metadata.file_type() {
        t if t.is_char_device() => 'c',
        t if t.is_block_device() => 'b',
        _ => return Err(Error::NotADevice(from.to_owned())),
    };
    let number = metadata.rdev();
    Ok(Node {
        path: to.to_owned(),
        kind,
        major: libc::major(number),
        minor: libc::minor(number),
        mode: metadata.mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        permissions: "rwm".to_owned(),
    })
}

impl Node {
    pub fn to_json(&self) -> Value {
        json!({
            "path": self.path, "type": self.kind.to_string(), "major": self.major, "minor": self.minor,
            "fileMode": self.mode, "uid": self.uid, "gid": self.gid,
        })
    }

    /// For the container's control group.
    pub fn to_rule(&self) -> Value {
        json!({
            "allow": true, "type": self.kind.to_string(), "major": self.major, "minor": self.minor, "access": self.permissions,
        })
    }
}
