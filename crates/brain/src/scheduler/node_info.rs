//! A node with what its pods take, and all nodes as one plan sees them: the cluster's picture, what
//! earlier plans bound, what this plan bound so far, and who is nominated where.
//!
//! A plan looks at a node only when it needs that node: a daemon pod is pinned to one node, and its
//! attempt costs what that node has.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::nominations::Nominations;
use super::queue::Queue;
use super::takes_space;
use crate::model::{Key, Node, Pod, Resources};
use crate::picture::Picture;

/// What pods that ask for nothing are taken to need when nodes are compared (per container in
/// Kubernetes, per pod here).
const MILLI_CPU_DEFAULT: i64 = 100;
const MEMORY_DEFAULT: i64 = 200 * 1024 * 1024;

/// A node and the pods that take something of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    pub pods: Vec<Arc<Pod>>,
    pub requested: Resources,
    /// CPU and memory, where pods that ask for none count with the defaults. For scores only.
    pub comparable: (i64, i64),
    /// Taken away for the dry run of a preemption; counts of topologies still have them.
    pub(super) removed: Vec<Arc<Pod>>,
    /// Not there yet, but nominated and at least as important as the pod in question.
    pub(super) nominated: Vec<Arc<Pod>>,
}

impl NodeInfo {
    pub fn new(node: Arc<Node>) -> NodeInfo {
        let requested = Resources::default();
        NodeInfo { node, pods: Vec::new(), requested, comparable: (0, 0), removed: Vec::new(), nominated: Vec::new() }
    }

    pub fn add(&mut self, pod: Arc<Pod>) {
        self.requested += pod.requests();
        let (cpu, memory) = comparable(pod.requests());
        self.comparable = (self.comparable.0.saturating_add(cpu), self.comparable.1.saturating_add(memory));
        self.pods.push(pod);
    }

    fn take(&mut self, key: &Key) -> Option<Arc<Pod>> {
        let at = self.pods.iter().position(|pod| is(pod, key))?;
        let pod = self.pods.remove(at);
        self.requested -= pod.requests();
        let (cpu, memory) = comparable(pod.requests());
        self.comparable = (self.comparable.0.saturating_sub(cpu), self.comparable.1.saturating_sub(memory));
        Some(pod)
    }

    /// Takes a pod away for a dry run.
    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(pod) = self.take(key) {
            self.removed.push(pod);
        }
    }

    /// Puts a pod back that was removed.
    pub(super) fn restore(&mut self, key: &Key) {
        if let Some(at) = self.removed.iter().position(|pod| is(pod, key)) {
            let pod = self.removed.remove(at);
            self.add(pod);
        }
    }

    /// The value of a label of the node.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.meta.labels.get(key)
    }
}

fn is(pod: &Pod, key: &Key) -> bool {
    pod.meta.name == key.name && pod.meta.namespace == key.namespace
}

/// CPU and memory for comparing nodes.
pub(super) fn comparable(requests: &Resources) -> (i64, i64) {
    let or = |amount: i64, default: i64| if amount == 0 { default } else { amount };
    (or(requests.milli_cpu, MILLI_CPU_DEFAULT), or(requests.memory, MEMORY_DEFAULT))
}

/// The nodes in the course of one plan.
#[derive(Debug)]
pub(super) struct Snapshot<'a> {
    pub picture: &'a Picture,
    /// Bound by earlier plans, not in the picture yet.
    assumed: BTreeMap<Arc<str>, Vec<Arc<Pod>>>,
    infos: BTreeMap<Arc<str>, NodeInfo>,
    is_complete: bool,
    nominated: Nominations,
}

impl<'a> Snapshot<'a> {
    pub fn new(picture: &'a Picture, queue: &Queue) -> Snapshot<'a> {
        let mut assumed: BTreeMap<Arc<str>, Vec<Arc<Pod>>> = BTreeMap::new();
        for (key, assumption) in queue.assumptions() {
            if let Some(pod) = picture.pods.get(key).filter(|pod| pod.node.is_none() && pod.meta.uid == assumption.uid) {
                assumed.entry(assumption.node.clone()).or_default().push(pod.clone());
            }
        }
        Snapshot { picture, assumed, infos: BTreeMap::new(), is_complete: false, nominated: queue.nominations().clone() }
    }

    /// Makes a node known to [`Snapshot::get`]; false when there is no such node.
    pub fn load(&mut self, name: &str) -> bool {
        if self.infos.contains_key(name) {
            return true;
        }
        let Some((name, node)) = self.picture.nodes.get_key_value(name) else { return false };
        let info = self.read(name, node);
        self.infos.insert(name.clone(), info);
        true
    }

    pub fn load_all(&mut self) {
        if !self.is_complete {
            let picture = self.picture;
            for (name, node) in &picture.nodes {
                if !self.infos.contains_key(name) {
                    let info = self.read(name, node);
                    self.infos.insert(name.clone(), info);
                }
            }
            self.is_complete = true;
        }
    }

    fn read(&self, name: &Arc<str>, node: &Arc<Node>) -> NodeInfo {
        let mut info = NodeInfo::new(node.clone());
        let bound = self.picture.pods_on(name).filter(|pod| takes_space(pod) && pod.node.as_ref() == Some(name));
        for pod in bound.chain(self.assumed.get(name).into_iter().flatten()) {
            info.add(pod.clone());
        }
        info
    }

    /// A node that was loaded.
    pub fn get(&self, name: &str) -> Option<&NodeInfo> {
        self.infos.get(name)
    }

    /// The loaded nodes: all of them after [`Snapshot::load_all`].
    pub fn infos(&self) -> impl Iterator<Item = &NodeInfo> {
        self.infos.values()
    }

    /// The pods that earlier plans bound and the picture does not show as bound, with their nodes.
    pub fn assumed(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Pod>)> {
        self.assumed.iter().flat_map(|(node, pods)| pods.iter().map(move |pod| (node, pod)))
    }

    /// The pod will be on the node from now on.
    pub fn place(&mut self, pod: &Arc<Pod>, node: &str) {
        self.nominate(pod, None);
        if let Some(info) = self.infos.get_mut(node) {
            info.add(pod.clone());
        }
    }

    /// Ends the nomination of a pod and nominates it to another node, if one is given.
    pub fn nominate(&mut self, pod: &Pod, node: Option<&Arc<str>>) {
        self.nominated.set(&pod.meta.key(), node);
    }

    /// The pods that are nominated to a node, except one.
    pub fn nominated(&self, node: &str, except: &Pod) -> impl Iterator<Item = &'a Arc<Pod>> {
        let keys = self.nominated.on(node).filter(|key| !is(except, key));
        keys.filter_map(|key| self.picture.pods.get(key)).filter(|pod| pod.node.is_none() && !pod.meta.is_deleted())
    }

    /// The node as the pod must take it: with the pods that are nominated to it and as important as
    /// the pod. None when there are no such pods.
    pub fn with_nominated(&self, info: &NodeInfo, pod: &Pod) -> Option<NodeInfo> {
        if self.nominated.is_empty() {
            return None;
        }
        let nominated = self.nominated(&info.node.meta.name, pod).filter(|other| other.spec.priority >= pod.spec.priority);
        let nominated: Vec<Arc<Pod>> = nominated.cloned().collect();
        if nominated.is_empty() {
            return None;
        }
        let mut with = info.clone();
        nominated.iter().for_each(|pod| with.add(pod.clone()));
        with.nominated = nominated;
        Some(with)
    }
}
