//! The status of a pod, as its node reports it.

use containers::ContainerState as RecordState;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP, PodIP,
    PodStatus, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::{self, Facts};
use super::phase::{Phase, phase};
use super::restart::should_run;
use super::{
    ContainerKind, Record, View, containers, ephemeral_containers, init_containers, is_host_network, is_sidecar, limits, qos,
    restart_policy,
};

/// How far a pod's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is to run.
    No,
    /// Its containers are being ended.
    Terminating,
    /// Nothing of it runs any more.
    Terminated,
}

/// A status and the phase that the pod would have if nothing of it could be running any more.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub status: PodStatus,
    pub phase: Phase,
}

pub fn report(view: &View<'_>, ending: Ending) -> Report {
    let before = view.pod.status.clone().unwrap_or_default();
    let phase_before = before.phase.as_deref().and_then(Phase::parse).unwrap_or(Phase::Pending);
    let init: Vec<ContainerStatus> =
        init_containers(view.pod).iter().map(|container| container_status(view, container, ContainerKind::Init, ending)).collect();
    let mut main: Vec<ContainerStatus> =
        containers(view.pod).iter().map(|container| container_status(view, container, ContainerKind::Main, ending)).collect();
    let ephemeral: Vec<ContainerStatus> = ephemeral_containers(view.pod)
        .iter()
        .map(|(container, _)| container_status(view, container, ContainerKind::Ephemeral, ending))
        .collect();
    let computed = match &view.memory.ended {
        Some(_) => Phase::Failed,
        None if phase_before.is_terminal() => phase_before,
        None if is_abandoned(view) => match phase(view.pod, &init, &main, true) {
            Phase::Succeeded => Phase::Succeeded,
            _ => Phase::Failed,
        },
        None => phase(view.pod, &init, &main, ending != Ending::No),
    };
    // A pod is not reported finished while something of it may run: a controller could start its
    // successor.
    let shown = if computed.is_terminal() && !phase_before.is_terminal() && ending != Ending::Terminated { phase_before } else { computed };
    let ended = view.memory.ended.as_ref().filter(|_| shown.is_terminal());
    let conditions = conditions::conditions(&Facts {
        pod: view.pod,
        init: &init,
        main: &main,
        phase: computed,
        has_sandbox: view.observed.sandbox().is_some_and(|sandbox| sandbox.is_ready),
        ended: view.memory.ended.as_ref(),
        resize: &view.memory.resize,
        now: view.now,
    });
    main.sort_by(|a, b| a.name.cmp(&b.name));
    let addresses = pod_addresses(view, &before);
    let some = |list: Vec<ContainerStatus>| if list.is_empty() { None } else { Some(list) };
    let status = PodStatus {
        phase: Some(shown.text().to_owned()),
        reason: ended.map(|ended| ended.reason.clone()).or(before.reason),
        message: ended.map(|ended| ended.message.clone()).or(before.message),
        conditions: Some(conditions),
        container_statuses: some(main),
        init_container_statuses: some(init),
        ephemeral_container_statuses: some(ephemeral),
        host_ip: view.node_addresses.first().cloned().or(before.host_ip),
        host_ips: host_ips(view).or(before.host_ips),
        pod_ip: addresses.first().cloned(),
        pod_ips: if addresses.is_empty() { None } else { Some(addresses.into_iter().map(|ip| PodIP { ip }).collect()) },
        qos_class: Some(qos::class(view.pod).text().to_owned()),
        start_time: before.start_time.or(Some(Time(view.memory.started_at.unwrap_or(view.now)))),
        observed_generation: view.pod.metadata.generation,
        resources: Some(pod_resources(view)),
        allocated_resources: limits::pod_requirements(view.pod).requests,
        nominated_node_name: before.nominated_node_name,
        resource_claim_statuses: before.resource_claim_statuses,
        extended_resource_claim_status: before.extended_resource_claim_status,
        ..PodStatus::default()
    };
    Report { status, phase: computed }
}

