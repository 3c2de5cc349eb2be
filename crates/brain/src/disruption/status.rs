//! The status of a budget, and the patch from the one that is there.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kinds::decode::format_time;
use serde_json::{Map, Value, json};

use crate::model::PodDisruptionBudget;
use crate::request::{BUDGETS, Request, Verb};

const CONDITION: &str = "DisruptionAllowed";

#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub current_healthy: i64,
    pub desired_healthy: i64,
    pub expected_pods: i64,
    pub disruptions_allowed: i64,
    pub disrupted_pods: BTreeMap<Box<str>, Timestamp>,
    pub observed_generation: i64,
}

impl Status {
    /// None when the budget says so already. The version in the request keeps it from undoing an
    /// eviction that came meanwhile.
    pub fn write(&self, budget: &PodDisruptionBudget, now: Timestamp) -> Option<Request> {
        let there = &budget.status;
        let number = |field: &str| there[field].as_i64().unwrap_or(0);
        let numbers = [
            ("currentHealthy", self.current_healthy),
            ("desiredHealthy", self.desired_healthy),
            ("expectedPods", self.expected_pods),
            ("disruptionsAllowed", self.disruptions_allowed),
            ("observedGeneration", self.observed_generation),
        ];
        let (status, reason) = match self.disruptions_allowed {
            0 => ("False", "InsufficientPods"),
            _ => ("True", "SufficientPods"),
        };
        let same_numbers = numbers.iter().all(|(field, value)| number(field) == *value);
        let same_pods = budget.disrupted_pods.len() == self.disrupted_pods.len()
            && budget.disrupted_pods.iter().all(|(name, at)| self.disrupted_pods.get(name).copied() == *at);
        let condition = there_condition(budget);
        let same_condition = condition["status"] == status
            && condition["reason"] == reason
            && condition["observedGeneration"].as_i64().unwrap_or(0) == self.observed_generation;
        if same_numbers && same_pods && same_condition {
            return None;
        }
        let mut wanted: Map<String, Value> = numbers.into_iter().map(|(field, value)| (field.to_owned(), json!(value))).collect();
        wanted.insert("disruptedPods".to_owned(), self.pods_patch(budget));
        let condition = Condition { status, reason, message: "", observed_generation: self.observed_generation };
        wanted.insert("conditions".to_owned(), condition.among(budget, now));
        Some(request(budget, Value::Object(wanted)))
    }

    fn pods_patch(&self, budget: &PodDisruptionBudget) -> Value {
        let gone = budget.disrupted_pods.keys().filter(|name| !self.disrupted_pods.contains_key(*name));
        let gone = gone.map(|name| (name.to_string(), Value::Null));
        let left = self.disrupted_pods.iter().map(|(name, at)| (name.to_string(), json!(format_time(*at))));
        Value::Object(gone.chain(left).collect())
    }
}

/// Nothing is allowed, and why.
pub fn write_failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> Option<Request> {
    let observed_generation = budget.status["observedGeneration"].as_i64().unwrap_or(0);
    let condition = there_condition(budget);
    let same = condition["status"] == "False"
        && condition["reason"] == "SyncFailed"
        && condition["message"] == why
        && condition["observedGeneration"].as_i64().unwrap_or(0) == observed_generation;
    if same && budget.disruptions_allowed == 0 {
        return None;
    }
    let condition = Condition { status: "False", reason: "SyncFailed", message: why, observed_generation };
    // The field must be there even if it is zero and was never written.
    Some(request(budget, json!({"disruptionsAllowed": 0, "conditions": condition.among(budget, now)})))
}

struct Condition<'a> {
    status: &'a str,
    reason: &'a str,
    message: &'a str,
    observed_generation: i64,
}

impl Condition<'_> {
    /// The budget's conditions with this one; its time changes with its status
    /// (`SetStatusCondition`).
    fn among(&self, budget: &PodDisruptionBudget, now: Timestamp) -> Value {
        let old = there_condition(budget);
        let since = if old["status"] == self.status { old["lastTransitionTime"].clone() } else { json!(format_time(now)) };
        let own = json!({
            "type": CONDITION, "status": self.status, "reason": self.reason, "message": self.message,
            "observedGeneration": self.observed_generation, "lastTransitionTime": since,
        });
        let others = budget.status["conditions"].as_array().into_iter().flatten().filter(|condition| condition["type"] != CONDITION);
        Value::Array(others.cloned().chain([own]).collect())
    }
}

fn there_condition(budget: &PodDisruptionBudget) -> &Value {
    let conditions = budget.status["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == CONDITION).unwrap_or(&Value::Null)
}

fn request(budget: &PodDisruptionBudget, status: Value) -> Request {
    let meta = &budget.meta;
    let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version.to_string()}, "status": status});
    Request::new(BUDGETS, meta.key(), Verb::Merge(patch)).on("status")
}
