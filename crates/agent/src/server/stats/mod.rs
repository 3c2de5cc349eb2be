//! Figures of the node, its pods and its containers: gathered here, written by [`summary`] and
//! [`metrics`].

pub mod machine;
pub mod metrics;
pub mod summary;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use brain::podsync::uid;
use containers::{ContainerStats, SandboxStats};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Mutex;

use super::Shared;

use crate::node::Context;
use machine::Machine;

/// Figures this fresh are given again: several collectors at once cost one look.
const FRESH: Duration = Duration::from_secs(1);

/// Rates are over at least this time.
const RATE_PERIOD_MIN: Duration = Duration::from_secs(5);

/// What was seen at one time.
pub struct Sample {
    pub at: Timestamp,
    taken: Instant,
    pub machine: Machine,
    /// By the runtime's ids.
    pub containers: HashMap<String, ContainerStats>,
    pub sandboxes: HashMap<String, SandboxStats>,
}

/// A sample, and an older one to tell rates by.
#[derive(Clone)]
pub struct Samples {
    pub now: Arc<Sample>,
    before: Option<Arc<Sample>>,
}

/// Looks, and remembers what it saw.
pub struct Collector {
    context: Arc<Context>,
    seen: Mutex<Option<Samples>>,
}

impl Collector {
    pub fn new(context: Arc<Context>) -> Collector {
        Collector { context, seen: Mutex::default() }
    }

    pub async fn samples(&self) -> containers::Result<Samples> {
        let mut seen = self.seen.lock().await;
        if let Some(known) = seen.as_ref().filter(|samples| samples.now.taken.elapsed() < FRESH) {
            return Ok(known.clone());
        }
        let now = Arc::new(self.look().await?);
        let before = seen.take().and_then(|last| {
            let is_old_enough = |sample: &Arc<Sample>| now.taken.duration_since(sample.taken) >= RATE_PERIOD_MIN;
            Some(last.now).filter(is_old_enough).or(last.before)
        });
        let samples = Samples { now, before };
        *seen = Some(samples.clone());
        Ok(samples)
    }

    async fn look(&self) -> containers::Result<Sample> {
        let (containers, sandboxes) = tokio::try_join!(self.context.runtime.container_stats(), self.context.runtime.sandbox_stats())?;
        Ok(Sample {
            at: Timestamp::now(),
            taken: Instant::now(),
            machine: Machine::read(&self.context.settings.root_dir),
            containers: containers.into_iter().map(|stats| (stats.container_id.clone(), stats)).collect(),
            sandboxes: sandboxes.into_iter().map(|stats| (stats.sandbox_id.clone(), stats)).collect(),
        })
    }
}

impl Samples {
    /// Nanoseconds of processor time in each second, by a figure that only grows.
    pub fn rate(&self, figure: impl Fn(&Sample) -> Option<u64>) -> Option<u64> {
        let before = self.before.as_ref()?;
        let used = figure(&self.now)?.checked_sub(figure(before)?)?;
        let seconds = self.now.taken.duration_since(before.taken).as_secs_f64();
        (seconds > 0.0).then(|| (used as f64 / seconds) as u64)
    }
}

/// A pod of this node with the ids of what runs for it.
pub struct Running {
    pub pod: Arc<Pod>,
    pub sandbox_id: Option<String>,
    /// Name, id, start, image of each running container.
    pub containers: Vec<(String, String, Option<Timestamp>, String)>,
}

/// The pods with something running, in the order of their names.
pub(crate) fn running(shared: &Shared) -> Vec<Running> {
    let observer = &shared.agent.context.observer;
    let mut pods: Vec<Running> = shared
        .agent
        .pods
        .all()
        .into_iter()
        .map(|pod| {
            let observed = observer.observed(uid(&pod));
            let running = observed.containers.iter().filter(|record| record.is_running());
            let mut containers: Vec<_> = running
                .map(|record| (record.name.clone(), observer.bare(&record.id).to_owned(), record.started_at, record.image.clone()))
                .collect();
            containers.sort();
            let sandbox_id = observed.sandboxes.iter().find(|sandbox| sandbox.is_ready).map(|sandbox| sandbox.id.clone());
            Running { pod, sandbox_id, containers }
        })
        .filter(|running| running.sandbox_id.is_some() || !running.containers.is_empty())
        .collect();
    let key = |running: &Running| (running.pod.metadata.namespace.clone(), running.pod.metadata.name.clone());
    pods.sort_by_key(key);
    pods
}
