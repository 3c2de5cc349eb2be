//! Control groups: made, limited, read, emptied and removed, on both versions of the kernel's
//! interface.
//!
//! A [`Cgroup`] is a path relative to the root of each hierarchy (v1) or of the one there is (v2).
//! Missing controllers are passed over: a limit that the kernel cannot hold is not an error here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containers::Resources;

const ROOT: &str = "/sys/fs/cgroup";

/// Killed processes go away within milliseconds unless the kernel holds them in a call to a device.
const EMPTY_WAIT_SECONDS_MAX: u64 = 10;

#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

/// What the kernel counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_nanoseconds: u64,
    pub memory_usage_bytes: u64,
    pub memory_inactive_file_bytes: u64,
    pub memory_rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub processes: u64,
}

/// One hierarchy for everything.
pub fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// Makes the kernel ready for processes that will soon be put into groups; takes as long as that
/// needs, 10 ms or so.
///
/// The first such move after a while waits for a grace period of RCU (`cgroup_threadgroup_rwsem`),
/// those that follow closely do not. Moving this process to where it is already changes nothing and
/// has the kernel wait now, while others prepare what they want to move. Failing is harmless: then
/// the real move waits.
pub fn expect_moves() {
    let Ok(own) = fs::read_to_string("/proc/self/cgroup") else { return };
    if let Some(dir) = own_group(&own, is_v2()) {
        let _ = fs::write(dir.join("cgroup.procs"), "0");
    }
}

/// From lines of `/proc/PID/cgroup`: number, controllers, path. Any hierarchy will do: the lock is
/// one for all.
fn own_group(lines: &str, v2: bool) -> Option<PathBuf> {
    lines.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let root = match controllers {
            "" if v2 => PathBuf::from(ROOT),
            "pids" if !v2 => Path::new(ROOT).join(controllers),
            _ => return None,
        };
        Some(root.join(path.trim_start_matches('/')))
    })
}

impl Cgroup {
    pub fn new(path: &str) -> Self {
        Self { path: PathBuf::from(path.trim_start_matches('/')) }
    }

    pub fn child(&self, name: &str) -> Self {
        Self { path: self.path.join(name) }
    }

    /// As specifications want it.
    pub fn absolute(&self) -> PathBuf {
        Path::new("/").join(&self.path)
    }

    /// Its directory for that controller.
    pub fn dir(&self, controller: &str) -> PathBuf {
        if is_v2() { Path::new(ROOT).join(&self.path) } else { Path::new(ROOT).join(controller).join(&self.path) }
    }

    pub fn create(&self) -> io::Result<()> {
        for dir in self.dirs() {
            fs::create_dir_all(&dir)?;
        }
        if is_v2() {
            self.enable_controllers();
        } else {
            self.fill_cpuset();
        }
        Ok(())
    }

