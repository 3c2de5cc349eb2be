//! The Node object as its agent makes it and keeps it up to date.
//!
//! In: the agent's settings and what the machine is ([`Site`]), what the node has too little of,
//! and the object as it was last seen. Out: the object to create, the patch of its status, and the
//! events that tell a change.

use std::collections::BTreeMap;

use containers::{Image, PodRange, Version};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo, Pod, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use super::is_host_network;
use crate::node_ipam::CLUSTER_CIDR;

/// Statuses list no more images than this, the largest first.
const IMAGES_MAX: usize = 50;

/// What the agent knows of its node.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    pub name: &'a str,
    /// The main one first.
    pub addresses: &'a [String],
    /// Added to the labels that every node has.
    pub labels: &'a BTreeMap<String, String>,
    /// `key=value:Effect`, for the first registration only.
    pub taints: &'a [String],
    /// Where the agent's endpoints listen.
    pub port: u16,
    pub provider_id: Option<&'a str>,
    /// Ranges of the pods' addresses, the main family first; none before the cluster gave one.
    pub pod_cidrs: &'a [String],
    pub capacity: &'a BTreeMap<String, Quantity>,
    /// Without the versions of agent and runtime.
    pub info: &'a NodeSystemInfo,
    /// Of the agent.
    pub version: &'a str,
    pub runtime: &'a Version,
    pub has_user_namespaces: bool,
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

/// The condition's text for a node whose pods get no network of their own.
fn network_not_ready(problem: &str) -> String {
    format!("container runtime network not ready: {problem}")
}

/// Why a pod waits for the node's network: the text of the event `NetworkNotReady`. None for a pod
/// that uses the machine's own, which brings the network on many nodes.
pub fn waits_for_network(pod: &Pod, network_problem: Option<&str>) -> Option<String> {
    let problem = network_problem.filter(|_| !is_host_network(pod))?;
    Some(format!("network is not ready: {}", network_not_ready(problem)))
}

/// Everything that keeps the node from being ready, as one message.
fn not_ready(network_problem: Option<&str>, is_shutting_down: bool) -> Option<String> {
    let shutdown = is_shutting_down.then(|| "node is shutting down".to_owned());
    let reasons: Vec<String> = network_problem.map(network_not_ready).into_iter().chain(shutdown).collect();
    match reasons.as_slice() {
        [] => None,
        [reason] => Some(reason.clone()),
        reasons => Some(format!("[{}]", reasons.join(", "))),
    }
}

/// What changes while the agent runs.
#[derive(Debug, Clone, Copy)]
pub struct Now<'a> {
    pub now: Timestamp,
    pub pressure: Pressure,
    /// Why pods get no network of their own, as the runtime says it.
    pub network_problem: Option<&'a str>,
    pub images: &'a [Image],
    /// As it was last seen.
    pub before: Option<&'a NodeStatus>,
}

/// The Node object of a node that registers for the first time.
pub fn new_node(site: &Site<'_>, now: &Now<'_>) -> Node {
    let taints: Vec<Taint> = site.taints.iter().filter_map(|text| parse_taint(text)).collect();
    Node {
        metadata: ObjectMeta {
            name: Some(site.name.to_owned()),
            labels: Some(labels(site)),
            annotations: Some(annotations()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: if taints.is_empty() { None } else { Some(taints) },
            provider_id: site.provider_id.map(str::to_owned),
            pod_cidr: site.pod_cidrs.first().cloned(),
            pod_cidrs: Some(site.pod_cidrs.to_vec()).filter(|ranges| !ranges.is_empty()),
            ..NodeSpec::default()
        }),
        status: Some(status(site, now)),
    }
}

