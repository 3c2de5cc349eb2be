//! Making and unmaking a sandbox on the node: its control group, namespaces, files. All calls
//! block; the network is the caller's.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};

use super::namespace::{self, Wanted};
use super::paths::{Layout, SandboxDir, remove_own_dir};
use super::record::SandboxRecord;
use super::shim::stage;
use super::spec::Surroundings;
use super::{helper, pause, sysctl};
use crate::cgroup::Cgroup;
use containers::{DnsConfig, Mount, SandboxConfig};

/// As other runtimes have it.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";

/// What pods may do in a network of their own without privileges: listen on low ports and ping.
const NETWORK_SYSCTLS: [(&str, &str); 2] = [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// Namespaces, files and limits. The pause process's id if there is one.
pub fn make(layout: &Layout, record: &SandboxRecord, helper: &Path) -> io::Result<Option<i32>> {
    let (dir, config) = (&layout.sandbox(&record.id), &record.config);
    // First what may be wrong with the request.
    check_users(config)?;
    let wanted = wanted(config)?;
    let group = Cgroup::new(&record.cgroup);
    group.create()?;
    group.limit(&config.resources)?;
    fs::create_dir_all(&config.log_dir).map_err(|e| named(e, "make log directory", &config.log_dir))?;
    write_files(layout, record)?;
    namespace::pin(&dir.namespaces(), wanted, config.user_namespace, helper)?;
    if !config.host.ipc {
        make_shm(&dir.shm())?;
    }
    if config.share_process_namespace && !config.host.pid { start_pause(dir, record, helper).map(Some) } else { Ok(None) }
}

/// The files that its containers share and may write to, unless they are there: containers changed
/// them, or an agent made the sandbox that did not keep them here.
pub fn write_files(layout: &Layout, record: &SandboxRecord) -> io::Result<()> {
    let shared = layout.sandbox_shared(&record.id);
    fs::create_dir_all(&shared.0)?;
    let files = [(shared.resolv_conf(), resolv_conf(&record.config.dns)), (shared.hostname(), format!("{}\n", record.hostname))];
    files.iter().filter(|(path, _)| !path.exists()).try_for_each(|(path, text)| fs::write(path, text))
}

/// Users of its own in a namespace of the node's would have no rights there, and its containers'
/// root none over their network.
fn check_users(config: &SandboxConfig) -> io::Result<()> {
    let host = config.host;
    match config.user_namespace {
        Some(users) if host.network || host.pid || host.ipc => {
            Err(io::Error::other(format!("users from {} on cannot be combined with namespaces of the node", users.first)))
        }
        Some(users) if users.first == 0 || users.length == 0 || users.first.checked_add(users.length).is_none() => {
            Err(io::Error::other(format!("{} users from {} on are no range of users of a sandbox's own", users.length, users.first)))
        }
        _ => Ok(()),
    }
}

fn wanted(config: &SandboxConfig) -> io::Result<Wanted> {
    let network = !config.host.network;
    let defaults = NETWORK_SYSCTLS.iter().filter(|_| network).map(|(name, value)| (*name, *value));
    // What the caller wants is written last.
    let sysctls = defaults.chain(config.sysctls.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let sysctls = sysctls.map(|(name, value)| sysctl::file(name, config.host).map(|file| (file, value.to_owned())));
    let sysctls = sysctls.collect::<Result<_, _>>().map_err(io::Error::other)?;
    // The node's network has the node's name.
    Ok(Wanted { network, ipc: !config.host.ipc, hostname: network.then(|| config.hostname.clone()), sysctls })
}

fn make_shm(shm: &Path) -> io::Result<()> {
    fs::create_dir_all(shm)?;
    fs::set_permissions(shm, fs::Permissions::from_mode(0o1777))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), shm, Some("tmpfs"), flags, Some(SHM_OPTIONS))?;
    Ok(())
}

