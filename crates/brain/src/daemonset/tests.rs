//! Example tests, in a small language for clusters: `node a; node b taint=k:NoSchedule label=x=y; pod web-1@a ready`.

use super::*;
use expect_test::{Expect, expect};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn check(cluster: &str, expected: Expect) {
    let mut set = DaemonSet::default();
    let (mut nodes, mut pods) = (BTreeMap::new(), Vec::new());
    for item in cluster.split(';').map(str::trim).filter(|item| !item.is_empty()) {
        let mut words = item.split(' ');
        match (words.next(), words.next().unwrap_or_default()) {
            (Some("node"), name) => {
                nodes.insert(name.to_owned(), node(name, words));
            }
            (Some("pod"), name) => pods.push(pod(name, words)),
            (Some("ds"), _) => set = daemon_set(words),
            _ => panic!("unknown item {item}"),
        }
    }
    let pods: Vec<&Pod> = pods.iter().collect();
    let plan = plan(&View { set: &set, nodes: &nodes, pods: &pods });
    let mut out = String::new();
    for action in &plan.actions {
        out += &match action {
            Action::CreatePod { node } => format!("create on {node}\n"),
            Action::DeletePod { name, because, .. } => format!("delete {name}: {because:?}\n"),
        };
    }
    let s = &plan.status;
    out += &format!(
        "desired {} current {} ready {} misscheduled {}",
        s.desired_number_scheduled, s.current_number_scheduled, s.number_ready, s.number_misscheduled
    );
    expected.assert_eq(&out);
}

fn node<'a>(name: &str, words: impl Iterator<Item = &'a str>) -> Node {
    let mut node = Node { metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() }, ..Default::default() };
    for word in words {
        match word.split_once('=') {
            Some(("taint", taint)) => {
                let (key, effect) = taint.split_once(':').expect("taint=KEY:EFFECT");
                let taint = Taint { key: key.to_owned(), effect: effect.to_owned(), ..Default::default() };
                node.spec.get_or_insert_default().taints.get_or_insert_default().push(taint);
            }
            Some(("label", label)) => {
                let (key, value) = label.split_once('=').expect("label=KEY=VALUE");
                node.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
            }
            _ => panic!("unknown word {word}"),
        }
    }
    node
}

fn pod<'a>(name: &str, words: impl Iterator<Item = &'a str>) -> Pod {
    let (name, node) = name.split_once('@').expect("pod NAME@NODE");
    let mut pod = Pod {
        metadata: ObjectMeta { name: Some(name.to_owned()), uid: Some(name.to_owned()), ..Default::default() },
        ..Default::default()
    };
    pod.spec = Some(PodSpec { node_name: Some(node.to_owned()), ..Default::default() });
    for word in words {
        assert_eq!(word, "ready");
        let condition =
            k8s_openapi::api::core::v1::PodCondition { type_: "Ready".to_owned(), status: "True".to_owned(), ..Default::default() };
        pod.status.get_or_insert_default().conditions = Some(vec![condition]);
    }
    pod
}

fn daemon_set<'a>(words: impl Iterator<Item = &'a str>) -> DaemonSet {
    let mut spec = PodSpec::default();
    for word in words {
        let (key, value) = word.strip_prefix("select=").and_then(|s| s.split_once('=')).expect("select=KEY=VALUE");
        spec.node_selector.get_or_insert_default().insert(key.to_owned(), value.to_owned());
    }
    let mut set = DaemonSet::default();
    set.spec.get_or_insert_default().template.spec = Some(spec);
    set
}

#[test]
fn a_pod_is_made_on_every_node_without_one() {
    check(
        "node a; node b; pod web-1@a ready",
        expect![[r#"
        create on b
        desired 2 current 1 ready 1 misscheduled 0"#]],
    );
}

#[test]
fn no_schedule_keeps_new_pods_away_and_leaves_old_ones() {
    check(
        "node a taint=maint:NoSchedule; pod web-1@a ready; node b taint=maint:NoSchedule",
        expect!["desired 0 current 0 ready 0 misscheduled 1"],
    );
}

#[test]
fn no_execute_removes() {
    check(
        "node a taint=maint:NoExecute; pod web-1@a",
        expect![[r#"
        delete web-1: Misfit(Taint(Taint { effect: "NoExecute", key: "maint", time_added: None, value: None }))
        desired 0 current 0 ready 0 misscheduled 1"#]],
    );
}

#[test]
fn daemon_pods_tolerate_cordons_and_dead_nodes() {
    check(
        "node a taint=node.kubernetes.io/unschedulable:NoSchedule taint=node.kubernetes.io/unreachable:NoExecute",
        expect![[r#"
        create on a
        desired 1 current 0 ready 0 misscheduled 0"#]],
    );
}

#[test]
fn the_node_selector_decides() {
    check(
        "ds web select=disk=ssd; node a label=disk=ssd; node b; pod web-1@b",
        expect![[r#"
        create on a
        delete web-1: Misfit(Affinity)
        desired 1 current 0 ready 0 misscheduled 1"#]],
    );
}

#[test]
fn of_two_pods_on_a_node_the_newer_goes() {
    check(
        "node a; pod web-1@a; pod web-2@a",
        expect![[r#"
        delete web-2: Duplicate
        desired 1 current 1 ready 0 misscheduled 0"#]],
    );
}

#[test]
fn pods_of_nodes_that_are_gone_are_deleted() {
    check(
        "pod web-1@ghost",
        expect![[r#"
        delete web-1: NodeGone
        desired 0 current 0 ready 0 misscheduled 0"#]],
    );
}
