//! Example tests: one for each rule.

use super::*;
use crate::fixture::{at, now, picture};
use crate::request::Verb;

/// Requests of one pass over all nodes.
fn monitored(lifecycle: &mut NodeLifecycle, picture: &Picture, time: Timestamp) -> Vec<String> {
    let work = lifecycle.plan(picture, &Key::new(MONITOR, ""), time);
    work.steps.iter().flat_map(|step| &step.requests).map(|request| format!("{} {}", request.path(), request.body().2)).collect()
}

fn taints(picture: &Picture, lifecycle: &mut NodeLifecycle, name: &str, time: Timestamp) -> (Option<String>, Option<i64>) {
    let work = lifecycle.plan(picture, &Key::new("", name), time);
    let patch = work.steps.iter().flat_map(|step| &step.requests).find_map(|request| match &request.verb {
        Verb::Merge(patch) => Some(patch["spec"]["taints"].to_string()),
        _ => None,
    });
    (patch, work.wake_at.map(|wake| wake.duration_since(time).as_secs()))
}

fn with_condition(picture: &mut Picture, name: &str, status: &str) {
    let mut node = Node::clone(&picture.nodes[name]);
    node.conditions[0].status = status.into();
    picture.put(Object::Node(Arc::new(node)));
}

#[test]
fn a_silent_node_becomes_unknown_after_the_grace_period_and_its_pods_unready() {
    let picture = picture("node a; ds web; pod p@a ready; pod q@a");
    let mut lifecycle = NodeLifecycle::default();
    assert_eq!(monitored(&mut lifecycle, &picture, now()), Vec::<String>::new());
    assert_eq!(monitored(&mut lifecycle, &picture, at(50)), Vec::<String>::new());
    let requests = monitored(&mut lifecycle, &picture, at(51));
    assert_eq!(requests.len(), 2);
    assert!(requests[0].starts_with("/api/v1/nodes/a/status") && requests[0].contains("Kubelet stopped posting node status."));
    assert!(requests[0].contains("NodeStatusNeverUpdated"), "conditions that were never there");
    assert!(requests[1].starts_with("/api/v1/namespaces/ns/pods/p/status"));
}

#[test]
fn a_renewed_lease_is_a_sign_of_life() {
    let mut picture = picture("node a");
    let mut lifecycle = NodeLifecycle::default();
    monitored(&mut lifecycle, &picture, now());
    let mut lease = crate::model::Lease { renew_time: Some(at(30)), duration_seconds: 40, ..Default::default() };
    lease.meta.namespace = crate::picture::NODE_LEASES.into();
    lease.meta.name = "a".into();
    picture.put(Object::Lease(Arc::new(lease)));
    monitored(&mut lifecycle, &picture, at(45));
    assert_eq!(monitored(&mut lifecycle, &picture, at(90)), Vec::<String>::new());
    assert_ne!(monitored(&mut lifecycle, &picture, at(130)), Vec::<String>::new());
}

#[test]
fn conditions_become_taints() {
    let mut picture = picture("node a notready taint=mine:NoSchedule; node b; node c");
    let mut lifecycle = NodeLifecycle::default();
    monitored(&mut lifecycle, &picture, now());
    let (patch, wake) = taints(&picture, &mut lifecycle, "a", now());
    let time = "\"timeAdded\":\"1970-01-12T13:46:40Z\"";
    let expected = format!(
        "[{{\"effect\":\"NoSchedule\",\"key\":\"mine\"}},{{\"effect\":\"NoSchedule\",\"key\":\"node.kubernetes.io/not-ready\",{time}}},\
         {{\"effect\":\"NoExecute\",\"key\":\"node.kubernetes.io/not-ready\",{time}}}]"
    );
    assert_eq!((patch, wake), (Some(expected), None));
    with_condition(&mut picture, "a", "True");
    assert_eq!(taints(&picture, &mut lifecycle, "a", now()), (None, None));
}

#[test]
fn taints_of_a_node_that_came_back_are_lifted() {
    let picture = picture("node a taint=node.kubernetes.io/unreachable:NoSchedule taint=node.kubernetes.io/unreachable:NoExecute");
    assert_eq!(taints(&picture, &mut NodeLifecycle::default(), "a", now()).0.as_deref(), Some("null"));
}

#[test]
fn a_cordon_is_a_taint() {
    let mut picture = picture("node a");
    let mut node = Node::clone(&picture.nodes["a"]);
    node.unschedulable = true;
    picture.put(Object::Node(Arc::new(node)));
    let patch = taints(&picture, &mut NodeLifecycle::default(), "a", now()).0.expect("a patch");
    assert!(patch.contains("node.kubernetes.io/unschedulable"));
}

#[test]
fn evicting_taints_are_set_one_in_ten_seconds() {
    let picture = picture("node a notready; node b notready; node c; node d; node e; node f");
    let mut lifecycle = NodeLifecycle::default();
    monitored(&mut lifecycle, &picture, now());
    let (first, _) = taints(&picture, &mut lifecycle, "a", now());
    assert!(first.expect("a patch").contains("NoExecute"));
    let (second, wake) = taints(&picture, &mut lifecycle, "b", now());
    assert!(!second.expect("a patch").contains("NoExecute"));
    assert_eq!(wake, Some(10));
    assert!(taints(&picture, &mut lifecycle, "b", at(10)).0.expect("a patch").contains("NoExecute"));
}

#[test]
fn nothing_is_evicted_while_every_zone_is_down() {
    let picture = picture("node a notready; node b notready");
    let mut lifecycle = NodeLifecycle::default();
    monitored(&mut lifecycle, &picture, now());
    assert!(!taints(&picture, &mut lifecycle, "a", now()).0.expect("a patch").contains("NoExecute"));
}

#[test]
fn zones_are_judged_as_upstream_does() {
    let mut text = String::new();
    for n in 0..60 {
        text += &format!("node n{n} {}; ", if n < 33 { "notready" } else { "" });
    }
    let zones = taints::survey(&picture(&text), BTreeMap::new());
    assert_eq!(zones.values().map(|zone| zone.state).collect::<Vec<_>>(), [taints::ZoneState::PartialDisruption]);
    let zones = taints::survey(&picture("node a notready; node b notready; node c notready; node d"), BTreeMap::new());
    assert_eq!(zones.values().map(|zone| zone.state).collect::<Vec<_>>(), [taints::ZoneState::FullDisruption]);
}
