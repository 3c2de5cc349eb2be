//! Resizing pods that run: what they are given, and what that does to their containers.

use std::sync::Arc;

use expect_test::expect;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use serde_json::{Value, json};

use super::pretended::{Node, pod};
use crate::model;
use crate::podsync::resize::{self, InProgress, Pending, Reason};

fn resources(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
}

fn requirements(value: Value) -> ResourceRequirements {
    serde_json::from_value(value).expect("tests write resources")
}

/// Gives a container of the pod other resources.
fn give(pod: &mut Pod, name: &str, given: Value) {
    let allocation = [(name.to_owned(), requirements(given))].into();
    *pod = resize::with_allocation(pod, &allocation);
}

#[test]
fn limits_change_while_the_container_runs_on() {
    let spec = json!({"containers": [{"name": "a", "resources": resources("1", "1Gi")}, {"name": "b"}]});
    let mut node = Node::new(spec);
    node.settle();
    node.settle();
    expect!["sandbox0 run:a run:b"].assert_eq(&node.news());
    give(&mut node.pod, "a", resources("1000m", "1024Mi"));
    node.settle();
    expect![""].assert_eq(&node.news());
    give(&mut node.pod, "a", resources("2", "1Gi"));
    assert!(!resize::is_done(&node.view()));
    node.settle();
    expect!["update:a"].assert_eq(&node.news());
    assert!(resize::is_done(&node.view()));
}

#[test]
fn a_container_is_made_anew_where_its_policy_says_so() {
    let policy =
        json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}, {"resourceName": "cpu", "restartPolicy": "NotRequired"}]);
    let spec = json!({"containers": [{"name": "a", "resizePolicy": policy, "resources": resources("1", "1Gi")}]});
    let mut node = Node::new(spec);
    node.settle();
    node.settle();
    node.news();
    give(&mut node.pod, "a", resources("2", "1Gi"));
    node.settle();
    expect!["update:a"].assert_eq(&node.news());
    give(&mut node.pod, "a", resources("3", "2Gi"));
    assert_eq!(node.plan().kill[0].message, "Container a resize requires restart, will be restarted");
    node.settle();
    expect!["kill:a run:a"].assert_eq(&node.news());
    node.settle();
    expect![""].assert_eq(&node.news());
    assert!(resize::is_done(&node.view()));
}

#[test]
fn sidecars_are_resized_and_containers_that_end_are_not() {
    let container = |name: &str| json!({"name": name, "resources": resources("1", "1Gi")});
    let mut sidecar = container("s");
    sidecar["restartPolicy"] = json!("Always");
    let mut node = Node::new(json!({"initContainers": [container("i"), sidecar], "containers": [container("a")]}));
    let names: Vec<String> = resize::asked(&node.pod).into_keys().collect();
    assert_eq!(names, ["a", "s"]);
    node.settle();
    node.exits("i", 0);
    node.settle();
    node.settle();
    node.news();
    for name in ["i", "s"] {
        give(&mut node.pod, name, resources("2", "1Gi"));
    }
    node.settle();
    expect!["update:s"].assert_eq(&node.news());
}

/// While the limits are the old ones the status says so, whatever the pod was given.
#[test]
fn statuses_show_what_containers_have() {
    let mut node = Node::new(json!({"containers": [{"name": "a", "resources": resources("1", "1Gi")}]}));
    node.settle();
    node.settle();
    give(&mut node.pod, "a", resources("2", "1Gi"));
    node.memory.resize.in_progress = Some(InProgress { error: None, generation: Some(2) });
    let status = crate::podsync::status::report(&node.view(), crate::podsync::status::Ending::No).status;
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.resources, Some(requirements(resources("1", "1Gi"))));
    assert_eq!(container.allocated_resources, requirements(resources("2", "1Gi")).requests);
    assert_eq!(node.condition("PodResizeInProgress"), "True");
    node.memory.resize.in_progress = Some(InProgress { error: Some("why".to_owned()), generation: Some(2) });
    assert_eq!(node.condition("PodResizeInProgress"), "True Error why");
    // The next agent finds what the pod was given in what this one reported.
    node.pod.status = Some(status);
    assert_eq!(resize::told(&node.pod)["a"], requirements(resources("1", "1Gi")));
    assert!(!resize::is_given(&node.pod, &resize::told(&node.pod)));
}

