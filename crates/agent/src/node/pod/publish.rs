//! Reports to the API server how a pod is, and that it is gone. `brain::podsync::report` decides
//! which parts of a status it sends.

use std::sync::Arc;

use brain::podsync::report::{acceptable, difference, version};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use crate::send::is_overtaken;
use crate::tree::Tree;
use brain::podsync::{is_static, pod_id};

const UNPROCESSABLE: u16 = 422;

/// The newer of two versions of a pod, by resourceVersion.
pub fn newer(a: &Arc<Pod>, b: &Arc<Pod>) -> Arc<Pod> {
    if version(b) >= version(a) { b.clone() } else { a.clone() }
}

/// Patches what differs, without the fields that the server refuses: one of them must not keep the
/// others from the server, or a pod could never end. Answers the pod as it is then, or None when
/// nothing differs or the pod is gone or another one.
pub async fn status(client: &Client, pod: &Pod, status: PodStatus) -> Result<Option<Pod>, kube::Error> {
    let before = pod.status.clone().unwrap_or_default();
    let Some(changes) = difference(&before, &status) else { return Ok(None) };
    // The API server learns of a static pod through its mirror, which has a uid of its own.
    let is_static = is_static(pod);
    let uid = pod.metadata.uid.as_ref().filter(|_| !is_static);
    let api: Api<Tree<Pod>> = Api::namespaced(client.clone(), &pod_id(pod).namespace);
    let mut changes = changes;
    loop {
        let patch = match uid {
            Some(uid) => json!({"metadata": {"uid": uid}, "status": changes}),
            None => json!({"status": changes}),
        };
        match api.patch_status(&pod_id(pod).name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(Tree(mirror)) if is_static => return Ok(Some(Pod { status: mirror.status, ..pod.clone() })),
            Ok(Tree(pod)) => return Ok(Some(pod)),
            Err(error) if is_overtaken(&error) => return Ok(None),
            // Each time with fewer fields: this ends.
            Err(error) => match refused_fields(&error).and_then(|fields| acceptable(&changes, &fields)) {
                Some(fewer) if fewer.is_empty() => return Ok(None),
                Some(fewer) => {
                    tracing::warn!(%error, pod = pod_id(pod).name, "the server refuses a part of a status; the agent sends the rest without it");
                    changes = fewer;
                }
                None => return Err(error),
            },
        }
    }
}

/// The paths of the fields that the server found wrong; None when it was something else that it
/// found.
fn refused_fields(error: &kube::Error) -> Option<Vec<&str>> {
    let kube::Error::Api(status) = error else { return None };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    (status.code == UNPROCESSABLE).then(|| causes.map(|cause| cause.field.as_str()).collect())
}

/// Removes a pod that has ended, if it is still that one.
pub async fn delete(client: &Client, pod: &Pod) -> Result<(), kube::Error> {
    let api: Api<Tree<Pod>> = Api::namespaced(client.clone(), &pod_id(pod).namespace);
    let uid = pod.metadata.uid.clone().filter(|_| !is_static(pod));
    let preconditions = Preconditions { uid, resource_version: None };
    let params = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(&pod_id(pod).name, &params).await {
        Err(error) if !is_overtaken(&error) => Err(error),
        _ => Ok(()),
    }
}
