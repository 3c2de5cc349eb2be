//! The quality-of-service class of a pod: how soon it dies when a node runs short.

use std::collections::BTreeMap;

use crate::cursor::Cursor;
use crate::quantity::Quantity;
use crate::rules::check;

const COMPUTE_RESOURCES: [&str; 2] = ["cpu", "memory"];

pub fn qos_class(spec: &Cursor<'_>) -> &'static str {
    let of_pod = spec.field("resources");
    let owners: Vec<Cursor<'_>> = if of_pod.exists() {
        vec![of_pod]
    } else {
        let lists = ["containers", "initContainers"].map(|name| spec.field(name));
        lists.into_iter().flat_map(|list| list.items()).map(|container| container.field("resources")).collect()
    };
    let (requests, limits) = (total(&owners, "requests"), total(&owners, "limits"));
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let has_all_limits =
        |owner: &Cursor<'_>| COMPUTE_RESOURCES.iter().all(|name| !check::quantity(&owner.field("limits").key(name)).is_zero());
    let is_guaranteed = owners.iter().all(has_all_limits) && requests == limits;
    if is_guaranteed { "Guaranteed" } else { "Burstable" }
}

fn total(owners: &[Cursor<'_>], list: &'static str) -> BTreeMap<&'static str, Quantity> {
    let mut total = BTreeMap::new();
    for owner in owners {
        for name in COMPUTE_RESOURCES {
            let amount = check::quantity(&owner.field(list).key(name));
            if !amount.is_zero() && !amount.is_negative() {
                let entry = total.entry(name).or_insert(Quantity::ZERO);
                *entry = entry.add(&amount);
            }
        }
    }
    total
}
