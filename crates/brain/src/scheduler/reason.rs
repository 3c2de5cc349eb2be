//! Why a node does not take a pod, for people ([`Rejection`] and its text) and for the decisions
//! that follow ([`Causes`]).
//!
//! The texts are those of Kubernetes' scheduler plugins; `kubectl describe` shows them counted.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::model::{HostPort, Key, Taint};

/// One reason against one node. Explanations fill in which pods are in the way (see
/// [`super::explain`]), plans do not.
#[derive(Debug, Clone, PartialEq)]
pub enum Rejection {
    /// `spec.unschedulable`.
    Unschedulable,
    /// The pod names another node.
    NodeName,
    /// The first taint that is not tolerated.
    Taint(Taint),
    /// nodeSelector or required node affinity.
    Affinity,
    /// The pod's affinity names nodes, and this one is not among them: the node was not even looked
    /// at.
    NotNamed,
    PortTaken {
        port: HostPort,
        by: Key,
    },
    TooManyPods {
        allocatable: i64,
    },
    Insufficient(Box<Shortage>),
    /// The node has no label of that key, which a spread constraint needs.
    SpreadLabelMissing {
        topology_key: Box<str>,
    },
    Spread {
        topology_key: Box<str>,
    },
    PodAffinity,
    PodAntiAffinity {
        topology_key: Box<str>,
    },
    /// A pod that is there does not want this one around.
    ExistingAntiAffinity {
        topology_key: Box<str>,
    },
}

/// Too little of a resource; CPU in thousandths of a core.
#[derive(Debug, Clone, PartialEq)]
pub struct Shortage {
    pub resource: Box<str>,
    pub requested: i64,
    pub free: i64,
    pub allocatable: i64,
    /// Which pods have how much of it, most first. Empty in plans.
    pub holders: Vec<(Key, i64)>,
}

impl Rejection {
    /// As the scheduler of Kubernetes words it.
    pub fn reason(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Rejection::Unschedulable => "node(s) were unschedulable",
            Rejection::NodeName => "node(s) didn't match the requested node name",
            Rejection::Taint(_) => "node(s) had untolerated taint(s)",
            Rejection::Affinity => "node(s) didn't match Pod's node affinity/selector",
            Rejection::NotNamed => "node(s) didn't satisfy plugin(s) [NodeAffinity]",
            Rejection::PortTaken { .. } => "node(s) didn't have free ports for the requested pod ports",
            Rejection::TooManyPods { .. } => "Too many pods",
            Rejection::Insufficient(shortage) => match &*shortage.resource {
                "cpu" => "Insufficient cpu",
                "memory" => "Insufficient memory",
                other => return Cow::Owned(format!("Insufficient {other}")),
            },
            Rejection::SpreadLabelMissing { .. } => "node(s) didn't match pod topology spread constraints (missing required label)",
            Rejection::Spread { .. } => "node(s) didn't match pod topology spread constraints",
            Rejection::PodAffinity => "node(s) didn't match pod affinity rules",
            Rejection::PodAntiAffinity { .. } => "node(s) didn't match pod anti-affinity rules",
            Rejection::ExistingAntiAffinity { .. } => "node(s) didn't satisfy existing pods anti-affinity rules",
        })
    }

    /// Could it end when pods leave the node? What asks for more than the node ever has cannot be
    /// helped (golden daemonset/17).
    pub fn is_resolvable(&self) -> bool {
        match self {
            Rejection::PortTaken { .. }
            | Rejection::TooManyPods { .. }
            | Rejection::Spread { .. }
            | Rejection::PodAntiAffinity { .. }
            | Rejection::ExistingAntiAffinity { .. } => true,
            Rejection::Insufficient(shortage) => shortage.requested <= shortage.allocatable,
            _ => false,
        }
    }

    pub(super) fn causes(&self) -> Causes {
        match self {
            Rejection::PortTaken { .. } | Rejection::TooManyPods { .. } | Rejection::Insufficient(_) => {
                Causes { space: true, ..Causes::default() }
            }
            Rejection::Unschedulable | Rejection::NodeName | Rejection::Taint(_) | Rejection::Affinity | Rejection::NotNamed => {
                Causes::default()
            }
            _ => Causes { topology: true, ..Causes::default() },
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason())
    }
}

/// What besides a change of nodes could end the rejections of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Causes {
    /// Pods that leave a node: ports, resources.
    pub space: bool,
    /// Pods that come, go or change anywhere: inter-pod affinity, topology spread.
    pub topology: bool,
}

impl Causes {
    pub(super) fn add(&mut self, other: Causes) {
        self.space |= other.space;
        self.topology |= other.topology;
    }
}

/// Reasons, with how many nodes have each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reasons(pub BTreeMap<Cow<'static, str>, usize>);

impl Reasons {
    pub fn add(&mut self, reason: Cow<'static, str>, nodes: usize) {
        if nodes > 0 {
            *self.0.entry(reason).or_default() += nodes;
        }
    }

    /// `0/3 nodes are available: 1 Insufficient cpu, 2 Too many pods.` Sorted as texts, counts
    /// included, as in Kubernetes.
    pub fn message(&self, nodes: usize) -> String {
        let mut listed: Vec<String> = self.0.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        listed.sort();
        let listed = if listed.is_empty() { String::new() } else { format!(" {}.", listed.join(", ")) };
        format!("0/{nodes} nodes are available:{listed}")
    }
}
