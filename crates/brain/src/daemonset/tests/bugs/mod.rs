//! Bugs that other DaemonSet controllers had, played again: each test names the issue, what caused
//! it, what it did, and what happens here. Numbers without a project are issues and pull requests
//! of kubernetes/kubernetes. At the end those that the model checker found here.
//! docs/upstream-cases.md lists the rows that are covered elsewhere.

mod rig;

use rig::Rig;
use serde_json::json;

use super::properties::stage::{Stage, counts, told};
use crate::daemonset::*;
use crate::fixture::at;
use crate::model::Phase;
use crate::request::PODS;

/// 14528: cause: a list of nodes that failed counted as an empty one. Effect: thousands of pods
/// without a node. Here pods are made for nodes of the picture, by name; without nodes nothing is
/// made, and what is bound stays.
#[test]
fn without_nodes_no_pod_is_made_and_none_is_taken() {
    let plan = Stage::new("ds web; pod p@a ready; pod q@b ready").plan();
    assert_eq!(told(&plan), "");
}

/// 22545: cause: pods were made from a list of nodes older than the list of pods. Effect: pods for
/// nodes that are gone, two on one node. Here the pods of a node that is gone are the garbage
/// collector's, and no successor is made.
#[test]
fn a_node_that_is_gone_gets_no_pod_and_one_that_comes_back_gets_one() {
    let mut rig = Rig::new(&["a", "b"], json!({}));
    rig.settle();
    rig.remove_node("b");
    rig.settle();
    assert_eq!(rig.pods_on("b"), 0);
    rig.add_node("b");
    rig.settle();
    assert_eq!(rig.pods_on("b"), 1);
}

/// 78972, 78974, 79475: cause: the mark of deletion counted as the deletion, and the deletion
/// again. Effect: five minutes of waiting. Here nothing is counted: the picture shows that the pod
/// is gone, and its successor is made at that moment.
#[test]
fn the_successor_is_made_when_the_pod_is_gone_and_not_minutes_later() {
    let mut rig = Rig::new(&["a"], json!({}));
    rig.settle();
    rig.update("app:2");
    rig.work();
    assert_eq!((rig.pods_on("a"), rig.marked()), (1, 1));
    rig.work();
    assert_eq!((rig.pods_on("a"), rig.marked()), (1, 1), "the mark alone makes no successor");
    let before = rig.now;
    rig.end_pods();
    rig.work();
    assert_eq!((rig.pods_on("a"), rig.marked(), rig.now), (1, 0, before));
}

/// 75836, 95432: cause: a deletion was waited for that never came, since the pod was gone already.
/// Effect: no pod until something else happens. Here a deletion that finds nothing leaves nothing
/// to wait for.
#[test]
fn a_pod_that_is_gone_before_its_deletion_is_not_waited_for() {
    let mut rig = Rig::new(&["a"], json!({}));
    rig.settle();
    rig.update("app:2");
    rig.show();
    let pod = rig.pod_of("a");
    rig.server.remove(PODS, &pod);
    rig.work_blindly();
    rig.show();
    rig.work();
    assert_eq!((rig.pods_on("a"), rig.marked()), (1, 0));
}

/// 113844: cause: nodes were not listed when the set was first looked at. Effect: desired 0 for a
/// while. Here a node that comes concerns the set at once.
#[test]
fn a_set_that_was_there_before_the_nodes_gets_its_pods_with_them() {
    let mut rig = Rig::new(&[], json!({}));
    rig.settle();
    rig.add_node("a");
    rig.work();
    assert_eq!(rig.pods_on("a"), 1);
}

/// 62519, 66476, 67273: cause: an error was shadowed where the name of a revision was taken; the
/// counter was raised from a stale set. Effect: no revision, or two steps at once. Here the counter
/// is a function of the set that is seen, and the barrier waits for it.
#[test]
fn a_taken_name_raises_the_counter_once_and_the_update_goes_on() {
    let mut rig = Rig::new(&["a"], json!({}));
    rig.settle();
    rig.update("app:2");
    rig.take_name_of_next_revision();
    for _ in 0..3 {
        rig.work_blindly();
    }
    assert_eq!(rig.collisions(), 1, "plans on the same set raise it to the same number");
    rig.settle();
    assert_eq!((rig.collisions(), rig.updated()), (1, 1));
}

