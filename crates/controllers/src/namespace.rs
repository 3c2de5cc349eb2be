//! Ends namespaces: deletes what is in one that is terminating, and lets it go when nothing is left.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kinds::table::{KINDS, Kind};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};

use crate::cluster::Cluster;
use crate::perform::{Backoff, is_done_already};

const FULL_PASS: Duration = Duration::from_secs(60);

/// Pods take their time to end; how often it is looked whether they have.
const RECHECK_PERIOD: Duration = Duration::from_millis(500);

pub async fn run(cluster: Cluster, client: Client) {
    if !cluster.ready().await {
        return;
    }
    let mut namespaces = cluster.namespaces.changes();
    let mut backoff = Backoff::default();
    loop {
        namespaces.borrow_and_update();
        let mut failed = false;
        let mut waiting = false;
        for namespace in cluster.namespaces.store.state().iter().filter(|ns| ns.metadata.deletion_timestamp.is_some()) {
            match end(&client, namespace).await {
                Ok(ended) => waiting |= !ended,
                Err(error) => {
                    failed = true;
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        namespace = namespace.name_any(),
                        "cannot end a namespace; it is tried again"
                    );
                }
            }
        }
        if let Some(pause) = backoff.after(failed) {
            tokio::time::sleep(pause).await;
            continue;
        }
        // Both arms only wait; changes that come meanwhile are seen by the next pass.
        tokio::select! {
            changed = namespaces.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(if waiting { RECHECK_PERIOD } else { FULL_PASS }) => {}
        }
    }
}

/// Deletes everything in the namespace; says whether nothing was left and the namespace may go.
async fn end(client: &Client, namespace: &Namespace) -> Result<bool, kube::Error> {
    let name = namespace.name_any();
    let mut left = 0;
    for kind in KINDS.iter().filter(|kind| kind.namespaced && kind.is_stored() && kind.view.is_none()) {
        left += empty(client, &name, kind).await?;
    }
    if left > 0 {
        return Ok(false);
    }
    let mut finished = namespace.clone();
    finished.metadata.resource_version = None;
    finished.spec.get_or_insert_default().finalizers = None;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces.replace_subresource("finalize", &name, &PostParams::default(), &finished).await {
        Err(error) if is_done_already(&error) => Ok(true),
        result => result.map(|_: Namespace| true),
    }
}

/// Deletes the objects of a kind; returns how many there were before.
async fn empty(client: &Client, namespace: &str, kind: &'static Kind) -> Result<usize, kube::Error> {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(kind.group, kind.version, kind.kind), kind.plural);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let found = api.list_metadata(&ListParams::default()).await?.items.len();
    if found > 0 {
        api.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
    }
    Ok(found)
}
