//! The set's status: computed from the same view as the actions, so that the two cannot disagree.

use jiff::{SignedDuration, Timestamp};

use super::{Context, Plan};
use crate::model::{DaemonSetStatus, Pod};

/// Fills the counters, and wakes when a pod that is ready becomes available.
pub fn count(context: &Context<'_>, plan: &mut Plan) {
    let set = context.view.set;
    let mut status = DaemonSetStatus {
        observed_generation: set.meta.generation,
        collision_count: set.status.collision_count,
        ..DaemonSetStatus::default()
    };
    for site in context.sites.iter().filter(|site| site.node.is_some()) {
        let oldest = site.pods.first().copied();
        // While surging, the pod that is waited for is not the oldest.
        site.live_pods().for_each(|pod| wake_when_available(context, plan, pod));
        if site.is_wanted() {
            count_desired(context, &mut status, oldest);
        } else {
            status.number_misscheduled += usize::from(oldest.is_some());
        }
    }
    status.number_unavailable = status.desired_number_scheduled - status.number_available;
    plan.status = status;
}

fn count_desired(context: &Context<'_>, status: &mut DaemonSetStatus, oldest: Option<&Pod>) {
    status.desired_number_scheduled += 1;
    let Some(pod) = oldest else { return };
    status.current_number_scheduled += 1;
    status.updated_number_scheduled += usize::from(context.is_updated(pod));
    status.number_ready += usize::from(pod.is_ready());
    status.number_available += usize::from(pod.is_ready() && context.is_available(pod));
}

fn wake_when_available(context: &Context<'_>, plan: &mut Plan, pod: &Pod) {
    if let Some((true, Some(since))) = pod.status.ready.filter(|_| !context.is_available(pod)) {
        // Times of the API are whole seconds of another machine's clock: a pod "ready" in our
        // future becomes available later, not never.
        let at = since.saturating_add(SignedDuration::from_secs(context.view.set.min_ready_seconds));
        plan.wake_no_later_than(at.unwrap_or(Timestamp::MAX));
    }
}
