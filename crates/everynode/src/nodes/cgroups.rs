//! Control groups of local nodes: whatever runs on a node is in its group, so that all of it can be
//! found and ended.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Processes that do not end within this time are reported.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_PERIOD: Duration = Duration::from_millis(10);

/// The roots of all hierarchies that are mounted: one on cgroup v2, one for each controller on v1.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| matches!(fields.get(2), Some(&("cgroup" | "cgroup2")))).map(|fields| PathBuf::from(fields[1])).collect()
}

/// Moves this process into the group, in every hierarchy that lets it.
pub fn join(group: &str) -> io::Result<()> {
    let mut joined = 0;
    for root in hierarchies() {
        let dir = root.join(group);
        if std::fs::create_dir_all(&dir).is_err() {
            continue;
        }
        inherit_cpuset(&root, group);
        if std::fs::write(dir.join("cgroup.procs"), "0").is_ok() {
            joined += 1;
        }
    }
    if joined == 0 { Err(io::Error::other("no control group hierarchy can be written to")) } else { Ok(()) }
}

/// A new group of the v1 cpuset controller has no processors: nothing may join it before it has its
/// parent's.
fn inherit_cpuset(root: &Path, group: &str) {
    let mut dir = root.to_owned();
    for part in Path::new(group).components() {
        let parent = dir.clone();
        dir.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let is_empty = std::fs::read_to_string(dir.join(file)).is_ok_and(|text| text.trim().is_empty());
            if let (true, Ok(value)) = (is_empty, std::fs::read_to_string(parent.join(file))) {
                let _ = std::fs::write(dir.join(file), value.trim());
            }
        }
    }
}

/// Ends all processes in the group and below it.
pub fn kill_all(group: &str) -> io::Result<()> {
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        let pids = processes(group);
        if pids.is_empty() {
            return Ok(());
        }
        for &pid in &pids {
            // One that ended meanwhile is what was wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("processes {pids:?} do not end")));
        }
        std::thread::sleep(POLL_PERIOD);
    }
}

/// The processes of the group and its descendants; none of a command that asks about its own group.
pub fn processes(group: &str) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut pids = Vec::new();
    for root in hierarchies() {
        collect(&root.join(group), &mut pids);
    }
    pids.sort_unstable();
    pids.dedup();
    pids.retain(|&pid| pid > 1 && pid != own);
    pids
}

fn collect(dir: &Path, pids: &mut Vec<i32>) {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for child in children(dir) {
        collect(&child, pids);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// The group that holds the nodes of a cluster.
pub fn of_cluster(cluster: &str) -> String {
    format!("everynode/{cluster}")
}

/// Removes a cluster's group, and the one above when no other cluster is in it.
pub fn remove_cluster(cluster: &str) -> io::Result<()> {
    remove(&of_cluster(cluster))?;
    for root in hierarchies() {
        // Not empty: others are there.
        let _ = std::fs::remove_dir(root.join("everynode"));
    }
    Ok(())
}

/// Removes the group and everything below it; its processes must have ended.
pub fn remove(group: &str) -> io::Result<()> {
    let deadline = Instant::now() + KILL_TIMEOUT;
    for root in hierarchies() {
        remove_below(&root.join(group), deadline)?;
    }
    Ok(())
}

fn remove_below(dir: &Path, deadline: Instant) -> io::Result<()> {
    for child in children(dir) {
        remove_below(&child, deadline)?;
    }
    loop {
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The kernel takes a moment to forget processes that ended.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => std::thread::sleep(POLL_PERIOD),
            result => return result,
        }
    }
}
