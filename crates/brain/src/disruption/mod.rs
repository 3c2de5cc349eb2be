//! What PodDisruptionBudgets say: how many pods are healthy, how many should be, and how many may
//! be evicted.
//!
//! After `pkg/controller/disruption`. The eviction handler of the API server takes disruptions from
//! the status and notes the pods; this controller counts anew when the pods change. How many pods
//! are expected is asked of their controllers. Of those only DaemonSets exist here, and those have
//! no scale: a budget that needs the number cannot be computed, as in Kubernetes, and allows
//! nothing. Those that name a number in `minAvailable` need none.

mod status;

pub mod stale;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::controller::{Controller, Work};
use crate::model::{IntOrPercent, Key, OwnerReference, Pod, PodDisruptionBudget};
use crate::picture::{Change, Object, Picture};
use crate::request::{BUDGETS, Event, EventType, PODS, Regarding};
use crate::selected::Selectors;

use status::Status;

/// A pod that was evicted counts as gone this long (`DeletionTimeout`).
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

/// How long a budget rests after each plan: evictions take from it meanwhile.
const REST: SignedDuration = SignedDuration::from_millis(250);

const COMPONENT: &str = "controllermanager";

#[derive(Debug, Default)]
pub struct DisruptionController {
    selectors: Selectors,
}

impl Controller for DisruptionController {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn concerns(&mut self, _cluster: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        match (&change.old, &change.new) {
            (_, Some(Object::PodDisruptionBudget(budget))) => {
                self.selectors.set(&budget.meta.key(), Some(&budget.selector));
                add(budget.meta.key());
            }
            (Some(Object::PodDisruptionBudget(budget)), None) => self.selectors.set(&budget.meta.key(), None),
            (Some(Object::Pod(old)), Some(Object::Pod(new))) if counts_the_same(old, new) => {}
            (old, new) => {
                for object in old.iter().chain(new) {
                    if let Object::Pod(pod) = object {
                        self.selectors.choosing(&pod.meta).into_iter().for_each(&mut *add);
                    }
                }
            }
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, now: Timestamp) -> Work {
        let Some(budget) = picture.budgets.get(key) else { return Work::default() };
        let pods: Vec<&Arc<Pod>> = picture.pods_in(&key.namespace).filter(|pod| pod.meta.labels.selected_by(&budget.selector)).collect();
        let work = match expected(budget, &pods) {
            Ok(expected) => count(budget, &pods, &expected, now),
            Err(why) => fail(budget, &why.to_string(), now),
        };
        let mut work = Work { rest: REST, ..work };
        if pods.is_empty() {
            work.events.insert(0, event(budget, EventType::Normal, "NoPods", "No matching pods found".to_owned()));
        }
        work
    }
}

/// Would a budget count the pod as before?
fn counts_the_same(old: &Pod, new: &Pod) -> bool {
    old.meta.uid == new.meta.uid
        && old.meta.labels == new.meta.labels
        && old.meta.is_deleted() == new.meta.is_deleted()
        && old.meta.owner_references == new.meta.owner_references
        && old.is_ready() == new.is_ready()
}

/// Why a controller cannot be asked how many pods it wants (`getScaleController`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum ScaleError {
    #[error("{resource} does not implement the scale subresource")]
    NoScale { resource: String },
    #[error("no matches for kind \"{kind}\" in version \"{api_version}\"")]
    NoKind { kind: String, api_version: String },
}

/// How many pods there should be, and how many of them healthy.
struct Expected {
    pods: i64,
    healthy: i64,
    unmanaged: bool,
}

/// `getExpectedPodCount`.
fn expected(budget: &PodDisruptionBudget, pods: &[&Arc<Pod>]) -> Result<Expected, ScaleError> {
    let share = |amount: IntOrPercent, total: i64| {
        let total = usize::try_from(total).unwrap_or(0);
        i64::try_from(amount.of_rounded_up(total)).unwrap_or(i64::MAX)
    };
    match (budget.max_unavailable, budget.min_available) {
        (Some(most), _) => {
            let (pods, unmanaged) = scale(pods)?;
            Ok(Expected { pods, healthy: (pods - share(most, pods)).max(0), unmanaged })
        }
        (None, Some(IntOrPercent::Int(least))) => Ok(Expected { pods: count_of(pods), healthy: least, unmanaged: false }),
        (None, Some(least)) => {
            let (pods, unmanaged) = scale(pods)?;
            Ok(Expected { pods, healthy: share(least, pods), unmanaged })
        }
        (None, None) => Ok(Expected { pods: 0, healthy: 0, unmanaged: false }),
    }
}

fn count_of(pods: &[&Arc<Pod>]) -> i64 {
    i64::try_from(pods.len()).unwrap_or(i64::MAX)
}

