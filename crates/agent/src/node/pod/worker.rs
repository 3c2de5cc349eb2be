//! The worker of one pod: looks, asks `podsync`, acts, reports, waits. It contains no rule about
//! pods.

use std::sync::Arc;
use std::time::Duration;

use brain::podsync::actions::{self, Actions, Start};
use brain::podsync::failure::{Retry, StartFailure};
use brain::podsync::pace::{
    self, CALLS_WAITS_MAX, FORCED_GRACE_SECONDS, KILL_RETRY, MountRetry, NETWORK_RETRY, PERIOD, PULL_RETRY, REPORT_RETRY, RETRY,
};
use brain::podsync::status::{self, Ending};
use brain::podsync::{Ended, Memory, Observed, View, is_deleted, pod_id, registration, report, resize, uid};
use brain::request::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, watch};

use super::calls::Calls;
use super::probes::{Probes, Verdict};
use super::{config, end, images, publish, start};
use crate::node::objects::ObjectError;
use crate::node::{Context, volumes};

/// Verdicts of probes that wait for the worker.
const VERDICTS_WAITING_MAX: usize = 64;

/// What the agent wants of the worker.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// The pod as the API server has it.
    Pod(Arc<Pod>),
    /// The API server has it no more.
    Gone,
}

pub struct Worker {
    pub context: Arc<Context>,
    /// The newest of what was seen and what came back from reports.
    pub asked: Arc<Pod>,
    /// The same, with the resources that it was given in the place of those that it asks for.
    pub pod: Arc<Pod>,
    /// What came last from the API server's list and watch.
    told: Wanted,
    /// The pod that this worker was ending is there again, as it was before: another worker begins
    /// with nothing of what this one remembers.
    is_outdated: bool,
    wanted: watch::Receiver<Wanted>,
    ends: watch::Receiver<Option<Ended>>,
    observed: watch::Receiver<Arc<Observed>>,
    pub memory: Memory,
    probes: Probes,
    verdicts: mpsc::Receiver<Verdict>,
    mount_retry: MountRetry,
    /// The last report did not reach the API server.
    is_unreported: bool,
    pub calls: Calls,
    /// How often its end waited for them.
    calls_waits: u32,
}

/// Why a pod has no sandbox: the text of the event `FailedCreatePodSandBox`.
#[derive(Debug, thiserror::Error)]
enum SandboxError {
    #[error("Failed to generate sandbox config for pod \"{pod}\": {source}")]
    Config { pod: String, source: config::Error },
    #[error("Failed to create sandbox for pod \"{pod}\": {source}")]
    Handler { pod: String, source: ObjectError },
    #[error("Failed to create pod sandbox: {0}")]
    Runtime(#[from] containers::Error),
}

/// When to look again.
enum Next {
    At(Timestamp),
    Finished,
    Outdated,
}

/// Why a worker has nothing to do any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing of the pod is left.
    Finished,
    /// The pod is there again after its end began.
    Outdated,
}

impl Worker {
    pub fn new(context: Arc<Context>, pod: Arc<Pod>, wanted: watch::Receiver<Wanted>, ends: watch::Receiver<Option<Ended>>) -> Worker {
        let observed = context.observer.follow(uid(&pod));
        let (sender, verdicts) = mpsc::channel(VERDICTS_WAITING_MAX);
        let memory = Memory { started_at: Some(Timestamp::now()), ..Memory::default() };
        let probes = Probes::new(context.clone(), sender);
        let mut worker = Worker {
            context,
            asked: pod.clone(),
            told: Wanted::Pod(pod.clone()),
            is_outdated: false,
            pod,
            wanted,
            ends,
            observed,
            memory,
            probes,
            verdicts,
            mount_retry: MountRetry::default(),
            is_unreported: false,
            calls: Calls::default(),
            calls_waits: 0,
        };
        worker.see(worker.asked.clone());
        worker
    }

    /// A version of the pod; the newer one counts.
    pub fn see(&mut self, pod: Arc<Pod>) {
        self.take(publish::newer(&self.asked, &pod));
    }