/// A pod that runs once lost its sandbox: nothing of it will be started again, however far it was.
/// Kubelets leave one that was still initializing Pending forever.
fn is_abandoned(view: &View<'_>) -> bool {
    let observed = view.observed;
    let lost = observed.sandbox().is_some_and(|sandbox| !sandbox.is_ready) && !observed.containers.is_empty();
    restart_policy(view.pod) == "Never" && lost && !observed.is_anything_running()
}

/// The status of a pod that was turned away before anything of it ran.
pub fn rejected(view: &View<'_>, reason: &str, message: &str) -> PodStatus {
    PodStatus {
        reason: Some(reason.to_owned()),
        message: Some(format!("Pod was rejected: {message}")),
        qos_class: Some(qos::class(view.pod).text().to_owned()),
        start_time: Some(Time(view.now)),
        ..conditions::without_containers(view.pod, Phase::Failed)
    }
}

fn host_ips(view: &View<'_>) -> Option<Vec<HostIP>> {
    if view.node_addresses.is_empty() {
        return None;
    }
    Some(view.node_addresses.iter().map(|ip| HostIP { ip: ip.clone() }).collect())
}

fn pod_addresses(view: &View<'_>, before: &PodStatus) -> Vec<String> {
    if is_host_network(view.pod) {
        return view.node_addresses.to_vec();
    }
    // Kubelets report the address with the first attempt to start a container.
    let tried = !view.observed.containers.is_empty() || !view.memory.start_failures.is_empty();
    match view.observed.sandbox() {
        Some(sandbox) if sandbox.is_ready && tried && !sandbox.addresses.is_empty() => sandbox.addresses.clone(),
        _ => before.pod_ips.iter().flatten().map(|address| address.ip.clone()).collect(),
    }
}

fn pod_resources(view: &View<'_>) -> ResourceRequirements {
    if view.observed.containers.is_empty() { ResourceRequirements::default() } else { limits::pod_requirements(view.pod) }
}

fn container_status(view: &View<'_>, container: &Container, kind: ContainerKind, ending: Ending) -> ContainerStatus {
    let record = view.observed.latest(&container.name);
    let mut status = match record {
        Some(record) => from_record(view, container, record),
        None => without_record(view, container, kind),
    };
    status.volume_mounts = mounts(container);
    let has_completed =
        kind == ContainerKind::Init && !is_sidecar(container) && record.is_some_and(|r| r.state == RecordState::Exited && r.exit_code == 0);
    let waits = ending == Ending::No && !has_completed && should_run(container, view.pod, view.observed);
    if let Some(failure) = view.memory.start_failures.get(&container.name).filter(|_| waits) {
        let state = status.state.take();
        if state.as_ref().is_some_and(|state| state.terminated.is_some()) {
            status.last_state = state;
        }
        status.state = Some(waiting(failure.reason(), Some(&failure.message())));
    }
    set_readiness(view, container, kind, record, &mut status);
    status
}

fn from_record(view: &View<'_>, container: &Container, record: &Record) -> ContainerStatus {
    let state = match record.state {
        RecordState::Running => {
            ContainerState { running: Some(ContainerStateRunning { started_at: record.started_at.map(Time) }), ..ContainerState::default() }
        }
        RecordState::Exited | RecordState::Unknown => terminated(record),
        RecordState::Created => waiting(first_reason(view), None),
    };
    let last = view.observed.previous(&container.name).filter(|previous| previous.state == RecordState::Exited);
    let requirements = limits::requirements(container);
    ContainerStatus {
        name: container.name.clone(),
        container_id: Some(record.id.clone()),
        image: record.image.clone(),
        image_id: record.image_id.clone(),
        restart_count: i32::try_from(record.restarts).unwrap_or(i32::MAX),
        state: Some(state),
        last_state: Some(last.map(terminated).unwrap_or_default()),
        allocated_resources: requirements.requests.clone().filter(|requests| !requests.is_empty()),
        resources: Some(view.memory.resize.actuated.get(&record.id).cloned().unwrap_or(requirements)),
        ..ContainerStatus::default()
    }
}

