//! The shell of `brain::daemonset`.

use std::collections::BTreeMap;
use std::sync::Arc;

use brain::daemonset::{Action, Plan, View, daemon_pod_spec, plan};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::cluster::Cluster;
use crate::names::daemon_pod_name;
use crate::perform::{self, Backoff, Request, is_done_already};

const MANAGER: &str = "everynode-daemonset-controller";

/// Also without a change everything is looked at this often.
const FULL_PASS: std::time::Duration = std::time::Duration::from_secs(60);

/// Collisions of derived names with names of other pods: the next attempts.
const NAME_ATTEMPTS_MAX: u64 = 20;

pub async fn run(cluster: Cluster, client: Client) {
    if !cluster.ready().await {
        return;
    }
    let (mut sets, mut pods, mut nodes) = (cluster.sets.changes(), cluster.pods.changes(), cluster.nodes.changes());
    let mut backoff = Backoff::default();
    loop {
        sets.borrow_and_update();
        pods.borrow_and_update();
        nodes.borrow_and_update();
        let failed = pass(&cluster, &client).await;
        if let Some(pause) = backoff.after(failed) {
            tokio::time::sleep(pause).await;
            continue;
        }
        // All arms only wait; changes that come meanwhile are seen by the next pass.
        tokio::select! {
            changed = sets.changed() => if changed.is_err() { return },
            changed = pods.changed() => if changed.is_err() { return },
            changed = nodes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(FULL_PASS) => {}
        }
    }
}

/// Plans and performs for every set; says whether anything failed.
async fn pass(cluster: &Cluster, client: &Client) -> bool {
    let sets = cluster.sets.store.state();
    if sets.is_empty() {
        return false;
    }
    let nodes = cluster.nodes_by_name();
    let pods = cluster.pods.store.state();
    let by_owner = pods_by_owner(&pods);
    let mut failed = false;
    for set in sets {
        let owned = by_owner.get(set.uid().unwrap_or_default().as_str()).cloned().unwrap_or_default();
        let plan = plan(&View { set: &set, nodes: &nodes, pods: &owned });
        failed |= apply(client, &set, &owned, &nodes, plan).await;
    }
    failed
}

fn pods_by_owner(pods: &[Arc<Pod>]) -> BTreeMap<String, Vec<&Pod>> {
    let mut by_owner: BTreeMap<String, Vec<&Pod>> = BTreeMap::new();
    for pod in pods {
        if let Some(owner) = pod.owner_references().iter().find(|owner| owner.controller == Some(true)) {
            by_owner.entry(owner.uid.clone()).or_default().push(pod);
        }
    }
    for pods in by_owner.values_mut() {
        pods.sort_by_key(|pod| pod.metadata.name.clone());
    }
    by_owner
}

async fn apply(client: &Client, set: &DaemonSet, owned: &[&Pod], nodes: &BTreeMap<String, Node>, plan: Plan) -> bool {
    let namespace = set.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let mut requests: Vec<Request<'_>> = Vec::with_capacity(plan.actions.len());
    for action in &plan.actions {
        requests.push(match action {
            Action::CreatePod { node } => Box::pin(create(&pods, set, owned, node)),
            Action::DeletePod { name, uid, .. } => Box::pin(delete(&pods, name, uid)),
        });
    }
    let mut errors = perform::all(requests).await;
    if Some(&plan.status) != set.status.as_ref() && set.metadata.deletion_timestamp.is_none() {
        errors.extend(write_status(client, set, &namespace, &plan).await.err());
    }
    if let Some(error) = errors.first() {
        let error = error as &dyn std::error::Error;
        tracing::warn!(error, set = %set.name_any(), failures = errors.len(), nodes = nodes.len(), "some requests of a plan failed; it is made anew");
    }
    !errors.is_empty()
}

async fn create(pods: &Api<Pod>, set: &DaemonSet, owned: &[&Pod], node: &str) -> Result<(), kube::Error> {
    let uid = set.uid().unwrap_or_default();
    for attempt in 0..NAME_ATTEMPTS_MAX {
        let name = daemon_pod_name(&set.name_any(), &uid, node, attempt);
        if owned.iter().any(|pod| pod.name_any() == name) {
            continue;
        }
        match pods.create(&PostParams::default(), &daemon_pod(set, node, name.clone())).await {
            Err(error) if is_done_already(&error) => match pods.get_opt(&name).await? {
                // Our own earlier request: done.
                Some(existing) if is_for(&existing, &uid, node) => return Ok(()),
                _ => {}
            },
            result => return result.map(|_| ()),
        }
    }
    Ok(())
}

fn is_for(pod: &Pod, set_uid: &str, node: &str) -> bool {
    let owned = pod.owner_references().iter().any(|owner| owner.uid == set_uid);
    owned && brain::daemonset::target_node(pod) == Some(node) && pod.metadata.deletion_timestamp.is_none()
}

fn daemon_pod(set: &DaemonSet, node: &str, name: String) -> Pod {
    let template = set.spec.as_ref().and_then(|spec| spec.template.metadata.clone()).unwrap_or_default();
    let owner = OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "DaemonSet".to_owned(),
        name: set.name_any(),
        uid: set.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let mut labels = template.labels.unwrap_or_default();
    let generation = set.annotations().get("deprecated.daemonset.template.generation").cloned();
    labels.extend(generation.map(|generation| ("pod-template-generation".to_owned(), generation)));
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            generate_name: Some(format!("{}-", set.name_any())),
            namespace: set.namespace(),
            labels: Some(labels),
            annotations: template.annotations,
            finalizers: template.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(daemon_pod_spec(set, Some(node))),
        status: None,
    }
}

async fn delete(pods: &Api<Pod>, name: &str, uid: &str) -> Result<(), kube::Error> {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match pods.delete(name, &params).await {
        Err(error) if is_done_already(&error) => Ok(()),
        result => result.map(|_| ()),
    }
}

async fn write_status(client: &Client, set: &DaemonSet, namespace: &str, plan: &Plan) -> Result<(), kube::Error> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let status = counters(plan)?;
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match sets.patch_status(&set.name_any(), &params, &Patch::Merge(json!({"status": status}))).await {
        Err(error) if is_done_already(&error) => Ok(()),
        result => result.map(|_| ()),
    }
}

/// Counters that are zero are absent from the status; a merge patch has to say so.
fn counters(plan: &Plan) -> Result<serde_json::Value, kube::Error> {
    let mut status = serde_json::to_value(&plan.status).map_err(kube::Error::SerdeError)?;
    for counter in ["numberAvailable", "numberUnavailable", "updatedNumberScheduled"] {
        if status.get(counter).is_none() {
            status[counter] = json!(null);
        }
    }
    Ok(status)
}
