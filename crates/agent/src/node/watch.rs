//! The pods bound to this node and the Node object itself, as the API server has them.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};

use super::Context;
use super::pauses::pauses;
use super::pods::Pods;
use crate::tree::Tree;
use brain::podsync::is_mirror;

/// Follows both until dropped.
pub async fn run(context: &Context, pods: &Arc<Pods>) {
    context.registration.registered().await;
    tokio::join!(follow_pods(context, pods), follow_node(context));
}

async fn follow_pods(context: &Context, pods: &Arc<Pods>) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", context.settings.name));
    let events = watcher(Api::<Tree<Pod>>::all(context.client.clone()), config).backoff(pauses());
    let mut events = std::pin::pin!(events);
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            // A static pod's mirror is there to be seen; its file is what is run.
            Ok(Event::InitApply(pod) | Event::Apply(pod) | Event::Delete(pod)) if is_mirror(&pod) => {}
            Ok(Event::InitApply(Tree(pod))) => listed.push(pod),
            Ok(Event::InitDone) => pods.listed(std::mem::take(&mut listed)).await,
            Ok(Event::Apply(Tree(pod))) => pods.apply(pod).await,
            Ok(Event::Delete(pod)) => pods.gone(&pod.uid().unwrap_or_default()).await,
            Err(error) => tracing::warn!(%error, "the watch on pods failed; it is tried again"),
        }
    }
}

async fn follow_node(context: &Context) {
    let config = watcher::Config::default().fields(&format!("metadata.name={}", context.settings.name));
    let events = watcher(Api::<Tree<Node>>::all(context.client.clone()), config).backoff(pauses());
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitApply(Tree(node)) | Event::Apply(Tree(node))) => context.registration.seen(node),
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) => {}
            Err(error) => tracing::warn!(%error, "the watch on the node failed; it is tried again"),
        }
    }
}
