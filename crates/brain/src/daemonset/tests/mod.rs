//! Example tests, in the language of [`crate::fixture`]: one for each rule of the decider. Below:
//! public bug reports, upstream's cases, properties of random clusters, and all states of small
//! ones.

mod bugs;
mod checker;
mod properties;
mod upstream;

use expect_test::{Expect, expect};

use super::*;
use crate::fixture::{at, now, picture};
use crate::history::HistoryAction;
use crate::picture::Picture;

/// What a plan says, line by line.
fn told(plan: &Plan) -> String {
    let mut out = String::new();
    for action in &plan.history.before {
        out += &format!("first {}\n", history_text(action));
    }
    for action in &plan.actions {
        out += &match action {
            Action::Adopt { pod, .. } => format!("adopt {}\n", pod.name),
            Action::Release { pod, .. } => format!("release {}\n", pod.name),
            Action::Create { node, .. } => format!("create on {node}\n"),
            Action::Delete { pod, because, .. } => format!("delete {}: {because:?}\n", pod.name),
        };
    }
    for action in &plan.history.after {
        out += &format!("then {}\n", history_text(action));
    }
    let s = &plan.status;
    let counters = [
        ("desired", s.desired_number_scheduled),
        ("current", s.current_number_scheduled),
        ("ready", s.number_ready),
        ("updated", s.updated_number_scheduled),
        ("available", s.number_available),
        ("unavailable", s.number_unavailable),
        ("misscheduled", s.number_misscheduled),
    ];
    let counters = counters.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}"));
    out += &counters.collect::<Vec<_>>().join(" ");
    if let Some(wake) = plan.wake_at {
        out += &format!("\nwakes after {} s", wake.as_second() - now().as_second());
    }
    out
}

fn history_text(action: &HistoryAction) -> String {
    match action {
        HistoryAction::Create { object, .. } => format!("create revision {}", object["revision"]),
        HistoryAction::Change { revision, patch } => format!("change {} {patch}", revision.name),
        HistoryAction::Relabel { pod, hash, .. } => format!("relabel {} {hash}", pod.name),
        HistoryAction::Adopt { revision, .. } => format!("adopt {}", revision.name),
        HistoryAction::Release { revision, .. } => format!("release {}", revision.name),
        HistoryAction::Delete { revision, .. } => format!("delete {}", revision.name),
    }
}

fn planned(picture: &Picture, memory: Memory, now: Timestamp) -> Plan {
    let set = picture.sets.values().next().expect("the text has a set");
    plan(&view_of(picture, set, now), memory)
}

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&told(&planned(&picture(text), Memory::default(), now())));
}

