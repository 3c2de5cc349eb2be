//! What to do with a pod now: make a sandbox, end containers, start containers (the kubelet's
//! `computePodActions`).

use containers::ContainerState;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::backoff::{self, Waiting};
use super::resize::{self, Update};
use super::restart::{has_changed, restarts_after, restarts_on_failure, should_run};
use super::{
    ContainerKind, Observed, Record, View, containers, ephemeral_containers, full_name, init_containers, is_host_network, is_sidecar,
    restart_policy,
};

/// Everything to do, in this order: end, make a sandbox, change limits, start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Actions {
    /// End all containers and the sandbox: it is replaced (with `sandbox`), or nothing is left to
    /// do in it.
    pub kill_pod: bool,
    /// Make a sandbox with this attempt.
    pub sandbox: Option<u32>,
    pub kill: Vec<Kill>,
    /// Limits to change while their containers go on running.
    pub update: Vec<Update>,
    pub start: Vec<Start>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillReason {
    Liveness,
    Startup,
    Changed,
    Unknown,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Kill {
    pub container_id: String,
    pub name: String,
    /// The text of the event.
    pub message: String,
    pub reason: KillReason,
}

/// A container to start, or to leave waiting because it failed too often.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    pub kind: ContainerKind,
    /// In the pod's list of that kind.
    pub index: usize,
    pub name: String,
    /// How many times it ran before.
    pub restarts: u32,
    /// The end of its last life counts for the next back-off.
    pub failed_at: Option<jiff::Timestamp>,
    pub waiting: Option<Waiting>,
}

impl Start {
    /// The container that is to be started, and the one it looks at.
    pub fn container(&self, pod: &Pod) -> Option<(Container, Option<String>)> {
        let alone = |container: &Container| (container.clone(), None);
        match self.kind {
            ContainerKind::Ephemeral => ephemeral_containers(pod).get(self.index).cloned(),
            ContainerKind::Init => init_containers(pod).get(self.index).map(alone),
            ContainerKind::Main => containers(pod).get(self.index).map(alone),
        }
    }

    /// Where events say that the container is.
    pub fn field_path(&self) -> String {
        field_path(self.kind, &self.name)
    }

    /// What `kubectl describe` shows for a container that waits.
    pub fn waiting_message(&self, pod: &Pod) -> Option<String> {
        let wait = backoff::text(self.waiting?.wait);
        Some(format!("back-off {wait} restarting failed container={} pod={}", self.name, full_name(pod)))
    }
}

/// `spec.containers{NAME}`, as events name containers.
pub fn field_path(kind: ContainerKind, name: &str) -> String {
    let field = match kind {
        ContainerKind::Ephemeral => "ephemeralContainers",
        ContainerKind::Init => "initContainers",
        ContainerKind::Main => "containers",
    };
    format!("spec.{field}{{{name}}}")
}

/// Restarts are counted for each container of a pod.
pub fn restart_key(container: &str) -> String {
    container.to_owned()
}

pub fn plan(view: &View<'_>) -> Actions {
    let Some(attempt) = new_sandbox_attempt(view) else {
        return plan_in_sandbox(view);
    };
    let mut actions = Actions { kill_pod: true, ..Actions::default() };
    if restart_policy(view.pod) == "Never" && attempt != 0 && !view.observed.containers.is_empty() {
        return actions;
    }
    let wanted: Vec<usize> = (0..containers(view.pod).len()).filter(|&index| runs_in_new_sandbox(view, index)).collect();
    let init = init_containers(view.pod);
    if wanted.is_empty() && init_done(init, view.observed) {
        return actions;
    }
    actions.sandbox = Some(attempt);
    if init.is_empty() {
        actions.start = wanted.into_iter().map(|index| start(view, ContainerKind::Main, index)).collect();
    } else {
        actions.start = vec![start(view, ContainerKind::Init, 0)];
    }
    actions
}

