//! Namespaces without processes: made and entered by threads that live for one task, kept by bind
//! mounts.
//!
//! A thread that has entered another namespace is never given back: it ends. Nothing is forked, so
//! this is safe in a threaded program.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::words::plain;
use containers::UserNamespace;

/// A port of the own loopback answers or refuses at once.
const CONNECT_SECONDS_MAX: u64 = 5;

/// Which of these to make.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub network: bool,
    pub ipc: bool,
    pub hostname: Option<String>,
    /// Files below /proc/sys and what to write there, see [`super::sysctl`].
    pub sysctls: Vec<(PathBuf, String)>,
}

/// Runs `task` on a thread of its own that may change its namespaces.
fn apart<T: Send + 'static>(task: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("namespace".into()).spawn(task)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("a namespace thread panicked")))
}

/// Makes the namespaces and keeps them in `dir/{net,ipc,uts}`; of users of their own if there are
/// any, which are kept in `dir/user`.
pub fn pin(dir: &Path, wanted: Wanted, users: Option<UserNamespace>, helper: &Path) -> io::Result<()> {
    match users {
        None => make(dir, wanted),
        Some(users) => super::users::pin(dir, users, helper).and_then(|()| set_up_kept(dir, wanted)),
    }
}

fn make(dir: &Path, wanted: Wanted) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let dir = dir.to_owned();
    apart(move || {
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWNET, wanted.network);
        flags.set(CloneFlags::CLONE_NEWIPC, wanted.ipc);
        flags.set(CloneFlags::CLONE_NEWUTS, wanted.hostname.is_some());
        unshare(flags)?;
        set_up(&wanted)?;
        for (kind, made) in [("net", wanted.network), ("ipc", wanted.ipc), ("uts", wanted.hostname.is_some())] {
            if made {
                keep(Path::new("/proc/thread-self/ns").join(kind), &dir.join(kind))?;
            }
        }
        Ok(())
    })
}

/// What a namespace is like that was just entered.
fn set_up(wanted: &Wanted) -> io::Result<()> {
    if let Some(name) = &wanted.hostname {
        nix::unistd::sethostname(name)?;
    }
    if wanted.network {
        raise_loopback()?;
    }
    wanted.sysctls.iter().try_for_each(|(file, value)| write_sysctl(file, value))
}

/// With the node's users, who may do in all namespaces what their own users may do.
fn set_up_kept(dir: &Path, wanted: Wanted) -> io::Result<()> {
    let dir = dir.to_owned();
    apart(move || {
        for (kind, flag) in [("net", CloneFlags::CLONE_NEWNET), ("ipc", CloneFlags::CLONE_NEWIPC), ("uts", CloneFlags::CLONE_NEWUTS)] {
            setns(File::open(dir.join(kind))?, flag)?;
        }
        set_up(&wanted)
    })
}

/// Binds a namespace to a file: it lives until [`release`].
pub fn keep(namespace: PathBuf, file: &Path) -> io::Result<()> {
    File::create(file)?;
    mount(Some(&namespace), file, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Also of what was never kept.
pub fn release(file: &Path) {
    let _ = umount2(file, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
}

fn write_sysctl(file: &Path, value: &str) -> io::Result<()> {
    fs::write(file, value).map_err(|e| io::Error::new(e.kind(), format!("set sysctl {} to {value:?}: {}", file.display(), plain(&e))))
}

fn raise_loopback() -> io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use std::os::fd::AsRawFd;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: ifreq is plain data; all zero is a valid value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives over the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs `task` in that network namespace, or the own one when None.
fn in_network<T: Send + 'static>(namespace: Option<PathBuf>, task: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    apart(move || {
        if let Some(path) = namespace {
            setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
        }
        task()
    })
}

/// To a port of the namespace's loopback interface.
pub fn connect(namespace: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    in_network(namespace, move || {
        let wait = Duration::from_secs(CONNECT_SECONDS_MAX);
        let to = |ip: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, port), wait);
        to(Ipv4Addr::LOCALHOST.into()).or_else(|first| to(Ipv6Addr::LOCALHOST.into()).map_err(|_| first))
    })
}

/// A namespace's interfaces as the kernel lists them.
pub fn interfaces(namespace: PathBuf) -> io::Result<String> {
    in_network(Some(namespace), || fs::read_to_string("/proc/thread-self/net/dev"))
}
