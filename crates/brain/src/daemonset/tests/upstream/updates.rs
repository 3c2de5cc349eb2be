//! Rolling updates, sync by sync, with and without surge: upstream's `update_test.go` and the surge
//! cases of its controller's tests.

use super::*;
use crate::model::{IntOrPercent, UpdateStrategy};

/// Nodes with a ready pod of the first revision each, and a set that was just updated.
fn updating(count: usize, strategy: &str) -> Stage {
    let pods: String = (0..count).map(|number| format!("pod p{number}@n{number} rev=1 ready; ")).collect();
    Stage::new(&(nodes(0..count, "") + &pods + &format!("ds web rev=2 known=1 {strategy}")))
}

/// Syncs as often as pairs are given; deleted pods go at once, new ones are bound and not ready.
#[track_caller]
fn follow(stage: &mut Stage, expected: &[(usize, usize)]) {
    for (number, expected) in expected.iter().enumerate() {
        assert_eq!(counts(&stage.sync()), *expected, "sync {number}");
        stage.end();
        stage.bind();
    }
}

fn surge(most: i64) -> UpdateStrategy {
    UpdateStrategy::RollingUpdate { max_unavailable: IntOrPercent::Int(0), max_surge: IntOrPercent::Int(most) }
}

fn replace(most: i64) -> UpdateStrategy {
    UpdateStrategy::RollingUpdate { max_unavailable: IntOrPercent::Int(most), max_surge: IntOrPercent::Int(0) }
}

#[test]
fn pods_are_replaced_as_many_at_once_as_may_be_unavailable() {
    let mut stage = updating(5, "maxUnavailable=2");
    for most in [2, 2, 1] {
        follow(&mut stage, &[(0, most), (most, 0)]);
        stage.start();
    }
    follow(&mut stage, &[(0, 0)]);
}

#[test]
fn surge_makes_as_many_new_pods_as_it_may_and_then_takes_the_old_ones() {
    let mut stage = updating(5, "maxUnavailable=0 maxSurge=2");
    for expected in [(2, 0), (2, 2), (1, 2), (0, 1)] {
        follow(&mut stage, &[expected, (0, 0)]);
        stage.start();
    }
}

#[test]
fn surge_removes_pods_from_nodes_that_the_new_template_does_not_tolerate() {
    let mut stage = Stage::new(
        &("node n0 taint=control-plane:NoSchedule; ".to_owned()
            + &nodes(1..5, "")
            + "ds web tolerate=control-plane maxUnavailable=0 maxSurge=1"),
    );
    follow(&mut stage, &[(5, 0)]);
    stage.start();
    stage.edit(|set| {
        set.template = Arc::new(crate::fixture::template("2"));
        set.template_spec = PodSpec::default();
    });
    for expected in [(1, 1), (1, 1), (1, 1), (1, 1), (0, 1)] {
        follow(&mut stage, &[expected, (0, 0)]);
        stage.start();
    }
    assert_eq!(stage.picture.pods.len(), 4);
}

#[test]
fn new_pods_that_are_not_ready_hold_up_the_update() {
    let mut stage = updating(5, "maxUnavailable=3");
    follow(&mut stage, &[(0, 3), (3, 0), (0, 0)]);
}

#[test]
fn another_update_replaces_the_broken_pods_and_leaves_the_others_alone() {
    let mut stage = updating(5, "maxUnavailable=2");
    follow(&mut stage, &[(0, 2), (2, 0), (0, 0)]);
    stage.update_to("3");
    follow(&mut stage, &[(0, 2), (2, 0), (0, 0)]);
    assert_eq!(stage.picture.pods.values().filter(|pod| pod.is_ready()).count(), 3);
}

#[test]
fn bad_updates_in_a_row_never_touch_the_pods_that_are_well() {
    let mut stage = updating(20, "maxUnavailable=10");
    follow(&mut stage, &[(0, 10), (10, 0), (0, 0)]);
    let well: Vec<Key> = stage.picture.pods.values().filter(|pod| pod.is_ready()).map(|pod| pod.meta.key()).collect();
    for (number, most) in [1, 9, 3, 0, 7, 2, 5].into_iter().enumerate() {
        stage.update_to(&format!("bad-{number}"));
        stage.edit(|set| set.strategy = replace(most));
        follow(&mut stage, &[(0, 10), (10, 0), (0, 0)]);
        assert!(well.iter().all(|key| stage.picture.pods[key].is_ready()));
    }
    stage.update_to("last");
    stage.edit(|set| set.strategy = replace(11));
    follow(&mut stage, &[(0, 11), (11, 0), (0, 0)]);
    assert_eq!(stage.picture.pods.values().filter(|pod| pod.is_ready()).count(), 9);
}

