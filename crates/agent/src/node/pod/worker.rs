//! The worker of one pod: looks, asks `podsync`, acts, reports, waits. It contains no rule about
//! pods.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use brain::podsync::actions::{self, Actions, Start};
use brain::podsync::resize;
use brain::podsync::status::{self, Ending};
use brain::podsync::{Ended, Memory, Observed, StartFailure, View, is_deleted};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use runtime::port;
use tokio::sync::{mpsc, watch};

use super::probes::{Probes, Verdict};
use super::{config, end, publish, start, uid};
use crate::node::{Context, volumes};

/// A pod is looked at again at least this often: mounted ConfigMaps and tokens are brought up to
/// date then.
const PERIOD: Duration = Duration::from_secs(60);

/// After a failure that no back-off of its own bounds.
const RETRY: Duration = Duration::from_secs(10);

/// An image that could not be pulled shows that it waits soon after.
const PULL_RETRY: Duration = Duration::from_secs(1);

/// A status that could not be told.
const REPORT_RETRY: Duration = Duration::from_secs(1);

/// Volumes that could not be set up: from half a second, doubled, up to about two minutes.
const MOUNT_RETRY_MIN: Duration = Duration::from_millis(500);
const MOUNT_RETRY_MAX: Duration = Duration::from_secs(122);

/// How long the end of a pod waits for what is being made, before it looks again; and in all. A
/// start of a container is given up before that. What hangs longer than any of that, in a file
/// system that does not answer, holds the end up no more: what it makes after all belongs to no pod
/// then, and is removed as such.
const CALLS_TIMEOUT: Duration = Duration::from_secs(10);
const CALLS_WAITS_MAX: u32 = 18;

/// Verdicts of probes that wait for the worker.
const VERDICTS_WAITING_MAX: usize = 64;

/// Whether what is told now is from a time that had passed: the server's store was put back, and
/// what it says counts, not what is newer. A list may also say the same once more; only a deletion
/// that the server has answered with is not given up for that.
fn is_back(before: &Wanted, asked: &Pod, told: &Pod) -> bool {
    let Wanted::Pod(before) = before else { return true };
    match publish::version(told).cmp(&publish::version(before)) {
        Ordering::Less => true,
        Ordering::Equal => !is_deleted(asked) || is_deleted(before) && !is_deleted(told),
        Ordering::Greater => is_deleted(before) && !is_deleted(told),
    }
}

/// What the worker is told from outside.
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
    mount_retry: Duration,
    /// The last report did not reach the API server.
    is_unreported: bool,
    pub calls: Calls,
    /// How often its end waited for them.
    calls_waits: u32,
}

/// Calls of the runtime that make something. They go on when the sync that made them is dropped,
/// and the end of the pod waits for them: nothing else would see what they made.
#[derive(Debug, Clone, Default)]
pub struct Calls(Arc<tokio::sync::Mutex<()>>);

