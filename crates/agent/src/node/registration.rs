//! The Node object and its lease: made at the start, kept up to date, kept alive.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use runtime::port::Version;
use serde_json::json;
use tokio::sync::watch;

use super::Context;
use crate::simulated::send::{JSON, MERGE, is_overtaken, send};
use crate::tree::Tree;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// The kubelet's figures: renewals, status when nothing changed, and how often the machine is
/// looked at.
const LEASE_PERIOD: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i64 = 40;
const REPORT_PERIOD: Duration = Duration::from_secs(300);
const LOOK_PERIOD: Duration = Duration::from_secs(10);
const RETRY_PERIOD: Duration = Duration::from_millis(500);

/// Statuses list no more images than this, the largest first.
const IMAGES_MAX: usize = 50;

/// What is known of the own Node object, and the pressures that the agent found.
pub struct Registration {
    runtime: Version,
    node: watch::Sender<Option<Node>>,
    pressure: Mutex<Pressure>,
    wake: tokio::sync::Notify,
}

/// What the node has too little of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
    /// The node is going down: it is not ready.
    pub shutting_down: bool,
}

impl Registration {
    pub fn new(runtime: Version) -> Registration {
        Registration { runtime, node: watch::channel(None).0, pressure: Mutex::default(), wake: tokio::sync::Notify::new() }
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

    /// Told at once.
    pub fn set_pressure(&self, pressure: Pressure) {
        *self.pressure.lock().unwrap_or_else(PoisonError::into_inner) = pressure;
        self.wake.notify_one();
    }
}

/// Registers the node, then keeps object and lease alive, for ever.
pub async fn run(context: &Context) {
    register(context).await;
    // Neither ends; dropping them drops requests that are repeated anyway.
    tokio::join!(renew(context), report(context));
}

async fn register(context: &Context) {
    let nodes: Api<Tree<Node>> = Api::all(context.client.clone());
    let name = &context.settings.name;
    loop {
        let made = match nodes.create(&PostParams::default(), &Tree(new_node(context, true))).await {
            Err(error) if is_overtaken(&error) => adopt(context, &nodes).await,
            made => made,
        };
        match made {
            Ok(Tree(node)) => {
                context.registration.seen(node);
                context.events.node(false, "Starting", "Starting kubelet.");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, node = name.as_str(), "cannot register the node; trying again")
            }
        }
        tokio::time::sleep(RETRY_PERIOD).await;
    }
}

/// A node of that name is there, from an earlier life: its labels are brought up to date, its
/// taints stay.
async fn adopt(context: &Context, nodes: &Api<Tree<Node>>) -> Result<Tree<Node>, kube::Error> {
    let labels = new_node(context, false).metadata.labels;
    let patch = Patch::Merge(json!({"metadata": {"labels": labels, "annotations": annotations()}}));
    nodes.patch(&context.settings.name, &PatchParams::default(), &patch).await
}

fn annotations() -> BTreeMap<String, String> {
    BTreeMap::from([("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())])
}

fn new_node(context: &Context, with_taints: bool) -> Node {
    let settings = &context.settings;
    let architecture = &context.machine.info.architecture;
    let mut labels = settings.labels.clone();
    for prefix in ["beta.kubernetes.io", "kubernetes.io"] {
        labels.insert(format!("{prefix}/arch"), architecture.clone());
        labels.insert(format!("{prefix}/os"), "linux".to_owned());
    }
    labels.insert("kubernetes.io/hostname".to_owned(), settings.name.clone());
    let taints: Vec<Taint> = settings.taints.iter().filter(|_| with_taints).filter_map(|text| parse_taint(text)).collect();
    Node {
        metadata: ObjectMeta {
            name: Some(settings.name.clone()),
            labels: Some(labels),
            annotations: Some(annotations()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: if taints.is_empty() { None } else { Some(taints) },
            provider_id: settings.provider_id.clone(),
            pod_cidr: settings.pod_cidr.clone(),
            pod_cidrs: settings.pod_cidr.clone().map(|range| vec![range]),
            ..NodeSpec::default()
        }),
        status: Some(status(context, None, Vec::new())),
    }
}

/// `key=value:Effect` or `key:Effect`.
fn parse_taint(text: &str) -> Option<Taint> {
    let (rest, effect) = text.rsplit_once(':')?;
    let (key, value) = rest.split_once('=').map_or((rest, None), |(key, value)| (key, Some(value.to_owned())));
    Some(Taint { key: key.to_owned(), value, effect: effect.to_owned(), ..Taint::default() })
}

fn status(context: &Context, before: Option<&NodeStatus>, images: Vec<ContainerImage>) -> NodeStatus {
    let settings = &context.settings;
    let capacity = with_extended(context.machine.capacity(), before);
    let mut addresses: Vec<NodeAddress> =
        settings.addresses.iter().map(|address| NodeAddress { type_: "InternalIP".to_owned(), address: address.to_string() }).collect();
    addresses.push(NodeAddress { type_: "Hostname".to_owned(), address: settings.name.clone() });
    let runtime = &context.registration.runtime;
    NodeStatus {
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        addresses: Some(addresses),
        conditions: Some(conditions(context.registration.pressure(), before, Timestamp::now())),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(settings.port) }) }),
        images: Some(images),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        runtime_handlers: Some(handlers(context)),
        node_info: Some(NodeSystemInfo {
            container_runtime_version: format!("{}://{}", runtime.name, runtime.version),
            kubelet_version: format!("v1.36.0+everynode-{}", env!("CARGO_PKG_VERSION")),
            kube_proxy_version: String::new(),
            ..context.machine.info.clone()
        }),
        ..NodeStatus::default()
    }
}