#[test]
fn what_a_pod_was_given_before_it_ran_is_told_too() {
    let mut node = Node::new(json!({"containers": [{"name": "a", "resources": resources("1", "1Gi")}]}));
    assert_eq!(resize::told(&node.pod), resize::asked(&node.pod), "nothing was told");
    node.memory.resize.pending = Some(Pending { reason: Reason::Infeasible, message: "never".to_owned(), generation: Some(2) });
    node.pod.status = Some(crate::podsync::status::report(&node.view(), crate::podsync::status::Ending::No).status);
    assert!(node.pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].container_id.is_none());
    give(&mut node.pod, "a", resources("100", "1Gi"));
    assert_eq!(resize::told(&node.pod)["a"], requirements(resources("1", "1Gi")));
}

#[test]
fn of_two_allocations_the_larger_requests_count() {
    let of = |cpu: &str, memory: &str| [("a".to_owned(), requirements(resources(cpu, memory)))].into();
    let most = resize::larger(&of("1", "2Gi"), &of("1500m", "1Gi"));
    assert_eq!(most["a"].requests, requirements(resources("1500m", "2Gi")).requests);
    assert_eq!(resize::larger(&of("1", "1Gi"), &resize::Allocation::default()), of("1", "1Gi"));
}

#[test]
fn what_is_not_given_is_told_with_the_generation_that_asked() {
    let mut node = Node::new(json!({"containers": [{"name": "a"}]}));
    node.settle();
    let pending = Pending { reason: Reason::Deferred, message: "later".to_owned(), generation: Some(7) };
    node.memory.resize.pending = Some(pending);
    let status = crate::podsync::status::report(&node.view(), crate::podsync::status::Ending::No).status;
    let told = |status: &k8s_openapi::api::core::v1::PodStatus| {
        status.conditions.iter().flatten().find(|condition| condition.type_ == "PodResizePending").cloned()
    };
    let condition = told(&status).unwrap();
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_deref(), condition.observed_generation),
        ("True", Some("Deferred"), Some(7))
    );
    node.pod.status = Some(status);
    node.memory.resize.pending = None;
    let status = crate::podsync::status::report(&node.view(), crate::podsync::status::Ending::No).status;
    assert_eq!(told(&status), None, "it goes with its reason");
}

#[test]
fn a_node_gives_what_it_has_beside_the_others() {
    let model = |cpu: &str, memory: &str| -> model::Pod {
        let pod = pod(json!({"containers": [{"name": "a", "resources": resources(cpu, memory)}]}));
        serde_json::from_value(serde_json::to_value(pod).unwrap()).unwrap()
    };
    let node: model::Node = serde_json::from_value(json!({
        "metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}}
    }))
    .unwrap();
    let others = [Arc::new(model("1", "3Gi"))];
    let told = |cpu, memory| match resize::check(&model(cpu, memory), &node, &others) {
        Ok(()) => "given".to_owned(),
        Err((reason, message)) => format!("{}: {message}", reason.text()),
    };
    let all = [told("3", "1Gi"), told("4", "1Gi"), told("5", "1Gi"), told("3", "2Gi"), told("5", "5Gi")];
    expect![[r#"
        given
        Deferred: Node didn't have enough resource: cpu, requested: 4000, used: 1000, capacity: 4000
        Infeasible: Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000
        Deferred: Node didn't have enough resource: memory, requested: 2147483648, used: 3221225472, capacity: 4294967296
        Infeasible: Node didn't have enough capacity: memory, requested: 5368709120, capacity: 4294967296"#]]
    .assert_eq(&all.join("\n"));
}

#[test]
fn events_have_the_resources_in_them() {
    let mut pod = pod(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}));
    pod.metadata.generation = Some(3);
    expect![[r#"Pod resize started: {"containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}],"generation":3}"#]]
        .assert_eq(&resize::event_message("Pod resize started", &pod, ""));
    expect![[r#"Pod resize Deferred: {"containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}],"generation":3,"error":"why"}"#]]
        .assert_eq(&resize::event_message("Pod resize Deferred", &pod, "why"));
}
