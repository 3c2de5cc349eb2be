//! What holds of every plan, and where plans lead, for random clusters of up to six nodes and for
//! all with two nodes and two pods.
//!
//! The [`judge`] says what is right from Kubernetes' documentation, over the plain data that the
//! clusters are made from. Plans on stale pictures, lost answers and crashes are the matter of
//! [`super::checker`], whose world is also walked through at random there.

mod judge;
pub(super) mod stage;

use proptest::prelude::*;

use judge::{NodeCase, PodCase, SetCase, StateCase, StrategyCase, Taint};
use stage::{Stage, counts};

fn node() -> impl Strategy<Value = NodeCase> {
    let taint = prop_oneof![
        4 => Just(Taint::None),
        1 => Just(Taint::NoSchedule),
        1 => Just(Taint::NoExecute),
        1 => Just(Taint::Cordoned),
        1 => Just(Taint::Unreachable),
        1 => Just(Taint::PreferNoSchedule),
    ];
    (taint, prop::bool::weighted(0.9), prop::bool::weighted(0.8)).prop_map(|(taint, ready, labelled)| NodeCase { taint, ready, labelled })
}

fn pod() -> impl Strategy<Value = PodCase> {
    let state = prop_oneof![
        4 => Just(StateCase::Ready { seconds: 500 }),
        1 => Just(StateCase::Ready { seconds: 10 }),
        2 => Just(StateCase::Starting),
        1 => Just(StateCase::Pending),
        1 => Just(StateCase::Failed),
        1 => Just(StateCase::Succeeded),
        1 => Just(StateCase::Deleting),
    ];
    // Node 6 is never there.
    (0..7usize, 1..3u8, state, 0..3i64, prop_oneof![6 => Just("web"), 1 => Just(""), 1 => Just("other")])
        .prop_map(|(node, revision, state, age, owner)| PodCase { node, revision, state, age, owner })
}

fn set() -> impl Strategy<Value = SetCase> {
    let update = prop_oneof![
        (1..4i64).prop_map(|most| StrategyCase::Replace { most: most.to_string() }),
        Just(StrategyCase::Replace { most: "50%".to_owned() }),
        (1..3i64).prop_map(|most| StrategyCase::Surge { most: most.to_string() }),
        Just(StrategyCase::OnDelete),
    ];
    (update, prop::bool::ANY, prop::bool::ANY, prop::bool::weighted(0.3), prop::bool::weighted(0.05)).prop_map(
        |(update, selects, tolerates, patient, deleting)| SetCase {
            update,
            selects,
            tolerates,
            min_ready: if patient { 30 } else { 0 },
            deleting,
        },
    )
}

