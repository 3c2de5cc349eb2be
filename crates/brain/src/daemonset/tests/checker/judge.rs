//! The rules, stated over the real cluster and without calling the decider. Err tells which one was
//! broken, and how.
//!
//! What stale pictures and a barrier can promise, and what not: the environment may make pods
//! unavailable behind the controller's back, so no controller can promise "never more than
//! maxUnavailable are unavailable". Promised is: of the nodes that should run a pod, never more
//! than maxUnavailable lack one *because the controller deleted an available pod for an update* and
//! has not got its successor available since.

use super::controller::{Planned, PlannedWrite, Why};
use super::state::{CheckedState, Rules};
use super::world::{Id, NODES_MAX, Objects, Owner, Phase, Pod, Taint};
use crate::model::UpdateStrategy;

/// Is the plan one that its picture allows?
pub fn plan(seen: &Objects, doomed: &[Id], planned: &Planned, rules: &Rules) -> Result<(), String> {
    if seen.set.deleting && !planned.writes.is_empty() {
        return Err(format!("something is planned for a set that is being deleted: {:?}", planned.writes));
    }
    planned.writes.iter().try_for_each(|(_, write)| planned_write(seen, doomed, *write, rules))?;
    planned_budget(seen, doomed, planned, rules)
}

/// In the picture itself the budget is exact: after the plan no more nodes lack an available pod
/// than may, unless they did before.
fn planned_budget(seen: &Objects, doomed: &[Id], planned: &Planned, rules: &Rules) -> Result<(), String> {
    let UpdateStrategy::RollingUpdate { max_unavailable, .. } = rules.translator.strategy() else { return Ok(()) };
    let gone = |pod: &Pod| planned.writes.iter().any(|(_, write)| matches!(write, PlannedWrite::Delete { id, .. } if *id == pod.id));
    let lacks = |node: u8, also_gone: bool| {
        let serves = |pod: &&Pod| {
            pod.node == node && pod.owner != Owner::Other && pod.is_live() && pod.phase == Phase::Available && !doomed.contains(&pod.id)
        };
        seen.wants(node) && !seen.pods.iter().filter(serves).any(|pod| !also_gone || !gone(pod))
    };
    let count = |also_gone| (0..NODES_MAX as u8).filter(|node| lacks(*node, also_gone)).count();
    let (before, after, allowed) = (count(false), count(true), max_unavailable.of_rounded_up(seen.desired()));
    if after > before.max(allowed) {
        return Err(format!("{before} nodes lack an available pod, {allowed} may, {after} do after the plan"));
    }
    Ok(())
}

fn planned_write(seen: &Objects, doomed: &[Id], write: PlannedWrite, rules: &Rules) -> Result<(), String> {
    let fits = |right: bool, what: &str| if right { Ok(()) } else { Err(format!("{what}: {write:?} in {seen:?}")) };
    match write {
        PlannedWrite::Check | PlannedWrite::Revision { .. } | PlannedWrite::Adopt(_) => Ok(()),
        PlannedWrite::Create { node, template, .. } => {
            fits(seen.node(node).is_some(), "a pod is made for a node that does not exist")?;
            fits(seen.wants(node), "a pod is made for a node that should not run one")?;
            fits(template == seen.set.template, "a pod of an old template is made")
        }
        PlannedWrite::Delete { id, node, why } => {
            let pod = seen.pod(id.name).filter(|pod| pod.id == id).ok_or("a pod that is not there is deleted")?;
            fits(pod.owner != Owner::Other, "a pod of another owner is deleted")?;
            fits(!pod.deleting, "a pod is deleted twice")?;
            match why {
                Why::Misfit => fits(seen.node(node).is_some_and(|node| node.taint == Taint::NoExecute), "a pod that may stay is evicted"),
                Why::Ended => fits(pod.phase == Phase::Failed, "a pod that runs is deleted as failed"),
                Why::NodeGone => fits(seen.node(node).is_none() && !pod.bound, "a pod is deleted for a node that is there"),
                Why::Duplicate => {
                    let others = seen.pods.iter().filter(|other| other.node == node && other.id != id && other.owner != Owner::Other);
                    fits(others.count() > 0, "the only pod of a node is deleted as a duplicate")
                }
                Why::Outdated | Why::Broken | Why::Surged => {
                    // A deletion that may have been done already is repeated, whatever the template
                    // is by now.
                    let again = doomed.contains(&id);
                    fits(again || pod.template != seen.set.template, "a pod of the current template is replaced")?;
                    fits(rules.translator.strategy() != UpdateStrategy::OnDelete, "OnDelete replaces a pod")
                }
            }
        }
    }
}

fn surges(rules: &Rules) -> bool {
    matches!(rules.translator.strategy(), UpdateStrategy::RollingUpdate { max_surge, .. } if max_surge.of_rounded_up(100) > 0)
}

