//! The shells' shared picture of the cluster: one reflector for each kind, and a signal for each change.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector::Lookup};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A kind's objects and the signal of their changes.
#[derive(Clone)]
pub struct Reflected<K: Lookup + Clone + 'static>
where
    K::DynamicType: Eq + std::hash::Hash + Clone,
{
    pub store: Store<K>,
    changed: watch::Receiver<Progress>,
}

/// How far a reflector is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Everything was listed once. The store's own `wait_until_ready` wakes only the task that asked last.
    listed: bool,
    /// Counts what arrived, so that every event is a change of this value.
    events: u64,
}

impl<K: Lookup + Clone + 'static> Reflected<K>
where
    K::DynamicType: Eq + std::hash::Hash + Clone,
{
    /// A receiver that is woken by every change from now on.
    pub fn changes(&self) -> watch::Receiver<Progress> {
        self.changed.clone()
    }

    /// Waits for the first list. False when the reflector is gone.
    async fn listed(&self) -> bool {
        self.changed.clone().wait_for(|progress| progress.listed).await.is_ok()
    }
}

/// The objects that controllers look at.
#[derive(Clone)]
pub struct Cluster {
    pub sets: Reflected<DaemonSet>,
    pub pods: Reflected<Pod>,
    pub nodes: Reflected<Node>,
    pub namespaces: Reflected<Namespace>,
}

impl Cluster {
    /// Starts the reflectors; they run in `tasks`.
    pub fn start(client: &Client, tasks: &mut JoinSet<()>) -> Cluster {
        Cluster {
            sets: reflect(client, tasks),
            pods: reflect(client, tasks),
            nodes: reflect(client, tasks),
            namespaces: reflect(client, tasks),
        }
    }

    /// Waits until everything is listed once. False when the cluster is going away.
    pub async fn ready(&self) -> bool {
        self.sets.listed().await && self.pods.listed().await && self.nodes.listed().await && self.namespaces.listed().await
    }

    /// The nodes by name.
    pub fn nodes_by_name(&self) -> BTreeMap<String, Node> {
        let nodes = self.nodes.store.state();
        nodes.iter().filter_map(|node| Some((node.metadata.name.clone()?, Node::clone(node)))).collect()
    }
}

fn reflect<K>(client: &Client, tasks: &mut JoinSet<()>) -> Reflected<K>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let (signal, changed) = watch::channel(Progress::default());
    let api: Api<K> = Api::all(client.clone());
    let events = reflector::reflector(writer, watcher(api, watcher::Config::default())).default_backoff();
    tasks.spawn(async move {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => signal.send_modify(|progress| {
                    progress.listed |= matches!(event, Event::InitDone);
                    progress.events += 1;
                }),
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "a watch failed; it is tried again"),
            }
        }
    });
    Reflected { store, changed }
}
