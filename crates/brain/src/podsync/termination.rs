//! Ending containers: with how much patience, in which order, and what to say about it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::actions::KillReason;
use super::{Ended, init_containers, is_sidecar};

/// No container is ended with less, unless the pod is forced away (the kubelet's
/// `minimumGracePeriodInSeconds`).
const MIN_SECONDS: i64 = 2;

/// What a container gets between the stop signal and SIGKILL, `preStop` included.
pub fn grace(pod: &Pod, container: &Container, reason: Option<KillReason>, ended: Option<&Ended>) -> Duration {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let of_probe = match reason {
        Some(KillReason::Liveness) => container.liveness_probe.as_ref(),
        Some(KillReason::Startup) => container.startup_probe.as_ref(),
        _ => None,
    };
    let seconds = if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        seconds
    } else if let Some(seconds) = ended.and_then(|ended| ended.grace_seconds) {
        seconds
    } else if let Some(seconds) = of_probe.and_then(|probe| probe.termination_grace_period_seconds) {
        seconds
    } else {
        of_pod.unwrap_or(MIN_SECONDS)
    };
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// What is left after a `preStop` hook: at least two seconds, as long as there was any patience at
/// all.
pub fn grace_after_hook(grace: Duration, hook_took: Duration) -> Duration {
    if grace.is_zero() {
        return grace;
    }
    grace.saturating_sub(hook_took).max(Duration::from_secs(MIN_SECONDS as u64))
}

/// The order in which the containers of a pod are ended: all main ones together, then sidecars one
/// after another, the last first. Each inner list ends together.
pub fn order(pod: &Pod) -> Vec<Vec<String>> {
    let main = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.clone());
    let ephemeral = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten()).map(|container| container.name.clone());
    let ordinary = init_containers(pod).iter().filter(|container| !is_sidecar(container)).map(|container| container.name.clone());
    let mut steps = vec![main.chain(ephemeral).chain(ordinary).collect::<Vec<_>>()];
    steps.extend(init_containers(pod).iter().rev().filter(|container| is_sidecar(container)).map(|container| vec![container.name.clone()]));
    steps
}

/// The text of the event `Killing` when a pod ends.
pub fn stopping_message(container: &str) -> String {
    format!("Stopping container {container}")
}
