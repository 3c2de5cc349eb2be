//! Users of a sandbox's own: a user namespace, and the sandbox's other namespaces inside of it.
//! Root of its containers is nobody on the node.
//!
//! Only a process with one thread can make a user namespace, and only another one with the
//! privilege can map its ids. [`start`], which runs as `everynode-users`, makes the namespaces step
//! by step; [`pin`] maps the ids, keeps the namespaces by bind mounts, and lets it go.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

use super::{helper, idmap, namespace};
use containers::UserNamespace;

/// Each step takes milliseconds; a node that swaps is slower.
const STEP_MILLISECONDS_MAX: u16 = 30_000;

/// One byte from the helper: a step is done. One byte to it: go on.
const DONE: u8 = b'.';

/// In the order of the kernel's dependence: the first owns the others.
const KINDS: [&str; 4] = ["user", "net", "ipc", "uts"];

/// The helper's part.
pub fn start() -> ExitCode {
    match try_start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn try_start() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    step()?;
    // From here on root of the new users: what root makes belongs to them.
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(0.into(), 0.into(), 0.into())?;
    nix::unistd::setresuid(0.into(), 0.into(), 0.into())?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)?;
    step()
}

fn step() -> io::Result<()> {
    io::stdout().write_all(&[DONE])?;
    io::stdout().flush()?;
    io::stdin().read_exact(&mut [0])
}

/// Makes the namespaces and keeps them in `dir/{user,net,ipc,uts}`.
pub fn pin(dir: &Path, users: UserNamespace, program: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut command = Command::new(program);
    command.arg(helper::USERS).env_clear().current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let made = follow(&mut child, dir, users);
    // The namespaces are kept, or there are none: it need not end in good order.
    let _ = child.kill();
    let said = child.wait_with_output().map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned()).unwrap_or_default();
    made.map_err(|e| if said.is_empty() { e } else { io::Error::other(format!("make user namespace: {said}")) })
}

fn follow(child: &mut Child, dir: &Path, users: UserNamespace) -> io::Result<()> {
    let pid = child.id();
    let (mut input, mut output) = (child.stdin.take().expect("it was asked for"), child.stdout.take().expect("it was asked for"));
    wait(&mut output)?;
    map(pid, users)?;
    go_on(&mut input)?;
    wait(&mut output)?;
    for kind in KINDS {
        namespace::keep(Path::new("/proc").join(pid.to_string()).join("ns").join(kind), &dir.join(kind))?;
    }
    Ok(())
}

fn wait(output: &mut ChildStdout) -> io::Result<()> {
    let mut polled = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
    if poll(&mut polled, PollTimeout::from(STEP_MILLISECONDS_MAX))? == 0 {
        return Err(io::Error::other("making a user namespace took too long"));
    }
    output.read_exact(&mut [0])
}

fn go_on(input: &mut ChildStdin) -> io::Result<()> {
    input.write_all(&[DONE])
}

fn map(pid: u32, users: UserNamespace) -> io::Result<()> {
    let line = format!("0 {} {}\n", users.first, users.length);
    for file in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{file}"), &line)?;
    }
    Ok(())
}

/// Whether this kernel can do it, and the file systems below these folders can show their files to
/// other users. An error says what is missing.
pub fn check(state: &Path, folders: &[&Path], program: &Path) -> io::Result<()> {
    /// As good as any: nothing is made with it.
    const SOME: UserNamespace = UserNamespace { first: 65_536, length: 65_536 };
    let dir = state.join("users-check");
    let pinned = pin(&dir, SOME, program);
    let checked = pinned.and_then(|()| {
        let users = File::open(dir.join("user"))?;
        folders.iter().try_for_each(|folder| idmap::clone(folder).and_then(|tree| idmap::map(&tree, &users, folder)))
    });
    for kind in KINDS {
        namespace::release(&dir.join(kind));
        let _ = std::fs::remove_file(dir.join(kind));
    }
    let _ = std::fs::remove_dir(&dir);
    checked
}
