//! What the agent knows of its sandboxes and containers: kept in memory, loaded from disk once,
//! changed by the calls and by shims that end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::failure::Failure;
use super::record::{ContainerRecord, ExitRecord, SandboxRecord, StartRecord};
use super::sandbox;
use containers::{ContainerState, ContainerStatus, Error, Result, SandboxState, SandboxStatus};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    Created,
    /// A shim is at work; whether the container's process runs already it will tell.
    Starting,
    Running(StartOf),
    Exited(ExitRecord),
}

/// The pid is the first process's, valid while the phase lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartOf {
    pub pid: i32,
    pub at: jiff::Timestamp,
}

impl From<StartRecord> for StartOf {
    fn from(record: StartRecord) -> Self {
        Self { pid: record.pid, at: record.at }
    }
}

/// One container. Clones share their phase.
#[derive(Debug, Clone)]
pub struct Container {
    pub record: Arc<ContainerRecord>,
    pub phase: Arc<watch::Sender<Phase>>,
    /// Kept after the exit.
    started_at: Arc<Mutex<Option<jiff::Timestamp>>>,
    /// The limits now: those of the record until they were changed.
    resources: Arc<Mutex<containers::Resources>>,
}

impl Container {
    pub fn new(record: ContainerRecord, phase: Phase, started: Option<&StartRecord>) -> Self {
        let resources = Arc::new(Mutex::new(record.config.resources.clone()));
        let started_at = Arc::new(Mutex::new(started.map(|s| s.at)));
        Self { record: Arc::new(record), phase: Arc::new(watch::Sender::new(phase)), started_at, resources }
    }

    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    pub fn running(&self) -> Result<StartOf> {
        match self.phase() {
            Phase::Running(start) => Ok(start),
            _ => Err(Failure::NotRunning(self.record.id.clone()).into()),
        }
    }

    pub fn set_started(&self, start: StartOf) {
        *lock(&self.started_at) = Some(start.at);
        self.phase.send_replace(Phase::Running(start));
    }

    pub fn set_resources(&self, resources: &containers::Resources) {
        lock(&self.resources).clone_from(resources);
    }

    pub fn status(&self) -> ContainerStatus {
        let record = &self.record;
        let (state, exit) = match self.phase() {
            Phase::Created | Phase::Starting => (ContainerState::Created, None),
            Phase::Running(_) => (ContainerState::Running, None),
            Phase::Exited(exit) => (ContainerState::Exited, Some(exit)),
        };
        ContainerStatus {
            id: record.id.clone(),
            sandbox_id: record.sandbox_id.clone(),
            pod: record.pod.clone(),
            name: record.config.name.clone(),
            attempt: record.config.attempt,
            state,
            created_at: record.created_at,
            started_at: *lock(&self.started_at),
            finished_at: exit.as_ref().map(|e| e.at),
            exit_code: exit.as_ref().map_or(0, |e| e.code),
            reason: exit.as_ref().map(|e| e.reason.clone()).unwrap_or_default(),
            message: exit.map(|e| e.message).unwrap_or_default(),
            image: record.config.image.clone(),
            image_id: record.config.image_id.clone(),
            log_path: record.log_path.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            user: Some(record.user.clone()),
            resources: lock(&self.resources).clone(),
        }
    }
}

#[derive(Debug, Default)]
pub struct Table {
    rows: Mutex<Rows>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub struct Rows {
    pub sandboxes: BTreeMap<String, SandboxRecord>,
    pub containers: BTreeMap<String, Container>,
}

impl Table {
    /// Never held while anything is waited for.
    pub fn rows(&self) -> MutexGuard<'_, Rows> {
        lock(&self.rows)
    }

    pub fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn sandbox(&self, id: &str) -> Result<SandboxRecord> {
        self.rows().sandboxes.get(id).cloned().ok_or_else(|| Error::NotFound { kind: "sandbox", id: id.to_owned() })
    }

    pub fn container(&self, id: &str) -> Result<Container> {
        self.rows().containers.get(id).cloned().ok_or_else(|| Error::NotFound { kind: "container", id: id.to_owned() })
    }

    pub fn containers(&self) -> Vec<Container> {
        self.rows().containers.values().cloned().collect()
    }

    pub fn containers_of(&self, sandbox_id: &str) -> Vec<Container> {
        self.rows().containers.values().filter(|c| c.record.sandbox_id == sandbox_id).cloned().collect()
    }
}

pub fn sandbox_status(record: &SandboxRecord) -> SandboxStatus {
    let dead = record.stopped || record.pause.is_some_and(|pid| !sandbox::pause_lives(pid));
    SandboxStatus {
        id: record.id.clone(),
        pod: record.config.pod.clone(),
        attempt: record.config.attempt,
        state: if dead { SandboxState::NotReady } else { SandboxState::Ready },
        created_at: record.created_at,
        addresses: record.addresses.clone(),
        host: record.config.host,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
    }
}

/// A panic while holding it leaves whole values: each change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
