//! Preemption: which less important pods would have to go so that a pod fits, and on which node
//! that costs least.
//!
//! The rules are those of Kubernetes' DefaultPreemption: all less important pods of a node are
//! taken away; if the pod fits then, as many as possible are put back, the most important first,
//! those first whose disruption budget would be violated. Only pods of the node itself count as
//! victims. Where Kubernetes begins its search at a random node, this one begins at the first by
//! name.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;

use super::filters::Filters;
use super::node_info::{NodeInfo, Snapshot};
use super::reason::{Reasons, Rejection};
use crate::model::{Key, Pod};
use crate::picture::Picture;

/// How many nodes are compared: at least so many, and at least this share of those where pods could
/// go.
const CANDIDATES_MIN: usize = 100;
const CANDIDATES_PERCENT: usize = 10;

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const POLICY_NEVER: &str = "not eligible due to preemptionPolicy=Never.";
const VICTIMS_TERMINATE: &str = "not eligible due to a terminating pod on the nominated node.";

/// A node where the pod fits once the victims are gone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub node: Arc<str>,
    /// The most important first; some may be on their way out already.
    pub victims: Vec<Arc<Pod>>,
    /// Victims whose disruption budget allows no more disruptions.
    violations: usize,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Attempt {
    /// The pod may not preempt, or not now.
    NotEligible(&'static str),
    /// It helps nowhere; why not, counted over all nodes.
    Futile(Reasons),
    Found(Candidate),
}

/// `rejected` are the nodes that were looked at, with why they refuse the pod.
pub(super) fn attempt(filters: &Filters<'_>, snapshot: &mut Snapshot<'_>, rejected: &[(Arc<str>, Vec<Rejection>)]) -> Attempt {
    if let Some(message) = not_eligible(filters.pod, snapshot, rejected) {
        return Attempt::NotEligible(message);
    }
    let potential: Vec<&Arc<str>> = rejected.iter().filter(|(_, why)| is_resolvable(why)).map(|(name, _)| name).collect();
    let enough = CANDIDATES_MIN.max(potential.len() * CANDIDATES_PERCENT / 100);
    let (mut candidates, mut reasons, mut looked_at) = (Vec::new(), Reasons::default(), 0);
    for name in potential {
        let Some(info) = snapshot.get(name) else { continue };
        looked_at += 1;
        match victims_on(filters, info, snapshot) {
            Ok(candidate) => candidates.push(candidate),
            Err(why) => why.into_iter().for_each(|reason| reasons.add(reason, 1)),
        }
        if candidates.len() >= enough && candidates.iter().any(|candidate| candidate.violations == 0) {
            break;
        }
    }
    match candidates.into_iter().min_by_key(cost) {
        Some(candidate) => Attempt::Found(candidate),
        None => {
            reasons.add(NOT_HELPFUL.into(), snapshot.picture.nodes.len() - looked_at);
            Attempt::Futile(reasons)
        }
    }
}

fn is_resolvable(why: &[Rejection]) -> bool {
    why.iter().all(Rejection::is_resolvable)
}

/// A pod that preempted waits for its victims, unless its node became impossible in another way.
fn not_eligible(pod: &Pod, snapshot: &mut Snapshot<'_>, rejected: &[(Arc<str>, Vec<Rejection>)]) -> Option<&'static str> {
    if pod.spec.never_preempts {
        return Some(POLICY_NEVER);
    }
    let nominated = pod.status.nominated_node.as_ref()?;
    if !rejected.iter().any(|(name, why)| name == nominated && is_resolvable(why)) || !snapshot.load(nominated) {
        return None;
    }
    let terminates = |victim: &Arc<Pod>| victim.meta.is_deleted() && victim.status.disruption_target;
    let pods = &snapshot.get(nominated)?.pods;
    pods.iter().any(|victim| victim.spec.priority < pod.spec.priority && terminates(victim)).then_some(VICTIMS_TERMINATE)
}

/// The pods that would have to leave a node, or why that would not help.
pub(super) fn victims_on(
    filters: &Filters<'_>,
    info: &NodeInfo,
    snapshot: &Snapshot<'_>,
) -> Result<Candidate, Vec<std::borrow::Cow<'static, str>>> {
    let mut possible: Vec<Arc<Pod>> = info.pods.iter().filter(|victim| victim.spec.priority < filters.pod.spec.priority).cloned().collect();
    if possible.is_empty() {
        return Err(vec![NO_VICTIMS.into()]);
    }
    possible.sort_by_cached_key(|victim| importance(victim));
    let mut trial = snapshot.with_nominated(info, filters.pod).unwrap_or_else(|| info.clone());
    for victim in &possible {
        trial.remove(&victim.meta.key());
    }
    let rejections = filters.rejections(&trial);
    if !rejections.is_empty() {
        return Err(rejections.iter().map(Rejection::reason).collect());
    }
    let (violating, others) = split_by_budgets(&possible, snapshot.picture);
    let mut victims = Vec::new();
    let mut violations = 0;
    for (at, victim) in violating.iter().chain(&others).enumerate() {
        let key = victim.meta.key();
        trial.restore(&key);
        if !filters.fits(&trial) {
            trial.remove(&key);
            violations += usize::from(at < violating.len());
            victims.push(Arc::clone(victim));
        }
    }
    victims.sort_by_cached_key(|victim| importance(victim));
    Ok(Candidate { node: info.node.meta.name.clone(), victims, violations })
}

/// The most important first: higher priority, then running for longer. Pods that have not started
/// are the newest.
fn importance(pod: &Pod) -> (Reverse<i32>, Timestamp, Key) {
    (Reverse(pod.spec.priority), started(pod), pod.meta.key())
}

fn started(pod: &Pod) -> Timestamp {
    pod.status.start_time.unwrap_or(Timestamp::MAX)
}

/// Those for which a disruption budget has nothing left, and the others; each in the given order.
/// Pods that the budget counts as disrupted already take nothing of it.
fn split_by_budgets(pods: &[Arc<Pod>], picture: &Picture) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let budgets = picture.budgets.values().filter(|budget| !budget.selector.is_everything());
    let mut left: Vec<_> = budgets.map(|budget| (budget, budget.disruptions_allowed)).collect();
    pods.iter().cloned().partition(|pod| {
        let mut violates = false;
        for (budget, allowed) in &mut left {
            let covers = budget.meta.namespace == pod.meta.namespace && pod.meta.labels.selected_by(&budget.selector);
            if covers && !pod.meta.labels.is_empty() && !budget.disrupted_pods.contains_key(&*pod.meta.name) {
                *allowed -= 1;
                violates |= *allowed < 0;
            }
        }
        violates
    })
}

/// What candidates are compared by, in this order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    violated_budgets: usize,
    highest_priority: Option<i32>,
    /// Shifted, so that many victims of negative priority do not cost less than few.
    sum_of_priorities: i64,
    victims: usize,
    /// When the first of the most important victims started: later is better.
    earliest_start: Reverse<Option<Timestamp>>,
    node: Arc<str>,
}

fn cost(candidate: &Candidate) -> Cost {
    let victims = &candidate.victims;
    let highest_priority = victims.first().map(|victim| victim.spec.priority);
    let highest = victims.iter().filter(|victim| Some(victim.spec.priority) == highest_priority);
    Cost {
        violated_budgets: candidate.violations,
        highest_priority,
        sum_of_priorities: victims.iter().map(|victim| i64::from(victim.spec.priority) + (1 << 31)).sum(),
        victims: victims.len(),
        earliest_start: Reverse(highest.map(|victim| started(victim)).min()),
        node: candidate.node.clone(),
    }
}
