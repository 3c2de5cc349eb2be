//! The cases of Kubernetes' own tests of its DaemonSet controller that [`super::tests`] does not
//! have: `daemon_controller_test.go` and `update_test.go`, written in the language of
//! [`crate::fixture`]. docs/upstream-cases.md says which case is where.
//!
//! As there, a case says how many pods a sync makes and deletes, or which.

mod changes;
mod updates;

use super::properties::stage::{Stage, counts, told};
use crate::daemonset::*;
use crate::history::HistoryAction;

/// All strategies that a case holds for.
const STRATEGIES: [&str; 2] = ["onDelete", "maxUnavailable=1"];

/// `node n0; node n1; ...` with these words.
fn nodes(numbers: std::ops::Range<usize>, words: &str) -> String {
    numbers.map(|number| format!("node n{number} {words}; ")).collect()
}

/// So many pods on a node.
fn pods(node: &str, count: usize, words: &str) -> String {
    (0..count).map(|number| format!("pod {node}-{}-{number}@{node} {words}; ", words.replace([' ', '='], ""))).collect()
}

#[track_caller]
fn syncs(text: &str, expected: (usize, usize)) {
    for strategy in STRATEGIES {
        let text = text.replace("STRATEGY", strategy);
        let plan = Stage::new(&text).plan();
        assert_eq!(counts(&plan), expected, "{text}: {:#?}", plan.actions);
    }
}

#[track_caller]
fn does(text: &str, expected: &str) {
    for strategy in STRATEGIES {
        let text = text.replace("STRATEGY", strategy);
        assert_eq!(told(&Stage::new(&text).plan()), expected, "{text}");
    }
}

#[test]
fn every_node_gets_a_pod_whether_it_is_ready_or_not() {
    syncs(&(nodes(0..5, "") + "ds web STRATEGY"), (5, 0));
    syncs("node n notready; ds web STRATEGY", (1, 0));
    syncs("ds web STRATEGY", (0, 0));
}

#[test]
fn the_taints_of_nodes_that_are_unwell_do_not_keep_pods_away() {
    for taint in ["not-ready:NoExecute", "unreachable:NoExecute"] {
        does(&format!("node n notready taint=node.kubernetes.io/{taint}; ds web STRATEGY"), "+n");
    }
    let pressure = ["disk", "memory", "pid"].map(|what| format!("taint=node.kubernetes.io/{what}-pressure:NoSchedule")).join(" ");
    does(&format!("node n {pressure}; ds web STRATEGY"), "+n");
}

/// The scheduler decides what a node has room for.
#[test]
fn resources_and_ports_are_not_the_sets_matter() {
    let mut stage = Stage::new("node n; pod other@n label=other owner=another; ds web");
    stage.edit(|set| {
        let mut template = serde_json::Value::clone(&set.template);
        template["spec"]["containers"][0]["resources"]["requests"]["memory"] = serde_json::json!("900Gi");
        template["spec"]["containers"][0]["ports"] = serde_json::json!([{"containerPort": 80, "hostPort": 80}]);
        set.template_spec = PodSpec::from_json(&template["spec"]).expect("the template is well formed");
        set.template = Arc::new(template);
    });
    assert_eq!(told(&stage.plan()), "+n");
    stage.sync();
    stage.ready_all();
    assert_eq!(told(&stage.plan()), "", "nor does its own pod stand in its way");
}

#[test]
fn nodes_have_one_pod_of_the_set_and_pods_that_are_not_selected_do_not_count() {
    let text = nodes(0..5, "") + &pods("n1", 1, "") + &pods("n2", 2, "") + &pods("n3", 5, "") + &pods("n4", 2, "label=other");
    syncs(&(text.clone() + "ds web STRATEGY"), (2, 5));
    let surge = Stage::new(&(text + "ds web maxUnavailable=0 maxSurge=1")).plan();
    assert_eq!(counts(&surge), (2, 5));
}