#[test]
fn old_pods_that_are_broken_are_replaced_however_many_new_ones_are_broken_too() {
    let new: String = (12..100).map(|number| format!("pod p{number}@n{number} rev=2; ")).collect();
    let old: String = (0..12).map(|number| format!("pod p{number}@n{number} rev=1 {}; ", if number < 10 { "ready" } else { "" })).collect();
    let mut stage = Stage::new(&(nodes(0..100, "") + &new + &old + "ds web rev=2 maxUnavailable=10"));
    follow(&mut stage, &[(0, 2), (2, 0), (0, 0)]);
    assert!(!stage.picture.pods.keys().any(|key| matches!(&*key.name, "p10" | "p11")));
}

#[test]
fn old_pods_that_are_all_broken_are_replaced_at_once() {
    let mut stage = Stage::new(&(nodes(0..5, "") + "ds web maxUnavailable=3"));
    follow(&mut stage, &[(5, 0)]);
    stage.update_to("2");
    follow(&mut stage, &[(0, 5), (5, 0), (0, 0)]);
}

/// Upstream surges onto all five nodes whose pods are broken; here no more than the surge allows,
/// and a broken old pod goes as soon as its successor exists (kubernetes/kubernetes 133378).
#[test]
fn with_surge_broken_old_pods_get_successors_within_the_surge() {
    let mut stage = Stage::new(&(nodes(0..5, "") + "ds web maxUnavailable=0 maxSurge=3"));
    follow(&mut stage, &[(5, 0)]);
    stage.update_to("2");
    follow(&mut stage, &[(3, 0), (0, 3), (0, 0)]);
    stage.start();
    // The two old pods became ready with the others: they are surged onto like any.
    follow(&mut stage, &[(2, 0), (0, 0)]);
    stage.start();
    follow(&mut stage, &[(0, 2), (0, 0)]);
}

#[test]
fn with_surge_new_pods_count_when_they_are_ready_for_long_enough() {
    let mut stage = updating(5, "maxUnavailable=0 maxSurge=3 minReady=15");
    follow(&mut stage, &[(3, 0)]);
    let new: Vec<_> = stage.picture.pods.values().filter(|pod| !pod.is_ready()).map(|pod| pod.meta.name.clone()).collect();
    let now = stage.now;
    for name in &new[..2] {
        stage.change(name, |pod| pod.status.ready = Some((true, Some(now))));
    }
    stage.wait(10);
    let made = stage.plan();
    assert_eq!((counts(&made), made.wake_at.map(|at| at.as_second() - stage.now.as_second())), ((0, 0), Some(5)));
    stage.wait(10);
    follow(&mut stage, &[(2, 2)]);
}

#[test]
fn a_template_that_did_not_change_replaces_nothing() {
    let mut stage = Stage::new(&(nodes(0..5, "") + "ds web"));
    follow(&mut stage, &[(5, 0)]);
    stage.edit(|set| set.strategy = replace(3));
    follow(&mut stage, &[(0, 0)]);
}

#[test]
fn budgets_are_numbers_or_shares_of_the_nodes_that_should_run_a_pod() {
    let budget = |text: &str| {
        let budget = Stage::new(text).plan().budget;
        (budget.max_surge, budget.max_unavailable)
    };
    let two = nodes(0..2, "") + &pods("n0", 1, "ready") + &pods("n1", 1, "ready");
    assert_eq!(budget("ds web maxUnavailable=0"), (0, 0));
    assert_eq!(budget(&(two.clone() + "ds web maxUnavailable=1")), (0, 1));
    assert_eq!(budget("node n0; node n1; pod p@n0 ready; ds web maxUnavailable=0"), (0, 1));
    assert_eq!(budget("node n0; node n1; pod p@n0 ready; ds web maxUnavailable=0 maxSurge=0"), (0, 1));
    assert_eq!(budget(&(two.clone() + "ds web maxUnavailable=50%")), (0, 1));
    assert_eq!(budget(&(two.clone() + "ds web maxUnavailable=0 maxSurge=50%")), (1, 0));
    assert_eq!(budget(&(two + "ds web maxUnavailable=0 maxSurge=100%")), (2, 0));
    assert_eq!(budget(&(nodes(0..3, "") + "pod a@n0 ready; pod b@n1 ready deleting; ds web maxUnavailable=50%")), (0, 2));
}