/// What the cluster gave the node for its pods; None before it gave anything. Without the cluster's
/// range, which the server's controller writes down, pods of other nodes are as strangers.
pub fn pod_range(node: &Node) -> Option<PodRange> {
    let parse = |texts: &mut dyn Iterator<Item = &str>| texts.filter_map(|text| text.trim().parse().ok()).collect::<Vec<IpNet>>();
    let own = parse(&mut node.spec.as_ref()?.pod_cidrs.iter().flatten().map(String::as_str));
    let cluster = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLUSTER_CIDR));
    let cluster = parse(&mut cluster.iter().flat_map(|text| text.split(',')));
    (!own.is_empty()).then_some(PodRange { own, cluster })
}

/// A merge patch for a node of that name that is there from an earlier life: its labels are brought
/// up to date, its taints stay.
pub fn adoption(site: &Site<'_>) -> Value {
    json!({"metadata": {"labels": labels(site), "annotations": annotations()}})
}

fn annotations() -> BTreeMap<String, String> {
    BTreeMap::from([("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())])
}

fn labels(site: &Site<'_>) -> BTreeMap<String, String> {
    let mut labels = site.labels.clone();
    for prefix in ["beta.kubernetes.io", "kubernetes.io"] {
        labels.insert(format!("{prefix}/arch"), site.info.architecture.clone());
        labels.insert(format!("{prefix}/os"), "linux".to_owned());
    }
    labels.insert("kubernetes.io/hostname".to_owned(), site.name.to_owned());
    labels
}

/// `key=value:Effect` or `key:Effect`.
fn parse_taint(text: &str) -> Option<Taint> {
    let (rest, effect) = text.rsplit_once(':')?;
    let (key, value) = rest.split_once('=').map_or((rest, None), |(key, value)| (key, Some(value.to_owned())));
    Some(Taint { key: key.to_owned(), value, effect: effect.to_owned(), ..Taint::default() })
}

/// The status to report.
pub fn status(site: &Site<'_>, now: &Now<'_>) -> NodeStatus {
    let capacity = with_extended(site.capacity.clone(), now.before);
    let address = |kind: &str, address: &str| NodeAddress { type_: kind.to_owned(), address: address.to_owned() };
    let mut addresses: Vec<NodeAddress> = site.addresses.iter().map(|text| address("InternalIP", text)).collect();
    addresses.push(address("Hostname", site.name));
    NodeStatus {
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        addresses: Some(addresses),
        conditions: Some(conditions(now)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(site.port) }) }),
        images: Some(images(now.images)),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        runtime_handlers: Some(handlers(site)),
        node_info: Some(NodeSystemInfo {
            container_runtime_version: format!("{}://{}", site.runtime.name, site.runtime.version),
            kubelet_version: format!("v1.36.0+everynode-{}", site.version),
            kube_proxy_version: String::new(),
            ..site.info.clone()
        }),
        ..NodeStatus::default()
    }
}

/// The largest first.
fn images(images: &[Image]) -> Vec<ContainerImage> {
    let mut images: Vec<&Image> = images.iter().collect();
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    images.truncate(IMAGES_MAX);
    let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let names = |image: &Image| image.digests.iter().chain(&image.tags).cloned().collect();
    images.into_iter().map(|image| ContainerImage { names: Some(names(image)), size_bytes: Some(size(image.size_bytes)) }).collect()
}

/// Resources that another client gave the node by a patch of its capacity: all of them are
/// allocatable.
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
fn handlers(site: &Site<'_>) -> Vec<NodeRuntimeHandler> {
    let features = NodeRuntimeHandlerFeatures { recursive_read_only_mounts: Some(true), user_namespaces: Some(site.has_user_namespaces) };
    vec![NodeRuntimeHandler { name: Some(String::new()), features: Some(features) }]
}

/// A strategic merge patch of the status. What was taken from the capacity since then is taken from
/// what is allocatable, too.
pub fn patch(before: Option<&NodeStatus>, now: &NodeStatus) -> Value {
    let mut patch = json!({"status": now});
    let gone = before.and_then(|status| status.allocatable.as_ref()).into_iter().flatten().map(|(name, _)| name);
    for name in gone.filter(|name| now.allocatable.as_ref().is_none_or(|now| !now.contains_key(*name))) {
        patch["status"]["allocatable"][name] = serde_json::Value::Null;
    }
    patch
}

