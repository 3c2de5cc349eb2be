//! What a simulated node does with a pod, as a decision over the pod alone.
//!
//! Annotations of the pod:
//! `sim.everynode.dev/start-delay-ms`  time from binding to Running and Ready (default 0);
//! `sim.everynode.dev/ready`           `false`: runs but never becomes ready;
//! `sim.everynode.dev/fail`            a reason such as `ImagePullBackOff`: never runs;
//! `sim.everynode.dev/phase`           `Failed` or `Succeeded`: ends so instead of running.
//! An image whose name contains `does-not-exist` or `non-existent` cannot be pulled.

use std::time::Duration;

use super::pod::SimulatedPod;

const START_DELAY: &str = "sim.everynode.dev/start-delay-ms";
const READY: &str = "sim.everynode.dev/ready";
const FAIL: &str = "sim.everynode.dev/fail";
const PHASE: &str = "sim.everynode.dev/phase";

/// What the names of images contain that no registry has.
const MISSING: [&str; 2] = ["does-not-exist", "non-existent"];

/// Delays are bounded, so that a slip of the pen does not park a pod forever.
const START_DELAY_MS_MAX: u64 = 24 * 3600 * 1000;

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Nothing,
    /// Report how the pod's containers are.
    Report(Report),
    /// The pod was deleted and has ended: let it go.
    Finish,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub after: Duration,
    pub running: Running,
    pub ready: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Running {
    Runs,
    /// Waits, for this reason.
    Waits(String),
    /// Ended in this phase.
    Ended(&'static str),
}

/// What comes next for a pod that is bound to a simulated node.
pub fn next_step(pod: &SimulatedPod) -> Step {
    if pod.is_deleted() {
        return Step::Finish;
    }
    let running = running(pod);
    let ready = running == Running::Runs && pod.annotation(READY) != Some("false");
    let said_ready = pod.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True");
    let reported = !pod.status.container_statuses.is_empty() && same_images(pod) && said_ready == ready;
    if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") || reported {
        return Step::Nothing;
    }
    let delay = pod.annotation(START_DELAY).and_then(|text| text.parse().ok()).unwrap_or(0).min(START_DELAY_MS_MAX);
    Step::Report(Report { after: Duration::from_millis(delay), running, ready })
}

fn running(pod: &SimulatedPod) -> Running {
    match (pod.annotation(PHASE), pod.annotation(FAIL)) {
        (Some("Failed"), _) => Running::Ended("Failed"),
        (Some("Succeeded"), _) => Running::Ended("Succeeded"),
        (_, Some(reason)) => Running::Waits(reason.to_owned()),
        _ if images(pod).any(|image| MISSING.iter().any(|missing| image.contains(missing))) => {
            Running::Waits("ImagePullBackOff".to_owned())
        }
        _ => Running::Runs,
    }
}

fn images(pod: &SimulatedPod) -> impl Iterator<Item = &str> {
    pod.spec.containers.iter().map(|container| container.image.as_str())
}

/// A pod's images can be changed in place.
fn same_images(pod: &SimulatedPod) -> bool {
    images(pod).eq(pod.status.container_statuses.iter().map(|status| status.image.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn step(pod: serde_json::Value) -> Step {
        next_step(&serde_json::from_value(pod).expect("a pod"))
    }

    fn pod(annotations: serde_json::Value, status: serde_json::Value) -> serde_json::Value {
        json!({"metadata": {"uid": "u", "annotations": annotations}, "spec": {"containers": [{"name": "c", "image": "i"}]}, "status": status})
    }

    #[test]
    fn a_new_pod_runs_and_is_ready() {
        let expected = Report { after: Duration::ZERO, running: Running::Runs, ready: true };
        assert_eq!(step(pod(json!({}), json!({}))), Step::Report(expected));
    }

    #[test]
    fn annotations_set_delay_readiness_failure_and_end() {
        let annotations = json!({"sim.everynode.dev/start-delay-ms": "250", "sim.everynode.dev/ready": "false"});
        let expected = Report { after: Duration::from_millis(250), running: Running::Runs, ready: false };
        assert_eq!(step(pod(annotations, json!({}))), Step::Report(expected));
        let waiting = Report { after: Duration::ZERO, running: Running::Waits("CrashLoopBackOff".to_owned()), ready: false };
        assert_eq!(step(pod(json!({"sim.everynode.dev/fail": "CrashLoopBackOff"}), json!({}))), Step::Report(waiting));
        let ended = Report { after: Duration::ZERO, running: Running::Ended("Failed"), ready: false };
        assert_eq!(step(pod(json!({"sim.everynode.dev/phase": "Failed"}), json!({}))), Step::Report(ended));
    }

    #[test]
    fn a_reported_pod_is_left_alone_until_somebody_says_it_is_not_ready() {
        let status = |ready: &str| json!({"phase": "Running", "containerStatuses": [{"image": "i"}], "conditions": [{"type": "Ready", "status": ready}]});
        assert_eq!(step(pod(json!({}), status("True"))), Step::Nothing);
        assert_ne!(step(pod(json!({}), status("False"))), Step::Nothing);
    }
}
