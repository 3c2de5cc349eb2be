//! What containers and sandboxes use.

use jiff::Timestamp;

/// What a container uses now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerStats {
    pub container_id: String,
    pub at: Option<Timestamp>,
    /// Processor time since its start.
    pub cpu_nanoseconds: u64,
    pub memory_usage_bytes: u64,
    /// Usage less what the kernel could give back at once.
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub memory_page_faults: u64,
    pub memory_major_page_faults: u64,
    pub processes: u64,
    pub rootfs_used_bytes: u64,
    pub rootfs_inodes_used: u64,
    pub log_used_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxStats {
    pub sandbox_id: String,
    pub receive_bytes: u64,
    pub transmit_bytes: u64,
    pub receive_errors: u64,
    pub transmit_errors: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilesystemUsage {
    pub used_bytes: u64,
    pub inodes_used: u64,
}
