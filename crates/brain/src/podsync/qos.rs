//! The quality-of-service class of a pod.

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{containers, init_containers};

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

/// Guaranteed when every container limits processor and memory and requests as much; BestEffort when none asks for anything.
pub fn class(pod: &Pod) -> Class {
    // What the API server or an earlier report says stays: it does not change during a pod's life.
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