fn runs_in_new_sandbox(view: &View<'_>, index: usize) -> bool {
    let container = &containers(view.pod)[index];
    match view.observed.latest(&container.name) {
        Some(record) if record.state == ContainerState::Exited => restarts_after(container, view.pod, record.exit_code),
        _ => true,
    }
}

/// The attempt of the sandbox that has to be made; None while there is a usable one.
fn new_sandbox_attempt(view: &View<'_>) -> Option<u32> {
    match view.observed.sandbox() {
        None => Some(0),
        Some(sandbox) if !sandbox.is_ready => Some(sandbox.attempt + 1),
        Some(sandbox) if sandbox.addresses.is_empty() && !is_host_network(view.pod) => Some(sandbox.attempt + 1),
        Some(_) => None,
    }
}

fn init_done(init: &[Container], observed: &Observed) -> bool {
    init.last().is_none_or(|last| {
        observed.latest(&last.name).is_some_and(|record| record.state == ContainerState::Exited && record.exit_code == 0)
    })
}

fn plan_in_sandbox(view: &View<'_>) -> Actions {
    let mut actions = Actions { update: resize::updates(view), ..Actions::default() };
    for (index, (container, _)) in ephemeral_containers(view.pod).iter().enumerate() {
        // They run once, and do not wait for the pod's initialization.
        if view.observed.latest(&container.name).is_none() {
            actions.start.push(start(view, ContainerKind::Ephemeral, index));
        }
    }
    let initialized = plan_init(view, &mut actions);
    if actions.kill_pod || !initialized {
        return actions;
    }
    let mut kept = 0;
    let mut started = 0;
    for (index, container) in containers(view.pod).iter().enumerate() {
        let record = view.observed.latest(&container.name);
        match record.filter(|record| record.is_running()) {
            None => {
                if should_run(container, view.pod, view.observed) {
                    if let Some(record) = record.filter(|record| record.state == ContainerState::Unknown) {
                        actions.kill.push(kill_unknown(record, "Container"));
                    }
                    actions.start.push(start(view, ContainerKind::Main, index));
                    started += 1;
                }
            }
            Some(record) => match verdict(view, container, record, "Container") {
                None => kept += 1,
                Some(kill) => {
                    // A changed container is replaced whatever the policy says.
                    if kill.reason == KillReason::Changed || restarts_on_failure(container, view.pod) {
                        actions.kill.push(Kill { message: format!("{}, will be restarted", kill.message), ..kill });
                        actions.start.push(start(view, ContainerKind::Main, index));
                        started += 1;
                    } else {
                        actions.kill.push(kill);
                    }
                }
            },
        }
    }
    if kept == 0 && started == 0 && actions.kill.is_empty() {
        // Nothing is left to wait for: sidecars go with the pod.
        actions.kill_pod = true;
        actions.start.retain(|start| start.kind == ContainerKind::Ephemeral);
    }
    actions
}

/// Why a running container must be ended, if it must.
fn verdict(view: &View<'_>, container: &Container, record: &Record, what: &str) -> Option<Kill> {
    let probes = view.memory.probes.get(&record.id).copied().unwrap_or_default();
    let (message, reason) = if has_changed(container, record) {
        (format!("{what} {} definition changed", container.name), KillReason::Changed)
    } else if resize::needs_restart(view, container, record) {
        (format!("{what} {} resize requires restart", container.name), KillReason::Changed)
    } else if container.liveness_probe.is_some() && probes.liveness == Some(false) {
        (format!("{what} {} failed liveness probe", container.name), KillReason::Liveness)
    } else if container.startup_probe.is_some() && probes.startup == Some(false) {
        (format!("{what} {} failed startup probe", container.name), KillReason::Startup)
    } else {
        return None;
    };
    Some(Kill { container_id: record.id.clone(), name: container.name.clone(), message, reason })
}

fn kill_unknown(record: &Record, what: &str) -> Kill {
    let message = format!("{what} is in \"unknown\" state, try killing it before restart");
    Kill { container_id: record.id.clone(), name: record.name.clone(), message, reason: KillReason::Unknown }
}

