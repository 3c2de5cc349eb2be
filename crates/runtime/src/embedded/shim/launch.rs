//! Making the container: mount namespace, root filesystem, working directory, streams, and the
//! library's part. Ends with the container's first process waiting for the word to start.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::Deserialize;
use serde_json::Value;

use super::super::causes::Causes;
use super::super::control::Told;
use super::super::executor::Program;
use super::super::paths::ContainerDir;
use super::super::record::{Launch, WorkingDirPlace};
use super::super::{console, device_filter, seccomp};
use super::propagation::SettleError;
use super::stage;
use super::streams::Streams;
use crate::below::Root;
use crate::cgroup::{self, Cgroup};
use crate::words::{Plain, Refused, refused};

const CONSOLE_SOCKET: &str = "console.sock";

const WORKING_DIR_MODE: u32 = 0o755;

pub struct Started {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub container: Container,
    pub streams: Streams,
    pub causes: Causes,
}

/// Why a container was not made or started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Each of its steps names what it is about.
    #[error(transparent)]
    Stage(Plain),
    #[error("specification")]
    Specification(#[source] serde_json::Error),
    #[error("specification: devices")]
    Devices(#[source] serde_json::Error),
    #[error(transparent)]
    Filter(#[from] seccomp::Error),
    #[error(transparent)]
    Propagation(#[from] SettleError),
    /// The container library, or the container's own first process.
    #[error(transparent)]
    Library(#[from] Told),
    #[error("the container has no process")]
    NoProcess,
}

pub fn launch(dir: &ContainerDir, launch: &Launch) -> Result<Started, StartError> {
    mount_rootfs(dir, launch)?;
    make_working_dir(dir, launch)?;
    let spec = read_spec(dir)?;
    // Made before the library does it: the container's view of its own groups is bound from these
    // directories.
    let group = Cgroup::new(&launch.cgroup);
    group.create().map_err(refused(format!("create cgroup {}", launch.cgroup)))?;
    if cgroup::is_v2() {
        limit_devices(&group, &spec)?;
    }
    let causes = Causes::new().map_err(refused("anonymous file"))?;
    causes.collect();
    let program = program(launch, causes.clone())?;
    let (container, streams) = create(dir, launch, program, &causes, owner(&spec).map(|uid| launch.node_id(uid)))?;
    let pid = container.pid().ok_or(StartError::NoProcess)?.as_raw();
    adjust_oom_score(pid, launch.oom_score_adj);
    let pidfd = open_pidfd(pid).map_err(refused(format!("open process {pid}")))?;
    Ok(Started { pid, pidfd, container, streams, causes })
}

pub fn program(launch: &Launch, causes: Causes) -> Result<Program, seccomp::Error> {
    let filters = match &launch.seccomp {
        Some(profile) => profile.compile(launch.capabilities)?,
        None => Vec::new(),
    };
    Ok(Program { causes, filters, capabilities: launch.capabilities, no_new_privileges: launch.no_new_privileges })
}

/// In a mount namespace of the shim's own, so that nothing is left to unmount when everything
/// crashes.
fn mount_rootfs(dir: &ContainerDir, launch: &Launch) -> Result<(), StartError> {
    if !launch.shared_mounts {
        unshare(CloneFlags::CLONE_NEWNS).map_err(refused("new mount namespace"))?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
            .map_err(refused("detach mount namespace"))?;
    }
    if launch.users.is_some() || !launch.staged.is_empty() {
        stage::set(launch).map_err(|e| StartError::Stage(e.into()))?;
        // The stage moved to other folders for a moment.
        std::env::set_current_dir(&dir.0).map_err(|e| StartError::Stage(e.into()))?;
    }
    let rootfs = if launch.users.is_some() { stage::rootfs() } else { dir.rootfs() };
    let lower = link_layers(dir, launch).map_err(refused("link image layers"))?;
    let (upper, work) = (launch.writable.join("upper"), launch.writable.join("work"));
    let options = format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display());
    let mounted = mount(Some("overlay"), &rootfs, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
    Ok(mounted.map_err(refused("mount root filesystem"))?)
}

/// Mount options fit in a page, the paths of many layers do not: short links stand in for them.
fn link_layers(dir: &ContainerDir, launch: &Launch) -> io::Result<String> {
    let links = dir.0.join("l");
    fs::create_dir_all(&links)?;
    let mut names = Vec::new();
    for (n, layer) in launch.layers.iter().enumerate() {
        let layer = if launch.users.is_some() { stage::layer(n) } else { layer.clone() };
        std::os::unix::fs::symlink(layer, links.join(n.to_string()))?;
        names.push(format!("l/{n}"));
    }
    if names.is_empty() {
        fs::create_dir_all(links.join("none"))?;
        names.push("l/none".to_owned());
    }
    Ok(names.join(":"))
}

fn make_working_dir(dir: &ContainerDir, launch: &Launch) -> Result<(), Refused> {
    let (made, path) = match &launch.working_dir_place {
        WorkingDirPlace::Nowhere => return Ok(()),
        // On the node, root owns a volume's files, whichever user is the container's root.
        WorkingDirPlace::Mount(root, rest) => (make_dirs(root, rest, None), rest),
        WorkingDirPlace::Root(path) => match &launch.users {
            None => (make_dirs(&dir.rootfs(), path, None), path),
            Some(users) => (make_dirs(&stage::rootfs(), path, Some(users.first)), path),
        },
    };
    match made {
        // A file or a read-only volume in the way: the container's own start says so better.
        Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOTDIR | libc::EROFS)) => {
            Err(refused(format!("make working directory {}", path.display()))(e))
        }
        _ => Ok(()),
    }
}

fn make_dirs(root: &Path, path: &Path, owner: Option<u32>) -> io::Result<()> {
    Root::open(root)?.make_dirs(path, WORKING_DIR_MODE, owner)
}

/// The owner must be able to open /dev/stdout anew.
fn create(
    dir: &ContainerDir,
    launch: &Launch,
    program: Program,
    causes: &Causes,
    owner: Option<u32>,
) -> Result<(Container, Streams), StartError> {
    let words = |e: io::Error| refused("streams")(e);
    let root: PathBuf = dir.library_state();
    fs::create_dir_all(&root).map_err(words)?;
    let builder = ContainerBuilder::new(launch.id.clone(), SyscallType::default())
        .with_root_path(root)
        .map_err(|e| causes.explain(&e))?
        .with_executor(program);
    if launch.tty {
        let listener = UnixListener::bind(CONSOLE_SOCKET).map_err(words)?;
        let builder = builder.with_console_socket(Some(dir.0.join(CONSOLE_SOCKET)));
        let container = build(builder, dir, causes)?;
        let terminal = console::receive_terminal(&listener).map_err(words)?;
        let _ = fs::remove_file(CONSOLE_SOCKET);
        return Ok((container, Streams::terminal(terminal).map_err(words)?));
    }
    let (streams, ends) = Streams::pipes(launch.stdin, owner).map_err(words)?;
    let mut builder = builder.with_stdout(ends.stdout).with_stderr(ends.stderr);
    if let Some(stdin) = ends.stdin {
        builder = builder.with_stdin(stdin);
    }
    Ok((build(builder, dir, causes)?, streams))
}

fn build(builder: ContainerBuilder, dir: &ContainerDir, causes: &Causes) -> Result<Container, Told> {
    builder.as_init(dir.bundle()).with_systemd(false).with_detach(true).build().map_err(|e| causes.explain(&e))
}

/// The container's user.
fn owner(spec: &Value) -> Option<u32> {
    spec["process"]["user"]["uid"].as_u64().and_then(|uid| u32::try_from(uid).ok())
}

fn read_spec(dir: &ContainerDir) -> Result<Value, StartError> {
    // Not from the open file: the parser would read it byte by byte.
    let bytes = fs::read(dir.spec()).map_err(refused("read specification"))?;
    serde_json::from_slice(&bytes).map_err(StartError::Specification)
}

fn limit_devices(group: &Cgroup, spec: &Value) -> Result<(), StartError> {
    let rules: Vec<device_filter::Rule> = Deserialize::deserialize(&spec["linux"]["resources"]["devices"]).map_err(StartError::Devices)?;
    Ok(device_filter::attach(&group.dir(""), &rules).map_err(refused("device rules of the cgroup"))?)
}

/// Lowering the score takes a privilege that not every agent has; the container runs without.
fn adjust_oom_score(pid: i32, score: Option<i32>) {
    if let Some(score) = score
        && let Err(e) = fs::write(Path::new("/proc").join(pid.to_string()).join("oom_score_adj"), score.to_string())
    {
        eprintln!("set oom_score_adj to {score}: {e}");
    }
}

pub fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours; the kernel sets close-on-exec on it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

pub fn send_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    // SAFETY: no siginfo is passed; the rest are numbers.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<u8>(), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