/// Nothing of it is here: it never ran, or its record was removed and the last report must do.
fn without_record(view: &View<'_>, container: &Container, kind: ContainerKind) -> ContainerStatus {
    let reported = view.pod.status.as_ref().and_then(|status| match kind {
        ContainerKind::Init => status.init_container_statuses.as_ref(),
        ContainerKind::Main => status.container_statuses.as_ref(),
        ContainerKind::Ephemeral => status.ephemeral_container_statuses.as_ref(),
    });
    let before = reported.and_then(|list| list.iter().find(|status| status.name == container.name));
    let state_before = before.and_then(|status| status.state.as_ref());
    // What it was given before anything of it ran, where it asks for something else: the next agent
    // knows it by this.
    let given = view.memory.resize.pending.as_ref().map(|_| limits::requirements(container));
    let fresh = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        restart_count: before.map_or(0, |status| status.restart_count),
        state: Some(waiting(first_reason(view), None)),
        last_state: Some(ContainerState::default()),
        allocated_resources: given.as_ref().and_then(|given| given.requests.clone()),
        resources: given,
        ..ContainerStatus::default()
    };
    match (before, state_before) {
        (Some(before), Some(state)) if state.terminated.is_some() => before.clone(),
        (Some(before), Some(state)) if state.running.is_some() => ContainerStatus { state: Some(lost()), ..before.clone() },
        _ => fresh,
    }
}

fn first_reason(view: &View<'_>) -> &'static str {
    if init_containers(view.pod).is_empty() { "ContainerCreating" } else { "PodInitializing" }
}

fn lost() -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn waiting(reason: &str, message: Option<&str>) -> ContainerState {
    let state = ContainerStateWaiting { reason: Some(reason.to_owned()), message: message.map(str::to_owned) };
    ContainerState { waiting: Some(state), ..ContainerState::default() }
}

fn terminated(record: &Record) -> ContainerState {
    let some = |text: &String| if text.is_empty() { None } else { Some(text.clone()) };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(record.id.clone()),
            exit_code: record.exit_code,
            reason: some(&record.reason),
            message: some(&record.message),
            // A container that never started shows the beginning of 1970, as containerd's do.
            started_at: Some(Time(record.started_at.unwrap_or(jiff::Timestamp::UNIX_EPOCH))),
            finished_at: record.finished_at.map(Time),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
    let status = |mount: &k8s_openapi::api::core::v1::VolumeMount| {
        let read_only = mount.read_only.unwrap_or(false);
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only.then(|| recursive_read_only(mount.recursive_read_only.as_deref())),
            ..VolumeMountStatus::default()
        }
    };
    Some(mounts.iter().map(status).collect())
}

fn recursive_read_only(asked: Option<&str>) -> String {
    match asked {
        Some("Enabled" | "IfPossible") => "Enabled".to_owned(),
        _ => "Disabled".to_owned(),
    }
}

fn set_readiness(view: &View<'_>, container: &Container, kind: ContainerKind, record: Option<&Record>, status: &mut ContainerStatus) {
    let is_running = status.state.as_ref().is_some_and(|state| state.running.is_some());
    let probes = record.and_then(|record| view.memory.probes.get(&record.id)).copied().unwrap_or_default();
    let has_started = is_running && (container.startup_probe.is_none() || probes.startup == Some(true));
    match kind {
        ContainerKind::Ephemeral => {
            status.ready = false;
        }
        ContainerKind::Init if !is_sidecar(container) => {
            status.started = Some(is_running);
            status.ready = status.state.as_ref().and_then(|state| state.terminated.as_ref()).is_some_and(|end| end.exit_code == 0);
        }
        ContainerKind::Init | ContainerKind::Main => {
            status.started = Some(has_started);
            status.ready = has_started && (container.readiness_probe.is_none() || probes.readiness == Some(true));
        }
    }
}
