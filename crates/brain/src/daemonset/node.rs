//! What each node needs: a pod, fewer pods, or nothing (upstream's `podsShouldBeOnNode`).

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::pod::PodIdentity;
use super::{Action, Because, Context, Made, Memory, Note, Plan, Site, Verdict, pod_name};
use crate::model::{Key, Node, Phase, Pod, PodSpec, UpdateStrategy};
use crate::placement::{Effects, Misfit, affinity_fits, untolerated_taint};

/// Pauses between deletions of failed pods of a node: doubling from the first to the last,
/// forgotten after twice the longest.
const BACKOFF_MIN: SignedDuration = SignedDuration::from_secs(1);
const BACKOFF_MAX: SignedDuration = SignedDuration::from_mins(15);

/// The pause of a node whose pods fail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    pub pause: SignedDuration,
    pub since: Timestamp,
}

impl Backoff {
    fn ends(&self) -> Timestamp {
        self.since + self.pause
    }

    /// The pause after one more failure.
    fn next(earlier: Option<Backoff>, now: Timestamp) -> Backoff {
        let pause = earlier.filter(|earlier| now.duration_since(earlier.since) <= BACKOFF_MAX * 2).map(|earlier| earlier.pause * 2);
        Backoff { pause: pause.unwrap_or(BACKOFF_MIN).min(BACKOFF_MAX), since: now }
    }
}

/// May a node start a pod, and may one stay?
#[derive(Debug, Clone, PartialEq)]
pub enum Eligibility {
    Runs,
    /// None is started; one that is there may stay.
    OnlyStays(Misfit),
    Never(Misfit),
}

/// NoSchedule taints decide whether to start, NoExecute taints whether to go on. `spec` has the
/// tolerations of daemon pods.
pub fn eligibility(spec: &PodSpec, template_node: Option<&str>, node: &Node) -> Eligibility {
    if template_node.is_some_and(|wanted| *wanted != *node.meta.name) {
        return Eligibility::Never(Misfit::OtherNode);
    }
    if !affinity_fits(spec, node) {
        return Eligibility::Never(Misfit::Affinity);
    }
    match untolerated_taint(node, &spec.tolerations, Effects::Start) {
        None => Eligibility::Runs,
        Some(first) => match untolerated_taint(node, &spec.tolerations, Effects::Stay) {
            Some(taint) => Eligibility::Never(Misfit::Taint(taint.clone())),
            None => Eligibility::OnlyStays(Misfit::Taint(first.clone())),
        },
    }
}

impl Context<'_> {
    pub(crate) fn surges(&self) -> bool {
        match self.view.set.strategy {
            UpdateStrategy::RollingUpdate { max_surge, .. } => max_surge.of_rounded_up(100) > 0,
            UpdateStrategy::OnDelete => false,
        }
    }
}

/// Adds what every node needs, a note for each, and removes pods that wait for nodes that do not
/// exist.
pub fn plan_nodes(context: &Context<'_>, plan: &mut Plan) {
    plan.notes.reserve(context.sites.len());
    for site in &context.sites {
        let verdict = match &site.node {
            Some((node, eligibility)) => plan_node(context, plan, node, eligibility, site.pods),
            None => plan_ghost(plan, site.pods),
        };
        plan.notes.push(Note { node: site.name.clone(), verdict, pods: site.pods.iter().map(|pod| pod.meta.key()).collect() });
    }
    let nodes = context.view.nodes;
    let now = context.view.now;
    plan.memory.backoff.retain(|node, backoff| nodes.contains_key(node) && now.duration_since(backoff.since) <= BACKOFF_MAX * 2);
    if plan.memory.made.len() > nodes.len() {
        plan.memory.made.retain(|node, _| nodes.contains_key(node));
        plan.memory.unseen.retain(|node| nodes.contains_key(node));
    }
}

/// Bound pods of a node that is gone are the pod garbage collector's; pods that were never bound
/// would wait forever.
fn plan_ghost(plan: &mut Plan, pods: &[&Pod]) -> Verdict {
    for pod in pods.iter().filter(|pod| pod.node.is_none()) {
        plan.delete(pod, Because::NodeGone);
    }
    Verdict::NodeGone
}

fn plan_node(context: &Context<'_>, plan: &mut Plan, node: &Node, eligibility: &Eligibility, pods: &[&Pod]) -> Verdict {
    match eligibility {
        Eligibility::Runs if pods.is_empty() => plan.create(context, &node.meta.name),
        Eligibility::Runs => keep_one(context, plan, node, pods, true).unwrap_or_else(|| state_of(context, pods)),
        Eligibility::OnlyStays(misfit) => {
            let verdict = keep_one(context, plan, node, pods, false);
            let stays = || if pods.is_empty() { Verdict::NotEligible(misfit.clone()) } else { Verdict::Misscheduled(misfit.clone()) };
            verdict.unwrap_or_else(stays)
        }
        Eligibility::Never(misfit) if pods.is_empty() => Verdict::NotEligible(misfit.clone()),
        Eligibility::Never(misfit) => {
            for pod in pods {
                plan.delete(pod, Because::Misfit(misfit.clone()));
            }
            Verdict::Deleting(Because::Misfit(misfit.clone()))
        }
    }
}

/// What holds for a node whose pods may stay as they are.
fn state_of(context: &Context<'_>, pods: &[&Pod]) -> Verdict {
    let Some(pod) = pods.iter().find(|pod| !pod.meta.is_deleted()) else { return Verdict::Terminating };
    let available = context.is_available(pod);
    if context.is_updated(pod) { Verdict::Updated { available } } else { Verdict::Outdated { available } }
}