/// Five nodes, of which the second has these pods, the third a new one, and the others none.
fn surging(pods: &str, words: &str) -> String {
    let set = format!("ds web rev=2 maxUnavailable=0 maxSurge=1 {words}");
    told(&Stage::new(&(nodes(0..5, "") + "pod other@n2 rev=2; " + pods + &set)).plan())
}

#[test]
fn surge_keeps_the_oldest_old_pod_that_is_ready_beside_the_new_one() {
    let pods = "pod new@n1 rev=2 age=10; pod old@n1 rev=1 ready age=60; pod older@n1 rev=1 ready age=50; ";
    assert_eq!(surging(pods, ""), "+n0 +n3 +n4 -older");
}

#[test]
fn surge_takes_an_old_pod_that_is_not_ready() {
    let pods = "pod new@n1 rev=2 age=10; pod old@n1 rev=1 age=60; pod older@n1 rev=1 ready age=50; ";
    assert_eq!(surging(pods, ""), "+n0 +n3 +n4 -old -older");
}

#[test]
fn surge_keeps_the_old_pod_until_the_new_one_was_ready_for_long_enough() {
    let pods =
        |ready: i64| format!("pod new@n1 rev=2 age=10 ready={ready}; pod old@n1 rev=1 ready age=60; pod older@n1 rev=1 ready age=50; ");
    assert_eq!(surging(&pods(10), "minReady=15"), "+n0 +n3 +n4 -older");
    assert_eq!(surging(&pods(20), "minReady=15"), "+n0 +n3 +n4 -old -older");
}

#[test]
fn a_node_whose_old_pod_is_going_gets_a_new_one_although_the_surge_is_used_up() {
    let text = nodes(0..5, "")
        + "pod new@n0 rev=2 age=10; pod old@n0 rev=1 ready age=50; pod p1@n1 rev=1 ready; pod p2@n2 rev=1 ready; pod p3@n3 rev=1 ready;
           pod p4@n4 rev=1 ready deleting; ds web rev=2 maxUnavailable=0 maxSurge=1";
    assert_eq!(told(&Stage::new(&text).plan()), "+n4");
}

/// The integration test of rolling updates with tolerations.
#[test]
fn tolerations_that_change_move_the_set_from_nodes_to_nodes() {
    let taints: String =
        ["y", "y", "z", "z", "c", "c"].iter().enumerate().map(|(at, zone)| format!("node n{at} taint={zone}:NoSchedule; ")).collect();
    let tolerating = |zones: &[&str]| {
        let mut template = crate::fixture::template(&zones.join("-"));
        template["spec"]["tolerations"] = zones.iter().map(|zone| serde_json::json!({"key": zone, "operator": "Exists"})).collect();
        template
    };
    let mut stage = Stage::new(&(taints + "ds web known=none"));
    let change = |stage: &mut Stage, zones: &[&str]| {
        stage.edit(|set| {
            set.strategy = surge(1);
            set.template = Arc::new(tolerating(zones));
            set.template_spec = PodSpec::from_json(&set.template["spec"]).expect("the template is well formed");
        });
    };
    let active = |stage: &Stage| stage.picture.pods.values().filter(|pod| !pod.meta.is_deleted()).count();
    let settle = |stage: &mut Stage| {
        for _ in 0..12 {
            stage.sync();
            stage.ready_all();
        }
        active(stage)
    };
    change(&mut stage, &["y", "c"]);
    assert_eq!(settle(&mut stage), 4);
    change(&mut stage, &["z", "c"]);
    stage.sync();
    assert_eq!(active(&stage), 7, "two on zone z, one of the surge, and the four old ones");
    assert_eq!(settle(&mut stage), 4);
    change(&mut stage, &["y", "z", "c"]);
    stage.sync();
    assert_eq!(active(&stage), 7);
    assert_eq!(settle(&mut stage), 6);
    change(&mut stage, &[]);
    assert_eq!(settle(&mut stage), 0);
}
