//! Capabilities by name and as the kernel's bit sets, and what a container gets of them.

use std::io;

use containers::SecurityContext;

/// In the kernel's order: the index is the number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containers get that ask for nothing, as other runtimes give it.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability {0:?}")]
pub struct Unknown(String);

pub const SETPCAP: u64 = 1 << 8;
pub const SYS_ADMIN: u64 = 1 << 21;

/// The set for a container on a kernel that has `available`.
pub fn for_container(security: &SecurityContext, available: u64) -> Result<u64, Unknown> {
    if security.privileged {
        return Ok(available);
    }
    let mut set = DEFAULT.iter().try_fold(0, |set, name| Ok(set | bit(name)?))?;
    for name in &security.drop_capabilities {
        set &= if is_all(name) { 0 } else { !bit(name)? };
    }
    for name in &security.add_capabilities {
        set |= if is_all(name) { available } else { bit(name)? };
    }
    // A capability that this program lacks cannot be given on.
    Ok(set & available)
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

fn bit(name: &str) -> Result<u64, Unknown> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|n| *n == short).map(|n| 1 << n).ok_or_else(|| Unknown(name.to_owned()))
}

/// `CAP_CHOWN`, ...
pub fn names(set: u64) -> impl Iterator<Item = String> {
    NAMES.iter().enumerate().filter(move |(n, _)| set & (1 << n) != 0).map(|(_, name)| format!("CAP_{name}"))
}

/// This process's bounding set.
pub fn available() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|l| u64::from_str_radix(l.strip_prefix("CapBnd:")?.trim(), 16).ok());
    bounding.unwrap_or(0) & ((1 << NAMES.len()) - 1)
}

/// Takes everything outside of `set` from the bounding set. Needs SETPCAP.
pub fn limit_bounding(set: u64) -> io::Result<()> {
    for n in (0..NAMES.len()).filter(|n| set & (1 << n) == 0) {
        // SAFETY: prctl with these arguments takes numbers only.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, n, 0, 0, 0) };
        if done != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A change of user keeps the capabilities that are permitted.
pub fn keep() -> io::Result<()> {
    // SAFETY: prctl with these arguments takes numbers only.
    let done = unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes `set` this thread's effective and permitted set, and nothing inheritable.
pub fn set_current(set: u64) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |n: u64| Data { effective: n as u32, permitted: n as u32, inheritable: 0 };
    let data = [half(set & 0xffff_ffff), half(set >> 32)];
    // SAFETY: version 3 reads exactly one header and two data records, which live over the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: u64 = (1 << 41) - 1;

    fn set(add: &[&str], drop: &[&str]) -> Result<u64, Unknown> {
        let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let security = SecurityContext { add_capabilities: own(add), drop_capabilities: own(drop), ..Default::default() };
        for_container(&security, EVERYTHING)
    }

    #[test]
    fn additions_follow_drops() {
        assert_eq!(set(&[], &[]), Ok(0x0000_0000_a804_25fb));
        assert_eq!(set(&["NET_ADMIN"], &["ALL"]), Ok(1 << 12));
        assert_eq!(set(&["cap_sys_admin"], &["KILL"]), Ok(0xa804_25fb & !(1 << 5) | SYS_ADMIN));
        assert_eq!(set(&["ALL"], &[]), Ok(EVERYTHING));
        assert_eq!(set(&["NONSENSE"], &[]), Err(Unknown("NONSENSE".into())));
        assert_eq!(names(3).collect::<Vec<_>>(), ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
    }
}
