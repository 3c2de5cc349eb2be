//! LimitRanger: default requests and limits of a namespace, and its minima, maxima and ratios.

use std::collections::BTreeMap;

use kinds::quantity::Quantity;
use kinds::status::Status;
use kinds::table;
use serde_json::Value;

use super::refuse;
use crate::registry::Registry;
use crate::request::WriteRequest;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

fn limits_of(registry: &Registry, namespace: &str) -> Vec<Value> {
    let kind = table::by_resource("", "v1", "limitranges").expect("the table has limit ranges");
    let ranges = registry.caches.of(kind).snapshot(&format!("{namespace}/"), 0);
    ranges
        .objects
        .iter()
        .map(|range| range.value())
        .filter_map(|mut range| range["spec"]["limits"].as_array_mut().map(std::mem::take))
        .flatten()
        .collect()
}

fn quantity(value: &Value) -> Option<Quantity> {
    Quantity::parse(value.as_str()?).ok()
}

/// Amounts that are filled in at most: a few texts of a megabyte would otherwise multiply to
/// gigabytes.
const FILLED_MAX: usize = 20_000;

/// Findings past this number are left out, for the same reason.
const FINDINGS_MAX: usize = 1000;

/// Fills in the defaults of the namespace.
pub fn admit(registry: &Registry, write: &WriteRequest<'_>, pod: &mut Value) -> Result<(), Status> {
    let limits = limits_of(registry, write.namespace);
    let mut notes: Vec<String> = Vec::new();
    let mut room = FILLED_MAX;
    for limit in limits.iter().filter(|limit| limit["type"] == "Container") {
        for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
            for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
                let name = container["name"].as_str().unwrap_or_default().to_owned();
                let requests = fill(container, "requests", &limit["defaultRequest"], &mut room);
                let ceilings = fill(container, "limits", &limit["default"], &mut room);
                if room == 0 {
                    let why = format!("the LimitRanges of the namespace would set {FILLED_MAX} amounts or more");
                    return Err(refuse(write, pod, &why));
                }
                for (kind, names) in [("request", requests), ("limit", ceilings)] {
                    if !names.is_empty() {
                        notes.push(format!("{} {kind} for {what} {name}", names.join(", ")));
                    }
                }
            }
        }
    }
    if !notes.is_empty() {
        pod["metadata"]["annotations"][ANNOTATION] = format!("LimitRanger plugin set: {}", notes.join("; ")).into();
    }
    Ok(())
}

/// Sets what is missing, as long as there is room; returns what was set.
fn fill(container: &mut Value, which: &str, defaults: &Value, room: &mut usize) -> Vec<String> {
    let mut set = Vec::new();
    for (resource, amount) in defaults.as_object().into_iter().flatten() {
        if *room == 0 {
            break;
        }
        if container["resources"][which][resource].is_null() {
            *room -= 1;
            container["resources"][which][resource] = amount.clone();
            set.push(resource.clone());
        }
    }
    set
}

/// Refuses what is outside the bounds; all findings at once.
pub fn check(registry: &Registry, write: &WriteRequest<'_>, pod: &Value) -> Result<(), Status> {
    let mut findings = Vec::new();
    let sums = ["requests", "limits"].map(|which| sum_of(pod, which));
    for limit in limits_of(registry, write.namespace) {
        match limit["type"].as_str() {
            Some("Container") => {
                let containers =
                    ["containers", "initContainers"].iter().flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
                for container in containers {
                    check_bounds(&limit, "Container", &amounts(container, "requests"), &amounts(container, "limits"), &mut findings);
                }
            }
            Some("Pod") => check_bounds(&limit, "Pod", &sums[0], &sums[1], &mut findings),
            _ => {}
        }
    }
    match findings.is_empty() {
        true => Ok(()),
        false => Err(refuse(write, pod, &kinds::status::joined(findings.into_iter()))),
    }
}

type Amounts = BTreeMap<String, Quantity>;

fn amounts(container: &Value, which: &str) -> Amounts {
    container["resources"][which]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), quantity(value)?)))
        .collect()
}

/// What a pod needs at most at a time: its containers together, or its largest init container.
pub fn sum_of(pod: &Value, which: &str) -> Amounts {
    let mut sum = Amounts::new();
    for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
        for (name, amount) in amounts(container, which) {
            let total = sum.get(&name).map_or(amount.clone(), |so_far| so_far.add(&amount));
            sum.insert(name, total);
        }
    }
    for container in pod["spec"]["initContainers"].as_array().into_iter().flatten() {
        for (name, amount) in amounts(container, which) {
            let larger = sum.get(&name).map_or(&amount, |so_far| so_far.max(&amount)).clone();
            sum.insert(name, larger);
        }
    }
    sum
}

fn check_bounds(limit: &Value, what: &str, requests: &Amounts, limits: &Amounts, findings: &mut Vec<String>) {
    for (name, check) in [("min", below as Check), ("max", above), ("maxLimitRequestRatio", beyond_ratio)] {
        for (resource, value) in limit[name].as_object().into_iter().flatten() {
            if findings.len() >= FINDINGS_MAX {
                return;
            }
            let Some(bound) = quantity(value) else { continue };
            findings.extend(check(resource, &bound, what, requests.get(resource), limits.get(resource)));
        }
    }
}

/// Holds request and limit of a resource against a bound.
type Check = fn(resource: &str, bound: &Quantity, what: &str, request: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String>;

fn below(resource: &str, min: &Quantity, what: &str, request: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String> {
    let text = format!("minimum {resource} usage per {what} is {min}");
    match (request, limit) {
        (None, _) => Some(format!("{text}.  No request is specified")),
        (Some(request), _) if request < min => Some(format!("{text}, but request is {request}")),
        (_, Some(limit)) if limit < min => Some(format!("{text}, but limit is {limit}")),
        _ => None,
    }
}

fn above(resource: &str, max: &Quantity, what: &str, request: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String> {
    let text = format!("maximum {resource} usage per {what} is {max}");
    match (request, limit) {
        (_, None) => Some(format!("{text}.  No limit is specified")),
        (_, Some(limit)) if limit > max => Some(format!("{text}, but limit is {limit}")),
        (Some(request), _) if request > max => Some(format!("{text}, but request is {request}")),
        _ => None,
    }
}

fn beyond_ratio(resource: &str, ratio: &Quantity, what: &str, request: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String> {
    let text = format!("{resource} max limit to request ratio per {what} is {ratio}");
    let (Some(request), Some(limit)) = (request.filter(|q| !q.is_zero()), limit.filter(|q| !q.is_zero())) else {
        return Some(format!("{text}, but no request is specified or request is 0"));
    };
    let observed = limit.millis() as f64 / request.millis() as f64;
    (observed > ratio.millis() as f64 / 1000.0).then(|| format!("{text}, but provided ratio is {observed:.6}"))
}
