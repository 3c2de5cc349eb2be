//! From requests and limits to the values that the kernel gets: processor shares and quota, memory,
//! OOM score (the kubelet's `cm` package).

use std::collections::BTreeMap;

use containers::Resources;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::qos::{self, Class};
use super::{containers, init_containers, is_sidecar};

/// Kernel figures of cgroup v1.
const SHARES_PER_CPU: i64 = 1024;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 1 << 18;
const PERIOD_US: u64 = 100_000;
const MIN_QUOTA_US: i64 = 1000;
/// The kernel's `max_bw_runtime_us`: more is refused.
const MAX_QUOTA_US: i64 = (1 << 44) - 1;

/// OOM scores of the classes (`pkg/kubelet/qos`): BestEffort goes first.
const GUARANTEED_OOM_SCORE: i32 = -997;
const BEST_EFFORT_OOM_SCORE: i32 = 1000;
/// Pods from this priority on are protected like guaranteed ones (`system-node-critical` is 1,000
/// above it).
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

pub fn of_container(pod: &Pod, container: &Container, node_memory_bytes: i64) -> Resources {
    let requirements = requirements(container);
    let limit_cpu = amount(&requirements.limits, "cpu");
    let request_cpu = amount(&requirements.requests, "cpu").or(limit_cpu);
    let memory = amount(&requirements.limits, "memory").filter(|&milli| milli > 0).map(|milli| milli / 1000);
    Resources {
        cpu_shares: Some(shares(request_cpu.unwrap_or(0))),
        cpu_quota_us: limit_cpu.filter(|&milli| milli > 0).map(quota),
        cpu_period_us: limit_cpu.filter(|&milli| milli > 0).map(|_| PERIOD_US),
        memory_limit_bytes: memory,
        pids_limit: None,
        oom_score_adj: Some(oom_score(pod, container, node_memory_bytes)),
    }
}

/// What holds all containers of a pod: its own resources, or the sum of requests; limits of
/// containers only when every one has one.
pub fn of_pod(pod: &Pod) -> Resources {
    let requirements = pod_requirements(pod);
    let bounded = |name: &str| {
        let limited = |container: &Container| amount(&self::requirements(container).limits, name).is_some_and(|milli| milli > 0);
        containers(pod).iter().chain(init_containers(pod)).all(limited)
    };
    let own = |name: &str| own_resources(pod).is_some_and(|own| own.limits.as_ref().is_some_and(|limits| limits.contains_key(name)));
    let limit_cpu = amount(&requirements.limits, "cpu").filter(|_| own("cpu") || bounded("cpu"));
    let limit_memory = amount(&requirements.limits, "memory").filter(|_| own("memory") || bounded("memory"));
    Resources {
        cpu_shares: Some(shares(amount(&requirements.requests, "cpu").unwrap_or(0))),
        cpu_quota_us: limit_cpu.map(quota),
        cpu_period_us: limit_cpu.map(|_| PERIOD_US),
        memory_limit_bytes: limit_memory.map(|milli| milli / 1000),
        oom_score_adj: None,
        pids_limit: None,
    }
}

/// Of two limits the one that holds less back; none at all holds nothing back.
pub fn larger(a: &Resources, b: &Resources) -> Resources {
    let most = |a: Option<i64>, b: Option<i64>| Some(a?.max(b?));
    Resources {
        cpu_shares: a.cpu_shares.max(b.cpu_shares),
        cpu_quota_us: most(a.cpu_quota_us, b.cpu_quota_us),
        cpu_period_us: a.cpu_period_us.or(b.cpu_period_us),
        memory_limit_bytes: most(a.memory_limit_bytes, b.memory_limit_bytes),
        oom_score_adj: None,
        pids_limit: None,
    }
}

/// For a change: a limit that is left out stays as it is, so what has none any more says so.
pub fn with_none_lifted(limits: Resources) -> Resources {
    Resources { cpu_quota_us: limits.cpu_quota_us.or(Some(-1)), memory_limit_bytes: limits.memory_limit_bytes.or(Some(-1)), ..limits }
}

/// The resources that a pod asks for as a whole (`spec.resources`), if it does.
pub fn own_resources(pod: &Pod) -> Option<&ResourceRequirements> {
    let own = pod.spec.as_ref()?.resources.as_ref()?;
    let mut names = own.requests.iter().chain(&own.limits).flat_map(BTreeMap::keys);
    names.any(|name| is_of_pods(name)).then_some(own)
}

