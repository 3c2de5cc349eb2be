//! The deterministic cluster: all real deciders in one thread, with virtual time and seeded faults.
//!
//! Real: every controller of `brain`, their queues and barriers, the events of the watches. Not
//! real: the API server (that of `brain::pretend`, without defaulting and admission), nodes,
//! people, and the network between them, which loses requests and replies, delays and cuts watches,
//! and crashes the controllers. One number, the seed, decides everything: the same seed gives the
//! same run.
//!
//! Every run has two parts. While faults go on, only safety is judged ([`judge::Finding`]); when
//! they end, the cluster must come to rest within a bound, and be right.

mod judge;
mod manager;
mod nodes;
mod people;
mod services;

use std::fmt;

use brain::pretend::Server;
use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use judge::{Finding, Judge};
use manager::{Manager, Network};
use nodes::Nodes;
use people::People;
use services::Keepers;

/// How long faults and people go on, in virtual time.
const TROUBLE: SignedDuration = SignedDuration::from_mins(20);

/// How long the cluster may take to come to rest afterwards: the longest pause of a failed pod is a
/// quarter of an hour.
const PEACE_MAX: SignedDuration = SignedDuration::from_hours(2);

/// Virtual time passes in steps of this length.
const STEP: SignedDuration = SignedDuration::from_millis(50);

/// The cluster is at rest when nothing was written for so long, heartbeats apart. Longer than any
/// pause between two plans that matter, shorter than what retries of refused pods wait.
const REST: SignedDuration = SignedDuration::from_mins(3);

/// What a run was like.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    pub seed: u64,
    pub writes: u64,
    pub plans: u64,
    pub crashes: u64,
    pub lost_requests: u64,
    pub lost_replies: u64,
    pub cut_watches: u64,
    /// What happened, line by line; only when asked for.
    pub trace: Vec<String>,
}

/// A run that went wrong, with what replays it.
#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub at: Timestamp,
    pub finding: Finding,
    pub report: Report,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, at, finding, .. } = self;
        write!(f, "seed {seed}, {at}: {finding}\nreplay with: cargo xtask sim --seed {seed} --trace")
    }
}

/// Runs the cluster of a seed to its end.
pub fn run(seed: u64, trace: bool) -> Result<Report, Box<Failure>> {
    let mut world = World::new(seed, trace);
    world.live().map_err(|finding| {
        let at = world.now;
        Box::new(Failure { seed, at, finding, report: world.report() })
    })?;
    Ok(world.report())
}

struct World {
    seed: u64,
    now: Timestamp,
    server: Server,
    manager: Manager,
    nodes: Nodes,
    people: People,
    keepers: Keepers,
    judge: Judge,
    trace: Option<Vec<String>>,
    told: usize,
}

impl World {
    fn new(seed: u64, trace: bool) -> World {
        // A stream of its own for each part: a change in one leaves the others' runs as they were.
        let mut root = Rng::with_seed(seed);
        let network = Network::random(&mut root.fork());
        let (manager_rng, nodes_rng, people_rng, keepers_rng) = (root.fork(), root.fork(), root.fork(), root.fork());
        let mut server = Server::default();
        server.insert(brain::request::NAMESPACES, json!({"metadata": {"name": "default"}}));
        World {
            seed,
            now: Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24),
            server,
            manager: Manager::new(manager_rng, network),
            nodes: Nodes::new(nodes_rng),
            people: People::new(people_rng),
            keepers: Keepers::new(keepers_rng),
            judge: Judge::default(),
            trace: trace.then(Vec::new),
            told: 0,
        }
    }

    fn live(&mut self) -> Result<(), Finding> {
        let begun = self.now;
        while self.now < begun + TROUBLE {
            self.people.act(&mut self.server, &mut self.nodes, self.now);
            self.keepers.act(&mut self.server);
            self.step()?;
        }
        self.nodes.calm(&mut self.server, self.now);
        self.manager.calm();
        let (calm, mut last) = (self.now, self.now);
        while self.now < calm + PEACE_MAX {
            let before = self.server.log.len();
            self.step()?;
            if self.server.log[before..].iter().any(|event| event.resource != brain::request::LEASES) {
                last = self.now;
            }
            if self.now > last + REST && self.manager.is_idle() {
                return self.judge.settled(&self.server).and_then(|()| services::settled(&self.server));
            }
        }
        Err(Finding::Restless)
    }

    fn step(&mut self) -> Result<(), Finding> {
        self.now += STEP;
        self.nodes.act(&mut self.server, self.now);
        self.manager.act(&mut self.server, self.now);
        let told = self.tell();
        if told { self.judge.safe(&self.server) } else { Ok(()) }
    }

    /// Notes what happened; says whether anything did.
    fn tell(&mut self) -> bool {
        let news = &self.server.log[self.told..];
        if let Some(trace) = &mut self.trace {
            let interesting = news.iter().filter(|event| event.resource != brain::request::LEASES);
            trace.extend(interesting.map(|event| {
                let state = event.object.as_ref().map_or("gone".to_owned(), |object| judge::describe(object));
                format!("{} {} {} {state}", self.now, event.resource.kind, event.key)
            }));
            trace.extend(self.manager.notes.drain(..).map(|note| format!("{} {note}", self.now)));
        }
        let any = !news.is_empty();
        self.told = self.server.log.len();
        any
    }

    fn report(&mut self) -> Report {
        Report {
            seed: self.seed,
            writes: self.server.version(),
            trace: self.trace.take().unwrap_or_default(),
            ..self.manager.counts.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough to notice what breaks often; `cargo xtask sim` runs more.
    const SMOKE_SEEDS: u64 = 6;

    #[test]
    fn clusters_of_a_few_seeds_stay_safe_and_settle() {
        for seed in 0..SMOKE_SEEDS {
            if let Err(failure) = run(seed, false) {
                panic!("{failure}");
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let [first, second] = [run(7, true), run(7, true)].map(|report| report.expect("seed 7 is fine"));
        assert_eq!(first, second);
        assert!(first.writes > 100, "{} writes", first.writes);
    }
}
