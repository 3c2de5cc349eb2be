//! Where a program is, and what a process uses, as Linux tells in /proc.

use std::path::PathBuf;

use anyhow::Context;

/// Linux counts CPU time in hundredths of a second here, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// A program on the PATH.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}

/// Resident memory in MB.
pub fn resident_mb(pid: u32) -> anyhow::Result<f64> {
    status_mb(pid, "VmRSS:")
}

/// The most memory that was resident so far, in MB.
pub fn peak_mb(pid: u32) -> anyhow::Result<f64> {
    status_mb(pid, "VmHWM:")
}

fn status_mb(pid: u32, field: &str) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("cannot read the server's status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("there is no {field}"))?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse().with_context(|| format!("{field} is no number"))?;
    Ok(kilobytes / 1024.0)
}

/// Memory that no other process shares, in MB.
pub fn private_mb(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("cannot read the process' maps")?;
    let fields = text.lines().filter(|line| line.starts_with("Private_"));
    let kilobytes: f64 = fields.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum();
    Ok(kilobytes / 1024.0)
}

/// Seconds of CPU that the process has used, in user mode and in the kernel.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("cannot read the server's statistics")?;
    // The name of the program stands in parentheses and may hold anything.
    let (_, after_name) = text.rsplit_once(") ").context("the statistics have no name")?;
    let fields: Vec<&str> = after_name.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("the statistics are cut off");
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}
