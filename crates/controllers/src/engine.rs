//! The loop around the deciders: one task keeps the picture of the cluster, tells the controllers
//! what changed, plans for the keys that this concerns, and has the plans performed.
//!
//! It contains no rule of the domain. A key is planned only when the picture shows what its last
//! plan wrote; that barrier and the pauses after failures are `brain::queue::Queue`'s.

use std::time::Duration;

use brain::controller::Controller;
use brain::execution::Execution;
use brain::model::Key;
use brain::picture::{Kind, Picture};
use brain::queue::{Outcome, Queue};
use jiff::Timestamp;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};

use crate::perform::perform;
use crate::report::Reporter;
use crate::watch::{Input, follow};

/// Events of watches that wait to be looked at; beyond it the watches wait.
const INPUTS_MAX: usize = 4096;

/// Looked at in one go before planning.
const INPUTS_AT_ONCE_MAX: usize = 512;

/// Without any reason to wake the loop looks around this often.
const IDLE_PERIOD: Duration = Duration::from_secs(60);

/// A controller with what it has to do.
struct Slot {
    controller: Box<dyn Controller>,
    queue: Queue,
}

struct Engine {
    client: Client,
    reporter: Reporter,
    picture: Picture,
    slots: Vec<Slot>,
    /// Kinds whose first list is not complete.
    unlisted: Vec<Kind>,
    working: JoinSet<Outcome>,
    /// Whose work a task does.
    owners: std::collections::HashMap<Id, (usize, Key)>,
}

/// Runs the controllers until `shutdown` turns true. `kinds` must hold all that their deciders look
/// at.
pub async fn run(
    client: Client,
    kinds: Vec<Kind>,
    controllers: Vec<Box<dyn Controller>>,
    host: String,
    mut shutdown: watch::Receiver<bool>,
) {
    let (sender, mut inputs) = mpsc::channel(INPUTS_MAX);
    let mut watches = JoinSet::new();
    follow(&client, &kinds, &sender, &mut watches);
    let (reporter, reporting) = Reporter::start(client.clone(), host);
    watches.spawn(reporting);
    let slots = controllers.into_iter().map(|controller| Slot { controller, queue: Queue::default() }).collect();
    let mut engine = Engine {
        client,
        reporter,
        picture: Picture::default(),
        slots,
        unlisted: kinds,
        working: JoinSet::new(),
        owners: std::collections::HashMap::new(),
    };
    let mut batch = Vec::with_capacity(INPUTS_AT_ONCE_MAX);
    loop {
        let pause = engine.pause();
        // All arms are cancel-safe: channels, join sets and timers keep what was not taken.
        tokio::select! {
            received = inputs.recv_many(&mut batch, INPUTS_AT_ONCE_MAX) => {
                if received == 0 {
                    return;
                }
                batch.drain(..).for_each(|input| engine.take_in(input));
            }
            Some(done) = engine.working.join_next_with_id(), if !engine.working.is_empty() => engine.finish(done),
            () = tokio::time::sleep(pause) => {}
            _ = shutdown.wait_for(|&stopping| stopping) => return,
        }
        if engine.unlisted.is_empty() {
            engine.plan();
        }
    }
}

impl Engine {
    /// How long nothing needs to be done if nothing happens.
    fn pause(&mut self) -> Duration {
        let now = Timestamp::now();
        let next = self.slots.iter_mut().filter_map(|slot| slot.queue.next_wake(now)).min();
        next.map_or(IDLE_PERIOD, |at| Duration::try_from(at.duration_since(now)).unwrap_or_default().min(IDLE_PERIOD))
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Put(object) => {
                let change = self.picture.put(object);
                self.tell(&change);
            }
            Input::Gone { kind, key, revision } => self.remove(kind, &key, revision),
            Input::ListStarted(kind) => self.picture.list_started(kind),
            Input::ListFinished { kind, keys } => {
                for key in self.picture.keys(kind).into_iter().filter(|key| !keys.contains(key)) {
                    self.remove(kind, &key, 0);
                }
                self.picture.list_finished(kind);
                self.unlisted.retain(|waiting| *waiting != kind);
            }
        }
    }

    fn remove(&mut self, kind: Kind, key: &Key, revision: u64) {
        if let Some(change) = self.picture.remove(kind, key, revision) {
            self.tell(&change);
        }
    }

    fn tell(&mut self, change: &brain::picture::Change) {
        for Slot { controller, queue } in &mut self.slots {
            // As for plans: one object must not end all controllers. What a panic leaves behind is
            // the keys that were named before it.
            let concerns = || controller.concerns(&self.picture, change, &mut |key| queue.add(key));
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(concerns)).is_err() {
                let key = change.object().meta().key().to_string();
                tracing::error!(controller = controller.name(), key, "a controller panicked at a change: this is a bug");
            }
        }
    }

    fn finish(&mut self, done: Result<(Id, Outcome), tokio::task::JoinError>) {
        let (id, outcome) = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "the work of a controller failed badly; it is planned anew");
                (error.id(), Outcome { failed: true, ..Outcome::default() })
            }
        };
        let Some((slot, key)) = self.owners.remove(&id) else { return };
        self.done(slot, key, outcome);
    }

    fn done(&mut self, slot: usize, key: Key, outcome: Outcome) {
        self.slots[slot].queue.done(key, outcome, &self.picture, Timestamp::now());
    }

    /// Plans for every key that may be planned, and starts the work.
    fn plan(&mut self) {
        for at in 0..self.slots.len() {
            loop {
                let now = Timestamp::now();
                let Slot { controller, queue } = &mut self.slots[at];
                let Some(key) = queue.take(&self.picture, now) else { break };
                // A plan is pure: what a panic leaves behind is the plan alone. One object must not
                // end all controllers.
                let planned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| controller.plan(&self.picture, &key, now)));
                let Ok(work) = planned else {
                    tracing::error!(controller = controller.name(), key = key.to_string(), "a plan panicked: this is a bug");
                    self.done(at, key, Outcome { failed: true, ..Outcome::default() });
                    continue;
                };
                if work.is_empty() {
                    self.done(at, key, Execution::new(work).outcome());
                    continue;
                }
                let performing = perform(self.client.clone(), controller.name(), work, self.reporter.clone());
                let id = self.working.spawn(performing).id();
                self.owners.insert(id, (at, key));
            }
        }
    }
}
