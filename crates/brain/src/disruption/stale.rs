//! Takes the condition DisruptionTarget back from pods that were to go and did not.
//!
//! After `syncStalePodDisruption`. What the kubelet said stays: it may take its time.

use jiff::{SignedDuration, Timestamp};
use kinds::decode::format_time;
use serde_json::json;

use crate::controller::{Controller, Work};
use crate::model::{Key, Pod};
use crate::picture::{Change, Object, Picture};
use crate::request::{PODS, Request, Verb};

/// `stalePodDisruptionTimeout`.
const TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

#[derive(Debug, Default)]
pub struct StaleDisruptions;

impl Controller for StaleDisruptions {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn concerns(&mut self, _cluster: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        if let Some(Object::Pod(pod)) = &change.new
            && since(pod).is_some()
        {
            add(pod.meta.key());
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, now: Timestamp) -> Work {
        let Some((pod, since)) = picture.pods.get(key).and_then(|pod| Some((pod, since(pod)?))) else { return Work::default() };
        if now < since + TIMEOUT {
            return Work { wake_at: Some(since + TIMEOUT), ..Work::default() };
        }
        let condition = json!({
            "type": "DisruptionTarget", "status": "False", "reason": null, "message": null,
            "lastTransitionTime": format_time(now),
        });
        let patch = json!({"metadata": {"uid": pod.meta.uid}, "status": {"conditions": [condition]}});
        Work::requests(vec![Request::new(PODS, key.clone(), Verb::Strategic(patch)).on("status")])
    }
}

/// Since when a pod is marked for disruption although no client deleted it.
fn since(pod: &Pod) -> Option<Timestamp> {
    pod.status.disruption_since.filter(|_| !pod.meta.is_deleted() && !pod.is_terminal())
}
