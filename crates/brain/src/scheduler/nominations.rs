//! Which pods are nominated to which node: each to one at most.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::Key;

/// Both maps say the same.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Nominations {
    node_of: BTreeMap<Key, Arc<str>>,
    pods_of: BTreeMap<Arc<str>, BTreeSet<Key>>,
}

impl Nominations {
    pub fn is_empty(&self) -> bool {
        self.node_of.is_empty()
    }

    /// Nominates a pod to a node, or to none any more.
    pub fn set(&mut self, key: &Key, node: Option<&Arc<str>>) {
        if self.node_of.get(key) == node {
            return;
        }
        if let Some(before) = self.node_of.remove(key)
            && let Some(pods) = self.pods_of.get_mut(&before)
        {
            pods.remove(key);
            if pods.is_empty() {
                self.pods_of.remove(&before);
            }
        }
        if let Some(node) = node {
            self.node_of.insert(key.clone(), node.clone());
            self.pods_of.entry(node.clone()).or_default().insert(key.clone());
        }
    }

    /// The pods that are nominated to a node, by key.
    pub fn on(&self, node: &str) -> impl Iterator<Item = &Key> {
        self.pods_of.get(node).into_iter().flatten()
    }
}
