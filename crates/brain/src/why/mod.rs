//! Why a set's pod is or is not on a node: one answer for each node, from the deciders' own
//! verdicts.
//!
//! The set's decider says what it wants of a node and why; the scheduler's filters say why a pod is
//! not let in; the pod's and the node's status say what happened after that.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use crate::daemonset::{self, Because, Budget, HASH_LABEL, Memory, Note, Plan, Verdict, view_of};
use crate::model::{DaemonSet, Key, Node, Pod, Pull};
use crate::picture::Picture;
use crate::placement::Misfit;
use crate::scheduler::{Rejection, explain_all, preemption_on};

/// Holders of a scarce resource that are named.
const HOLDERS_MAX: usize = 3;

/// What holds for the whole set.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub namespace: String,
    pub name: String,
    /// Number of the current revision.
    pub revision: i64,
    /// What holds up the whole set, if anything does.
    pub summary: Vec<String>,
    pub nodes: Vec<NodeExplanation>,
}

/// What holds for a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeExplanation {
    pub node: String,
    /// `runs`, `waits` or `does not run`.
    pub state: RunState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Number of the pod's revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    pub standing: Standing,
    /// For machines: what kind of reason it is.
    pub code: &'static str,
    /// For people.
    pub reason: String,
}

/// How near a node is to what the set wants of it; those that need a user's attention come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// Nothing gets better by waiting alone, as far as one can see: an image that is not there, a
    /// full node.
    Stuck,
    /// What a rollout passes through.
    Underway,
    /// Runs an available pod of the current revision.
    Done,
    /// The set wants no pod there.
    NotMeant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RunState {
    Runs,
    Waits,
    DoesNotRun,
}

/// Answers for every node, or for one. None when there is no such set.
pub fn why(picture: &Picture, key: &Key, only: Option<&str>, now: Timestamp) -> Option<Explanation> {
    let set = picture.sets.get(key)?;
    let memory = Memory { begun: true, ..Memory::default() };
    let plan = daemonset::plan(&view_of(picture, set, now), memory);
    let revisions: BTreeMap<&str, i64> = picture
        .revisions_of(&set.meta.uid)
        .filter_map(|revision| Some((revision.meta.labels.get(HASH_LABEL)?, revision.revision)))
        .collect();
    let current = revisions.get(&**plan.history.hash()).copied();
    let question = Question { picture, set, plan: &plan, revisions: &revisions, now };
    let nodes = plan.notes.iter().filter(|note| only.is_none_or(|only| *note.node == *only)).map(|note| question.node(note)).collect();
    Some(Explanation {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        revision: current.unwrap_or_else(|| revisions.values().max().copied().unwrap_or(0)),
        summary: question.summary(),
        nodes,
    })
}

struct Question<'a> {
    picture: &'a Picture,
    set: &'a DaemonSet,
    plan: &'a Plan,
    revisions: &'a BTreeMap<&'a str, i64>,
    now: Timestamp,
}

