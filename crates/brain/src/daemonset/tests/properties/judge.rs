//! What the documentation of DaemonSets asks for, stated over plain data: which node runs a pod,
//! what a plan may do, and how a cluster looks when all is done. Nothing here calls the decider or
//! its rules of placement.

use std::collections::BTreeSet;

use super::stage::{Stage, deletions};
use crate::daemonset::{Action, Because, Plan};
use crate::model::Pod;

pub const NODES: [&str; 7] = ["n0", "n1", "n2", "n3", "n4", "n5", "n6"];

#[derive(Debug, Clone)]
pub struct Case {
    pub nodes: Vec<NodeCase>,
    pub pods: Vec<PodCase>,
    pub set: SetCase,
}

#[derive(Debug, Clone, Copy)]
pub struct NodeCase {
    pub taint: Taint,
    pub ready: bool,
    /// Has the label that some sets select.
    pub labelled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Taint {
    None,
    NoSchedule,
    NoExecute,
    PreferNoSchedule,
    /// `node.kubernetes.io/unschedulable:NoSchedule`
    Cordoned,
    /// `node.kubernetes.io/unreachable:NoExecute`
    Unreachable,
}

#[derive(Debug, Clone)]
pub struct PodCase {
    pub node: usize,
    /// The set's own is 2.
    pub revision: u8,
    pub state: StateCase,
    pub age: i64,
    /// Name of the owner, empty for none.
    pub owner: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StateCase {
    Ready {
        seconds: i64,
    },
    Starting,
    /// Not bound.
    Pending,
    Failed,
    Succeeded,
    Deleting,
}

#[derive(Debug, Clone)]
pub struct SetCase {
    pub update: StrategyCase,
    pub selects: bool,
    pub tolerates: bool,
    pub min_ready: i64,
    pub deleting: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum StrategyCase {
    Replace { most: String },
    Surge { most: String },
    OnDelete,
}

impl Case {
    /// In the language of [`crate::fixture`].
    pub fn text(&self) -> String {
        let nodes = self.nodes.iter().zip(NODES).map(|(node, name)| node.text(name));
        let pods = self.pods.iter().enumerate().map(|(at, pod)| format!("pod {} {}", pod.name(at), pod.words().join(" ")));
        nodes.chain([self.set.text()]).chain(pods).collect::<Vec<_>>().join("; ")
    }

    fn node_of(&self, name: &str) -> Option<&NodeCase> {
        self.nodes.get(NODES.iter().position(|other| *other == name)?)
    }

    /// Should the node run a pod? When the selector matches it and no taint that is not tolerated
    /// keeps new pods away.
    pub fn wants(&self, name: &str) -> bool {
        self.node_of(name).is_some_and(|node| {
            let tainted = matches!(node.taint, Taint::NoSchedule | Taint::NoExecute) && !self.set.tolerates;
            (node.labelled || !self.set.selects) && !tainted
        })
    }

    /// May a pod that runs there go on? When the selector matches and no NoExecute taint that is
    /// not tolerated is there.
    pub fn bears(&self, name: &str) -> bool {
        self.node_of(name).is_some_and(|node| {
            let evicts = node.taint == Taint::NoExecute && !self.set.tolerates;
            (node.labelled || !self.set.selects) && !evicts
        })
    }

    /// The set's pods of a node, orphans that it adopts included.
    fn pods_on<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (usize, &'a PodCase)> {
        let ours = |pod: &PodCase| pod.owner == "web" || pod.owner.is_empty() && pod.state != StateCase::Deleting;
        self.pods.iter().enumerate().filter(move |(_, pod)| NODES[pod.node] == name && ours(pod))
    }

    fn wanted(&self) -> impl Iterator<Item = &'static str> {
        NODES.into_iter().take(self.nodes.len()).filter(|name| self.wants(name))
    }
}

impl NodeCase {
    fn text(&self, name: &str) -> String {
        let taint = match self.taint {
            Taint::None => "",
            Taint::NoSchedule => "taint=t:NoSchedule",
            Taint::NoExecute => "taint=t:NoExecute",
            Taint::PreferNoSchedule => "taint=t:PreferNoSchedule",
            Taint::Cordoned => "cordoned",
            Taint::Unreachable => "taint=node.kubernetes.io/unreachable:NoExecute",
        };
        let ready = if self.ready { "" } else { "notready" };
        let label = if self.labelled { "label=disk=ssd" } else { "" };
        format!("node {name} {taint} {ready} {label}")
    }
}

impl SetCase {
    fn text(&self) -> String {
        let update = match &self.update {
            StrategyCase::Replace { most } => format!("maxUnavailable={most}"),
            StrategyCase::Surge { most } => format!("maxUnavailable=0 maxSurge={most}"),
            StrategyCase::OnDelete => "onDelete".to_owned(),
        };
        let select = if self.selects { "select=disk=ssd" } else { "" };
        let tolerate = if self.tolerates { "tolerate=t" } else { "" };
        let deleting = if self.deleting { "deleting" } else { "" };
        format!("ds web rev=2 {update} {select} {tolerate} minReady={} {deleting}", self.min_ready)
    }
}

impl PodCase {
    fn name(&self, at: usize) -> String {
        format!("p{at}@{}", NODES[self.node])
    }

    fn words(&self) -> Vec<String> {
        let mut words = vec![format!("rev={}", self.revision), format!("age={}", self.age)];
        words.extend(match self.state {
            StateCase::Ready { seconds } => Some(format!("ready={seconds}")),
            StateCase::Starting => None,
            StateCase::Pending => Some("unbound".to_owned()),
            StateCase::Failed => Some("failed".to_owned()),
            StateCase::Succeeded => Some("succeeded".to_owned()),
            StateCase::Deleting => Some("deleting".to_owned()),
        });
        words.extend(match self.owner {
            "web" => None,
            "" => Some("orphan".to_owned()),
            other => Some(format!("owner={other}")),
        });
        words
    }

