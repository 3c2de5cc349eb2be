//! The process of a local node: makes its namespaces and folders, then keeps an agent running in
//! them.
//!
//! It exchanges two lines with the process that started it: it says that its namespaces are there,
//! and that process answers when the network is connected. It has one thread. It is the parent that
//! orphans of the node get, and starts the agent again when that ends.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use brain::podsync::user_ids::LENGTH as USER_RANGE_LENGTH;

use super::{Node, cgroups};

/// What it says on standard output.
pub const NAMESPACES: &str = "namespaces";
pub const RUNNING: &str = "running";

/// An agent that ends is started again after this time.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What pods get when the node is shut down in order, all together and the critical ones of it.
pub const SHUTDOWN_SECONDS: u64 = 30;
const SHUTDOWN_CRITICAL_SECONDS: u64 = 10;

/// A workstation's disk is often nearly full, and not its nodes' alone: they act when little is
/// left, not at a share of it.
const EVICTION: &str = "nodefs.available<256Mi,imagefs.available<256Mi,nodefs.inodesFree<1%";

/// A node's own /run.
const RUN_OPTIONS: &str = "mode=755,size=256m";

/// Does not return while the node runs.
pub fn run(dir: &Path) -> anyhow::Result<()> {
    let node = Node::read(dir)?;
    cgroups::join(&format!("{}/agent", node.spec.cgroup())).context("cannot join the node's control group")?;
    prctl::set_child_subreaper(true).context("cannot become the parent of orphans")?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)
        .context("cannot make namespaces")?;
    let program = folders(&node)?;
    nix::unistd::sethostname(&node.spec.name).context("cannot set the host name")?;
    println!("{NAMESPACES}");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("cannot read what to do next")?;
    if answer.trim() != "go" {
        bail!("was not told to go on");
    }
    let mut agent = start_agent(&node, &program)?;
    println!("{RUNNING}");
    loop {
        match waitpid(None, None::<WaitPidFlag>) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) if pid == agent => {
                eprintln!("the agent ended; starting it again");
                std::thread::sleep(RESTART_PAUSE);
                agent = start_agent(&node, &program)?;
            }
            // Orphans: reaped, that is all.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the agent"),
        }
    }
}

/// Mounts the node's own folders; answers where this program is to be found afterwards.
fn folders(node: &Node) -> anyhow::Result<PathBuf> {
    // Mounts of the machine come in, those of the node stay in it, and its pods may share theirs
    // with it.
    remount("/", MsFlags::MS_SLAVE)?;
    remount("/", MsFlags::MS_SHARED)?;
    let (lib, log) = (node.dir.join("lib"), node.dir.join("log"));
    let own = lib.join("everynode");
    for dir in [&log, &own.join("bin"), &own.join("images"), &own.join("manifests")] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    std::fs::create_dir_all(&node.spec.image_dir).with_context(|| format!("cannot make {}", node.spec.image_dir.display()))?;
    let program = own.join("bin/everynode");
    std::fs::write(&program, b"").with_context(|| format!("cannot make {}", program.display()))?;
    bind(&crate::program::path()?, &program)?;
    bind(&node.spec.image_dir, &own.join("images"))?;
    std::fs::copy(node.kubeconfig(), own.join("kubeconfig")).context("cannot copy the kubeconfig")?;
    for (from, to) in [("kubelet.crt", "kubelet.crt"), ("kubelet.key", "kubelet.key"), ("ca.crt", "ca.crt")] {
        std::fs::copy(node.dir.join(from), own.join(to)).with_context(|| format!("cannot copy {from}"))?;
    }
    if let Some(registries) = &node.spec.registries {
        std::fs::copy(registries, own.join("registries.yaml")).with_context(|| format!("cannot copy {}", registries.display()))?;
    }
    own_sysfs(&own)?;
    bind(&log, Path::new("/var/log"))?;
    bind(&lib, Path::new("/var/lib"))?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(RUN_OPTIONS)).context("cannot mount /run")?;
    Ok(PathBuf::from("/var/lib/everynode/bin/everynode"))
}

/// A view of /sys in which the network devices are the node's; control groups stay where they are.
fn own_sysfs(scratch: &Path) -> anyhow::Result<()> {
    let keep = scratch.join("cgroup");
    std::fs::create_dir_all(&keep).with_context(|| format!("cannot make {}", keep.display()))?;
    bind(Path::new("/sys/fs/cgroup"), &keep)?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, None::<&str>)
        .context("cannot mount /sys")?;
    bind(&keep, Path::new("/sys/fs/cgroup"))?;
    // Otherwise the unmounting would reach the other place, too.
    mount(None::<&str>, &keep, None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)
        .context("cannot part the kept control groups")?;
    nix::mount::umount2(&keep, nix::mount::MntFlags::MNT_DETACH).context("cannot unmount the kept control groups")
}