fn start_pause(dir: &SandboxDir, record: &SandboxRecord, program: &Path) -> io::Result<i32> {
    let mut command = Command::new(program);
    command.arg(helper::PAUSE).arg(&dir.0).env_clear().current_dir("/").stdin(Stdio::null());
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Ok(pid) = text.trim().parse::<i32>() else {
        return Err(io::Error::other(format!("pause process: {}", String::from_utf8_lossy(&output.stderr).trim())));
    };
    let kept = namespace::keep(Path::new("/proc").join(pid.to_string()).join("ns/pid"), &dir.namespace("pid"));
    let group = Cgroup::new(&record.cgroup).child("pause");
    kept.and_then(|()| group.create()).and_then(|()| group.add(pid)).inspect_err(|_| kill(pid))?;
    Ok(pid)
}

/// True: that process still is the one that was started.
pub fn pause_lives(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.strip_suffix(b"\0") == Some(pause::NAME.as_bytes()))
}

/// Ends the pause process, and with it everything in its namespace.
pub fn stop(record: &SandboxRecord) {
    if let Some(pid) = record.pause.filter(|pid| pause_lives(*pid)) {
        kill(pid);
    }
    if record.config.share_process_namespace {
        let group = Cgroup::new(&record.cgroup).child("pause");
        group.kill_all();
        let _ = group.remove();
    }
}

fn kill(pid: i32) {
    // SAFETY: numbers only.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Everything that [`make`] made but the control group, which several sandboxes of one pod share.
pub fn unmake(layout: &Layout, id: &str) -> io::Result<()> {
    let dir = layout.sandbox(id);
    for kind in ["net", "ipc", "uts", "pid", "user"] {
        namespace::release(&dir.namespace(kind));
    }
    namespace::release(&dir.shm());
    remove_own_dir(&layout.shared(), &layout.sandbox_shared(id).0)?;
    remove_own_dir(&layout.sandboxes(), &dir.0)
}

fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

/// One of its containers.
#[derive(Debug, Clone, Copy)]
pub struct Inhabitant<'a> {
    pub id: &'a str,
    /// The process namespace of that process instead of one of its own.
    pub target: Option<i32>,
    /// Its root is read-only, and then so are the files that it has from the sandbox, as with
    /// containerd.
    pub is_read_only: bool,
}

/// What its containers see.
pub fn surroundings(layout: &Layout, record: &SandboxRecord, container: Inhabitant<'_>) -> Surroundings {
    let config = &record.config;
    let (dir, shared) = (layout.sandbox(&record.id), layout.sandbox_shared(&record.id));
    let file = |host_path, path| Mount { read_only: container.is_read_only, ..bind(host_path, path) };
    let mut surroundings = Surroundings {
        hostname: record.hostname.clone(),
        cgroup: Cgroup::new(&record.cgroup).child(container.id).absolute(),
        defaults: vec![
            file(shared.resolv_conf(), "/etc/resolv.conf"),
            file(shared.hostname(), "/etc/hostname"),
            bind(if config.host.ipc { PathBuf::from("/dev/shm") } else { dir.shm() }, "/dev/shm"),
        ],
        ..Surroundings::default()
    };
    let own_users = config.user_namespace.is_some();
    let kept = |kind: &str| if own_users { stage::namespace(kind) } else { dir.namespace(kind) };
    let mut join = |kind, path: Option<PathBuf>| surroundings.namespaces.insert(kind, path);
    if own_users {
        join("user", Some(kept("user")));
    }
    if !config.host.network {
        join("network", Some(kept("net")));
        join("uts", Some(kept("uts")));
    }
    if !config.host.ipc {
        join("ipc", Some(kept("ipc")));
    }
    match container.target {
        Some(pid) => drop(join("pid", Some(Path::new("/proc").join(pid.to_string()).join("ns/pid")))),
        None if config.host.pid => {}
        None if config.share_process_namespace => drop(join("pid", Some(kept("pid")))),
        None => drop(join("pid", None)),
    }
    surroundings
}

fn bind(host_path: PathBuf, container_path: &str) -> Mount {
    Mount {
        host_path,
        container_path: PathBuf::from(container_path),
        read_only: false,
        recursive_read_only: false,
        image: None,
        propagation: containers::Propagation::Private,
    }
}

fn named(error: io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_leaves_out_what_is_empty() {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let dns = DnsConfig { servers: own(&["10.0.0.10"]), searches: own(&["a.local", "local"]), options: own(&["ndots:5"]) };
        assert_eq!(resolv_conf(&dns), "search a.local local\nnameserver 10.0.0.10\noptions ndots:5\n");
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }
}
