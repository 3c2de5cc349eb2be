//! ResourceQuota: what the pods of a namespace may use together.
//!
//! Usage is counted from the stored pods rather than from the quota's status, so that it is exact at once. Creations in a namespace
//! with quotas go one after another; each sees what the ones before it stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use kinds::quantity::Quantity;
use kinds::status::Status;
use kinds::table;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use super::limit_ranger::sum_of;
use super::refuse;
use crate::registry::{Registry, Write};

/// Holds the namespace's turn until the pod is stored.
#[derive(Debug)]
pub struct QuotaGuard {
    _turn: Option<OwnedMutexGuard<()>>,
}

impl QuotaGuard {
    pub fn none() -> QuotaGuard {
        QuotaGuard { _turn: None }
    }
}

/// The locks by which creations in a namespace with quotas wait for each other.
#[derive(Debug, Default)]
pub struct QuotaTurns(std::sync::Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl QuotaTurns {
    fn of(&self, namespace: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(namespace.to_owned()).or_default().clone()
    }
}

type Usage = BTreeMap<String, Quantity>;

pub async fn check(registry: &Registry, write: &Write<'_>, pod: &Value) -> Result<QuotaGuard, Status> {
    let kind = table::by_resource("", "v1", "resourcequotas").expect("the table has quotas");
    let prefix = format!("{}/", write.namespace);
    let quotas: Vec<Value> = registry.caches.of(kind).snapshot(&prefix, 0).objects.iter().map(|quota| quota.value()).collect();
    let concerned: Vec<&Value> = quotas.iter().filter(|quota| in_scope(quota, pod)).collect();
    if concerned.is_empty() {
        return Ok(QuotaGuard::none());
    }
    let turn = registry.quota_turns.of(write.namespace).lock_owned().await;
    registry.caches.wait_for(registry.revision()).await;
    let pods: Vec<Value> =
        registry.caches.of(write.kind).snapshot(&prefix, 0).objects.iter().map(|pod| pod.value()).filter(is_live).collect();
    for quota in concerned {
        let used = pods.iter().filter(|pod| in_scope(quota, pod)).map(usage_of).fold(Usage::new(), add);
        check_quota(write, quota, pod, &used)?;
    }
    Ok(QuotaGuard { _turn: Some(turn) })
}

fn is_live(pod: &Value) -> bool {
    !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// What a pod counts for, by the names that quotas use.
pub fn usage_of(pod: &Value) -> Usage {
    let one = Quantity::from_units(1);
    let mut usage = Usage::from([("pods".to_owned(), one.clone()), ("count/pods".to_owned(), one)]);
    for (resource, amount) in sum_of(pod, "requests") {
        if matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(resource.clone(), amount.clone());
        }
        usage.insert(format!("requests.{resource}"), amount);
    }
    for (resource, amount) in sum_of(pod, "limits") {
        usage.insert(format!("limits.{resource}"), amount);
    }
    usage
}

fn add(mut sum: Usage, usage: Usage) -> Usage {
    for (name, amount) in usage {
        let total = sum.get(&name).map_or(amount.clone(), |so_far| so_far.add(&amount));
        sum.insert(name, total);
    }
    sum
}

fn in_scope(quota: &Value, pod: &Value) -> bool {
    let scopes = quota["spec"]["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let selected = quota["spec"]["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    scopes.into_iter().all(|scope| has_scope(scope, pod)) && selected.into_iter().all(|expression| expression_selects(expression, pod))
}

fn has_scope(scope: &str, pod: &Value) -> bool {
    let terminating = pod["spec"]["activeDeadlineSeconds"].as_i64().is_some();
    let best_effort = sum_of(pod, "requests").is_empty() && sum_of(pod, "limits").is_empty();
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => pod["spec"]["priorityClassName"].as_str().is_some_and(|name| !name.is_empty()),
        _ => false,
    }
}

fn expression_selects(expression: &Value, pod: &Value) -> bool {
    let scope = expression["scopeName"].as_str().unwrap_or_default();
    let class = pod["spec"]["priorityClassName"].as_str().unwrap_or_default();
    let listed = expression["values"].as_array().into_iter().flatten().any(|value| value == class);
    match (scope, expression["operator"].as_str().unwrap_or_default()) {
        ("PriorityClass", "In") => listed,
        ("PriorityClass", "NotIn") => !listed,
        ("PriorityClass", "DoesNotExist") => class.is_empty(),
        (scope, _) => has_scope(scope, pod),
    }
}

fn check_quota(write: &Write<'_>, quota: &Value, pod: &Value, used: &Usage) -> Result<(), Status> {
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    let hard: Usage = quota["spec"]["hard"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(resource, amount)| Some((resource.clone(), Quantity::parse(amount.as_str()?).ok()?)))
        .collect();
    let missing: Vec<String> = hard.keys().filter_map(|resource| missing_in(resource, pod)).collect();
    if !missing.is_empty() {
        return Err(refuse(write, pod, &format!("failed quota: {name}: must specify {}", missing.join("; "))));
    }
    let requested = usage_of(pod);
    let zero = Quantity::from_units(0);
    let exceeded: Vec<&String> = hard
        .iter()
        .filter(|(resource, limit)| {
            let wanted = requested.get(*resource).unwrap_or(&zero);
            !wanted.is_zero() && used.get(*resource).unwrap_or(&zero).add(wanted) > **limit
        })
        .map(|(resource, _)| resource)
        .collect();
    if exceeded.is_empty() {
        return Ok(());
    }
    let show = |amounts: &Usage| exceeded.iter().map(|r| format!("{r}={}", amounts.get(*r).unwrap_or(&zero))).collect::<Vec<_>>().join(",");
    Err(refuse(
        write,
        pod,
        &format!("exceeded quota: {name}, requested: {}, used: {}, limited: {}", show(&requested), show(used), show(&hard)),
    ))
}

/// A quota on requests or limits wants every container to say its own.
fn missing_in(resource: &str, pod: &Value) -> Option<String> {
    let (which, plain) = match resource.split_once('.') {
        Some(("requests", plain)) => ("requests", plain),
        Some(("limits", plain)) => ("limits", plain),
        _ if matches!(resource, "cpu" | "memory" | "ephemeral-storage") => ("requests", resource),
        _ => return None,
    };
    if !matches!(plain, "cpu" | "memory" | "ephemeral-storage") {
        return None;
    }
    let containers = ["initContainers", "containers"].iter().flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    let silent: Vec<&str> = containers.filter(|c| c["resources"][which][plain].is_null()).filter_map(|c| c["name"].as_str()).collect();
    (!silent.is_empty()).then(|| format!("{resource} for: {}", silent.join(",")))
}
