//! The simulated nodes there are, shared by what acts for them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Nodes by name.
#[derive(Clone)]
pub struct Fleet {
    nodes: Arc<Mutex<BTreeMap<String, State>>>,
    changed: watch::Sender<u64>,
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Alive,
    /// Dead until the annotation that says so is removed.
    Stopped,
}

impl Default for Fleet {
    fn default() -> Fleet {
        Fleet { nodes: Arc::default(), changed: watch::channel(0).0 }
    }
}

impl Fleet {
    /// A node came, changed or went (None).
    pub fn set(&self, name: &str, state: Option<State>) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match state {
            Some(state) => nodes.insert(name.to_owned(), state),
            None => nodes.remove(name),
        };
        drop(nodes);
        if before != state {
            self.changed.send_modify(|changes| *changes += 1);
        }
    }

    pub fn is_alive(&self, name: &str) -> bool {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(name) == Some(&State::Alive)
    }

    pub fn alive(&self) -> Vec<String> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().filter(|(_, state)| **state == State::Alive).map(|(name, _)| name.clone()).collect()
    }

    /// The node after that name that is alive, beginning again after the last; and how many nodes
    /// there are.
    pub fn alive_after(&self, name: &str) -> Option<(String, usize)> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let after = nodes.range::<str, _>((Bound::Excluded(name), Bound::Unbounded));
        let (next, _) = after.chain(nodes.iter()).find(|(_, state)| **state == State::Alive)?;
        Some((next.clone(), nodes.len()))
    }

    /// Wakes at every change from now on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
