//! Pods from the API's JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kinds::selector::Selector;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{
    Held, HostName, HostPort, NamedPort, NodeTerm, Phase, Pod, PodAffinityTerm, PodSpec, PodStatus, SpreadConstraint, Toleration, Waiting,
    WeightedTerm,
};
use crate::model::{Labels, Meta, Resources, absent_if_null};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    metadata: Meta,
    #[serde(deserialize_with = "absent_if_null")]
    spec: RawSpec,
    #[serde(deserialize_with = "absent_if_null")]
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    node_name: Option<Arc<str>>,
    #[serde(deserialize_with = "absent_if_null")]
    node_selector: Labels,
    #[serde(deserialize_with = "absent_if_null")]
    affinity: RawAffinity,
    #[serde(deserialize_with = "absent_if_null")]
    topology_spread_constraints: Vec<RawSpread>,
    #[serde(deserialize_with = "absent_if_null")]
    tolerations: Vec<Toleration>,
    #[serde(deserialize_with = "absent_if_null")]
    containers: Vec<RawContainer>,
    #[serde(deserialize_with = "absent_if_null")]
    init_containers: Vec<RawContainer>,
    #[serde(deserialize_with = "absent_if_null")]
    overhead: Resources,
    resources: Option<RawResources>,
    #[serde(deserialize_with = "absent_if_null")]
    host_network: bool,
    #[serde(deserialize_with = "absent_if_null")]
    priority: i32,
    preemption_policy: Option<Box<str>>,
    scheduler_name: Option<Box<str>>,
    #[serde(deserialize_with = "absent_if_null")]
    scheduling_gates: Vec<RawNamed>,
    termination_grace_period_seconds: Option<i64>,
    #[serde(deserialize_with = "absent_if_null")]
    priority_class_name: Box<str>,
    active_deadline_seconds: Option<i64>,
    hostname: Option<Box<str>>,
    #[serde(deserialize_with = "absent_if_null")]
    subdomain: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNamed {
    name: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawAffinity {
    #[serde(deserialize_with = "absent_if_null")]
    node_affinity: RawNodeAffinity,
    #[serde(deserialize_with = "absent_if_null")]
    pod_affinity: RawPodAffinity,
    #[serde(deserialize_with = "absent_if_null")]
    pod_anti_affinity: RawPodAffinity,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawNodeAffinity {
    required_during_scheduling_ignored_during_execution: Option<RawNodeSelector>,
    #[serde(deserialize_with = "absent_if_null")]
    preferred_during_scheduling_ignored_during_execution: Vec<RawPreferredNode>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawNodeSelector {
    #[serde(deserialize_with = "absent_if_null")]
    node_selector_terms: Vec<NodeTerm>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPreferredNode {
    weight: i64,
    preference: NodeTerm,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodAffinity {
    #[serde(deserialize_with = "absent_if_null")]
    required_during_scheduling_ignored_during_execution: Vec<RawPodTerm>,
    #[serde(deserialize_with = "absent_if_null")]
    preferred_during_scheduling_ignored_during_execution: Vec<RawWeightedPodTerm>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawWeightedPodTerm {
    weight: i64,
    pod_affinity_term: RawPodTerm,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodTerm {
    label_selector: Option<Value>,
    #[serde(deserialize_with = "absent_if_null")]
    namespaces: Vec<Box<str>>,
    namespace_selector: Option<Value>,
    topology_key: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpread {
    max_skew: i64,
    topology_key: Box<str>,
    when_unsatisfiable: Box<str>,
    label_selector: Option<Value>,
    min_domains: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainer {
    #[serde(deserialize_with = "absent_if_null")]
    name: Box<str>,
    image: Option<Box<str>>,
    #[serde(deserialize_with = "absent_if_null")]
    resources: RawResources,
    #[serde(deserialize_with = "absent_if_null")]
    ports: Vec<RawPort>,
    restart_policy: Option<Box<str>>,
    /// What it holds, when that is not what it asks for.
    #[serde(skip)]
    held: Option<RawResources>,
}

impl RawContainer {
    fn held(&self) -> &RawResources {
        self.held.as_ref().unwrap_or(&self.resources)
    }
}

#[derive(Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
struct RawResources {
    #[serde(deserialize_with = "absent_if_null")]
    requests: Resources,
    #[serde(deserialize_with = "absent_if_null")]
    limits: Resources,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPort {
    name: Option<Box<str>>,
    #[serde(deserialize_with = "absent_if_null")]
    container_port: i64,
    #[serde(deserialize_with = "absent_if_null")]
    host_port: i64,
    #[serde(rename = "hostIP")]
    host_ip: Option<Box<str>>,
    protocol: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    phase: Option<std::borrow::Cow<'static, str>>,
    #[serde(deserialize_with = "absent_if_null")]
    reason: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    message: Box<str>,
    nominated_node_name: Option<Arc<str>>,
    #[serde(deserialize_with = "absent_if_null")]
    conditions: Vec<RawCondition>,
    #[serde(deserialize_with = "absent_if_null")]
    container_statuses: Vec<RawContainerStatus>,
    #[serde(deserialize_with = "absent_if_null")]
    init_container_statuses: Vec<RawContainerStatus>,
    start_time: Option<Timestamp>,
    #[serde(rename = "podIPs", deserialize_with = "absent_if_null")]
    pod_ips: Vec<RawIp>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawIp {
    ip: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawCondition {
    #[serde(rename = "type")]
    kind: Box<str>,
    status: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    reason: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    message: Box<str>,
    last_transition_time: Option<Timestamp>,
    observed_generation: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainerStatus {
    name: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    state: RawState,
    #[serde(deserialize_with = "absent_if_null")]
    restart_count: i64,
    #[serde(deserialize_with = "absent_if_null")]
    allocated_resources: Resources,
    resources: Option<RawResources>,
}

impl RawContainerStatus {
    /// What the container holds; None if its node does not say.
    fn held(&self, asked: &RawResources, is_refused: bool) -> Option<RawResources> {
        let mut held = self.resources.clone()?;
        held.requests.max_with(&self.allocated_resources);
        if !is_refused {
            held.requests.max_with(&asked.requests);
            held.limits.max_with(&asked.limits);
        }
        Some(held)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawState {
    waiting: Option<RawWaiting>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawWaiting {
    #[serde(deserialize_with = "absent_if_null")]
    reason: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    message: Box<str>,
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pod, D::Error> {
        let mut raw = Raw::deserialize(deserializer)?;
        let node = raw.spec.node_name.clone().filter(|name| !name.is_empty());
        let hostname = raw.spec.hostname.take().filter(|name| !name.is_empty());
        let subdomain = std::mem::take(&mut raw.spec.subdomain);
        let host_name = hostname.map(|hostname| Box::new(HostName { hostname, subdomain }));
        let held = raw.held();
        let (spec, pinned) = raw.spec.read();
        let status = PodStatus { held, ..raw.status.read() };
        Ok(Pod { meta: raw.metadata, node, pinned, host_name, spec: Arc::new(spec), status })
    }
}

impl Raw {
    /// What the pod holds, when that is not what it asks for (`PodRequests` and `PodLimits` with
    /// `UseStatusResources`).
    fn held(&mut self) -> Option<Box<Held>> {
        let is_refused = self.is_resize_refused();
        let statuses = self.status.init_container_statuses.iter().chain(&self.status.container_statuses);
        let statuses: BTreeMap<&str, &RawContainerStatus> = statuses.map(|status| (&*status.name, status)).collect();
        let mut differs = false;
        for container in self.spec.init_containers.iter_mut().chain(&mut self.spec.containers) {
            let held = statuses.get(&*container.name).and_then(|status| status.held(&container.resources, is_refused));
            container.held = held.filter(|held| *held != container.resources);
            differs |= container.held.is_some();
        }
        differs.then(|| Box::new(self.spec.amounts(RawContainer::held)))
    }

    /// Will its node never give it what it asks for? What it said of an earlier generation is not
    /// about this one, but of pods that go: deletion counts as a generation.
    fn is_resize_refused(&self) -> bool {
        let pending = self.status.conditions.iter().find(|condition| &*condition.kind == "PodResizePending");
        pending.is_some_and(|pending| {
            let is_of_old = pending.observed_generation.is_some_and(|generation| generation < self.metadata.generation);
            &*pending.reason == "Infeasible" && (!is_of_old || self.metadata.is_deleted())
        })
    }
}

impl PodSpec {
    /// From the JSON of a pod's spec, as it is in templates. A term that names one node is kept as
    /// it is.
    pub fn from_json(spec: &Value) -> Result<PodSpec, serde_json::Error> {
        let raw = RawSpec::deserialize(spec)?;
        let node_affinity = raw.affinity.node_affinity.required_during_scheduling_ignored_during_execution.as_ref();
        let terms = node_affinity.map(|selector| selector.node_selector_terms.clone());
        Ok(PodSpec { node_affinity: terms, ..raw.read().0 })
    }
}

impl RawSpec {
    /// The spec, and the node that its affinity pins it to.
    fn read(self) -> (PodSpec, Option<Arc<str>>) {
        let Held { requests, limits } = self.amounts(|container| &container.resources);
        let (host_ports, named_ports) = self.ports();
        let images = self.containers.iter().chain(&self.init_containers).filter_map(|c| c.image.clone()).collect();
        let node = self.affinity.node_affinity;
        let terms = node.required_during_scheduling_ignored_during_execution.map(|selector| selector.node_selector_terms);
        let (node_affinity, pinned) = match terms {
            Some(terms) => match pinned_node(&terms) {
                Some(name) => (None, Some(name)),
                None => (Some(terms), None),
            },
            None => (None, None),
        };
        let weighted = |terms: Vec<RawWeightedPodTerm>| {
            terms.into_iter().map(|t| WeightedTerm { weight: t.weight, term: t.pod_affinity_term.read() }).collect()
        };
        let required = |terms: Vec<RawPodTerm>| terms.into_iter().map(RawPodTerm::read).collect();
        let spec = PodSpec {
            node_selector: self.node_selector,
            node_affinity,
            preferred_nodes: node
                .preferred_during_scheduling_ignored_during_execution
                .into_iter()
                .map(|preferred| WeightedTerm { weight: preferred.weight, term: preferred.preference })
                .collect(),
            pod_affinity: required(self.affinity.pod_affinity.required_during_scheduling_ignored_during_execution),
            pod_anti_affinity: required(self.affinity.pod_anti_affinity.required_during_scheduling_ignored_during_execution),
            preferred_pods: weighted(self.affinity.pod_affinity.preferred_during_scheduling_ignored_during_execution),
            unwanted_pods: weighted(self.affinity.pod_anti_affinity.preferred_during_scheduling_ignored_during_execution),
            spread: self.topology_spread_constraints.into_iter().map(RawSpread::read).collect(),
            tolerations: self.tolerations,
            requests,
            limits,
            priority_class: self.priority_class_name,
            has_deadline: self.active_deadline_seconds.is_some(),
            host_ports,
            host_network: self.host_network,
            priority: self.priority,
            never_preempts: self.preemption_policy.as_deref() == Some("Never"),
            scheduler_name: self.scheduler_name.unwrap_or_else(|| "default-scheduler".into()),
            scheduling_gates: self.scheduling_gates.into_iter().map(|gate| gate.name).collect(),
            images,
            termination_grace_period_seconds: self.termination_grace_period_seconds,
            named_ports,
        };
        (spec, pinned)
    }

    /// With what each container has or asks for.
    fn amounts(&self, of: impl Fn(&RawContainer) -> &RawResources) -> Held {
        let mut requests = self.total(&of, |resources| &resources.requests);
        requests += &self.overhead;
        let mut limits = self.total(&of, |resources| &resources.limits);
        limits.add_where_some(&self.overhead);
        Held { requests, limits }
    }

    /// The larger of what runs at the same time: all containers with the sidecars, or one init
    /// container with the sidecars before it. What the pod says as a whole replaces what its
    /// containers say.
    fn total(&self, of: impl Fn(&RawContainer) -> &RawResources, which: impl Fn(&RawResources) -> &Resources) -> Resources {
        let is_sidecar = |container: &&RawContainer| container.restart_policy.as_deref() == Some("Always");
        let mut running = Resources::default();
        for container in &self.containers {
            running += which(of(container));
        }
        let mut sidecars = Resources::default();
        let mut starting = Resources::default();
        for container in &self.init_containers {
            if is_sidecar(&container) {
                sidecars += which(of(container));
                starting.max_with(&sidecars);
            } else {
                let mut with_sidecars = sidecars.clone();
                with_sidecars += which(of(container));
                starting.max_with(&with_sidecars);
            }
        }
        running += &sidecars;
        running.max_with(&starting);
        if let Some(pod) = &self.resources {
            let whole = which(pod);
            if whole.milli_cpu > 0 {
                running.milli_cpu = whole.milli_cpu;
            }
            if whole.memory > 0 {
                running.memory = whole.memory;
            }
        }
        running
    }

    fn ports(&self) -> (Vec<HostPort>, Vec<NamedPort>) {
        let protocol = |port: &RawPort| port.protocol.clone().unwrap_or_else(|| "TCP".into());
        let (mut host, mut named) = (Vec::new(), Vec::new());
        let sidecars = self.init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        for port in self.containers.iter().chain(sidecars).flat_map(|container| &container.ports) {
            if port.host_port > 0 {
                let ip = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
                host.push(HostPort { ip, protocol: protocol(port), port: port.host_port });
            }
            if let Some(name) = &port.name {
                named.push((name.clone(), protocol(port), port.container_port));
            }
        }
        (host, named)
    }
}

/// The node of terms that say nothing but `metadata.name In [node]`.
fn pinned_node(terms: &[NodeTerm]) -> Option<Arc<str>> {
    let [term] = terms else { return None };
    let [field] = term.match_fields.as_slice() else { return None };
    let [name] = field.values.as_slice() else { return None };
    let pins = term.match_expressions.is_empty() && &*field.key == "metadata.name" && &*field.operator == "In";
    pins.then(|| Arc::from(&**name))
}

/// None for what selects nothing.
fn selector_text(selector: Option<&Value>) -> Option<Box<str>> {
    let selector = Selector::from_object(selector).ok().filter(|selector| *selector != Selector::nothing())?;
    Some(selector.to_string().into())
}

impl RawPodTerm {
    fn read(self) -> PodAffinityTerm {
        PodAffinityTerm {
            topology_key: self.topology_key,
            selector: selector_text(self.label_selector.as_ref()),
            namespaces: self.namespaces,
            namespace_selector: selector_text(self.namespace_selector.as_ref()),
        }
    }
}

impl RawSpread {
    fn read(self) -> SpreadConstraint {
        SpreadConstraint {
            topology_key: self.topology_key,
            max_skew: self.max_skew,
            do_not_schedule: &*self.when_unsatisfiable == "DoNotSchedule",
            selector: selector_text(self.label_selector.as_ref()),
            min_domains: self.min_domains,
        }
    }
}

impl RawStatus {
    fn read(self) -> PodStatus {
        let condition = |kind: &str| self.conditions.iter().find(|condition| &*condition.kind == kind);
        let ready = condition("Ready").map(|ready| (&*ready.status == "True", ready.last_transition_time));
        let unscheduled = condition("PodScheduled").filter(|scheduled| &*scheduled.status != "True");
        let unscheduled = unscheduled.map(|scheduled| (scheduled.reason.clone(), scheduled.message.clone()));
        let target = condition("DisruptionTarget").filter(|target| &*target.status == "True");
        let disruption_target = target.is_some();
        let disruption_since = target.filter(|target| &*target.reason != "TerminationByKubelet").and_then(|t| t.last_transition_time);
        let statuses = || self.init_container_statuses.iter().chain(&self.container_statuses);
        let waiting = statuses().find_map(|status| {
            let waiting = status.state.waiting.as_ref()?;
            Some(Waiting { container: status.name.clone(), reason: waiting.reason.clone(), message: waiting.message.clone() })
        });
        PodStatus {
            phase: match self.phase.as_deref() {
                Some("Running") => Phase::Running,
                Some("Succeeded") => Phase::Succeeded,
                Some("Failed") => Phase::Failed,
                Some("Unknown") => Phase::Unknown,
                _ => Phase::Pending,
            },
            nominated_node: self.nominated_node_name.filter(|name| !name.is_empty()),
            ready,
            unscheduled,
            disruption_target,
            disruption_since,
            restarts: statuses().map(|status| status.restart_count).sum(),
            waiting: waiting.map(Box::new),
            reason: self.reason,
            message: self.message,
            start_time: self.start_time,
            pod_ips: self.pod_ips.into_iter().map(|ip| ip.ip).collect(),
            held: None,
        }
    }
}
