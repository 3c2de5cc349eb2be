//! Network namespaces: opening them, and doing something inside one.
//!
//! A thread changes its namespace, never the process: other threads must not see it. Threads that
//! entered a namespace end there, so none comes back to a pool with the wrong network.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// The namespace of the calling thread.
pub fn current() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

pub fn of_process(pid: u32) -> io::Result<File> {
    File::open(format!("/proc/{pid}/ns/net"))
}

/// Runs `work` inside the namespace: on a thread of its own, unless the calling one is there
/// already, which needs no rights. What it opens there (sockets) stays in that namespace.
pub fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    if is_same(namespace, &current()?)? {
        return work();
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

const SYSCTLS: &str = "/proc/sys/net";
/// Where a container has them that may write them: its own /proc/sys is read-only.
const SYSCTLS_IN_CONTAINER: &str = "/host/proc/sys/net";

/// Sets a value below /proc/sys/net of the calling thread's namespace. A value that is there
/// already is not written: the files may be read-only in a container whose runtime has already set
/// them.
pub fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    if std::fs::read_to_string(Path::new(SYSCTLS).join(name))?.trim() == value {
        return Ok(());
    }
    let mounted = Path::new(SYSCTLS_IN_CONTAINER).join(name);
    let path = if mounted.exists() { mounted } else { Path::new(SYSCTLS).join(name) };
    std::fs::write(path, value)
}

/// What an interface does with IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// It neither sends nor takes any: a program at its other end could announce itself as a router
    /// (CVE-2020-10749).
    Off,
    /// It has it, but believes no router.
    Unrouted,
}

/// Closes an interface of the calling thread's namespace to what its neighbours say about routes.
/// To be called before it is up.
pub fn close_ipv6(interface: &str, how: Ipv6) -> io::Result<()> {
    let conf = Path::new("ipv6/conf").join(interface);
    let off = (how == Ipv6::Off).then_some(("disable_ipv6", "1"));
    for (name, value) in off.into_iter().chain([("accept_ra", "0"), ("accept_redirects", "0"), ("autoconf", "0")]) {
        match set_sysctl(&conf.join(name).to_string_lossy(), value) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}
