//! The shell of `brain::scheduler`.

use std::collections::BTreeMap;
use std::sync::Arc;

use brain::scheduler::{Decision, is_ours, plan};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::cluster::Cluster;
use crate::perform::{self, Backoff, Request, is_done_already};

const FULL_PASS: std::time::Duration = std::time::Duration::from_secs(60);

pub async fn run(cluster: Cluster, client: Client) {
    if !cluster.ready().await {
        return;
    }
    let (mut pods, mut nodes) = (cluster.pods.changes(), cluster.nodes.changes());
    let mut backoff = Backoff::default();
    loop {
        pods.borrow_and_update();
        nodes.borrow_and_update();
        let failed = pass(&cluster, &client).await;
        if let Some(pause) = backoff.after(failed) {
            tokio::time::sleep(pause).await;
            continue;
        }
        // All arms only wait; changes that come meanwhile are seen by the next pass.
        tokio::select! {
            changed = pods.changed() => if changed.is_err() { return },
            changed = nodes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(FULL_PASS) => {}
        }
    }
}

async fn pass(cluster: &Cluster, client: &Client) -> bool {
    let waiting: Vec<Arc<Pod>> = cluster.pods.store.state().into_iter().filter(|pod| is_ours(pod)).collect();
    if waiting.is_empty() {
        return false;
    }
    let nodes = cluster.nodes_by_name();
    let mut requests: Vec<Request<'_>> = Vec::with_capacity(waiting.len());
    for pod in &waiting {
        requests.push(Box::pin(schedule(client, pod, &nodes)));
    }
    let errors = perform::all(requests).await;
    if let Some(error) = errors.first() {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            failures = errors.len(),
            "some pods could not be scheduled; they are tried again"
        );
    }
    !errors.is_empty()
}

async fn schedule(client: &Client, pod: &Pod, nodes: &BTreeMap<String, Node>) -> Result<(), kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let result = match plan(pod, nodes) {
        Decision::Bind { node } => bind(&pods, pod, &node).await,
        Decision::Unschedulable { message } => report(&pods, pod, &message).await,
    };
    match result {
        Err(error) if is_done_already(&error) => Ok(()),
        result => result,
    }
}

async fn bind(pods: &Api<Pod>, pod: &Pod, node: &str) -> Result<(), kube::Error> {
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod.name_any(), "uid": pod.uid()},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    pods.create_subresource::<_, Status>("binding", &pod.name_any(), &PostParams::default(), &binding).await.map(|_| ())
}

/// Says in the pod's status why it has no node, unless it says so already.
async fn report(pods: &Api<Pod>, pod: &Pod, message: &str) -> Result<(), kube::Error> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    if conditions.iter().any(|c| c.type_ == "PodScheduled" && c.status == "False" && c.message.as_deref() == Some(message)) {
        return Ok(());
    }
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message, "observedGeneration": pod.metadata.generation});
    let patch = json!({"status": {"conditions": [condition]}});
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await.map(|_| ())
}
