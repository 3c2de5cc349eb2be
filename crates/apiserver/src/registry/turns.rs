//! Writes that go one after another in their namespace: those that quotas limit. Each sees what the
//! ones before it stored.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::Registry;

/// The locks by which writes of a namespace wait for each other.
#[derive(Debug, Default)]
pub struct WriteTurns(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>);

/// A namespace's turn; the next write has it when this one drops it.
#[derive(Debug)]
pub struct WriteTurn {
    _held: OwnedMutexGuard<()>,
}

impl WriteTurns {
    fn of(&self, namespace: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(namespace.to_owned()).or_default().clone()
    }
}

impl Registry {
    /// Waits until it is the turn of a write in its namespace, and until the caches show what the
    /// writes before it stored.
    pub async fn take_turn(&self, namespace: &str) -> WriteTurn {
        let held = self.turns.of(namespace).lock_owned().await;
        self.caches.wait_for(self.revision()).await;
        WriteTurn { _held: held }
    }
}
