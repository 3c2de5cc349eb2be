//! `/metrics` and what is below it: figures in Prometheus' text format, under the names that
//! dashboards know.

use std::fmt::Write as _;
use std::sync::Arc;

use brain::podsync::limits;
use containers::{ContainerStats, Resources, SandboxStats};
use http::Response;
use jiff::Timestamp;

use super::{Running, Samples, running};
use crate::node::pod::end;
use crate::server::Shared;
use crate::server::answer::{self, Body, Refusal};
use crate::server::route::Metrics;

pub(crate) async fn answer(shared: &Arc<Shared>, which: Metrics) -> Result<Response<Body>, Refusal> {
    let mut page = Page::default();
    match which {
        Metrics::Agent => agent(shared, &mut page),
        Metrics::Probes => {}
        Metrics::Resource => match shared.stats.samples().await {
            Ok(samples) => resource(shared, &samples, &running(shared), &mut page),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot read what containers use");
                scrape_error(&mut page, 1.0);
            }
        },
        Metrics::Cadvisor => {
            let samples = shared.stats.samples().await.map_err(|error| Refusal::new(500, error.to_string()))?;
            cadvisor(shared, &samples, &running(shared), &mut page);
        }
    }
    Ok(answer::metrics(page.0))
}

/// A text being written.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("writing to a String cannot fail");
    }

    /// `labels` are written already: `a="1",b="2"`.
    fn value(&mut self, name: &str, labels: &str, value: f64, at: Option<Timestamp>) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let at = at.map(|at| format!(" {}", at.as_millisecond())).unwrap_or_default();
        writeln!(self.0, "{name}{labels} {value}{at}").expect("writing to a String cannot fail");
    }
}

fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn pod_labels(running: &Running) -> String {
    let metadata = &running.pod.metadata;
    let namespace = label("namespace", metadata.namespace.as_deref().unwrap_or_default());
    format!("{namespace},{}", label("pod", metadata.name.as_deref().unwrap_or_default()))
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Figures of one container, with what its lines are labelled.
struct Labelled<'a> {
    labels: String,
    /// With what dashboards join on: control group, image, the container's id.
    all_labels: String,
    stats: &'a ContainerStats,
    started_at: Option<Timestamp>,
    limits: Resources,
}

fn labelled<'a>(shared: &Shared, samples: &'a Samples, pods: &[Running]) -> Vec<Labelled<'a>> {
    let context = &shared.agent.context;
    let mut all = Vec::new();
    for running in pods {
        for (name, id, started_at, image) in &running.containers {
            if let Some(stats) = samples.now.containers.get(id) {
                let (container, of_pod) = (label("container", name), pod_labels(running));
                let group = format!("/{}/{}/{id}", context.settings.cgroup_root, limits::cgroup(&running.pod));
                let all_labels =
                    [container.clone(), label("id", &group), label("image", image), label("name", id), of_pod.clone()].join(",");
                let found = end::find(&running.pod, name);
                let limits =
                    found.map(|(own, _)| limits::of_container(&running.pod, &own, context.machine.memory_bytes)).unwrap_or_default();
                let labels = format!("{container},{of_pod}");
                all.push(Labelled { labels, all_labels, stats, started_at: *started_at, limits });
            }
        }
    }
    all
}

/// What `kubectl top` is made of.
fn resource(shared: &Shared, samples: &Samples, pods: &[Running], page: &mut Page) {
    let at = Some(samples.now.at);
    let containers = labelled(shared, samples, pods);
    page.family("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds");
    for container in &containers {
        page.value("container_cpu_usage_seconds_total", &container.labels, seconds(container.stats.cpu_nanoseconds), at);
    }
    page.family("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes");
    for container in &containers {
        page.value("container_memory_working_set_bytes", &container.labels, container.stats.memory_working_set_bytes as f64, at);
    }
    page.family("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds");
    for container in &containers {
        let started = container.started_at.map_or(0.0, |at| at.as_millisecond() as f64 / 1e3);
        page.value("container_start_time_seconds", &container.labels, started, None);
    }
    page.family("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds");
    page.value("node_cpu_usage_seconds_total", "", seconds(samples.now.machine.cpu_nanoseconds), at);
    page.family("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    page.value("node_memory_working_set_bytes", "", samples.now.machine.memory_working_set_bytes as f64, at);
    pod_sums(samples, pods, page);
    scrape_error(page, 0.0);
}

/// Under its name and its old one.
fn scrape_error(page: &mut Page, value: f64) {
    for name in ["resource_scrape_error", "scrape_error"] {
        page.family(name, "gauge", "1 if there was an error while getting container metrics, 0 otherwise");
        page.value(name, "", value, None);
    }
}

fn pod_sums(samples: &Samples, pods: &[Running], page: &mut Page) {
    let at = Some(samples.now.at);
    let sum = |running: &Running, figure: fn(&ContainerStats) -> u64| -> u64 {
        running.containers.iter().filter_map(|(_, id, _, _)| samples.now.containers.get(id)).map(figure).sum()
    };
    page.family("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds");
    for running in pods {
        page.value("pod_cpu_usage_seconds_total", &pod_labels(running), seconds(sum(running, |stats| stats.cpu_nanoseconds)), at);
    }
    page.family("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes");
    for running in pods {
        let bytes = sum(running, |stats| stats.memory_working_set_bytes);
        page.value("pod_memory_working_set_bytes", &pod_labels(running), bytes as f64, at);
    }
}

type Figure = (&'static str, &'static str, &'static str, fn(&ContainerStats) -> f64);

const CADVISOR: [Figure; 7] = [
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |s| seconds(s.cpu_nanoseconds)),
    ("container_fs_usage_bytes", "gauge", "Number of bytes that are consumed by the container on this filesystem.", |s| {
        s.rootfs_used_bytes as f64
    }),
    ("container_memory_failures_total", "counter", "Cumulative count of memory allocation failures.", |s| s.memory_page_faults as f64),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |s| s.memory_rss_bytes as f64),
    ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory.", |s| s.memory_usage_bytes as f64),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |s| s.memory_working_set_bytes as f64),
    ("container_processes", "gauge", "Number of processes running inside the container.", |s| s.processes as f64),
];

