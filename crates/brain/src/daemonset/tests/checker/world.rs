//! The cluster of the model: small values that hash fast. Where a value stands for many of the real
//! world, its comment says so.

/// Nodes of the largest model.
pub const NODES_MAX: usize = 3;

/// The names of the model's nodes.
pub const NODE_NAMES: [&str; NODES_MAX] = ["a", "b", "c"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Node {
    pub ready: bool,
    pub taint: Taint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Taint {
    Absent,
    NoSchedule,
    NoExecute,
}

/// The name of a pod, by its place in the model's table of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(pub u16);

/// Name and uid of a pod: a later pod of the same name has the next number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    pub name: Name,
    pub life: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pod {
    pub id: Id,
    pub node: u8,
    pub bound: bool,
    pub template: u8,
    pub phase: Phase,
    pub deleting: bool,
    pub owner: Owner,
    /// Made before time passed last; pods made since are all of the same second.
    pub aged: bool,
    pub past: Past,
}

/// What only the judge knows about a pod; pictures do not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Past {
    /// The controller made it.
    pub made: bool,
    /// It was available once.
    pub proven: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    Starting,
    /// Ready, not yet for minReadySeconds.
    Ready,
    Available,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    Ours,
    Nobody,
    Other,
}

impl Pod {
    pub fn is_live(&self) -> bool {
        !self.deleting
    }

    pub fn is_ended(&self) -> bool {
        self.deleting && self.phase == Phase::Failed
    }

    /// As a watch would show it.
    pub fn shown(self) -> Pod {
        Pod { past: Past::default(), ..self }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Set {
    /// Which of the two templates.
    pub template: u8,
    pub deleting: bool,
}

/// All objects of a moment: as they are, or as the controller sees them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Objects {
    pub nodes: [Option<Node>; NODES_MAX],
    pub set: Set,
    /// The numbers of the revisions of the two templates; 0 when there is none.
    pub revisions: [u8; 2],
    /// By id.
    pub pods: Vec<Pod>,
}

/// One event of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    Node(u8, Option<Node>),
    Set(Set),
    Revision(u8, u8),
    Pod(Name, Option<Pod>),
}

impl Event {
    /// Which of the four streams it comes on; each keeps its order, none waits for another.
    pub fn stream(&self) -> usize {
        match self {
            Event::Pod(..) => PODS,
            Event::Node(..) => NODES,
            Event::Set(..) => 2,
            Event::Revision(..) => REVISIONS,
        }
    }
}

pub const PODS: usize = 0;
pub const NODES: usize = 1;
pub const REVISIONS: usize = 3;
pub const STREAMS: usize = 4;

impl Objects {
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Node(at, node) => self.nodes[usize::from(at)] = node,
            Event::Set(set) => self.set = set,
            Event::Revision(template, number) => self.revisions[usize::from(template)] = number,
            Event::Pod(name, pod) => {
                let at = self.pods.partition_point(|other| other.id.name < name);
                let there = self.pods.get(at).is_some_and(|other| other.id.name == name);
                match (there, pod) {
                    (true, Some(pod)) => self.pods[at] = pod,
                    (true, None) => drop(self.pods.remove(at)),
                    (false, Some(pod)) => self.pods.insert(at, pod),
                    (false, None) => {}
                }
            }
        }
    }

    /// What is there in the place of an event's object.
    pub fn before(&self, event: &Event) -> Event {
        match *event {
            Event::Node(at, _) => Event::Node(at, self.node(at)),
            Event::Set(_) => Event::Set(self.set),
            Event::Revision(template, _) => Event::Revision(template, self.revisions[usize::from(template)]),
            Event::Pod(name, _) => Event::Pod(name, self.pod(name).copied()),
        }
    }

    pub fn node(&self, at: u8) -> Option<Node> {
        self.nodes[usize::from(at)]
    }

    pub fn pod(&self, name: Name) -> Option<&Pod> {
        self.pods.binary_search_by_key(&name, |pod| pod.id.name).ok().map(|at| &self.pods[at])
    }

    /// Should the node run a pod? The rule of the documentation: it exists, and no taint keeps new
    /// pods away.
    pub fn wants(&self, node: u8) -> bool {
        self.node(node).is_some_and(|node| node.taint == Taint::Absent)
    }

    pub fn desired(&self) -> usize {
        (0..NODES_MAX as u8).filter(|node| self.wants(*node)).count()
    }

    /// Minutes go by, for everything at once.
    pub fn age(&mut self) {
        self.pods.iter_mut().for_each(age);
    }
}

pub fn age(pod: &mut Pod) {
    pod.aged = true;
    if pod.phase == Phase::Ready {
        pod.phase = Phase::Available;
    }
}
