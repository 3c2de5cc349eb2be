//! The conditions of a pod that its node sets: PodReadyToStartContainers, Initialized, Ready,
//! ContainersReady, PodScheduled, and those of a resize.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::phase::Phase;
use super::resize::Resize;
use super::{Ended, containers, init_containers, is_sidecar};

/// The types that the node owns; others belong to readiness gates and controllers and stay as they
/// are.
const OWNED: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Also the node's; there only while they hold.
pub const RESIZE_PENDING: &str = "PodResizePending";
pub const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";

pub struct Facts<'a> {
    pub pod: &'a Pod,
    pub init: &'a [ContainerStatus],
    pub main: &'a [ContainerStatus],
    pub phase: Phase,
    pub has_sandbox: bool,
    pub ended: Option<&'a Ended>,
    pub resize: &'a Resize,
    pub now: Timestamp,
}

/// All conditions in the order in which the kubelet lists them; times of unchanged ones are kept.
pub fn conditions(facts: &Facts<'_>) -> Vec<PodCondition> {
    let before = facts.pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let is_kept = |kind: &str| !OWNED.contains(&kind) && kind != RESIZE_PENDING && kind != RESIZE_IN_PROGRESS;
    let mut all: Vec<PodCondition> = before.iter().filter(|condition| is_kept(&condition.type_)).cloned().collect();
    if let Some(message) = facts.ended.and_then(|ended| ended.disruption.as_ref().map(|_| &ended.message)) {
        all.retain(|condition| condition.type_ != "DisruptionTarget");
        let reason = facts.ended.and_then(|ended| ended.disruption.as_deref()).unwrap_or_default();
        all.push(new("DisruptionTarget", Verdict::yes(reason, message)));
    }
    if !facts.phase.is_terminal() {
        all.extend(of_resize(facts, &before));
    }
    let ready_containers = containers_ready(facts);
    let gates = gates_ready(facts.pod, &before);
    let ready = if ready_containers.holds { gates.unwrap_or_else(|| Verdict::yes("", "")) } else { ready_containers.clone() };
    all.push(new("PodReadyToStartContainers", Verdict { holds: facts.has_sandbox, ..Verdict::default() }));
    all.push(new("Initialized", initialized(facts)));
    all.push(new("Ready", ready));
    all.push(new("ContainersReady", ready_containers));
    all.push(new("PodScheduled", Verdict::yes("", "")));
    let generation = facts.pod.metadata.generation;
    for condition in &mut all {
        if OWNED.contains(&condition.type_.as_str()) || condition.type_ == "DisruptionTarget" {
            condition.observed_generation = generation;
            condition.last_transition_time = Some(transition_time(condition, &before, facts.now));
        }
    }
    all
}

