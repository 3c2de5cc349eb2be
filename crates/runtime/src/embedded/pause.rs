//! The process that holds a shared process namespace: its first process, which reaps orphans and
//! does nothing else.
//!
//! [`start`] runs as `everynode-pause DIR`: it makes the namespace, starts the process in it under
//! the name `/pause` and tells its id.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, setns, unshare};

/// What users see in `ps`.
pub const NAME: &str = "/pause";

/// The unprivileged user of the image that other clusters use for this.
const USER: u32 = 65535;

/// Joins the sandbox's other namespaces (those that are pinned in `DIR/ns`), so that the process
/// holds them too.
pub fn start(dir: &Path) -> ExitCode {
    match try_start(dir) {
        Ok(pid) => {
            let _ = writeln!(io::stdout(), "{pid}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn try_start(dir: &Path) -> io::Result<u32> {
    let root = dir.join("empty");
    std::fs::create_dir_all(&root)?;
    // All is opened before the users change: the new ones may not reach these folders.
    std::env::set_current_dir(&root)?;
    let kinds = [
        ("user", CloneFlags::CLONE_NEWUSER),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
    ];
    let open = |(kind, flag): (&str, _)| std::fs::File::open(dir.join("ns").join(kind)).ok().map(|file| (file, flag));
    let namespaces: Vec<_> = kinds.into_iter().filter_map(open).collect();
    for (namespace, flag) in namespaces {
        setns(namespace, flag)?;
        if flag == CloneFlags::CLONE_NEWUSER {
            nix::unistd::setgroups(&[])?;
            nix::unistd::setresgid(0.into(), 0.into(), 0.into())?;
            nix::unistd::setresuid(0.into(), 0.into(), 0.into())?;
        }
    }
    unshare(CloneFlags::CLONE_NEWPID)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(NAME).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.spawn()?.id())
}

/// The process itself.
pub fn main() -> ExitCode {
    if let Err(e) = confine() {
        eprintln!("{e}");
        return ExitCode::FAILURE;
    }
    // Waiting for signals one by one needs no handlers, which could interrupt anything.
    let mut set = nix::sys::signal::SigSet::empty();
    for signal in [nix::sys::signal::SIGTERM, nix::sys::signal::SIGINT, nix::sys::signal::SIGCHLD] {
        set.add(signal);
    }
    if set.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        match set.wait() {
            Ok(nix::sys::signal::SIGCHLD) => bury(),
            Ok(_) => return ExitCode::SUCCESS,
            Err(_) => {}
        }
    }
}

fn confine() -> io::Result<()> {
    let _ = nix::unistd::setsid();
    leave_file_systems()?;
    nix::unistd::chdir("/")?;
    nix::unistd::setgroups(&[])?;
    nix::unistd::setgid(USER.into())?;
    nix::unistd::setuid(USER.into())?;
    // SAFETY: the name is a constant C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"pause".as_ptr()) };
    // SAFETY: prctl with these arguments takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    Ok(())
}

/// Leaves all file systems of the node for an empty one, in a mount namespace of its own.
///
/// Containers of the pod see this process as /proc/1, and `/proc/1/root/..` leads out of a changed
/// root: the kernel holds `..` against the root of the process that asks. With a namespace whose
/// only mount is empty there is nothing above.
fn leave_file_systems() -> io::Result<()> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    // Any folder that root of a pod's own users may enter, too; in this namespace nothing else sees
    // what is mounted there.
    const PLACE: &str = "/proc";
    let nothing: Option<&str> = None;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), PLACE, Some("tmpfs"), flags, Some("size=4k"))?;
    nix::unistd::chdir(PLACE)?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(())
}

fn bury() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(s) if s != WaitStatus::StillAlive) {}
}
