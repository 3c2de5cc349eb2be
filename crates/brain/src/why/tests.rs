//! One example for each sort of answer.

use expect_test::{Expect, expect};

use super::*;
use crate::fixture::{now, picture};
use crate::picture::Object;

fn told(picture: &Picture) -> String {
    let key = picture.sets.keys().next().expect("a set").clone();
    let explanation = why(picture, &key, None, now()).expect("the set is there");
    let mut out: String = explanation.summary.iter().map(|line| format!("{line}\n")).collect();
    for node in &explanation.nodes {
        out += &format!("{} {:?} r{} {}: {}\n", node.node, node.state, node.revision.unwrap_or(0), node.code, node.reason);
    }
    out
}

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&told(&picture(text)));
}

#[test]
fn pods_that_run_and_nodes_that_are_not_meant() {
    check(
        "node a; node b taint=maint=x:NoSchedule; node c; node d taint=maint:NoSchedule; ds web minReady=20
         pod p@a ready; pod q@c ready=5; pod r@d ready",
        expect![[r#"
            a Runs r1 Runs: available
            b DoesNotRun r0 Taint: taint maint=x:NoSchedule is not tolerated
            c Runs r1 Runs: ready, available in 15 s (minReadySeconds 20)
            d Runs r1 Misscheduled: the pod stays although none would be started now: taint maint:NoSchedule is not tolerated
        "#]],
    );
    check(
        "node a; node b label=disk=ssd; ds web select=disk=ssd; pod p@a ready",
        expect![[r#"
        a DoesNotRun r1 Selector: its pod is removed: the node's labels do not match the nodeSelector or node affinity
        b Waits r0 Creating: a pod is being made
    "#]],
    );
}

#[test]
fn standings_say_what_needs_attention() {
    let text =
        "node a; node b; node c notready; node d taint=k:NoExecute; ds web minReady=20; pod p@a ready; pod q@b ready=5; pod r@c ready";
    let picture = picture(text);
    let key = picture.sets.keys().next().expect("a set").clone();
    let explanation = why(&picture, &key, None, now()).expect("the set is there");
    let standings: Vec<Standing> = explanation.nodes.iter().map(|node| node.standing).collect();
    assert_eq!(standings, [Standing::Done, Standing::Underway, Standing::Stuck, Standing::NotMeant]);
}

#[test]
fn a_rollout_that_waits_for_a_dead_node_says_so() {
    check(
        "node a notready; node b; ds web rev=2; pod p@a rev=2; pod q@b rev=1 ready",
        expect![[r#"
            the rollout waits: nodes without an available pod: 1, maxUnavailable: 1; of these nodes 1 not Ready: bring them back or delete them
            a Waits r2 NodeDown: the node is not Ready; its pod is of the current revision
            b Runs r1 WaitsForBudget: available; of an old revision, waits for the rollout budget (1 of 1 unavailable)
        "#]],
    );
}

#[test]
fn on_delete_says_who_has_to_act() {
    check(
        "node a; ds web rev=2 onDelete; pod p@a rev=1 ready",
        expect![[r#"
        a Runs r1 OnDelete: available; of an old revision until a user deletes it (OnDelete)
    "#]],
    );
}

#[test]
fn failed_and_ending_pods() {
    check(
        "node a; node b; ds web; pod p@a failed; pod q@b ready deleting",
        expect![[r#"
        a Waits r1 Failed: the pod failed and is being made anew
        b Waits r1 Terminating: q is ending; its successor follows
    "#]],
    );
}

#[test]
fn images_that_cannot_be_pulled() {
    let mut picture = picture("node a; ds web; pod p@a");
    let mut pod = Pod::clone(picture.pods.values().next().expect("a pod"));
    let waiting =
        crate::model::Waiting { container: "c".into(), reason: "ImagePullBackOff".into(), message: "Back-off pulling image".into() };
    pod.status.waiting = Some(Box::new(waiting));
    picture.put(Object::Pod(Arc::new(pod)));
    expect![[r#"
        a Waits r1 ImagePull: container c waits: ImagePullBackOff: Back-off pulling image
    "#]]
    .assert_eq(&told(&picture));
}

#[test]
fn a_full_node_says_who_has_the_memory() {
    let mut picture = picture("node a; ds web; pod p@a unbound; pod big@a owner=other; pod small@a owner=other");
    for (name, gigabytes) in [("p", 2), ("big", 6), ("small", 1)] {
        let mut pod = Pod::clone(&picture.pods[&Key::new("ns", name)]);
        Arc::make_mut(&mut pod.spec).requests.memory = gigabytes << 30;
        picture.put(Object::Pod(Arc::new(pod)));
    }
    expect![[r#"
        a DoesNotRun r1 Insufficient: the pod is not scheduled: not enough memory: asks for 2Gi, 1Gi of 8Gi free; held by ns/big 6Gi, ns/small 1Gi; nothing on the node has a lower priority
    "#]].assert_eq(&told(&picture));
}