impl Question<'_> {
    /// What holds up the set as a whole.
    fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.set.meta.is_deleted() {
            lines.push("the set is being deleted: nothing is made for it any more".to_owned());
        }
        if self.set.selector.is_everything() {
            lines.push("the selector is empty: such a set is not acted upon".to_owned());
        }
        let Budget { unavailable, max_unavailable, max_surge, unavailable_on_dead_nodes, outdated, .. } = self.plan.budget;
        if outdated > 0 && max_surge == 0 && unavailable >= max_unavailable {
            let mut line = format!("the rollout waits: nodes without an available pod: {unavailable}, maxUnavailable: {max_unavailable}");
            if unavailable_on_dead_nodes > 0 {
                let _ = write!(line, "; of these nodes {unavailable_on_dead_nodes} not Ready: bring them back or delete them");
            }
            lines.push(line);
        }
        lines
    }

    fn node(&self, note: &Note) -> NodeExplanation {
        let pods: Vec<&Arc<Pod>> = note.pods.iter().filter_map(|key| self.picture.pods.get(key)).collect();
        let pod = pods.iter().find(|pod| !pod.meta.is_deleted()).or(pods.first()).copied();
        let node = self.picture.nodes.get(&note.node);
        let (state, code, reason) = match (node, pod) {
            (None, _) => (RunState::Waits, "NodeGone", "the node does not exist any more; its pods are removed 40 s after it".to_owned()),
            (Some(node), Some(pod)) => self.with_pod(note, node, pod),
            (Some(node), None) => self.without_pod(note, node),
        };
        let revision = pod.and_then(|pod| self.revisions.get(pod.meta.labels.get(HASH_LABEL)?)).copied();
        let standing = self.standing(state, code, pod);
        NodeExplanation {
            node: note.node.to_string(),
            state,
            pod: pod.map(|pod| pod.meta.name.to_string()),
            revision,
            standing,
            code,
            reason,
        }
    }

    fn standing(&self, state: RunState, code: &str, pod: Option<&Arc<Pod>>) -> Standing {
        let is_bound = pod.is_some_and(|pod| pod.node.is_some());
        match (code, pod) {
            ("Runs", Some(pod)) if pod.is_available(self.set.min_ready_seconds, self.now) => Standing::Done,
            ("NodeDown" | "BackingOff" | "Failed" | "ImagePull" | "ContainerWaits" | "OnDelete", _) => Standing::Stuck,
            ("Misscheduled", _) => Standing::NotMeant,
            (_, None) if state == RunState::DoesNotRun => Standing::NotMeant,
            // No node took it.
            (_, Some(_)) if state == RunState::DoesNotRun && !is_bound => Standing::Stuck,
            _ => Standing::Underway,
        }
    }

    fn without_pod(&self, note: &Note, node: &Node) -> (RunState, &'static str, String) {
        match &note.verdict {
            Verdict::NotEligible(misfit) => (RunState::DoesNotRun, misfit_code(misfit), misfit_text(misfit)),
            Verdict::Queued => (RunState::Waits, "Queued", "a pod will be made: it waits for its turn".to_owned()),
            _ if !node.is_ready() => (RunState::Waits, "NodeDown", format!("a pod is to be made; {}", self.down(node))),
            _ => (RunState::Waits, "Creating", "a pod is being made".to_owned()),
        }
    }

    fn with_pod(&self, note: &Note, node: &Node, pod: &Arc<Pod>) -> (RunState, &'static str, String) {
        if pod.meta.is_deleted() {
            return (RunState::Waits, "Terminating", format!("{} is ending; {}", pod.meta.name, self.ending(node)));
        }
        if pod.node.is_none() {
            return self.unscheduled(node, pod);
        }
        match &note.verdict {
            Verdict::Deleting(Because::Misfit(misfit)) => {
                return (RunState::DoesNotRun, misfit_code(misfit), format!("its pod is removed: {}", misfit_text(misfit)));
            }
            Verdict::Misscheduled(misfit) => {
                return (
                    RunState::Runs,
                    "Misscheduled",
                    format!("the pod stays although none would be started now: {}", misfit_text(misfit)),
                );
            }
            Verdict::BackingOff { until } => {
                let seconds = until.duration_since(self.now).as_secs().max(0);
                let why = failure(pod);
                return (RunState::Waits, "BackingOff", format!("the pod failed{why}; it is made anew in {seconds} s"));
            }
            Verdict::Deleting(Because::Failed) => {
                return (RunState::Waits, "Failed", format!("the pod failed{} and is being made anew", failure(pod)));
            }
            _ => {}
        }
        if !node.is_ready() {
            return (RunState::Waits, "NodeDown", self.down_with(node, pod));
        }
        if let Some(waiting) = &pod.status.waiting {
            let code = match &*waiting.reason {
                _ if waiting.pull() == Pull::Fails => "ImagePull",
                "ContainerCreating" | "PodInitializing" => "Starting",
                _ => "ContainerWaits",
            };
            let message = if waiting.message.is_empty() { String::new() } else { format!(": {}", waiting.message) };
            return (RunState::Waits, code, format!("container {} waits: {}{message}{}", waiting.container, waiting.reason, restarts(pod)));
        }
        self.running(note, pod)
    }

    fn running(&self, note: &Note, pod: &Pod) -> (RunState, &'static str, String) {
        let availability = match pod.status.ready {
            Some((true, _)) if pod.is_available(self.set.min_ready_seconds, self.now) => "available".to_owned(),
            Some((true, Some(since))) => {
                let left = since.as_second() + self.set.min_ready_seconds - self.now.as_second();
                format!("ready, available in {left} s (minReadySeconds {})", self.set.min_ready_seconds)
            }
            _ => format!("not ready{}", restarts(pod)),
        };
        let Budget { unavailable, max_unavailable, .. } = self.plan.budget;
        match &note.verdict {
            Verdict::Outdated { .. } if matches!(self.set.strategy, crate::model::UpdateStrategy::OnDelete) => {
                (RunState::Runs, "OnDelete", format!("{availability}; of an old revision until a user deletes it (OnDelete)"))
            }
            Verdict::Outdated { .. } => {
                let text = format!(
                    "{availability}; of an old revision, waits for the rollout budget ({unavailable} of {max_unavailable} unavailable)"
                );
                (RunState::Runs, "WaitsForBudget", text)
            }
            Verdict::Deleting(_) => (RunState::Runs, "Replacing", format!("{availability}; is being replaced by the current revision")),
            // The others were answered before, or say nothing about a pod that runs.
            Verdict::Updated { .. }
            | Verdict::Creating
            | Verdict::Terminating
            | Verdict::BackingOff { .. }
            | Verdict::NotEligible(_)
            | Verdict::Misscheduled(_)
            | Verdict::NodeGone
            | Verdict::Queued => match pod.is_ready() {
                true => (RunState::Runs, "Runs", availability),
                false => (RunState::Waits, "NotReady", availability),
            },
        }
    }

    /// A pod that no node took yet.
    fn unscheduled(&self, node: &Node, pod: &Arc<Pod>) -> (RunState, &'static str, String) {
        let rejections = explain_all(self.picture, pod, node);
        let Some(first) = rejections.first() else {
            return (RunState::Waits, "Scheduling", "the pod is being scheduled".to_owned());
        };
        let mut text = format!("the pod is not scheduled: {}", rejections.iter().map(rejection_text).collect::<Vec<_>>().join("; "));
        match preemption_on(self.picture, pod, node) {
            Some(victims) if !victims.is_empty() => {
                let names: Vec<String> = victims.iter().map(Key::to_string).collect();
                let _ = write!(text, "; evicting {} would make room", names.join(", "));
            }
            // kubernetes/kubernetes 140984: Kubernetes does not say so.
            _ if first.is_resolvable() => text += "; nothing on the node has a lower priority",
            _ => {}
        }
        (RunState::DoesNotRun, rejection_code(first), text)
    }

    fn down(&self, node: &Node) -> String {
        let since = node.condition("Ready").and_then(|ready| ready.last_transition_time);
        let reason = node.condition("Ready").map(|ready| ready.message.to_string()).filter(|message| !message.is_empty());
        let since = since.map_or_else(String::new, |at| format!(" since {at}"));
        format!("the node is not Ready{since}{}", reason.map_or_else(String::new, |reason| format!(" ({reason})")))
    }

    /// A node that went down before the update cannot have got it; one that went down after it may
    /// be what the update did.
    fn down_with(&self, node: &Node, pod: &Pod) -> String {
        let current = self
            .picture
            .revisions_of(&self.set.meta.uid)
            .find(|revision| revision.meta.labels.get(HASH_LABEL) == Some(self.plan.history.hash()));
        let went = node.condition("Ready").and_then(|ready| ready.last_transition_time);
        let when = match (current.and_then(|revision| revision.meta.creation_timestamp), went) {
            (Some(made), Some(went)) if went < made => ", from before the last update",
            (Some(_), Some(_)) => ", after the last update",
            _ => "",
        };
        let updated = pod.meta.labels.get(HASH_LABEL) == Some(self.plan.history.hash());
        format!("{}{when}; its pod is of {} revision", self.down(node), if updated { "the current" } else { "an old" })
    }

    fn ending(&self, node: &Node) -> String {
        if node.is_ready() { "its successor follows".to_owned() } else { format!("{}: no agent can report that it ended", self.down(node)) }
    }
}