/// What may be asked for a pod as a whole.
fn is_of_pods(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

/// A container's resources, with requests filled from limits.
pub fn requirements(container: &Container) -> ResourceRequirements {
    let Some(resources) = &container.resources else { return ResourceRequirements::default() };
    let mut requests = resources.requests.clone().unwrap_or_default();
    for (name, limit) in resources.limits.iter().flatten() {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    let some = |map: BTreeMap<String, Quantity>| if map.is_empty() { None } else { Some(map) };
    ResourceRequirements { limits: resources.limits.clone().and_then(some), requests: some(requests), claims: None }
}

/// What a pod needs in all: its own resources, else containers and sidecars together or its largest
/// init container; and its overhead.
pub fn pod_requirements(pod: &Pod) -> ResourceRequirements {
    let pick = |select: fn(&ResourceRequirements) -> &Option<BTreeMap<String, Quantity>>| {
        let of = |container: &Container| select(&requirements(container)).clone().unwrap_or_default();
        let mut total: BTreeMap<String, kinds::quantity::Quantity> = BTreeMap::new();
        let mut sidecars: BTreeMap<String, kinds::quantity::Quantity> = BTreeMap::new();
        let mut peak: BTreeMap<String, kinds::quantity::Quantity> = BTreeMap::new();
        containers(pod).iter().for_each(|container| add(&mut total, &of(container)));
        for container in init_containers(pod) {
            if is_sidecar(container) {
                add(&mut sidecars, &of(container));
                max(&mut peak, &sidecars);
            } else {
                let mut now = sidecars.clone();
                add(&mut now, &of(container));
                max(&mut peak, &now);
            }
        }
        for (name, quantity) in &sidecars {
            let sum = total.get(name).map_or_else(|| quantity.clone(), |old| old.add(quantity));
            total.insert(name.clone(), sum);
        }
        max(&mut total, &peak);
        let own = own_resources(pod).and_then(|own| select(own).as_ref());
        for (name, text) in own.into_iter().flatten().filter(|(name, _)| is_of_pods(name)) {
            if let Ok(quantity) = kinds::quantity::Quantity::parse(&text.0) {
                total.insert(name.clone(), quantity);
            }
        }
        if let Some(overhead) = pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref()) {
            add(&mut total, overhead);
        }
        let texts: BTreeMap<String, Quantity> = total.into_iter().map(|(name, quantity)| (name, Quantity(quantity.to_string()))).collect();
        if texts.is_empty() { None } else { Some(texts) }
    };
    ResourceRequirements {
        limits: pick(|requirements| &requirements.limits),
        requests: pick(|requirements| &requirements.requests),
        claims: None,
    }
}

fn add(total: &mut BTreeMap<String, kinds::quantity::Quantity>, more: &BTreeMap<String, Quantity>) {
    for (name, text) in more {
        let Ok(quantity) = kinds::quantity::Quantity::parse(&text.0) else { continue };
        let sum = total.get(name).map_or_else(|| quantity.clone(), |old| old.add(&quantity));
        total.insert(name.clone(), sum);
    }
}

fn max(total: &mut BTreeMap<String, kinds::quantity::Quantity>, other: &BTreeMap<String, kinds::quantity::Quantity>) {
    for (name, quantity) in other {
        if total.get(name).is_none_or(|old| old.millis() < quantity.millis()) {
            total.insert(name.clone(), quantity.clone());
        }
    }
}

/// In thousandths.
pub fn amount(map: &Option<BTreeMap<String, Quantity>>, name: &str) -> Option<i64> {
    let text = map.as_ref()?.get(name)?;
    kinds::quantity::Quantity::parse(&text.0).ok().map(|quantity| quantity.millis())
}

fn shares(milli: i64) -> u64 {
    let shares = i128::from(milli) * i128::from(SHARES_PER_CPU) / 1000;
    i64::try_from(shares).unwrap_or(MAX_SHARES).clamp(MIN_SHARES, MAX_SHARES).unsigned_abs()
}

fn quota(milli: i64) -> i64 {
    let quota = i128::from(milli) * i128::from(PERIOD_US) / 1000;
    i64::try_from(quota).unwrap_or(MAX_QUOTA_US).clamp(MIN_QUOTA_US, MAX_QUOTA_US)
}

fn oom_score(pod: &Pod, container: &Container, node_memory_bytes: i64) -> i32 {
    if pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0) >= CRITICAL_PRIORITY {
        return GUARANTEED_OOM_SCORE;
    }
    match qos::class(pod) {
        Class::Guaranteed => GUARANTEED_OOM_SCORE,
        Class::BestEffort => BEST_EFFORT_OOM_SCORE,
        Class::Burstable => {
            let request = amount(&requirements(container).requests, "memory").unwrap_or(0) / 1000 + unclaimed_memory(pod);
            let share = if node_memory_bytes > 0 { i128::from(request) * 1000 / i128::from(node_memory_bytes) } else { 0 };
            // Always above guaranteed pods and below best-effort ones.
            (1000 - i32::try_from(share).unwrap_or(1000)).clamp(1000 + GUARANTEED_OOM_SCORE, BEST_EFFORT_OOM_SCORE - 1)
        }
    }
}

/// Each container's part of the memory that a pod requests as a whole and no container does.
fn unclaimed_memory(pod: &Pod) -> i64 {
    let whole = own_resources(pod).and_then(|own| amount(&own.requests, "memory")).unwrap_or(0) / 1000;
    let claimed = |container: &Container| amount(&requirements(container).requests, "memory").unwrap_or(0) / 1000;
    let all: Vec<&Container> =
        containers(pod).iter().chain(init_containers(pod).iter().filter(|container| is_sidecar(container))).collect();
    let left = all.iter().fold(whole, |left, container| left.saturating_sub(claimed(container))).max(0);
    left / i64::try_from(all.len().max(1)).unwrap_or(1)
}

/// Where a pod's control group lies below the node's: `kubepods/burstable/pod<uid>`; guaranteed
/// pods have no folder for their class.
pub fn cgroup(pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match qos::class(pod) {
        Class::Guaranteed => format!("kubepods/pod{uid}"),
        Class::Burstable => format!("kubepods/burstable/pod{uid}"),
        Class::BestEffort => format!("kubepods/besteffort/pod{uid}"),
    }
}
