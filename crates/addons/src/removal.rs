//! Whether a program ends because its DaemonSet is gone, or only to make room for the next version.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::task::JoinSet;

/// A pod has a few seconds to end.
const DEADLINE: Duration = Duration::from_secs(2);

const FORBIDDEN: u16 = 403;

/// The metadata of sets: a program looks at no more.
type Sets = Api<PartialObjectMeta<DaemonSet>>;

/// The set that this program's pod belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnSet {
    pub namespace: String,
    pub name: String,
}

impl OwnSet {
    /// Follows the set as long as the answer lives: at the end it may be too late to ask.
    pub fn follow(self, client: &Client) -> FollowedSet {
        let sets: Sets = Api::namespaced(client.clone(), &self.namespace);
        let is_deleted = Arc::new(AtomicBool::new(false));
        let mut watch = JoinSet::new();
        watch.spawn(follow(sets.clone(), self.name.clone(), is_deleted.clone()));
        FollowedSet { name: self.name, sets, is_deleted, _watch: watch }
    }
}

/// A set whose deletion is noticed.
#[derive(Debug)]
pub struct FollowedSet {
    name: String,
    sets: Sets,
    is_deleted: Arc<AtomicBool>,
    _watch: JoinSet<()>,
}

impl FollowedSet {
    /// Whether it was deleted. Who takes everything away may take the program's account away first:
    /// then the deletion was seen, by a watch that began before. Without rights the program could
    /// not go on, either. What else cannot be found out counts as no, because what is taken away
    /// does harm: a pod that is deleted by force has no valid token any more.
    pub async fn is_gone(&self) -> bool {
        if self.is_deleted.load(Ordering::Acquire) {
            return true;
        }
        match tokio::time::timeout(DEADLINE, self.sets.get_opt(&self.name)).await {
            Ok(Ok(set)) => set.is_none_or(|set| is_marked(&set)),
            Ok(Err(kube::Error::Api(refused))) => refused.code == FORBIDDEN,
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

fn is_marked(set: &PartialObjectMeta<DaemonSet>) -> bool {
    set.metadata.deletion_timestamp.is_some()
}

async fn follow(sets: Sets, name: String, is_deleted: Arc<AtomicBool>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher::watcher(sets, config).default_backoff());
    let mut seen = Seen::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => is_deleted.store(seen.take(&event), Ordering::Release),
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "the watch of the own set failed; it is tried again"),
        }
    }
}

/// What the events of the set's watch have said.
#[derive(Debug, Default)]
struct Seen {
    is_deleted: bool,
    is_listed: bool,
}

impl Seen {
    /// Is the set deleted, after this event? One that was made again is not.
    fn take(&mut self, event: &Event<PartialObjectMeta<DaemonSet>>) -> bool {
        match event {
            Event::Init => self.is_listed = false,
            Event::InitApply(set) => {
                self.is_listed = true;
                self.is_deleted = is_marked(set);
            }
            Event::InitDone => self.is_deleted |= !self.is_listed,
            Event::Apply(set) => self.is_deleted = is_marked(set),
            Event::Delete(_) => self.is_deleted = true,
        }
        self.is_deleted
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(is_marked: bool) -> PartialObjectMeta<DaemonSet> {
        let deleted = is_marked.then_some("2026-01-02T03:04:05Z");
        let object = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "a", "deletionTimestamp": deleted}});
        serde_json::from_value(object).expect("well formed")
    }

    fn after(events: &[Event<PartialObjectMeta<DaemonSet>>]) -> bool {
        let mut seen = Seen::default();
        events.iter().map(|event| seen.take(event)).last().unwrap_or_default()
    }

    #[test]
    fn a_deletion_is_remembered_until_the_set_is_made_again() {
        let listed = [Event::Init, Event::InitApply(set(false)), Event::InitDone];
        let then = |more: &[Event<PartialObjectMeta<DaemonSet>>]| after(&[&listed[..], more].concat());
        assert!(!then(&[]));
        assert!(then(&[Event::Apply(set(true))]));
        assert!(then(&[Event::Delete(set(false))]));
        assert!(!then(&[Event::Delete(set(false)), Event::Apply(set(false))]));
        // The watch begins anew: what is listed counts.
        assert!(then(&[Event::Init, Event::InitDone]));
        assert!(then(&[Event::Delete(set(false)), Event::Init]));
        assert!(!then(&[Event::Delete(set(false)), Event::Init, Event::InitApply(set(false)), Event::InitDone]));
    }
}
