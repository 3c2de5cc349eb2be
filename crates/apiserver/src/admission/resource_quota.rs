//! ResourceQuota: what the pods of a namespace may use together, and how many objects it may hold.
//!
//! What counts is in `kinds::quota`. Usage is counted from the stored objects rather than from the quota's status, so that it is exact at once. Creations in a namespace
//! with quotas go one after another; each sees what the ones before it stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kinds::quantity::Quantity;
use kinds::quota::{self, Amounts, PodTraits};
use kinds::status::Status;
use kinds::table;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use super::refuse;
use crate::registry::{Registry, Write};

/// Holds the namespace's turn until the object is stored.
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
    pub(crate) fn of(&self, namespace: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(namespace.to_owned()).or_default().clone()
    }
}

pub async fn check(registry: &Registry, write: &Write<'_>, object: &Value) -> Result<QuotaGuard, Status> {
    let kind = table::by_resource("", "v1", "resourcequotas").expect("the table has quotas");
    let prefix = format!("{}/", write.namespace);
    let quotas: Vec<Value> = registry.caches.of(kind).snapshot(&prefix, 0).objects.iter().map(|quota| quota.value()).collect();
    let concerned: Vec<Limits> = quotas.iter().filter_map(|quota| Limits::on(quota, write, object)).collect();
    if concerned.is_empty() {
        return Ok(QuotaGuard::none());
    }
    let turn = registry.quota_turns.of(write.namespace).lock_owned().await;
    registry.caches.wait_for(registry.revision()).await;
    let there: Vec<Value> = registry.caches.of(write.kind).snapshot(&prefix, 0).objects.iter().map(|object| object.value()).collect();
    for limits in concerned {
        let counted = there.iter().filter(|object| covers(limits.quota, write, object));
        let used = counted.map(|object| quota::usage(limits.hard.keys(), write.kind, object, write.now)).fold(Amounts::new(), quota::add);
        limits.check(write, object, &used)?;
    }
    Ok(QuotaGuard { _turn: Some(turn) })
}

/// Is a quota about such objects? Scopes are those of pods.
fn covers(quota: &Value, write: &Write<'_>, object: &Value) -> bool {
    if is_pod(write) { quota::covers_pod(quota, &PodTraits::of(object)) } else { !quota::has_scopes(quota) }
}

fn is_pod(write: &Write<'_>) -> bool {
    write.kind.group.is_empty() && write.kind.plural == "pods"
}

/// A quota that limits what an object uses.
struct Limits<'a> {
    quota: &'a Value,
    hard: Amounts,
    requested: Amounts,
}

impl<'a> Limits<'a> {
    fn on(quota: &'a Value, write: &Write<'_>, object: &Value) -> Option<Limits<'a>> {
        if !covers(quota, write, object) {
            return None;
        }
        let hard = quota::amounts(&quota["spec"]["hard"]);
        let requested = quota::usage(hard.keys(), write.kind, object, write.now);
        (is_pod(write) || !requested.is_empty()).then_some(Limits { quota, hard, requested })
    }

    fn check(&self, write: &Write<'_>, object: &Value, used: &Amounts) -> Result<(), Status> {
        let name = self.quota["metadata"]["name"].as_str().unwrap_or_default();
        if is_pod(write) {
            let missing: Vec<String> = self.hard.keys().filter_map(|resource| missing_in(resource, object)).collect();
            if !missing.is_empty() {
                return Err(refuse(write, object, &format!("failed quota: {name}: must specify {}", missing.join("; "))));
            }
        }
        let exceeded = |(resource, limit): &(&String, &Quantity)| {
            let wanted = self.requested.get(*resource).filter(|wanted| !wanted.is_zero());
            wanted.is_some_and(|wanted| used.get(*resource).unwrap_or(&Quantity::ZERO).add(wanted) > **limit)
        };
        let exceeded: Vec<&String> = self.hard.iter().filter(exceeded).map(|(resource, _)| resource).collect();
        if exceeded.is_empty() {
            return Ok(());
        }
        let text = |amounts: &Amounts, r: &String| format!("{r}={}", amounts.get(r).unwrap_or(&Quantity::ZERO));
        let show = |amounts: &Amounts| exceeded.iter().map(|resource| text(amounts, resource)).collect::<Vec<_>>().join(",");
        let (requested, used, limited) = (show(&self.requested), show(used), show(&self.hard));
        Err(refuse(write, object, &format!("exceeded quota: {name}, requested: {requested}, used: {used}, limited: {limited}")))
    }
}

/// A quota on requests or limits of these two wants every container to say its own.
fn missing_in(resource: &str, pod: &Value) -> Option<String> {
    let (which, plain) = match resource {
        "cpu" | "requests.cpu" => ("requests", "cpu"),
        "memory" | "requests.memory" => ("requests", "memory"),
        "limits.cpu" => ("limits", "cpu"),
        "limits.memory" => ("limits", "memory"),
        _ => return None,
    };
    let containers = ["initContainers", "containers"].iter().flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    let silent: BTreeSet<&str> = containers.filter(|c| c["resources"][which][plain].is_null()).filter_map(|c| c["name"].as_str()).collect();
    (!silent.is_empty()).then(|| format!("{resource} for: {}", silent.into_iter().collect::<Vec<_>>().join(",")))
}
