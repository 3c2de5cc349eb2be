//! `/stats/summary`: node, pods, containers, as JSON.

use std::sync::Arc;

use containers::ContainerStats;
use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::machine::{Filesystem, Interface};
use super::{Running, Sample, Samples, running};
use crate::server::Shared;
use crate::server::answer::{self, Body, Refusal};

pub(crate) async fn answer(shared: &Arc<Shared>) -> Result<Response<Body>, Refusal> {
    let samples = shared.stats.samples().await.map_err(|error| Refusal::new(500, error.to_string()))?;
    let pods: Vec<Value> = running(shared).iter().map(|running| pod(&samples, running)).collect();
    Ok(answer::json(&json!({"node": node(&samples, &shared.agent.context.settings.name), "pods": pods})))
}

fn node(samples: &Samples, name: &str) -> Value {
    let (at, machine) = (samples.now.at, &samples.now.machine);
    let mut network = machine.interfaces.first().map(interface).unwrap_or_else(|| json!({"name": ""}));
    network["time"] = time(at);
    network["interfaces"] = machine.interfaces.iter().map(interface).collect();
    json!({
        "nodeName": name,
        "startTime": Timestamp::from_second(machine.booted_at_seconds).map_or(Value::Null, time),
        "cpu": cpu(at, machine.cpu_nanoseconds, samples.rate(|sample| Some(sample.machine.cpu_nanoseconds))),
        "memory": {
            "time": time(at),
            "availableBytes": machine.memory_available_bytes,
            "usageBytes": machine.memory_usage_bytes,
            "workingSetBytes": machine.memory_working_set_bytes,
            "rssBytes": machine.memory_rss_bytes,
            "pageFaults": 0,
            "majorPageFaults": 0,
        },
        "network": network,
        "fs": filesystem(at, &machine.fs, machine.fs.used_bytes),
        "runtime": {"imageFs": filesystem(at, &machine.fs, machine.fs.used_bytes)},
        "rlimit": {"time": time(at), "maxpid": machine.processes_max, "curproc": machine.processes},
    })
}

fn pod(samples: &Samples, running: &Running) -> Value {
    let at = samples.now.at;
    let metadata = &running.pod.metadata;
    let stats: Vec<&ContainerStats> = running.containers.iter().filter_map(|(_, id, _, _)| samples.now.containers.get(id)).collect();
    let sum = |figure: fn(&ContainerStats) -> u64| -> u64 { stats.iter().map(|stats| figure(stats)).sum() };
    let containers: Vec<Value> =
        running.containers.iter().map(|(name, id, started_at, _)| container(samples, name, id, *started_at)).collect();
    let started_at = running.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let pod_cpu =
        |sample: &Sample| running.containers.iter().map(|(_, id, _, _)| sample.containers.get(id).map(|stats| stats.cpu_nanoseconds)).sum();
    let mut told = json!({
        "podRef": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid},
        "startTime": started_at.map_or(Value::Null, time),
        "containers": containers,
        "cpu": cpu(at, sum(|stats| stats.cpu_nanoseconds), samples.rate(pod_cpu)),
        "memory": {
            "time": time(at),
            "usageBytes": sum(|stats| stats.memory_usage_bytes),
            "workingSetBytes": sum(|stats| stats.memory_working_set_bytes),
            "rssBytes": sum(|stats| stats.memory_rss_bytes),
            "pageFaults": sum(|stats| stats.memory_page_faults),
            "majorPageFaults": sum(|stats| stats.memory_major_page_faults),
        },
        "ephemeral-storage": filesystem(at, &samples.now.machine.fs, sum(|stats| stats.rootfs_used_bytes + stats.log_used_bytes)),
        "process_stats": {"process_count": sum(|stats| stats.processes)},
    });
    if let Some(network) = running.sandbox_id.as_ref().and_then(|id| samples.now.sandboxes.get(id)) {
        let interface = interface(&Interface {
            name: "eth0".to_owned(),
            receive_bytes: network.receive_bytes,
            receive_errors: network.receive_errors,
            transmit_bytes: network.transmit_bytes,
            transmit_errors: network.transmit_errors,
        });
        told["network"] = interface.clone();
        told["network"]["time"] = time(at);
        told["network"]["interfaces"] = json!([interface]);
    }
    told
}

fn container(samples: &Samples, name: &str, id: &str, started_at: Option<Timestamp>) -> Value {
    let at = samples.now.at;
    let mut told = json!({"name": name, "startTime": started_at.map_or(Value::Null, time)});
    if let Some(stats) = samples.now.containers.get(id) {
        let fs = &samples.now.machine.fs;
        let rate = samples.rate(|sample| sample.containers.get(id).map(|stats| stats.cpu_nanoseconds));
        told["cpu"] = cpu(at, stats.cpu_nanoseconds, rate);
        told["memory"] = json!({
            "time": time(at),
            "usageBytes": stats.memory_usage_bytes,
            "workingSetBytes": stats.memory_working_set_bytes,
            "rssBytes": stats.memory_rss_bytes,
            "pageFaults": stats.memory_page_faults,
            "majorPageFaults": stats.memory_major_page_faults,
        });
        told["rootfs"] = filesystem(at, fs, stats.rootfs_used_bytes);
        told["rootfs"]["inodesUsed"] = stats.rootfs_inodes_used.into();
        told["logs"] = filesystem(at, fs, stats.log_used_bytes);
    }
    told
}

fn cpu(at: Timestamp, nanoseconds: u64, rate: Option<u64>) -> Value {
    let mut told = json!({"time": time(at), "usageCoreNanoSeconds": nanoseconds});
    if let Some(rate) = rate {
        told["usageNanoCores"] = rate.into();
    }
    told
}

fn filesystem(at: Timestamp, fs: &Filesystem, used_bytes: u64) -> Value {
    json!({
        "time": time(at),
        "availableBytes": fs.available_bytes,
        "capacityBytes": fs.capacity_bytes,
        "usedBytes": used_bytes,
        "inodesFree": fs.inodes_free,
        "inodes": fs.inodes,
        "inodesUsed": fs.inodes.saturating_sub(fs.inodes_free),
    })
}

fn interface(interface: &Interface) -> Value {
    json!({
        "name": interface.name,
        "rxBytes": interface.receive_bytes,
        "rxErrors": interface.receive_errors,
        "txBytes": interface.transmit_bytes,
        "txErrors": interface.transmit_errors,
    })
}

/// Whole seconds, as the API writes times.
fn time(at: Timestamp) -> Value {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}
