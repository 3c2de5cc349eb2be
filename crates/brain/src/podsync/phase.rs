//! A pod's phase, from the statuses of its containers (the kubelet's `getPhase`).

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use super::restart::restarts_after;
use super::{containers, init_containers, is_sidecar, restart_policy};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub fn text(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }

    pub fn parse(text: &str) -> Option<Phase> {
        [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed].into_iter().find(|phase| phase.text() == text)
    }

    pub fn is_terminal(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }
}

/// How many containers are in which state.
#[derive(Default)]
struct Counts {
    pending_init: usize,
    failed_init: usize,
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
}

/// `is_ending`: no container will be started again, whatever the policy says.
pub fn phase(pod: &Pod, init: &[ContainerStatus], main: &[ContainerStatus], is_ending: bool) -> Phase {
    let mut counts = Counts::default();
    for container in init_containers(pod) {
        let status = init.iter().find(|status| status.name == container.name);
        if is_sidecar(container) { counts.add_sidecar(status) } else { counts.add_init(status) }
    }
    for container in containers(pod) {
        counts.add_main(main.iter().find(|status| status.name == container.name));
    }
    let policy = restart_policy(pod);
    if counts.failed_init > 0 && policy == "Never" {
        return Phase::Failed;
    }
    if counts.pending_init > 0 && !main.iter().any(has_started) {
        return Phase::Pending;
    }
    if counts.waiting > 0 {
        return Phase::Pending;
    }
    if counts.unknown > 0 {
        return Phase::Pending;
    }
    if counts.running > 0 {
        return Phase::Running;
    }
    if counts.stopped == 0 {
        return Phase::Pending;
    }
    if !is_ending && containers(pod).iter().any(|container| runs_again(pod, container, main)) {
        return Phase::Running;
    }
    if counts.stopped == counts.succeeded { Phase::Succeeded } else { Phase::Failed }
}

/// Whether a container that ended is started again: by its own rules or the pod's policy.
fn runs_again(pod: &Pod, container: &Container, main: &[ContainerStatus]) -> bool {
    let status = main.iter().find(|status| status.name == container.name);
    let code = status.and_then(|status| exit_code(status.state.as_ref()).or_else(|| exit_code(status.last_state.as_ref())));
    code.is_some_and(|code| restarts_after(container, pod, code))
}

fn has_started(status: &ContainerStatus) -> bool {
    let state = status.state.as_ref();
    let ran_before = status.last_state.as_ref().is_some_and(|last| last.terminated.is_some());
    ran_before || state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

fn exit_code(state: Option<&k8s_openapi::api::core::v1::ContainerState>) -> Option<i32> {
    Some(state?.terminated.as_ref()?.exit_code)
}

impl Counts {
    fn add_init(&mut self, status: Option<&ContainerStatus>) {
        let Some(status) = status else {
            self.pending_init += 1;
            return;
        };
        let state = status.state.as_ref();
        let is_waiting = state.is_some_and(|state| state.waiting.is_some());
        let code = exit_code(state).or_else(|| if is_waiting { exit_code(status.last_state.as_ref()) } else { None });
        match code {
            Some(0) => {}
            Some(_) => self.failed_init += 1,
            None => self.pending_init += 1,
        }
    }

    fn add_sidecar(&mut self, status: Option<&ContainerStatus>) {
        let Some(state) = status.and_then(|status| status.state.as_ref()) else {
            self.unknown += 1;
            return;
        };
        if state.running.is_some() {
            self.running += 1;
            if !status.and_then(|status| status.started).unwrap_or(false) {
                self.pending_init += 1;
            }
        } else if state.waiting.is_some() && status.is_none_or(|status| exit_code(status.last_state.as_ref()).is_none()) {
            self.pending_init += 1;
            self.waiting += 1;
        }
        // One that ended is started again, or goes with the pod: either way it does not make the
        // phase.
    }

    fn add_main(&mut self, status: Option<&ContainerStatus>) {
        let Some(status) = status else {
            self.unknown += 1;
            return;
        };
        let Some(state) = &status.state else {
            self.unknown += 1;
            return;
        };
        if state.running.is_some() {
            self.running += 1;
        } else if let Some(terminated) = &state.terminated {
            self.stopped += 1;
            self.succeeded += usize::from(terminated.exit_code == 0);
        } else if state.waiting.is_some() {
            let ran_before = exit_code(status.last_state.as_ref()).is_some();
            if ran_before { self.stopped += 1 } else { self.waiting += 1 }
        } else {
            self.unknown += 1;
        }
    }
}
