//! What containers and sandboxes use now. The kernel counts most of it; what a container has
//! written must be walked, which is done at most every [`WALK_SECONDS`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::table::{Container, Phase};
use super::{Runtime, blocking, namespace};
use crate::cgroup::Cgroup;
use crate::netdev;
use crate::port::{ContainerStats, FilesystemUsage, Result, SandboxStats};
use crate::trees::{self, Measure};

const WALK_SECONDS: u64 = 10;

#[derive(Debug, Default)]
pub struct DiskUsage {
    known: Mutex<BTreeMap<String, (Instant, FilesystemUsage)>>,
}

impl DiskUsage {
    fn of(&self, id: &str, dirs: &[&Path]) -> FilesystemUsage {
        let fresh = |at: &Instant| at.elapsed() < Duration::from_secs(WALK_SECONDS);
        if let Some((_, usage)) = self.known().get(id).filter(|(at, _)| fresh(at)) {
            return *usage;
        }
        let measured = dirs.iter().fold(Measure::default(), |sum, dir| sum.plus(trees::measure(dir)));
        let usage = FilesystemUsage { used_bytes: measured.bytes, inodes_used: measured.inodes };
        self.known().insert(id.to_owned(), (Instant::now(), usage));
        usage
    }

    pub fn forget(&self, id: &str) {
        self.known().remove(id);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Instant, FilesystemUsage)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runtime {
    pub(super) async fn measure_containers(&self) -> Result<Vec<ContainerStats>> {
        let this = self.clone();
        let running = self.shared.table.containers().into_iter().filter(|c| matches!(c.phase(), Phase::Running(_)));
        let running: Vec<Container> = running.collect();
        blocking(move || {
            let mut seen = BTreeSet::new();
            let stats = running.iter().map(|container| {
                // What containers of a sandbox write to together is counted once.
                let shared = this.shared.layout.sandbox_shared(&container.record.sandbox_id).0;
                let shared = seen.insert(&container.record.sandbox_id).then_some(shared);
                measure(&this.shared.disk_usage, container, shared.as_deref())
            });
            Ok(stats.collect())
        })
        .await
    }

    pub(super) async fn measure_sandboxes(&self) -> Result<Vec<SandboxStats>> {
        let layout = self.shared.layout.clone();
        let mut own_network: Vec<String> = Vec::new();
        own_network
            .extend(self.shared.table.rows().sandboxes.values().filter(|s| !s.stopped && !s.config.host.network).map(|s| s.id.clone()));
        blocking(move || {
            let mut all = Vec::new();
            for id in own_network {
                // One that is being removed has nothing to tell.
                let Ok(table) = namespace::interfaces(layout.sandbox(&id).namespace("net")) else { continue };
                all.push(netdev::sum(id, &table));
            }
            Ok(all)
        })
        .await
    }
}

fn measure(disk: &DiskUsage, container: &Container, shared: Option<&Path>) -> ContainerStats {
    let record = &container.record;
    let usage = Cgroup::new(&record.launch.cgroup).usage();
    // Volumes that the image declares are the container's, too.
    let (upper, volumes) = (record.launch.writable.join("upper"), record.launch.writable.join("volumes"));
    let dirs: Vec<&Path> = [upper.as_path(), volumes.as_path()].into_iter().chain(shared).collect();
    let written = disk.of(&record.id, &dirs);
    ContainerStats {
        container_id: record.id.clone(),
        at: Some(Timestamp::now()),
        cpu_nanoseconds: usage.cpu_nanoseconds,
        memory_usage_bytes: usage.memory_usage_bytes,
        memory_working_set_bytes: usage.memory_usage_bytes.saturating_sub(usage.memory_inactive_file_bytes),
        memory_rss_bytes: usage.memory_rss_bytes,
        memory_page_faults: usage.page_faults,
        memory_major_page_faults: usage.major_page_faults,
        processes: usage.processes,
        rootfs_used_bytes: written.used_bytes,
        rootfs_inodes_used: written.inodes_used,
        log_used_bytes: fs::metadata(&record.log_path).map_or(0, |m| m.len()),
    }
}
