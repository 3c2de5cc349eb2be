//! Resizing a pod that runs: asks the node for what the pod asks for, then changes limits.

use brain::model;
use brain::podsync::limits;
use brain::podsync::resize::{self, InProgress, Pending, Reason, Update};
use brain::podsync::{Observed, containers, init_containers, is_static, uid};
use brain::request::EventType;
use containers::Resources;
use jiff::{SignedDuration, Timestamp};

use super::worker::Worker;
use crate::node::allocations::{Resized, to_model};

/// Room that others leave is looked for this often, and limits that could not be changed are tried
/// again.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

/// Why the limits of a running pod are not those that it was given: the text of the event
/// `ResizeError`.
#[derive(Debug, thiserror::Error)]
enum ResizeError {
    #[error(transparent)]
    Runtime(#[from] containers::Error),
    #[error("attempting to set container {container:?} memory limit ({limit}) below current usage ({used})")]
    MemoryInUse { container: String, limit: i64, used: u64 },
}

impl Worker {
    /// Gives the pod what it asks for, or says why not; answers when to ask again.
    pub fn resize(&mut self) -> Option<Timestamp> {
        let node = || self.context.registration.node().and_then(|node| to_model::<model::Node>(&node));
        let generation = self.asked.metadata.generation;
        if is_static(&self.asked) {
            // Its manifest is the only one who may ask, and makes another pod.
            return None;
        }
        match self.context.allocations.resize(&self.asked, node) {
            Resized::Already => {
                self.memory.resize.pending = None;
                if self.memory.resize.in_progress.is_none() {
                    self.context.allocations.settle(&self.asked);
                }
            }
            Resized::Given => {
                self.memory.resize.pending = None;
                self.memory.resize.in_progress = Some(InProgress { error: None, generation });
                self.see(self.asked.clone());
                self.context.events.pod(
                    &self.pod,
                    EventType::Normal,
                    "ResizeStarted",
                    resize::event_message("Pod resize started", &self.pod, ""),
                );
            }
            Resized::Refused(reason, message) => {
                let event = resize::event_message(&format!("Pod resize {}", reason.text()), &self.asked, &message);
                let pending = Some(Pending { reason, message, generation });
                if self.memory.resize.pending != pending {
                    self.context.events.pod(&self.asked, EventType::Warning, format!("Resize{}", reason.text()), event);
                    self.memory.resize.pending = pending;
                }
                return (reason == Reason::Deferred).then(|| Timestamp::now() + RETRY);
            }
        }
        None
    }

    /// Changes limits of running containers while a resize is under way, and ends it once they all
    /// have what the pod was given; answers when to try again.
    pub async fn update(&mut self, observed: &Observed, updates: &[Update]) -> Option<Timestamp> {
        if updates.is_empty() && self.memory.resize.in_progress.is_none() {
            return None;
        }
        match self.try_update(observed, updates).await {
            Ok(is_done) => {
                if is_done && self.memory.resize.in_progress.take().is_some() {
                    self.context.allocations.settle(&self.asked);
                    let message = resize::event_message("Pod resize completed", &self.pod, "");
                    self.context.events.pod(&self.pod, EventType::Normal, "ResizeCompleted", message);
                }
                None
            }
            Err(error) => {
                let error = error.to_string();
                let generation = self.memory.resize.in_progress.as_ref().and_then(|progress| progress.generation);
                let progress = Some(InProgress { error: Some(error.clone()), generation });
                if self.memory.resize.in_progress != progress {
                    let message = resize::event_message("Pod resize error", &self.pod, &error);
                    self.context.events.pod(&self.pod, EventType::Warning, "ResizeError", message);
                    self.memory.resize.in_progress = progress;
                }
                Some(Timestamp::now() + RETRY)
            }
        }
    }

    /// The pod's own limits grow before those of its containers, also of those that are made anew,
    /// and shrink after them: a part may never have more than the whole. True: nothing is left to
    /// change.
    async fn try_update(&mut self, observed: &Observed, updates: &[Update]) -> Result<bool, ResizeError> {
        let before = limits::of_pod(&resize::actuated(&self.view(observed, Timestamp::now())));
        let after = limits::of_pod(&self.pod);
        self.limit_pod(observed, limits::larger(&before, &after)).await?;
        for update in updates {
            self.update_one(update).await?;
        }
        let is_done = resize::is_done(&self.view(observed, Timestamp::now()));
        if is_done {
            self.limit_pod(observed, after).await?;
        }
        Ok(is_done)
    }

    async fn limit_pod(&self, observed: &Observed, limits: Resources) -> Result<(), ResizeError> {
        let Some(sandbox) = observed.sandbox() else { return Ok(()) };
        let wanted = limits::with_none_lifted(limits);
        Ok(self.context.runtime.update_sandbox_resources(&sandbox.id, &wanted).await?)
    }

    async fn update_one(&mut self, update: &Update) -> Result<(), ResizeError> {
        let pod = self.pod.clone();
        let all = containers(&pod).iter().chain(init_containers(&pod));
        let Some(container) = all.into_iter().find(|container| container.name == update.name) else { return Ok(()) };
        let id = self.context.observer.bare(&update.container_id).to_owned();
        let wanted = limits::of_container(&pod, container, self.context.machine.memory_bytes);
        self.check_memory(&id, &update.name, wanted.memory_limit_bytes).await?;
        self.context.runtime.update_resources(&id, &wanted).await?;
        self.memory.resize.actuated.insert(update.container_id.clone(), limits::requirements(container));
        tracing::info!(pod = uid(&pod), container = update.name, "changed the limits of a container");
        Ok(())
    }

    /// The kernel would end the container, or refuse.
    async fn check_memory(&self, id: &str, name: &str, limit: Option<i64>) -> Result<(), ResizeError> {
        let Some(limit) = limit else { return Ok(()) };
        let stats = self.context.runtime.container_stats().await?;
        let used = stats.iter().find(|stats| stats.container_id == id).map_or(0, |stats| stats.memory_working_set_bytes);
        if u64::try_from(limit).is_ok_and(|limit| limit < used) {
            return Err(ResizeError::MemoryInUse { container: name.to_owned(), limit, used });
        }
        Ok(())
    }
}