    fn take(&mut self, pod: Arc<Pod>) {
        self.asked = pod;
        let given = self.context.allocations.of(uid(&self.asked));
        let differs = given.filter(|given| !resize::is_given(&self.asked, given));
        self.pod = differs.map_or_else(|| self.asked.clone(), |given| Arc::new(resize::with_allocation(&self.asked, &given)));
    }

    /// Until nothing of the pod is left, or the agent goes (then it is dropped, and the containers
    /// stay).
    pub async fn run(mut self) -> Outcome {
        loop {
            let next = self.sync_until_ended().await;
            match next {
                Next::Finished => return Outcome::Finished,
                Next::Outdated => return Outcome::Outdated,
                Next::At(at) => self.wait(at).await,
            }
        }
    }

    /// Looks once; what takes long (pulling an image) is given up when the pod ends meanwhile.
    async fn sync_until_ended(&mut self) -> Next {
        let is_ending = self.is_ending();
        if self.is_outdated {
            return Next::Outdated;
        }
        if is_ending {
            if !self.may_end().await {
                return Next::At(Timestamp::now());
            }
            return self.end().await;
        }
        let mut wanted = self.wanted.clone();
        let mut ends = self.ends.clone();
        let ended = async {
            let deleted = wanted.wait_for(|wanted| match wanted {
                Wanted::Pod(pod) => is_deleted(pod),
                Wanted::Gone => true,
            });
            let ended = ends.wait_for(Option::is_some);
            // Both only wait; nothing is lost with the other.
            tokio::select! {
                _ = deleted => {}
                _ = ended => {}
            }
        };
        // A dropped sync leaves what it did half to be seen at the next look, which ends the pod.
        let next = tokio::select! {
            biased;
            () = ended => None,
            next = self.sync() => Some(next),
        };
        match next {
            Some(next) => next,
            None => {
                if !self.may_end().await {
                    return Next::At(Timestamp::now());
                }
                self.refresh().await;
                self.take_wanted();
                self.end().await
            }
        }
    }

    /// Whether nothing is being made any more, or what is takes longer than anything should.
    async fn may_end(&mut self) -> bool {
        if self.calls_waits >= CALLS_WAITS_MAX || self.calls.are_done().await {
            return true;
        }
        self.calls_waits += 1;
        if self.calls_waits == CALLS_WAITS_MAX {
            tracing::warn!(
                pod = pod_id(&self.pod).name,
                "the container runtime does not finish a call for a pod that ends; it ends without"
            );
        }
        false
    }

    fn take_wanted(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        if let Wanted::Pod(pod) = wanted {
            let is_new = !matches!(&self.told, Wanted::Pod(told) if Arc::ptr_eq(told, &pod));
            let before = match &self.told {
                Wanted::Pod(before) => Some(before.as_ref()),
                Wanted::Gone => None,
            };
            let is_back = is_new && report::is_back(before, &self.asked, &pod);
            let was_leaving = matches!(self.told, Wanted::Gone) || is_deleted(&self.asked);
            self.is_outdated |= is_back && was_leaving && !is_deleted(&pod);
            self.told = Wanted::Pod(pod.clone());
            if is_back { self.take(pod) } else { self.see(pod) }
        } else {
            self.told = wanted;
        }
        if let Some(ended) = self.ends.borrow_and_update().clone() {
            self.memory.ended = Some(ended);
        }
        self.probes.take(&mut self.verdicts, &mut self.memory);
    }

    fn is_ending(&mut self) -> bool {
        self.take_wanted();
        let gone = matches!(*self.wanted.borrow(), Wanted::Gone);
        gone || is_deleted(&self.pod) || self.memory.ended.is_some()
    }

