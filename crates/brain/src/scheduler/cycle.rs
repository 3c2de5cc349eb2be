//! One plan in the making: takes pod after pod, finds each a node or says why there is none.
//!
//! A pod that names its node is checked against that node alone. For others all nodes are looked
//! at, up to so many feasible ones as Kubernetes takes (`percentageOfNodesToScore` by its formula);
//! the search goes on where the one before it ended.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::filters::{Candidates, Filters, candidates};
use super::node_info::Snapshot;
use super::preemption::{self, Attempt, Candidate};
use super::reason::{Causes, Reasons, Rejection};
use super::scores::{self, Score};
use super::topology::Topology;
use super::{Binding, Nomination, Plan, Preemption, Unschedulable, Victim, View};
use crate::model::{Key, Pod};

/// What Kubernetes says when there is not one node.
const NO_NODES: &str = "no nodes available to schedule pods";
const CONFLICT: &str = "pod affinity terms conflict";
/// Of the plugin for resource claims, which is asked before preemption is (golden daemonset/17).
const NO_CLAIMS: &str = "no new claims to deallocate";

/// So many feasible nodes are always looked for.
const FEASIBLE_MIN: usize = 100;
/// The share of nodes that is searched at least, however many there are.
const FEASIBLE_PERCENT_MIN: usize = 5;

pub(super) struct Cycle<'a> {
    view: &'a View<'a>,
    snapshot: Snapshot<'a>,
    topology: Topology<'a>,
    plan: Plan,
    /// All names of nodes, once a search needs them.
    names: Vec<Arc<str>>,
    /// Victims of this plan, which no later attempt in it has to delete again.
    doomed: BTreeSet<Key>,
}

/// What was found out about the nodes.
#[derive(Default)]
struct Search {
    feasible: Vec<Arc<str>>,
    rejected: Vec<(Arc<str>, Vec<Rejection>)>,
}