/// Removes ended pods and pods too many. Some verdict when that is the node's story.
fn keep_one(context: &Context<'_>, plan: &mut Plan, node: &Node, pods: &[&Pod], should_run: bool) -> Option<Verdict> {
    let mut verdict = None;
    let mut running: Vec<&Pod> = Vec::with_capacity(pods.len());
    for pod in pods.iter().filter(|pod| !pod.meta.is_deleted()) {
        match pod.status.phase {
            Phase::Failed => verdict = Some(plan_failed(context, plan, node, pod)),
            Phase::Succeeded => {
                plan.delete(pod, Because::Succeeded);
                verdict = Some(Verdict::Deleting(Because::Succeeded));
            }
            _ => running.push(pod),
        }
    }
    if !context.surges() {
        for pod in running.iter().skip(1) {
            plan.delete(pod, Because::Duplicate);
        }
        return verdict;
    }
    // While surging, a pod that is on its way out does not keep its successor away.
    if running.is_empty() && should_run && verdict.is_none() {
        return Some(plan.create(context, &node.meta.name));
    }
    plan_surging(context, plan, &running, should_run);
    verdict
}

/// At most the oldest pod of the current revision and the oldest of another; the latter only while
/// it is ready and the former not yet available. Where no pod may start any more, one that has not
/// started is not waited for: it would hold up the surge forever.
fn plan_surging(context: &Context<'_>, plan: &mut Plan, running: &[&Pod], may_start: bool) {
    let is_new = |pod: &&&Pod| pod.meta.labels.get(super::HASH_LABEL) == Some(context.hash);
    let (new, old): (Vec<&&Pod>, Vec<&&Pod>) = running.iter().partition(is_new);
    if running.len() < 2 {
        return;
    }
    for pod in new.iter().skip(1).chain(old.iter().skip(1)) {
        plan.delete(pod, Because::Duplicate);
    }
    let (Some(new), Some(old)) = (new.first(), old.first()) else { return };
    if [new, old].iter().any(|pod| plan.memory.doomed.contains(&pod.meta.uid)) {
        // Perhaps it is gone already: the rollout knows what to make of that.
        return;
    }
    if !old.is_ready() {
        plan.delete(old, Because::OutdatedAndUnavailable);
    } else if context.is_available(new) {
        plan.delete(old, Because::Surged);
    } else if !may_start && new.node.is_none() {
        plan.delete(new, Because::Duplicate);
    }
}

/// A failed pod is deleted, not more often than its node's pause allows: something on the node may
/// refuse it again and again.
fn plan_failed(context: &Context<'_>, plan: &mut Plan, node: &Node, pod: &Pod) -> Verdict {
    let now = context.view.now;
    let name = &node.meta.name;
    let earlier = plan.memory.backoff.get(name).copied();
    if let Some(until) = earlier.map(|backoff| backoff.ends()).filter(|until| *until > now) {
        plan.wake_no_later_than(until);
        return Verdict::BackingOff { until };
    }
    if plan.is_full() {
        plan.more = true;
        return Verdict::Queued;
    }
    plan.memory.backoff.insert(name.clone(), Backoff::next(earlier, now));
    plan.delete(pod, Because::Failed);
    Verdict::Deleting(Because::Failed)
}

impl Plan {
    /// Adds the creation of a pod for a node.
    pub(crate) fn create(&mut self, context: &Context<'_>, node: &Arc<str>) -> Verdict {
        if self.is_full() {
            self.more = true;
            return Verdict::Queued;
        }
        let name = self.memory.next_name(context, node);
        self.actions.push(Action::Create { node: node.clone(), name, hash: context.hash.into() });
        Verdict::Creating
    }
}

impl Memory {
    /// Remembers which of the pods made last were seen: their names are not used again at once.
    pub(crate) fn note_pods(&mut self, sites: &[Site<'_>]) {
        if !self.begun {
            // The pods that are there after a restart count as first attempts.
            let first = |site: &Site<'_>| Some((site.name.clone(), Made { attempt: 0, name: site.pods.first()?.meta.name.clone() }));
            self.made = sites.iter().filter_map(first).collect();
            self.begun = true;
        }
        let made = &self.made;
        self.unseen.retain(|node| {
            let site = sites.binary_search_by(|site| site.name.cmp(node)).ok().map(|at| &sites[at]);
            let last = made.get(node).map(|made| &made.name);
            !site.is_some_and(|site| site.pods.iter().any(|pod| Some(&pod.meta.name) == last))
        });
    }

    /// The name of the next pod of a node: the same again until a pod of that name was seen.
    fn next_name(&mut self, context: &Context<'_>, node: &Arc<str>) -> Arc<str> {
        let set = &context.view.set.meta;
        let taken = |name: &str| context.view.names.contains_key(&Key { namespace: set.namespace.clone(), name: name.into() });
        let last = self.made.get(node);
        if let Some(made) = last.filter(|made| self.unseen.contains(node) && !taken(&made.name)) {
            // Not a name of the current revision if that is another by now: perhaps the server made
            // the pod and its answer was lost.
            return made.name.clone();
        }
        let mut attempt = last.map_or(0, |made| made.attempt.wrapping_add(1));
        let named = |attempt| pod_name(PodIdentity { set, node, hash: context.hash, attempt });
        let mut name = named(attempt);
        while taken(&name) {
            attempt = attempt.wrapping_add(1);
            name = named(attempt);
        }
        let name: Arc<str> = name.into();
        self.made.insert(node.clone(), Made { attempt, name: name.clone() });
        self.unseen.insert(node.clone());
        name
    }
}