/// 124388: cause: with surge, nodes under pressure evicted the new pod, which was made again at
/// once. Effect: an endless stream of pods. Here an evicted pod is a failed pod: its node pauses
/// longer and longer. The same holds of 122912 (a node that shuts down rejects the pod) and of
/// 65240, 51884, 38806 (pods that fail at once).
#[test]
fn pods_that_fail_at_once_are_made_less_and_less_often() {
    for strategy in ["maxUnavailable=1", "maxUnavailable=0 maxSurge=1"] {
        let mut stage = Stage::new(&format!(
            "node a taint=node.kubernetes.io/disk-pressure:NoSchedule; ds web rev=2 {strategy}; pod old@a rev=1 ready"
        ));
        let mut made = 0;
        for _ in 0..600 {
            made += counts(&stage.sync()).0;
            stage.end();
            stage.bind();
            let new: Vec<_> = stage.picture.pods.values().filter(|pod| *pod.meta.name != *"old").map(|pod| pod.meta.name.clone()).collect();
            new.iter().for_each(|name| stage.change(name, |pod| pod.status.phase = Phase::Failed));
            stage.wait(1);
        }
        assert!((2..=11).contains(&made), "{strategy}: {made} in ten minutes");
    }
}

/// 78633: cause: a newer server filled in one more field of templates. Effect: a new revision, and
/// all pods restarted. Here templates are the same when they differ in what servers fill in.
#[test]
fn fields_that_servers_fill_in_make_no_revision() {
    let mut stage = Stage::new("node a; ds web known=1; pod p@a rev=1 ready");
    stage.edit(|set| {
        let mut template = serde_json::Value::clone(&set.template);
        template["spec"]["restartPolicy"] = json!("Always");
        template["spec"]["dnsPolicy"] = json!("ClusterFirst");
        template["spec"]["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
        set.template = Arc::new(template);
    });
    let plan = stage.plan();
    assert_eq!((told(&plan), plan.history.before.len()), (String::new(), 0));
}

/// 19858, 23107, 23170: cause: a restart with an empty memory, or an empty selector. Effect: pods
/// of others deleted. Here pods are the set's by the uid of their owner.
#[test]
fn a_restart_touches_no_pod_of_another_owner() {
    let others = "pod x@a ready owner=other; pod y@a ready owner=other rev=2; pod z@b unbound owner=other; ";
    for set in ["ds web", "ds web selectAll", "ds web onDelete", "ds web maxUnavailable=0 maxSurge=1"] {
        let plan = Stage::new(&format!("node a; {others} {set}")).plan();
        assert!(plan.actions.iter().all(|action| matches!(action, Action::Create { .. })), "{set}: {:?}", plan.actions);
    }
}

/// 63465, 73011, 139226: cause: an old pod on a dead node uses up maxUnavailable. Effect: the
/// rollout stands still and nothing says why. Here it stands still as well, for the budget is the
/// budget, and the plan tells how much of it dead nodes hold.
#[test]
fn a_dead_node_holds_up_the_rollout_and_the_plan_says_so() {
    let plan = Stage::new("node a notready; node b; ds web rev=2; pod p@a rev=2; pod q@b rev=1 ready").plan();
    assert_eq!(told(&plan), "");
    assert_eq!((plan.budget.max_unavailable, plan.budget.unavailable, plan.budget.unavailable_on_dead_nodes), (1, 1, 1));
}

/// 121474, 130767: cause: 250 pods a sync, syncs in line behind node events. Effect: on 5,000 nodes
/// a new node waits for hours. Here the next plan has it, and what nodes say of themselves is no
/// reason for one.
#[test]
fn a_new_node_among_many_has_its_pod_in_the_next_plan() {
    let mut text: String = (0..1000).map(|at| format!("node n{at}; pod p{at}@n{at} ready; ")).collect();
    text += "node zz-new; ds web";
    assert_eq!(told(&Stage::new(&text).plan()), "+zz-new");
}

/// Kubernetes' NumberMisscheduled stayed when the taint was gone. Here the status is of the same
/// picture as the plan.
#[test]
fn nothing_is_misscheduled_any_more_when_the_taint_is_gone() {
    let mut stage = Stage::new("node a taint=t:NoSchedule; ds web; pod p@a ready");
    assert_eq!(stage.sync().status.number_misscheduled, 1);
    stage.picture.put(crate::picture::Object::Node(Arc::new(crate::fixture::node("a", &[]))));
    assert_eq!(stage.sync().status.number_misscheduled, 0);
}

/// Found by the checker. Cause: the name of the next pod was derived from the current revision,
/// also when the server may have made the last one and its answer was lost. Effect: an answer lost
/// and an update at the same moment made two pods.
#[test]
fn a_pod_that_was_perhaps_made_keeps_its_name_when_the_template_changes() {
    let mut stage = Stage::new("node a; ds web known=none");
    let name = |plan: &Plan| {
        plan.actions.iter().find_map(|action| if let Action::Create { name, .. } = action { Some(name.clone()) } else { None })
    };
    let first = stage.plan();
    stage.memory = first.memory.clone();
    stage.update_to("2");
    assert_eq!(name(&first), name(&stage.plan()));
}

/// Found by the checker. Cause: only the oldest pod of a node was asked when it becomes available.
/// Effect: with surge and minReadySeconds the rollout stood still until something else happened.
#[test]
fn with_surge_the_plan_wakes_when_the_new_pod_becomes_available() {
    let plan =
        Stage::new("node a; ds web rev=2 maxUnavailable=0 maxSurge=1 minReady=30; pod old@a rev=1 ready; pod new@a rev=2 ready=10").plan();
    assert_eq!((told(&plan), plan.wake_at), (String::new(), Some(at(20))));
}

/// Found by the checker. Cause: a pod that waits forever on a node with a NoSchedule taint counted
/// against maxUnavailable, as it does upstream. Effect: the rollout stood still, though every node
/// that should run a pod had one.
#[test]
fn a_pod_that_cannot_start_where_none_should_holds_up_nobody() {
    let plan = Stage::new("node a taint=t:NoSchedule; node b; ds web rev=2; pod p@a rev=2 unbound; pod q@b rev=1 ready").plan();
    assert_eq!((told(&plan), plan.budget.unavailable), ("-q".to_owned(), 0));
}

/// Found by the checker. Cause: a surge began on a node that then got a NoSchedule taint; its new
/// pod can never start. Effect: the surge was used up forever.
#[test]
fn a_surge_that_cannot_start_any_more_is_taken_back() {
    let text = "node a taint=t:NoSchedule; node b; ds web rev=2 maxUnavailable=0 maxSurge=1; ";
    let plan = Stage::new(&format!("{text} pod old@a rev=1 ready; pod new@a rev=2 unbound; pod q@b rev=1 ready")).plan();
    assert_eq!(told(&plan), "-new");
    let plan = Stage::new(&format!("{text} pod old@a rev=1 ready; pod new@a rev=2; pod q@b rev=1 ready")).plan();
    assert_eq!(told(&plan), "", "one that runs may still become available");
}

/// Found by the checker. Cause: the answer to a deletion is lost, the picture does not show the
/// deletion yet, and meanwhile other pods come first. Effect: one pod more is deleted than may be
/// unavailable. Here the next plan's first choice is the last one's.
#[test]
fn a_deletion_that_nobody_heard_of_is_repeated_before_another_is_chosen() {
    let mut stage = Stage::new("node b; node c; ds web rev=2; pod q@b rev=1 ready; pod r@c rev=1 ready");
    let first = stage.plan();
    assert_eq!(told(&first), "-q");
    stage.memory = first.memory;
    stage.picture.put(crate::picture::Object::Node(Arc::new(crate::fixture::node("a", &[]))));
    stage.picture.put(crate::picture::Object::Pod(Arc::new(crate::fixture::pod("p@a", &["ready"]))));
    assert_eq!(told(&stage.plan()), "-q");
    stage.change("q", |pod| pod.meta.deletion_timestamp = Some(at(0)));
    let later = stage.plan();
    assert_eq!((told(&later), later.memory.doomed.len()), (String::new(), 0));
}

/// The same when the template was changed back meanwhile: the pod counts as gone although it is of
/// the current revision now.
#[test]
fn a_deletion_that_nobody_heard_of_counts_when_the_template_is_changed_back() {
    let mut stage = Stage::new("node a; node b; ds web rev=2; pod p@a rev=1 ready; pod q@b rev=2 ready");
    let first = stage.plan();
    assert_eq!(told(&first), "-p");
    stage.memory = first.memory;
    stage.update_to("1");
    assert_eq!(told(&stage.plan()), "-p", "and not q, which is of the old revision now");
}
