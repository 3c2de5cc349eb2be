//! Every state of a small world: the DaemonSet decider with its memory, a picture that lags behind,
//! the barrier that keeps plans from resting on too old a picture, requests that are done one by
//! one, crashes, answers that get lost, and an environment that does what environments do. In each
//! state the rules of [`judge`] hold, and from each the system comes to rest as it should.
//!
//! The enumerator is our own ([`search`], breadth first over hashed states) rather than the library
//! stateright: that one would bring its actors, its web explorer and their dependencies, and its
//! liveness properties are not sound where paths join, which here they do all the time. What is
//! needed of it are fifty lines.
//!
//! Simplifications: the queue's pauses are any time at all; status writes are left out, which only
//! weakens the barrier; a list is the same as all events at once; seconds are few (what was made
//! since time passed last is of the same second).

mod controller;
mod judge;
mod search;
mod state;
mod translate;
mod world;

use controller::{Controller, Memory};
use search::{Fault, Report, search, walk};
use state::{CheckedState, Rules};
use translate::Translator;
use world::{Id, Node, Objects, Owner, Past, Phase, Pod, STREAMS, Set, Taint};

/// The size of a world.
#[derive(Clone, Copy)]
struct Size {
    nodes: u8,
    changes: u8,
    faults: u8,
}

