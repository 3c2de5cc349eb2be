//! Properties over random lives: nothing runs twice (the pretended node asserts it), order and
//! policies hold, plans come to rest.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::pretended::Node;
use crate::podsync::Memory;

#[derive(Debug, Clone)]
enum Event {
    Exit { container: usize, code: i32 },
    Liveness { container: usize },
    Started { container: usize },
    Reboot,
    Wait { seconds: i64 },
    LoseOldRecords,
}

const NAMES: [&str; 5] = ["i", "s", "j", "a", "b"];

fn events() -> impl Strategy<Value = Vec<Event>> {
    let container = 0..NAMES.len();
    let event = prop_oneof![
        4 => (container.clone(), prop_oneof![Just(0), Just(1), Just(137)]).prop_map(|(container, code)| Event::Exit { container, code }),
        1 => container.clone().prop_map(|container| Event::Liveness { container }),
        1 => container.prop_map(|container| Event::Started { container }),
        1 => Just(Event::Reboot),
        3 => (1..400i64).prop_map(|seconds| Event::Wait { seconds }),
        1 => Just(Event::LoseOldRecords),
    ];
    proptest::collection::vec(event, 0..40)
}

fn spec() -> impl Strategy<Value = Value> {
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    (policy, any::<[bool; 4]>()).prop_map(|(policy, has)| {
        let probe = json!({"exec": {"command": ["true"]}});
        let mut init = Vec::new();
        if has[0] {
            init.push(json!({"name": "i"}));
        }
        if has[1] {
            init.push(json!({"name": "s", "restartPolicy": "Always", "startupProbe": probe}));
        }
        if has[2] {
            init.push(json!({"name": "j"}));
        }
        let mut main = vec![json!({"name": "a", "livenessProbe": probe})];
        if has[3] {
            main.push(json!({"name": "b"}));
        }
        json!({"restartPolicy": policy, "initContainers": init, "containers": main})
    })
}

fn is_running(node: &Node, name: &str) -> bool {
    node.observed.latest(name).is_some_and(|record| record.is_running())
}

fn happen(node: &mut Node, event: &Event) {
    match event {
        Event::Exit { container, code } if is_running(node, NAMES[*container]) => node.exits(NAMES[*container], *code),
        Event::Liveness { container } if is_running(node, NAMES[*container]) => {
            node.probe(NAMES[*container], |probes| probes.liveness = Some(false));
        }
        Event::Started { container } if is_running(node, NAMES[*container]) => {
            node.probe(NAMES[*container], |probes| probes.startup = Some(true));
        }
        Event::Reboot => node.reboots(),
        Event::Wait { seconds } => node.wait(*seconds),
        Event::LoseOldRecords => {
            let newest: Vec<String> = NAMES.iter().filter_map(|name| node.observed.latest(name)).map(|record| record.id.clone()).collect();
            node.observed.containers.retain(|record| newest.contains(&record.id));
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_life_keeps_the_rules(spec in spec(), events in events()) {
        let policy = spec["restartPolicy"].as_str().unwrap_or_default().to_owned();
        let mut node = Node::new(spec);
        node.settle();
        let mut phase_was_terminal = false;
        for event in &events {
            happen(&mut node, event);
            node.settle();
            let shown = node.shown();
            let is_terminal = shown.starts_with("Succeeded") || shown.starts_with("Failed");
            prop_assert!(is_terminal || !phase_was_terminal, "a pod that ended runs again: {shown}");
            prop_assert!(!(is_terminal && policy == "Always"), "a pod that is to run always ended: {shown}");
            phase_was_terminal = is_terminal;
            if is_terminal {
                prop_assert!(!node.observed.is_anything_running(), "{shown}: something runs on");
            }
            // While an ordinary init container runs, no main container does.
            let init_runs = ["i", "j"].iter().any(|name| is_running(&node, name));
            let main_runs = ["a", "b"].iter().any(|name| is_running(&node, name));
            prop_assert!(!(init_runs && main_runs), "initialization and pod at the same time: {shown}");
        }
        // Left alone and in good health, the pod is running, or over.
        for _ in 0..20 {
            node.wait(600);
            for name in ["i", "j"] {
                if is_running(&node, name) {
                    node.exits(name, 0);
                }
            }
            if is_running(&node, "s") {
                node.probe("s", |probes| probes.startup = Some(true));
            }
            node.settle();
        }
        let shown = node.shown();
        prop_assert!(!shown.starts_with("Pending"), "it never gets anywhere: {shown}");
        prop_assert!(policy != "Always" || is_running(&node, "a"), "{shown}");
        // An agent that has just started remembers nothing, and lets run what runs.
        node.news();
        node.memory = Memory { started_at: Some(node.now), ..Memory::default() };
        node.settle();
        let news = node.news();
        prop_assert!(!news.contains("kill:") && !news.contains("stop"), "a restart of the agent ended something: {news}; {}", node.shown());
    }
}
