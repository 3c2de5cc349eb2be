//! ResourceQuota: what the pods of a namespace may use together, and how many objects it may hold.
//!
//! What counts is in `kinds::quota`. Usage is counted from the stored objects rather than from the
//! quota's status, so that it is exact at once. Creations, and updates by which more is used, go
//! one after another in a namespace with quotas; each sees what the ones before it stored.

use std::collections::BTreeSet;

use kinds::quantity::Quantity;
use kinds::quota::{self, Amounts, PodTraits};
use kinds::rules::Part;
use kinds::status::Status;
use kinds::table;
use serde_json::Value;

use super::refuse;
use crate::registry::Registry;
use crate::registry::port::QuotaVerdict;
use crate::registry::turns::WriteTurn;
use crate::request::WriteRequest;

/// May an object be stored? What quotas limit is decided in the turn of its namespace.
pub fn check(
    registry: &Registry,
    write: &WriteRequest<'_>,
    object: &Value,
    old: Option<&Value>,
    turn: Option<&WriteTurn>,
) -> Result<QuotaVerdict, Status> {
    match old {
        None => check_create(registry, write, object, turn),
        Some(old) => check_update(registry, write, object, old, turn),
    }
}

fn check_create(registry: &Registry, write: &WriteRequest<'_>, object: &Value, turn: Option<&WriteTurn>) -> Result<QuotaVerdict, Status> {
    // Events are not limited: they must not fail because there are many.
    if !write.kind.namespaced || write.kind.kind == "Event" {
        return Ok(QuotaVerdict::Passed);
    }
    let quotas = quotas_of(registry, write);
    let concerned = concerned(&quotas, write, object, None);
    if concerned.is_empty() {
        return Ok(QuotaVerdict::Passed);
    }
    if turn.is_none() {
        return Ok(QuotaVerdict::AwaitsTurn);
    }
    check_usage(registry, write, object, None, &concerned)?;
    Ok(QuotaVerdict::Passed)
}

/// What an object uses more than before must be left; using less is always fine.
fn check_update(
    registry: &Registry,
    write: &WriteRequest<'_>,
    object: &Value,
    old: &Value,
    turn: Option<&WriteTurn>,
) -> Result<QuotaVerdict, Status> {
    if !may_use_more(write, object, old) {
        return Ok(QuotaVerdict::Passed);
    }
    let quotas = quotas_of(registry, write);
    let concerned = concerned(&quotas, write, object, Some(old));
    for limits in &concerned {
        limits.check_named(write, object)?;
    }
    if concerned.iter().all(|limits| limits.requested.values().all(Quantity::is_zero)) {
        return Ok(QuotaVerdict::Passed);
    }
    if turn.is_none() {
        return Ok(QuotaVerdict::AwaitsTurn);
    }
    check_usage(registry, write, object, Some(old), &concerned)?;
    Ok(QuotaVerdict::Passed)
}

/// Updates by which an object can come to use more: resizes, a deadline that moves a pod from one
/// scope to another, and changes of Services. All else only counts as one object, before and after.
fn may_use_more(write: &WriteRequest<'_>, object: &Value, old: &Value) -> bool {
    match write.part {
        Some(Part::Resize) => true,
        Some(Part::Main) if is_pod(write) => PodTraits::of(object).has_deadline != PodTraits::of(old).has_deadline,
        Some(Part::Main) => write.kind.group.is_empty() && write.kind.plural == "services",
        _ => false,
    }
}

fn quotas_of(registry: &Registry, write: &WriteRequest<'_>) -> Vec<Value> {
    let kind = table::by_resource("", "v1", "resourcequotas").expect("the table has quotas");
    let prefix = format!("{}/", write.namespace);
    registry.caches.of(kind).snapshot(&prefix, 0).objects.iter().map(|quota| quota.value()).collect()
}

fn concerned<'a>(quotas: &'a [Value], write: &WriteRequest<'_>, object: &Value, old: Option<&Value>) -> Vec<Limits<'a>> {
    quotas.iter().filter_map(|quota| Limits::on(quota, write, object, old)).collect()
}

fn check_usage(
    registry: &Registry,
    write: &WriteRequest<'_>,
    object: &Value,
    old: Option<&Value>,
    concerned: &[Limits<'_>],
) -> Result<(), Status> {
    let prefix = format!("{}/", write.namespace);
    let there = registry.caches.of(write.kind).snapshot(&prefix, 0);
    let there = there.objects.iter().map(|object| object.value());
    let others: Vec<Value> = there.filter(|other| old.is_none_or(|old| other["metadata"]["name"] != old["metadata"]["name"])).collect();
    for limits in concerned {
        let counted = others.iter().chain(old).filter(|object| covers(limits.quota, write, object));
        let used = counted.map(|object| quota::usage(limits.hard.keys(), write.kind, object, write.now)).fold(Amounts::new(), quota::add);
        limits.check(write, object, &used)?;
    }
    Ok(())
}

/// Is a quota about such objects? Scopes are those of pods.
fn covers(quota: &Value, write: &WriteRequest<'_>, object: &Value) -> bool {
    if is_pod(write) { quota::covers_pod(quota, &PodTraits::of(object)) } else { !quota::has_scopes(quota) }
}

fn is_pod(write: &WriteRequest<'_>) -> bool {
    write.kind.group.is_empty() && write.kind.plural == "pods"
}

/// A quota that limits what an object uses.
struct Limits<'a> {
    quota: &'a Value,
    hard: Amounts,
    /// For an update: what it uses more than before.
    requested: Amounts,
}

impl<'a> Limits<'a> {
    fn on(quota: &'a Value, write: &WriteRequest<'_>, object: &Value, old: Option<&Value>) -> Option<Limits<'a>> {
        if !covers(quota, write, object) {
            return None;
        }
        let hard = quota::amounts(&quota["spec"]["hard"]);
        let usage = |object: &Value| quota::usage(hard.keys(), write.kind, object, write.now);
        let before = old.filter(|old| covers(quota, write, old)).map(usage).unwrap_or_default();
        let requested = quota::increase(usage(object), &before);
        (is_pod(write) || !requested.is_empty()).then_some(Limits { quota, hard, requested })
    }

    fn name(&self) -> &str {
        self.quota["metadata"]["name"].as_str().unwrap_or_default()
    }

    fn check_named(&self, write: &WriteRequest<'_>, object: &Value) -> Result<(), Status> {
        if !is_pod(write) {
            return Ok(());
        }
        let missing: Vec<String> = self.hard.keys().filter_map(|resource| missing_in(resource, object)).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(refuse(write, object, &format!("failed quota: {}: must specify {}", self.name(), missing.join("; ")))),
        }
    }

    fn check(&self, write: &WriteRequest<'_>, object: &Value, used: &Amounts) -> Result<(), Status> {
        self.check_named(write, object)?;
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
        let (name, requested, used, limited) = (self.name(), show(&self.requested), show(used), show(&self.hard));
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
