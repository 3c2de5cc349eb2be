//! What a Kubernetes 1.36 cluster was recorded to say and to write, in the cases `daemonset/17`,
//! `18` and `01` of the golden data.

use crate::request::EventType;
use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::language::World;
use crate::request::Verb;

/// Three nodes, one daemon pod that is pinned to the first.
fn world(pod: &str) -> World {
    World::new(&format!("node node-1 cpu=8; node node-2 cpu=8; node node-3 cpu=8; pod golden/web-x pin=node-1 {pod}"))
}

fn steps(world: &mut World) -> Vec<Value> {
    let work = world.requests(7);
    let requests = work.steps.iter().flat_map(|step| &step.requests);
    let sent = requests.map(|request| {
        let body = match &request.verb {
            Verb::Create(body) => Value::clone(body),
            Verb::Strategic(patch) => patch.clone(),
            other => json!(format!("{other:?}")),
        };
        let event = request.report.as_ref().and_then(|report| report.accepted.as_ref());
        let event =
            event.map(|event| json!([event.reason, event.action, event.component, event.event_type == EventType::Warning, event.message]));
        json!({"path": request.path(), "body": body, "event": event})
    });
    sent.chain(
        work.events
            .iter()
            .map(|event| json!([event.reason, event.action, event.component, event.event_type == EventType::Warning, event.message])),
    )
    .collect()
}

#[track_caller]
fn check(mut world: World, expected: Expect) {
    let sent: Vec<String> = steps(&mut world).iter().map(|step| format!("{step:#}")).collect();
    expected.assert_eq(&sent.join("\n"));
}

#[test]
fn a_daemon_pod_that_asks_for_more_than_its_node_has() {
    let world = world("cpu=100");
    check(
        world,
        expect![[r#"
        {
          "body": {
            "metadata": {
              "uid": "web-x"
            },
            "status": {
              "conditions": [
                {
                  "lastProbeTime": null,
                  "lastTransitionTime": "2026-01-01T00:00:07Z",
                  "message": "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
                  "observedGeneration": 1,
                  "reason": "Unschedulable",
                  "status": "False",
                  "type": "PodScheduled"
                }
              ]
            }
          },
          "event": null,
          "path": "/api/v1/namespaces/golden/pods/web-x/status"
        }
        [
          "FailedScheduling",
          "Scheduling",
          "default-scheduler",
          true,
          "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
        ]"#]],
    );
}

#[test]
fn a_daemon_pod_whose_port_is_taken() {
    let mut world = world("port=80");
    world.change("pod golden/other port=80 on=node-1");
    check(
        world,
        expect![[r#"
        {
          "body": {
            "metadata": {
              "uid": "web-x"
            },
            "status": {
              "conditions": [
                {
                  "lastProbeTime": null,
                  "lastTransitionTime": "2026-01-01T00:00:07Z",
                  "message": "0/3 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.",
                  "observedGeneration": 1,
                  "reason": "Unschedulable",
                  "status": "False",
                  "type": "PodScheduled"
                }
              ]
            }
          },
          "event": null,
          "path": "/api/v1/namespaces/golden/pods/web-x/status"
        }
        [
          "FailedScheduling",
          "Scheduling",
          "default-scheduler",
          true,
          "0/3 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
        ]"#]],
    );
}

#[test]
fn a_daemon_pod_that_fits() {
    check(
        world("cpu=1"),
        expect![[r#"
        {
          "body": {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {
              "name": "web-x",
              "namespace": "golden",
              "uid": "web-x"
            },
            "target": {
              "apiVersion": "v1",
              "kind": "Node",
              "name": "node-1"
            }
          },
          "event": [
            "Scheduled",
            "Binding",
            "default-scheduler",
            false,
            "Successfully assigned golden/web-x to node-1"
          ],
          "path": "/api/v1/namespaces/golden/pods/web-x/binding"
        }"#]],
    );
}

#[test]
fn a_known_condition_keeps_the_time_of_its_transition() {
    let mut world = World::new("node a; pod web cpu=100 unscheduled");
    let sent = steps(&mut world);
    let condition = &sent[0]["body"]["status"]["conditions"][0];
    assert!(condition["message"].as_str().is_some_and(|message| message.starts_with("0/1 nodes are available: 1 Insufficient cpu.")));
    assert_eq!(condition.get("lastTransitionTime"), None);
}
