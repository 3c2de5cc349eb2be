//! One pod: its worker, and what the worker does.

pub mod config;
pub mod end;
pub mod hooks;
pub mod images;
pub mod message;
pub mod prober;
pub mod probes;
pub mod publish;
pub mod resize;
pub mod start;
pub mod worker;

use k8s_openapi::api::core::v1::Pod;
use runtime::port::PodId;

/// The parts of a pod's metadata that everything is named after.
pub fn id(pod: &Pod) -> PodId {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    PodId { name: text(&pod.metadata.name), namespace: text(&pod.metadata.namespace), uid: text(&pod.metadata.uid) }
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}