impl<'a> Cycle<'a> {
    pub fn new(view: &'a View<'a>) -> Cycle<'a> {
        let plan = Plan { next_start: view.queue.next_start(), ..Plan::default() };
        let (snapshot, topology) = (Snapshot::new(view.picture, view.queue), Topology::new(view.queue));
        Cycle { view, snapshot, topology, plan, names: Vec::new(), doomed: BTreeSet::new() }
    }

    pub fn into_plan(self) -> Plan {
        self.plan
    }

    pub fn schedule(&mut self, pod: &'a Arc<Pod>) {
        if self.view.picture.nodes.is_empty() {
            return self.reject(pod, NO_NODES.to_owned(), Reasons::default(), Causes::default(), Nomination::Clear);
        }
        let filters = Filters::new(pod, &mut self.snapshot, &mut self.topology);
        let candidates = candidates(pod);
        let nominated = self.nominated(&filters, &candidates);
        let Search { feasible, rejected } = match nominated {
            Some(node) => Search { feasible: vec![node], rejected: Vec::new() },
            None => self.search(&filters, &candidates),
        };
        if feasible.is_empty() {
            return self.explain(&filters, pod, &candidates, &rejected);
        }
        // The filters share counts with the topology, which would copy them before it counts the
        // pod.
        drop(filters);
        match feasible.as_slice() {
            [only] => self.bind(pod, only.clone(), None),
            names => {
                let best = scores::best(pod, names, &mut self.snapshot, &mut self.topology);
                let (at, score) = best.expect("some of several nodes is the best");
                self.bind(pod, names[at].clone(), Some(score));
            }
        }
    }

    /// The node that the pod is nominated to, if it fits there now: others are not even asked.
    fn nominated(&mut self, filters: &Filters<'_>, candidates: &Candidates) -> Option<Arc<str>> {
        let name = filters.pod.status.nominated_node.as_ref()?;
        let is_named = match candidates {
            Candidates::All => true,
            Candidates::Named(names) => names.contains(name),
            Candidates::None => false,
        };
        if !is_named || !self.snapshot.load(name) {
            return None;
        }
        let info = self.snapshot.get(name)?;
        filters.rejections_with_nominated(info, &self.snapshot).is_empty().then(|| name.clone())
    }

    fn search(&mut self, filters: &Filters<'_>, candidates: &Candidates) -> Search {
        let mut search = Search::default();
        match candidates {
            Candidates::None => {}
            Candidates::Named(names) => {
                for name in names {
                    if self.snapshot.load(name) {
                        self.look_at(name.clone(), filters, &mut search);
                    }
                }
            }
            Candidates::All => self.search_all(filters, &mut search),
        }
        search
    }

    fn search_all(&mut self, filters: &Filters<'_>, search: &mut Search) {
        self.snapshot.load_all();
        if self.names.is_empty() {
            self.names = self.view.picture.nodes.keys().cloned().collect();
        }
        let all = self.names.len();
        let enough = feasible_max(all);
        let start = self.plan.next_start % all;
        for step in 0..all {
            let name = self.names[(start + step) % all].clone();
            self.look_at(name, filters, search);
            if search.feasible.len() >= enough {
                self.plan.next_start = (start + step + 1) % all;
                break;
            }
        }
        search.rejected.sort_by(|(a, _), (b, _)| a.cmp(b));
    }

    fn look_at(&self, name: Arc<str>, filters: &Filters<'_>, search: &mut Search) {
        let Some(info) = self.snapshot.get(&name) else { return };
        let rejections = filters.rejections_with_nominated(info, &self.snapshot);
        if rejections.is_empty() {
            search.feasible.push(name);
        } else {
            search.rejected.push((name, rejections));
        }
    }

    fn bind(&mut self, pod: &Arc<Pod>, node: Arc<str>, score: Option<Score>) {
        self.snapshot.place(pod, &node);
        self.topology.place(pod, &self.snapshot, &node);
        self.plan.bindings.push(Binding { key: pod.meta.key(), uid: pod.meta.uid.clone(), node, score });
    }

    /// Puts together why the pod fits nowhere, after trying whether others could make room.
    fn explain(&mut self, filters: &Filters<'_>, pod: &Pod, candidates: &Candidates, rejected: &[(Arc<str>, Vec<Rejection>)]) {
        let nodes = self.view.picture.nodes.len();
        let (mut reasons, mut causes) = (Reasons::default(), Causes::default());
        for rejection in rejected.iter().flat_map(|(_, why)| why) {
            reasons.add(rejection.reason(), 1);
            causes.add(rejection.causes());
        }
        let mut message = match candidates {
            Candidates::None => format!("0/{nodes} nodes are available: {CONFLICT}."),
            _ => {
                reasons.add(Rejection::NotNamed.reason(), nodes - rejected.len());
                reasons.message(nodes)
            }
        };
        let nomination = match preemption::attempt(filters, &mut self.snapshot, rejected) {
            Attempt::NotEligible(why) => {
                message += &format!(" {NO_CLAIMS}, preemption: {why}");
                Nomination::Keep
            }
            Attempt::Futile(why) => {
                message += &format!(" {NO_CLAIMS}, preemption: {}", why.message(nodes));
                Nomination::Clear
            }
            Attempt::Found(candidate) => Nomination::To(self.preempt(pod, candidate)),
        };
        self.reject(pod, message, reasons, causes, nomination);
    }

    fn reject(&mut self, pod: &Pod, message: String, reasons: Reasons, causes: Causes, nomination: Nomination) {
        let (key, uid) = (pod.meta.key(), pod.meta.uid.clone());
        match &nomination {
            Nomination::Keep => {}
            Nomination::Clear => self.snapshot.nominate(pod, None),
            Nomination::To(node) => self.snapshot.nominate(pod, Some(node)),
        }
        self.plan.unschedulable.push(Unschedulable { key, uid, message, reasons, causes, nomination });
    }

    /// Plans the preemption; the node is the answer.
    fn preempt(&mut self, pod: &Pod, candidate: Candidate) -> Arc<str> {
        let Candidate { node, victims, .. } = candidate;
        let lower = |other: &&Arc<Pod>| other.spec.priority < pod.spec.priority;
        let displaced: Vec<Arc<Pod>> = self.snapshot.nominated(&node, pod).filter(lower).cloned().collect();
        displaced.iter().for_each(|other| self.snapshot.nominate(other, None));
        let stays = |victim: &&Arc<Pod>| !victim.meta.is_deleted() && !self.doomed.contains(&victim.meta.key());
        let victims: Vec<Victim> =
            victims.iter().filter(stays).map(|victim| Victim { key: victim.meta.key(), uid: victim.meta.uid.clone() }).collect();
        self.doomed.extend(victims.iter().map(|victim| victim.key.clone()));
        self.plan.preemptions.push(Preemption {
            preemptor: pod.meta.key(),
            preemptor_uid: pod.meta.uid.clone(),
            node: node.clone(),
            victims,
            displaced: displaced.iter().map(|other| other.meta.key()).collect(),
        });
        node
    }
}

/// How many feasible nodes are enough: half of them in small clusters, 5 % in large ones, never
/// fewer than 100.
fn feasible_max(nodes: usize) -> usize {
    if nodes < FEASIBLE_MIN {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(FEASIBLE_PERCENT_MIN);
    (nodes * percent / 100).max(FEASIBLE_MIN)
}