    async fn sync(&mut self) -> Next {
        let observed = self.observed.borrow_and_update().clone();
        self.check_deadline();
        resize::remember(&mut self.memory, &self.pod, &observed);
        let resize_due = self.resize();
        let report = status::report(&self.view(&observed, Timestamp::now()), Ending::No);
        let is_over = report.phase.is_terminal();
        self.report(report.status).await;
        if is_over {
            return self.end().await;
        }
        self.probes.update(&self.pod, &observed, &mut self.memory);
        let network_problem = self.context.registration.network_problem();
        if let Some(message) = registration::waits_for_network(&self.pod, network_problem.as_deref()) {
            self.context.events.pod(&self.pod, EventType::Warning, "NetworkNotReady", message);
            return Next::At(Timestamp::now() + NETWORK_RETRY);
        }
        if let Err(failure) = volumes::set_up(&self.context, &self.pod).await {
            self.context.events.pod(&self.pod, EventType::Warning, "FailedMount", failure.to_string());
            return Next::At(Timestamp::now() + self.mount_retry.after_failure());
        }
        self.mount_retry.reset();
        let actions = actions::plan(&self.view(&observed, Timestamp::now()));
        let wake = self.perform(&observed, actions).await;
        let latest = self.context.observer.observed(uid(&self.pod));
        if latest == observed {
            // What failed to start shows in the status at once; what started shows with its record,
            // at the next look.
            let report = status::report(&self.view(&latest, Timestamp::now()), Ending::No);
            self.report(report.status).await;
        }
        let soon = if self.is_unreported { REPORT_RETRY } else { PERIOD };
        let at = Timestamp::now() + soon;
        Next::At([wake, resize_due, pace::deadline(&self.pod)].into_iter().flatten().fold(at, Timestamp::min))
    }

    pub fn view<'a>(&'a self, observed: &'a Observed, now: Timestamp) -> View<'a> {
        View { now, pod: &self.pod, observed, memory: &self.memory, node_addresses: &self.context.node_addresses }
    }

    /// Ends containers, makes a sandbox, starts containers; answers when something of it is due
    /// again.
    async fn perform(&mut self, observed: &Observed, actions: Actions) -> Option<Timestamp> {
        if actions.kill_pod {
            if actions.sandbox.is_some() && !observed.sandboxes.is_empty() {
                self.context.events.pod(
                    &self.pod,
                    EventType::Normal,
                    "SandboxChanged",
                    "Pod sandbox changed, it will be killed and re-created.",
                );
            }
            if let Err(error) = end::kill(&self.context, &self.pod, observed, self.memory.ended.as_ref()).await {
                self.context.events.pod(&self.pod, EventType::Warning, "FailedKillPod", format!("error killing pod: {error}"));
                return Some(Timestamp::now() + RETRY);
            }
        }
        for kill in &actions.kill {
            if let Err(error) = end::kill_one(&self.context, &self.pod, kill).await {
                tracing::warn!(%error, container = kill.name, "cannot end a container; trying again");
                return Some(Timestamp::now() + RETRY);
            }
        }
        let mut wake = self.update(observed, &actions.update).await;
        let mut sandbox = observed.sandbox().filter(|sandbox| sandbox.is_ready).cloned();
        if let Some(attempt) = actions.sandbox {
            match self.make_sandbox(attempt).await {
                Ok(made) => sandbox = made,
                Err(error) => {
                    self.context.events.pod(&self.pod, EventType::Warning, "FailedCreatePodSandBox", error.to_string());
                    return Some(Timestamp::now() + RETRY);
                }
            }
        }
        let Some(sandbox) = sandbox else {
            self.refresh().await;
            return None;
        };
        for start in &actions.start {
            let due = self.start(&sandbox, start).await;
            wake = [wake, due].into_iter().flatten().min();
        }
        if !actions.start.is_empty() || !actions.kill.is_empty() || actions.kill_pod {
            self.refresh().await;
        }
        wake
    }

