//! What the machine uses now, by /proc.

use std::path::Path;

/// Of the node as a whole; 0 where the kernel does not tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Machine {
    /// Processor time since boot, all processors together.
    pub cpu_nanoseconds: u64,
    pub booted_at_seconds: i64,
    pub memory_total_bytes: u64,
    pub memory_available_bytes: u64,
    pub memory_usage_bytes: u64,
    /// What the kernel cannot give back at once.
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub fs: Filesystem,
    pub interfaces: Vec<Interface>,
    pub processes: u64,
    pub processes_max: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filesystem {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub used_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Interface {
    pub name: String,
    pub receive_bytes: u64,
    pub receive_errors: u64,
    pub transmit_bytes: u64,
    pub transmit_errors: u64,
}

/// The kernel counts processor time in hundredths of a second, on all architectures.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

impl Machine {
    pub fn read(root_dir: &Path) -> Machine {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (stat, memory) = (text("/proc/stat"), text("/proc/meminfo"));
        let kib = |name: &str| number_after(&memory, name) * 1024;
        let (total, available) = (kib("MemTotal:"), kib("MemAvailable:"));
        Machine {
            cpu_nanoseconds: busy_ticks(&stat) * NANOSECONDS_PER_TICK,
            booted_at_seconds: i64::try_from(number_after(&stat, "btime")).unwrap_or(0),
            memory_total_bytes: total,
            memory_available_bytes: available,
            memory_usage_bytes: total.saturating_sub(kib("MemFree:")),
            memory_working_set_bytes: total.saturating_sub(available),
            memory_rss_bytes: kib("AnonPages:"),
            fs: Filesystem::of(root_dir),
            interfaces: interfaces(&text("/proc/net/dev")),
            processes: text("/proc/loadavg").split(['/', ' ']).nth(4).and_then(|count| count.parse().ok()).unwrap_or(0),
            processes_max: text("/proc/sys/kernel/pid_max").trim().parse().unwrap_or(0),
        }
    }
}

fn number_after(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// user, nice, system, irq, softirq, steal: all but idling and waiting for disks. Guests are
/// counted in user already.
fn busy_ticks(stat: &str) -> u64 {
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map(|ticks| ticks.parse().unwrap_or(0)).collect();
    [0, 1, 2, 5, 6, 7].into_iter().filter_map(|at| ticks.get(at)).sum()
}

impl Filesystem {
    pub fn of(dir: &Path) -> Filesystem {
        let Ok(figures) = rustix::fs::statvfs(dir) else { return Filesystem::default() };
        Filesystem {
            capacity_bytes: figures.f_blocks * figures.f_frsize,
            available_bytes: figures.f_bavail * figures.f_frsize,
            used_bytes: figures.f_blocks.saturating_sub(figures.f_bfree) * figures.f_frsize,
            inodes: figures.f_files,
            inodes_free: figures.f_ffree,
        }
    }
}

fn interfaces(dev: &str) -> Vec<Interface> {
    let parse = |line: &str| -> Option<Interface> {
        let (name, figures) = line.split_once(':')?;
        let figures: Vec<u64> = figures.split_whitespace().map(|figure| figure.parse().unwrap_or(0)).collect();
        let figure = |at: usize| figures.get(at).copied().unwrap_or(0);
        Some(Interface {
            name: name.trim().to_owned(),
            receive_bytes: figure(0),
            receive_errors: figure(2),
            transmit_bytes: figure(8),
            transmit_errors: figure(10),
        })
    };
    // The ends of pods' cables come and go; the figures of the pods include them.
    dev.lines().skip(2).filter_map(parse).filter(|interface| interface.name != "lo" && !interface.name.starts_with("veth")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_proc() {
        assert_eq!(busy_ticks("cpu  1 2 3 400 500 6 7 8 9 10\ncpu0 ..."), 27);
        assert_eq!(number_after("MemTotal:       100 kB\nMemFree: 7 kB\n", "MemFree:"), 7);
        let dev = "Inter-| Receive\n face |bytes\n    lo: 1 1\n  eth0: 100 1 2 0 0 0 0 0 200 3 4 0 0 0 0 0\n";
        let [eth0] = interfaces(dev).try_into().unwrap();
        assert_eq!((eth0.receive_bytes, eth0.receive_errors, eth0.transmit_bytes, eth0.transmit_errors), (100, 2, 200, 4));
        assert!(Machine::read(Path::new("/")).memory_total_bytes > 0);
    }
}