fn bind(from: &Path, to: &Path) -> anyhow::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("cannot mount {} at {}", from.display(), to.display()))
}

fn remount(path: &str, propagation: MsFlags) -> anyhow::Result<()> {
    mount(None::<&str>, path, None::<&str>, propagation | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("cannot change how mounts of {path} propagate"))
}

/// What an agent takes at most, for twice its 250 pods.
const USER_RANGES: u32 = 500;

/// The users of a machine suffice for so many nodes, and clusters begin so many after each other.
const NODES_WITH_USERS_MAX: u32 = 131;
const NODES_WITH_USERS_OF_A_CLUSTER: u32 = 11;

/// Nodes of one machine share its users: each has ids of its own for its pods. 0 for those that get
/// none, of large clusters and after many clusters: two pods with the same users could reach each
/// other's files.
fn first_user_id(slot: u8, index: u8) -> u32 {
    let (slot, index) = (u32::from(slot), u32::from(index));
    let node = slot * NODES_WITH_USERS_OF_A_CLUSTER + index;
    let has_users = index < NODES_WITH_USERS_OF_A_CLUSTER && node < NODES_WITH_USERS_MAX;
    if has_users { (1 + node * USER_RANGES) * USER_RANGE_LENGTH } else { 0 }
}

fn start_agent(node: &Node, program: &Path) -> anyhow::Result<Pid> {
    let spec = &node.spec;
    let own = "/var/lib/everynode";
    let mut command = Command::new(program);
    command.args(["agent", "--node-name", &spec.name, "--node-ip", &spec.address.to_string()]);
    command.args(["--kubeconfig", &format!("{own}/kubeconfig"), "--pod-cidr", &spec.pod_cidr, "--cluster-cidr", &spec.cluster_cidr]);
    command.args(["--cgroup-root", &spec.cgroup(), "--pod-manifest-path", &format!("{own}/manifests")]);
    command.args(["--first-user-id", &first_user_id(spec.slot, spec.index).to_string()]);
    command.args(["--tls-cert-file", &format!("{own}/kubelet.crt"), "--tls-private-key-file", &format!("{own}/kubelet.key")]);
    command.args(["--client-ca-file", &format!("{own}/ca.crt")]);
    command.args(["--eviction-hard", EVICTION, "--image-gc-high-threshold", "100"]);
    let periods = [("--shutdown-grace-period", SHUTDOWN_SECONDS), ("--shutdown-grace-period-critical-pods", SHUTDOWN_CRITICAL_SECONDS)];
    command.args(periods.iter().flat_map(|(name, seconds)| [(*name).to_owned(), seconds.to_string()]));
    if spec.has_addons {
        command.args(["--cluster-dns", &crate::addons::CLUSTER_DNS.to_string()]);
    }
    if spec.registries.is_some() {
        command.args(["--registries", &format!("{own}/registries.yaml")]);
    }
    // `up` sets the others: a node may not mark itself as the control plane.
    let own = spec.labels.iter().filter(|(key, _)| kinds::names::may_be_set_by_nodes(key));
    let labels: Vec<String> = own.map(|(key, value)| format!("{key}={value}")).collect();
    if !labels.is_empty() {
        command.args(["--node-labels", &labels.join(",")]);
    }
    if !spec.taints.is_empty() {
        command.args(["--register-with-taints", &spec.taints.join(",")]);
    }
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let child = command.spawn().context("cannot start the agent")?;
    Ok(Pid::from_raw(i32::try_from(child.id()).context("process ids fit into 32 bits")?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_nodes_of_a_machine_have_the_same_users() {
        let all: Vec<u32> =
            (0..=244).flat_map(|slot| (0..=250).map(move |index| first_user_id(slot, index))).filter(|&first| first != 0).collect();
        let distinct: BTreeSet<u32> = all.iter().copied().collect();
        assert_eq!((all.len(), distinct.len()), (131, 131));
        let apart = distinct.iter().zip(distinct.iter().skip(1)).all(|(one, next)| next - one >= USER_RANGES * USER_RANGE_LENGTH);
        assert!(apart && distinct.first() >= Some(&USER_RANGE_LENGTH));
        let last = distinct.last().copied().unwrap();
        assert!(last.checked_add(USER_RANGES * USER_RANGE_LENGTH).is_some(), "ids have 32 bits");
    }
}
