//! What a simulated node does with a pod, as a decision over the pod alone.
//!
//! Annotations of the pod:
//! `sim.everynode.dev/start-delay-ms`  time from binding to Running and Ready (default 0);
//! `sim.everynode.dev/ready`           `false`: runs but never becomes ready;
//! `sim.everynode.dev/fail`            a reason such as `ImagePullBackOff`: never runs.
//! An image whose name contains `does-not-exist` cannot be pulled.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

const START_DELAY: &str = "sim.everynode.dev/start-delay-ms";
const READY: &str = "sim.everynode.dev/ready";
const FAIL: &str = "sim.everynode.dev/fail";

/// Delays are bounded, so that a slip of the pen does not park a pod for ever.
const START_DELAY_MS_MAX: u64 = 24 * 3600 * 1000;

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Nothing,
    /// Report the pod's containers; `running` is Err with a reason when they do not run.
    Report {
        after: Duration,
        running: Result<(), String>,
        ready: bool,
    },
    /// The pod was deleted and has ended: let it go.
    Finish,
}

/// What comes next for a pod that is bound to a simulated node.
pub fn next_step(pod: &Pod) -> Step {
    if pod.metadata.deletion_timestamp.is_some() {
        return Step::Finish;
    }
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let reported = status.and_then(|status| status.container_statuses.as_ref()).is_some_and(|statuses| !statuses.is_empty());
    if matches!(phase, "Succeeded" | "Failed") || reported && same_image(pod) {
        return Step::Nothing;
    }
    let annotation = |name: &str| pod.annotations().get(name).map(String::as_str);
    let delay = annotation(START_DELAY).and_then(|text| text.parse().ok()).unwrap_or(0).min(START_DELAY_MS_MAX);
    let running = match annotation(FAIL) {
        Some(reason) => Err(reason.to_owned()),
        None if has_missing_image(pod) => Err("ImagePullBackOff".to_owned()),
        None => Ok(()),
    };
    Step::Report { after: Duration::from_millis(delay), ready: running.is_ok() && annotation(READY) != Some("false"), running }
}

fn images(pod: &Pod) -> impl Iterator<Item = &str> {
    pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.image.as_deref().unwrap_or_default())
}

fn has_missing_image(pod: &Pod) -> bool {
    images(pod).any(|image| image.contains("does-not-exist"))
}

/// A pod's images can be changed in place.
fn same_image(pod: &Pod) -> bool {
    let reported = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()).map(|status| status.image.as_str());
    images(pod).eq(reported)
}