fn case() -> impl Strategy<Value = judge::Case> {
    (prop::collection::vec(node(), 0..=6), prop::collection::vec(pod(), 0..=8), set()).prop_map(|(nodes, pods, set)| judge::Case {
        nodes,
        pods,
        set,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_are_determined_bounded_and_just(case in case()) {
        let stage = Stage::new(&case.text());
        let made = stage.plan();
        // Of an equal cluster: hash maps would be in another order.
        prop_assert_eq!(&made, &Stage::new(&case.text()).plan());
        // A pod may be adopted and deleted.
        prop_assert!(made.actions.len() <= case.nodes.len() + case.pods.len() * 2);
        if let Err(wrong) = judge::plan(&case, &made) {
            prop_assert!(false, "{wrong}\n{}\n{:#?}", case.text(), made.actions);
        }
    }

    #[test]
    fn every_cluster_comes_to_rest_with_one_pod_on_each_node_that_should_run_one(case in case()) {
        if let Err(wrong) = comes_to_rest(&case) {
            prop_assert!(false, "{wrong}\n{}", case.text());
        }
    }

    #[test]
    fn failed_pods_are_not_made_anew_before_their_pause_is_over(seconds in prop::collection::vec(1..40i64, 1..60)) {
        let mut stage = Stage::new("node a; ds web");
        let mut deletions = Vec::new();
        for step in seconds {
            let made = stage.sync();
            if counts(&made).1 > 0 {
                deletions.push(stage.now);
            }
            stage.end();
            stage.bind();
            let names: Vec<_> = stage.picture.pods.values().map(|pod| pod.meta.name.clone()).collect();
            for name in names {
                stage.change(&name, |pod| pod.status.phase = crate::model::Phase::Failed);
            }
            stage.wait(step);
        }
        for (number, pair) in deletions.windows(2).enumerate() {
            let least = (1_i64 << number.min(10)).min(900);
            prop_assert!(pair[1].duration_since(pair[0]).as_secs() >= least, "deletion {number}: {pair:?}");
        }
    }
}

/// Pods start, plans are carried out, and after a bounded number of rounds nothing is left to do.
/// Dead nodes hold up what they hold up: here all nodes live.
fn comes_to_rest(case: &judge::Case) -> Result<(), String> {
    let mut case = case.clone();
    case.set.deleting = false;
    case.nodes.iter_mut().for_each(|node| node.ready = true);
    let mut stage = Stage::new(&case.text());
    let (mut made, mut deleted) = (0, 0);
    let rounds = 8 * (case.nodes.len() + 2);
    for _ in 0..rounds {
        let plan = stage.sync();
        made += counts(&plan).0;
        deleted += counts(&plan).1;
        stage.ready_all();
        stage.wait(if plan.wake_at.is_some() { 1000 } else { 1 });
    }
    let last = stage.plan();
    if !last.actions.is_empty() || last.wake_at.is_some() || last.more || !last.history.before.is_empty() || !last.history.after.is_empty()
    {
        return Err(format!("no rest after {rounds} rounds: {last:#?}"));
    }
    if stage.set().status != last.status {
        return Err("the status still changes at rest".to_owned());
    }
    // At most: a pod for each node, one more for each that surges or whose old pod is replaced, and
    // each pod goes once.
    if made > 2 * case.nodes.len() || deleted > case.pods.len() + case.nodes.len() {
        return Err(format!("{made} pods were made and {deleted} deleted on the way"));
    }
    judge::rest(&case, &stage)
}

/// Like TigerBeetle's exhaustigen: not some, but all.
#[test]
fn all_clusters_of_two_nodes_and_two_pods_are_planned_justly() {
    let taints = [Taint::None, Taint::NoSchedule, Taint::NoExecute];
    let nodes: Vec<NodeCase> = taints.into_iter().map(|taint| NodeCase { taint, ready: true, labelled: true }).collect();
    let states =
        [StateCase::Ready { seconds: 500 }, StateCase::Ready { seconds: 10 }, StateCase::Starting, StateCase::Failed, StateCase::Deleting];
    let mut pods = Vec::new();
    for node in 0..2 {
        for revision in 1..3 {
            pods.extend(states.iter().map(|state| PodCase { node, revision, state: *state, age: 0, owner: "web" }));
        }
    }
    let mut checked = 0;
    for update in [StrategyCase::Replace { most: "1".to_owned() }, StrategyCase::Surge { most: "1".to_owned() }, StrategyCase::OnDelete] {
        let set = SetCase { update, selects: false, tolerates: false, min_ready: 30, deleting: false };
        for pair in nodes.iter().flat_map(|a| nodes.iter().map(move |b| [*a, *b])) {
            checked += all_pods(&pods, &set, &pair);
        }
    }
    assert_eq!(checked, 3 * 9 * (1 + 20 + 210));
}

/// Every plan for these nodes with none, one or two of the pods.
fn all_pods(pods: &[PodCase], set: &SetCase, nodes: &[NodeCase]) -> usize {
    let mut case = judge::Case { nodes: nodes.to_vec(), pods: Vec::new(), set: set.clone() };
    let mut stage = Stage::new(&case.text());
    // The objects of the pods are made once: twice each, under both names that they can have.
    let objects: Vec<[_; 2]> = pods.iter().map(|pod| [0, 1].map(|at| std::sync::Arc::new(pod.object(at)))).collect();
    let mut checked = 0;
    let mut choices = vec![vec![]];
    choices.extend((0..pods.len()).map(|one| vec![one]));
    choices.extend((0..pods.len()).flat_map(|one| (one..pods.len()).map(move |two| vec![one, two])));
    for choice in choices {
        stage
            .picture
            .pods
            .keys()
            .cloned()
            .collect::<Vec<_>>()
            .iter()
            .for_each(|key| drop(stage.picture.remove(crate::picture::Kind::Pod, key, 0)));
        for (at, one) in choice.iter().enumerate() {
            stage.picture.put(crate::picture::Object::Pod(objects[*one][at].clone()));
        }
        case.pods = choice.iter().map(|one| pods[*one].clone()).collect();
        if let Err(wrong) = judge::plan(&case, &stage.plan()) {
            panic!("{wrong}\n{}\n{:#?}", case.text(), stage.plan().actions);
        }
        checked += 1;
    }
    checked
}
