//! DaemonSets and their revisions.

use std::sync::Arc;

use kinds::selector::Selector;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Labels, Meta, PodSpec, absent_if_null};

/// Where the API keeps how often a set's template was changed.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

#[derive(Debug, Clone, PartialEq)]
pub struct DaemonSet {
    pub meta: Meta,
    pub selector: Selector,
    /// The template as the API stores it: what pods and revisions are made from.
    pub template: Arc<Value>,
    pub template_labels: Labels,
    /// What of the template decides where its pods may be; the tolerations of daemon pods are not
    /// among it.
    pub template_spec: PodSpec,
    pub strategy: UpdateStrategy,
    pub min_ready_seconds: i64,
    pub revision_history_limit: usize,
    pub status: DaemonSetStatus,
}

impl DaemonSet {
    /// The one node that the template names, if it names one.
    pub fn template_node(&self) -> Option<&str> {
        self.template.pointer("/spec/nodeName").and_then(Value::as_str).filter(|name| !name.is_empty())
    }

    /// The template's generation, when it is a number.
    pub fn template_generation(&self) -> Option<&str> {
        self.meta.annotations.get(TEMPLATE_GENERATION).filter(|text| text.parse::<i64>().is_ok())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateStrategy {
    OnDelete,
    RollingUpdate { max_unavailable: IntOrPercent, max_surge: IntOrPercent },
}

/// A number, or a share of one in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntOrPercent {
    Int(i64),
    Percent(i64),
}

impl IntOrPercent {
    /// Of a total; shares are rounded up, as Kubernetes does for the budgets of DaemonSets.
    pub fn of_rounded_up(self, total: usize) -> usize {
        let total = i64::try_from(total).unwrap_or(i64::MAX);
        let amount = match self {
            IntOrPercent::Int(amount) => amount,
            IntOrPercent::Percent(percent) => (total.saturating_mul(percent).saturating_add(99)) / 100,
        };
        usize::try_from(amount.max(0)).unwrap_or(usize::MAX)
    }
}

impl<'de> Deserialize<'de> for IntOrPercent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<IntOrPercent, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let percent = |text: &str| text.strip_suffix('%').and_then(|digits| digits.parse().ok());
        let read = match &value {
            Value::Number(number) => number.as_i64().map(IntOrPercent::Int),
            Value::String(text) => percent(text).map(IntOrPercent::Percent),
            _ => None,
        };
        read.ok_or_else(|| serde::de::Error::custom("neither a number nor a percentage"))
    }
}

/// The counters of `kubectl get daemonset`. Those that are zero and optional are absent in the API.
/// No part of Kubernetes sets conditions: they are left to clients that do.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetStatus {
    pub current_number_scheduled: usize,
    pub number_misscheduled: usize,
    pub desired_number_scheduled: usize,
    pub number_ready: usize,
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    #[serde(skip_serializing_if = "is_none")]
    pub updated_number_scheduled: usize,
    #[serde(skip_serializing_if = "is_none")]
    pub number_available: usize,
    #[serde(skip_serializing_if = "is_none")]
    pub number_unavailable: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i64>,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn is_none(number: &usize) -> bool {
    *number == 0
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    metadata: Meta,
    #[serde(deserialize_with = "absent_if_null")]
    spec: RawSpec,
    #[serde(deserialize_with = "absent_if_null")]
    status: DaemonSetStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    selector: Option<Value>,
    template: Value,
    #[serde(deserialize_with = "absent_if_null")]
    update_strategy: RawStrategy,
    #[serde(deserialize_with = "absent_if_null")]
    min_ready_seconds: i64,
    revision_history_limit: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStrategy {
    #[serde(rename = "type")]
    kind: Option<Box<str>>,
    rolling_update: Option<RawRollingUpdate>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawRollingUpdate {
    max_unavailable: Option<IntOrPercent>,
    max_surge: Option<IntOrPercent>,
}

impl RawStrategy {
    fn read(self) -> UpdateStrategy {
        if self.kind.as_deref() == Some("OnDelete") {
            return UpdateStrategy::OnDelete;
        }
        let rolling = self.rolling_update.unwrap_or_default();
        UpdateStrategy::RollingUpdate {
            max_unavailable: rolling.max_unavailable.unwrap_or(IntOrPercent::Int(1)),
            max_surge: rolling.max_surge.unwrap_or(IntOrPercent::Int(0)),
        }
    }
}

impl<'de> Deserialize<'de> for DaemonSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DaemonSet, D::Error> {
        let raw = Raw::deserialize(deserializer)?;
        let invalid = |error: &dyn std::fmt::Display| serde::de::Error::custom(error);
        let template_spec = match raw.spec.template.get("spec") {
            Some(spec) => PodSpec::from_json(spec).map_err(|error| invalid(&error))?,
            None => PodSpec::default(),
        };
        let labels = raw.spec.template.pointer("/metadata/labels").filter(|labels| !labels.is_null());
        Ok(DaemonSet {
            selector: Selector::from_object(raw.spec.selector.as_ref()).map_err(|error| invalid(&error))?,
            template_labels: labels.map(Labels::deserialize).transpose().map_err(|error| invalid(&error))?.unwrap_or_default(),
            template: Arc::new(raw.spec.template),
            template_spec,
            strategy: raw.spec.update_strategy.read(),
            min_ready_seconds: raw.spec.min_ready_seconds,
            revision_history_limit: raw.spec.revision_history_limit.unwrap_or(10),
            status: raw.status,
            meta: raw.metadata,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct ControllerRevision {
    #[serde(rename = "metadata")]
    pub meta: Meta,
    #[serde(deserialize_with = "absent_if_null")]
    pub revision: i64,
    pub data: Arc<Value>,
}
