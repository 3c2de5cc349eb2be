//! Simulated nodes: any number of nodes in one process, which run pods without containers.
//!
//! They register, renew their leases, make the pods bound to them Running and Ready, and let them go when they are deleted.
//! Annotations on a pod set how it behaves, see [`behaviour`].

mod behaviour;
mod objects;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// How often a node renews its lease, as the kubelet does.
const HEARTBEAT_PERIOD: Duration = Duration::from_secs(10);

/// Requests under way at once for all nodes together.
const REQUESTS_AT_ONCE_MAX: usize = 256;

/// Waits between tries of a request that failed.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// Which nodes to simulate.
#[derive(Debug, Clone)]
pub struct Settings {
    pub names: Vec<String>,
}

/// Runs the nodes until `shutdown` turns true. `ready` turns true when all are registered and Ready.
pub async fn run(client: Client, settings: Settings, ready: watch::Sender<bool>, mut shutdown: watch::Receiver<bool>) {
    // All arms run until they are dropped; requests under way are then cut off, as on a machine that loses power.
    tokio::select! {
        () = register_and_beat(&client, &settings.names, ready) => {}
        () = run_pods(&client, settings.names.iter().cloned().collect()) => {}
        _ = shutdown.wait_for(|&stopping| stopping) => {}
    }
}

async fn register_and_beat(client: &Client, names: &[String], ready: watch::Sender<bool>) {
    register_all(client, names).await;
    ready.send_replace(true);
    // Beats are spread over the period: thousands of nodes must not all write at once.
    let pause = HEARTBEAT_PERIOD / u32::try_from(names.len().max(1)).unwrap_or(u32::MAX);
    loop {
        for name in names {
            tokio::time::sleep(pause).await;
            if let Err(error) = beat(client, name).await {
                tracing::warn!(error = &error as &dyn std::error::Error, node = name, "cannot renew a lease");
            }
        }
    }
}

/// Registers every node, again until it works.
async fn register_all(client: &Client, names: &[String]) {
    let mut registrations: Vec<BoxFuture<'_, ()>> = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        registrations.push(Box::pin(async move {
            while let Err(error) = register(client, at, name).await {
                tracing::warn!(error = &error as &dyn std::error::Error, node = name, "cannot register a node; trying again");
                tokio::time::sleep(RETRY_PERIOD).await;
            }
        }));
    }
    stream::iter(registrations).buffer_unordered(REQUESTS_AT_ONCE_MAX).collect::<()>().await;
}

async fn register(client: &Client, at: usize, name: &str) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    match nodes.create(&PostParams::default(), &objects::node(at, name)).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        result => drop(result?),
    }
    let now = jiff::Timestamp::now();
    nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(objects::node_status(at, name, now))).await?;
    // What taints a new node is the node lifecycle controller's to lift; until it exists the node does so itself.
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": {"taints": null}}))).await?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
    match leases.create(&PostParams::default(), &objects::lease(name, now)).await {
        Err(kube::Error::Api(status)) if status.code == 409 => beat(client, name).await,
        result => result.map(drop),
    }
}

async fn beat(client: &Client, name: &str) -> Result<(), kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
    let renewal = json!({"spec": {"renewTime": objects::micro_time(jiff::Timestamp::now())}});
    leases.patch(name, &PatchParams::default(), &Patch::Merge(renewal)).await.map(drop)
}

/// Follows all pods with one watch, and acts for those on our nodes.
async fn run_pods(client: &Client, names: BTreeSet<String>) {
    let events = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default());
    let mut events = std::pin::pin!(kube::runtime::WatchStreamExt::default_backoff(events));
    // What was last done for a pod, by uid: an event that asks for the same again is an echo of our own write.
    let mut done: HashMap<String, behaviour::Step> = HashMap::new();
    let mut work: stream::FuturesUnordered<BoxFuture<'_, Option<String>>> = stream::FuturesUnordered::new();
    loop {
        // Both arms are cancel-safe: streams keep what they have not yielded.
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => {
                    let ours = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_some_and(|node| names.contains(node));
                    let step = behaviour::next_step(&pod);
                    let uid = pod.uid().unwrap_or_default();
                    if ours && step != behaviour::Step::Nothing && done.get(&uid) != Some(&step) {
                        done.insert(uid, step.clone());
                        work.push(Box::pin(act(client, pod, step)));
                    }
                }
                Some(Ok(Event::Delete(pod))) => drop(done.remove(&pod.uid().unwrap_or_default())),
                Some(Ok(Event::Init | Event::InitDone)) => {}
                Some(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "the watch on pods failed; it is tried again"),
                None => return,
            },
            Some(failed) = work.next(), if !work.is_empty() => if let Some(uid) = failed { done.remove(&uid); },
        }
    }
}

/// Performs a step; the uid of the pod comes back when it failed.
async fn act(client: &Client, pod: Pod, step: behaviour::Step) -> Option<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let uid = pod.uid();
    let result = match step {
        behaviour::Step::Nothing => Ok(()),
        behaviour::Step::Report { after, running, ready } => {
            tokio::time::sleep(after).await;
            let status = objects::pod_status(&pod, running, ready, jiff::Timestamp::now());
            pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await.map(drop)
        }
        behaviour::Step::Finish => {
            let preconditions = Preconditions { uid: uid.clone(), resource_version: None };
            let params = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..DeleteParams::default() };
            pods.delete(&pod.name_any(), &params).await.map(drop)
        }
    };
    match result {
        Ok(()) => None,
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => None,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, pod = pod.name_any(), "cannot report a pod");
            tokio::time::sleep(RETRY_PERIOD).await;
            uid
        }
    }
}