    /// v1: a cpuset without processors takes no processes, and new ones have none.
    fn fill_cpuset(&self) {
        let root = Path::new(ROOT).join("cpuset");
        let mut dir = root.clone();
        for part in &self.path {
            let parent = dir.clone();
            dir.push(part);
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let empty = fs::read_to_string(dir.join(file)).is_ok_and(|t| t.trim().is_empty());
                if empty && let Ok(inherited) = fs::read_to_string(parent.join(file)) {
                    let _ = fs::write(dir.join(file), inherited.trim());
                }
            }
        }
    }

    /// v2: children have those controllers that all their ancestors pass on.
    fn enable_controllers(&self) {
        let mut dir = PathBuf::from(ROOT);
        for part in &self.path {
            for controller in ["cpu", "memory", "pids", "cpuset", "io"] {
                let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            dir.push(part);
        }
    }

    pub fn limit(&self, resources: &Resources) -> io::Result<()> {
        let wanted = if is_v2() { limits_v2(resources) } else { limits_v1(resources) };
        for (controller, file, value) in wanted {
            let path = self.dir(controller).join(file);
            let with_swap = path.with_file_name("memory.memsw.limit_in_bytes");
            if file == "memory.limit_in_bytes" && with_swap.exists() {
                limit_memory_and_swap(&path, &with_swap, &value)?;
            } else if path.exists() {
                fs::write(&path, &value).map_err(|e| io::Error::new(e.kind(), format!("set {file} to {value}: {e}")))?;
            }
        }
        Ok(())
    }

    pub fn add(&self, pid: i32) -> io::Result<()> {
        self.dirs().iter().try_for_each(|d| fs::write(d.join("cgroup.procs"), pid.to_string()))
    }

    pub fn processes(&self) -> Vec<i32> {
        let mut found: Vec<i32> = self.dirs().iter().flat_map(|d| numbers(&d.join("cgroup.procs"))).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Sends that signal to every process in it.
    pub fn signal(&self, signal: i32) {
        for pid in self.processes() {
            // SAFETY: kill takes two numbers and touches no memory.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// Kills until nothing is left. False: something cannot be killed.
    pub fn kill_all(&self) -> bool {
        let until = Instant::now() + Duration::from_secs(EMPTY_WAIT_SECONDS_MAX);
        while Instant::now() < until {
            if is_v2() {
                let _ = fs::write(self.dir("").join("cgroup.kill"), "1");
            }
            self.signal(libc::SIGKILL);
            if self.processes().is_empty() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    /// With everything below it. Succeeds when it is not there.
    pub fn remove(&self) -> io::Result<()> {
        // The prefix of all is never removed by mistake: an empty path would be the node's own
        // group.
        if self.path.as_os_str().is_empty() {
            return Err(io::Error::other("the root of a hierarchy cannot be removed"));
        }
        let mut failure = None;
        for dir in self.dirs() {
            if let Err(e) = remove_tree(&dir) {
                failure = Some(io::Error::new(e.kind(), format!("remove {}: {e}", dir.display())));
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// How many processes the kernel killed here because memory ran out.
    pub fn oom_kills(&self) -> u64 {
        let file = if is_v2() { "memory.events" } else { "memory.oom_control" };
        field(&self.dir("memory").join(file), "oom_kill")
    }

    pub fn usage(&self) -> Usage {
        let (memory, cpu) = (self.dir("memory"), self.dir("cpuacct"));
        let stat = memory.join("memory.stat");
        let processes = numbers(&self.dir("pids").join("pids.current")).first().copied().unwrap_or(0) as u64;
        if is_v2() {
            Usage {
                cpu_nanoseconds: field(&cpu.join("cpu.stat"), "usage_usec") * 1000,
                memory_usage_bytes: number(&memory.join("memory.current")),
                memory_inactive_file_bytes: field(&stat, "inactive_file"),
                memory_rss_bytes: field(&stat, "anon"),
                page_faults: field(&stat, "pgfault"),
                major_page_faults: field(&stat, "pgmajfault"),
                processes,
            }
        } else {
            Usage {
                cpu_nanoseconds: number(&cpu.join("cpuacct.usage")),
                memory_usage_bytes: number(&memory.join("memory.usage_in_bytes")),
                memory_inactive_file_bytes: field(&stat, "total_inactive_file"),
                memory_rss_bytes: field(&stat, "total_rss"),
                page_faults: field(&stat, "total_pgfault"),
                major_page_faults: field(&stat, "total_pgmajfault"),
                processes,
            }
        }
    }

    fn dirs(&self) -> Vec<PathBuf> {
        hierarchies().into_iter().map(|h| h.join(&self.path)).collect()
    }
}

/// v1: one directory per controller (links to joint ones are passed over); v2: the root.
fn hierarchies() -> Vec<PathBuf> {
    if is_v2() {
        return vec![PathBuf::from(ROOT)];
    }
    let Ok(entries) = fs::read_dir(ROOT) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()) && e.file_name() != "unified")
        .map(|e| e.path())
        .filter(|p| p.join("cgroup.procs").exists())
        .collect();
    found.sort();
    found
}

/// v1: the limit with swap may never be below the one without, so which goes first depends on the
/// direction.
fn limit_memory_and_swap(memory: &Path, with_swap: &Path, value: &str) -> io::Result<()> {
    let set = |path: &Path| fs::write(path, value).map_err(|e| io::Error::new(e.kind(), format!("set {} to {value}: {e}", path.display())));
    if set(memory).is_ok() {
        return set(with_swap);
    }
    set(with_swap)?;
    set(memory)
}

type Limit = (&'static str, &'static str, String);

fn limits_v1(resources: &Resources) -> Vec<Limit> {
    let mut limits: Vec<Limit> = Vec::new();
    let mut add = |controller, file, value: Option<String>| limits.extend(value.map(|v| (controller, file, v)));
    add("cpu", "cpu.shares", resources.cpu_shares.filter(|v| *v > 0).map(|v| v.to_string()));
    add("cpu", "cpu.cfs_period_us", resources.cpu_period_us.filter(|v| *v > 0).map(|v| v.to_string()));
    add("cpu", "cpu.cfs_quota_us", resources.cpu_quota_us.filter(|v| *v != 0).map(|v| v.to_string()));
    add("memory", "memory.limit_in_bytes", resources.memory_limit_bytes.filter(|v| *v != 0).map(|v| v.to_string()));
    add("pids", "pids.max", resources.pids_limit.filter(|v| *v != 0).map(pids_max));
    limits
}

fn limits_v2(resources: &Resources) -> Vec<Limit> {
    let mut limits: Vec<Limit> = Vec::new();
    let mut add = |file, value: Option<String>| limits.extend(value.map(|v| ("", file, v)));
    add("cpu.weight", resources.cpu_shares.filter(|v| *v > 0).map(|v| cpu_weight(v).to_string()));
    let period = resources.cpu_period_us.filter(|v| *v > 0).unwrap_or(100_000);
    let quota = resources.cpu_quota_us.filter(|v| *v != 0);
    add("cpu.max", quota.map(|q| if q < 0 { format!("max {period}") } else { format!("{q} {period}") }));
    let memory = resources.memory_limit_bytes.filter(|v| *v != 0);
    add("memory.max", memory.map(|v| if v < 0 { "max".to_owned() } else { v.to_string() }));
    add("pids.max", resources.pids_limit.filter(|v| *v != 0).map(pids_max));
    limits
}

fn pids_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

/// Maps 2..=262144 to 1..=10000 as the kubelet does.
fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_tree(&entry.path())?;
    }
    // A process that was reaped a moment ago may still count.
    for _ in 0..REMOVE_TRIES_MAX {
        match fs::remove_dir(dir) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(Duration::from_millis(5)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => return done,
        }
    }
    fs::remove_dir(dir)
}

/// A second in all.
const REMOVE_TRIES_MAX: u32 = 200;

fn numbers(path: &Path) -> Vec<i32> {
    fs::read_to_string(path).unwrap_or_default().lines().filter_map(|l| l.trim().parse().ok()).collect()
}

fn number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
}

/// The number after `name` in a file of lines `name number`.
fn field(path: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_in_either_version() {
        let hybrid = "9:name=systemd:/\n8:pids:/system.slice/agent.service\n3:cpuset:/\n0::/\n";
        assert_eq!(own_group(hybrid, false), Some(PathBuf::from("/sys/fs/cgroup/pids/system.slice/agent.service")));
        assert_eq!(own_group("0::/system.slice/agent.service\n", true), Some(PathBuf::from("/sys/fs/cgroup/system.slice/agent.service")));
        assert_eq!(own_group("0::/\n", false), None);
    }

    #[test]
    fn shares_become_weights() {
        assert_eq!([2, 1024, 262_144].map(cpu_weight), [1, 39, 10_000]);
    }

    #[test]
    fn limits_in_both_dialects() {
        let resources = Resources {
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_limit_bytes: Some(1 << 20),
            pids_limit: Some(-1),
            oom_score_adj: None,
        };
        let show = |limits: Vec<Limit>| limits.into_iter().map(|(_, f, v)| format!("{f}={v}")).collect::<Vec<_>>();
        assert_eq!(
            show(limits_v1(&resources)),
            ["cpu.shares=512", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000", "memory.limit_in_bytes=1048576", "pids.max=max"]
        );
        assert_eq!(show(limits_v2(&resources)), ["cpu.weight=20", "cpu.max=50000 100000", "memory.max=1048576", "pids.max=max"]);
    }
}