/// The sum of what the pods' controllers want, and whether some pods have none
/// (`getExpectedScale`).
fn scale(pods: &[&Arc<Pod>]) -> Result<(i64, bool), ScaleError> {
    match pods.iter().find_map(|pod| pod.meta.controller()) {
        Some(controller) => Err(without_scale(controller)),
        None => Ok((0, !pods.is_empty())),
    }
}

fn without_scale(controller: &OwnerReference) -> ScaleError {
    let (group, version) = controller.api_version.split_once('/').unwrap_or(("", &controller.api_version));
    match kinds::table::by_kind(group, &controller.kind).filter(|row| row.version == version) {
        Some(row) => ScaleError::NoScale { resource: row.resource().to_string() },
        None => ScaleError::NoKind { kind: controller.kind.to_string(), api_version: controller.api_version.to_string() },
    }
}

fn count(budget: &PodDisruptionBudget, pods: &[&Arc<Pod>], expected: &Expected, now: Timestamp) -> Work {
    let mut events = Vec::new();
    if expected.unmanaged {
        events.push(event(budget, EventType::Warning, "UnmanagedPods", unmanaged_text(&budget.selector_object)));
    }
    let disrupted = still_expected_to_go(budget, pods, now, &mut events);
    let is_healthy = |pod: &&&Arc<Pod>| !pod.meta.is_deleted() && !disrupted.contains_key(&*pod.meta.name) && pod.is_ready();
    let healthy = i64::try_from(pods.iter().filter(is_healthy).count()).unwrap_or(i64::MAX);
    let allowed = if expected.pods > 0 { (healthy - expected.healthy).max(0) } else { 0 };
    // Those that are not gone by then count again.
    let wake_at = disrupted.values().map(|at| gone_at(*at).saturating_add(SignedDuration::from_secs(1)).unwrap_or(Timestamp::MAX)).min();
    let status = Status {
        current_healthy: healthy,
        desired_healthy: expected.healthy,
        expected_pods: expected.pods,
        disruptions_allowed: allowed,
        disrupted_pods: disrupted,
        observed_generation: budget.meta.generation,
    };
    Work { last: status.write(budget, now), events, wake_at, ..Work::default() }
}

/// The pods that were evicted and may still be on their way (`buildDisruptedPodMap`).
fn still_expected_to_go(
    budget: &PodDisruptionBudget,
    pods: &[&Arc<Pod>],
    now: Timestamp,
    events: &mut Vec<Event>,
) -> BTreeMap<Box<str>, Timestamp> {
    let mut disrupted = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !pod.meta.is_deleted()) {
        let Some(at) = budget.disrupted_pods.get(&*pod.meta.name) else { continue };
        match at.filter(|at| gone_at(*at) >= now) {
            Some(at) => drop(disrupted.insert(Box::from(&*pod.meta.name), at)),
            None => {
                // Upstream names the namespace twice, and not the budget.
                let namespace = &budget.meta.namespace;
                let message = format!("Pod was expected by PDB {namespace}/{namespace} to be deleted but it wasn't");
                events.push(Event { about: Regarding::of(PODS, &pod.meta), ..event(budget, EventType::Warning, "NotDeleted", message) });
            }
        }
    }
    disrupted
}

/// By when a pod that was evicted is expected to be gone. The time comes from a status, which any
/// client may have written.
fn gone_at(evicted_at: Timestamp) -> Timestamp {
    evicted_at.saturating_add(DELETION_TIMEOUT).unwrap_or(Timestamp::MAX)
}

/// Nothing may be evicted while the numbers are not known (`failSafe`).
fn fail(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> Work {
    let message = format!("Failed to calculate the number of expected pods: {why}");
    let events = vec![event(budget, EventType::Warning, "CalculateExpectedPodCountFailed", message)];
    Work { last: status::write_failed(budget, why, now), events, ..Work::default() }
}

fn event(budget: &PodDisruptionBudget, event_type: EventType, reason: &'static str, message: String) -> Event {
    Event {
        about: Regarding::of(BUDGETS, &budget.meta),
        event_type,
        reason: reason.into(),
        message,
        action: None,
        component: COMPONENT,
        host: None,
    }
}

fn unmanaged_text(selector: &Value) -> String {
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be \
         calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of \
         the PDB to an integer value.",
        go_text(selector)
    )
}

/// A LabelSelector as Go prints it.
fn go_text(selector: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let labels: BTreeMap<&String, &Value> = selector["matchLabels"].as_object().into_iter().flatten().collect();
    let labels: String = labels.into_iter().map(|(key, value)| format!("{key}: {},", text(value))).collect();
    let requirement = |requirement: &Value| {
        let values: Vec<String> = requirement["values"].as_array().into_iter().flatten().map(text).collect();
        let (key, operator, values) = (text(&requirement["key"]), text(&requirement["operator"]), values.join(" "));
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},")
    };
    let expressions: String = selector["matchExpressions"].as_array().into_iter().flatten().map(requirement).collect();
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}")
}

#[cfg(test)]
mod tests;
