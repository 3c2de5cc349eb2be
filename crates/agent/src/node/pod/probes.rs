//! The probes of a pod's containers: one task for each, as long as its container runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use brain::podsync::probe::{Kind, Worker, first_run, period, timeout};
use brain::podsync::{Memory, Observed, ProbeResults, Record, containers, init_containers, is_sidecar};
use brain::request::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::prober;
use crate::node::Context;

/// What a probe found about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub container_id: String,
    pub kind: Kind,
    pub success: bool,
}

pub struct Probes {
    context: Arc<Context>,
    verdicts: mpsc::Sender<Verdict>,
    tasks: BTreeMap<(String, Kind), JoinHandle<()>>,
    /// Probes other than startup wait until the container counts as started.
    started: BTreeMap<String, watch::Sender<bool>>,
}

impl Probes {
    pub fn new(context: Arc<Context>, verdicts: mpsc::Sender<Verdict>) -> Probes {
        Probes { context, verdicts, tasks: BTreeMap::new(), started: BTreeMap::new() }
    }

    /// Begins and ends probes so that exactly the running containers have them.
    pub fn update(&mut self, pod: &Arc<Pod>, observed: &Observed, memory: &mut Memory) {
        let probed = containers(pod).iter().chain(init_containers(pod).iter().filter(|container| is_sidecar(container)));
        let mut alive = Vec::new();
        for container in probed {
            if let Some(record) = observed.latest(&container.name).filter(|record| record.is_running()) {
                alive.push(record.id.clone());
                self.begin(pod, container, record, memory);
            }
        }
        self.tasks.retain(|(id, _), task| keep(alive.contains(id), task));
        self.started.retain(|id, _| alive.contains(id));
        memory.probes.retain(|id, _| alive.contains(id) || observed.containers.iter().any(|record| &record.id == id));
    }

    fn begin(&mut self, pod: &Arc<Pod>, container: &Container, record: &Record, memory: &mut Memory) {
        let was_ready = was_ready(pod, record);
        let results = *memory.probes.entry(record.id.clone()).or_insert_with(|| ProbeResults {
            // After a restart of the agent a container stays what it was until its probes say
            // otherwise.
            readiness: container.readiness_probe.as_ref().map(|_| was_ready.unwrap_or(false)),
            startup: if was_ready.is_some_and(|ready| ready) { Some(true) } else { None },
            liveness: None,
        });
        let has_started = container.startup_probe.is_none() || results.startup == Some(true);
        self.started.entry(record.id.clone()).or_insert_with(|| watch::channel(has_started).0);
        let probes = [
            (Kind::Startup, container.startup_probe.as_ref().filter(|_| !has_started)),
            (Kind::Liveness, container.liveness_probe.as_ref()),
            (Kind::Readiness, container.readiness_probe.as_ref()),
        ];
        for (kind, probe) in probes {
            let Some(probe) = probe else { continue };
            let key = (record.id.clone(), kind);
            if !self.tasks.contains_key(&key) {
                let initial = if kind == Kind::Readiness { results.readiness } else { None };
                let subject = Subject {
                    context: self.context.clone(),
                    pod: pod.clone(),
                    container: container.clone(),
                    id: record.id.clone(),
                    kind,
                    probe: probe.clone(),
                    initial,
                };
                let task = self.spawn(subject, record);
                self.tasks.insert(key, task);
            }
        }
    }

    fn spawn(&self, subject: Subject, record: &Record) -> JoinHandle<()> {
        let started = self.started.get(&record.id).map(watch::Sender::subscribe);
        let begun = record.started_at.unwrap_or_else(Timestamp::now);
        tokio::spawn(probe_until_told(subject, begun, started, self.verdicts.clone()))
    }

    /// Takes in what the tasks found.
    pub fn take(&mut self, verdicts: &mut mpsc::Receiver<Verdict>, memory: &mut Memory) {
        while let Ok(verdict) = verdicts.try_recv() {
            self.note(verdict, memory);
        }
    }

    pub fn note(&mut self, verdict: Verdict, memory: &mut Memory) {
        let results = memory.probes.entry(verdict.container_id.clone()).or_default();
        let place = match verdict.kind {
            Kind::Startup => &mut results.startup,
            Kind::Liveness => &mut results.liveness,
            Kind::Readiness => &mut results.readiness,
        };
        *place = Some(verdict.success);
        if verdict.kind == Kind::Startup
            && verdict.success
            && let Some(started) = self.started.get(&verdict.container_id)
        {
            started.send_replace(true);
        }
    }

    /// A pod that ends is not ended a second time by its probes; readiness goes on being probed.
    pub fn end_liveness(&mut self) {
        self.tasks.retain(|(_, kind), task| keep(*kind == Kind::Readiness, task));
    }

    pub fn end(&mut self) {
        self.tasks.retain(|_, task| keep(false, task));
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.end();
    }
}

fn keep(keep: bool, task: &JoinHandle<()>) -> bool {
    if !keep {
        task.abort();
    }
    keep
}

/// What the status on the API server says about this very container.
fn was_ready(pod: &Pod, record: &Record) -> Option<bool> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.into_iter().find(|status| status.container_id.as_ref() == Some(&record.id)).map(|status| status.ready)
}

struct Subject {
    context: Arc<Context>,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    kind: Kind,
    probe: Probe,
    /// The verdict before the first run.
    initial: Option<bool>,
}

async fn probe_until_told(subject: Subject, begun: Timestamp, started: Option<watch::Receiver<bool>>, verdicts: mpsc::Sender<Verdict>) {
    if subject.kind != Kind::Startup
        && let Some(mut started) = started
        && started.wait_for(|&started| started).await.is_err()
    {
        return;
    }
    let wait = first_run(&subject.probe, begun).duration_since(Timestamp::now());
    if wait.is_positive() {
        tokio::time::sleep(wait.unsigned_abs()).await;
    }
    let mut worker = Worker::new(subject.kind, subject.initial);
    let mut ticks = tokio::time::interval(period(&subject.probe));
    // A machine that was suspended does not make up for the runs it missed.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !worker.rests() {
        ticks.tick().await;
        let outcome =
            prober::run(&subject.context, &subject.pod, &subject.container, &subject.id, &subject.probe, timeout(&subject.probe)).await;
        if let Some(warning) = outcome.warning(subject.kind) {
            let path = super::end::find(&subject.pod, &subject.container.name).map(|(_, path)| path).unwrap_or_default();
            subject.context.events.container(&subject.pod, &path, EventType::Warning, "Unhealthy", warning);
        }
        if worker.observe(&subject.probe, &outcome)
            && let Some(success) = worker.verdict
        {
            let verdict = Verdict { container_id: subject.id.clone(), kind: subject.kind, success };
            if verdicts.send(verdict).await.is_err() {
                return;
            }
        }
    }
}
