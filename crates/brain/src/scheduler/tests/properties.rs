//! Properties of plans on random small clusters. The judge states the rules a second time, from the
//! objects, without the filters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::language::World;
use crate::model::{Key, Node, Pod};
use crate::picture::{Kind, Object};
use crate::request::Verb;
use crate::scheduler::{Plan, explain_all, is_ours};

const NODES: [&str; 3] = ["a", "b", "c"];

fn words(choices: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(select(choices), 0..=most).prop_map(|words| words.join(" "))
}

fn node() -> impl Strategy<Value = String> {
    const WORDS: [&str; 10] = [
        "cpu=1",
        "cpu=2",
        "cpu=3",
        "memory=2Gi",
        "pods=2",
        "taint=t:NoSchedule",
        "taint=u:NoExecute",
        "cordoned",
        "label=zone=x",
        "label=zone=y",
    ];
    (select(&NODES[..]), words(&WORDS, 3)).prop_map(|(name, words)| format!("node {name} {words}"))
}

/// What pods ask for. Rules about other pods are apart: with them, taking pods away can also hurt.
const PLAIN: [&str; 13] = [
    "cpu=1",
    "cpu=1500m",
    "memory=1Gi",
    "port=80",
    "port=81",
    "tolerate=t",
    "tolerate=u",
    "pin=a",
    "pin=b",
    "prio=1",
    "prio=2",
    "never",
    "label=app=web",
];
const SOCIAL: [&str; 20] = [
    "cpu=1",
    "cpu=1500m",
    "port=80",
    "tolerate=t",
    "pin=a",
    "prio=1",
    "prio=2",
    "label=app=web",
    "label=app=web",
    "label=app=db",
    "label=app=db",
    "anti=app=web/zone",
    "anti=app=db/zone",
    "near=app=web/zone",
    "spread=1/zone/app=web",
    "softspread=1/zone/app=db",
    "like=app=db/zone",
    "avoid=app=web/zone",
    "owner=o",
    "select=zone=x",
];

fn pod(choices: &'static [&'static str]) -> impl Strategy<Value = String> {
    let place = prop::option::weighted(0.5, select(&NODES[..]));
    let state = select(&["", "", "", "deleted", "phase=Succeeded", "deleted victim", "started=3"][..]);
    (0..8_u8, place, words(choices, 4), state).prop_map(|(name, place, words, state)| match place {
        Some(node) => format!("pod p{name} on={node} {words} {state}"),
        None => format!("pod p{name} {words} {}", if state == "started=3" { "nominated=a" } else { "" }),
    })
}

fn picture(choices: &'static [&'static str]) -> impl Strategy<Value = String> {
    let budget = prop::option::of((0..2_u8).prop_map(|allowed| format!("budget b app=web allowed={allowed}")));
    let parts = (prop::collection::vec(node(), 0..4), prop::collection::vec(pod(choices), 0..9), budget);
    parts.prop_map(|(nodes, pods, budget)| nodes.into_iter().chain(pods).chain(budget).collect::<Vec<_>>().join("; "))
}

/// The pods that take something of each node.
type Taken = BTreeMap<Arc<str>, Vec<Arc<Pod>>>;

fn taken(world: &World) -> Taken {
    let mut taken = Taken::new();
    for pod in world.picture.pods.values().filter(|pod| !pod.is_terminal()) {
        if let Some(node) = &pod.node {
            taken.entry(node.clone()).or_default().push(pod.clone());
        }
    }
    taken
}

type Amount = fn(&Pod) -> i64;

