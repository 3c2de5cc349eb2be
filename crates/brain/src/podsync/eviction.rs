//! Which pod a node ends when it runs out of memory, disk or process ids, and which images it gives
//! up first.
//!
//! The kubelet's rules (`pkg/kubelet/eviction`): hard thresholds, one pod at a time, ranked by
//! whether it uses more than it asked for, by priority, and by how much more.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use containers::UnusedImage;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};

use kinds::quantity::{Quantity, QuantityError};

use super::admission::Rejection;
use super::registration::Pressure;
use super::{Ended, containers, limits};

/// How little is too little: an amount, or a share of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    Absolute(i64),
    Percent(i64),
}

impl Amount {
    fn parse(text: &str) -> Result<Amount, ThresholdError> {
        let amount = || text.to_owned();
        Ok(match text.strip_suffix('%') {
            Some(percent) => Amount::Percent(percent.parse().map_err(|source| ThresholdError::Percentage { amount: amount(), source })?),
            None => {
                let quantity = Quantity::parse(text).map_err(|source| ThresholdError::Quantity { amount: amount(), source })?;
                Amount::Absolute(quantity.value())
            }
        })
    }

    fn of(self, whole: i64) -> i64 {
        match self {
            Amount::Absolute(amount) => amount,
            Amount::Percent(percent) => share(whole, percent),
        }
    }
}

/// When a node acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    pub memory: Amount,
    pub disk: Amount,
    pub inodes: Amount,
    pub image_disk: Amount,
    pub pids: Amount,
    /// Images are collected from this share of the disk on, down to that one.
    pub images_high_percent: i64,
    pub images_low_percent: i64,
}

impl Default for Thresholds {
    /// The kubelet's.
    fn default() -> Thresholds {
        Thresholds {
            memory: Amount::Absolute(100 * 1024 * 1024),
            disk: Amount::Percent(10),
            inodes: Amount::Percent(5),
            image_disk: Amount::Percent(15),
            pids: Amount::Percent(5),
            images_high_percent: 85,
            images_low_percent: 80,
        }
    }
}

/// What is wrong with written thresholds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    #[error("{0:?} is no threshold: write SIGNAL<AMOUNT")]
    NoThreshold(String),
    #[error("there is no signal {0:?}")]
    NoSignal(String),
    #[error("{amount:?} is no percentage")]
    Percentage { amount: String, source: std::num::ParseIntError },
    #[error("{amount:?} is no quantity")]
    Quantity { amount: String, source: QuantityError },
}

impl Thresholds {
    /// Changes what the text names, in the kubelet's words:
    /// `memory.available<100Mi,nodefs.available<10%`.
    pub fn set(&mut self, text: &str) -> Result<(), ThresholdError> {
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (signal, amount) = part.split_once('<').ok_or_else(|| ThresholdError::NoThreshold(part.to_owned()))?;
            let place = match signal {
                "memory.available" => &mut self.memory,
                "nodefs.available" => &mut self.disk,
                "nodefs.inodesFree" => &mut self.inodes,
                "imagefs.available" => &mut self.image_disk,
                "pid.available" => &mut self.pids,
                _ => return Err(ThresholdError::NoSignal(signal.to_owned())),
            };
            *place = Amount::parse(amount)?;
        }
        Ok(())
    }
}

/// A pressure shows for this long after it was last seen, in seconds: conditions that flap help no
/// scheduler.
const PRESSURE_STAYS_SECONDS: i64 = 300;

/// When the pressures of a node were last seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LastSeen {
    memory: Option<Timestamp>,
    disk: Option<Timestamp>,
    pids: Option<Timestamp>,
}

impl LastSeen {
    /// Notes what is short now; returns what the node shows.
    pub fn note(&mut self, shortages: &[Shortage], now: Timestamp, before: Pressure) -> Pressure {
        let note = |last: &mut Option<Timestamp>, resources: &[Resource]| {
            if shortages.iter().any(|shortage| resources.contains(&shortage.resource)) {
                *last = Some(now);
            }
            last.is_some_and(|last| now.duration_since(last).as_secs() < PRESSURE_STAYS_SECONDS)
        };
        Pressure {
            memory: note(&mut self.memory, &[Resource::Memory]),
            disk: note(&mut self.disk, &[Resource::EphemeralStorage, Resource::Inodes]),
            pids: note(&mut self.pids, &[Resource::Pids]),
            ..before
        }
    }
}

/// Evicted pods get next to no time.
const GRACE_SECONDS: i64 = 1;

/// Pods from this priority on are never evicted (`system-cluster-critical`).
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// An image that was used or fetched a moment ago stays.
const IMAGE_MIN_AGE_SECONDS: i64 = 120;

/// What a node has left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    pub memory_capacity: i64,
    pub memory_available: i64,
    pub disk: Disk,
    pub image_disk: Disk,
    pub pids_max: i64,
    pub pids_used: i64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    pub capacity: i64,
    pub available: i64,
    pub inodes: i64,
    pub inodes_free: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    Memory,
    EphemeralStorage,
    Inodes,
    Pids,
}