fn cadvisor(shared: &Shared, samples: &Samples, pods: &[Running], page: &mut Page) {
    let at = Some(samples.now.at);
    let containers = labelled(shared, samples, pods);
    for (name, kind, help, figure) in CADVISOR {
        page.family(name, kind, help);
        for container in &containers {
            let cpu = if name == "container_cpu_usage_seconds_total" { ",cpu=\"total\"" } else { "" };
            let failure = if name == "container_memory_failures_total" { ",failure_type=\"pgfault\",scope=\"container\"" } else { "" };
            page.value(name, &format!("{}{cpu}{failure}", container.all_labels), figure(container.stats), at);
        }
    }
    specifications(&containers, page);
    network(samples, pods, page);
    page.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    page.value("machine_cpu_cores", "", shared.agent.context.machine.cpu_millis as f64 / 1e3, None);
    page.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
    page.value("machine_memory_bytes", "", samples.now.machine.memory_total_bytes as f64, None);
}

type Specification = (&'static str, &'static str, fn(&Labelled<'_>) -> Option<f64>);

/// What containers were made with; a limit that there is not has no line, but for memory, where it
/// is 0.
const SPECIFICATIONS: [Specification; 5] = [
    ("container_spec_cpu_period", "CPU period of the container.", |c| c.limits.cpu_period_us.map(|us| us as f64)),
    ("container_spec_cpu_quota", "CPU quota of the container.", |c| c.limits.cpu_quota_us.map(|us| us as f64)),
    ("container_spec_cpu_shares", "CPU share of the container.", |c| c.limits.cpu_shares.map(|shares| shares as f64)),
    ("container_spec_memory_limit_bytes", "Memory limit for the container.", |c| Some(c.limits.memory_limit_bytes.unwrap_or(0) as f64)),
    ("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", |c| {
        c.started_at.map(|at| at.as_second() as f64)
    }),
];

fn specifications(containers: &[Labelled<'_>], page: &mut Page) {
    for (name, help, figure) in SPECIFICATIONS {
        page.family(name, "gauge", help);
        for container in containers {
            if let Some(value) = figure(container) {
                page.value(name, &container.all_labels, value, None);
            }
        }
    }
}

type NetworkFigure = (&'static str, &'static str, fn(&SandboxStats) -> u64);

fn network(samples: &Samples, pods: &[Running], page: &mut Page) {
    let figures: [NetworkFigure; 4] = [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", |s| s.receive_bytes),
        ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |s| s.receive_errors),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |s| s.transmit_bytes),
        ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |s| s.transmit_errors),
    ];
    for (name, help, figure) in figures {
        page.family(name, "counter", help);
        for running in pods {
            if let Some(stats) = running.sandbox_id.as_ref().and_then(|id| samples.now.sandboxes.get(id)) {
                page.value(name, &format!("interface=\"eth0\",{}", pod_labels(running)), figure(stats) as f64, Some(samples.now.at));
            }
        }
    }
}

/// The agent itself.
fn agent(shared: &Shared, page: &mut Page) {
    let pods = running(shared);
    let version = format!("git_version=\"v1.36.0+everynode-{}\",major=\"1\",minor=\"36\"", env!("CARGO_PKG_VERSION"));
    page.family(
        "kubernetes_build_info",
        "gauge",
        "A metric with a constant '1' value labeled by the version that this agent is compatible with.",
    );
    page.value("kubernetes_build_info", &version, 1.0, None);
    page.family("kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    page.value("kubelet_node_name", &label("node", &shared.agent.context.settings.name), 1.0, None);
    page.family("kubelet_running_containers", "gauge", "Number of containers currently running");
    let containers: usize = pods.iter().map(|running| running.containers.len()).sum();
    page.value("kubelet_running_containers", "container_state=\"running\"", containers as f64, None);
    page.family("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox");
    page.value("kubelet_running_pods", "", pods.iter().filter(|running| running.sandbox_id.is_some()).count() as f64, None);
    page.family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.");
    page.value("process_resident_memory_bytes", "", own_resident_bytes(), None);
    page.family("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.");
    page.value("process_cpu_seconds_total", "", own_cpu_seconds(), None);
    page.family("process_open_fds", "gauge", "Number of open file descriptors.");
    page.value("process_open_fds", "", std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64, None);
}

fn own_resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}

fn own_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name before may hold spaces; after it, user and system time are the 12th and 13th field.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}
