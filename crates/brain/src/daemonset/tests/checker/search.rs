//! Breadth first through all states. The first fault found has the shortest history, and the search
//! reports that history.
//!
//! Liveness comes with it: in every state the fair way on is followed (the watch catches up, the
//! controller works, pods bind, start and end, time passes, and nothing goes wrong any more) until
//! nothing happens. Ways join, so a state that is known to end well ends the walk, and each state
//! is left once.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use super::judge;
use super::state::{CheckedState, Move, Rules};

/// A fair way is never longer than this: a bound of the rollout of three nodes, with all faults
/// before.
const FAIR_STEPS_MAX: usize = 200;

/// What a search saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub states: usize,
    pub plans: usize,
    pub longest_way_to_rest: usize,
}

/// A rule broken, and how it came to that.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    pub rule: String,
    pub history: Vec<String>,
}

type Marks = BuildHasherDefault<DefaultHasher>;

struct Search<'a> {
    rules: &'a Rules,
    /// How each state was reached first.
    steps: Vec<(usize, Option<Move>)>,
    known: HashSet<u64, Marks>,
    /// States from which the fair way is known to end well.
    ends_well: HashSet<u64, Marks>,
    longest: usize,
    starts: Vec<CheckedState>,
}

/// Looks at every state that can be reached.
pub fn search(starts: Vec<CheckedState>, rules: &Rules) -> Result<Report, Fault> {
    let mut search =
        Search { rules, steps: Vec::new(), known: HashSet::default(), ends_well: HashSet::default(), longest: 0, starts: starts.clone() };
    let mut frontier: Vec<(usize, CheckedState)> = Vec::new();
    for (at, start) in starts.into_iter().enumerate() {
        search.known.insert(mark(&start));
        search.steps.push((at, None));
        frontier.push((at, start));
    }
    while !frontier.is_empty() {
        let mut next = Vec::new();
        for (at, state) in &frontier {
            search.visit(*at, state, &mut next)?;
        }
        frontier = next;
    }
    Ok(Report { states: search.steps.len(), plans: rules.translator.plans(), longest_way_to_rest: search.longest })
}

fn mark(state: &CheckedState) -> u64 {
    Marks::default().hash_one(state)
}

impl Search<'_> {
    fn visit(&mut self, at: usize, state: &CheckedState, next: &mut Vec<(usize, CheckedState)>) -> Result<(), Fault> {
        self.follow_fairly(at, state)?;
        let moves = state.free_moves(self.rules).into_iter().chain(state.dear_moves(self.rules));
        for step in moves {
            let after = state.after(step, self.rules).map_err(|rule| self.fault(rule, at, &[step]))?;
            if self.known.insert(mark(&after)) {
                self.steps.push((at, Some(step)));
                next.push((self.steps.len() - 1, after));
            }
        }
        Ok(())
    }

    fn follow_fairly(&mut self, at: usize, from: &CheckedState) -> Result<(), Fault> {
        let mut state = from.clone();
        let mut way = Vec::new();
        let mut passed = Vec::new();
        while self.ends_well.insert(mark(&state)) {
            passed.push(mark(&state));
            let looks = || judge::overlooked(&state, self.rules).then_some(Move::Look);
            let Some(step) = fair_move(&state, self.rules).or_else(looks) else {
                judge::rest(&state, self.rules).map_err(|rule| self.fault(rule, at, &way))?;
                break;
            };
            way.push(step);
            if way.len() > FAIR_STEPS_MAX {
                return Err(self.fault("no rest is found".to_owned(), at, &way));
            }
            state = state.after(step, self.rules).map_err(|rule| self.fault(rule, at, &way))?;
            if passed.contains(&mark(&state)) {
                return Err(self.fault("it goes round in circles".to_owned(), at, &way));
            }
        }
        self.longest = self.longest.max(way.len());
        Ok(())
    }

    /// The history of a state and what came after, as lines of text.
    fn fault(&self, rule: String, at: usize, way: &[Move]) -> Fault {
        let mut moves = way.iter().rev().copied().collect::<Vec<_>>();
        let mut at = at;
        while let (before, Some(step)) = self.steps[at] {
            moves.push(step);
            at = before;
        }
        let mut state = self.starts[at].clone();
        let mut history = vec![format!("start {at}: {:?} {:?}", state.real, state.controller)];
        for step in moves.into_iter().rev() {
            let write =
                state.controller.writes.first().filter(|_| matches!(step, Move::PlannedWrite | Move::WriteUnheard | Move::WriteRefused));
            history.push(write.map_or_else(|| format!("{step:?}"), |write| format!("{step:?}: {:?}", write.1)));
            match state.after(step, self.rules) {
                Ok(after) => state = after,
                Err(_) => break,
            }
        }
        history.push(format!("real: {:?}", state.real));
        history.push(format!("seen: {:?}", state.seen));
        history.push(format!("controller: {:?}", state.controller));
        Fault { rule, history }
    }
}

/// One way through a world that is too large to be searched, and the fair way to rest from where it
/// ends.
pub fn walk(start: CheckedState, rules: &Rules, choices: impl Iterator<Item = u64>) -> Result<(), Fault> {
    let mut search = Search {
        rules,
        steps: vec![(0, None)],
        known: HashSet::default(),
        ends_well: HashSet::default(),
        longest: 0,
        starts: vec![start.clone()],
    };
    let mut state = start;
    for choice in choices {
        let moves: Vec<Move> = state.free_moves(rules).into_iter().chain(state.dear_moves(rules)).collect();
        let Some(step) = moves.get(choice as usize % moves.len().max(1)).copied() else { break };
        let at = search.steps.len() - 1;
        state = state.after(step, rules).map_err(|rule| search.fault(rule, at, &[step]))?;
        search.steps.push((at, Some(step)));
    }
    search.follow_fairly(search.steps.len() - 1, &state)
}

/// What happens next when nothing goes wrong: first what is under way, then what pods do, then
/// time.
fn fair_move(state: &CheckedState, rules: &Rules) -> Option<Move> {
    let moves = state.free_moves(rules);
    let urgency = |step: &Move| match step {
        Move::Show(_) => 0,
        Move::PlannedWrite => 1,
        Move::Plan => 2,
        Move::Wait | Move::Look => 4,
        _ => 3,
    };
    moves.into_iter().min_by_key(urgency)
}
