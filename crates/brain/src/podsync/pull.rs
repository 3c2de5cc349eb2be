//! Whether the agent has to fetch an image before a container can start, and what it reports to
//! users about it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::failure::StartFailure;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is here.
    Use,
    Pull,
    /// It is not here and may not be fetched.
    Refuse(StartFailure),
}

/// By `imagePullPolicy`; without one, `Always` for the tag `latest`, else `IfNotPresent`.
pub fn decide(container: &Container, is_present: bool) -> Decision {
    let image = container.image.as_deref().unwrap_or_default();
    let policy = container.image_pull_policy.as_deref().unwrap_or(default_policy(image));
    match (policy, is_present) {
        ("Always", _) | ("IfNotPresent", false) => Decision::Pull,
        ("Never", false) => Decision::Refuse(StartFailure::ImageNeverPulled { image: image.to_owned() }),
        _ => Decision::Use,
    }
}

fn default_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let is_latest = !image.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    if is_latest { "Always" } else { "IfNotPresent" }
}

/// Failed pulls are counted for each pod and image.
pub fn backoff_key(pod: &Pod, image: &str) -> String {
    format!("{}_{image}", pod.metadata.uid.as_deref().unwrap_or_default())
}

pub fn present_message(image: &str) -> String {
    format!("Container image \"{image}\" already present on machine and can be accessed by the pod")
}

pub fn never_pull_message(image: &str) -> String {
    format!("Container image \"{image}\" is not present with pull policy of Never")
}

pub fn pulling_message(image: &str) -> String {
    format!("Pulling image \"{image}\"")
}

pub fn pulled_message(image: &str, took: Duration, waited: Duration, size_bytes: u64) -> String {
    format!(
        "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {size_bytes} bytes.",
        go_duration(took),
        go_duration(waited)
    )
}

pub fn failed_message(image: &str, error: &str) -> String {
    format!("Failed to pull image \"{image}\": {error}")
}

pub fn backoff_message(image: &str) -> String {
    format!("Back-off pulling image \"{image}\"")
}

/// Milliseconds are exact enough: `1.234s`, `87ms`.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        format!("{millis}ms")
    } else {
        format!("{}.{:03}s", millis / 1000, millis % 1000).trim_end_matches('0').replace(".s", "s")
    }
}
