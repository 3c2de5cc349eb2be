//! Example tests, one for each rule, in a small language for clusters (see `language`): `node a
//! cpu=4; pod web cpu=1 on=a; pod db`.

mod golden;
mod language;
mod properties;

use std::sync::Arc;

use expect_test::{Expect, expect};
use language::World;
use serde_json::json;

use crate::picture::Object;

/// Plans once and compares what was decided.
#[track_caller]
fn check(picture: &str, expected: Expect) {
    expected.assert_eq(&World::new(picture).decide(0));
}

#[test]
fn a_pod_is_bound_to_the_node_that_is_free() {
    check("node a cpu=2; node b cpu=2; pod busy cpu=2 on=a; pod web cpu=1", expect!["bind web to b"]);
}

#[test]
fn without_nodes_there_is_nothing_to_count() {
    check("pod web", expect!["reject web: no nodes available to schedule pods"]);
}

#[test]
fn gated_pods_and_those_of_other_schedulers_are_left_alone() {
    check("node a; pod gated gate=wait; pod other scheduler=mine; pod going deleted", expect![""]);
}

#[test]
fn a_cordoned_node_takes_who_tolerates_the_cordon() {
    check(
        "node a cordoned; pod web; pod agent tolerate=node.kubernetes.io/unschedulable",
        expect![[r#"
            bind agent to a
            reject web: 0/1 nodes are available: 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."#]],
    );
}

#[test]
fn taints_that_are_not_tolerated_keep_pods_away() {
    check(
        "node a taint=gpu:NoSchedule; node b taint=full:NoExecute; pod web; pod model tolerate=gpu",
        expect![[r#"
            bind model to a
            reject web: 0/2 nodes are available: 2 node(s) had untolerated taint(s). no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."#]],
    );
}

#[test]
fn the_node_selector_and_required_affinity_decide() {
    check(
        "node a label=disk=hdd; pod web select=disk=ssd; node b label=disk=ssd; pod cron select=disk=tape",
        expect![[r#"
            reject cron: 0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.
            bind web to b"#]],
    );
}

#[test]
fn a_pinned_pod_looks_at_its_node_alone() {
    check(
        "node a; node b; node c cpu=1; pod web-b pin=b; pod web-c pin=c cpu=2; pod web-x pin=ghost",
        expect![[r#"
            bind web-b to b
            reject web-c: 0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.
            reject web-x: 0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."#]],
    );
}

#[test]
fn host_ports_are_given_once_for_each_address_and_protocol() {
    check(
        "node a; pod one port=80 on=a; pod two port=80; pod three port=81; pod four port=81",
        expect![[r#"
            bind four to a
            reject three: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
            reject two: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."#]],
    );
    let port = |ip: &str, protocol: &str| crate::model::HostPort { ip: ip.into(), protocol: protocol.into(), port: 80 };
    let conflict = super::filters::conflict;
    assert!(conflict(&port("0.0.0.0", "TCP"), &port("10.0.0.1", "TCP")));
    assert!(!conflict(&port("10.0.0.2", "TCP"), &port("10.0.0.1", "TCP")));
    assert!(!conflict(&port("0.0.0.0", "TCP"), &port("0.0.0.0", "UDP")));
}

#[test]
fn all_resources_that_are_short_are_named_sorted_with_their_counts() {
    check(
        "node a cpu=1 memory=1Gi pods=1; node b cpu=4; pod full on=a; pod big cpu=2 memory=64Gi gpu=1 prio=-1",
        expect![[r#"
            reject big: 0/2 nodes are available: 1 Insufficient cpu, 1 Too many pods, 2 Insufficient example.com/gpu, 2 Insufficient memory. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."#]],
    );
}

#[test]
fn pods_that_ended_take_nothing_and_those_being_deleted_do() {
    check(
        "node a cpu=1; node b cpu=1; pod done cpu=1 on=a phase=Succeeded; pod going cpu=1 on=b deleted; pod one cpu=1; pod two cpu=1",
        expect![[r#"
            bind one to a
            reject two: 0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."#]],
    );
}

#[test]
fn anti_affinity_holds_in_both_directions() {
    check(
        "node a label=zone=x; node b label=zone=x; node c label=zone=y; pod db label=app=db anti=app=web/zone on=a; \
         pod web-1 label=app=web; pod web-2 label=app=web anti=app=web/zone",
        expect![[r#"
            bind web-1 to c
            reject web-2: 0/3 nodes are available: 1 node(s) didn't match pod anti-affinity rules, 2 node(s) didn't satisfy existing pods anti-affinity rules. no new claims to deallocate, preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."#]],
    );
}

#[test]
fn affinity_wants_company_and_the_first_of_its_kind_may_start() {
    check(
        "node a label=zone=x; node b label=zone=y; node c; pod one label=app=web near=app=web/zone; pod two label=app=web near=app=web/zone; \
         pod lost near=app=none/zone",
        expect![[r#"
            reject lost: 0/3 nodes are available: 3 node(s) didn't match pod affinity rules. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.
            bind one to a
            bind two to a"#]],
    );
}

#[test]
fn terms_reach_other_namespaces_by_their_labels() {
    check(
        "node a label=zone=x; node b label=zone=y; namespace other label=team=red; pod other/db label=app=db on=b; \
         pod web near=app=db/zone/team=red; pod cron near=app=db/zone",
        expect![[r#"
            reject cron: 0/2 nodes are available: 2 node(s) didn't match pod affinity rules. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.
            bind web to b"#]],
    );
}

#[test]
fn hard_spread_keeps_the_skew() {
    check(
        "node a label=zone=x; node b label=zone=y; node c; pod web-1 label=app=web on=a; pod web-2 label=app=web spread=1/zone/app=web; \
         pod web-3 label=app=web spread=1/zone/app=web; pod web-4 label=app=web spread=1/zone/app=web select=zone=x",
        expect![[r#"
            bind web-2 to b
            bind web-3 to a
            bind web-4 to a"#]],
    );
}

#[test]
fn a_node_without_the_label_is_no_domain() {
    check(
        "node a; pod web label=app=web spread=1/zone/app=web",
        expect![[r#"
            reject web: 0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label). no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."#]],
    );
}

#[test]
fn a_spread_that_cannot_be_kept_refuses_and_preemption_is_asked() {
    check(
        "node a label=zone=x; node b label=zone=y cordoned; pod web-1 label=app=web on=a; pod web-2 label=app=web spread=1/zone/app=web",
        expect![[r#"
            reject web-2: 0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."#]],
    );
}

#[test]
fn the_emptier_node_is_better() {
    check("node a cpu=4; node b cpu=4; pod busy cpu=3 on=a; pod web cpu=1", expect!["bind web to b"]);
}

#[test]
fn who_makes_the_use_of_a_node_more_even_is_better_there() {
    // Both nodes end with the same free share in sum; on b it becomes even, on a more lopsided.
    check(
        "node a cpu=10 memory=10Gi; node b cpu=10 memory=10Gi; pod x cpu=4 memory=2Gi on=a; pod y cpu=2 memory=4Gi on=b; \
         pod web cpu=3 memory=1Gi",
        expect!["bind web to b"],
    );
}

#[test]
fn soft_taints_are_avoided() {
    check(
        "node a taint=old:PreferNoSchedule; node b; pod web; pod agent tolerate=old pin=a",
        expect![[r#"
        bind agent to a
        bind web to b"#]],
    );
}

#[test]
fn preferred_nodes_win() {
    check("node a; node b label=disk=ssd; pod web prefer=disk=ssd", expect!["bind web to b"]);
}

#[test]
fn preferred_neighbours_attract_and_unwanted_ones_repel() {
    check(
        "node a label=zone=x; node b label=zone=y; pod db label=app=db on=b; pod web like=app=db/zone; pod loud avoid=app=db/zone",
        expect![[r#"
            bind loud to a
            bind web to b"#]],
    );
    // What is there has a say too.
    check("node a label=zone=x; node b label=zone=y; pod db like=app=web/zone on=b; pod web label=app=web", expect!["bind web to b"]);
}

#[test]
fn soft_spread_prefers_the_emptier_domain() {
    check(
        "node a label=zone=x; node b label=zone=x; node c label=zone=y; pod web-1 label=app=web on=c; \
         pod web-2 label=app=web softspread=1/zone/app=web",
        expect!["bind web-2 to a"],
    );
}

#[test]
fn pods_of_one_owner_spread_by_default() {
    check(
        "node a label=kubernetes.io/hostname=a; node b label=kubernetes.io/hostname=b; pod web-1 owner=web on=a; pod x on=b; pod y on=b; \
         pod web-2 owner=web",
        expect!["bind web-2 to b"],
    );
}

#[test]
fn pods_that_are_alike_take_turns() {
    check(
        "node a cpu=64 memory=256Gi; node b cpu=64 memory=256Gi; pod w1; pod w2; pod w3; pod w4",
        expect![[r#"
            bind w1 to a
            bind w2 to b
            bind w3 to a
            bind w4 to b"#]],
    );
}

#[test]
fn the_most_important_pod_is_first_then_the_oldest() {
    check(
        "node a cpu=2; pod young cpu=1 created=9; pod old cpu=1 created=1; pod vip cpu=1 prio=7 created=9 never",
        expect![[r#"
            bind vip to a
            bind old to a
            reject young: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."#]],
    );
}

#[test]
fn preemption_takes_as_few_as_possible_and_the_least_important() {
    check(
        "node a cpu=3; pod p1 cpu=1 prio=1 on=a; pod p2 cpu=1 prio=2 on=a; pod p3 cpu=1 prio=3 on=a; pod vip cpu=2 prio=9",
        expect![[r#"
            reject vip: 0/1 nodes are available: 1 Insufficient cpu.
            preempt for vip on a: p2 p1"#]],
    );
}

#[test]
fn preemption_never_takes_equals() {
    check(
        "node a cpu=1; pod equal cpu=1 prio=5 on=a; pod vip cpu=1 prio=5",
        expect![[r#"
            reject vip: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."#]],
    );
}

#[test]
fn who_may_not_preempt_waits() {
    check(
        "node a cpu=1; pod low cpu=1 on=a; pod vip cpu=1 prio=5 never",
        expect![[r#"
            reject vip: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."#]],
    );
}

#[test]
fn preemption_says_what_is_still_short() {
    check(
        "node a cpu=2; pod equal cpu=1 prio=5 on=a; pod low cpu=1 on=a; pod vip cpu=2 prio=5",
        expect![[r#"
            reject vip: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Insufficient cpu."#]],
    );
}

#[test]
fn preemption_keeps_budgets_where_it_can() {
    // On the node: the victim without a budget goes, though it is more important.
    check(
        "node a cpu=2; budget web app=web allowed=0; pod web cpu=1 prio=1 label=app=web on=a; pod x cpu=1 prio=2 on=a; pod vip cpu=1 prio=9",
        expect![[r#"
            reject vip: 0/1 nodes are available: 1 Insufficient cpu.
            preempt for vip on a: x"#]],
    );
    // Between nodes: the one whose budget holds, though its victim is more important.
    check(
        "node a cpu=1; node b cpu=1; budget web app=web allowed=0; pod web cpu=1 label=app=web on=a; pod x cpu=1 prio=5 on=b; \
         pod vip cpu=1 prio=9",
        expect![[r#"
            reject vip: 0/2 nodes are available: 2 Insufficient cpu.
            preempt for vip on b: x"#]],
    );
}

#[test]
fn preemption_chooses_the_node_that_loses_least() {
    let lowest = "node a cpu=1; node b cpu=1; pod x cpu=1 prio=2 on=a; pod y cpu=1 prio=1 on=b; pod vip cpu=1 prio=9";
    check(
        lowest,
        expect![[r#"
        reject vip: 0/2 nodes are available: 2 Insufficient cpu.
        preempt for vip on b: y"#]],
    );
    let fewest = "node a cpu=2; node b cpu=2; pod x1 cpu=1 on=a; pod x2 cpu=1 on=a; pod y cpu=2 on=b; pod vip cpu=2 prio=9";
    check(
        fewest,
        expect![[r#"
        reject vip: 0/2 nodes are available: 2 Insufficient cpu.
        preempt for vip on b: y"#]],
    );
    let latest = "node a cpu=1; node b cpu=1; pod x cpu=1 on=a started=1; pod y cpu=1 on=b started=2; pod vip cpu=1 prio=9";
    check(
        latest,
        expect![[r#"
        reject vip: 0/2 nodes are available: 2 Insufficient cpu.
        preempt for vip on b: y"#]],
    );
}

#[test]
fn preemption_frees_ports_and_ends_anti_affinity() {
    check(
        "node a; pod low port=80 on=a; pod vip port=80 prio=9",
        expect![[r#"
            reject vip: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.
            preempt for vip on a: low"#]],
    );
    check(
        "node a label=zone=x; pod low label=app=db on=a; pod vip prio=9 anti=app=db/zone",
        expect![[r#"
            reject vip: 0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.
            preempt for vip on a: low"#]],
    );
    check(
        "node a label=zone=x; pod low anti=app=vip/zone on=a; pod other on=a; pod vip label=app=vip prio=9",
        expect![[r#"
            reject vip: 0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.
            preempt for vip on a: low"#]],
    );
}

#[test]
fn two_preemptors_take_two_nodes() {
    check(
        "node a cpu=1; node b cpu=1; pod x cpu=1 on=a; pod y cpu=1 on=b; pod vip-1 cpu=1 prio=9; pod vip-2 cpu=1 prio=9",
        expect![[r#"
            reject vip-1: 0/2 nodes are available: 2 Insufficient cpu.
            reject vip-2: 0/2 nodes are available: 2 Insufficient cpu.
            preempt for vip-1 on a: x
            preempt for vip-2 on b: y"#]],
    );
}

#[test]
fn a_nominated_pod_keeps_its_place_against_less_important_ones() {
    check(
        "node a cpu=2; pod going cpu=1 on=a deleted victim; pod vip cpu=2 prio=9 nominated=a; pod low cpu=1",
        expect![[r#"
            reject vip: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to a terminating pod on the nominated node.
            reject low: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."#]],
    );
}

#[test]
fn a_nominated_pod_goes_to_its_node_when_it_fits() {
    check("node a cpu=2; node b cpu=8; pod vip cpu=2 prio=9 nominated=a", expect!["bind vip to a"]);
}

#[test]
fn a_more_important_preemptor_displaces_nominations() {
    check(
        "node a cpu=2; pod x cpu=2 on=a; pod mid cpu=1 prio=5 nominated=a; pod vip cpu=2 prio=9",
        expect![[r#"
            reject vip: 0/1 nodes are available: 1 Insufficient cpu.
            reject mid: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Insufficient cpu.
            preempt for vip on a: x, displaces mid"#]],
    );
}

#[test]
fn a_failed_pod_is_tried_again_when_room_appears_not_before() {
    let mut world = World::new("node a cpu=1; node b cpu=1; pod x cpu=1 on=a; pod y cpu=1 on=b; pod web cpu=1; pod agent cpu=1 pin=a");
    expect![[r#"
        [0 active, 0 in backoff, 2 waiting] wake at 300
        patch agent/status PodScheduled=False
        patch web/status PodScheduled=False
        event agent FailedScheduling
        event web FailedScheduling"#]]
    .assert_eq(&world.work(0));
    world.change("node a cpu=1 ready");
    expect!["[0 active, 0 in backoff, 2 waiting] wake at 300"].assert_eq(&world.work(1));
    world.remove_pod("y");
    expect![[r#"
        [0 active, 0 in backoff, 1 waiting] wake at 12
        bind web to b"#]]
    .assert_eq(&world.work(2));
    world.change("pod web cpu=1 on=b");
    expect!["[0 active, 0 in backoff, 1 waiting] wake at 300"].assert_eq(&world.work(3));
    world.change("pod x cpu=1 on=a phase=Succeeded");
    expect![[r#"
        [0 active, 0 in backoff, 0 waiting] wake at 14
        bind agent to a"#]]
    .assert_eq(&world.work(4));
}

#[test]
fn the_backoff_doubles_from_one_second_to_ten() {
    let mut world = World::new("node a cpu=1; pod web cpu=2");
    let mut now = 0;
    let mut pauses = Vec::new();
    for _ in 0..6 {
        world.work(now);
        world.change(&format!("node a cpu=1 label=n=v{now}"));
        world.work(now);
        let wake = world.wake_at().expect("a pod in backoff is due some time");
        pauses.push(wake - now);
        now = wake;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
}

#[test]
fn after_five_minutes_a_pod_is_tried_in_any_case() {
    let mut world = World::new("node a cpu=1; pod web cpu=2");
    world.work(0);
    assert_eq!(world.attempts(299), 0);
    assert_eq!(world.attempts(300), 1);
}

#[test]
fn a_changed_pod_is_tried_again_and_its_own_condition_is_no_change() {
    let mut world = World::new("node a taint=gpu:NoSchedule; pod web");
    world.work(0);
    world.change("pod web unscheduled");
    assert_eq!(world.attempts(5), 0);
    world.change("pod web tolerate=gpu");
    expect![[r#"
        [0 active, 0 in backoff, 0 waiting] wake at 15
        bind web to a"#]]
    .assert_eq(&world.work(5));
}

#[test]
fn pods_that_wait_for_company_are_woken_by_it() {
    let mut world = World::new("node a label=zone=x; pod web near=app=db/zone; pod big cpu=500");
    world.work(0);
    world.change("pod db label=app=db on=a");
    expect![[r#"
        [0 active, 0 in backoff, 1 waiting] wake at 15
        bind web to a"#]]
    .assert_eq(&world.work(5));
}

#[test]
fn a_bound_pod_is_assumed_until_it_is_seen_and_tried_again_if_it_never_is() {
    let mut world = World::new("node a cpu=1; pod one cpu=1");
    expect![[r#"
        [0 active, 0 in backoff, 0 waiting] wake at 10
        bind one to a"#]]
    .assert_eq(&world.work(0));
    // The picture does not show the binding yet: its place is taken.
    world.change("pod two cpu=1");
    assert!(world.work(1).contains("patch two/status"));
    assert!(world.work(10).contains("bind one to a"), "the binding was lost");
}

#[test]
fn preemption_marks_nominates_deletes_and_waits() {
    let mut world = World::new("node a cpu=1; pod low cpu=1 on=a; pod vip cpu=1 prio=9");
    expect![[r#"
        [0 active, 0 in backoff, 1 waiting] wake at 300
        patch vip/status PodScheduled=False nominated a
        then patch low/status DisruptionTarget=True
        then delete low (Preempted)
        event vip FailedScheduling"#]]
    .assert_eq(&world.work(0));
    world.change("pod vip cpu=1 prio=9 nominated=a unscheduled");
    world.change("pod low cpu=1 on=a deleted victim");
    expect!["[0 active, 0 in backoff, 1 waiting] wake at 300"].assert_eq(&world.work(1));
    world.remove_pod("low");
    expect![[r#"
        [0 active, 0 in backoff, 0 waiting] wake at 12
        bind vip to a"#]]
    .assert_eq(&world.work(2));
}

#[test]
fn a_nomination_that_does_not_help_is_cleared() {
    let mut world = World::new("node a cpu=1; pod web cpu=2 nominated=a");
    expect![[r#"
        [0 active, 0 in backoff, 1 waiting] wake at 300
        patch web/status PodScheduled=False nominated null
        event web FailedScheduling"#]]
    .assert_eq(&world.work(0));
}

#[test]
fn a_plan_is_bounded_and_says_that_there_is_more() {
    let pods: Vec<String> = (0..501).map(|i| format!("pod w{i} pin=a")).collect();
    let mut world = World::new(&format!("node a pods=1000; {}", pods.join("; ")));
    let first = world.work(0);
    assert!(first.starts_with("[1 active, 0 in backoff, 0 waiting] wake at 10 more\nbind "));
    assert_eq!(first.matches("bind ").count(), 500);
    assert_eq!(world.work(0).matches("bind ").count(), 1);
}

#[test]
fn who_holds_what_is_explained() {
    let world =
        World::new("node a cpu=2; node b; pod x cpu=500m on=a; pod y cpu=1 on=a; pod web cpu=1; pod fixed pin=b; pod p port=80 on=b");
    expect!["Insufficient cpu: wants 1000, free 500 of 2000, default/y has 1000, default/x has 500"].assert_eq(&world.explain("web", "a"));
    expect!["fits"].assert_eq(&world.explain("web", "b"));
    expect!["node(s) didn't satisfy plugin(s) [NodeAffinity]"].assert_eq(&world.explain("fixed", "a"));
    expect!["fits"].assert_eq(&world.explain("x", "a"));
    expect!["node(s) didn't match the requested node name"].assert_eq(&world.explain("x", "b"));
}

/// A pod on node a that was given one core and asks for more or less.
fn resized(asked: &str, reason: &str) -> Object {
    let resources = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let status = json!({
        "phase": "Running",
        "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}],
        "containerStatuses": [{"name": "c", "resources": resources("1"), "allocatedResources": {"cpu": "1"}}],
    });
    let spec = json!({"nodeName": "a", "containers": [{"name": "c", "resources": resources(asked)}]});
    let pod = json!({"metadata": {"name": "x", "namespace": "default", "uid": "x"}, "spec": spec, "status": status});
    Object::Pod(Arc::new(serde_json::from_value(pod).unwrap()))
}

#[test]
fn a_resize_that_its_node_refuses_takes_nothing() {
    let mut world = World::new("node a cpu=2; pod web cpu=1");
    world.put(resized("100", "Infeasible"));
    expect!["fits"].assert_eq(&world.explain("web", "a"));
    world.put(resized("2", "Deferred"));
    expect!["Insufficient cpu: wants 1000, free 0 of 2000, default/x has 2000"].assert_eq(&world.explain("web", "a"));
    world.put(resized("100m", ""));
    world.change("pod web cpu=1500m");
    expect!["Insufficient cpu: wants 1500, free 1000 of 2000, default/x has 1000"].assert_eq(&world.explain("web", "a"));
}

#[test]
fn a_refused_resize_lets_those_that_wait_for_the_node_try_again() {
    let mut world = World::new("node a cpu=2; pod web cpu=1");
    world.put(resized("100", ""));
    assert!(world.work(0).starts_with("[0 active, 0 in backoff, 1 waiting]"));
    world.put(resized("100", "Infeasible"));
    assert!(world.work(30).contains("bind web to a"));
}

#[test]
fn what_preemption_would_evict_is_explained() {
    let world =
        World::new("node a cpu=2; pod x cpu=1 on=a; pod y cpu=1 prio=1 on=a; pod web cpu=1 prio=5; pod small; pod huge cpu=3 prio=5");
    assert_eq!(world.evicted("web", "a"), Some(vec!["default/x".to_owned()]));
    assert_eq!(world.evicted("small", "a"), None);
    assert_eq!(world.evicted("huge", "a"), None);
}
