//! What the node has left, and what it does when that is too little: collects images, ends pods,
//! says so.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use brain::podsync::eviction::{self, ContainerUsage, Disk, Figures, LastSeen, Room, Usage};
use brain::podsync::phase::Phase;
use brain::podsync::{is_deleted, uid};
use brain::request::EventType;
use containers::ContainerStats;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::Context;

use super::pods::Pods;

/// The kubelet looks this often.
const PERIOD: Duration = Duration::from_secs(10);

/// Whose calls they are that belong to no pod.
const OF_THE_NODE: &str = "the node";

/// Watches the node until dropped.
pub async fn run(context: &Arc<Context>, pods: &Arc<Pods>) {
    let mut last_seen = LastSeen::default();
    loop {
        tokio::time::sleep(PERIOD).await;
        let figures = figures(context).await;
        let shortages = eviction::shortages(&figures, &context.settings.thresholds);
        note(context, &shortages, &mut last_seen);
        let is_disk_short = shortages.iter().any(|shortage| shortage.is_disk);
        if is_disk_short {
            remove_dead_containers(context, pods).await;
        }
        collect_images(context, &figures, is_disk_short).await;
        look_at_volumes(context, pods).await;
        end_over_limit(context, pods).await;
        if let Some(shortage) = shortages.first() {
            evict(context, pods, shortage).await;
        }
    }
}

fn note(context: &Context, shortages: &[eviction::Shortage], last_seen: &mut LastSeen) {
    let before = context.registration.pressure();
    let pressure = last_seen.note(shortages, Timestamp::now(), before);
    if pressure != before {
        context.registration.set_pressure(pressure);
    }
}

async fn figures(context: &Context) -> Figures {
    let (root_dir, image_dir) = (context.settings.root_dir.clone(), context.settings.image_dir.clone());
    // A disk that does not answer is not known to be full.
    let disks = context.volume_calls.run(OF_THE_NODE, move || (disk(&root_dir), disk(&image_dir))).await;
    let (disk, image_disk) = disks.unwrap_or_default();
    Figures {
        memory_capacity: context.machine.memory_bytes,
        memory_available: memory_available(context).await,
        disk,
        image_disk,
        pids_max: read_number("/proc/sys/kernel/pid_max"),
        pids_used: processes(),
    }
}

/// Of the machine, or of this node's share of it.
async fn memory_available(context: &Context) -> i64 {
    let of_machine = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = of_machine.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let machine = available.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok()).map_or(0, |kib| kib * 1024);
    match context.settings.memory_bytes {
        None => machine,
        Some(share) => {
            let stats = context.runtime.container_stats().await.unwrap_or_default();
            let used: u64 = stats.iter().map(|stats| stats.memory_working_set_bytes).sum();
            machine.min((share - i64::try_from(used).unwrap_or(i64::MAX)).max(1))
        }
    }
}

fn disk(path: &Path) -> Disk {
    let Ok(figures) = rustix::fs::statvfs(path) else { return Disk::default() };
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(figures.f_frsize)).unwrap_or(i64::MAX);
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    Disk {
        capacity: bytes(figures.f_blocks),
        available: bytes(figures.f_bavail),
        inodes: count(figures.f_files),
        inodes_free: count(figures.f_ffree),
    }
}

fn read_number(path: &str) -> i64 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The fourth field of /proc/loadavg is `running/all`.
fn processes() -> i64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().nth(3).and_then(|field| field.split_once('/')?.1.parse().ok()).unwrap_or(0)
}

async fn collect_images(context: &Context, figures: &Figures, is_short: bool) {
    let unused = context.images.unused().await.unwrap_or_default();
    let room = Room { now: Timestamp::now(), is_short, thresholds: &context.settings.thresholds };
    for id in eviction::images_to_remove(&figures.image_disk, &unused, room) {
        match context.images.remove(&id).await {
            Ok(()) => tracing::info!(image = id, "removed an image that nothing uses: the disk is full"),
            Err(error) => tracing::warn!(%error, image = id, "cannot remove an image"),
        }
    }
}

/// What ended containers wrote goes when room is short, that of evicted pods above all. The API
/// server has their statuses; their logs stay.
async fn remove_dead_containers(context: &Context, pods: &Pods) {
    let is_over = |pod: &Arc<Pod>| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        phase.and_then(Phase::parse).is_some_and(Phase::is_terminal)
    };
    for pod in pods.all().iter().filter(|pod| is_over(pod)) {
        let observed = context.observer.observed(uid(pod));
        if observed.is_anything_running() {
            continue;
        }
        for record in &observed.containers {
            if let Err(error) = context.runtime.remove_container(context.observer.bare(&record.id)).await {
                tracing::warn!(%error, container = record.name, "cannot remove a container that ended");
            }
        }
    }
}

async fn evict(context: &Context, pods: &Pods, shortage: &eviction::Shortage) {
    let running: Vec<(Pod, Usage)> = usages(context, pods).await;
    if let Some((pod, usage)) = eviction::victim(shortage, &running) {
        let ended = eviction::ended(shortage, pod, usage);
        context.events.pod(pod, EventType::Warning, "Evicted", ended.message.clone());
        pods.end(uid(pod), ended);
    }
}

async fn look_at_volumes(context: &Context, pods: &Pods) {
    let all = pods.all();
    let uids: Vec<&str> = all.iter().filter(|pod| !is_deleted(pod)).map(|pod| uid(pod)).collect();
    context.volume_usages.look(&context.settings, &uids).await;
}

/// Pods whose volumes or containers hold more than their limits.
async fn end_over_limit(context: &Context, pods: &Pods) {
    for (pod, usage) in usages(context, pods).await {
        let used = context.volume_usages.of(uid(&pod)).empty_dirs;
        let used = used.into_iter().map(|(name, measure)| (name, number(measure.bytes))).collect();
        if let Some(ended) = eviction::over_limit(&pod, &used, &usage) {
            context.events.pod(&pod, EventType::Warning, "Evicted", ended.message.clone());
            pods.end(uid(&pod), ended);
        }
    }
}

async fn usages(context: &Context, pods: &Pods) -> Vec<(Pod, Usage)> {
    let stats = context.runtime.container_stats().await.unwrap_or_default();
    let active = pods.all().into_iter().filter(|pod| !is_deleted(pod));
    active.map(|pod| (pod.as_ref().clone(), usage(context, &pod, &stats))).collect()
}

fn usage(context: &Context, pod: &Pod, stats: &[ContainerStats]) -> Usage {
    let observed = context.observer.observed(uid(pod));
    let containers = observed.containers.iter().filter(|record| record.is_running()).filter_map(|record| {
        let stats = stats.iter().find(|stats| stats.container_id == context.observer.bare(&record.id))?;
        Some(ContainerUsage {
            name: record.name.clone(),
            memory_bytes: number(stats.memory_working_set_bytes),
            disk_bytes: number(stats.rootfs_used_bytes + stats.log_used_bytes),
            inodes: number(stats.rootfs_inodes_used),
            processes: number(stats.processes),
        })
    });
    // File systems in memory count as memory of their containers, not as disk.
    let volumes = context.volume_usages.of(uid(pod)).sum();
    Usage { containers: containers.collect(), volumes_bytes: number(volumes.bytes), volumes_inodes: number(volumes.inodes) }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
