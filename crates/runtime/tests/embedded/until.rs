//! Waiting for a condition.

use std::time::Duration;

const PERIOD: Duration = Duration::from_millis(20);

/// Far more than anything takes: a machine that is busy must not fail a test.
pub const LONG: Duration = Duration::from_secs(60);

/// Looks again and again until it holds; `what` is what the failure says was missing.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let look = async {
        while !holds().await {
            tokio::time::sleep(PERIOD).await;
        }
    };
    tokio::time::timeout(LONG, look).await.unwrap_or_else(|_| panic!("waited {} s in vain for: {what}", LONG.as_secs()));
}
