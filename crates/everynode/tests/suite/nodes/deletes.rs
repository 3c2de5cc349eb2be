//! Pods that are deleted at any moment of their making end, and leave nothing, also when agents and
//! shims are killed meanwhile.
//!
//! Cause of the fault that this found: a worker that was making a container when its pod was
//! deleted left the container made and not started, took it for something that runs, and waited for
//! its end.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::leaks::{count, surplus};
use crate::support::Cluster;
use crate::support::cluster::{LONG, PODS, pod, wait_long};

/// EVERYNODE_DELETES asks for more.
const DELETES: usize = 120;

/// Creating and deleting at the same time.
const WORKERS: usize = 6;

/// The longest time between a pod's creation and its deletion.
const DELAY_MILLIS_MAX: u64 = 150;

/// An agent is killed after so many deletions, a shim after so many.
const AGENT_KILLS_EVERY: usize = 50;
const SHIM_KILLS_EVERY: usize = 9;

#[test]
fn pods_deleted_at_every_moment_of_their_making_end() {
    let Some(cluster) = Cluster::start_or_skip("deletes", 0) else { return };
    let deletes = std::env::var("EVERYNODE_DELETES").ok().and_then(|text| text.parse().ok()).unwrap_or(DELETES);
    let seed = std::env::var("EVERYNODE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}: EVERYNODE_SEED={seed} EVERYNODE_DELETES={deletes} repeats it");
    let node = cluster.control_plane();
    // What is made once is no leak.
    cluster.create_pod(&pod("first", "exec sleep 44000"));
    cluster.wait_ready("first");
    cluster.delete_pod("first");
    cluster.wait_gone("first");
    let before = count(&cluster, &node);
    let (done, end, random) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicU64::new(seed));
    std::thread::scope(|scope| {
        // The machine is busy: moments are longer, and others.
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                std::hint::spin_loop()
            }
        });
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(|| make_and_delete(&cluster, &node, deletes, &done, &random))).collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        end.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.expect("pods can be made and deleted"));
    });
    wait_long("the end of all pods", || cluster.pods().is_empty().then_some(()));
    let deadline = Instant::now() + LONG;
    let mut left = surplus(&before, &count(&cluster, &node));
    while !left.is_empty() {
        assert!(Instant::now() < deadline, "seed {seed}: {deletes} deletions left behind: {left:#?}");
        std::thread::sleep(Duration::from_millis(200));
        left = surplus(&before, &count(&cluster, &node));
    }
}

fn make_and_delete(cluster: &Cluster, node: &str, deletes: usize, done: &AtomicUsize, random: &AtomicU64) {
    let api = cluster.api();
    loop {
        let number = done.fetch_add(1, Ordering::Relaxed);
        if number >= deletes {
            return;
        }
        let name = format!("pod-{number}");
        let mut pod = pod(&name, "exec sleep 44000");
        pod["spec"]["terminationGracePeriodSeconds"] = json!(number % 3);
        if number.is_multiple_of(2) {
            pod["spec"]["volumes"] = json!([{"name": "memory", "emptyDir": {"medium": "Memory"}}, {"name": "disk", "emptyDir": {}}]);
            pod["spec"]["containers"][0]["volumeMounts"] =
                json!([{"name": "memory", "mountPath": "/m"}, {"name": "disk", "mountPath": "/d", "subPath": "part"}]);
            pod["spec"]["initContainers"] = json!([{"name": "before", "image": "busybox:test", "command": ["true"]}]);
        }
        api.create(PODS, &pod);
        std::thread::sleep(Duration::from_micros(next(random) % (DELAY_MILLIS_MAX * 1000)));
        if number % SHIM_KILLS_EVERY == SHIM_KILLS_EVERY - 1 {
            // It may have ended by itself meanwhile.
            let shim = cluster.processes_with(node, "everynode-shim").first().and_then(|&shim| Pid::from_raw(shim));
            let _ = shim.map(|shim| kill_process(shim, Signal::KILL));
        }
        if number % AGENT_KILLS_EVERY == AGENT_KILLS_EVERY - 1 {
            cluster.kill_agent(node);
        }
        let path = if number % 5 == 4 { format!("{PODS}/{name}?gracePeriodSeconds=0") } else { format!("{PODS}/{name}") };
        let code = api.delete(&path).code;
        assert!(code == 200 || code == 202, "deleting {name}: {code}");
    }
}

/// SplitMix64.
fn next(state: &AtomicU64) -> u64 {
    let mut z = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
