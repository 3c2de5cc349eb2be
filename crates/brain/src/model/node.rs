//! Nodes.

use std::fmt;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Deserialize;

use super::{Meta, Resources, absent_if_null};

/// Label of nodes that play their pods without containers.
pub const SIMULATED: &str = "everynode.dev/simulated";

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Node {
    pub meta: Meta,
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
    /// Ranges of the addresses of its pods, the main family first.
    pub pod_cidrs: Vec<IpNet>,
    pub allocatable: Resources,
    pub conditions: Vec<NodeCondition>,
}

impl Node {
    pub fn condition(&self, kind: &str) -> Option<&NodeCondition> {
        self.conditions.iter().find(|condition| &*condition.kind == kind)
    }

    /// Does it only play its pods?
    pub fn is_simulated(&self) -> bool {
        self.meta.labels.get(SIMULATED) == Some("true")
    }

    /// Does the node say that it is well?
    pub fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|condition| &*condition.status == "True")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    #[serde(deserialize_with = "absent_if_null")]
    pub key: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub value: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub effect: Box<str>,
    pub time_added: Option<Timestamp>,
}

impl fmt::Display for Taint {
    /// As people write it: `key=value:effect`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.value {
            "" => write!(f, "{}:{}", self.key, self.effect),
            value => write!(f, "{}={value}:{}", self.key, self.effect),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCondition {
    #[serde(rename = "type", deserialize_with = "absent_if_null")]
    pub kind: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub status: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub reason: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub message: Box<str>,
    pub last_heartbeat_time: Option<Timestamp>,
    pub last_transition_time: Option<Timestamp>,
}

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
#[serde(default)]
struct RawSpec {
    #[serde(deserialize_with = "absent_if_null")]
    unschedulable: bool,
    #[serde(deserialize_with = "absent_if_null")]
    taints: Vec<Taint>,
    #[serde(rename = "podCIDRs", deserialize_with = "absent_if_null")]
    pod_cidrs: Vec<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawStatus {
    #[serde(deserialize_with = "absent_if_null")]
    allocatable: Resources,
    #[serde(deserialize_with = "absent_if_null")]
    conditions: Vec<NodeCondition>,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        let raw = Raw::deserialize(deserializer)?;
        Ok(Node {
            meta: raw.metadata,
            unschedulable: raw.spec.unschedulable,
            taints: raw.spec.taints,
            // The API lets only ranges in.
            pod_cidrs: raw.spec.pod_cidrs.iter().filter_map(|range| range.parse().ok()).collect(),
            allocatable: raw.status.allocatable,
            conditions: raw.status.conditions,
        })
    }
}
