//! Pods: where they are, where they may be, how they are.

mod read;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;

use super::{Labels, Meta, Resources, absent_if_null};

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pod {
    pub meta: Meta,
    /// The node it is bound to.
    pub node: Option<Arc<str>>,
    /// The node that its affinity names, when that is all its required node affinity says: what
    /// pins a daemon pod.
    pub pinned: Option<Arc<str>>,
    /// The name it has in the domain of a Service, if it asks for one.
    pub host_name: Option<Box<HostName>>,
    /// Shared between pods that are alike.
    pub spec: Arc<PodSpec>,
    pub status: PodStatus,
}

impl Pod {
    /// The node it is on or meant for.
    pub fn target_node(&self) -> Option<&Arc<str>> {
        self.node.as_ref().or(self.pinned.as_ref())
    }

    pub fn is_ready(&self) -> bool {
        self.status.ready.is_some_and(|(ready, _)| ready)
    }

    /// Ready for so many seconds?
    pub fn is_available(&self, min_ready_seconds: i64, now: Timestamp) -> bool {
        match self.status.ready {
            Some((true, _)) if min_ready_seconds == 0 => true,
            Some((true, Some(since))) => since.as_second() + min_ready_seconds <= now.as_second(),
            _ => false,
        }
    }

    /// What it takes of its node: while a resize is under way the larger of what it asks for and
    /// what it was given, and what it was given if its node will never give it what it asks for.
    pub fn requests(&self) -> &Resources {
        self.status.held.as_ref().map_or(&self.spec.requests, |held| &held.requests)
    }

    /// The same for the most it may take.
    pub fn limits(&self) -> &Resources {
        self.status.held.as_ref().map_or(&self.spec.limits, |held| &held.limits)
    }

    /// Will none of its containers run any more?
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.phase, Phase::Succeeded | Phase::Failed)
    }
}

/// `spec.hostname` and `spec.subdomain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName {
    pub hostname: Box<str>,
    pub subdomain: Box<str>,
}

/// What of a pod's spec decides where it may be. Does not hold the node names: those differ between
/// pods that are otherwise alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PodSpec {
    pub node_selector: Labels,
    /// Required node affinity: one of the terms must match. None when there is none (or only the
    /// pin of [`Pod::pinned`]).
    pub node_affinity: Option<Vec<NodeTerm>>,
    pub preferred_nodes: Vec<WeightedTerm<NodeTerm>>,
    pub pod_affinity: Vec<PodAffinityTerm>,
    pub pod_anti_affinity: Vec<PodAffinityTerm>,
    pub preferred_pods: Vec<WeightedTerm<PodAffinityTerm>>,
    pub unwanted_pods: Vec<WeightedTerm<PodAffinityTerm>>,
    pub spread: Vec<SpreadConstraint>,
    pub tolerations: Vec<Toleration>,
    /// What it asks of its node, overhead included; see [`Pod::requests`] for what it takes.
    pub requests: Resources,
    /// The most it may take, where it says so.
    pub limits: Resources,
    pub priority_class: Box<str>,
    /// Has it a deadline (`activeDeadlineSeconds`)?
    pub has_deadline: bool,
    pub host_ports: Vec<HostPort>,
    pub host_network: bool,
    pub priority: i32,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
    pub scheduler_name: Box<str>,
    /// Names of the gates that keep it from being scheduled.
    pub scheduling_gates: Vec<Box<str>>,
    pub images: Vec<Box<str>>,
    pub termination_grace_period_seconds: Option<i64>,
    /// Of its containers: what named target ports of Services mean.
    pub named_ports: Vec<NamedPort>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeTerm {
    #[serde(deserialize_with = "absent_if_null")]
    pub match_expressions: Vec<NodeRequirement>,
    #[serde(deserialize_with = "absent_if_null")]
    pub match_fields: Vec<NodeRequirement>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
#[serde(default)]
pub struct NodeRequirement {
    pub key: Box<str>,
    pub operator: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub values: Vec<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WeightedTerm<T> {
    pub weight: i64,
    pub term: T,
}

/// Selectors are kept as their text: terms are compared and hashed far more often than they are
/// matched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PodAffinityTerm {
    pub topology_key: Box<str>,
    /// None selects nothing.
    pub selector: Option<Box<str>>,
    /// Empty: the pod's own namespace, unless a namespace selector is there.
    pub namespaces: Vec<Box<str>>,
    pub namespace_selector: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SpreadConstraint {
    pub topology_key: Box<str>,
    pub max_skew: i64,
    /// `ScheduleAnyway` otherwise.
    pub do_not_schedule: bool,
    pub selector: Option<Box<str>>,
    pub min_domains: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    #[serde(deserialize_with = "absent_if_null")]
    pub key: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub operator: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub value: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub effect: Box<str>,
    pub toleration_seconds: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// `0.0.0.0` when none is named.
    pub ip: Box<str>,
    pub protocol: Box<str>,
    pub port: i64,
}

/// Name, protocol and number of a container's port.
pub type NamedPort = (Box<str>, Box<str>, i64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Phase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct PodStatus {
    pub phase: Phase,
    pub reason: Box<str>,
    pub message: Box<str>,
    pub nominated_node: Option<Arc<str>>,
    /// The Ready condition: its status, and since when.
    pub ready: Option<(bool, Option<Timestamp>)>,
    /// Reason and message of a PodScheduled condition that is not true.
    pub unscheduled: Option<(Box<str>, Box<str>)>,
    /// Is there a DisruptionTarget condition that is true?
    pub disruption_target: bool,
    /// Since when, unless it was the kubelet who said so.
    pub disruption_since: Option<Timestamp>,
    /// The first container that waits, with why.
    pub waiting: Option<Box<Waiting>>,
    pub restarts: i64,
    pub start_time: Option<Timestamp>,
    pub pod_ips: Vec<Box<str>>,
    /// What it holds, when that is not what it asks for.
    pub held: Option<Box<Held>>,
}

/// What a pod holds, overhead included.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Held {
    pub requests: Resources,
    pub limits: Resources,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Waiting {
    pub container: Box<str>,
    pub reason: Box<str>,
    pub message: Box<str>,
}

/// Whether a waiting reason is about getting the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    Fails,
    Fine,
}

impl Waiting {
    pub fn pull(&self) -> Pull {
        match &*self.reason {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "ErrImageNeverPull"
            | "InvalidImageName"
            | "ImageInspectError"
            | "RegistryUnavailable" => Pull::Fails,
            _ => Pull::Fine,
        }
    }
}

/// Pod specs that were seen before, so that pods that are alike share one.
#[derive(Debug, Clone, Default)]
pub struct Specs(BTreeMap<Arc<PodSpec>, ()>);

impl Specs {
    /// How many specs may be kept that no pod uses any more.
    const UNUSED_MAX: usize = 1024;

    pub fn share(&mut self, spec: Arc<PodSpec>) -> Arc<PodSpec> {
        if let Some((known, ())) = self.0.get_key_value(&spec) {
            return known.clone();
        }
        if self.0.len() >= Self::UNUSED_MAX && self.0.len().is_power_of_two() {
            self.0.retain(|spec, ()| Arc::strong_count(spec) > 1);
        }
        self.0.insert(spec.clone(), ());
        spec
    }
}