impl Calls {
    /// Runs the call to its end, whether or not its caller stays.
    pub async fn whole<T: Send + 'static>(&self, call: impl Future<Output = port::Result<T>> + Send + 'static) -> port::Result<T> {
        let turn = self.0.clone().lock_owned().await;
        let task = tokio::spawn(async move {
            let result = call.await;
            drop(turn);
            result
        });
        task.await.unwrap_or_else(|error| Err(port::Error::Failed(format!("the call was interrupted: {error}"))))
    }

    /// Waits until none is under way; false: one is after all this time.
    async fn are_done(&self) -> bool {
        tokio::time::timeout(CALLS_TIMEOUT, self.0.lock()).await.is_ok()
    }
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
            mount_retry: MOUNT_RETRY_MIN,
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
                pod = super::id(&self.pod).name,
                "the container runtime does not finish a call for a pod that ends; it ends without"
            );
        }
        false
    }

    fn take_wanted(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        if let Wanted::Pod(pod) = wanted {
            let is_new = !matches!(&self.told, Wanted::Pod(told) if Arc::ptr_eq(told, &pod));
            let is_back = is_new && is_back(&self.told, &self.asked, &pod);
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
        if let Err(failure) = volumes::set_up(&self.context, &self.pod).await {
            self.context.events.pod(&self.pod, true, "FailedMount", failure);
            let retry = self.mount_retry;
            self.mount_retry = (retry * 2).min(MOUNT_RETRY_MAX);
            return Next::At(Timestamp::now() + retry);
        }
        self.mount_retry = MOUNT_RETRY_MIN;
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
        Next::At([wake, resize_due, self.deadline()].into_iter().flatten().fold(at, Timestamp::min))
    }

    pub fn view<'a>(&'a self, observed: &'a Observed, now: Timestamp) -> View<'a> {
        View { now, pod: &self.pod, observed, memory: &self.memory, node_addresses: &self.context.node_addresses }
    }

    /// Ends containers, makes a sandbox, starts containers; answers when something of it is due
    /// again.
    async fn perform(&mut self, observed: &Observed, actions: Actions) -> Option<Timestamp> {
        if actions.kill_pod {
            if actions.sandbox.is_some() && !observed.sandboxes.is_empty() {
                self.context.events.pod(&self.pod, false, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
            }
            if let Err(error) = end::kill(&self.context, &self.pod, observed, self.memory.ended.as_ref()).await {
                self.context.events.pod(&self.pod, true, "FailedKillPod", format!("error killing pod: {error}"));
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
                Err(message) => {
                    self.context.events.pod(&self.pod, true, "FailedCreatePodSandBox", message);
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

    async fn make_sandbox(&mut self, attempt: u32) -> Result<Option<brain::podsync::Sandbox>, String> {
        let made = config::sandbox(&self.context, &self.pod, attempt);
        let full_name = brain::podsync::full_name(&self.pod);
        let (mut config, warning) = made.map_err(|why| format!("Failed to generate sandbox config for pod \"{full_name}\": {why}"))?;
        if let Some(class) = self.pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_ref()) {
            let handler = self.context.objects.runtime_handler(class).await;
            config.handler = handler.map_err(|why| format!("Failed to create sandbox for pod \"{full_name}\": {why}"))?;
        }
        if let Some(warning) = warning {
            self.context.events.pod(&self.pod, true, "MissingClusterDNS", warning);
        }
        let failed = |error: &dyn std::fmt::Display| format!("Failed to create pod sandbox: {error}");
        let runtime = self.context.runtime.clone();
        self.calls.whole(async move { runtime.run_sandbox(&config).await }).await.map_err(|error| failed(&error))?;
        self.context.observer.refresh().await.map_err(|error| failed(&error))?;
        // Not marked as seen: the sync that follows this one looks again.
        let observed = self.context.observer.observed(uid(&self.pod));
        let report = status::report(&self.view(&observed, Timestamp::now()), Ending::No);
        self.report(report.status).await;
        Ok(observed.sandbox().filter(|sandbox| sandbox.is_ready).cloned())
    }

    async fn start(&mut self, sandbox: &brain::podsync::Sandbox, what: &Start) -> Option<Timestamp> {
        if let (Some(waiting), Some(message)) = (what.waiting, what.waiting_message(&self.pod)) {
            let told = format!("Back-off restarting failed container {} in pod {}", what.name, brain::podsync::full_name(&self.pod));
            self.context.events.container(&self.pod, &start::field_path(what), true, "BackOff", told);
            let failure = StartFailure { reason: "CrashLoopBackOff".to_owned(), message };
            self.memory.start_failures.insert(what.name.clone(), failure);
            return Some(waiting.until);
        }
        if let Some(failed_at) = what.failed_at {
            self.memory.restarts.next(&actions::restart_key(&what.name), failed_at, Timestamp::now());
        }
        match start::start(self, sandbox, what).await {
            Ok(()) => {
                self.memory.start_failures.remove(&what.name);
                None
            }
            Err(failure) => {
                let retry = match failure.reason.as_str() {
                    "ErrImagePull" => Some(Timestamp::now() + PULL_RETRY),
                    "ImagePullBackOff" => start::pull_due(self, what),
                    _ => Some(Timestamp::now() + RETRY),
                };
                self.memory.start_failures.insert(what.name.clone(), failure);
                retry
            }
        }
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
                tracing::warn!(%error, pod = super::id(&self.pod).name, "cannot report a pod; trying again");
                self.is_unreported = true;
            }
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        let started = self.pod.status.as_ref()?.start_time.as_ref()?.0;
        Some(started + Duration::from_secs(u64::try_from(seconds).ok()?))
    }

    fn check_deadline(&mut self) {
        if self.memory.ended.is_none() && self.deadline().is_some_and(|deadline| Timestamp::now() >= deadline) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.context.events.pod(&self.pod, false, "DeadlineExceeded", message);
            let ended = Ended { reason: "DeadlineExceeded".to_owned(), message: message.to_owned(), grace_seconds: None, disruption: None };
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
            tracing::warn!(%error, pod = super::id(&self.pod).name, "cannot end a pod; trying again");
            self.context.events.pod(&self.pod, true, "FailedKillPod", format!("error killing pod: {error}"));
            return Next::At(Timestamp::now() + RETRY_KILL);
        }
        self.probes.end();
        self.refresh().await;
        let observed = self.context.observer.observed(uid(&self.pod));
        if observed.is_anything_running() {
            return Next::At(Timestamp::now() + RETRY_KILL);
        }
        self.take_wanted();
        if self.is_outdated {
            return Next::Outdated;
        }
        // Before anybody can send a successor.
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
            tracing::warn!(%error, pod = super::id(&self.pod).name, "cannot remove volumes; trying again");
            return Next::At(Timestamp::now() + RETRY_KILL);
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
        match end::remove(&self.context, &super::id(&self.pod)).await {
            Ok(()) => Next::Finished,
            Err(error) => {
                tracing::warn!(%error, "cannot remove what is left of a pod; trying again");
                Next::At(Timestamp::now() + RETRY_KILL)
            }
        }
    }

    /// Ends all containers. A deletion that leaves less time than the one before it takes effect at
    /// once.
    async fn kill_all(&mut self, gone: bool) -> Result<(), String> {
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

/// A pod that could not be ended is tried again.
const RETRY_KILL: Duration = Duration::from_secs(2);

/// What a pod gets that was removed from the API server without grace.
const FORCED_GRACE_SECONDS: i64 = 2;

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn pod(version: &str, is_deleted: bool) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.resource_version = Some(version.to_owned());
        pod.metadata.deletion_timestamp = is_deleted.then_some(Time(Timestamp::UNIX_EPOCH));
        Arc::new(pod)
    }

    #[test]
    fn a_store_that_was_put_back_is_told_from_a_watch_that_lags() {
        let back = |before: &Arc<Pod>, asked: &Arc<Pod>, told: &Arc<Pod>| is_back(&Wanted::Pod(before.clone()), asked, told);
        let (old, new, deleted) = (pod("5", false), pod("9", false), pod("9", true));
        assert!(back(&new, &new, &old), "an older version than the list or watch had told");
        assert!(!back(&old, &pod("12", false), &new), "the watch comes up to what was answered");
        assert!(back(&old, &new, &old), "a list says the same again; the answer may be of what is no more");
        assert!(!back(&old, &deleted, &old), "a deletion that was answered stays");
        assert!(back(&deleted, &deleted, &pod("20", false)), "a deletion is not taken back otherwise");
        assert!(!back(&deleted, &deleted, &pod("20", true)));
        assert!(is_back(&Wanted::Gone, &new, &pod("20", false)));
    }
}