/// Resources that somebody else said the node has, by a patch of its capacity: all of them are to
/// be had.
fn with_extended(mut capacity: BTreeMap<String, Quantity>, before: Option<&NodeStatus>) -> BTreeMap<String, Quantity> {
    for (name, quantity) in before.and_then(|status| status.capacity.as_ref()).into_iter().flatten() {
        if name.contains('/') {
            capacity.entry(name.clone()).or_insert_with(|| quantity.clone());
        }
    }
    capacity
}

/// What containers can be given, by the names of the runtime's ways to run them; the empty one is
/// the usual way.
fn handlers(context: &Context) -> Vec<NodeRuntimeHandler> {
    let features =
        NodeRuntimeHandlerFeatures { recursive_read_only_mounts: Some(true), user_namespaces: Some(context.runtime.has_user_namespaces()) };
    vec![NodeRuntimeHandler { name: Some(String::new()), features: Some(features) }]
}

/// As a patch: what somebody took from the capacity goes from what is to be had, too.
fn patch(before: Option<&NodeStatus>, now: &NodeStatus) -> serde_json::Value {
    let mut patch = json!({"status": now});
    let gone = before.and_then(|status| status.allocatable.as_ref()).into_iter().flatten().map(|(name, _)| name);
    for name in gone.filter(|name| now.allocatable.as_ref().is_none_or(|now| !now.contains_key(*name))) {
        patch["status"]["allocatable"][name] = serde_json::Value::Null;
    }
    patch
}

fn conditions(pressure: Pressure, before: Option<&NodeStatus>, now: Timestamp) -> Vec<NodeCondition> {
    let judge = |holds: bool, kind: &str, yes: (&str, &str), no: (&str, &str)| {
        let (reason, message) = if holds { yes } else { no };
        (kind.to_owned(), holds, reason.to_owned(), message.to_owned())
    };
    let all = [
        judge(
            pressure.memory,
            "MemoryPressure",
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        judge(
            pressure.disk,
            "DiskPressure",
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        judge(
            pressure.pids,
            "PIDPressure",
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        judge(
            !pressure.shutting_down,
            "Ready",
            ("KubeletReady", "kubelet is posting ready status"),
            ("KubeletNotReady", "node is shutting down"),
        ),
    ];
    let old = before.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    all.into_iter()
        .map(|(kind, holds, reason, message)| {
            let status = if holds { "True" } else { "False" }.to_owned();
            let same = old.iter().find(|condition| condition.type_ == kind && condition.status == status);
            NodeCondition {
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(same.and_then(|condition| condition.last_transition_time.clone()).unwrap_or(Time(now))),
                type_: kind,
                status,
                reason: Some(reason),
                message: Some(message),
            }
        })
        .collect()
}

async fn images(context: &Context) -> Vec<ContainerImage> {
    let mut images = context.images.list().await.unwrap_or_default();
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    images.truncate(IMAGES_MAX);
    let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let names = |image: &runtime::port::Image| image.digests.iter().chain(&image.tags).cloned().collect();
    images.iter().map(|image| ContainerImage { names: Some(names(image)), size_bytes: Some(size(image.size_bytes)) }).collect()
}

/// Tells the status when it changed, and every five minutes.
async fn report(context: &Context) {
    let nodes: Api<Tree<Node>> = Api::all(context.client.clone());
    let mut told_at: Option<std::time::Instant> = None;
    loop {
        let before = context.registration.node().and_then(|node| node.status);
        let now = status(context, before.as_ref(), images(context).await);
        let is_due = told_at.is_none_or(|at| at.elapsed() >= REPORT_PERIOD);
        if is_due || before.as_ref().is_none_or(|before| differs(before, &now)) {
            let patch = Patch::Strategic(patch(before.as_ref(), &now));
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
        // A wake that comes while the status is told is kept by the notifier.
        let _ = tokio::time::timeout(LOOK_PERIOD, context.registration.wake.notified()).await;
    }
}

/// Somebody deleted the Node object while its agent runs: it comes back, as a kubelet's does when
/// it is started again.
async fn register_again(context: &Context) {
    tracing::warn!(node = context.settings.name.as_str(), "the Node object was deleted; registering again");
    register(context).await;
}

/// Heartbeats alone are told by the lease.
fn differs(before: &NodeStatus, now: &NodeStatus) -> bool {
    let strip = |status: &NodeStatus| {
        let conditions =
            status.conditions.iter().flatten().map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone())).collect::<Vec<_>>();
        (
            conditions,
            status.capacity.clone(),
            status.allocatable.clone(),
            status.features.clone(),
            status.runtime_handlers.clone(),
            status.addresses.clone(),
            status.images.clone(),
            status.node_info.clone(),
        )
    };
    strip(before) != strip(now)
}

fn tell_changes(context: &Context, before: Option<&NodeStatus>, now: &NodeStatus) {
    let old = before.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    for condition in now.conditions.iter().flatten() {
        let was = old.iter().find(|old| old.type_ == condition.type_).map(|old| old.status.as_str());
        if was == Some(condition.status.as_str()) {
            continue;
        }
        let reason = match (condition.type_.as_str(), condition.status.as_str()) {
            ("Ready", "True") => "NodeReady",
            ("Ready", _) => "NodeNotReady",
            ("MemoryPressure", "True") => "NodeHasInsufficientMemory",
            ("MemoryPressure", _) => "NodeHasSufficientMemory",
            ("DiskPressure", "True") => "NodeHasDiskPressure",
            ("DiskPressure", _) => "NodeHasNoDiskPressure",
            ("PIDPressure", "True") => "NodeHasInsufficientPID",
            ("PIDPressure", _) => "NodeHasSufficientPID",
            _ => continue,
        };
        context.events.node(false, reason, format!("Node {} status is now: {reason}", context.settings.name));
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
