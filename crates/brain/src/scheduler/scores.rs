//! Where is a pod best? The scores of the default plugins with their default weights, from 0 to 100
//! each before weighting.
//!
//! ImageLocality is left out: the model does not know which images nodes have. Kubernetes breaks
//! ties at random; here the node with the fewest pods wins, then the first by name, so that pods
//! that are alike spread and equal views give equal plans.

use std::cmp::Reverse;
use std::sync::Arc;

use super::node_info::{NodeInfo, Snapshot, comparable};
use super::topology::{Topology, soft_score};
use crate::model::{Pod, PodAffinityTerm, Toleration};
use crate::placement::{term_matches, tolerates};

const SCORE_MAX: i64 = 100;

/// How good a node is for a pod: weighted points, by plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Score {
    /// NodeResourcesFit with LeastAllocated.
    pub free: i64,
    /// NodeResourcesBalancedAllocation.
    pub balance: i64,
    /// TaintToleration, for PreferNoSchedule.
    pub taints: i64,
    /// NodeAffinity, preferred.
    pub node_affinity: i64,
    /// PodTopologySpread, ScheduleAnyway.
    pub spread: i64,
    /// InterPodAffinity, preferred.
    pub pods: i64,
}

impl Score {
    pub fn total(&self) -> i64 {
        self.free + self.balance + 3 * self.taints + 2 * (self.node_affinity + self.spread + self.pods)
    }
}

/// The best of some nodes, with its place among them.
pub(super) fn best(pod: &Pod, names: &[Arc<str>], snapshot: &mut Snapshot<'_>, topology: &mut Topology<'_>) -> Option<(usize, Score)> {
    let scores = scores(pod, names, snapshot, topology);
    let rank = |&at: &usize| {
        let pods = snapshot.get(&names[at]).map_or(0, |info| info.pods.len());
        (Reverse(scores[at].total()), pods, &names[at])
    };
    let at = (0..scores.len()).min_by_key(rank)?;
    Some((at, scores[at]))
}

fn scores(pod: &Pod, names: &[Arc<str>], snapshot: &mut Snapshot<'_>, topology: &mut Topology<'_>) -> Vec<Score> {
    let neighbours = neighbours(pod, names, snapshot, topology);
    let soft = topology.preferred_spread(pod, snapshot);
    let nodes: Vec<&NodeInfo> = names.iter().filter_map(|name| snapshot.get(name)).collect();
    let taints = normalized(nodes.iter().map(|info| unwanted_taints(info, &pod.spec.tolerations)).collect(), true);
    let affinity = normalized(nodes.iter().map(|info| preferred(pod, info)).collect(), false);
    let spread = soft.map(|counts| spread_points(&soft_score(&counts, &nodes)));
    let score = |(at, info): (usize, &&NodeInfo)| Score {
        free: least_allocated(pod, info),
        balance: balanced(pod, info),
        taints: taints[at],
        node_affinity: affinity[at],
        spread: spread.as_ref().map_or(0, |points| points[at]),
        pods: neighbours.as_ref().map_or(0, |points| points[at]),
    };
    nodes.iter().enumerate().map(score).collect()
}

/// The share of CPU and memory that would stay free, with defaults for pods that ask for none.
fn least_allocated(pod: &Pod, info: &NodeInfo) -> i64 {
    let (cpu, memory) = comparable(&pod.spec.requests);
    let all = &info.node.allocatable;
    let of = [(all.milli_cpu, info.comparable.0.saturating_add(cpu)), (all.memory, info.comparable.1.saturating_add(memory))];
    let shares: Vec<i64> = of.iter().filter(|(all, _)| *all > 0).map(|&(all, taken)| free_share(all, taken)).collect();
    if shares.is_empty() { 0 } else { shares.iter().sum::<i64>() / shares.len() as i64 }
}

fn free_share(all: i64, taken: i64) -> i64 {
    if taken > all { 0 } else { (i128::from(all - taken) * i128::from(SCORE_MAX) / i128::from(all)) as i64 }
}

