//! Sysctls of a sandbox: only those of the sandbox's own namespaces are written, whatever the
//! caller decided. Any other is the machine's.

use std::path::{Path, PathBuf};

use containers::HostNamespaces;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("sysctl {0:?} is not in a separate kernel namespace")]
    NotNamespaced(String),
    #[error("sysctl {0:?} is not allowed: the sandbox shares that namespace with the node")]
    Shared(String),
    #[error("sysctl {0:?} is malformed")]
    Malformed(String),
}

/// The file of a sysctl below /proc/sys. Between the parts of a name are dots, and then slashes in
/// the parts stand for dots; or the other way round.
pub fn file(name: &str, host: HostNamespaces) -> Result<PathBuf, Error> {
    let uses_slashes = name.find(['.', '/']).is_some_and(|at| name[at..].starts_with('/'));
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path: String = if uses_slashes { name.to_owned() } else { name.chars().map(swap).collect() };
    // Parts that lead elsewhere, and bytes that end a path early.
    if path.contains('\0') || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Error::Malformed(name.to_owned()));
    }
    let is_ipc = path == "kernel/sem" || ["kernel/shm", "kernel/msg", "fs/mqueue/"].iter().any(|prefix| path.starts_with(prefix));
    let shared = match path.starts_with("net/") {
        true => host.network,
        false if is_ipc => host.ipc,
        false => return Err(Error::NotNamespaced(name.to_owned())),
    };
    if shared { Err(Error::Shared(name.to_owned())) } else { Ok(Path::new("/proc/sys").join(path)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_own_namespaces() {
        let own = HostNamespaces::default();
        let show = |name: &str, host| match file(name, host) {
            Ok(path) => path.display().to_string(),
            Err(error) => error.to_string(),
        };
        for name in ["net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"] {
            assert_eq!(show(name, own), "/proc/sys/net/ipv4/conf/eth0.1/forwarding");
        }
        for name in ["kernel.sem", "kernel.shmmax", "kernel.msgmax", "fs.mqueue.msg_max"] {
            assert!(file(name, own).is_ok(), "{name}");
            assert_eq!(file(name, HostNamespaces { ipc: true, ..own }), Err(Error::Shared(name.to_owned())));
        }
        assert!(file("net.core.somaxconn", HostNamespaces { network: true, ..own }).is_err());
        for name in ["kernel.core_pattern", "kernel.hostname", "vm.stat_interval", "fs.file-max", "netx.y", "sem"] {
            assert_eq!(file(name, own), Err(Error::NotNamespaced(name.to_owned())));
        }
        for name in ["", ".", "net", "net.", "net/../kernel/core_pattern", "net.//.kernel.core_pattern", "/kernel", "net.a\0b", "net/./x"] {
            assert!(file(name, own).is_err(), "{name:?}");
        }
    }
}
