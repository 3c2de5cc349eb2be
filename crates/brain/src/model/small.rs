//! Kinds of which deciders need little.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use kinds::selector::Selector;

use super::{IntOrPercent, Meta, absent_if_null};

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    #[serde(rename = "metadata")]
    pub meta: Meta,
    pub status: NamespaceStatus,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceStatus {
    pub conditions: Vec<NamespaceCondition>,
}

/// What a namespace that ends says about how far it is.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NamespaceCondition {
    #[serde(rename = "type")]
    pub kind: Box<str>,
    pub status: Box<str>,
    pub reason: Box<str>,
    pub message: Box<str>,
    pub last_transition_time: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lease {
    pub meta: Meta,
    pub renew_time: Option<Timestamp>,
    pub duration_seconds: i64,
}

impl<'de> Deserialize<'de> for Lease {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Lease, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Raw {
            metadata: Meta,
            #[serde(deserialize_with = "absent_if_null")]
            spec: RawSpec,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct RawSpec {
            renew_time: Option<Timestamp>,
            #[serde(deserialize_with = "absent_if_null")]
            lease_duration_seconds: i64,
        }
        let raw = Raw::deserialize(deserializer)?;
        Ok(Lease { meta: raw.metadata, renew_time: raw.spec.renew_time, duration_seconds: raw.spec.lease_duration_seconds })
    }
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PriorityClass {
    #[serde(rename = "metadata")]
    pub meta: Meta,
    #[serde(deserialize_with = "absent_if_null")]
    pub value: i32,
    #[serde(deserialize_with = "absent_if_null")]
    pub global_default: bool,
    pub preemption_policy: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PodDisruptionBudget {
    pub meta: Meta,
    pub selector: Selector,
    /// The selector as stored: events print it.
    pub selector_object: Value,
    pub min_available: Option<IntOrPercent>,
    pub max_unavailable: Option<IntOrPercent>,
    /// `status.disruptionsAllowed`.
    pub disruptions_allowed: i64,
    /// Pods that were evicted and are not gone yet, with the time of the eviction.
    pub disrupted_pods: std::collections::BTreeMap<Box<str>, Option<Timestamp>>,
    /// The whole status as stored, for comparing.
    pub status: Value,
}

impl<'de> Deserialize<'de> for PodDisruptionBudget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PodDisruptionBudget, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Raw {
            metadata: Meta,
            #[serde(deserialize_with = "absent_if_null")]
            spec: RawSpec,
            status: Value,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct RawSpec {
            selector: Option<Value>,
            min_available: Option<IntOrPercent>,
            max_unavailable: Option<IntOrPercent>,
        }
        let raw = Raw::deserialize(deserializer)?;
        let disrupted = raw.status.get("disruptedPods").and_then(Value::as_object).into_iter().flatten();
        let time = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        Ok(PodDisruptionBudget {
            meta: raw.metadata,
            selector: Selector::from_object(raw.spec.selector.as_ref()).unwrap_or_else(|_| Selector::nothing()),
            selector_object: raw.spec.selector.unwrap_or_default(),
            min_available: raw.spec.min_available,
            max_unavailable: raw.spec.max_unavailable,
            disruptions_allowed: raw.status.get("disruptionsAllowed").and_then(Value::as_i64).unwrap_or(0),
            disrupted_pods: disrupted.map(|(name, at)| (name.as_str().into(), time(at))).collect(),
            status: raw.status,
        })
    }
}

/// What a namespace may use. Its rules are those of `kinds::quota`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct ResourceQuota {
    #[serde(rename = "metadata")]
    pub meta: Meta,
    pub spec: Value,
    pub status: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ClusterRole {
    pub meta: Meta,
    /// As stored: it is copied from one role to another.
    pub rules: Value,
    /// Whose rules it is the sum of; None for roles with rules of their own.
    pub aggregates: Option<Vec<Selector>>,
}

impl<'de> Deserialize<'de> for ClusterRole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ClusterRole, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Raw {
            metadata: Meta,
            rules: Value,
            aggregation_rule: Option<RawAggregation>,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct RawAggregation {
            #[serde(deserialize_with = "absent_if_null")]
            cluster_role_selectors: Vec<Value>,
        }
        let raw = Raw::deserialize(deserializer)?;
        let selector = |value: &Value| Selector::from_object(Some(value)).unwrap_or_else(|_| Selector::nothing());
        Ok(ClusterRole {
            meta: raw.metadata,
            rules: raw.rules,
            aggregates: raw.aggregation_rule.map(|rule| rule.cluster_role_selectors.iter().map(selector).collect()),
        })
    }
}

/// A ConfigMap whose contents matter; of most only the metadata is followed.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct ConfigMap {
    #[serde(rename = "metadata")]
    pub meta: Meta,
    #[serde(deserialize_with = "absent_if_null")]
    pub data: std::collections::BTreeMap<Box<str>, Arc<str>>,
}
