//! The process with the controllers: its picture of the cluster, which lags behind; its requests,
//! which get lost; its crashes.
//!
//! It does what the engine of the crate `controllers` does, one event at a time.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::vec;

use brain::controller::Controller;
use brain::controllers::ClusterSettings;
use brain::execution::Execution;
use brain::model::Key;
use brain::node_ipam::{ClusterRange, ClusterRanges};
use brain::picture::{Kind, Picture};
use brain::pretend::Server;
use brain::queue::{Outcome, Queue, Written};
use brain::request::Request;
use fastrand::Rng;
use ipnet::{IpNet, Ipv4Net};
use jiff::{SignedDuration, Timestamp};

use crate::Report;

/// Stands in for the certificate of the cluster's authority; nothing here reads it.
const CERTIFICATE: &str = "certificate";

/// Ranges for eight nodes: little more than there are.
const POD_RANGE: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 21));
const NODE_PREFIX: u8 = 24;

/// A controller that crashed is back after this long.
const RESTART: SignedDuration = SignedDuration::from_secs(3);

/// How bad the network is, in thousandths; every seed has another mixture, and some of the faults
/// not at all.
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
    /// What happened to it since the notes were last taken.
    pub notes: Vec<String>,
}

struct Process {
    picture: Picture,
    slots: Vec<(Box<dyn Controller>, Queue)>,
    /// How far in the server's log the watch of each kind is.
    watches: BTreeMap<Kind, usize>,
    jobs: Vec<Job>,
}

/// Work that is being done: one request at a time.
struct Job {
    slot: usize,
    key: Key,
    execution: Execution,
    /// What is left of the batch that is being sent.
    batch: vec::IntoIter<Request>,
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
        for kind in process.kinds() {
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
                let Some(key) = queue.take(&process.picture, now) else { break };
                let work = controller.plan(&process.picture, &key, now);
                self.counts.plans += 1;
                let is_empty = work.is_empty();
                let execution = Execution::new(work);
                if is_empty {
                    process.done(slot, key, execution.outcome(), now);
                    break;
                }
                process.jobs.push(Job { slot, key, execution, batch: Vec::new().into_iter() });
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
                process.done(job.slot, job.key, job.execution.outcome(), now);
            } else {
                going.push(job);
            }
        }
        process.jobs.extend(going);
    }

    /// Sends the next request of a job; false when there is none.
    fn advance(&mut self, job: &mut Job, server: &mut Server, now: Timestamp) -> bool {
        let request = match job.batch.next() {
            Some(request) => request,
            None => {
                let Some(batch) = job.execution.next_batch() else { return false };
                job.batch = batch.into_iter();
                return true;
            }
        };
        let answer = self.send(&request, server, now);
        job.execution.answered(answer, now);
        true
    }

    /// Sends a request over the network, which may lose it or its answer.
    fn send(&mut self, request: &Request, server: &mut Server, now: Timestamp) -> Result<Option<Written>, ()> {
        if self.chance(self.network.lose_request) {
            self.counts.lost_requests += 1;
            return Err(());
        }
        let answer = server.send(request, now);
        if self.chance(self.network.lose_reply) {
            self.counts.lost_replies += 1;
            return Err(());
        }
        answer.map_err(|_| ())
    }
}

impl Process {
    /// Starts with complete lists.
    fn start(server: &Server) -> Process {
        let mut process = Process { picture: Picture::default(), slots: slots(), watches: BTreeMap::new(), jobs: Vec::new() };
        for kind in brain::controllers::followed() {
            process.relist(kind, server);
        }
        process
    }

    fn kinds(&self) -> Vec<Kind> {
        self.watches.keys().copied().collect()
    }

    /// A new list of a kind: whatever is not in it is gone.
    fn relist(&mut self, kind: Kind, server: &Server) {
        self.picture.list_started(kind);
        let objects: Vec<_> = server.list(kind.resource()).filter_map(|(_, object)| kind.read(object)).collect();
        let listed: Vec<Key> = objects.iter().map(|object| object.meta().key()).collect();
        for object in objects {
            let change = self.picture.put(object);
            self.tell(&change);
        }
        for key in self.picture.keys(kind) {
            if !listed.contains(&key)
                && let Some(change) = self.picture.remove(kind, &key, 0)
            {
                self.tell(&change);
            }
        }
        self.picture.list_finished(kind);
        self.watches.insert(kind, server.log.len());
    }

    /// Takes in the events of a kind up to a place in the log.
    fn follow(&mut self, kind: Kind, server: &Server, until: usize) {
        let from = self.watches.insert(kind, until).unwrap_or(until);
        for event in server.log[from..until].iter().filter(|event| event.resource == kind.resource()) {
            let change = match &event.object {
                Some(object) => kind.read(object).map(|object| self.picture.put(object)),
                None => self.picture.remove(kind, &event.key, event.version),
            };
            if let Some(change) = change {
                self.tell(&change);
            }
        }
    }

    fn tell(&mut self, change: &brain::picture::Change) {
        for (controller, queue) in &mut self.slots {
            controller.concerns(&self.picture, change, &mut |key| queue.add(key));
        }
    }

    fn done(&mut self, slot: usize, key: Key, outcome: Outcome, now: Timestamp) {
        self.slots[slot].1.done(key, outcome, &self.picture, now);
    }
}

fn slots() -> Vec<(Box<dyn Controller>, Queue)> {
    let range = ClusterRange::new(POD_RANGE, NODE_PREFIX).expect("the range can be divided");
    let pod_ranges = ClusterRanges::new(vec![range]).expect("it is the only one");
    let settings = ClusterSettings { root_certificate_pem: CERTIFICATE.to_owned(), pod_ranges };
    brain::controllers::all(settings).into_iter().map(|controller| (controller, Queue::default())).collect()
}
