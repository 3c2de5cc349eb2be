//! Where the embedded runtime keeps what: one type that knows all names, so that no other file
//! joins paths by hand.
//!
//! ```text
//! STATE/helper                     the program itself, bound read-only
//! STATE/sandboxes/ID/sandbox.json  what the sandbox is
//! STATE/sandboxes/ID/ns/{net,ipc,uts,pid}, shm/
//! STATE/containers/ID/container.json, bundle/, exec-*.json, shim.{lock,pid,sock}, started.json, exit.json
//! ROOT/containers/ID/{upper,work,volumes}
//! ROOT/sandboxes/ID/{resolv.conf,hostname}
//! ```
//!
//! STATE is lost when the node restarts and nothing runs any more, and is kept in memory: nothing
//! that containers can write to is in it. ROOT is neither.

use std::path::{Path, PathBuf};

use crate::trees;

#[derive(Debug, Clone)]
pub struct Layout {
    pub state: PathBuf,
    pub root: PathBuf,
}

impl Layout {
    pub fn helper(&self) -> PathBuf {
        self.state.join("helper")
    }

    pub fn sandboxes(&self) -> PathBuf {
        self.state.join("sandboxes")
    }

    pub fn sandbox(&self, id: &str) -> SandboxDir {
        SandboxDir(self.sandboxes().join(id))
    }

    pub fn containers(&self) -> PathBuf {
        self.state.join("containers")
    }

    /// The files of sandboxes that their containers write to.
    pub fn shared(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    pub fn sandbox_shared(&self, id: &str) -> SharedDir {
        SharedDir(self.shared().join(id))
    }

    pub fn container(&self, id: &str) -> ContainerDir {
        ContainerDir(self.containers().join(id))
    }

    /// All that containers write outside of memory.
    pub fn writable(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub fn container_writable(&self, id: &str) -> PathBuf {
        self.writable().join(id)
    }
}

/// The directory of one sandbox.
#[derive(Debug, Clone)]
pub struct SandboxDir(pub PathBuf);

impl SandboxDir {
    pub fn record(&self) -> PathBuf {
        self.0.join("sandbox.json")
    }

    pub fn namespaces(&self) -> PathBuf {
        self.0.join("ns")
    }

    /// `kind` is the name that /proc/PID/ns uses.
    pub fn namespace(&self, kind: &str) -> PathBuf {
        self.namespaces().join(kind)
    }

    pub fn shm(&self) -> PathBuf {
        self.0.join("shm")
    }
}

/// What the containers of one sandbox write to together, on the disk.
#[derive(Debug, Clone)]
pub struct SharedDir(pub PathBuf);

impl SharedDir {
    pub fn resolv_conf(&self) -> PathBuf {
        self.0.join("resolv.conf")
    }

    pub fn hostname(&self) -> PathBuf {
        self.0.join("hostname")
    }
}

/// The directory of one container.
#[derive(Debug, Clone)]
pub struct ContainerDir(pub PathBuf);

impl ContainerDir {
    pub fn record(&self) -> PathBuf {
        self.0.join("container.json")
    }

    pub fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }

    pub fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    pub fn spec(&self) -> PathBuf {
        self.bundle().join("config.json")
    }

    /// libcontainer's own.
    pub fn library_state(&self) -> PathBuf {
        self.0.join(LIBRARY_STATE)
    }

    /// Locked for as long as the shim lives.
    pub fn lock(&self) -> PathBuf {
        self.0.join("shim.lock")
    }

    /// There once a shim has begun: no other may ever begin.
    pub fn begun(&self) -> PathBuf {
        self.0.join("shim.pid")
    }

    pub fn started(&self) -> PathBuf {
        self.0.join("started.json")
    }

    pub fn exit(&self) -> PathBuf {
        self.0.join("exit.json")
    }
}

/// The name of libcontainer's own folder in a container's directory.
pub const LIBRARY_STATE: &str = "state";

/// The control socket's name in a container's directory.
pub const SOCKET: &str = "shim.sock";

/// Ids are made here; anything else in these directories belongs to another program and is left
/// alone.
pub fn is_id(name: &str) -> bool {
    name.len() == ID_LENGTH && name.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
}

/// As many hex digits as other runtimes use, for tools that know container ids by their shape.
pub const ID_LENGTH: usize = 64;

/// Removes a directory that this runtime made, after what is mounted in it: all that is the
/// runtime's, or came from a container that has ended. Refuses one that is not below `parent` or
/// has no id for a name.
pub fn remove_own_dir(parent: &Path, dir: &Path) -> std::io::Result<()> {
    let own = dir.parent() == Some(parent) && dir.file_name().and_then(|n| n.to_str()).is_some_and(is_id);
    if !own {
        return Err(std::io::Error::other(format!("{} is not a directory of the runtime", dir.display())));
    }
    Ok(trees::detach_and_remove(parent, dir.file_name().unwrap_or_default())?)
}
