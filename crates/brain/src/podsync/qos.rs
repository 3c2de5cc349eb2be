//! The quality-of-service class of a pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{containers, init_containers, limits};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    BestEffort,
    Burstable,
    Guaranteed,
}

impl Class {
    pub fn text(self) -> &'static str {
        match self {
            Class::BestEffort => "BestEffort",
            Class::Burstable => "Burstable",
            Class::Guaranteed => "Guaranteed",
        }
    }
}

/// Guaranteed when every container limits processor and memory and requests as much; BestEffort
/// when none asks for anything.
pub fn class(pod: &Pod) -> Class {
    if let Some(resources) = limits::own_resources(pod) {
        return of_pod(resources);
    }
    let all: Vec<&Container> = init_containers(pod).iter().chain(containers(pod)).collect();
    let asks = |container: &&Container| {
        let resources = container.resources.as_ref();
        let requests = resources.and_then(|resources| resources.requests.as_ref()).into_iter().flatten();
        let limits = resources.and_then(|resources| resources.limits.as_ref()).into_iter().flatten();
        requests.chain(limits).any(|(name, quantity)| matters(name) && !is_zero(quantity))
    };
    if !all.iter().any(asks) {
        return Class::BestEffort;
    }
    if all.iter().all(|container| is_guaranteed(container)) { Class::Guaranteed } else { Class::Burstable }
}

/// Of a pod that asks for resources as a whole: what its containers ask for does not count.
fn of_pod(resources: &ResourceRequirements) -> Class {
    let some = |map: &Option<BTreeMap<String, Quantity>>| -> BTreeMap<String, i64> {
        let entries = map.iter().flatten().filter(|(name, quantity)| matters(name) && !is_zero(quantity));
        entries.filter_map(|(name, quantity)| Some((name.clone(), parsed(quantity)?))).collect()
    };
    let (requests, limits) = (some(&resources.requests), some(&resources.limits));
    match (requests.is_empty() && limits.is_empty(), limits.len() == 2 && requests == limits) {
        (true, _) => Class::BestEffort,
        (_, true) => Class::Guaranteed,
        _ => Class::Burstable,
    }
}

fn matters(name: &str) -> bool {
    name == "cpu" || name == "memory"
}

fn is_zero(quantity: &Quantity) -> bool {
    kinds::quantity::Quantity::parse(&quantity.0).is_ok_and(|parsed| parsed.is_zero())
}

fn is_guaranteed(container: &Container) -> bool {
    let Some(resources) = &container.resources else { return false };
    ["cpu", "memory"].iter().all(|name| {
        let limit = resources.limits.as_ref().and_then(|limits| limits.get(*name)).and_then(parsed);
        let request = resources.requests.as_ref().and_then(|requests| requests.get(*name)).and_then(parsed).or(limit);
        limit.is_some_and(|limit| limit != 0) && request == limit
    })
}

fn parsed(quantity: &Quantity) -> Option<i64> {
    kinds::quantity::Quantity::parse(&quantity.0).ok().map(|quantity| quantity.millis())
}