impl Resource {
    fn name(self) -> &'static str {
        match self {
            Resource::Memory => "memory",
            Resource::EphemeralStorage => "ephemeral-storage",
            Resource::Inodes => "inodes",
            Resource::Pids => "pids",
        }
    }
}

/// A threshold that is crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    pub resource: Resource,
    pub threshold: i64,
    pub available: i64,
    /// More room for images is what helps first.
    pub is_disk: bool,
}

/// All thresholds that are crossed, the most urgent first. Figures of zero capacity are unknown and
/// cross nothing.
pub fn shortages(figures: &Figures, thresholds: &Thresholds) -> Vec<Shortage> {
    let mut found = Vec::new();
    let mut check = |resource, available: i64, threshold: i64, is_known: bool, is_disk| {
        if is_known && available < threshold {
            found.push(Shortage { resource, threshold, available, is_disk });
        }
    };
    let memory = thresholds.memory.of(figures.memory_capacity);
    check(Resource::Memory, figures.memory_available, memory, figures.memory_available > 0, false);
    for (disk, amount) in [(figures.disk, thresholds.disk), (figures.image_disk, thresholds.image_disk)] {
        check(Resource::EphemeralStorage, disk.available, amount.of(disk.capacity), disk.capacity > 0, true);
        check(Resource::Inodes, disk.inodes_free, thresholds.inodes.of(disk.inodes), disk.inodes > 0, true);
    }
    let pids_left = figures.pids_max - figures.pids_used;
    check(Resource::Pids, pids_left, thresholds.pids.of(figures.pids_max), figures.pids_max > 0, false);
    found
}

fn share(whole: i64, percent: i64) -> i64 {
    i64::try_from(i128::from(whole) * i128::from(percent) / 100).unwrap_or(i64::MAX)
}

/// What a pod uses, by container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub containers: Vec<ContainerUsage>,
    /// Folders of its own, bytes and files.
    pub volumes_bytes: i64,
    pub volumes_inodes: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    pub name: String,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
    pub inodes: i64,
    pub processes: i64,
}

impl Usage {
    fn of(&self, resource: Resource) -> i64 {
        let sum = |amount: fn(&ContainerUsage) -> i64| self.containers.iter().map(amount).sum::<i64>();
        match resource {
            Resource::Memory => sum(|container| container.memory_bytes),
            Resource::EphemeralStorage => sum(|container| container.disk_bytes) + self.volumes_bytes,
            Resource::Inodes => sum(|container| container.inodes) + self.volumes_inodes,
            Resource::Pids => sum(|container| container.processes),
        }
    }
}

/// The pod to end first; None when all that is left is critical.
pub fn victim<'a>(shortage: &Shortage, pods: &'a [(Pod, Usage)]) -> Option<&'a (Pod, Usage)> {
    let evictable = pods.iter().filter(|(pod, _)| priority(pod) < CRITICAL_PRIORITY);
    evictable.min_by_key(|(pod, usage)| {
        let (used, requested) = (usage.of(shortage.resource), requested(pod, shortage.resource));
        // False sorts first: those beyond their requests go first, then the less important, then
        // the pod that is the most beyond.
        (used <= requested, priority(pod), Reverse(used - requested), pod.metadata.name.clone())
    })
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

fn requested(pod: &Pod, resource: Resource) -> i64 {
    let requests = limits::pod_requirements(pod).requests;
    match resource {
        Resource::Memory | Resource::EphemeralStorage => limits::amount(&requests, resource.name()).map_or(0, |milli| milli / 1000),
        Resource::Inodes | Resource::Pids => 0,
    }
}

/// How the agent reports the victim's end.
pub fn ended(shortage: &Shortage, pod: &Pod, usage: &Usage) -> Ended {
    let resource = shortage.resource;
    let mut message = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        resource.name(),
        quantity(shortage.threshold, resource),
        quantity(shortage.available, resource)
    );
    for container in &usage.containers {
        let Some(spec) = containers(pod).iter().find(|spec| spec.name == container.name) else { continue };
        let used = match resource {
            Resource::Memory => container.memory_bytes,
            Resource::EphemeralStorage => container.disk_bytes,
            Resource::Inodes | Resource::Pids => continue,
        };
        let request = limits::amount(&limits::requirements(spec).requests, resource.name()).map_or(0, |milli| milli / 1000);
        if used > request {
            message.push_str(&format!(
                "Container {} was using {}, request is {}, has larger consumption of {}. ",
                container.name,
                quantity(used, resource),
                quantity(request, resource),
                resource.name()
            ));
        }
    }
    evicted(message)
}

fn evicted(message: String) -> Ended {
    Ended { reason: "Evicted".to_owned(), message, grace_seconds: Some(GRACE_SECONDS), disruption: Some("TerminationByKubelet".to_owned()) }
}