fn rules(words: &[&'static str], nodes: u8) -> Rules {
    let min_ready = words.iter().any(|word| word.starts_with("minReady"));
    Rules { translator: Translator::new(words), nodes, barrier: true, derived_names: true, remembers_deletions: true, min_ready }
}

/// A set with one available pod of the first template on each node, and whatever `change` makes of
/// it.
fn state(rules: &Rules, size: Size, change: impl FnOnce(&mut Objects)) -> CheckedState {
    let fine = Node { ready: true, taint: Taint::Absent };
    let mut nodes = [None; world::NODES_MAX];
    nodes[..usize::from(size.nodes)].fill(Some(fine));
    let pods = (0..size.nodes).map(|node| pod(rules, node)).collect();
    let mut real = Objects { nodes, set: Set { template: 0, deleting: false }, revisions: [1, 0], pods };
    change(&mut real);
    let mut seen = real.clone();
    seen.pods.iter_mut().for_each(|pod| *pod = pod.shown());
    let controller = Controller { due: true, memory: Memory::default(), ..Controller::default() };
    let pending = [const { Vec::new() }; STREAMS];
    CheckedState {
        real,
        seen,
        pending,
        controller,
        voluntary: Default::default(),
        excused: Default::default(),
        changes: size.changes,
        faults: size.faults,
    }
}

fn pod(rules: &Rules, node: u8) -> Pod {
    let id = Id { name: rules.translator.name(&format!("old-{node}")), life: 0 };
    let past = Past { made: true, proven: true };
    Pod { id, node, bound: true, template: 0, phase: Phase::Available, deleting: false, owner: Owner::Ours, aged: true, past }
}

/// An update that begins.
fn updating(rules: &Rules, size: Size) -> CheckedState {
    state(rules, size, |objects| objects.set.template = 1)
}

/// A set that was just created.
fn new(rules: &Rules, size: Size) -> CheckedState {
    state(rules, size, |objects| {
        objects.pods.clear();
        objects.revisions = [0, 0];
    })
}

/// A pod without an owner, and one of another owner.
fn strangers(rules: &Rules, size: Size) -> CheckedState {
    state(rules, size, |objects| {
        for (pod, owner) in objects.pods.iter_mut().zip([Owner::Nobody, Owner::Other]) {
            pod.owner = owner;
            pod.past = Past::default();
        }
    })
}

#[track_caller]
fn holds(words: &[&'static str], size: Size) {
    let rules = rules(words, size.nodes);
    told(words, || search(vec![updating(&rules, size), new(&rules, size), strangers(&rules, size)], &rules));
}

#[track_caller]
fn told(words: &[&'static str], search: impl FnOnce() -> Result<Report, Fault>) {
    match search() {
        Ok(report) => println!("{words:?}: {report:?}"),
        Err(fault) => panic!("{words:?}: {}\n{}", fault.rule, fault.history.join("\n")),
    }
}

const ONE_AT_A_TIME: &[&str] = &["maxUnavailable=1"];
const ALL_AT_ONCE: &[&str] = &["maxUnavailable=100%"];
const TWO: &[&str] = &["maxUnavailable=2"];
const SURGE: &[&str] = &["maxUnavailable=0", "maxSurge=1"];
const ON_DELETE: &[&str] = &["onDelete"];
const ONE_AT_A_TIME_PATIENTLY: &[&str] = &["maxUnavailable=1", "minReady=30"];
const SURGE_PATIENTLY: &[&str] = &["maxUnavailable=0", "maxSurge=1", "minReady=30"];

const ALL: [&[&str]; 7] = [ONE_AT_A_TIME, ALL_AT_ONCE, TWO, SURGE, ON_DELETE, ONE_AT_A_TIME_PATIENTLY, SURGE_PATIENTLY];

#[test]
fn every_strategy_survives_a_crash_a_lost_answer_or_a_refusal() {
    ALL.iter().for_each(|words| holds(words, Size { nodes: 2, changes: 0, faults: 1 }));
}

#[test]
fn a_node_copes_with_a_change_and_a_fault() {
    [ONE_AT_A_TIME, ON_DELETE].iter().for_each(|words| holds(words, Size { nodes: 1, changes: 1, faults: 1 }));
}

#[test]
fn an_update_holds_whatever_changes_meanwhile() {
    [ONE_AT_A_TIME, SURGE].iter().for_each(|words| {
        let size = Size { nodes: if *words == SURGE { 1 } else { 2 }, changes: 1, faults: 0 };
        let rules = rules(words, size.nodes);
        told(words, || search(vec![updating(&rules, size)], &rules));
    });
}

/// Three nodes, many changes and faults: too many states to see all of them.
fn walks(seeds: std::ops::Range<u64>) {
    let size = Size { nodes: 3, changes: 6, faults: 4 };
    for words in ALL {
        let rules = rules(words, size.nodes);
        for seed in seeds.clone() {
            let start = if seed % 3 == 0 { new(&rules, size) } else { updating(&rules, size) };
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let choices = std::iter::repeat_with(move || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random >> 8
            });
            if let Err(fault) = walk(start, &rules, choices.take(160)) {
                panic!("{words:?}, seed {seed}: {}\n{}", fault.rule, fault.history.join("\n"));
            }
        }
    }
}

#[test]
fn random_walks_break_no_rule_and_end_at_rest() {
    walks(0..12);
}

/// `cargo test --release -p brain --lib daemonset::checker -- --ignored --nocapture`
#[test]
#[ignore = "minutes"]
fn many_random_walks_break_no_rule_and_end_at_rest() {
    walks(12..20_000);
}

#[test]
#[ignore = "minutes, and some gigabytes"]
fn a_change_and_a_fault_hold() {
    ALL.iter().for_each(|words| holds(words, Size { nodes: 2, changes: 1, faults: 1 }));
}

#[test]
#[ignore = "minutes, and some gigabytes"]
fn three_nodes_hold() {
    [ONE_AT_A_TIME, ON_DELETE].iter().for_each(|words| holds(words, Size { nodes: 3, changes: 1, faults: 0 }));
}

/// The barrier and the memory of deletions each keep the budget when answers arrive; without both,
/// nothing does.
#[test]
fn without_barrier_and_memory_the_budget_breaks() {
    let size = Size { nodes: 2, changes: 1, faults: 0 };
    let rules = Rules { barrier: false, remembers_deletions: false, ..rules(ONE_AT_A_TIME, size.nodes) };
    let fault = search(vec![updating(&rules, size)], &rules).expect_err("a plan rests on a picture without its own writes");
    assert!(fault.rule.contains("lack an available pod because of the update"), "{fault:?}");
}

/// An answer that is lost is not in the barrier's books.
#[test]
fn without_the_memory_of_deletions_a_lost_answer_breaks_the_budget() {
    let size = Size { nodes: 2, changes: 1, faults: 1 };
    let rules = Rules { remembers_deletions: false, ..rules(ONE_AT_A_TIME, size.nodes) };
    let fault = search(vec![updating(&rules, size)], &rules).expect_err("another pod is chosen");
    assert!(fault.rule.contains("lack an available pod because of the update"), "{fault:?}");
}

#[test]
fn without_derived_names_a_lost_answer_makes_two_pods() {
    let size = Size { nodes: 1, changes: 0, faults: 1 };
    let rules = Rules { derived_names: false, ..rules(ONE_AT_A_TIME, size.nodes) };
    let fault = search(vec![new(&rules, size)], &rules).expect_err("the pod is made again under another name");
    assert!(fault.rule.contains("one more pod is made"), "{fault:?}");
}