    async fn make_sandbox(&mut self, attempt: u32) -> Result<Option<brain::podsync::Sandbox>, SandboxError> {
        let pod = || brain::podsync::full_name(&self.pod);
        let made = config::sandbox(&self.context, &self.pod, attempt);
        let mut config = made.map_err(|source| SandboxError::Config { pod: pod(), source })?;
        for warning in config::dns_warnings(&self.context, &self.pod) {
            if let Some(message) = warning.of_node {
                self.context.events.node(EventType::Warning, warning.reason, message);
            }
            self.context.events.pod(&self.pod, EventType::Warning, warning.reason, warning.message);
        }
        if let Some(class) = self.pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_ref()) {
            let handler = self.context.objects.runtime_handler(class).await;
            config.handler = handler.map_err(|source| SandboxError::Handler { pod: pod(), source })?;
        }
        let runtime = self.context.runtime.clone();
        self.calls.whole(async move { runtime.run_sandbox(&config).await }).await?;
        self.context.observer.refresh().await?;
        // Not marked as seen: the sync that follows this one looks again.
        let observed = self.context.observer.observed(uid(&self.pod));
        let report = status::report(&self.view(&observed, Timestamp::now()), Ending::No);
        self.report(report.status).await;
        Ok(observed.sandbox().filter(|sandbox| sandbox.is_ready).cloned())
    }

    async fn start(&mut self, sandbox: &brain::podsync::Sandbox, what: &Start) -> Option<Timestamp> {
        if let (Some(waiting), Some(failure)) = (what.waiting, StartFailure::crash_loop(what, &self.pod)) {
            start::tell(&self.context, &self.pod, what, &failure);
            self.memory.start_failures.insert(what.name.clone(), failure);
            return Some(waiting.until);
        }
        if let Some(failed_at) = what.failed_at {
            self.memory.restarts.next(&actions::restart_key(&what.name), failed_at, Timestamp::now());
        }
        let pulls = images::Pulls {
            context: &self.context,
            pod: &self.pod,
            backoffs: &mut self.memory.pulls,
            last_failure: self.memory.start_failures.get(&what.name),
        };
        let Err(failure) = start::start(pulls, &self.calls, sandbox, what).await else {
            self.memory.start_failures.remove(&what.name);
            return None;
        };
        let retry = match failure.retry() {
            Retry::Soon => Some(Timestamp::now() + PULL_RETRY),
            Retry::WhenPullIsDue => images::pull_due(&self.memory.pulls, &self.pod, what),
            Retry::Later => Some(Timestamp::now() + RETRY),
        };
        self.memory.start_failures.insert(what.name.clone(), failure);
        retry
    }

    pub async fn refresh(&self) {
        if let Err(error) = self.context.observer.refresh().await {
            tracing::warn!(%error, "cannot list containers");
        }
    }

    /// Tells the API server, if it does not know yet.
    async fn report(&mut self, status: PodStatus) {
        match publish::status(&self.context.client, &self.pod, status).await {
            Ok(Some(pod)) => {
                self.see(Arc::new(pod));
                self.is_unreported = false;
            }
            Ok(None) => self.is_unreported = false,
            Err(error) => {
                tracing::warn!(%error, pod = pod_id(&self.pod).name, "cannot report a pod; trying again");
                self.is_unreported = true;
            }
        }
    }

    fn check_deadline(&mut self) {
        if self.memory.ended.is_none()
            && let Some(ended) = pace::past_deadline(&self.pod, Timestamp::now())
        {
            self.context.events.pod(&self.pod, EventType::Normal, "DeadlineExceeded", ended.message.clone());
            self.memory.ended = Some(ended);
        }
    }

    async fn end(&mut self) -> Next {
        let gone = matches!(*self.wanted.borrow(), Wanted::Gone);
        self.probes.end_liveness();
        let observed = self.context.observer.observed(uid(&self.pod));
        if !gone {
            let report = status::report(&self.view(&observed, Timestamp::now()), Ending::Terminating);
            self.report(report.status).await;
        }
        if let Err(error) = self.kill_all(gone).await {
            tracing::warn!(%error, pod = pod_id(&self.pod).name, "cannot end a pod; trying again");
            self.context.events.pod(&self.pod, EventType::Warning, "FailedKillPod", format!("error killing pod: {error}"));
            return Next::At(Timestamp::now() + KILL_RETRY);
        }
        self.probes.end();
        self.refresh().await;
        let observed = self.context.observer.observed(uid(&self.pod));
        if observed.is_anything_running() {
            return Next::At(Timestamp::now() + KILL_RETRY);
        }
        self.take_wanted();
        if self.is_outdated {
            return Next::Outdated;
        }
        // Before the API server can send a successor.
        self.context.allocations.release(uid(&self.pod));
        let gone = matches!(*self.wanted.borrow(), Wanted::Gone);
        if !gone {
            let report = status::report(&self.view(&observed, Timestamp::now()), Ending::Terminated);
            self.report(report.status).await;
            if self.is_unreported {
                return Next::At(Timestamp::now() + REPORT_RETRY);
            }
        }
        if let Err(error) = volumes::tear_down(&self.context, uid(&self.pod)).await {
            tracing::warn!(%error, pod = pod_id(&self.pod).name, "cannot remove volumes; trying again");
            return Next::At(Timestamp::now() + KILL_RETRY);
        }
        self.context.user_ids.release(uid(&self.pod));
        self.context.allocations.forget(uid(&self.pod));
        self.finish(gone).await
    }

    /// Everything has ended: what is deleted goes for good, what merely ended keeps its logs until
    /// it is deleted.
    async fn finish(&mut self, gone: bool) -> Next {
        if !gone && !is_deleted(&self.pod) {
            return Next::At(Timestamp::now() + PERIOD);
        }
        if !gone && let Err(error) = publish::delete(&self.context.client, &self.pod).await {
            tracing::warn!(%error, "cannot delete a pod that has ended; trying again");
            return Next::At(Timestamp::now() + REPORT_RETRY);
        }
        match end::remove(&self.context, &pod_id(&self.pod)).await {
            Ok(()) => Next::Finished,
            Err(error) => {
                tracing::warn!(%error, "cannot remove what is left of a pod; trying again");
                Next::At(Timestamp::now() + KILL_RETRY)
            }
        }
    }

    /// Ends all containers. A deletion that leaves less time than the one before it takes effect at
    /// once.
    async fn kill_all(&mut self, gone: bool) -> Result<(), end::EndError> {
        loop {
            let mut pod = self.pod.as_ref().clone();
            if gone && pod.metadata.deletion_grace_period_seconds.is_none() {
                pod.metadata.deletion_grace_period_seconds = Some(FORCED_GRACE_SECONDS);
            }
            let observed = self.context.observer.observed(uid(&pod));
            let killing = end::kill(&self.context, &pod, &observed, self.memory.ended.as_ref());
            let grace = pod.metadata.deletion_grace_period_seconds;
            let mut wanted = self.wanted.clone();
            let shortened = wanted.wait_for(|wanted| match wanted {
                Wanted::Pod(now) => now.metadata.deletion_grace_period_seconds.is_some_and(|now| grace.is_none_or(|grace| now < grace)),
                Wanted::Gone => !gone,
            });
            // Ending again with less patience is what both runtimes take beside the first attempt.
            tokio::select! {
                result = killing => return result,
                _ = shortened => self.take_wanted(),
            }
            if matches!(*self.wanted.borrow(), Wanted::Gone) {
                return Box::pin(self.kill_all(true)).await;
            }
        }
    }

    async fn wait(&mut self, until: Timestamp) {
        let left = until.duration_since(Timestamp::now());
        let timer = tokio::time::sleep(if left.is_negative() { Duration::ZERO } else { left.unsigned_abs() });
        // All arms only tell that something changed; channels keep their values.
        tokio::select! {
            _ = self.wanted.changed() => {}
            _ = self.ends.changed() => {}
            _ = self.observed.changed() => {}
            Some(verdict) = self.verdicts.recv() => self.probes.note(verdict, &mut self.memory),
            () = timer => {}
        }
    }
}
