//! The process with the controllers: its picture of the cluster, which lags behind; its requests, which get lost; its crashes.
//!
//! It does what the engine of the crate `controllers` does, one event at a time.

use std::collections::{BTreeMap, VecDeque};

use brain::cluster::{Cluster, Kind};
use brain::controller::{Controller, Outcome, Queue, Step};
use brain::model::Key;
use brain::pretend::{Server, read};
use brain::request::{NAMESPACES, Request};
use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};

use crate::Report;

/// A controller that crashed is back after this long.
const RESTART: SignedDuration = SignedDuration::from_secs(3);

/// How bad the network is, in thousandths; every seed has another mixture, and some of the faults not at all.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    lose_request: u32,
    lose_reply: u32,
    cut_watch: u32,
    crash: u32,
    /// Steps by which an event of a watch may be late.
    lag_steps_max: u32,
}

impl Network {
    pub fn random(rng: &mut Rng) -> Network {
        let mut sometimes = |max: u32| if rng.bool() { rng.u32(0..=max) } else { 0 };
        Network {
            lose_request: sometimes(100),
            lose_reply: sometimes(100),
            cut_watch: sometimes(4),
            crash: sometimes(2),
            lag_steps_max: sometimes(40),
        }
    }

    fn good() -> Network {
        Network { lose_request: 0, lose_reply: 0, cut_watch: 0, crash: 0, lag_steps_max: 1 }
    }
}

pub struct Manager {
    rng: Rng,
    network: Network,
    /// None while it is down.
    process: Option<Process>,
    back_at: Timestamp,
    pub counts: Report,
    /// What happened to it since somebody looked.
    pub notes: Vec<String>,
}

struct Process {
    cluster: Cluster,
    slots: Vec<(Box<dyn Controller>, Queue)>,
    /// How far in the server's log the watch of each kind is.
    watches: BTreeMap<Kind, usize>,
    jobs: Vec<Job>,
}

/// Work that is being done: one request at a time.
struct Job {
    slot: usize,
    key: Key,
    steps: VecDeque<Step>,
    last: Option<Request>,
    outcome: Outcome,
}

impl Manager {
    pub fn new(rng: Rng, network: Network) -> Manager {
        let process = None;
        Manager { rng, network, process, back_at: Timestamp::UNIX_EPOCH, counts: Report::default(), notes: Vec::new() }
    }

    /// No faults from now on.
    pub fn calm(&mut self) {
        self.network = Network::good();
    }

    /// Nothing planned, nothing under way.
    pub fn is_idle(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.jobs.is_empty())
    }

    fn chance(&mut self, thousandths: u32) -> bool {
        self.rng.u32(0..1000) < thousandths
    }

    pub fn act(&mut self, server: &mut Server, now: Timestamp) {
        if self.chance(self.network.crash) && self.process.is_some() {
            self.process = None;
            self.back_at = now + RESTART;
            self.counts.crashes += 1;
            self.notes.push("the controllers crash".to_owned());
        }
        if self.process.is_none() {
            if now < self.back_at {
                return;
            }
            self.process = Some(Process::start(server));
            self.notes.push("the controllers start".to_owned());
        }
        let Some(mut process) = self.process.take() else { return };
        self.watch(&mut process, server);
        self.plan(&mut process, now);
        self.work(&mut process, server, now);
        self.process = Some(process);
    }

    /// Takes in what the watches bring, each as far as it happens to be.
    fn watch(&mut self, process: &mut Process, server: &Server) {
        for kind in followed() {
            if self.chance(self.network.cut_watch) {
                self.counts.cut_watches += 1;
                self.notes.push(format!("the watch of {kind:?} is cut"));
                process.relist(kind, server);
                continue;
            }
            let behind = server.log.len() - process.watches[&kind];
            if behind > 0 && (self.network.lag_steps_max == 0 || self.rng.u32(0..=self.network.lag_steps_max) == 0) {
                let until = process.watches[&kind] + self.rng.usize(1..=behind);
                process.follow(kind, server, until);
            }
        }
    }

    fn plan(&mut self, process: &mut Process, now: Timestamp) {
        for slot in 0..process.slots.len() {
            loop {
                let (controller, queue) = &mut process.slots[slot];
                queue.next_wake(now);
                let Some(key) = queue.take(&process.cluster, now) else { break };
                let work = controller.plan(&process.cluster, &key, now);
                self.counts.plans += 1;
                let outcome = Outcome { wake_at: work.wake_at, more: work.more, rest: work.rest, ..Outcome::default() };
                if work.is_empty() {
                    process.done(slot, key, outcome, now);
                    break;
                }
                process.jobs.push(Job { slot, key, steps: work.steps.into(), last: work.last, outcome });
            }
        }
    }

    /// Every job sends its next request, or its next few.
    fn work(&mut self, process: &mut Process, server: &mut Server, now: Timestamp) {
        let mut going = Vec::new();
        for mut job in std::mem::take(&mut process.jobs) {
            let requests = self.rng.usize(1..4);
            let ended = (0..requests).any(|_| !self.advance(&mut job, server, now));
            if ended {
                process.done(job.slot, job.key, job.outcome, now);
            } else {
                going.push(job);
            }
        }
        process.jobs.extend(going);
    }

    /// Sends the next request of a job; false when there is none.
    fn advance(&mut self, job: &mut Job, server: &mut Server, now: Timestamp) -> bool {
        while job.steps.front().is_some_and(|step| step.requests.is_empty()) {
            job.steps.pop_front();
        }
        let Some(step) = job.steps.front_mut() else {
            return match job.last.take() {
                Some(request) => {
                    job.outcome.failed |= !self.send(&request, &mut job.outcome, server, now);
                    true
                }
                None => false,
            };
        };
        let request = step.requests.remove(0);
        let independent = step.independent;
        if !self.send(&request, &mut job.outcome, server, now) {
            if independent {
                let again = now + SignedDuration::from_secs(1);
                job.outcome.wake_at = Some(job.outcome.wake_at.map_or(again, |at| at.min(again)));
            } else {
                job.outcome.failed = true;
                job.steps.clear();
            }
        }
        true
    }

    /// Sends a request over the network; says whether an acceptance came back.
    fn send(&mut self, request: &Request, outcome: &mut Outcome, server: &mut Server, now: Timestamp) -> bool {
        if self.chance(self.network.lose_request) {
            self.counts.lost_requests += 1;
            return false;
        }
        let answer = server.send(request, now);
        if self.chance(self.network.lose_reply) {
            self.counts.lost_replies += 1;
            return false;
        }
        if let Ok(written) = &answer {
            outcome.written.extend(written.clone());
        }
        answer.is_ok()
    }
}

