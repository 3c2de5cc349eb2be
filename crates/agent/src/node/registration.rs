//! The Node object and its lease: made at the start, kept up to date, kept alive. What they say is
//! decided in `brain::podsync::registration`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use brain::podsync::registration::{self, Now, Pressure, Site};
use brain::request::EventType;
use containers::{PodRange, Version};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::watch;

use super::Context;
use crate::send::{JSON, MERGE, is_overtaken, send};
use crate::tree::Tree;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// The kubelet's figures: renewals, status when nothing changed, and how often the machine is
/// looked at.
const LEASE_PERIOD: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i64 = 40;
const REPORT_PERIOD: Duration = Duration::from_secs(300);
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// How often a network that is not ready is looked at.
const NETWORK_LOOK_PERIOD: Duration = Duration::from_secs(1);
const RANGE_RETRY_PERIOD: Duration = Duration::from_secs(5);
const RETRY_PERIOD: Duration = Duration::from_millis(500);

/// What is known of the own Node object, and the pressures that the agent found.
pub struct Registration {
    runtime: Version,
    node: watch::Sender<Option<Node>>,
    pressure: Mutex<Pressure>,
    /// Why pods get no network of their own, as the runtime said it last.
    network_problem: Mutex<Option<String>>,
    /// What pods get their addresses from, since it is known.
    range: Mutex<Option<PodRange>>,
    wake: tokio::sync::Notify,
}

impl Registration {
    pub fn new(runtime: Version) -> Registration {
        Registration {
            runtime,
            node: watch::channel(None).0,
            pressure: Mutex::default(),
            network_problem: Mutex::default(),
            range: Mutex::default(),
            wake: tokio::sync::Notify::new(),
        }
    }

    /// The Node object as it was last seen; None before the first registration.
    pub fn node(&self) -> Option<Node> {
        self.node.borrow().clone()
    }

    /// Waits until the node is registered.
    pub async fn registered(&self) {
        let _ = self.node.subscribe().wait_for(Option::is_some).await;
    }

    pub fn seen(&self, node: Node) {
        self.node.send_replace(Some(node));
    }

