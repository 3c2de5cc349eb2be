//! All pods of this node: who is admitted, who has a worker, what is left of those that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brain::podsync::phase::Phase;
use brain::podsync::{Ended, Memory, Observed, View, admission, is_deleted, is_static, pod_id, resize, status, uid};
use brain::request::EventType;
use containers::PodId;
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use super::allocations::to_model;
use super::pod::worker::{Outcome, Wanted, Worker};
use super::pod::{end, publish};
use super::{Context, logs, volumes};

/// How often the agent looks for what no pod needs any more.
const HOUSE_PERIOD: Duration = Duration::from_secs(10);

/// Pods that are gone whose containers are ended at the same time.
const ORPHANS_AT_ONCE_MAX: usize = 32;

/// Before another worker takes over from one that failed badly.
const TAKE_OVER_PAUSE: Duration = Duration::from_secs(5);

pub struct Pods {
    context: Arc<Context>,
    workers: Mutex<BTreeMap<String, Handle>>,
    /// The API server's list was seen: what is not in it may go.
    is_listed: watch::Sender<bool>,
    /// What the API server has for this node, with a worker or without.
    present: Mutex<BTreeSet<String>>,
}

struct Handle {
    wanted: watch::Sender<Wanted>,
    ends: watch::Sender<Option<Ended>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pods {
    pub fn new(context: Arc<Context>) -> Pods {
        Pods { context, workers: Mutex::default(), is_listed: watch::channel(false).0, present: Mutex::default() }
    }

    fn workers(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Handle>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn present(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod came or changed.
    pub async fn apply(&self, pod: impl Into<Arc<Pod>>) {
        let pod = pod.into();
        let key = uid(&pod).to_owned();
        self.present().insert(key.clone());
        if let Some(handle) = self.workers().get(&key).filter(|handle| !handle.task.is_finished()) {
            if matches!(handle.wanted.send_replace(Wanted::Pod(pod.clone())), Wanted::Gone) {
                self.context.allocations.found(&pod);
            }
            return;
        }
        // What runs here already is not judged again: a new agent rejects no running pod.
        let has_run = !self.observed(&key).await.containers.is_empty();
        let is_over = pod.status.as_ref().and_then(|status| status.phase.as_deref()).and_then(Phase::parse).is_some_and(Phase::is_terminal);
        if !has_run
            && !is_over
            && !is_deleted(&pod)
            && let Err(rejection) = self.admit(&pod)
        {
            self.reject(&pod, &rejection).await;
            return;
        }
        if is_over && !has_run && !is_deleted(&pod) {
            return;
        }
        self.begin(pod, is_over);
    }

    async fn observed(&self, uid: &str) -> Arc<Observed> {
        if !*self.is_listed.borrow() {
            // The first list of the runtime must have been made.
            let _ = self.context.observer.refresh().await;
        }
        self.context.observer.observed(uid)
    }

    fn begin(&self, pod: Arc<Pod>, is_over: bool) {
        let (wanted, wants) = watch::channel(Wanted::Pod(pod.clone()));
        let (ends, ended) = watch::channel(None);
        let key = uid(&pod).to_owned();
        self.context.allocations.found(&pod);
        if is_over {
            self.context.allocations.release(&key);
        }
        let task = tokio::spawn(keep_working(self.context.clone(), pod, wants, ended));
        self.workers().insert(key, Handle { wanted, ends, task });
    }

    fn admit(&self, pod: &Pod) -> Result<(), admission::Rejection> {
        let pressure = self.context.registration.pressure();
        brain::podsync::eviction::check_pressure(pod, pressure)?;
        brain::podsync::offers::check_shutdown(pressure.shutting_down)?;
        self.context.offers.check(pod)?;
        let node = self.context.registration.node().and_then(|node| to_model::<brain::model::Node>(&node));
        let os = pod.spec.as_ref().and_then(|spec| spec.os.as_ref()).map(|os| os.name.as_str());
        let given = resize::with_allocation(pod, &resize::told(pod));
        self.context.allocations.admit(pod, |others| match (to_model::<brain::model::Pod>(&given), &node) {
            (Some(candidate), Some(node)) => admission::check(&candidate, os, node, others),
            _ => Ok(()),
        })
    }

    async fn reject(&self, pod: &Pod, rejection: &admission::Rejection) {
        self.context.events.pod(pod, EventType::Warning, rejection.reason.clone(), rejection.message.clone());
        let (observed, memory) = (Observed::default(), Memory::default());
        let view = View { now: Timestamp::now(), pod, observed: &observed, memory: &memory, node_addresses: &self.context.node_addresses };
        let mut told = status::rejected(&view, &rejection.reason, &rejection.message);
        told.conditions = pod.status.as_ref().and_then(|status| status.conditions.clone());
        if let Err(error) = publish::status(&self.context.client, pod, told).await {
            tracing::warn!(%error, "cannot report that a pod was rejected");
        }
    }

    /// A pod is no more in the API server.
    pub async fn gone(&self, uid: &str) {
        self.present().remove(uid);
        if let Some(handle) = self.workers().get(uid) {
            handle.wanted.send_replace(Wanted::Gone);
            self.context.allocations.release(uid);
        }
    }

    /// The API server's whole list. What is gone makes room for what came.
    pub async fn listed(&self, pods: Vec<Pod>) {
        let uids: BTreeSet<&str> = pods.iter().map(uid).collect();
        self.present().retain(|uid| uids.contains(uid.as_str()));
        for (uid, handle) in self.workers().iter() {
            let is_static = matches!(&*handle.wanted.borrow(), Wanted::Pod(pod) if is_static(pod));
            if !uids.contains(uid.as_str()) && !is_static {
                handle.wanted.send_replace(Wanted::Gone);
                self.context.allocations.release(uid);
            }
        }
        for pod in pods {
            self.apply(pod).await;
        }
        self.is_listed.send_replace(true);
    }

    /// Ends a pod by the node's own decision: eviction, shutdown.
    pub fn end(&self, uid: &str, ended: Ended) {
        if let Some(handle) = self.workers().get(uid) {
            handle.ends.send_replace(Some(ended));
        }
    }

    /// The pods with workers, as they were last seen.
    pub fn all(&self) -> Vec<Arc<Pod>> {
        let workers = self.workers();
        let pods = workers.values().filter_map(|handle| match &*handle.wanted.borrow() {
            Wanted::Pod(pod) => Some(pod.clone()),
            Wanted::Gone => None,
        });
        pods.collect()
    }

    /// The pod of that name, for requests from outside.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let matches = |pod: &Arc<Pod>| pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name);
        self.all().into_iter().find(matches)
    }

    /// Removes what is left of pods that are gone: workers that finished, containers and folders
    /// without a pod.
    pub async fn keep_house(&self) {
        let mut listed = self.is_listed.subscribe();
        if listed.wait_for(|&listed| listed).await.is_err() {
            return;
        }
        loop {
            self.replace_finished().await;
            self.remove_orphans().await;
            logs::rotate(&self.context).await;
            logs::remove_dead_links(&self.context);
            tokio::time::sleep(HOUSE_PERIOD).await;
        }
    }

    /// Gives a new worker to each pod that came back while its worker finished: a worker that
    /// finished reads no messages.
    async fn replace_finished(&self) {
        let mut wanted = Vec::new();
        self.workers().retain(|_, handle| {
            let is_finished = handle.task.is_finished();
            if is_finished {
                wanted.push(handle.wanted.borrow().clone());
            }
            !is_finished
        });
        for wanted in wanted {
            if let Wanted::Pod(pod) = wanted
                && !is_deleted(&pod)
            {
                self.apply(pod).await;
            }
        }
    }

    async fn remove_orphans(&self) {
        let is_known = |uid: &String| self.workers().contains_key(uid);
        let orphans: Vec<String> = self.context.observer.uids().into_iter().filter(|uid| !is_known(uid)).collect();
        // Each has its moment to end by itself: one after the other would take long after a drain
        // while the agent was away.
        let removals: Vec<_> = orphans.into_iter().map(|uid| self.try_remove_orphan(uid)).collect();
        futures::stream::iter(removals).buffer_unordered(ORPHANS_AT_ONCE_MAX).collect::<()>().await;
        let dir = self.context.settings.pods_dir();
        let names = std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        for uid in names.filter(|name| is_uid(name)) {
            if is_known(&uid) || self.context.observer.uids().contains(&uid) {
                continue;
            }
            let removed = match volumes::tear_down(&self.context, &uid).await {
                Ok(()) => end::remove_tree(dir.clone(), OsString::from(&uid)).await.map(|()| self.context.user_ids.release(&uid)),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = removed {
                tracing::warn!(%error, uid, "cannot remove the folder of a pod that is gone; trying again");
            }
        }
        self.remove_orphaned_logs().await;
    }

    /// Logs go with their pod, and stay when the agent is killed in between.
    async fn remove_orphaned_logs(&self) {
        let dir = self.context.settings.pod_logs_dir();
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let Some(uid) = text.rsplit('_').next().filter(|uid| is_uid(uid)) else { continue };
            let is_needed = self.present().contains(uid) || self.workers().contains_key(uid) || self.context.observer.uids().contains(uid);
            if !is_needed && let Err(error) = end::remove_tree(dir.clone(), name.clone()).await {
                tracing::warn!(%error, uid, "cannot remove the logs of a pod that is gone; trying again");
            }
        }
    }

    async fn try_remove_orphan(&self, uid: String) {
        if let Err(error) = self.remove_orphan(&uid).await {
            tracing::warn!(%error, uid, "cannot remove the containers of a pod that is gone; trying again");
        }
    }

    async fn remove_orphan(&self, uid: &str) -> Result<(), end::EndError> {
        let sandboxes = self.context.runtime.sandboxes().await?;
        let containers = self.context.runtime.containers().await?;
        let named = sandboxes.into_iter().map(|sandbox| sandbox.pod).chain(containers.into_iter().map(|container| container.pod));
        let Some(pod_id) = named.into_iter().find(|pod| pod.uid == uid) else { return Ok(()) };
        let pod = stand_in(&pod_id);
        let observed = self.context.observer.observed(uid);
        end::kill(&self.context, &pod, &observed, None).await?;
        volumes::tear_down(&self.context, uid).await?;
        end::remove(&self.context, &pod_id).await?;
        self.context.observer.forget(uid);
        Ok(())
    }
}

/// A worker that fails badly is replaced: its pod must not be without one while the API server has
/// it.
async fn keep_working(context: Arc<Context>, pod: Arc<Pod>, wants: watch::Receiver<Wanted>, ended: watch::Receiver<Option<Ended>>) {
    loop {
        let worker = Worker::new(context.clone(), pod.clone(), wants.clone(), ended.clone());
        match AssertUnwindSafe(worker.run()).catch_unwind().await {
            Ok(Outcome::Finished) => break,
            Ok(Outcome::Outdated) => {
                context.allocations.found(&pod);
                continue;
            }
            Err(_) => tracing::error!(pod = pod_id(&pod).name, "the worker of a pod failed badly; another one takes over"),
        }
        tokio::time::sleep(TAKE_OVER_PAUSE).await;
    }
    context.observer.forget(uid(&pod));
    context.allocations.forget(uid(&pod));
}

/// A pod of which only the containers are left.
fn stand_in(pod_id: &PodId) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some(pod_id.name.clone());
    pod.metadata.namespace = Some(pod_id.namespace.clone());
    pod.metadata.uid = Some(pod_id.uid.clone());
    debug_assert_eq!(brain::podsync::pod_id(&pod), *pod_id);
    pod
}

/// Whether a folder among those of pods may be one: UUIDs, and for static pods 32 hexadecimal
/// digits. Others are not ours to remove.
fn is_uid(name: &str) -> bool {
    let digits = name.bytes().filter(u8::is_ascii_hexdigit).count();
    digits == 32 && (name.len() == 32 || name.len() == 36 && [8, 13, 18, 23].iter().all(|&at| name.as_bytes()[at] == b'-'))
}

#[cfg(test)]
mod tests {
    use super::is_uid;

    #[test]
    fn only_folders_with_the_shape_of_a_uid_are_pods() {
        for uid in ["0b7c1c4e-0d5e-4a4e-9d0f-8f3f1f6f2a11", "0b7c1c4e0d5e4a4e9d0f8f3f1f6f2a11"] {
            assert!(is_uid(uid), "{uid}");
        }
        for other in ["", "..", "lost+found", "backup", "0b7c1c4e-0d5e-4a4e-9d0f-8f3f1f6f2a1", "0b7c1c4e.0d5e.4a4e.9d0f.8f3f1f6f2a11"] {
            assert!(!is_uid(other), "{other}");
        }
    }
}
