//! Which changes make a set be looked at: upstream's tests of its event handlers.

use super::*;
use crate::controller::Controller as _;
use crate::fixture::{node, picture, pod};
use crate::picture::{Change, Kind, Object, Picture};

/// The sets that are looked at after a change.
fn concerned(sets: &str, old: Option<Object>, new: Option<Object>) -> Vec<String> {
    let mut names = Vec::new();
    DaemonSetController::default().concerns(&picture(sets), &Change { old, new }, &mut |key| names.push(key.name.to_string()));
    names.sort();
    names.dedup();
    names
}

fn a_node(words: &[&str]) -> Option<Object> {
    Some(Object::Node(Arc::new(node("n", words))))
}

fn a_pod(words: &[&str]) -> Option<Object> {
    Some(Object::Pod(Arc::new(pod("p@n", words))))
}

const TWO: &str = "ds foo; ds bar";

#[test]
fn a_new_node_concerns_the_sets_that_run_there() {
    let set = "ds web select=color=blue";
    assert!(concerned(set, None, a_node(&[])).is_empty());
    assert_eq!(concerned(set, None, a_node(&["label=color=blue"])), ["web"]);
}

#[test]
fn a_node_that_changes_concerns_a_set_when_labels_or_taints_do() {
    let selecting = "ds web select=color=blue";
    assert!(concerned(selecting, a_node(&[]), a_node(&[])).is_empty());
    assert_eq!(concerned(selecting, a_node(&[]), a_node(&["label=color=blue"])), ["web"]);
    assert_eq!(concerned("ds web", a_node(&["taint=k:NoSchedule"]), a_node(&[])), ["web"]);
    let Some(Object::Node(plain)) = a_node(&[]) else { unreachable!("it is a node") };
    let mut larger = Node::clone(&plain);
    larger.allocatable.memory *= 2;
    assert!(concerned("ds web", Some(Object::Node(plain)), Some(Object::Node(Arc::new(larger)))).is_empty());
}

#[test]
fn a_pod_that_comes_changes_or_goes_concerns_its_set() {
    let of_foo = &["owner=foo"];
    assert_eq!(concerned(TWO, None, a_pod(of_foo)), ["foo"]);
    assert_eq!(concerned(TWO, a_pod(of_foo), a_pod(&["owner=foo", "ready"])), ["foo"]);
    assert_eq!(concerned(TWO, a_pod(of_foo), None), ["foo"]);
    assert_eq!(concerned(TWO, None, a_pod(&["owner=bar"])), ["bar"]);
}

#[test]
fn a_pod_of_nobody_concerns_the_sets_that_select_it() {
    let mut three = picture("ds foo; ds bar");
    let mut other = crate::fixture::daemon_set("other", &[]);
    other.selector = kinds::selector::Selector::nothing();
    three.put(Object::DaemonSet(Arc::new(other)));
    let mut names = Vec::new();
    let change = Change { old: None, new: a_pod(&["orphan"]) };
    DaemonSetController::default().concerns(&three, &change, &mut |key| names.push(key.name.to_string()));
    assert_eq!(names, ["bar", "foo"]);
    assert_eq!(concerned(TWO, a_pod(&["orphan", "label=x"]), a_pod(&["orphan"])), ["bar", "foo"], "it is selected now");
}

#[test]
fn a_pod_that_changes_hands_concerns_both() {
    assert_eq!(concerned(TWO, a_pod(&["owner=foo"]), a_pod(&["owner=bar"])), ["bar", "foo"]);
    assert_eq!(concerned(TWO, a_pod(&["owner=foo"]), a_pod(&["orphan"])), ["bar", "foo"]);
}

#[test]
fn the_pods_of_others_concern_no_set() {
    assert!(concerned(TWO, a_pod(&["owner=stranger"]), None).is_empty());
    assert!(concerned(TWO, a_pod(&["orphan", "label=x"]), None).is_empty());
}

/// A set that was deleted and made again under its name is another set.
#[test]
fn a_set_made_anew_starts_anew() {
    let mut picture = picture("node n; ds web");
    let mut controller = DaemonSetController::default();
    let key = Key::new("ns", "web");
    let name = |work: &crate::controller::Work| work.steps.last().and_then(|step| step.requests.first()).map(|request| request.key.clone());
    let first = name(&controller.plan(&picture, &key, crate::fixture::now()));
    assert_eq!(first, name(&controller.plan(&picture, &key, crate::fixture::now())), "not seen yet: the same again");
    let gone = picture.remove(Kind::DaemonSet, &key, 0).expect("the set was there");
    controller.concerns(&picture, &gone, &mut |_| ());
    let mut again = crate::fixture::daemon_set("web", &[]);
    again.meta.uid = "another".into();
    picture.put(Object::DaemonSet(Arc::new(again)));
    assert_ne!(first, name(&controller.plan(&picture, &key, crate::fixture::now())));
}

#[test]
fn no_set_no_work() {
    let work = DaemonSetController::default().plan(&Picture::default(), &Key::new("ns", "web"), crate::fixture::now());
    assert!(work.is_empty());
}