    pub fn object(&self, at: usize) -> Pod {
        let words = self.words();
        crate::fixture::pod(&self.name(at), &words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn is_available(&self, set: &SetCase) -> bool {
        matches!(self.state, StateCase::Ready { seconds } if seconds >= set.min_ready)
    }
}

/// Is a plan as the documentation wants it?
pub fn plan(case: &Case, made: &Plan) -> Result<(), String> {
    if case.set.deleting {
        return if made.actions.is_empty() { Ok(()) } else { Err("something is done for a set that is being deleted".to_owned()) };
    }
    made.actions.iter().try_for_each(|action| one_action(case, action))?;
    every_node_has_one(case, made)?;
    every_misfit_goes(case, made)?;
    budget(case, made)
}

fn one_action(case: &Case, action: &Action) -> Result<(), String> {
    let pod_case = |name: &str| &case.pods[name[1..].parse::<usize>().expect("names of pods are numbers")];
    let fine = match action {
        Action::Create { node, .. } => {
            let there: Vec<_> = case.pods_on(node).map(|(_, pod)| pod).collect();
            let beside = match &case.set.update {
                StrategyCase::Surge { .. } => there.iter().all(|pod| pod.revision == 1 || pod.state == StateCase::Deleting),
                _ => there.is_empty(),
            };
            case.wants(node) && beside
        }
        Action::Adopt { pod, .. } => pod_case(&pod.name).owner.is_empty(),
        Action::Release { .. } => false,
        Action::Delete { pod, because, .. } => {
            let (pod, node) = (pod_case(&pod.name), NODES[pod_case(&pod.name).node]);
            pod.owner != "other"
                && pod.state != StateCase::Deleting
                && match because {
                    Because::Misfit(_) => !case.bears(node),
                    Because::Failed => pod.state == StateCase::Failed,
                    Because::Succeeded => pod.state == StateCase::Succeeded,
                    Because::Duplicate => case.pods_on(node).count() > 1,
                    Because::Outdated | Because::OutdatedAndUnavailable | Because::Surged => {
                        pod.revision == 1 && case.set.update != StrategyCase::OnDelete
                    }
                    Because::NodeGone => case.node_of(node).is_none() && pod.state == StateCase::Pending,
                }
        }
    };
    if fine { Ok(()) } else { Err(format!("not right: {action:?}")) }
}

fn every_node_has_one(case: &Case, made: &Plan) -> Result<(), String> {
    let made_for: BTreeSet<&str> =
        made.actions.iter().filter_map(|action| if let Action::Create { node, .. } = action { Some(&**node) } else { None }).collect();
    case.wanted()
        .filter(|node| case.pods_on(node).count() == 0)
        .try_for_each(|node| if made_for.contains(node) { Ok(()) } else { Err(format!("no pod is made for {node}")) })
}

fn every_misfit_goes(case: &Case, made: &Plan) -> Result<(), String> {
    let gone: BTreeSet<&str> = deletions(made).map(|(name, _)| name).collect();
    for node in NODES.into_iter().take(case.nodes.len()).filter(|node| !case.bears(node)) {
        for (at, _) in case.pods_on(node).filter(|(_, pod)| pod.state != StateCase::Deleting) {
            if !gone.contains(&*format!("p{at}")) {
                return Err(format!("p{at} stays on {node}, which it may not"));
            }
        }
    }
    Ok(())
}

/// Of the nodes that should run a pod, a plan for an update leaves no more without an available one
/// than the strategy says, or than were already. Duplicates are another matter: of two pods the
/// older stays, whichever is available.
fn budget(case: &Case, made: &Plan) -> Result<(), String> {
    let gone = |at: usize| deletions(made).any(|(name, because)| name == format!("p{at}") && *because != Because::Duplicate);
    let serves = |node, also_gone: bool| case.pods_on(node).any(|(at, pod)| pod.is_available(&case.set) && !(also_gone && gone(at)));
    let lacking = |also_gone| case.wanted().filter(|node| !serves(node, also_gone)).count();
    let desired = case.wanted().count();
    let allowed = match &case.set.update {
        StrategyCase::Surge { .. } | StrategyCase::OnDelete => 0,
        StrategyCase::Replace { most } => match most.strip_suffix('%') {
            Some(percent) => (desired * percent.parse::<usize>().expect("a number")).div_ceil(100),
            None => most.parse().expect("a number"),
        },
    };
    let (before, after) = (lacking(false), lacking(true));
    if after <= before.max(allowed) {
        Ok(())
    } else {
        Err(format!("{after} nodes lack a pod after the plan, {before} before, {allowed} may"))
    }
}

/// Has every node that should run a pod one of the current revision that is available, and does
/// none have pods that may not?
pub fn rest(case: &Case, stage: &Stage) -> Result<(), String> {
    let set = stage.set();
    for name in NODES {
        let here: Vec<&Pod> = stage
            .picture
            .pods_on(name)
            .map(|pod| &**pod)
            .filter(|pod| pod.meta.controller().is_some_and(|o| o.uid == set.meta.uid))
            .collect();
        let one_is_right = |pod: &Pod| {
            pod.is_available(case.set.min_ready, stage.now)
                && (case.set.update == StrategyCase::OnDelete || pod.meta.labels.get(crate::daemonset::HASH_LABEL) == Some("h2"))
        };
        let fine = match &here[..] {
            [] => !case.wants(name),
            [pod] if case.wants(name) => one_is_right(pod),
            [_] => case.bears(name),
            _ => false,
        };
        if !fine {
            return Err(format!("{name} at rest: {here:#?}"));
        }
    }
    Ok(())
}