/// May the real pod be deleted?
pub fn deletion(pod: &Pod, why: Why) -> Result<(), String> {
    if pod.owner == Owner::Other {
        return Err(format!("a pod of another owner is deleted for {why:?}: {pod:?}"));
    }
    Ok(())
}

/// Does the deletion of the pod leave its node without one, where there was one? What was available
/// once and is not any more was not taken away by the controller.
pub fn takes_away(state: &CheckedState, pod: &Pod) -> bool {
    let others = state.real.pods.iter().filter(|other| other.node == pod.node && other.id != pod.id && other.owner == Owner::Ours);
    state.real.wants(pod.node)
        && !state.excused[usize::from(pod.node)]
        && pod.phase == Phase::Available
        && pod.is_live()
        && !others.into_iter().any(|other| other.past.proven)
}

/// Does the controller keep within maxUnavailable?
pub fn budget(state: &CheckedState, rules: &Rules) -> Result<(), String> {
    let UpdateStrategy::RollingUpdate { max_unavailable, .. } = rules.translator.strategy() else { return Ok(()) };
    // The picture may have been of more nodes than there are.
    let allowed = max_unavailable.of_rounded_up(state.real.desired().max(usize::from(state.controller.desired)));
    let taken = (0..NODES_MAX as u8).filter(|node| state.voluntary[usize::from(*node)] && state.real.wants(*node)).count();
    if taken > allowed {
        return Err(format!("{taken} nodes lack an available pod because of the update, {allowed} may"));
    }
    Ok(())
}

/// May a pod of the template be made for the node? Without surge there must be no other that was
/// made for it, on its way out or not; with surge none alive of the same template, and none besides
/// one of the other.
pub fn creation(state: &CheckedState, node: u8, template: u8, rules: &Rules) -> Result<(), String> {
    let others: Vec<&Pod> = state.real.pods.iter().filter(|pod| pod.node == node && pod.past.made && !pod.is_ended()).collect();
    let fine = if surges(rules) {
        let live: Vec<_> = others.iter().filter(|pod| pod.is_live()).collect();
        live.len() < 2 && live.iter().all(|pod| pod.template != template)
    } else {
        others.is_empty()
    };
    if fine { Ok(()) } else { Err(format!("one more pod is made for node {node} besides {others:?}")) }
}

/// Is there something about revisions that no change reported, and that waits for the full pass?
/// Only about those: pods are seen to at once.
pub fn overlooked(state: &CheckedState, rules: &Rules) -> bool {
    let planned = rules.translator.plan(&state.seen, &state.controller.memory);
    !planned.writes.is_empty() && planned.writes.iter().all(|(_, write)| matches!(write, super::controller::PlannedWrite::Revision { .. }))
}

/// Is a state in which nothing happens any more as it should be?
pub fn rest(state: &CheckedState, rules: &Rules) -> Result<(), String> {
    let planned = rules.translator.plan(&state.seen, &state.controller.memory);
    if !planned.writes.is_empty() || planned.wakes || planned.more {
        return Err(format!("at rest, and a plan is made: {planned:?}"));
    }
    if state.seen.set.deleting {
        return Ok(());
    }
    let dead = state.real.nodes.iter().flatten().any(|node| !node.ready);
    (0..NODES_MAX as u8).try_for_each(|node| rest_of_node(state, node, dead, rules))
}

fn rest_of_node(state: &CheckedState, node: u8, some_are_dead: bool, rules: &Rules) -> Result<(), String> {
    let pods: Vec<&Pod> = state.real.pods.iter().filter(|pod| pod.node == node && pod.owner != Owner::Other).collect();
    let taint = state.real.node(node).map(|node| node.taint);
    let wrong = |what: &str| Err(format!("at rest, node {node} {what}: {pods:?}"));
    match taint {
        None => {
            if pods.is_empty() {
                Ok(())
            } else {
                wrong("is gone and has pods")
            }
        }
        Some(Taint::NoExecute) if some_are_dead => Ok(()),
        Some(Taint::NoExecute) => {
            if pods.is_empty() {
                Ok(())
            } else {
                wrong("may not have pods")
            }
        }
        Some(Taint::NoSchedule) => {
            if pods.len() <= 1 {
                Ok(())
            } else {
                wrong("has too many pods")
            }
        }
        // A node that is dead may hold up the others, with as many pods as it has; but each node
        // has one.
        Some(Taint::Absent) if some_are_dead => {
            if pods.is_empty() {
                wrong("has no pod")
            } else {
                Ok(())
            }
        }
        Some(Taint::Absent) => match &pods[..] {
            [pod] if pod.phase != Phase::Available || pod.deleting || !pod.bound || pod.owner != Owner::Ours => {
                wrong("has no available pod")
            }
            [pod] if pod.template != state.real.set.template && rules.translator.strategy() != UpdateStrategy::OnDelete => {
                wrong("has an old pod")
            }
            [_] => Ok(()),
            _ => wrong("has not one pod"),
        },
    }
}
