//! The nodes themselves: registered, followed, and alive.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};

use super::fleet::{Fleet, State};
use super::objects;
use crate::send::{JSON, MERGE, STRATEGIC, is_overtaken, send};
use crate::tree::Tree;

const SIMULATED_SELECTOR: &str = "everynode.dev/simulated=true";
const STOPPED: &str = "sim.everynode.dev/stopped";

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// How often a node renews its lease, as the kubelet does.
const HEARTBEAT_PERIOD: Duration = Duration::from_secs(10);

/// All nodes of the process together renew no more leases than this a second: beyond 4,000 nodes
/// they promise to do so less often.
const HEARTBEATS_PER_SECOND_MAX: u32 = 400;

/// Requests under way at once while registering.
const REQUESTS_AT_ONCE_MAX: usize = 64;

const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// How often a fleet of that size renews its leases.
pub fn heartbeat_period(nodes: usize) -> Duration {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    HEARTBEAT_PERIOD.max(Duration::from_secs(1) * nodes / HEARTBEATS_PER_SECOND_MAX)
}

/// Makes the nodes, unless there are simulated nodes already (a restart does not bring back what
/// was removed). Then waits forever.
pub async fn register(client: &Client, names: &[String]) {
    let nodes: Api<Tree<Node>> = Api::all(client.clone());
    let known = loop {
        match nodes.list_metadata(&ListParams::default().labels(SIMULATED_SELECTOR).limit(1)).await {
            Ok(list) => break !list.items.is_empty(),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot list nodes; trying again"),
        }
        tokio::time::sleep(RETRY_PERIOD).await;
    };
    if !known {
        let mut registrations: Vec<BoxFuture<'static, ()>> = Vec::with_capacity(names.len());
        for (at, name) in names.iter().cloned().enumerate() {
            let client = client.clone();
            // In a task of its own: in process, the sender's task does the server's work.
            let period = heartbeat_period(names.len());
            registrations.push(Box::pin(async move {
                let _ = tokio::spawn(async move { register_one(&client, at, &name, period).await }).await;
            }));
        }
        stream::iter(registrations).buffer_unordered(REQUESTS_AT_ONCE_MAX).collect::<()>().await;
    }
    std::future::pending::<()>().await;
}

/// Registers a node and promises to stay, again until it works.
async fn register_one(client: &Client, at: usize, name: &str, period: Duration) {
    let (node, lease) = (objects::node(at, name, Timestamp::now()), objects::lease(name, period, Timestamp::now()));
    for (path, object) in [("/api/v1/nodes", node), (LEASES, lease)] {
        while let Err(error) = send(client, "POST", path, JSON, &object).await {
            if is_overtaken(&error) {
                break;
            }
            tracing::warn!(error = &error as &dyn std::error::Error, node = name, "cannot register a node; trying again");
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }
}

/// Keeps the fleet as the Node objects are, and has nodes say that they are well when a controller
/// takes them for dead.
pub async fn follow(client: &Client, fleet: &Fleet) {
    let config = watcher::Config::default().labels(SIMULATED_SELECTOR);
    let events = watcher(Api::<Tree<Node>>::all(client.clone()), config).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut listed = BTreeSet::new();
    let mut reports: stream::FuturesUnordered<BoxFuture<'_, ()>> = stream::FuturesUnordered::new();
    loop {
        // Both arms are cancel-safe: streams keep what they have not yielded.
        let event = tokio::select! {
            event = events.next(), if reports.len() < REQUESTS_AT_ONCE_MAX => event,
            Some(()) = reports.next(), if !reports.is_empty() => continue,
        };
        match event {
            Some(Ok(Event::Apply(node))) => reports.extend(take_in(client, fleet, &node)),
            Some(Ok(Event::InitApply(node))) => {
                listed.insert(node.name_any());
                reports.extend(take_in(client, fleet, &node));
            }
            Some(Ok(Event::Delete(node))) => fleet.set(&node.name_any(), None),
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitDone)) => {
                for name in fleet.alive().into_iter().filter(|name| !listed.contains(name)) {
                    fleet.set(&name, None);
                }
                listed.clear();
            }
            Some(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "the watch on nodes failed; it is tried again"),
            None => return,
        }
    }
}

/// Notes the state of a node; what it has to report, if anything.
fn take_in<'a>(client: &'a Client, fleet: &Fleet, node: &Node) -> Option<BoxFuture<'a, ()>> {
    let name = node.name_any();
    if node.annotations().get(STOPPED).is_some_and(|value| value == "true") {
        fleet.set(&name, Some(State::Stopped));
        return None;
    }
    fleet.set(&name, Some(State::Alive));
    // Made by hand, or taken for dead meanwhile. What else others make it say of itself stands.
    let ready = node.status.iter().flat_map(|status| status.conditions.iter().flatten()).find(|condition| condition.type_ == "Ready");
    let is_missed = |message: Option<&str>| message == Some("Kubelet stopped posting node status.");
    if ready.is_some_and(|ready| ready.status != "Unknown" || !is_missed(ready.message.as_deref())) {
        return None;
    }
    let at = node.metadata.uid.iter().flat_map(|uid| uid.bytes()).map(usize::from).sum();
    Some(Box::pin(async move {
        let status = objects::node_status(at, &name, Timestamp::now());
        if let Err(error) = send(client, "PATCH", &format!("/api/v1/nodes/{name}/status"), STRATEGIC, &status).await {
            tracing::warn!(error = &error as &dyn std::error::Error, node = name, "cannot report a node");
        }
    }))
}

/// Renews the leases of all nodes that are alive, forever, one after another and spread over the
/// period: thousands of nodes must not all write at once, and one that joins must not wait for the
/// others.
pub async fn beat(client: &Client, fleet: &Fleet) {
    let mut changes = fleet.changes();
    let mut last = String::new();
    loop {
        let Some((name, nodes)) = fleet.alive_after(&last) else {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        };
        let period = heartbeat_period(nodes);
        let next = tokio::time::Instant::now() + period / u32::try_from(nodes).unwrap_or(u32::MAX);
        if let Err(error) = renew(client, &name, period).await {
            tracing::warn!(error = &error as &dyn std::error::Error, node = name, "cannot renew a lease");
        }
        last = name;
        tokio::time::sleep_until(next).await;
    }
}

async fn renew(client: &Client, name: &str, period: Duration) -> Result<(), kube::Error> {
    let now = Timestamp::now();
    let renewal = serde_json::json!({"spec": {"renewTime": objects::micro_time(now)}});
    match send(client, "PATCH", &format!("{LEASES}/{name}"), MERGE, &renewal).await {
        Err(error) if is_overtaken(&error) => match send(client, "POST", LEASES, JSON, &objects::lease(name, period, now)).await {
            // Made meanwhile by the registration.
            Err(error) if is_overtaken(&error) => Ok(()),
            result => result,
        },
        result => result,
    }
}
