//! The node's pods as its endpoints name and list them.

use std::sync::Arc;

use brain::podsync::uid;
use http::Response;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::Shared;
use super::answer::{self, Body, Refusal};
use super::route::Target;

/// The pod that a path names; `missing` is what is answered when it is not here.
pub fn find(shared: &Shared, target: &Target, missing: &str) -> Result<Arc<Pod>, Refusal> {
    let pod = shared.agent.pods.find(&target.namespace, &target.pod);
    let pod = pod.filter(|pod| target.uid.as_ref().is_none_or(|wanted| wanted == uid(pod)));
    pod.ok_or_else(|| Refusal::new(404, missing))
}

/// Is there a container of that name, of whatever kind?
pub fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let usual = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|container| &container.name);
    let mut names = usual.chain(spec.ephemeral_containers.iter().flatten().map(|container| &container.name));
    names.any(|known| known == name)
}

/// All pods bound to this node.
pub fn bound(shared: &Shared) -> Response<Body> {
    list(shared.agent.pods.all().iter().map(|pod| serde_json::to_value(pod.as_ref()).unwrap_or_default()).collect())
}

/// Those of which a container runs, with as little as the kubelet tells.
pub fn running(shared: &Shared) -> Response<Body> {
    let mut pods = Vec::new();
    for pod in shared.agent.pods.all() {
        let observed = shared.agent.context.observer.observed(uid(&pod));
        let running = observed.containers.iter().filter(|record| record.is_running());
        let containers: Vec<Value> = running.map(|record| json!({"name": record.name, "image": record.image, "resources": {}})).collect();
        if !containers.is_empty() {
            let metadata = json!({"name": pod.metadata.name, "namespace": pod.metadata.namespace, "uid": pod.metadata.uid});
            pods.push(json!({"metadata": metadata, "spec": {"containers": containers}, "status": {}}));
        }
    }
    list(pods)
}

fn list(items: Vec<Value>) -> Response<Body> {
    answer::json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}