#[test]
fn a_node_selector_chooses_nodes_and_clears_the_others() {
    let all = nodes(0..4, "") + &nodes(4..7, "label=color=blue");
    syncs(&(all.clone() + "ds web STRATEGY select=color=blue"), (3, 0));
    syncs(&(all.clone() + "ds web STRATEGY affinity=color=blue"), (3, 0));
    syncs(&(all + "ds web STRATEGY select=color=green"), (0, 0));
    let ten = nodes(0..5, "") + &nodes(5..10, "label=color=blue");
    let unselected = pods("n0", 2, "label=other") + &pods("n1", 3, "") + &pods("n1", 1, "label=other") + &pods("n4", 1, "");
    syncs(&(ten.clone() + &unselected + "ds web STRATEGY select=color=blue"), (5, 4));
    let existing = pods("n0", 1, "")
        + &pods("n1", 3, "")
        + &pods("n1", 2, "label=other")
        + &pods("n2", 4, "")
        + &pods("n6", 13, "")
        + &pods("n7", 4, "label=other")
        + &pods("n9", 1, "")
        + &pods("n9", 1, "label=other");
    syncs(&(ten + &existing + "ds web STRATEGY select=color=blue"), (3, 20));
}

#[test]
fn a_node_name_and_a_selector_must_both_fit() {
    let all = nodes(0..4, "") + &nodes(4..7, "label=color=blue");
    does(&(all.clone() + "ds web STRATEGY nodeName=n0"), "+n0");
    does(&(all.clone() + "ds web STRATEGY nodeName=n10"), "");
    does(&(all.clone() + "ds web STRATEGY nodeName=n6 select=color=blue"), "+n6");
    does(&(all + "ds web STRATEGY nodeName=n0 select=color=blue"), "");
}

#[test]
fn a_node_condition_without_its_taint_keeps_nothing_away() {
    let mut stage = Stage::new("node n; ds web");
    let mut node = Node::clone(&stage.picture.nodes["n"]);
    let condition = crate::model::NodeCondition { kind: "NetworkUnavailable".into(), status: "True".into(), ..Default::default() };
    node.conditions.push(condition);
    stage.picture.put(crate::picture::Object::Node(Arc::new(node)));
    assert_eq!(told(&stage.plan()), "+n");
}

#[test]
fn ready_pods_and_the_generation_are_reported() {
    let mut stage = Stage::new(&(nodes(0..2, "") + &pods("n0", 1, "") + &pods("n1", 1, "") + "ds web"));
    assert_eq!((stage.plan().status.number_ready, stage.plan().status.observed_generation), (0, 1));
    stage.start();
    assert_eq!(stage.plan().status.number_ready, 2);
    stage.edit(|_| ());
    assert_eq!(stage.plan().status.observed_generation, 2);
}

#[test]
fn failed_pods_go_and_one_that_runs_stays() {
    does("node n; pod p@n; ds web STRATEGY", "");
    does("node n; ds web STRATEGY", "+n");
    does("node n; pod p@n failed; ds web STRATEGY", "-p");
    syncs(&("node n; pod f@n failed; ds web STRATEGY; ".to_owned() + &pods("n", 3, "")), (0, 3));
}

#[test]
fn a_failed_pod_is_deleted_again_when_the_pause_is_over_and_not_before() {
    let mut stage = Stage::new("node n; pod p@n failed; ds web");
    let first = stage.plan();
    assert_eq!(told(&first), "-p");
    stage.memory = first.memory;
    stage.now += jiff::SignedDuration::from_nanos(999_999_999);
    let early = stage.plan();
    assert_eq!((told(&early), early.memory.backoff["n"].pause.as_secs()), (String::new(), 1));
    stage.now += jiff::SignedDuration::from_nanos(1);
    assert_eq!(told(&stage.plan()), "-p");
}

#[test]
fn only_pods_for_nodes_that_never_were_go_and_bound_ones_are_left() {
    does("node n0; pod a@n0; pod b@n1; pod c@n2 unbound; ds web STRATEGY", "-c");
}