/// Bytes in the unit that divides them, as Kubernetes writes them.
fn quantity(amount: i64, resource: Resource) -> String {
    if matches!(resource, Resource::Inodes | Resource::Pids) || amount == 0 {
        return amount.to_string();
    }
    if amount % (1024 * 1024) == 0 { format!("{}Mi", amount / (1024 * 1024)) } else { format!("{}Ki", amount / 1024) }
}

/// A volume, pod or container that holds more than it may, in Kubernetes' order. `volumes_used`:
/// bytes by the names of emptyDir volumes.
pub fn over_limit(pod: &Pod, volumes_used: &BTreeMap<String, i64>, usage: &Usage) -> Option<Ended> {
    const RESOURCE: &str = "ephemeral-storage";
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    if let Some((name, text)) = volumes.filter_map(|volume| volume_over_limit(volume, volumes_used)).next() {
        return Some(evicted(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{text}\". ")));
    }
    let of_pod = limits::pod_requirements(pod).limits;
    if let Some(limit) = limits::amount(&of_pod, RESOURCE).map(|milli| milli / 1000)
        && usage.of(Resource::EphemeralStorage) > limit
    {
        let text = of_pod.as_ref().and_then(|limits| limits.get(RESOURCE)).map_or_else(String::new, |quantity| quantity.0.clone());
        return Some(evicted(format!("Pod ephemeral local storage usage exceeds the total limit of containers {text}. ")));
    }
    containers(pod).iter().find_map(|container| {
        let own = limits::requirements(container).limits;
        let text = own.as_ref()?.get(RESOURCE)?.0.clone();
        let limit = limits::amount(&own, RESOURCE)? / 1000;
        let used = usage.containers.iter().find(|used| used.name == container.name)?.disk_bytes;
        let name = &container.name;
        (used > limit).then(|| evicted(format!("Container {name} exceeded its local ephemeral storage limit \"{text}\". ")))
    })
}

/// Name and limit of an emptyDir on the disk that holds too much. File systems in memory enforce
/// their limits themselves.
fn volume_over_limit<'a>(volume: &'a Volume, used: &BTreeMap<String, i64>) -> Option<(&'a str, &'a str)> {
    let source = volume.empty_dir.as_ref().filter(|source| source.medium.as_deref() != Some("Memory"))?;
    let text = &source.size_limit.as_ref()?.0;
    let limit = kinds::quantity::Quantity::parse(text).ok()?.value();
    let used = used.get(&volume.name).copied().unwrap_or(0);
    (limit > 0 && used > limit).then_some((&volume.name, text))
}

/// A node under pressure accepts no pods that make it worse.
pub fn check_pressure(pod: &Pod, pressure: Pressure) -> Result<(), Rejection> {
    if priority(pod) >= CRITICAL_PRIORITY {
        return Ok(());
    }
    let is_best_effort = super::qos::class(pod) == super::qos::Class::BestEffort;
    let tolerates_memory = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten()).any(|toleration| {
        toleration.key.as_deref() == Some("node.kubernetes.io/memory-pressure") || toleration.key.as_deref().is_none_or(str::is_empty)
    });
    let conditions: Vec<&str> = [
        (pressure.memory && is_best_effort && !tolerates_memory, "MemoryPressure"),
        (pressure.disk, "DiskPressure"),
        (pressure.pids, "PIDPressure"),
    ]
    .into_iter()
    .filter_map(|(holds, name)| holds.then_some(name))
    .collect();
    if conditions.is_empty() {
        return Ok(());
    }
    Err(Rejection::new("Evicted", format!("The node had condition: [{}]. ", conditions.join(" "))))
}

/// What decides whether images go.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    pub now: Timestamp,
    /// The node has too little of some disk.
    pub is_short: bool,
    pub thresholds: &'a Thresholds,
}

/// The images to remove: from the high threshold on, those unused the longest, until the low one.
/// With `is_short` as much as there is.
pub fn images_to_remove(disk: &Disk, images: &[UnusedImage], room: Room<'_>) -> Vec<String> {
    let Room { is_short, thresholds, now } = room;
    if disk.capacity <= 0 {
        return Vec::new();
    }
    let used = disk.capacity - disk.available;
    let (high, low) = (share(disk.capacity, thresholds.images_high_percent), share(disk.capacity, thresholds.images_low_percent));
    if used < high && !is_short {
        return Vec::new();
    }
    let mut to_free = if is_short { i64::MAX } else { used - low };
    let unused_seconds = |image: &UnusedImage| now.duration_since(image.last_used).as_secs();
    let mut candidates: Vec<&UnusedImage> =
        images.iter().filter(|image| !image.image.pinned && unused_seconds(image) >= IMAGE_MIN_AGE_SECONDS).collect();
    candidates.sort_by(|a, b| a.last_used.cmp(&b.last_used).then_with(|| a.image.id.cmp(&b.image.id)));
    let mut chosen = Vec::new();
    for image in candidates {
        if to_free <= 0 {
            break;
        }
        to_free = to_free.saturating_sub(i64::try_from(image.frees_bytes).unwrap_or(i64::MAX));
        chosen.push(image.image.id.clone());
    }
    chosen
}
