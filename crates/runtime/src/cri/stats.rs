//! What containers and sandboxes use now, with what the runtime does not tell read from the node.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use futures::{StreamExt, stream};

use super::messages::{self as cri, UInt64Value};
use super::sandboxes::{CGROUP_ANNOTATION, QUESTIONS_MAX};
use super::{Client, blocking, calls, errors, grpc, statuses};
use crate::cgroup::Cgroup;
use crate::netdev;
use containers::{ContainerStats, Error, Result, SandboxStats};

fn number(value: Option<UInt64Value>) -> u64 {
    value.map_or(0, |v| v.value)
}

impl Client {
    pub(super) async fn measure_containers(&self) -> Result<Vec<ContainerStats>> {
        let answer = self.shared.channel.call(calls::CONTAINER_STATS, &cri::Empty {}).await;
        let stats = answer.map_err(errors::general)?.stats;
        let sandboxes = self.listed_sandboxes().await?;
        let groups: BTreeMap<&str, &String> =
            sandboxes.iter().filter_map(|s| Some((s.id.as_str(), s.annotations.get(CGROUP_ANNOTATION)?))).collect();
        let containers = self.list_containers().await?.into_iter();
        let places: BTreeMap<String, Place> =
            containers.map(|c| (c.id, Place { log: c.log_path, pod: groups.get(c.sandbox_id.as_str()).map(|g| Cgroup::new(g)) })).collect();
        blocking(move || Ok(stats.into_iter().map(container).map(|s| with_place(s, &places)).collect())).await
    }

    pub(super) async fn measure_sandboxes(&self) -> Result<Vec<SandboxStats>> {
        let answer = self.shared.channel.call(calls::SANDBOX_STATS, &cri::Empty {}).await;
        match answer {
            Ok(answer) => Ok(answer.stats.into_iter().filter_map(sandbox).collect()),
            // containerd before 1.7, in its own words or those of gRPC.
            Err(grpc::CallError::Status { code, message }) if code == grpc::Code::Unimplemented || message.contains("not implemented") => {
                self.count_packets().await
            }
            Err(error) => Err(errors::general(error)),
        }
    }

    /// From the kernel's counters, seen by the sandbox's own process.
    async fn count_packets(&self) -> Result<Vec<SandboxStats>> {
        let ready = self.listed_sandboxes().await?.into_iter().filter(|s| s.state == cri::SANDBOX_READY);
        let asked = ready.map(|item| async move { self.ask_sandbox(&item.id, true).await });
        let answers: Vec<_> = stream::iter(asked).buffered(QUESTIONS_MAX).collect().await;
        let mut all = Vec::new();
        for answer in answers {
            match answer {
                Ok(answer) => all.extend(packets(answer)),
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

fn container(stats: cri::ContainerStats) -> ContainerStats {
    let cpu = stats.cpu.unwrap_or_default();
    let memory = stats.memory.unwrap_or_default();
    let written = stats.writable_layer.unwrap_or_default();
    let working_set = number(memory.working_set_bytes);
    ContainerStats {
        container_id: stats.attributes.unwrap_or_default().id,
        at: statuses::time(cpu.timestamp),
        cpu_nanoseconds: number(cpu.usage_core_nano_seconds),
        // Older runtimes tell the working set only.
        memory_usage_bytes: number(memory.usage_bytes).max(working_set),
        memory_working_set_bytes: working_set,
        memory_rss_bytes: number(memory.rss_bytes),
        memory_page_faults: number(memory.page_faults),
        memory_major_page_faults: number(memory.major_page_faults),
        processes: 0,
        rootfs_used_bytes: number(written.used_bytes),
        rootfs_inodes_used: number(written.inodes_used),
        log_used_bytes: 0,
    }
}

/// Where the node knows of a container.
struct Place {
    log: PathBuf,
    pod: Option<Cgroup>,
}

fn with_place(mut stats: ContainerStats, places: &BTreeMap<String, Place>) -> ContainerStats {
    let Some(place) = places.get(&stats.container_id) else { return stats };
    stats.log_used_bytes = fs::metadata(&place.log).map_or(0, |m| m.len());
    // As containerd and CRI-O name the groups of containers; one that is not there has no
    // processes.
    let names = [stats.container_id.clone(), format!("crio-{}", stats.container_id)];
    let groups = place.pod.iter().flat_map(|pod| names.iter().map(|name| pod.child(name)));
    stats.processes = groups.map(|group| group.usage().processes).sum();
    stats
}

/// None for those that have no network of their own.
fn sandbox(stats: cri::PodSandboxStats) -> Option<SandboxStats> {
    let network = stats.linux?.network?;
    let mut sum = SandboxStats { sandbox_id: stats.attributes.unwrap_or_default().id, ..Default::default() };
    for interface in network.default_interface.iter().chain(&network.interfaces).filter(|i| i.name != "lo") {
        sum.receive_bytes += number(interface.rx_bytes);
        sum.receive_errors += number(interface.rx_errors);
        sum.transmit_bytes += number(interface.tx_bytes);
        sum.transmit_errors += number(interface.tx_errors);
    }
    Some(sum)
}

fn packets(mut answer: cri::PodSandboxStatusResponse) -> Option<SandboxStats> {
    let info: serde_json::Value = serde_json::from_str(&answer.info.remove("info")?).ok()?;
    let pid = info.get("pid")?.as_u64().filter(|pid| *pid > 0)?;
    let status = statuses::sandbox(answer.status?);
    if status.host.network {
        return None;
    }
    // procfs is memory: reading it does not wait for a disk.
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    Some(netdev::sum(status.id, &text))
}