fn failure(pod: &Pod) -> String {
    match (&*pod.status.reason, &*pod.status.message) {
        ("", "") => String::new(),
        (reason, "") => format!(" ({reason})"),
        (reason, message) => format!(" ({reason}: {message})"),
    }
}

fn restarts(pod: &Pod) -> String {
    if pod.status.restarts > 0 { format!(", restarted {} times", pod.status.restarts) } else { String::new() }
}

fn misfit_code(misfit: &Misfit) -> &'static str {
    match misfit {
        Misfit::OtherNode => "OtherNode",
        Misfit::Affinity => "Selector",
        Misfit::Taint(_) => "Taint",
    }
}

/// A misfit in words.
pub fn misfit_text(misfit: &Misfit) -> String {
    match misfit {
        Misfit::OtherNode => "the template names another node".to_owned(),
        Misfit::Affinity => "the node's labels do not match the nodeSelector or node affinity".to_owned(),
        Misfit::Taint(taint) => format!("taint {taint} is not tolerated"),
    }
}

fn rejection_code(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::Unschedulable => "Unschedulable",
        Rejection::NodeName | Rejection::NotNamed => "OtherNode",
        Rejection::Taint(_) => "Taint",
        Rejection::Affinity => "Selector",
        Rejection::PortTaken { .. } => "PortTaken",
        Rejection::TooManyPods { .. } => "TooManyPods",
        Rejection::Insufficient(_) => "Insufficient",
        Rejection::SpreadLabelMissing { .. } | Rejection::Spread { .. } => "Spread",
        Rejection::PodAffinity => "PodAffinity",
        Rejection::PodAntiAffinity { .. } | Rejection::ExistingAntiAffinity { .. } => "PodAntiAffinity",
    }
}

