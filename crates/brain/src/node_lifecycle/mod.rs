//! Nodes that fall silent, and the taints that follow from what nodes say of themselves.
//!
//! After `pkg/controller/nodelifecycle`. A node whose lease and status stay the same for longer
//! than the grace period gets its conditions set to Unknown, and its pods are marked not ready.
//! Conditions become taints: NoSchedule at once, NoExecute no faster than the zone's rate allows,
//! so that a failing network does not evict everything.

mod health;
mod taints;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::controller::{Controller, Work};
use crate::model::{Key, Node};
use crate::picture::{Change, Object, Picture};
use crate::request::{Event, EventType, NODES, Regarding};

const COMPONENT: &str = "node-controller";

/// How often it is looked whether nodes are alive.
const MONITOR_PERIOD: SignedDuration = SignedDuration::from_secs(5);

/// The key of the pass over all nodes; those of single nodes have no namespace.
const MONITOR: &str = "monitor";

/// What may be set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NodeLifecycleSettings {
    /// How long a node may be silent. Leases that promise less often than that are given as long
    /// again as they promise.
    pub grace_period: SignedDuration,
}

impl Default for NodeLifecycleSettings {
    fn default() -> NodeLifecycleSettings {
        NodeLifecycleSettings { grace_period: SignedDuration::from_secs(50) }
    }
}

#[derive(Debug, Default)]
pub struct NodeLifecycle {
    settings: NodeLifecycleSettings,
    seen: BTreeMap<Arc<str>, health::Seen>,
    zones: BTreeMap<Box<str>, taints::Zone>,
}

impl NodeLifecycle {
    pub fn new(settings: NodeLifecycleSettings) -> NodeLifecycle {
        NodeLifecycle { settings, ..NodeLifecycle::default() }
    }
}

impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn concerns(&mut self, _cluster: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        let Some(Object::Node(node)) = &change.new else { return };
        // The pass runs by itself once it has begun.
        if self.seen.is_empty() {
            add(Key::new(MONITOR, ""));
        }
        let same_taints = |old: &Node| {
            old.taints == node.taints && old.conditions_text() == node.conditions_text() && old.unschedulable == node.unschedulable
        };
        if !matches!(&change.old, Some(Object::Node(old)) if same_taints(old)) {
            add(node.meta.key());
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, now: Timestamp) -> Work {
        if *key.namespace == *MONITOR {
            let mut work = health::plan(picture, self.settings, &mut self.seen, now);
            self.zones = taints::survey(picture, std::mem::take(&mut self.zones));
            work.wake_at = Some(now + MONITOR_PERIOD);
            return work;
        }
        match picture.nodes.get(&key.name) {
            Some(node) => taints::plan(node, &mut self.zones, now),
            None => Work::default(),
        }
    }
}

impl Node {
    /// Types and states of its conditions: what taints follow from. Times change with every
    /// heartbeat.
    fn conditions_text(&self) -> impl PartialEq + '_ {
        self.conditions.iter().map(|condition| (&*condition.kind, &*condition.status)).collect::<Vec<_>>()
    }
}

fn event(node: &Node, reason: &'static str, message: String) -> Event {
    // Upstream's events about nodes name no version.
    let about = Regarding { resource_version: 0, ..Regarding::of(NODES, &node.meta) };
    Event { about, event_type: EventType::Normal, reason: reason.into(), message, action: None, component: COMPONENT, host: None }
}

#[cfg(test)]
mod tests;