/// Adds what init containers need; answers whether the others may run.
///
/// Walks backwards, because the records of init containers that completed may be gone: the last one
/// with a record tells how far the pod is.
fn plan_init(view: &View<'_>, actions: &mut Actions) -> bool {
    let init = init_containers(view.pod);
    if init.is_empty() {
        return true;
    }
    let main_runs = containers(view.pod).iter().any(|container| {
        view.observed
            .latest(&container.name)
            .is_some_and(|record| matches!(record.state, ContainerState::Created | ContainerState::Running))
    });
    let mut initialized = main_runs;
    let mut is_past = main_runs;
    let mut starts: Vec<usize> = Vec::new();
    for (index, container) in init.iter().enumerate().rev() {
        let Some(record) = view.observed.latest_in_sandbox(&container.name) else {
            if is_past && is_sidecar(container) {
                starts.push(index);
            }
            continue;
        };
        if is_past && !is_sidecar(container) {
            continue;
        }
        let is_last = index + 1 == init.len();
        match record.state {
            ContainerState::Created => starts.push(index),
            ContainerState::Running if is_sidecar(container) => {
                if has_started(view, container, record) {
                    if is_last {
                        initialized = true;
                    } else if !is_past {
                        starts.push(index + 1);
                    }
                }
                if let Some(kill) = verdict(view, container, record, "Init container") {
                    actions.kill.push(kill);
                    starts.push(index);
                }
            }
            ContainerState::Running => {}
            ContainerState::Exited if is_sidecar(container) => starts.push(index),
            ContainerState::Exited if record.exit_code == 0 => {
                if is_last {
                    initialized = true;
                } else {
                    starts.push(index + 1);
                }
            }
            ContainerState::Exited | ContainerState::Unknown => {
                if !is_sidecar(container) && !restarts_after(container, view.pod, record.exit_code.max(1)) {
                    actions.kill_pod = true;
                    return false;
                }
                if record.state == ContainerState::Unknown {
                    actions.kill.push(kill_unknown(record, "Init container"));
                }
                starts.push(index);
            }
        }
        is_past = true;
    }
    if !is_past {
        starts.push(0);
    }
    starts.sort_unstable();
    starts.dedup();
    actions.start.extend(starts.into_iter().map(|index| start(view, ContainerKind::Init, index)));
    initialized
}

fn has_started(view: &View<'_>, container: &Container, record: &Record) -> bool {
    container.startup_probe.is_none() || view.memory.probes.get(&record.id).is_some_and(|probes| probes.startup == Some(true))
}

fn start(view: &View<'_>, kind: ContainerKind, index: usize) -> Start {
    let name = match kind {
        ContainerKind::Ephemeral => ephemeral_containers(view.pod)[index].0.name.clone(),
        ContainerKind::Init => init_containers(view.pod)[index].name.clone(),
        ContainerKind::Main => containers(view.pod)[index].name.clone(),
    };
    let before = view.observed.latest(&name);
    let exited = view.observed.containers.iter().find(|record| record.name == name && record.state == ContainerState::Exited);
    // An init container that completed and runs again (in a new sandbox) has not failed.
    let failed_at = exited.and_then(|record| record.finished_at);
    let waiting = failed_at.and_then(|at| view.memory.restarts.waiting(&restart_key(&name), at, view.now));
    // Records may be lost with the node's memory; the count in the pod's status goes on.
    let restarts = before.map(next_count).or_else(|| restarts_told(view.pod, &name)).unwrap_or(0);
    Start { kind, index, name, restarts, failed_at, waiting }
}

/// One that was made and never started has not lived: its successor takes its place.
fn next_count(before: &Record) -> u32 {
    if before.state == ContainerState::Created { before.restarts } else { before.restarts + 1 }
}

fn restarts_told(pod: &Pod, name: &str) -> Option<u32> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let told = all.into_iter().find(|status| status.name == name && status.container_id.is_some())?;
    u32::try_from(told.restart_count).ok().map(|count| count + 1)
}
