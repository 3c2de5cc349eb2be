//! What the runtime shows, sorted by pod: the agent's one place that lists sandboxes and
//! containers.
//!
//! Each worker gets the changes of its own pod only. Everything is listed again every few seconds,
//! whatever the runtime tells.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brain::podsync::config::HASH;
use brain::podsync::{Observed, Record, Sandbox};
use containers::{ContainerState, ContainerStatus, SandboxState};
use runtime::port::{Images, Runtime};
use tokio::sync::watch;

use super::pod::message;

/// A runtime that lost a notice is noticed within this time (the kubelet's generic PLEG lists every
/// second).
const LIST_PERIOD: Duration = Duration::from_secs(5);

pub struct Observer {
    runtime: Arc<dyn Runtime>,
    images: Arc<dyn Images>,
    /// The scheme of ids.
    scheme: String,
    root_dir: PathBuf,
    pods: Mutex<BTreeMap<String, watch::Sender<Arc<Observed>>>>,
    /// Names of images by id, and termination messages by container id: asked for once.
    names: Mutex<BTreeMap<String, (String, String)>>,
    messages: Mutex<BTreeMap<String, String>>,
    /// One listing at a time, so that none overwrites a newer one.
    listing: tokio::sync::Mutex<()>,
}

impl Observer {
    pub fn new(runtime: Arc<dyn Runtime>, images: Arc<dyn Images>, scheme: String, root_dir: PathBuf) -> Observer {
        Observer {
            runtime,
            images,
            scheme,
            root_dir,
            pods: Mutex::default(),
            names: Mutex::default(),
            messages: Mutex::default(),
            listing: tokio::sync::Mutex::default(),
        }
    }

    /// Follows the runtime until dropped.
    pub async fn run(&self) {
        let mut changes = self.runtime.changes();
        loop {
            if let Err(error) = self.refresh().await {
                tracing::warn!(%error, "cannot list containers; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            // A timeout is only a longer wait for the same thing.
            let _ = tokio::time::timeout(LIST_PERIOD, changes.changed()).await;
        }
    }

    /// What is seen of a pod, and when it changes.
    pub fn follow(&self, uid: &str) -> watch::Receiver<Arc<Observed>> {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.entry(uid.to_owned()).or_insert_with(|| watch::channel(Arc::default()).0).subscribe()
    }

    /// No worker follows the pod any more.
    pub fn forget(&self, uid: &str) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// The uids of all pods of which there is anything.
    pub fn uids(&self) -> BTreeSet<String> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |observed: &Observed| !observed.sandboxes.is_empty() || !observed.containers.is_empty();
        pods.iter().filter(|(_, sender)| holds(&sender.borrow())).map(|(uid, _)| uid.clone()).collect()
    }

    pub fn observed(&self, uid: &str) -> Arc<Observed> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.get(uid).map(|sender| sender.borrow().clone()).unwrap_or_default()
    }

    /// The runtime's own id of a container.
    pub fn bare<'a>(&self, id: &'a str) -> &'a str {
        id.split_once("://").map_or(id, |(_, bare)| bare)
    }

    /// Lists now.
    pub async fn refresh(&self) -> containers::Result<()> {
        let _turn = self.listing.lock().await;
        let (sandboxes, containers) = (self.runtime.sandboxes().await?, self.runtime.containers().await?);
        let mut seen: BTreeMap<String, Observed> = BTreeMap::new();
        for sandbox in sandboxes {
            seen.entry(sandbox.pod.uid.clone()).or_default().sandboxes.push(Sandbox {
                id: sandbox.id,
                attempt: sandbox.attempt,
                is_ready: sandbox.state == SandboxState::Ready,
                addresses: sandbox.addresses.iter().map(ToString::to_string).collect(),
            });
        }
        let ids: BTreeSet<String> = containers.iter().map(|container| container.id.clone()).collect();
        for container in containers {
            let uid = container.pod.uid.clone();
            let record = self.record(container).await;
            seen.entry(uid).or_default().containers.push(record);
        }
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| ids.contains(id));
        for observed in seen.values_mut() {
            observed.sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.attempt));
            observed.containers.sort_by_key(|container| std::cmp::Reverse((container.created_at, container.restarts)));
        }
        self.publish(seen);
        Ok(())
    }

    fn publish(&self, mut seen: BTreeMap<String, Observed>) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        for (uid, sender) in pods.iter() {
            let now = seen.remove(uid).unwrap_or_default();
            sender.send_if_modified(|before| {
                let differs = **before != now;
                if differs {
                    *before = Arc::new(now);
                }
                differs
            });
        }
        for (uid, observed) in seen {
            pods.insert(uid, watch::channel(Arc::new(observed)).0);
        }
    }

    async fn record(&self, container: ContainerStatus) -> Record {
        let (image, image_id) = self.image_names(&container).await;
        let message = self.message(&container);
        Record {
            id: format!("{}://{}", self.scheme, container.id),
            sandbox_id: container.sandbox_id,
            name: container.name,
            restarts: container.attempt,
            state: container.state,
            created_at: container.created_at,
            started_at: container.started_at,
            finished_at: container.finished_at,
            exit_code: container.exit_code,
            reason: container.reason,
            message,
            image,
            image_id,
            hash: container.annotations.get(HASH).cloned().unwrap_or_default(),
        }
    }

    /// The image as statuses name it: its first tag, and the digest it was pulled by or else its
    /// id.
    async fn image_names(&self, container: &ContainerStatus) -> (String, String) {
        let known = self.names.lock().unwrap_or_else(PoisonError::into_inner).get(&container.image_id).cloned();
        if let Some(names) = known {
            return names;
        }
        let Ok(Some(image)) = self.images.status(&container.image_id).await else {
            return (container.image.clone(), container.image_id.clone());
        };
        let names = (
            image.tags.first().cloned().unwrap_or_else(|| container.image.clone()),
            image.digests.first().cloned().unwrap_or_else(|| image.id.clone()),
        );
        let mut cache = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        cache.insert(container.image_id.clone(), names.clone());
        names
    }

    /// An image was pulled, tagged or removed: names are asked for again.
    pub fn forget_image_names(&self) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn message(&self, container: &ContainerStatus) -> String {
        if container.state != ContainerState::Exited {
            return container.message.clone();
        }
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.entry(container.id.clone()).or_insert_with(|| message::read(&self.root_dir, container)).clone()
    }
}
