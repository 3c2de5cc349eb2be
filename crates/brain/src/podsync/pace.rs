//! When the worker of a pod looks again: periods, retries and deadlines.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::Ended;

/// A pod is looked at again at least this often: mounted ConfigMaps and tokens are brought up to
/// date then.
pub const PERIOD: Duration = Duration::from_secs(60);

/// After a failure that no back-off of its own bounds.
pub const RETRY: Duration = Duration::from_secs(10);

/// An image that could not be pulled shows that it waits soon after.
pub const PULL_RETRY: Duration = Duration::from_secs(1);

/// A pod that waits for the network of its node looks again soon after: it may be ready by then.
pub const NETWORK_RETRY: Duration = Duration::from_secs(1);

/// The pause after a status that could not be sent.
pub const REPORT_RETRY: Duration = Duration::from_secs(1);

/// A pod that could not be ended.
pub const KILL_RETRY: Duration = Duration::from_secs(2);

/// What a pod gets that was removed from the API server without grace.
pub const FORCED_GRACE_SECONDS: i64 = 2;

/// How long the end of a pod waits for what is being made, before it looks again; and how often. A
/// start of a container is given up before that. What hangs longer than any of that, in a file
/// system that does not answer, holds the end up no more: what it makes after all belongs to no pod
/// then, and is removed as such.
pub const CALLS_TIMEOUT: Duration = Duration::from_secs(10);
pub const CALLS_WAITS_MAX: u32 = 18;

/// Volumes that could not be set up: from half a second, doubled, up to about two minutes.
const MOUNT_RETRY_MIN: Duration = Duration::from_millis(500);
const MOUNT_RETRY_MAX: Duration = Duration::from_secs(122);

/// The growing pause between two attempts to set up a pod's volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountRetry(Duration);

impl Default for MountRetry {
    fn default() -> MountRetry {
        MountRetry(MOUNT_RETRY_MIN)
    }
}

impl MountRetry {
    /// The pause after this failure; the next one is longer.
    pub fn after_failure(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(MOUNT_RETRY_MAX);
        pause
    }

    pub fn reset(&mut self) {
        *self = MountRetry::default();
    }
}

/// When a pod has run for as long as it may (`activeDeadlineSeconds`).
pub fn deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let started = pod.status.as_ref()?.start_time.as_ref()?.0;
    started.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?)).ok()
}

/// The end of a pod whose deadline has passed.
pub fn past_deadline(pod: &Pod, now: Timestamp) -> Option<Ended> {
    deadline(pod).filter(|deadline| now >= *deadline)?;
    Some(Ended {
        reason: "DeadlineExceeded".to_owned(),
        message: "Pod was active on the node longer than the specified deadline".to_owned(),
        grace_seconds: None,
        disruption: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_pause_of_volumes_doubles_up_to_its_end() {
        let mut retry = MountRetry::default();
        let pauses: Vec<u128> = (0..10).map(|_| retry.after_failure().as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 122_000, 122_000]);
        retry.reset();
        assert_eq!(retry.after_failure(), MOUNT_RETRY_MIN);
    }

    #[test]
    fn a_deadline_counts_from_the_start_and_one_beyond_all_times_never_passes() {
        let pod = |seconds: i64| -> Pod {
            serde_json::from_value(json!({
                "spec": {"activeDeadlineSeconds": seconds, "containers": []},
                "status": {"startTime": "1970-01-01T00:00:10Z"},
            }))
            .unwrap()
        };
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!(deadline(&pod(5)), Some(at(15)));
        assert!(past_deadline(&pod(5), at(14)).is_none());
        assert_eq!(past_deadline(&pod(5), at(15)).unwrap().reason, "DeadlineExceeded");
        assert_eq!(deadline(&pod(i64::MAX)), None);
    }
}