/// What there is too little of if the pod joins those pods on the node, or why it may not be there
/// at all.
fn objections(pod: &Pod, node: &Node, there: &[Arc<Pod>]) -> Vec<&'static str> {
    let mut found = Vec::new();
    let sum = |amount: Amount| there.iter().map(|other| amount(other)).sum::<i64>() + amount(pod);
    let (cpu, memory): (Amount, Amount) = (|pod| pod.spec.requests.milli_cpu, |pod| pod.spec.requests.memory);
    if cpu(pod) > 0 && sum(cpu) > node.allocatable.milli_cpu {
        found.push("cpu");
    }
    if memory(pod) > 0 && sum(memory) > node.allocatable.memory {
        found.push("memory");
    }
    if there.len() as i64 + 1 > node.allocatable.pods {
        found.push("pods");
    }
    let ports = |pod: &Pod| pod.spec.host_ports.iter().map(|port| port.port).collect::<BTreeSet<i64>>();
    if there.iter().any(|other| !ports(other).is_disjoint(&ports(pod))) {
        found.push("ports");
    }
    let tolerated = |key: &str| pod.spec.tolerations.iter().any(|toleration| *toleration.key == *key);
    if node.taints.iter().any(|taint| !tolerated(&taint.key)) || (node.unschedulable && !tolerated("node.kubernetes.io/unschedulable")) {
        found.push("taint");
    }
    if pod.pinned.as_ref().is_some_and(|name| *name != node.meta.name) {
        found.push("other node");
    }
    if pod.spec.node_selector.iter().any(|(key, value)| node.meta.labels.get(key) != Some(value)) {
        found.push("selector");
    }
    let zone = |node: &Node| node.meta.labels.get("zone").map(str::to_owned);
    let app = |pod: &Pod| pod.meta.labels.get("app").map(|app| format!("app in ({app})"));
    let unwanted = |pod: &Pod, other: &Pod| {
        pod.spec.pod_anti_affinity.iter().any(|term| zone(node).is_some() && term.selector.as_deref() == app(other).as_deref())
    };
    // Only for the same node; other nodes of the zone are left to the examples.
    if there.iter().any(|other| unwanted(pod, other) || unwanted(other, pod)) {
        found.push("anti-affinity");
    }
    found
}

fn judge(world: &World, plan: &Plan) {
    let mut taken = taken(world);
    let mut seen = BTreeSet::new();
    for binding in &plan.bindings {
        let pod = &world.picture.pods[&binding.key];
        assert!(is_ours(pod) && seen.insert(&binding.key), "{binding:?}");
        let there = taken.entry(binding.node.clone()).or_default();
        let found = objections(pod, &world.picture.nodes[&binding.node], there);
        assert!(found.is_empty(), "{} on {}: {found:?}", binding.key, binding.node);
        there.push(pod.clone());
    }
    for rejected in &plan.unschedulable {
        assert!(seen.insert(&rejected.key), "decided twice: {}", rejected.key);
    }
    for preemption in &plan.preemptions {
        let preemptor = &world.picture.pods[&preemption.preemptor];
        assert!(!preemptor.spec.never_preempts);
        for victim in &preemption.victims {
            let pod = &world.picture.pods[&victim.key];
            assert!(pod.spec.priority < preemptor.spec.priority, "{victim:?} is as important as {}", preemption.preemptor);
            assert!(taken[&preemption.node].iter().any(|there| Arc::ptr_eq(there, pod)) && !pod.meta.is_deleted(), "{victim:?}");
        }
        for displaced in &preemption.displaced {
            assert!(world.picture.pods[displaced].spec.priority < preemptor.spec.priority);
        }
    }
}

/// A preemption helps, and none of the victims could have stayed.
fn judge_need(world: &World, plan: &Plan) {
    let [preemption] = plan.preemptions.as_slice() else { return };
    let first = plan.bindings.is_empty() && plan.unschedulable.first().is_some_and(|pod| pod.key == preemption.preemptor);
    let nominations = world.picture.pods.values().any(|pod| pod.status.nominated_node.is_some());
    if !first || nominations {
        return;
    }
    let (pod, node) = (&world.picture.pods[&preemption.preemptor], &world.picture.nodes[&preemption.node]);
    let there = taken(world).remove(&preemption.node).unwrap_or_default();
    let goes = |other: &Pod| other.meta.is_deleted() && other.spec.priority < pod.spec.priority;
    let is_victim = |other: &Pod| preemption.victims.iter().any(|victim| victim.key == other.meta.key());
    let stay = |but: Option<&Key>| -> Vec<Arc<Pod>> {
        let stays = |other: &&Arc<Pod>| (!is_victim(other) && !goes(other)) || but == Some(&other.meta.key());
        there.iter().filter(stays).cloned().collect()
    };
    assert_eq!(objections(pod, node, &stay(None)), [] as [&str; 0], "{preemption:?}");
    if !there.iter().any(|other| goes(other)) {
        for victim in &preemption.victims {
            assert!(!objections(pod, node, &stay(Some(&victim.key))).is_empty(), "{victim:?} could have stayed");
        }
    }
}