impl Process {
    /// Starts with complete lists.
    fn start(server: &Server) -> Process {
        let mut process = Process { cluster: Cluster::default(), slots: slots(), watches: BTreeMap::new(), jobs: Vec::new() };
        for kind in followed() {
            process.relist(kind, server);
        }
        process
    }

    /// A new list of a kind: whatever is not in it is gone.
    fn relist(&mut self, kind: Kind, server: &Server) {
        self.cluster.list_started(kind);
        let objects: Vec<_> = server.list(kind.resource()).filter_map(|(_, object)| read(kind.resource(), object)).collect();
        let listed: Vec<Key> = objects.iter().map(|object| object.meta().key()).collect();
        for object in objects {
            let change = self.cluster.put(object);
            self.tell(&change);
        }
        for key in self.cluster.keys(kind) {
            if !listed.contains(&key)
                && let Some(change) = self.cluster.remove(kind, &key, 0)
            {
                self.tell(&change);
            }
        }
        self.cluster.list_finished(kind);
        self.watches.insert(kind, server.log.len());
    }

    /// Takes in the events of a kind up to a place in the log.
    fn follow(&mut self, kind: Kind, server: &Server, until: usize) {
        let from = self.watches.insert(kind, until).unwrap_or(until);
        for event in server.log[from..until].iter().filter(|event| event.resource == kind.resource()) {
            let change = match &event.object {
                Some(object) => read(event.resource, object).map(|object| self.cluster.put(object)),
                None => self.cluster.remove(kind, &event.key, event.version),
            };
            if let Some(change) = change {
                self.tell(&change);
            }
        }
    }

    fn tell(&mut self, change: &brain::cluster::Change) {
        for (controller, queue) in &mut self.slots {
            controller.concerns(&self.cluster, change, &mut |key| queue.add(key));
        }
    }

    fn done(&mut self, slot: usize, key: Key, mut outcome: Outcome, now: Timestamp) {
        for written in &mut outcome.written {
            written.lists_started = self.cluster.progress(written.kind).lists_started;
        }
        self.slots[slot].1.done(key, outcome, now);
    }
}

/// The kinds that the controllers look at.
fn followed() -> impl Iterator<Item = Kind> {
    [Kind::Pod, Kind::Node, Kind::DaemonSet, Kind::ControllerRevision, Kind::Lease, Kind::PodDisruptionBudget, NAMESPACES.followed()]
        .into_iter()
}

fn slots() -> Vec<(Box<dyn Controller>, Queue)> {
    let controllers: Vec<Box<dyn Controller>> = vec![
        Box::new(brain::daemonset::DaemonSetController::default()),
        Box::new(brain::scheduler::Scheduler::default()),
        Box::new(brain::gc::GarbageCollector::default()),
        Box::new(brain::podgc::PodGc::default()),
        Box::new(brain::node_lifecycle::NodeLifecycle::default()),
        Box::new(brain::taint_eviction::TaintEviction::default()),
    ];
    controllers.into_iter().map(|controller| (controller, Queue::default())).collect()
}
