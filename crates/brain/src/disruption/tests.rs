//! Rules of disruption budgets by example.

use std::sync::Arc;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::stale::StaleDisruptions;
use super::*;
use crate::fixture::{at, now};
use crate::request::Request;

/// A budget `b` over the pods `app=web` of the fixture's text.
fn picture(pods: &str, spec: Value, status: Value) -> Picture {
    let mut picture = crate::fixture::picture(pods);
    let mut budget = json!({
        "metadata": {"name": "b", "namespace": "ns", "uid": "b-uid", "resourceVersion": "7", "generation": 3},
        "spec": {"selector": {"matchLabels": {"app": "web"}}}, "status": status,
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        budget["spec"][field] = value.clone();
    }
    let budget: PodDisruptionBudget = serde_json::from_value(budget).expect("budgets of tests are well formed");
    picture.put(Object::PodDisruptionBudget(Arc::new(budget)));
    picture
}

fn plan_at(picture: &Picture, now: Timestamp) -> Work {
    DisruptionController::default().plan(picture, &Key::new("ns", "b"), now)
}

fn status(request: &Request) -> Value {
    request.body().2["status"].clone()
}

/// Healthy/desired of expected, what is allowed and why; then the events.
fn check(pods: &str, spec: Value, expected: Expect) {
    let work = plan_at(&picture(pods, spec, json!({})), now());
    let status = work.last.as_ref().map(status).unwrap_or_default();
    let condition = &status["conditions"][0];
    let mut lines = vec![format!(
        "{}/{} of {}, {} allowed: {} {}",
        status["currentHealthy"],
        status["desiredHealthy"],
        status["expectedPods"],
        status["disruptionsAllowed"],
        condition["reason"].as_str().unwrap_or("-"),
        condition["message"].as_str().unwrap_or("-"),
    )];
    lines.extend(work.events.iter().map(|event| format!("{}: {}", event.reason, event.message)));
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn a_number_that_must_be_available_needs_no_controllers() {
    let pods = "pod p@a ready; pod q@a ready; pod r@a";
    check(pods, json!({"minAvailable": 1}), expect!["2/1 of 3, 1 allowed: SufficientPods "]);
    check(pods, json!({"minAvailable": 2}), expect!["2/2 of 3, 0 allowed: InsufficientPods "]);
}

#[test]
fn what_is_going_away_is_not_healthy() {
    check("pod p@a ready deleting; pod q@a ready", json!({"minAvailable": 1}), expect!["1/1 of 2, 0 allowed: InsufficientPods "]);
}

#[test]
fn daemon_sets_have_no_scale_so_that_shares_cannot_be_computed() {
    for spec in [json!({"maxUnavailable": 1}), json!({"minAvailable": "50%"})] {
        check(
            "ds web; pod p@a ready",
            spec,
            expect![[r#"
            null/null of null, 0 allowed: SyncFailed daemonsets.apps does not implement the scale subresource
            CalculateExpectedPodCountFailed: Failed to calculate the number of expected pods: daemonsets.apps does not implement the scale subresource"#]],
        );
    }
}

#[test]
fn pods_without_a_controller_are_unmanaged() {
    check(
        "pod p@a ready orphan",
        json!({"maxUnavailable": 1}),
        expect![[r#"
        1/0 of 0, 0 allowed: InsufficientPods 
        UnmanagedPods: Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{app: web,},MatchExpressions:[]LabelSelectorRequirement{},}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set ".spec.minAvailable" field of the PDB to an integer value."#]],
    );
}

#[test]
fn a_budget_without_pods_allows_nothing() {
    check(
        "node a",
        json!({"minAvailable": 0}),
        expect![[r#"
        0/0 of 0, 0 allowed: InsufficientPods 
        NoPods: No matching pods found"#]],
    );
}

#[test]
fn controllers_of_kinds_that_are_not_served_cannot_be_asked() {
    let mut picture = picture("pod p@a ready", json!({"maxUnavailable": 1}), json!({}));
    let mut pod = Pod::clone(picture.pods.values().next().expect("a pod"));
    pod.meta.owner_references[0].kind = "ReplicaSet".into();
    picture.put(Object::Pod(Arc::new(pod)));
    let work = plan_at(&picture, now());
    let condition = &status(work.last.as_ref().expect("a status"))["conditions"][0];
    assert_eq!(condition["message"], r#"no matches for kind "ReplicaSet" in version "apps/v1""#);
}

/// A time near the end of the calendar, to which nothing can be added, ended the controllers.
#[test]
fn an_eviction_at_the_end_of_time_is_one_that_has_not_come() {
    let status_before = json!({"disruptedPods": {"p": "9999-12-30T22:00:00Z"}});
    let work = plan_at(&picture("pod p@a ready; pod q@a ready", json!({"minAvailable": 1}), status_before), now());
    assert_eq!(work.wake_at, Some(Timestamp::MAX));
    assert_eq!(status(work.last.as_ref().expect("a status"))["currentHealthy"], 1);
}

#[test]
fn the_status_is_written_with_its_version_and_once() {
    let spec = json!({"minAvailable": 1});
    let pods = "pod p@a ready; pod q@a ready";
    let work = plan_at(&picture(pods, spec.clone(), json!({})), now());
    let request = work.last.expect("a status");
    let expected = json!({
        "metadata": {"uid": "b-uid", "resourceVersion": "7"},
        "status": {
            "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2, "disruptionsAllowed": 1, "observedGeneration": 3,
            "disruptedPods": {},
            "conditions": [{
                "type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods", "message": "", "observedGeneration": 3,
                "lastTransitionTime": "1970-01-12T13:46:40Z",
            }],
        },
    });
    assert_eq!(request.body().2, expected);
    assert_eq!(plan_at(&picture(pods, spec, status(&request)), at(5)).last, None);
}

#[test]
fn the_time_of_the_condition_changes_with_its_status() {
    let written = |pods: &str, there: Value, now: Timestamp| {
        let work = plan_at(&picture(pods, json!({"minAvailable": 1}), there), now);
        status(&work.last.expect("a status"))
    };
    let one = written("pod p@a ready; pod q@a ready", json!({}), now());
    let two = written("pod p@a ready; pod q@a ready; pod r@a ready", one.clone(), at(5));
    assert_eq!(two["conditions"][0]["lastTransitionTime"], one["conditions"][0]["lastTransitionTime"]);
    let three = written("pod p@a ready", two, at(9));
    assert_eq!(three["conditions"][0]["lastTransitionTime"], at(9).to_string());
}

#[test]
fn evicted_pods_count_as_gone_for_two_minutes() {
    let pods = "pod p@a ready; pod q@a ready";
    let there = json!({"disruptedPods": {"p": now().to_string(), "gone": now().to_string()}});
    let picture = picture(pods, json!({"minAvailable": 1}), there);
    let work = plan_at(&picture, at(60));
    let status = |work: &Work| status(work.last.as_ref().expect("a status"));
    assert_eq!((&status(&work)["currentHealthy"], work.wake_at), (&json!(1), Some(at(121))));
    assert_eq!(status(&work)["disruptedPods"], json!({"gone": null, "p": now().to_string()}));
    let work = plan_at(&picture, at(121));
    assert_eq!((&status(&work)["currentHealthy"], work.wake_at), (&json!(2), None));
    assert_eq!(status(&work)["disruptedPods"], json!({"gone": null, "p": null}));
    assert_eq!(work.events[0].message, "Pod was expected by PDB ns/ns to be deleted but it wasn't");
}

#[test]
fn a_pod_concerns_the_budgets_that_select_it() {
    let picture = picture("pod p@a ready; pod q@a label=other", json!({"minAvailable": 1}), json!({}));
    let mut controller = DisruptionController::default();
    let mut concerned = |change: Change| {
        let mut keys = Vec::new();
        controller.concerns(&picture, &change, &mut |key| keys.push(key.to_string()));
        keys
    };
    let budget = picture.budgets.values().next().expect("a budget").clone();
    assert_eq!(concerned(Change { old: None, new: Some(Object::PodDisruptionBudget(budget)) }), ["ns/b"]);
    let pod = |name: &str| Object::Pod(picture.pods[&Key::new("ns", name)].clone());
    assert_eq!(concerned(Change { old: None, new: Some(pod("p")) }), ["ns/b"]);
    assert_eq!(concerned(Change { old: Some(pod("p")), new: Some(pod("p")) }), Vec::<String>::new());
    assert_eq!(concerned(Change { old: None, new: Some(pod("q")) }), Vec::<String>::new());
    assert_eq!(concerned(Change { old: Some(pod("p")), new: None }), ["ns/b"]);
}

#[test]
fn pods_that_were_to_go_and_did_not_are_told_so() {
    let pod = |reason: &str| {
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": now().to_string()});
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "status": {"conditions": [condition]}});
        let mut picture = Picture::default();
        picture.put(Object::Pod(Arc::new(serde_json::from_value(pod).expect("a pod"))));
        picture
    };
    let key = Key::new("ns", "p");
    let evicted = pod("EvictionByEvictionAPI");
    assert_eq!(StaleDisruptions.plan(&evicted, &key, at(60)).wake_at, Some(at(120)));
    let work = StaleDisruptions.plan(&evicted, &key, at(120));
    let request = &work.steps[0].requests[0];
    assert_eq!(request.path(), "/api/v1/namespaces/ns/pods/p/status");
    assert_eq!(request.body().2["status"]["conditions"][0]["status"], "False");
    assert!(StaleDisruptions.plan(&pod("TerminationByKubelet"), &key, at(500)).is_empty(), "the kubelet may take its time");
}