/// Does what a plan asks for, as the API server and the nodes would.
fn obey(world: &mut World, seconds: i64) -> usize {
    let work = world.requests(seconds);
    let requests: Vec<_> = work.steps.into_iter().flat_map(|step| step.requests).collect();
    for request in &requests {
        let Some(pod) = world.picture.pods.get(&request.key) else { continue };
        let mut pod = Pod::clone(pod);
        match &request.verb {
            Verb::Create(body) => pod.node = body["target"]["name"].as_str().map(Arc::from),
            Verb::Strategic(patch) => {
                let status = &patch["status"];
                if let Some(node) = status.get("nominatedNodeName") {
                    pod.status.nominated_node = node.as_str().map(Arc::from);
                }
                for condition in status["conditions"].as_array().into_iter().flatten() {
                    let text = |key: &str| condition[key].as_str().unwrap_or_default().into();
                    match condition["type"] == json!("PodScheduled") {
                        true => pod.status.unscheduled = Some((text("reason"), text("message"))),
                        false => pod.status.disruption_target = true,
                    }
                }
            }
            _ => {
                world.remove(Kind::Pod, &request.key);
                continue;
            }
        }
        world.put(Object::Pod(Arc::new(pod)));
    }
    requests.len()
}

/// Plans and obeys for two minutes; true when nothing more is asked for at the end.
fn settle(world: &mut World, start: i64) -> bool {
    let quiet = |world: &mut World, at: i64| obey(world, at) == 0;
    (0..40).map(|round| quiet(world, start + round * 3)).last().unwrap_or(true)
}

fn assert_nobody_was_forgotten(world: &World) {
    for pod in world.picture.pods.values().filter(|pod| is_ours(pod) && pod.status.nominated_node.is_none()) {
        for node in world.picture.nodes.values() {
            assert!(!explain_all(&world.picture, pod, node).is_empty(), "{} would fit on {}", pod.meta.name, node.meta.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_keep_the_rules_and_equal_views_give_equal_plans(text in picture(&SOCIAL)) {
        let world = World::new(&text);
        let plan = world.plan(100);
        prop_assert_eq!(&plan, &World::new(&text).plan(100));
        judge(&world, &plan);
    }

    #[test]
    fn preemptions_help_and_take_nobody_in_vain(text in picture(&PLAIN)) {
        let world = World::new(&text);
        let plan = world.plan(100);
        judge(&world, &plan);
        judge_need(&world, &plan);
    }

    #[test]
    fn obeying_comes_to_rest_and_leaves_nobody_who_fits(text in picture(&SOCIAL)) {
        let mut world = World::new(&text);
        prop_assert!(settle(&mut world, 0), "it never rests");
        assert_nobody_was_forgotten(&world);
    }

    #[test]
    fn changes_wake_whom_they_help(text in picture(&SOCIAL), changes in prop::collection::vec(prop_oneof![node(), pod(&SOCIAL)], 1..6)) {
        let mut world = World::new(&text);
        settle(&mut world, 0);
        for (at, change) in changes.iter().enumerate() {
            world.change(change);
            if at % 2 == 0 {
                obey(&mut world, 120 + at as i64);
            }
        }
        world.remove_pod("p0");
        prop_assert!(settle(&mut world, 130), "it never rests");
        assert_nobody_was_forgotten(&world);
    }
}
