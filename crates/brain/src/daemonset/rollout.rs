//! Rolling updates: which old pods go now, and which nodes get a second pod, so that the budget
//! holds.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Because, Context, Plan, Verdict};
use crate::model::{Pod, UpdateStrategy};

/// Numbers of a rolling update, for `why`, `plan` and the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Nodes that should run a pod.
    pub desired: usize,
    pub max_unavailable: usize,
    pub max_surge: usize,
    /// Nodes whose pod is missing, unavailable or being replaced.
    pub unavailable: usize,
    /// Of these, on nodes that are not Ready: they hold up the rollout until they come back or are
    /// removed.
    pub unavailable_on_dead_nodes: usize,
    /// Nodes with a second pod that is not available yet.
    pub surging: usize,
    /// Pods of old revisions, apart from those that are on their way out.
    pub outdated: usize,
}

/// Adds deletions and creations of a rolling update.
pub fn plan_rollout(context: &Context<'_>, plan: &mut Plan) {
    let doomed = std::mem::take(&mut plan.memory.doomed);
    let UpdateStrategy::RollingUpdate { max_unavailable, max_surge } = context.view.set.strategy else { return };
    let nodes = survey(context, &doomed);
    let desired = nodes.iter().filter(|node| node.wanted).count();
    let mut budget = Budget {
        desired,
        max_unavailable: max_unavailable.of_rounded_up(desired),
        max_surge: max_surge.of_rounded_up(desired),
        outdated: nodes.iter().filter(|node| node.old.is_some()).count(),
        ..Budget::default()
    };
    // Both may round to nothing only by a mistake that validation lets through; then one at a time.
    if desired > 0 && budget.max_unavailable == 0 && budget.max_surge == 0 {
        budget.max_unavailable = 1;
    }
    if budget.max_surge == 0 {
        plan_replacements(context, plan, &nodes, &mut budget);
    } else {
        plan_surge(context, plan, &nodes, &mut budget);
    }
    plan.budget = budget;
}

/// A node that should run a pod, or that has pods.
struct Surveyed<'a> {
    /// Where its site and its note are.
    site: usize,
    wanted: bool,
    ready: bool,
    /// More than one pod of a sort: the node is left to [`super::node`].
    crowded: bool,
    new: Option<&'a Pod>,
    old: Option<&'a Pod>,
    /// Its deletion was planned before.
    doomed: Option<&'a Pod>,
}

/// In the order of the sites, which is that of the nodes' names.
fn survey<'a>(context: &'a Context<'a>, doomed: &BTreeSet<Arc<str>>) -> Vec<Surveyed<'a>> {
    let mut surveyed = Vec::with_capacity(context.sites.len());
    for (at, site) in context.sites.iter().enumerate().filter(|(_, site)| site.is_wanted() || !site.pods.is_empty()) {
        let mut node =
            Surveyed { site: at, wanted: site.is_wanted(), ready: site.is_ready(), crowded: false, new: None, old: None, doomed: None };
        for pod in site.live_pods() {
            let slot = match (doomed.contains(&pod.meta.uid), context.is_updated(pod)) {
                (true, _) => &mut node.doomed,
                (false, true) => &mut node.new,
                (false, false) => &mut node.old,
            };
            node.crowded |= slot.is_some();
            slot.get_or_insert(pod);
        }
        if context.surges() && node.new.or(node.old).is_none() {
            // It has no successor any more: with surge that is a reason to change one's mind, and
            // costs other nodes nothing.
            let alone = node.doomed.take();
            *(if alone.is_some_and(|pod| context.is_updated(pod)) { &mut node.new } else { &mut node.old }) = alone;
        }
        surveyed.push(node);
    }
    surveyed
}