/// They carry the generation of the pod that asked for the resize.
fn of_resize(facts: &Facts<'_>, before: &[PodCondition]) -> Vec<PodCondition> {
    let pending = facts.resize.pending.as_ref().map(|pending| {
        let condition = new(RESIZE_PENDING, Verdict::yes(pending.reason.text(), &pending.message));
        (condition, pending.generation)
    });
    let in_progress = facts.resize.in_progress.as_ref().map(|progress| {
        let reason = if progress.error.is_some() { "Error" } else { "" };
        let condition = new(RESIZE_IN_PROGRESS, Verdict::yes(reason, progress.error.as_deref().unwrap_or_default()));
        (condition, progress.generation)
    });
    let complete = |(mut condition, generation): (PodCondition, Option<i64>)| {
        condition.observed_generation = generation;
        condition.last_transition_time = Some(transition_time(&condition, before, facts.now));
        condition
    };
    pending.into_iter().chain(in_progress).map(complete).collect()
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Verdict {
    holds: bool,
    reason: String,
    message: String,
}

impl Verdict {
    fn yes(reason: &str, message: &str) -> Verdict {
        Verdict { holds: true, reason: reason.to_owned(), message: message.to_owned() }
    }

    fn no(reason: &str, message: String) -> Verdict {
        Verdict { holds: false, reason: reason.to_owned(), message }
    }
}

fn new(kind: &str, verdict: Verdict) -> PodCondition {
    let some = |text: String| if text.is_empty() { None } else { Some(text) };
    PodCondition {
        type_: kind.to_owned(),
        status: if verdict.holds { "True" } else { "False" }.to_owned(),
        reason: some(verdict.reason),
        message: some(verdict.message),
        ..PodCondition::default()
    }
}

fn transition_time(condition: &PodCondition, before: &[PodCondition], now: Timestamp) -> Time {
    let same = before.iter().find(|old| old.type_ == condition.type_ && old.status == condition.status);
    same.and_then(|old| old.last_transition_time.clone()).unwrap_or(Time(now))
}

fn initialized(facts: &Facts<'_>) -> Verdict {
    let mut unknown = Vec::new();
    let mut incomplete = Vec::new();
    for container in init_containers(facts.pod) {
        match facts.init.iter().find(|status| status.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if is_sidecar(container) && !status.started.unwrap_or(false) && !main_has_run(facts.main) => {
                incomplete.push(container.name.as_str());
            }
            Some(status) if !is_sidecar(container) && !status.ready => incomplete.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if facts.phase == Phase::Succeeded && unknown.is_empty() {
        return Verdict::yes("PodCompleted", "");
    }
    // Containers that ran before are not run again, whatever became of their records.
    if main_has_run(facts.main) {
        return Verdict::yes("", "");
    }
    match unready_message("incomplete", &unknown, &incomplete) {
        Some(message) => Verdict::no("ContainersNotInitialized", message),
        None => Verdict::yes("", ""),
    }
}

fn main_has_run(main: &[ContainerStatus]) -> bool {
    main.iter().any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some()))
}

fn containers_ready(facts: &Facts<'_>) -> Verdict {
    let mut unknown = Vec::new();
    let mut unready = Vec::new();
    let sidecars = init_containers(facts.pod).iter().filter(|container| is_sidecar(container)).map(|container| (container, facts.init));
    let main = containers(facts.pod).iter().map(|container| (container, facts.main));
    for (container, statuses) in sidecars.chain(main) {
        match statuses.iter().find(|status| status.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    match facts.phase {
        Phase::Succeeded if unknown.is_empty() => return Verdict::no("PodCompleted", String::new()),
        Phase::Failed => return Verdict::no("PodFailed", String::new()),
        _ => {}
    }
    match unready_message("unready", &unknown, &unready) {
        Some(message) => Verdict::no("ContainersNotReady", message),
        None => Verdict::yes("", ""),
    }
}

fn unready_message(what: &str, unknown: &[&str], bad: &[&str]) -> Option<String> {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: [{}]", unknown.join(" ")));
    }
    if !bad.is_empty() {
        parts.push(format!("containers with {what} status: [{}]", bad.join(" ")));
    }
    if parts.is_empty() { None } else { Some(parts.join(", ")) }
}

/// None when all readiness gates hold.
fn gates_ready(pod: &Pod, conditions: &[PodCondition]) -> Option<Verdict> {
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let mut messages = Vec::new();
    for gate in gates {
        match conditions.iter().find(|condition| condition.type_ == gate.condition_type) {
            None => messages.push(format!("corresponding condition of pod readiness gate \"{}\" does not exist.", gate.condition_type)),
            Some(condition) if condition.status != "True" => messages
                .push(format!("the status of pod readiness gate \"{}\" is not \"True\", but {}", gate.condition_type, condition.status)),
            Some(_) => {}
        }
    }
    if messages.is_empty() { None } else { Some(Verdict::no("ReadinessGatesNotReady", messages.join(", "))) }
}

/// A copy of the status with the node's conditions and everything that follows from them, for pods
/// that end without having run.
pub fn without_containers(pod: &Pod, phase: Phase) -> PodStatus {
    PodStatus { phase: Some(phase.text().to_owned()), observed_generation: pod.metadata.generation, ..PodStatus::default() }
}