fn conditions(now: &Now<'_>) -> Vec<NodeCondition> {
    let Now { pressure, before, now, network_problem, .. } = *now;
    let not_ready = not_ready(network_problem, pressure.shutting_down);
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
            not_ready.is_none(),
            "Ready",
            ("KubeletReady", "kubelet is posting ready status"),
            ("KubeletNotReady", not_ready.as_deref().unwrap_or_default()),
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

/// Whether a status says something new. The lease alone carries heartbeats.
pub fn differs(before: &NodeStatus, now: &NodeStatus) -> bool {
    let strip = |status: &NodeStatus| {
        let conditions = status
            .conditions
            .iter()
            .flatten()
            .map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone(), c.message.clone()))
            .collect::<Vec<_>>();
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

/// The reasons of the events that tell which conditions changed.
pub fn changes(before: Option<&NodeStatus>, now: &NodeStatus) -> Vec<&'static str> {
    let old = before.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let was = |kind: &str| old.iter().find(|old| old.type_ == kind).map(|old| old.status.as_str());
    let changed = now.conditions.iter().flatten().filter(|condition| was(&condition.type_) != Some(&condition.status));
    changed.filter_map(|condition| event_reason(&condition.type_, condition.status == "True")).collect()
}

fn event_reason(condition: &str, holds: bool) -> Option<&'static str> {
    Some(match (condition, holds) {
        ("Ready", true) => "NodeReady",
        ("Ready", false) => "NodeNotReady",
        ("MemoryPressure", true) => "NodeHasInsufficientMemory",
        ("MemoryPressure", false) => "NodeHasSufficientMemory",
        ("DiskPressure", true) => "NodeHasDiskPressure",
        ("DiskPressure", false) => "NodeHasNoDiskPressure",
        ("PIDPressure", true) => "NodeHasInsufficientPID",
        ("PIDPressure", false) => "NodeHasSufficientPID",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantities(list: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
        list.iter().map(|(name, text)| ((*name).to_owned(), Quantity((*text).to_owned()))).collect()
    }

    fn with_site<T>(work: impl FnOnce(&Site<'_>) -> T) -> T {
        let site = Site {
            name: "a",
            addresses: &["10.0.0.1".to_owned()],
            labels: &BTreeMap::from([("zone".to_owned(), "z".to_owned()), ("kubernetes.io/hostname".to_owned(), "wrong".to_owned())]),
            taints: &["dedicated=x:NoSchedule".to_owned(), "bare:NoExecute".to_owned(), "malformed".to_owned()],
            port: 10250,
            provider_id: None,
            pod_cidrs: &["10.244.0.0/24".to_owned()],
            capacity: &quantities(&[("cpu", "2")]),
            info: &NodeSystemInfo { architecture: "amd64".to_owned(), ..NodeSystemInfo::default() },
            version: "0",
            runtime: &Version { name: "fake".to_owned(), version: "1".to_owned() },
            has_user_namespaces: true,
        };
        work(&site)
    }

    fn now(seconds: i64, pressure: Pressure, before: Option<&NodeStatus>) -> Now<'_> {
        Now { now: Timestamp::from_second(seconds).unwrap(), pressure, network_problem: None, images: &[], before }
    }

    #[test]
    fn a_new_node_has_its_taints_and_its_own_name_as_hostname_label() {
        let node = with_site(|site| new_node(site, &now(0, Pressure::default(), None)));
        let taints = node.spec.unwrap().taints.unwrap();
        let told: Vec<_> = taints.iter().map(|taint| (taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str())).collect();
        assert_eq!(told, [("dedicated", Some("x"), "NoSchedule"), ("bare", None, "NoExecute")]);
        assert_eq!(node.metadata.labels.unwrap()["kubernetes.io/hostname"], "a");
    }

    #[test]
    fn a_condition_that_stays_keeps_the_time_of_its_change_and_one_that_changes_is_told() {
        with_site(|site| {
            let first = status(site, &now(10, Pressure::default(), None));
            let second = status(site, &now(20, Pressure { disk: true, ..Pressure::default() }, Some(&first)));
            let at = |status: &NodeStatus, kind: &str| {
                let conditions = status.conditions.as_ref().unwrap();
                conditions.iter().find(|condition| condition.type_ == kind).unwrap().last_transition_time.as_ref().unwrap().0.as_second()
            };
            assert_eq!((at(&second, "Ready"), at(&second, "DiskPressure")), (10, 20));
            assert_eq!(changes(Some(&first), &second), ["NodeHasDiskPressure"]);
            assert!(differs(&first, &second));
            let third = status(site, &now(30, Pressure { disk: true, ..Pressure::default() }, Some(&second)));
            assert!(!differs(&second, &third), "a heartbeat alone");
            assert_eq!(changes(Some(&second), &third), Vec::<&str>::new());
        });
    }

    fn ready(status: &NodeStatus) -> (String, String) {
        let ready = status.conditions.as_ref().unwrap().iter().find(|condition| condition.type_ == "Ready").unwrap();
        (ready.status.clone(), ready.message.clone().unwrap())
    }

    #[test]
    fn all_that_keeps_a_node_from_being_ready_is_told_and_a_new_cause_is_news() {
        with_site(|site| {
            let status = |problem, shutting_down| {
                let pressure = Pressure { shutting_down, ..Pressure::default() };
                status(site, &Now { network_problem: problem, ..now(0, pressure, None) })
            };
            let (uninitialized, broken) = (status(Some("not initialized"), false), status(Some("broken"), false));
            let told = "container runtime network not ready: not initialized";
            assert_eq!(ready(&uninitialized), ("False".to_owned(), told.to_owned()));
            assert!(differs(&uninitialized, &broken), "another cause");
            let both = ready(&status(Some("not initialized"), true));
            assert_eq!(both, ("False".to_owned(), format!("[{told}, node is shutting down]")));
            assert_eq!(ready(&status(None, true)).1, "node is shutting down");
            assert_eq!(ready(&status(None, false)).0, "True");
        });
    }

    #[test]
    fn pods_wait_for_the_network_unless_they_use_the_nodes_own() {
        let pod = |spec: Value| -> Pod { serde_json::from_value(json!({"spec": spec})).unwrap() };
        let (own, host) = (pod(json!({"containers": []})), pod(json!({"containers": [], "hostNetwork": true})));
        assert_eq!(
            waits_for_network(&own, Some("down")).as_deref(),
            Some("network is not ready: container runtime network not ready: down")
        );
        assert_eq!(waits_for_network(&host, Some("down")), None);
        assert_eq!(waits_for_network(&own, None), None);
    }

    #[test]
    fn resources_that_a_device_plugin_added_stay_and_those_it_took_go() {
        with_site(|site| {
            let mut before = status(site, &now(0, Pressure::default(), None));
            before.capacity.as_mut().unwrap().insert("example.com/gpu".to_owned(), Quantity("3".to_owned()));
            let with = status(site, &now(1, Pressure::default(), Some(&before)));
            assert_eq!(with.allocatable.as_ref().unwrap()["example.com/gpu"].0, "3");
            let mut taken = with.clone();
            taken.capacity.as_mut().unwrap().remove("example.com/gpu");
            let without = status(site, &now(2, Pressure::default(), Some(&taken)));
            assert_eq!(patch(Some(&taken), &without)["status"]["allocatable"]["example.com/gpu"], Value::Null);
            assert!(patch(Some(&taken), &without)["status"]["allocatable"].as_object().unwrap().contains_key("example.com/gpu"));
        });
    }
}