/// What the scheduler has against a node, with who is in the way.
pub fn rejection_text(rejection: &Rejection) -> String {
    match rejection {
        Rejection::PortTaken { port, by } => format!("host port {}/{} is taken by {by}", port.port, port.protocol),
        Rejection::Taint(taint) => format!("taint {taint} is not tolerated"),
        Rejection::TooManyPods { allocatable } => format!("the node has its {allocatable} pods already"),
        Rejection::Insufficient(shortage) => {
            let amount = |units: i64| amount_text(&shortage.resource, units);
            let holders = shortage.holders.iter().take(HOLDERS_MAX).map(|(pod, units)| format!("{pod} {}", amount(*units)));
            let holders: Vec<String> = holders.collect();
            let held = if holders.is_empty() { String::new() } else { format!("; held by {}", holders.join(", ")) };
            let (asked, free, all) = (amount(shortage.requested), amount(shortage.free), amount(shortage.allocatable));
            format!("not enough {}: asks for {asked}, {free} of {all} free{held}", shortage.resource)
        }
        other => other.reason().into_owned(),
    }
}

/// CPU in cores or thousandths, bytes in binary units, the rest as it is.
fn amount_text(resource: &str, units: i64) -> String {
    match resource {
        "cpu" if units % 1000 == 0 => (units / 1000).to_string(),
        "cpu" => format!("{units}m"),
        "memory" | "ephemeral-storage" => {
            let scale = [("Gi", 1_i64 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
            scale
                .iter()
                .find(|(_, size)| units != 0 && units % size == 0)
                .map_or_else(|| units.to_string(), |(name, size)| format!("{}{name}", units / size))
        }
        _ => units.to_string(),
    }
}

#[cfg(test)]
mod tests;
