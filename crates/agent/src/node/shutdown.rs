//! A node that goes down ends its pods in time: first the ordinary ones, then the critical ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use brain::podsync::Ended;
use brain::podsync::registration::Pressure;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use super::Context;
use super::pods::Pods;
use crate::tree::Tree;
use brain::podsync::uid;

/// Pods from this priority on are ended last (`system-cluster-critical`).
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

const POLL_PERIOD: Duration = Duration::from_millis(100);

/// How long pods get, as the kubelet's `shutdownGracePeriod` and `shutdownGracePeriodCriticalPods`
/// say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Periods {
    /// For all pods together.
    pub all: Duration,
    /// The part of it that is kept for critical pods.
    pub critical: Duration,
}

/// Tells the API server, then ends all pods. Returns when they have ended or their time is over.
pub async fn run(context: &Context, pods: &Pods, periods: Periods) {
    let before = context.registration.pressure();
    context.registration.set_pressure(Pressure { shutting_down: true, ..before });
    let is_critical = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0) >= CRITICAL_PRIORITY;
    let (critical, ordinary): (Vec<Arc<Pod>>, Vec<Arc<Pod>>) = pods.all().into_iter().partition(|pod| is_critical(pod));
    for (group, time) in [(ordinary, periods.all.saturating_sub(periods.critical)), (critical, periods.critical)] {
        end(context, pods, &group, time).await;
    }
}

async fn end(context: &Context, pods: &Pods, group: &[Arc<Pod>], time: Duration) {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    for pod in group {
        let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(seconds);
        let ended = Ended {
            reason: "Terminated".to_owned(),
            message: "Pod was terminated in response to imminent node shutdown.".to_owned(),
            grace_seconds: Some(own.min(seconds)),
            disruption: Some("TerminationByKubelet".to_owned()),
        };
        pods.end(uid(pod), ended);
    }
    let deadline = Instant::now() + time;
    let runs = |pod: &Arc<Pod>| context.observer.observed(uid(pod)).is_anything_running();
    while group.iter().any(runs) && Instant::now() < deadline {
        tokio::time::sleep(POLL_PERIOD).await;
    }
    // Their workers are about to report the end: an agent that went now would leave them Running
    // forever.
    for pod in group {
        while is_known_as_running(context, pod).await && Instant::now() < deadline {
            tokio::time::sleep(POLL_PERIOD).await;
        }
    }
}

/// Whether the API server still takes the pod for one that runs. A server that does not answer is
/// not waited for.
async fn is_known_as_running(context: &Context, pod: &Pod) -> bool {
    let pods: Api<Tree<Pod>> = Api::namespaced(context.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    match pods.get_opt(pod.metadata.name.as_deref().unwrap_or_default()).await {
        Ok(Some(known)) => !matches!(phase(&known).as_str(), "Failed" | "Succeeded"),
        Ok(None) | Err(_) => false,
    }
}
