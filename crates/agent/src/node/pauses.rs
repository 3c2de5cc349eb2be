//! Pauses between attempts to watch.

use std::time::Duration;

use backon::ExponentialBuilder;
use kube::runtime::watcher::ExponentialBackoff;

/// Kubernetes' clients go from 0.8 s to 30 s, which is long for a
/// node whose network, or whose server, has just come back; one node asks for three things only.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(4);

pub fn pauses() -> ExponentialBackoff {
    let pauses = ExponentialBuilder::default().with_min_delay(PAUSE_MIN).with_max_delay(PAUSE_MAX).with_jitter().without_max_times();
    pauses.into()
}
