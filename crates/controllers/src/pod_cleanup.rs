//! Deletes daemon pods whose set is gone, and finishes pods that were never bound. The garbage collector proper comes with the next issue.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client, ResourceExt};

use crate::cluster::Cluster;
use crate::perform::{self, Backoff, Request, is_done_already};

const FULL_PASS: std::time::Duration = std::time::Duration::from_secs(60);

pub async fn run(cluster: Cluster, client: Client) {
    if !cluster.ready().await {
        return;
    }
    let (mut sets, mut pods) = (cluster.sets.changes(), cluster.pods.changes());
    let mut backoff = Backoff::default();
    loop {
        sets.borrow_and_update();
        pods.borrow_and_update();
        let failed = pass(&cluster, &client).await;
        if let Some(pause) = backoff.after(failed) {
            tokio::time::sleep(pause).await;
            continue;
        }
        // All arms only wait; changes that come meanwhile are seen by the next pass.
        tokio::select! {
            changed = sets.changed() => if changed.is_err() { return },
            changed = pods.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(FULL_PASS) => {}
        }
    }
}

async fn pass(cluster: &Cluster, client: &Client) -> bool {
    let pods = cluster.pods.store.state();
    let sets: BTreeSet<String> = cluster.sets.store.state().iter().filter_map(|set| set.uid()).collect();
    let mut requests: Vec<Request<'_>> = Vec::new();
    for pod in &pods {
        let orphaned = owner_uid(pod).is_some_and(|uid| !sets.contains(&uid));
        if orphaned && pod.metadata.deletion_timestamp.is_none() {
            requests.push(Box::pin(delete_if_orphan(client, pod)));
        }
    }
    let errors = perform::all(requests).await;
    !errors.is_empty()
}

fn owner_uid(pod: &Pod) -> Option<String> {
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true) && owner.kind == "DaemonSet")?;
    Some(owner.uid.clone())
}

/// Asks the API whether the set is really gone: the picture of sets may be older than that of pods.
async fn delete_if_orphan(client: &Client, pod: &Pod) -> Result<(), kube::Error> {
    let namespace = pod.namespace().unwrap_or_default();
    let Some(owner) = pod.owner_references().iter().find(|owner| owner.controller == Some(true)) else { return Ok(()) };
    let sets: Api<k8s_openapi::api::apps::v1::DaemonSet> = Api::namespaced(client.clone(), &namespace);
    if sets.get_opt(&owner.name).await?.is_some_and(|set| set.uid().as_deref() == Some(owner.uid.as_str())) {
        return Ok(());
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    match pods.delete(&pod.name_any(), &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }).await {
        Err(error) if is_done_already(&error) => Ok(()),
        result => result.map(|_| ()),
    }
}