    pub fn pressure(&self) -> Pressure {
        *self.pressure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn network_problem(&self) -> Option<String> {
        self.network_problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn range(&self) -> Option<PodRange> {
        self.range.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reported at once.
    fn set_range(&self, range: PodRange) {
        *self.range.lock().unwrap_or_else(PoisonError::into_inner) = Some(range);
        self.wake.notify_one();
    }

    /// Reported at once.
    pub fn set_pressure(&self, pressure: Pressure) {
        *self.pressure.lock().unwrap_or_else(PoisonError::into_inner) = pressure;
        self.wake.notify_one();
    }
}

/// Registers the node, then keeps object and lease alive, forever.
pub async fn run(context: &Context) {
    look_at_network(context).await;
    register(context).await;
    // None ends; dropping them drops requests that are repeated anyway.
    tokio::join!(renew(context), report(context), follow_range(context));
}

async fn register(context: &Context) {
    let nodes: Api<Tree<Node>> = Api::all(context.client.clone());
    let name = &context.settings.name;
    loop {
        let made = match nodes.create(&PostParams::default(), &Tree(new_node(context))).await {
            Err(error) if is_overtaken(&error) => adopt(context, &nodes).await,
            made => made,
        };
        match made {
            Ok(Tree(node)) => {
                context.registration.seen(node);
                context.events.node(EventType::Normal, "Starting", "Starting kubelet.");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, node = name.as_str(), "cannot register the node; trying again")
            }
        }
        tokio::time::sleep(RETRY_PERIOD).await;
    }
}

/// A node of that name is there, from an earlier life.
async fn adopt(context: &Context, nodes: &Api<Tree<Node>>) -> Result<Tree<Node>, kube::Error> {
    let patch = Patch::Merge(with_site(context, registration::adoption));
    nodes.patch(&context.settings.name, &PatchParams::default(), &patch).await
}

/// What the agent knows of its node.
fn with_site<T>(context: &Context, work: impl FnOnce(&Site<'_>) -> T) -> T {
    let settings = &context.settings;
    let given = context.registration.range().map(|range| range.own.iter().map(ToString::to_string).collect());
    let pod_cidrs: Vec<String> = given.unwrap_or_else(|| settings.pod_cidr.iter().cloned().collect());
    work(&Site {
        name: &settings.name,
        addresses: &context.node_addresses,
        labels: &settings.labels,
        taints: &settings.taints,
        port: settings.port,
        provider_id: settings.provider_id.as_deref(),
        pod_cidrs: &pod_cidrs,
        capacity: &context.machine.capacity(),
        info: &context.machine.info,
        version: env!("CARGO_PKG_VERSION"),
        runtime: &context.registration.runtime,
        has_user_namespaces: context.runtime.has_user_namespaces(),
    })
}

fn new_node(context: &Context) -> Node {
    let network_problem = context.registration.network_problem();
    let now = Now {
        now: Timestamp::now(),
        pressure: context.registration.pressure(),
        network_problem: network_problem.as_deref(),
        images: &[],
        before: None,
    };
    with_site(context, |site| registration::new_node(site, &now))
}

async fn status(context: &Context, before: Option<&NodeStatus>) -> NodeStatus {
    let images = context.images.list().await.unwrap_or_default();
    let network_problem = context.registration.network_problem();
    let now = Now {
        now: Timestamp::now(),
        pressure: context.registration.pressure(),
        network_problem: network_problem.as_deref(),
        images: &images,
        before,
    };
    with_site(context, |site| registration::status(site, &now))
}

/// Tells the status when it changed, and every five minutes.
async fn report(context: &Context) {
    let nodes: Api<Tree<Node>> = Api::all(context.client.clone());
    let mut told_at: Option<std::time::Instant> = None;
    loop {
        look_at_network(context).await;
        let before = context.registration.node().and_then(|node| node.status);
        let now = status(context, before.as_ref()).await;
        let is_due = told_at.is_none_or(|at| at.elapsed() >= REPORT_PERIOD);
        if is_due || before.as_ref().is_none_or(|before| registration::differs(before, &now)) {
            let patch = Patch::Strategic(registration::patch(before.as_ref(), &now));
            match nodes.patch_status(&context.settings.name, &PatchParams::default(), &patch).await {
                Ok(Tree(node)) => {
                    tell_changes(context, before.as_ref(), &now);
                    context.registration.seen(node);
                    told_at = Some(std::time::Instant::now());
                }
                Err(kube::Error::Api(status)) if status.code == 404 => register_again(context).await,
                Err(error) => tracing::warn!(%error, "cannot report the node's status; trying again"),
            }
        }
        // The notifier keeps a wake that comes while the agent reports the status.
        let period = if context.registration.network_problem().is_some() { NETWORK_LOOK_PERIOD } else { LOOK_PERIOD };
        let _ = tokio::time::timeout(period, context.registration.wake.notified()).await;
    }
}

/// Asks the runtime about its network. One that does not answer now is taken to be as it was.
async fn look_at_network(context: &Context) {
    match context.runtime.network_problem().await {
        Ok(problem) => *context.registration.network_problem.lock().unwrap_or_else(PoisonError::into_inner) = problem,
        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the runtime does not say whether its network is ready"),
    }
}

/// Gives the runtime the range that the cluster gave the node, once.
async fn follow_range(context: &Context) {
    let mut nodes = context.registration.node.subscribe();
    loop {
        let range = nodes.wait_for(|node| node.as_ref().and_then(registration::pod_range).is_some()).await;
        let Ok(Some(range)) = range.map(|node| node.as_ref().and_then(registration::pod_range)) else { return };
        match context.runtime.use_pod_range(&range).await {
            Ok(()) => return context.registration.set_range(range),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "pods cannot get addresses from the node's range; trying again");
                tokio::time::sleep(RANGE_RETRY_PERIOD).await;
            }
        }
    }
}

/// A user deleted the Node object while its agent runs: it comes back, as a kubelet's does when it
/// is started again.
async fn register_again(context: &Context) {
    tracing::warn!(node = context.settings.name.as_str(), "the Node object was deleted; registering again");
    register(context).await;
}

fn tell_changes(context: &Context, before: Option<&NodeStatus>, now: &NodeStatus) {
    for reason in registration::changes(before, now) {
        context.events.node(EventType::Normal, reason, format!("Node {} status is now: {reason}", context.settings.name));
    }
}

/// Renews the lease every ten seconds.
async fn renew(context: &Context) {
    let name = &context.settings.name;
    let path = format!("{LEASES}/{name}");
    loop {
        let now = Timestamp::now();
        let text = kinds::decode::format_micro_time(now);
        let patch = json!({"spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": text}});
        let result = match send(&context.client, "PATCH", &path, MERGE, &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => make_lease(context, &text).await,
            result => result,
        };
        match result {
            Ok(()) => tokio::time::sleep(LEASE_PERIOD).await,
            Err(error) => {
                tracing::warn!(%error, "cannot renew the lease; trying again");
                tokio::time::sleep(RETRY_PERIOD).await;
            }
        }
    }
}

async fn make_lease(context: &Context, now: &str) -> Result<(), kube::Error> {
    let name = &context.settings.name;
    let uid = context.registration.node().and_then(|node| node.uid()).unwrap_or_default();
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
    });
    send(&context.client, "POST", LEASES, JSON, &lease).await
}
