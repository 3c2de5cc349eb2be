//! Performing many requests at a time, within a bound, and waiting before trying failures again.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};

/// Requests under way at once for one plan; the API server batches what arrives together.
const REQUESTS_AT_ONCE_MAX: usize = 256;

/// The pause after a round with failures: doubling between these.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A request that is still to be sent.
pub type Request<'a> = BoxFuture<'a, Result<(), kube::Error>>;

/// Awaits all; returns the errors.
pub async fn all(requests: Vec<Request<'_>>) -> Vec<kube::Error> {
    let done = stream::iter(requests).buffer_unordered(REQUESTS_AT_ONCE_MAX);
    done.filter_map(|result| std::future::ready(result.err())).collect().await
}

/// Pauses after rounds that failed.
#[derive(Debug, Default)]
pub struct Backoff(Option<Duration>);

impl Backoff {
    /// Call after each round.
    pub fn after(&mut self, failed: bool) -> Option<Duration> {
        self.0 = failed.then(|| self.0.map_or(BACKOFF_MIN, |last| (last * 2).min(BACKOFF_MAX)));
        self.0
    }
}

/// Is the error the server's "that is there already" or "that is gone"? Both mean that somebody did what was wanted.
pub fn is_done_already(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}