/// Whether CPU and memory are used more evenly with the pod than without: 75 for no change, from 50
/// to 100 (since Kubernetes 1.36, kubernetes/kubernetes#135573). Pods that ask for neither are not
/// balanced.
fn balanced(pod: &Pod, info: &NodeInfo) -> i64 {
    let (wanted, taken) = (&pod.spec.requests, &info.requested);
    if wanted.milli_cpu == 0 && wanted.memory == 0 {
        return 0;
    }
    let with = deviation(info, taken.milli_cpu.saturating_add(wanted.milli_cpu), taken.memory.saturating_add(wanted.memory));
    let without = deviation(info, taken.milli_cpu, taken.memory);
    ((0.75 + (without - with) / 2.0) * SCORE_MAX as f64) as i64
}

/// The standard deviation of the shares of CPU and memory that are used: from 0 to 0.5.
fn deviation(info: &NodeInfo, cpu: i64, memory: i64) -> f64 {
    let all = &info.node.allocatable;
    let share = |taken: i64, all: i64| (all > 0).then(|| (taken as f64 / all as f64).min(1.0));
    share(cpu, all.milli_cpu).zip(share(memory, all.memory)).map_or(0.0, |(cpu, memory)| (cpu - memory).abs() / 2.0)
}

/// Taints that prefer not to have the pod.
fn unwanted_taints(info: &NodeInfo, tolerations: &[Toleration]) -> i64 {
    let soft = info.node.taints.iter().filter(|taint| &*taint.effect == "PreferNoSchedule");
    soft.filter(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint))).count() as i64
}

fn preferred(pod: &Pod, info: &NodeInfo) -> i64 {
    let matching = pod.spec.preferred_nodes.iter().filter(|weighted| term_matches(&weighted.term, &info.node));
    matching.map(|weighted| weighted.weight).sum()
}

/// From 0 to 100 by the largest; the other way round where less is better.
fn normalized(counts: Vec<i64>, is_less_better: bool) -> Vec<i64> {
    let max = counts.iter().copied().max().unwrap_or(0);
    let share = |count: i64| if max == 0 { 0 } else { SCORE_MAX * count / max };
    counts.into_iter().map(|count| if is_less_better { SCORE_MAX - share(count) } else { share(count) }).collect()
}

/// From 0 to 100, less is better; what is not scored has 0.
fn spread_points(badness: &[Option<i64>]) -> Vec<i64> {
    let min = badness.iter().flatten().min().copied().unwrap_or(0);
    let max = badness.iter().flatten().max().copied().unwrap_or(0);
    let points = |bad: i64| if max == 0 { SCORE_MAX } else { SCORE_MAX * (max + min - bad) / max };
    badness.iter().map(|bad| bad.map_or(0, points)).collect()
}

/// What the pod prefers of its neighbours, and they of it. None when no pod prefers anything.
fn neighbours(pod: &Pod, names: &[Arc<str>], snapshot: &mut Snapshot<'_>, topology: &mut Topology<'_>) -> Option<Vec<i64>> {
    let existing = topology.attracting(pod, snapshot);
    let spec = &*pod.spec;
    let wanted = spec.preferred_pods.iter().map(|weighted| (&weighted.term, weighted.weight));
    let terms: Vec<(&PodAffinityTerm, i64)> =
        wanted.chain(spec.unwanted_pods.iter().map(|weighted| (&weighted.term, -weighted.weight))).collect();
    if existing.is_empty() && terms.is_empty() {
        return None;
    }
    let own: Vec<_> = terms.into_iter().map(|(term, w)| (topology.selected(pod, std::slice::from_ref(term), snapshot), w)).collect();
    let points = |info: &NodeInfo| {
        let of = |key: &str, domains: &super::topology::Domains| info.label(key).and_then(|value| domains.get(value)).copied();
        let own = own.iter().flat_map(|(selected, weight)| {
            let domains = selected.terms.iter().zip(&selected.domains);
            domains.map(move |(term, domains)| of(&term.topology_key, domains).unwrap_or(0) * weight)
        });
        own.sum::<i64>() + existing.iter().filter_map(|owned| of(&owned.term.topology_key, &owned.domains)).sum::<i64>()
    };
    let points: Vec<i64> = names.iter().filter_map(|name| snapshot.get(name)).map(points).collect();
    let (min, max) = (points.iter().min().copied()?, points.iter().max().copied()?);
    let share = |points: i64| if max == min { 0 } else { SCORE_MAX * (points - min) / (max - min) };
    Some(points.into_iter().map(share).collect())
}