#[test]
fn a_pod_is_made_on_every_node_without_one() {
    check(
        "node a; node b; ds web; pod p@a ready",
        expect![[r#"
        create on b
        desired 2 current 1 ready 1 updated 1 available 1 unavailable 1"#]],
    );
}

#[test]
fn no_schedule_keeps_new_pods_away_and_leaves_old_ones() {
    check("node a taint=maint:NoSchedule; node b taint=maint:NoSchedule; ds web; pod p@a ready", expect!["misscheduled 1"]);
}

#[test]
fn no_execute_removes() {
    check(
        "node a taint=maint:NoExecute; ds web; pod p@a ready",
        expect![[r#"
        delete p: Misfit(Taint(Taint { key: "maint", value: "", effect: "NoExecute", time_added: None }))
        misscheduled 1"#]],
    );
}

#[test]
fn prefer_no_schedule_does_not_matter() {
    check(
        "node a taint=maint:PreferNoSchedule; ds web",
        expect![[r#"
        create on a
        desired 1 unavailable 1"#]],
    );
}

#[test]
fn a_toleration_of_the_template_counts() {
    check(
        "node a taint=maint:NoExecute; node b taint=other:NoSchedule; ds web tolerate=maint",
        expect![[r#"
        create on a
        desired 1 unavailable 1"#]],
    );
}

#[test]
fn daemon_pods_tolerate_cordons_pressure_and_dead_nodes() {
    check(
        "node a cordoned; node b taint=node.kubernetes.io/unreachable:NoExecute; node c taint=node.kubernetes.io/memory-pressure:NoSchedule
         node d taint=node.kubernetes.io/not-ready:NoExecute; node e taint=node.kubernetes.io/disk-pressure:NoSchedule; ds web",
        expect![[r#"
            create on a
            create on b
            create on c
            create on d
            create on e
            desired 5 unavailable 5"#]],
    );
}

#[test]
fn the_no_schedule_taints_of_dead_nodes_are_not_tolerated() {
    check("node a taint=node.kubernetes.io/unreachable:NoSchedule; ds web; pod p@a ready", expect!["misscheduled 1"]);
}

#[test]
fn only_host_network_tolerates_a_missing_network() {
    let node = "node a taint=node.kubernetes.io/network-unavailable:NoSchedule; ";
    check(&format!("{node} ds web"), expect![""]);
    check(
        &format!("{node} ds web hostNetwork"),
        expect![[r#"
        create on a
        desired 1 unavailable 1"#]],
    );
}

#[test]
fn the_node_selector_decides() {
    check(
        "node a label=disk=ssd; node b; ds web select=disk=ssd; pod p@b ready",
        expect![[r#"
        create on a
        delete p: Misfit(Affinity)
        desired 1 unavailable 1 misscheduled 1"#]],
    );
}

#[test]
fn the_node_affinity_decides() {
    check(
        "node a label=disk=ssd; node b; ds web affinity=disk=ssd; pod p@b",
        expect![[r#"
        create on a
        delete p: Misfit(Affinity)
        desired 1 unavailable 1 misscheduled 1"#]],
    );
    check(
        "node a; node b; ds web field=b",
        expect![[r#"
        create on b
        desired 1 unavailable 1"#]],
    );
}

#[test]
fn a_node_name_of_the_template_leaves_one_node() {
    check(
        "node a; node b; ds web nodeName=b",
        expect![[r#"
        create on b
        desired 1 unavailable 1"#]],
    );
}

#[test]
fn of_two_pods_on_a_node_the_older_stays() {
    check(
        "node a; ds web; pod p@a ready age=10; pod q@a ready age=20",
        expect![[r#"
        delete p: Duplicate
        desired 1 current 1 ready 1 updated 1 available 1"#]],
    );
}

#[test]
fn a_pod_with_a_node_is_kept_before_one_without() {
    check(
        "node a; ds web; pod p@a unbound age=50; pod q@a ready age=20",
        expect![[r#"
        delete p: Duplicate
        desired 1 current 1 ready 1 updated 1 available 1"#]],
    );
}

#[test]
fn a_pod_on_its_way_out_is_waited_for() {
    check("node a; ds web; pod p@a ready deleting", expect!["desired 1 current 1 ready 1 updated 1 available 1"]);
}

#[test]
fn a_failed_pod_is_deleted_and_the_next_one_only_after_a_pause() {
    let failing = picture("node a; ds web; pod p@a failed");
    let first = planned(&failing, Memory::default(), now());
    expect![[r#"
        delete p: Failed
        desired 1 current 1 updated 1 unavailable 1"#]]
    .assert_eq(&told(&first));
    let again = planned(&failing, first.memory.clone(), now());
    expect![[r#"
        desired 1 current 1 updated 1 unavailable 1
        wakes after 1 s"#]]
    .assert_eq(&told(&again));
    let mut pauses = Vec::new();
    let (mut memory, mut time) = (first.memory, now());
    for _ in 0..12 {
        let waiting = planned(&failing, memory, time);
        let wake = waiting.wake_at.expect("a pause ends");
        pauses.push(wake.duration_since(time).as_secs());
        time = wake;
        memory = planned(&failing, waiting.memory, time).memory;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
}

#[test]
fn the_pause_is_forgotten_after_twice_the_longest() {
    let failing = picture("node a; ds web; pod p@a failed");
    let first = planned(&failing, Memory::default(), now());
    let later = planned(&failing, first.memory, at(1801));
    assert_eq!(later.memory.backoff.values().next().map(|backoff| backoff.pause.as_secs()), Some(1));
}

#[test]
fn a_succeeded_pod_is_deleted_at_once() {
    check(
        "node a; ds web; pod p@a succeeded",
        expect![[r#"
        delete p: Succeeded
        desired 1 current 1 updated 1 unavailable 1"#]],
    );
}

#[test]
fn pods_of_nodes_that_are_gone_are_left_to_the_garbage_collector_unless_they_never_ran() {
    check(
        "node a; ds web; pod p@ghost ready; pod q@gone unbound; pod r@a ready",
        expect![[r#"
        delete q: NodeGone
        desired 1 current 1 ready 1 updated 1 available 1"#]],
    );
}

#[test]
fn orphans_are_adopted_and_strangers_released() {
    check(
        "node a; node b; node c; ds web; pod p@a ready orphan; pod q@b ready label=other; pod r@c ready owner=other",
        expect![[r#"
        release q
        adopt p
        create on b
        create on c
        desired 3 current 1 ready 1 updated 1 available 1 unavailable 2"#]],
    );
}

#[test]
fn an_orphan_that_is_being_deleted_is_not_adopted() {
    check(
        "node a; ds web; pod p@a ready orphan deleting",
        expect![[r#"
        create on a
        desired 1 unavailable 1"#]],
    );
}

#[test]
fn a_set_that_is_being_deleted_does_nothing() {
    check("node a; node b; ds web deleting; pod p@a ready; pod q@b orphan", expect![""]);
}

#[test]
fn a_set_that_selects_everything_does_nothing() {
    check("node a; ds web selectAll; pod p@a ready", expect![""]);
}

#[test]
fn the_first_revision_is_made_before_the_pods() {
    check(
        "node a; ds web known=none",
        expect![[r#"
        first create revision 1
        create on a
        desired 1 unavailable 1"#]],
    );
}

#[test]
fn one_pod_at_a_time_by_default() {
    check(
        "node a; node b; ds web rev=2; pod p@a rev=1 ready; pod q@b rev=1 ready",
        expect![[r#"
        delete p: Outdated
        desired 2 current 2 ready 2 available 2"#]],
    );
}

#[test]
fn a_pod_being_replaced_uses_up_the_budget() {
    check(
        "node a; node b; ds web rev=2; pod p@a rev=1 ready deleting; pod q@b rev=1 ready",
        expect!["desired 2 current 2 ready 2 available 2"],
    );
    check(
        "node a; node b; ds web rev=2; pod q@b rev=1 ready",
        expect![[r#"
        create on a
        desired 2 current 1 ready 1 available 1 unavailable 1"#]],
    );
    check(
        "node a; node b; ds web rev=2; pod p@a rev=2; pod q@b rev=1 ready",
        expect!["desired 2 current 2 ready 1 updated 1 available 1 unavailable 1"],
    );
}

#[test]
fn percentages_round_up() {
    check(
        "node a; node b; node c; ds web rev=2 maxUnavailable=34%; pod p@a ready; pod q@b ready; pod r@c ready",
        expect![[r#"
            delete p: Outdated
            delete q: Outdated
            desired 3 current 3 ready 3 available 3"#]],
    );
}

#[test]
fn old_pods_that_are_not_available_are_replaced_and_count() {
    check(
        "node a; node b; ds web rev=2; pod p@a rev=1; pod q@b rev=1 ready",
        expect![[r#"
        delete p: OutdatedAndUnavailable
        desired 2 current 2 ready 1 available 1 unavailable 1"#]],
    );
}

#[test]
fn a_pod_is_available_only_after_min_ready_seconds() {
    check(
        "node a; node b; ds web rev=2 minReady=30; pod p@a rev=2 ready=10; pod q@b rev=1 ready=100",
        expect![[r#"
        desired 2 current 2 ready 2 updated 1 available 1 unavailable 1
        wakes after 20 s"#]],
    );
    check(
        "node a; node b; ds web rev=2 minReady=30; pod p@a rev=2 ready=30; pod q@b rev=1 ready=100",
        expect![[r#"
        delete q: Outdated
        desired 2 current 2 ready 2 updated 1 available 2"#]],
    );
}

#[test]
fn a_clock_behind_the_nodes_wakes_later_and_not_never() {
    check(
        "node a; ds web minReady=30; pod p@a ready=-5",
        expect![[r#"
        desired 1 current 1 ready 1 updated 1 unavailable 1
        wakes after 35 s"#]],
    );
}

#[test]
fn surge_starts_the_new_pod_beside_the_old() {
    check(
        "node a; node b; ds web rev=2 maxUnavailable=0 maxSurge=1; pod p@a ready; pod q@b ready",
        expect![[r#"
        create on a
        desired 2 current 2 ready 2 available 2"#]],
    );
}

#[test]
fn surge_deletes_the_old_pod_when_the_new_one_is_available() {
    check(
        "node a; node b; ds web rev=2 maxUnavailable=0 maxSurge=1; pod p@a ready; pod n@a rev=2 ready; pod q@b ready",
        expect![[r#"
        delete p: Surged
        create on b
        desired 2 current 2 ready 2 updated 1 available 2"#]],
    );
}

#[test]
fn surge_waits_while_the_new_pod_is_not_available() {
    check(
        "node a; node b; ds web rev=2 maxUnavailable=0 maxSurge=1; pod p@a ready; pod n@a rev=2; pod q@b ready",
        expect!["desired 2 current 2 ready 1 updated 1 available 1 unavailable 1"],
    );
}

#[test]
fn surge_gives_up_an_old_pod_that_is_not_ready() {
    check(
        "node a; ds web rev=2 maxUnavailable=0 maxSurge=1; pod p@a; pod n@a rev=2",
        expect![[r#"
        delete p: OutdatedAndUnavailable
        desired 1 current 1 updated 1 unavailable 1"#]],
    );
}

#[test]
fn surge_does_not_wait_for_a_pod_on_its_way_out() {
    check(
        "node a; ds web maxUnavailable=0 maxSurge=1; pod p@a ready deleting",
        expect![[r#"
        create on a
        desired 1 current 1 ready 1 updated 1 available 1"#]],
    );
}

#[test]
fn surge_keeps_a_misplaced_pod_until_enough_others_are_available() {
    let nodes = "node a label=on=yes; node b; ";
    let set = "ds web rev=2 affinity=on=yes maxUnavailable=0 maxSurge=1; ";
    check(&format!("{nodes}{set}pod p@a rev=2 ready"), expect!["desired 1 current 1 ready 1 updated 1 available 1"]);
}

#[test]
fn on_delete_replaces_nothing() {
    check(
        "node a; node b; ds web rev=2 onDelete; pod p@a rev=1 ready; pod q@b rev=1",
        expect!["desired 2 current 2 ready 1 available 1 unavailable 1"],
    );
}

#[test]
fn on_delete_makes_pods_of_the_current_revision() {
    let made = planned(&picture("node a; ds web rev=2 onDelete"), Memory::default(), now());
    assert!(matches!(&made.actions[..], [Action::Create { hash, .. }] if **hash == *"h2"));
}

#[test]
fn adopted_pods_of_the_templates_generation_count_as_updated() {
    check(
        "node a; ds web rev=2 generation=7; pod p@a nohash generation=7 ready",
        expect!["desired 1 current 1 ready 1 updated 1 available 1"],
    );
}

/// A set was deleted with --cascade=orphan and made anew with another template: its generation is
/// one again.
#[test]
fn adopted_pods_of_a_known_old_revision_are_replaced_whatever_their_generation() {
    check(
        "node a; ds web rev=2 generation=1; pod p@a rev=1 generation=1 ready",
        expect![[r#"
        delete p: Outdated
        desired 1 current 1 ready 1 available 1"#]],
    );
}

#[test]
fn an_undone_template_reuses_its_revision_with_a_new_number() {
    check(
        "node a; ds web rev=1 known=1,2; pod p@a rev=2 ready",
        expect![[r#"
        first change web-h1 {"revision":3}
        delete p: Outdated
        desired 1 current 1 ready 1 available 1"#]],
    );
}

#[test]
fn revisions_of_the_same_template_are_merged_and_pods_relabelled() {
    let mut doubled = picture("node a; ds web rev=1; pod p@a rev=0 ready");
    let set = doubled.sets.values().next().expect("a set").clone();
    let mut twin = crate::fixture::revision(&set, "1", 0);
    twin.meta.name = "web-h0".into();
    twin.meta.uid = "twin".into();
    twin.meta.labels.insert(HASH_LABEL, "h0");
    doubled.put(crate::picture::Object::ControllerRevision(Arc::new(twin)));
    expect![[r#"
        first relabel p h1
        first delete web-h0
    "#]]
    .assert_eq(&told(&planned(&doubled, Memory::default(), now())));
}

#[test]
fn old_revisions_beyond_the_limit_are_forgotten_unless_pods_run_them() {
    check(
        "node a; node b; ds web rev=5 limit=2; pod p@a rev=1 ready; pod q@b rev=5 ready",
        expect![[r#"
        delete p: Outdated
        then delete web-h2
        then delete web-h3
        desired 2 current 2 ready 2 updated 1 available 2"#]],
    );
}

#[test]
fn a_taken_revision_name_raises_the_collision_count_first() {
    let mut taken = picture("node a; ds web known=none");
    let set = taken.sets.values().next().expect("a set").clone();
    let mut other = crate::fixture::revision(&set, "other", 1);
    other.meta.name = format!("web-{}", history::template_hash(&set.template, 0)).into();
    other.meta.owner_references.clear();
    other.meta.labels = crate::model::Labels::default();
    taken.put(crate::picture::Object::ControllerRevision(Arc::new(other)));
    let made = planned(&taken, Memory::default(), now());
    assert_eq!((made.status.collision_count, made.actions.len(), made.history.before.len()), (Some(1), 0, 0));
}

#[test]
fn the_name_of_a_pod_is_the_same_until_it_was_seen() {
    let name = |plan: &Plan| match &plan.actions[..] {
        [Action::Create { name, .. }] => name.clone(),
        other => panic!("{other:?}"),
    };
    let empty = picture("node a; ds web");
    let first = planned(&empty, Memory::default(), now());
    let again = planned(&empty, first.memory.clone(), now());
    assert_eq!(name(&first), name(&again));
    let made = picture(&format!("node a; ds web; pod {}@a ready", name(&first)));
    let seen = planned(&made, again.memory, now());
    let next = planned(&empty, seen.memory, now());
    assert_ne!(name(&first), name(&next));
}

#[test]
fn pods_are_as_kubernetes_makes_them() {
    let set = crate::fixture::daemon_set("web", &["hostNetwork", "generation=3", "affinity=on=yes", "tolerate=maint"]);
    let pod = daemon_pod(&set, "node-1", "web-abcde", "h1");
    expect![[r#"
        {
          "apiVersion": "v1",
          "kind": "Pod",
          "metadata": {
            "generateName": "web-",
            "labels": {
              "app": "web",
              "controller-revision-hash": "h1",
              "pod-template-generation": "3"
            },
            "name": "web-abcde",
            "namespace": "ns",
            "ownerReferences": [
              {
                "apiVersion": "apps/v1",
                "blockOwnerDeletion": true,
                "controller": true,
                "kind": "DaemonSet",
                "name": "web",
                "uid": "web-uid"
              }
            ]
          },
          "spec": {
            "affinity": {
              "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                  "nodeSelectorTerms": [
                    {
                      "matchFields": [
                        {
                          "key": "metadata.name",
                          "operator": "In",
                          "values": [
                            "node-1"
                          ]
                        }
                      ]
                    }
                  ]
                }
              }
            },
            "containers": [
              {
                "image": "app:1",
                "name": "c"
              }
            ],
            "hostNetwork": true,
            "tolerations": [
              {
                "effect": "",
                "key": "maint",
                "operator": "Exists"
              },
              {
                "effect": "NoExecute",
                "key": "node.kubernetes.io/not-ready",
                "operator": "Exists"
              },
              {
                "effect": "NoExecute",
                "key": "node.kubernetes.io/unreachable",
                "operator": "Exists"
              },
              {
                "effect": "NoSchedule",
                "key": "node.kubernetes.io/disk-pressure",
                "operator": "Exists"
              },
              {
                "effect": "NoSchedule",
                "key": "node.kubernetes.io/memory-pressure",
                "operator": "Exists"
              },
              {
                "effect": "NoSchedule",
                "key": "node.kubernetes.io/pid-pressure",
                "operator": "Exists"
              },
              {
                "effect": "NoSchedule",
                "key": "node.kubernetes.io/unschedulable",
                "operator": "Exists"
              },
              {
                "effect": "NoSchedule",
                "key": "node.kubernetes.io/network-unavailable",
                "operator": "Exists"
              }
            ]
          }
        }"#]]
    .assert_eq(&format!("{pod:#}"));
}
