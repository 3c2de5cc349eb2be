//! The seats of one level: taken at once while there are some, in turns of the flows when there are
//! none.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// Requests of one flow that wait, and of all flows of a level together.
const WAITING_OF_A_FLOW_MAX: usize = 256;
const WAITING_MAX: usize = 2048;

pub struct Level {
    seats: usize,
    /// A flow alone gets this many; the rest is for the next that comes.
    seats_of_a_flow: usize,
    state: Mutex<LevelState>,
}

#[derive(Default)]
struct LevelState {
    in_use: usize,
    waiting: usize,
    flows: HashMap<String, Flow>,
    /// Flows with waiting requests, each once; the first is next.
    turns: VecDeque<String>,
}

#[derive(Default)]
struct Flow {
    in_use: usize,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    seats: usize,
    seated: oneshot::Sender<Permit>,
}

/// Seats that a request has; given back when it is dropped.
pub struct Permit {
    level: Arc<Level>,
    flow: String,
    seats: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Seats are handed on outside the lock's reach: a waiting request that has gone drops its
        // permit at once, and comes here again.
        let mut seated = self.level.give_back(&self.flow, self.seats);
        while let Some((waiting, permit)) = seated.pop() {
            drop(waiting.send(permit));
        }
    }
}

impl Level {
    pub fn new(seats: usize) -> Level {
        Level { seats, seats_of_a_flow: (seats / 2).max(1), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, LevelState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for seats; None when too many wait already, or it took too long.
    pub async fn acquire(self: &Arc<Level>, flow: &str, seats: usize, patience: Duration) -> Option<Permit> {
        let seats = seats.min(self.seats_of_a_flow);
        let turn = match self.take_or_queue(flow, seats)? {
            Ok(permit) => return Some(permit),
            Err(turn) => turn,
        };
        tokio::time::timeout(patience, turn).await.ok()?.ok()
    }

    fn take_or_queue(self: &Arc<Level>, flow: &str, seats: usize) -> Option<Result<Permit, oneshot::Receiver<Permit>>> {
        let mut state = self.state();
        let own = state.flows.get(flow);
        let is_first = own.is_none_or(|own| own.waiting.is_empty());
        // Others that wait do so for their own limit, or have been passed their turn already.
        if is_first && state.turns.is_empty() && self.fits(&state, flow, seats) {
            return Some(Ok(self.seat(&mut state, flow, seats)));
        }
        state.forget_the_gone(flow);
        let queued = state.flows.get(flow).map_or(0, |own| own.waiting.len());
        if queued >= WAITING_OF_A_FLOW_MAX || state.waiting >= WAITING_MAX {
            return None;
        }
        let (seated, turn) = oneshot::channel();
        state.flows.entry(flow.to_owned()).or_default().waiting.push_back(Waiting { seats, seated });
        state.waiting += 1;
        if queued == 0 {
            state.turns.push_back(flow.to_owned());
        }
        // A seat may be free that those before could not use.
        let next = self.next(&mut state);
        drop(state);
        for (seated, permit) in next {
            drop(seated.send(permit));
        }
        Some(Err(turn))
    }

    fn fits(&self, state: &LevelState, flow: &str, seats: usize) -> bool {
        let own = state.flows.get(flow).map_or(0, |own| own.in_use);
        state.in_use + seats <= self.seats && own + seats <= self.seats_of_a_flow
    }

    fn seat(self: &Arc<Level>, state: &mut LevelState, flow: &str, seats: usize) -> Permit {
        state.in_use += seats;
        state.flows.entry(flow.to_owned()).or_default().in_use += seats;
        Permit { level: self.clone(), flow: flow.to_owned(), seats }
    }

    /// Takes seats back; says who gets them.
    fn give_back(self: &Arc<Level>, flow: &str, seats: usize) -> Vec<(oneshot::Sender<Permit>, Permit)> {
        let mut state = self.state();
        state.in_use -= seats;
        if let Some(own) = state.flows.get_mut(flow) {
            own.in_use -= seats;
            if own.in_use == 0 && own.waiting.is_empty() {
                state.flows.remove(flow);
            }
        }
        self.next(&mut state)
    }

    /// Seats who is next, flow by flow, as long as there is room. The first flow in turn that lacks
    /// room for a large request keeps the others from passing it, unless it has all seats that a
    /// flow may have.
    fn next(self: &Arc<Level>, state: &mut LevelState) -> Vec<(oneshot::Sender<Permit>, Permit)> {
        let mut seated = Vec::new();
        let mut passed = 0;
        while passed < state.turns.len() {
            let Some(name) = state.turns.pop_front() else { break };
            let own = state.flows.get(&name);
            let Some(seats) = own.and_then(|own| own.waiting.front()).map(|first| first.seats) else { continue };
            if !self.fits(state, &name, seats) {
                let is_full_itself = own.is_some_and(|own| own.in_use + seats > self.seats_of_a_flow);
                if !is_full_itself {
                    state.turns.push_front(name);
                    break;
                }
                state.turns.push_back(name);
                passed += 1;
                continue;
            }
            let Some(own) = state.flows.get_mut(&name) else { continue };
            let Some(first) = own.waiting.pop_front() else { continue };
            let has_more = !own.waiting.is_empty();
            state.waiting -= 1;
            if !first.seated.is_closed() {
                let permit = self.seat(state, &name, first.seats);
                seated.push((first.seated, permit));
            }
            if has_more {
                state.turns.push_back(name);
            } else if state.flows.get(&name).is_some_and(|own| own.in_use == 0) {
                state.flows.remove(&name);
            }
            passed = 0;
        }
        seated
    }

    /// Seats in use, requests that wait.
    pub fn figures(&self) -> (usize, usize) {
        let state = self.state();
        (state.in_use, state.waiting)
    }
}

impl LevelState {
    /// Drops waiting requests of a flow whose clients have gone or have waited too long.
    fn forget_the_gone(&mut self, flow: &str) {
        let Some(own) = self.flows.get_mut(flow) else { return };
        let before = own.waiting.len();
        own.waiting.retain(|waiting| !waiting.seated.is_closed());
        self.waiting -= before - own.waiting.len();
        if own.waiting.is_empty() {
            self.turns.retain(|turn| turn != flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn now(level: &Arc<Level>, flow: &str, seats: usize) -> Option<Permit> {
        level.acquire(flow, seats, LONG).now_or_never().flatten()
    }

    /// Lets a request wait, and says when it sits.
    fn later(level: &Arc<Level>, flow: &'static str, seats: usize) -> tokio::task::JoinHandle<Option<Permit>> {
        let level = level.clone();
        tokio::spawn(async move { level.acquire(flow, seats, LONG).await })
    }

    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_flow_gets_half_of_the_seats_and_another_the_rest() {
        let level = Arc::new(Level::new(4));
        let _held = [now(&level, "a", 1).unwrap(), now(&level, "a", 1).unwrap()];
        assert!(now(&level, "a", 1).is_none());
        assert!(now(&level, "b", 1).is_some());
    }

    #[tokio::test]
    async fn flows_take_turns_however_many_requests_one_has() {
        let level = Arc::new(Level::new(2));
        let (first, second) = (now(&level, "a", 1).unwrap(), now(&level, "b", 1).unwrap());
        let greedy: Vec<_> = (0..100).map(|_| later(&level, "a", 1)).collect();
        settle().await;
        let modest = later(&level, "c", 1);
        settle().await;
        assert_eq!(level.figures(), (2, 101));
        drop(second);
        settle().await;
        assert!(modest.is_finished());
        drop((first, greedy));
    }

    #[tokio::test]
    async fn a_large_request_gets_its_seats_before_small_ones_that_came_later() {
        let level = Arc::new(Level::new(4));
        let held = [now(&level, "a", 1).unwrap(), now(&level, "b", 1).unwrap(), now(&level, "b", 1).unwrap()];
        let large = later(&level, "c", 2);
        settle().await;
        let small = later(&level, "d", 1);
        settle().await;
        assert!(!large.is_finished() && !small.is_finished());
        drop(held);
        settle().await;
        assert!(large.is_finished() && small.is_finished());
    }

    #[tokio::test]
    async fn a_request_is_never_larger_than_what_a_flow_may_have() {
        let level = Arc::new(Level::new(4));
        assert_eq!(now(&level, "a", 1000).unwrap().seats, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends() {
        let level = Arc::new(Level::new(2));
        let _held = now(&level, "a", 1).unwrap();
        assert!(level.acquire("a", 1, Duration::from_secs(15)).await.is_none());
        // The one that gave up holds no place in the queue forever.
        drop(_held);
        assert!(now(&level, "a", 1).is_some());
    }

    #[tokio::test]
    async fn so_many_of_a_flow_wait_and_the_next_is_refused() {
        let level = Arc::new(Level::new(2));
        let _held = now(&level, "a", 1).unwrap();
        let _waiting: Vec<_> = (0..WAITING_OF_A_FLOW_MAX).map(|_| later(&level, "a", 1)).collect();
        settle().await;
        assert!(matches!(level.acquire("a", 1, LONG).now_or_never(), Some(None)));
        assert!(now(&level, "b", 1).is_some());
    }

    #[tokio::test]
    async fn requests_that_have_gone_are_passed_over() {
        let level = Arc::new(Level::new(2));
        let held = now(&level, "a", 1).unwrap();
        let gone = later(&level, "a", 1);
        settle().await;
        let waits = later(&level, "a", 1);
        settle().await;
        gone.abort();
        settle().await;
        drop(held);
        settle().await;
        assert!(waits.is_finished());
        drop(waits);
        settle().await;
        assert_eq!(level.figures(), (0, 0));
        assert!(level.state().flows.is_empty() && level.state().turns.is_empty());
    }
}