/// Pods that ended and are being deleted are past; those that only ended are not.
#[test]
fn ended_pods_that_are_on_their_way_out_do_not_keep_their_successor_away() {
    does("node n; pod p@n failed deleting; ds web STRATEGY", "+n");
    does("node n; pod p@n succeeded deleting; ds web STRATEGY", "+n");
    does("node n; pod p@n deleting; ds web STRATEGY", "");
    does("node n; pod p@n succeeded; ds web STRATEGY", "-p");
}

#[test]
fn an_orphan_is_adopted_only_when_the_server_still_has_the_set() {
    let stage = Stage::new("node n; pod p@n ready orphan; ds web");
    let work = work(&stage.set(), &stage.plan());
    assert!(matches!(&work.steps[0].requests[0].verb, crate::request::Verb::Check { uid } if **uid == *"web-uid"));
    assert!(matches!(&work.steps[1].requests[0].verb, crate::request::Verb::Strategic(_)));
}

#[test]
fn creations_start_slowly_and_the_status_is_told_whatever_becomes_of_them() {
    let stage = Stage::new(&(nodes(0..100, "") + "ds web"));
    let work = work(&stage.set(), &stage.plan());
    let step = work.steps.last().expect("pods are made");
    assert!(step.slow_start && step.requests.len() == 100);
    let last = work.last.expect("the status changes");
    assert!(matches!(&last.verb, crate::request::Verb::Merge(patch) if patch["status"]["desiredNumberScheduled"] == 100));
}

#[test]
fn a_status_that_is_known_is_not_sent_again() {
    let mut stage = Stage::new("node n; pod p@n ready; ds web");
    assert!(work(&stage.set(), &stage.plan()).last.is_some());
    stage.sync();
    assert!(work(&stage.set(), &stage.plan()).is_empty());
}

#[test]
fn revisions_of_other_namespaces_are_not_adopted() {
    let mut stage = Stage::new("node n; ds web known=1");
    for (namespace, name) in [("ns", "web-x2"), ("elsewhere", "web-x3")] {
        let mut revision = crate::fixture::revision(&stage.set(), "0", 1);
        revision.meta.namespace = namespace.into();
        revision.meta.name = name.into();
        revision.meta.owner_references.clear();
        stage.picture.put(crate::picture::Object::ControllerRevision(Arc::new(revision)));
    }
    let adopted: Vec<_> = stage
        .plan()
        .history
        .before
        .into_iter()
        .filter_map(|action| if let HistoryAction::Adopt { revision, .. } = action { Some(revision.to_string()) } else { None })
        .collect();
    assert_eq!(adopted, ["ns/web-x2"]);
}

/// The integration test "two taints removed": a node whose taint goes gets its pod.
#[test]
fn a_node_gets_its_pod_when_its_taint_is_gone() {
    let mut stage = Stage::new("node a taint=k=v:NoSchedule; node b; ds web");
    assert_eq!(told(&stage.sync()), "+b");
    stage.ready_all();
    stage.picture.put(crate::picture::Object::Node(Arc::new(crate::fixture::node("a", &[]))));
    assert_eq!(told(&stage.sync()), "+a");
}

#[test]
fn one_of_several_terms_of_an_affinity_is_enough() {
    let mut stage = Stage::new(&(nodes(0..2, "") + &nodes(2..4, "label=zone=test") + &nodes(4..6, "") + "ds web affinity=zone=test"));
    stage.edit(|set| {
        let mut template = serde_json::Value::clone(&set.template);
        let terms = template.pointer_mut("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms");
        let named = serde_json::json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]});
        terms.and_then(serde_json::Value::as_array_mut).expect("terms are a list").push(named);
        set.template_spec = PodSpec::from_json(&template["spec"]).expect("the template is well formed");
        set.template = Arc::new(template);
    });
    assert_eq!(told(&stage.plan()), "+n1 +n2 +n3");
}
