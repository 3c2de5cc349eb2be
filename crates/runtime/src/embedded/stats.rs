//! What containers and sandboxes use now. The kernel counts most of it; what a container has
//! written must be walked, which is done at most every [`WALK_SECONDS`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::table::{Container, Phase};
use super::{Runtime, blocking, namespace};
use crate::cgroup::Cgroup;
use crate::netdev;
use crate::trees::{self, Measure};
use containers::{ContainerStats, FilesystemUsage, Result, SandboxStats};

const WALK_SECONDS: u64 = 10;

/// How long figures wait for a walk. A walk of millions of files goes on beside them, and they say
/// what the walk before it found.
const WALK_PATIENCE: Duration = Duration::from_secs(2);

/// What containers have written, as it was last walked.
#[derive(Debug)]
pub struct DiskUsage {
    known: Mutex<BTreeMap<String, (Instant, FilesystemUsage)>>,
    /// One walk at a time: its permit goes with it.
    walks: Arc<Semaphore>,
}

impl Default for DiskUsage {
    fn default() -> DiskUsage {
        DiskUsage { known: Mutex::default(), walks: Arc::new(Semaphore::new(1)) }
    }
}

impl DiskUsage {
    /// Walks the folders of those containers whose figures are old, the oldest first, and returns
    /// when that is done or takes too long. Forgets all other containers.
    async fn look(self: &Arc<Self>, mut folders: BTreeMap<String, Vec<PathBuf>>, patience: Duration) {
        self.known().retain(|id, _| folders.contains_key(id));
        let Ok(permit) = self.walks.clone().try_acquire_owned() else { return };
        let this = self.clone();
        let walk = blocking(move || {
            for id in this.due(folders.keys()) {
                let folders = folders.remove(&id).unwrap_or_default();
                let sum = folders.iter().map(|folder| trees::measure(folder)).fold(Measure::default(), Measure::plus);
                let usage = FilesystemUsage { used_bytes: sum.bytes, inodes_used: sum.inodes };
                this.known().insert(id, (Instant::now(), usage));
            }
            drop(permit);
            Ok(())
        });
        // A blocking task goes on when its caller stops waiting.
        if tokio::time::timeout(patience, walk).await.is_err() {
            tracing::debug!("what some containers have written takes long to measure; earlier figures are used");
        }
    }

    fn due<'a>(&self, ids: impl Iterator<Item = &'a String>) -> Vec<String> {
        let known = self.known();
        let walked = |id: &String| known.get(id).map(|(at, _)| *at);
        let is_old = |at: &Option<Instant>| at.is_none_or(|at| at.elapsed() >= Duration::from_secs(WALK_SECONDS));
        let mut due: Vec<_> = ids.map(|id| (walked(id), id.clone())).filter(|(at, _)| is_old(at)).collect();
        due.sort();
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// Nothing for a container that was not walked yet.
    fn of(&self, id: &str) -> FilesystemUsage {
        self.known().get(id).map(|(_, usage)| *usage).unwrap_or_default()
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
        let running = self.shared.table.containers().into_iter().filter(|c| matches!(c.phase(), Phase::Running(_)));
        let running: Vec<Container> = running.collect();
        self.shared.disk_usage.look(self.folders(&running), WALK_PATIENCE).await;
        let this = self.clone();
        blocking(move || {
            let measured = running.iter().map(|container| measure(container, this.shared.disk_usage.of(&container.record.id)));
            Ok(measured.collect())
        })
        .await
    }

    /// What each container may have written to on the disk. The files that the containers of a
    /// sandbox share count for the first of them.
    fn folders(&self, running: &[Container]) -> BTreeMap<String, Vec<PathBuf>> {
        let mut seen = BTreeSet::new();
        let of = |container: &Container| {
            let record = &container.record;
            let is_first = seen.insert(record.sandbox_id.clone());
            let shared = is_first.then(|| self.shared.layout.sandbox_shared(&record.sandbox_id).0);
            // Volumes that the image declares are the container's, too.
            let own = ["upper", "volumes"].map(|name| record.launch.writable.join(name));
            (record.id.clone(), own.into_iter().chain(shared).collect())
        };
        running.iter().map(of).collect()
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

fn measure(container: &Container, written: FilesystemUsage) -> ContainerStats {
    let record = &container.record;
    let usage = Cgroup::new(&record.launch.cgroup).usage();
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn folders(of: &[(&str, &Path)]) -> BTreeMap<String, Vec<PathBuf>> {
        of.iter().map(|(id, folder)| ((*id).to_owned(), vec![folder.to_path_buf()])).collect()
    }

    #[tokio::test]
    async fn what_was_written_is_counted_and_those_that_are_gone_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), vec![1; 1 << 16]).unwrap();
        let usage = Arc::new(DiskUsage::default());
        usage.look(folders(&[("a", dir.path()), ("b", &dir.path().join("missing"))]), Duration::from_secs(60)).await;
        assert!(usage.of("a").used_bytes >= 1 << 16, "{:?}", usage.of("a"));
        assert_eq!(usage.of("b"), FilesystemUsage::default());
        assert!(usage.due([&"a".to_owned(), &"c".to_owned()].into_iter()) == ["c"], "a was just walked");
        usage.look(BTreeMap::new(), Duration::from_secs(60)).await;
        assert_eq!(usage.of("a"), FilesystemUsage::default());
    }

    /// The walk that takes long keeps the only place; figures neither wait for it nor begin
    /// another.
    #[tokio::test]
    async fn a_walk_that_takes_long_holds_no_figures_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), vec![1; 1 << 16]).unwrap();
        let usage = Arc::new(DiskUsage::default());
        let long_walk = usage.walks.clone().try_acquire_owned().unwrap();
        usage.look(folders(&[("a", dir.path())]), Duration::from_secs(60)).await;
        assert_eq!(usage.of("a"), FilesystemUsage::default());
        drop(long_walk);
        usage.look(folders(&[("a", dir.path())]), Duration::from_secs(60)).await;
        assert!(usage.of("a").used_bytes >= 1 << 16);
    }
}
