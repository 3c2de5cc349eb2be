//! What the volumes of pods take on the disk. Looked at on threads of its own: a volume may be
//! huge, or its disk slow, and the agent has leases to renew. A look that takes long goes on beside
//! the next one, which uses the figures of an earlier one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use runtime::trees::{self, Measure};

use super::hanging::Threads;
use super::settings::Settings;

/// Walks at a time.
const WALKS_MAX: usize = 4;

/// What one look waits for, all pods together.
const PATIENCE: Duration = Duration::from_secs(5);

/// Of one pod.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct VolumeUsage {
    /// By the names of the volumes. Those in memory count nothing here.
    pub empty_dirs: BTreeMap<String, Measure>,
    /// Files that the agent made and containers write to: /etc/hosts, termination messages.
    pub files: Measure,
}

impl VolumeUsage {
    pub fn sum(&self) -> Measure {
        self.empty_dirs.values().fold(self.files, |sum, measure| sum.plus(*measure))
    }
}

pub struct VolumeUsages {
    threads: Threads,
    patience: Duration,
    known: Arc<Mutex<BTreeMap<String, VolumeUsage>>>,
    /// Where the next look begins: pods at the end of the list have their turn, too.
    first: Mutex<usize>,
}

impl Default for VolumeUsages {
    fn default() -> VolumeUsages {
        VolumeUsages::new(PATIENCE)
    }
}

impl VolumeUsages {
    fn new(patience: Duration) -> VolumeUsages {
        VolumeUsages { threads: Threads::new(WALKS_MAX, patience), patience, known: Arc::default(), first: Mutex::default() }
    }

    /// Looks at these pods; others are forgotten.
    pub async fn look(&self, settings: &Settings, uids: &[&str]) {
        let dirs = uids.iter().map(|uid| ((*uid).to_owned(), settings.pod_dir(uid))).collect();
        self.look_with(dirs, of_pod).await;
    }

    async fn look_with(&self, mut dirs: Vec<(String, PathBuf)>, walk: fn(&Path) -> VolumeUsage) {
        lock(&self.known).retain(|uid, _| dirs.iter().any(|(known, _)| known == uid));
        let count = dirs.len().max(1);
        let first = std::mem::replace(&mut *lock(&self.first), 0) % count;
        if !dirs.is_empty() {
            dirs.rotate_left(first);
        }
        *lock(&self.first) = first + WALKS_MAX;
        let walks = dirs.into_iter().map(|(uid, dir)| {
            let (known, whom) = (self.known.clone(), uid.clone());
            // Also when its caller has stopped waiting.
            let work = move || {
                let usage = walk(&dir);
                lock(&known).insert(uid, usage);
            };
            async move { drop(self.threads.run(&whom, work).await) }
        });
        let walks: Vec<_> = walks.collect();
        let all = futures::stream::iter(walks).buffer_unordered(WALKS_MAX).collect::<()>();
        if tokio::time::timeout(self.patience, all).await.is_err() {
            tracing::debug!("the volumes of some pods take long to measure; their earlier figures are used");
        }
    }

    /// As it was last seen; nothing of a pod that was not looked at.
    pub fn of(&self, uid: &str) -> VolumeUsage {
        lock(&self.known).get(uid).cloned().unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn of_pod(dir: &Path) -> VolumeUsage {
    let volumes = dir.join("volumes/kubernetes.io~empty-dir");
    let names = std::fs::read_dir(&volumes).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let empty_dirs = names.map(|name| (name.to_string_lossy().into_owned(), trees::measure_in(&volumes, &name)));
    let hosts = trees::measure_file(&dir.join("etc-hosts"));
    VolumeUsage { empty_dirs: empty_dirs.collect(), files: hosts.plus(trees::measure(&dir.join("containers"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod whose name says that its volume hangs.
    fn hangs(dir: &Path) -> VolumeUsage {
        while dir.exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        VolumeUsage { files: Measure { bytes: 1, inodes: 1 }, ..VolumeUsage::default() }
    }

    #[test]
    fn volumes_and_files_of_a_pod_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let below = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(below("volumes/kubernetes.io~empty-dir/data/deep")).unwrap();
        std::fs::create_dir_all(below("volumes/kubernetes.io~configmap/config")).unwrap();
        std::fs::create_dir_all(below("containers/c")).unwrap();
        for name in ["volumes/kubernetes.io~empty-dir/data/deep/file", "etc-hosts", "containers/c/0"] {
            std::fs::write(below(name), vec![1; 1 << 16]).unwrap();
        }
        let usage = of_pod(dir.path());
        assert_eq!(usage.empty_dirs["data"].inodes, 2);
        assert!(usage.empty_dirs["data"].bytes >= 1 << 16 && usage.files.bytes >= 2 << 16, "{usage:?}");
        assert_eq!(usage.sum().inodes, 5);
    }

    /// The look ends, the others are measured, no second walk is begun, and the figures come when
    /// they come.
    #[tokio::test]
    async fn a_volume_that_hangs_holds_up_no_look() {
        let dir = tempfile::tempdir().unwrap();
        let usages = VolumeUsages::new(Duration::from_millis(20));
        let pods = || vec![("hung".to_owned(), dir.path().join("hung")), ("other".to_owned(), dir.path().join("other"))];
        std::fs::create_dir(dir.path().join("hung")).unwrap();
        while usages.of("other").files.bytes == 0 {
            usages.look_with(pods(), hangs).await;
        }
        assert_eq!(usages.of("hung"), VolumeUsage::default());
        std::fs::remove_dir(dir.path().join("hung")).unwrap();
        while usages.of("hung").files.bytes == 0 {
            usages.look_with(pods(), hangs).await;
        }
        usages.look_with(Vec::new(), hangs).await;
        assert_eq!(usages.of("other"), VolumeUsage::default(), "pods that are gone are forgotten");
    }
}