/// Without surge: old pods that are not available are replaced, of the others as many as may be
/// unavailable besides those that are. Pods on their way out count as unavailable: their successors
/// do not exist yet.
fn plan_replacements(context: &Context<'_>, plan: &mut Plan, nodes: &[Surveyed<'_>], budget: &mut Budget) {
    let (mut candidates, mut broken, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for node in nodes {
        if let Some(pod) = node.doomed {
            plan.memory.doomed.insert(pod.meta.uid.clone());
            if context.is_available(pod) {
                again.push((node, pod));
            } else if !context.is_updated(pod) {
                broken.push((node, pod));
            }
        }
        let available = match (node.crowded, node.new, node.old) {
            (false, Some(new), None) => context.is_available(new),
            (false, None, Some(old)) if context.is_available(old) => {
                candidates.push((node, old));
                true
            }
            (false, None, Some(old)) => {
                broken.push((node, old));
                false
            }
            // Being made, being deleted, or crowded.
            _ => false,
        };
        // Only nodes that should run a pod lack one: a pod that cannot start on a node that should
        // not is no reason to wait, and might be one forever. Upstream counts it.
        budget.unavailable += usize::from(node.wanted && !available);
        budget.unavailable_on_dead_nodes += usize::from(node.wanted && !available && !node.ready);
    }
    // What may be gone already has the first claim on the budget: nothing else is chosen before
    // that is known.
    let claimed = again.iter().filter(|(node, _)| node.wanted).count();
    let remaining = budget.max_unavailable.saturating_sub(budget.unavailable - claimed);
    let chosen = again.into_iter().chain(candidates).take(remaining).map(|(node, old)| (node, old, Because::Outdated));
    let broken = broken.into_iter().map(|(node, old)| (node, old, Because::OutdatedAndUnavailable));
    for (node, old, because) in broken.chain(chosen) {
        replace(plan, node, old, because);
    }
}

fn replace(plan: &mut Plan, node: &Surveyed<'_>, old: &Pod, because: Because) {
    let before = plan.actions.len();
    plan.delete(old, because.clone());
    if plan.actions.len() > before {
        plan.notes[node.site].verdict = Verdict::Deleting(because);
    } else if plan.is_full() {
        plan.notes[node.site].verdict = Verdict::Queued;
    }
}

/// With surge: new pods beside old ones, as many as the surge allows; an old pod goes when its
/// successor is available. On nodes that should no longer run one, an available pod goes only when
/// enough others are available.
fn plan_surge(context: &Context<'_>, plan: &mut Plan, nodes: &[Surveyed<'_>], budget: &mut Budget) {
    let available = nodes.iter().filter(|node| node.old.or(node.new).is_some_and(|pod| context.is_available(pod))).count();
    // New pods that are not available, on nodes that live: these are what a bad revision breaks.
    let mut starting = 0;
    let (mut candidates, mut broken, mut sunset) = (Vec::new(), Vec::new(), Vec::new());
    for node in nodes {
        if let (Some(doomed), Some(other)) = (node.doomed, node.new.or(node.old)) {
            budget.surging += 1;
            plan_doomed(context, plan, node, doomed, other);
            continue;
        }
        starting += usize::from(node.wanted && node.ready && node.new.is_some_and(|new| !context.is_available(new)));
        match (node.crowded, node.new, node.old) {
            (true, ..) => budget.surging += 1,
            (false, _, None) => {}
            (false, None, Some(old)) if !node.wanted && !context.is_available(old) => {
                replace(plan, node, old, Because::OutdatedAndUnavailable);
            }
            (false, None, Some(old)) if !node.wanted => sunset.push((node, old)),
            (false, None, Some(old)) if context.is_available(old) => candidates.push(node),
            (false, None, Some(_)) => broken.push(node),
            (false, Some(new), Some(old)) if context.is_available(new) => replace(plan, node, old, Because::Surged),
            (false, Some(_), Some(_)) => budget.surging += 1,
        }
    }
    let lacks = |node: &&Surveyed<'_>| node.wanted && ![node.new, node.old].into_iter().flatten().any(|pod| context.is_available(pod));
    budget.unavailable = nodes.iter().filter(lacks).count();
    budget.unavailable_on_dead_nodes = nodes.iter().filter(lacks).filter(|node| !node.ready).count();
    for (node, old) in sunset.into_iter().take(available.saturating_sub(budget.desired)) {
        replace(plan, node, old, Because::Outdated);
    }
    // Upstream gives every broken pod its successor at once, without a limit (kubernetes/kubernetes
    // 133378): a bad revision then takes the place of all of them. Here the surge bounds how many
    // unavailable successors there are on nodes that live; nodes that do not are no reason to wait.
    let mut for_broken = budget.max_surge.saturating_sub(starting);
    for node in broken {
        if node.ready && for_broken == 0 {
            continue;
        }
        for_broken -= usize::from(node.ready);
        surge_onto(context, plan, node, budget);
    }
    let remaining = budget.max_surge.saturating_sub(budget.surging);
    for node in candidates.into_iter().take(remaining) {
        surge_onto(context, plan, node, budget);
    }
}

/// With surge, of two pods one that may be gone already: it is not counted on, and goes when the
/// other is available. What no longer helps goes as it would anyway.
fn plan_doomed(context: &Context<'_>, plan: &mut Plan, node: &Surveyed<'_>, doomed: &Pod, other: &Pod) {
    plan.memory.doomed.insert(doomed.meta.uid.clone());
    if context.is_available(other) {
        replace(plan, node, doomed, Because::Surged);
    } else if !doomed.is_ready() && !context.is_updated(doomed) {
        replace(plan, node, doomed, Because::OutdatedAndUnavailable);
    } else if !other.is_ready() && !context.is_updated(other) {
        replace(plan, node, other, Because::OutdatedAndUnavailable);
    } else if !node.wanted && other.node.is_none() {
        plan.delete(other, Because::Duplicate);
    }
}

fn surge_onto(context: &Context<'_>, plan: &mut Plan, node: &Surveyed<'_>, budget: &mut Budget) {
    plan.notes[node.site].verdict = plan.create(context, context.sites[node.site].name);
    budget.surging += 1;
}
