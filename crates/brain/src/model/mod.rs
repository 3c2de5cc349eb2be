//! What deciders see of the cluster's objects: the fields that decisions rest on, read from the
//! API's JSON.
//!
//! These are deliberately not the API's whole types: ten thousand pods must fit in a few megabytes,
//! and what no controller decides on is not kept. Unknown fields are skipped, `null` counts as
//! absent. Code that writes objects writes JSON (see [`crate::request`]).

mod daemonset;
mod network;
mod node;
mod pod;
mod ranges;
mod raw;
mod resources;
mod small;

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

pub use daemonset::{ControllerRevision, DaemonSet, DaemonSetStatus, IntOrPercent, UpdateStrategy};
pub use network::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, Endpoints, Hint, Service, ServicePort, TargetRef,
    TrafficDistribution,
};
pub use node::{Node, NodeCondition, SIMULATED, Taint};
pub use pod::{
    Held, HostName, HostPort, NodeRequirement, NodeTerm, Phase, Pod, PodAffinityTerm, PodSpec, PodStatus, Pull, Specs, SpreadConstraint,
    Toleration, Waiting, WeightedTerm,
};
pub use ranges::{IpAddress, ReadyCondition, ServiceCidr};
pub(crate) use raw::absent_if_null;
pub use resources::Resources;
pub use small::{ClusterRole, ConfigMap, Lease, Namespace, PodDisruptionBudget, PriorityClass, ResourceQuota};

/// Namespace (empty for objects without one) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// What every object has.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    #[serde(deserialize_with = "absent_if_null")]
    pub name: Arc<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub namespace: Arc<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub uid: Arc<str>,
    /// 0 when it is not a number, as on servers that keep their versions to themselves.
    #[serde(deserialize_with = "raw::number_text")]
    pub resource_version: u64,
    #[serde(deserialize_with = "absent_if_null")]
    pub generation: i64,
    #[serde(deserialize_with = "absent_if_null")]
    pub labels: Labels,
    #[serde(deserialize_with = "absent_if_null")]
    pub annotations: Labels,
    #[serde(deserialize_with = "absent_if_null")]
    pub owner_references: Vec<OwnerReference>,
    #[serde(deserialize_with = "absent_if_null")]
    pub finalizers: Vec<Box<str>>,
    pub creation_timestamp: Option<Timestamp>,
    pub deletion_timestamp: Option<Timestamp>,
    pub deletion_grace_period_seconds: Option<i64>,
}

impl Meta {
    pub fn key(&self) -> Key {
        Key { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    pub fn is_deleted(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The owner that manages the object.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    #[serde(deserialize_with = "absent_if_null")]
    pub api_version: Arc<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub kind: Arc<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub name: Arc<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub uid: Arc<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub controller: bool,
    #[serde(deserialize_with = "absent_if_null")]
    pub block_owner_deletion: bool,
}

/// Labels or annotations: sorted by key, each key once. A vector, because objects have few and
/// there are many objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Labels(Vec<(Box<str>, Box<str>)>);

impl Labels {
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    pub fn insert(&mut self, key: &str, value: &str) {
        match self.0.binary_search_by(|(k, _)| (**k).cmp(key)) {
            Ok(at) => self.0[at].1 = value.into(),
            Err(at) => self.0.insert(at, (key.into(), value.into())),
        }
    }

    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(k, _)| **k != *key);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Does the selector choose these labels?
    pub fn selected_by(&self, selector: &kinds::selector::Selector) -> bool {
        selector.matches_lookup(|key| self.get(key))
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Labels {
        let mut labels = Labels::default();
        for (key, value) in pairs {
            labels.insert(&key, &value);
        }
        labels
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Labels, M::Error> {
                let mut labels = Labels::default();
                while let Some(key) = map.next_key::<Box<str>>()? {
                    // The largest annotation of kubectl repeats the whole object; no controller
                    // decides on it.
                    if &*key == "kubectl.kubernetes.io/last-applied-configuration" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let value = map.next_value::<Option<Box<str>>>()?.unwrap_or_default();
                    labels.insert(&key, &value);
                }
                Ok(labels)
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}
