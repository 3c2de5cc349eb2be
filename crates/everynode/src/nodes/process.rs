//! Processes that outlive the command that started them; their start time distinguishes them from
//! later ones with the same id.

use std::path::Path;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Field 22 of /proc/PID/stat.
    started: u64,
}

impl Process {
    pub fn of(pid: u32) -> anyhow::Result<Process> {
        let pid = i32::try_from(pid).context("process ids fit into 32 bits")?;
        let started = start_time(pid).with_context(|| format!("process {pid} ended"))?;
        Ok(Process { pid, started })
    }

    pub fn read(path: &Path) -> Option<Process> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        crate::private_file::write(path, &serde_json::to_string(self)?)
    }

    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.pid).context("the recorded process id is none")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal process {}", self.pid))
    }
}

/// Whether a process was started as `everynode agent`.
pub fn is_agent(pid: i32) -> bool {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.split(|byte| *byte == 0).nth(1) == Some(b"agent")
}

/// When a process started, in the kernel's ticks; None when there is none, or only its remains.
/// While threads of it are still ending it is one: they hold its files and locks.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold anything; the fields begin after its closing parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let threads: u32 = fields.get(17)?.parse().ok()?;
    if fields.first() == Some(&"Z") && threads <= 1 { None } else { fields.get(19)?.parse().ok() }
}
