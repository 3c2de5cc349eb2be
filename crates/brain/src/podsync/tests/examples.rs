//! One example for each rule.

use expect_test::expect;
use serde_json::json;

use super::pretended::{Node, waits};

#[test]
fn a_pod_gets_a_sandbox_and_its_containers_in_order() {
    let mut node = Node::new(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    expect!["Pending a=ContainerCreating/0 b=ContainerCreating/0"].assert_eq(&node.shown());
    node.settle();
    expect!["sandbox0 run:a run:b"].assert_eq(&node.news());
    expect!["Running a+=running/0 b+=running/0"].assert_eq(&node.shown());
    expect!["True"].assert_eq(&node.condition("Ready"));
}

#[test]
fn init_containers_run_one_after_another_before_the_others() {
    let mut node = Node::new(json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]}));
    node.settle();
    expect!["sandbox0 init:i"].assert_eq(&node.news());
    expect!["False ContainersNotInitialized containers with incomplete status: [i j]"].assert_eq(&node.condition("Initialized"));
    node.exits("i", 0);
    node.settle();
    expect!["init:j"].assert_eq(&node.news());
    expect!["Pending i+=Completed(0)/0 j=running/0 a=PodInitializing/0"].assert_eq(&node.shown());
    node.exits("j", 0);
    node.settle();
    expect!["run:a"].assert_eq(&node.news());
    // Once the pod runs, they are not run again, not even when their records are gone.
    node.observed.containers.retain(|record| record.name == "a");
    node.settle();
    expect![""].assert_eq(&node.news());
}

#[test]
fn an_init_container_that_fails_runs_again_unless_the_policy_is_never() {
    let mut node = Node::new(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    node.settle();
    node.exits("i", 1);
    node.settle();
    expect!["sandbox0 init:i init:i"].assert_eq(&node.news());
    let mut node = Node::new(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    node.settle();
    node.exits("i", 1);
    node.settle();
    expect!["sandbox0 init:i stop"].assert_eq(&node.news());
    expect!["Failed i=Error(1)/0 a=PodInitializing/0"].assert_eq(&node.shown());
}

#[test]
fn sidecars_start_before_the_others_and_go_with_the_pod() {
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}],
        "containers": [{"name": "a"}],
    });
    let mut node = Node::new(spec);
    node.settle();
    expect!["sandbox0 init:s init:i"].assert_eq(&node.news());
    node.exits("i", 0);
    node.settle();
    expect!["run:a"].assert_eq(&node.news());
    node.exits("s", 3);
    node.settle();
    expect!["init:s"].assert_eq(&node.news());
    node.exits("a", 0);
    node.settle();
    expect!["kill:s stop"].assert_eq(&node.news());
    expect!["Succeeded s=Error(137)/1 i+=Completed(0)/0 a=Completed(0)/0"].assert_eq(&node.shown());
}

#[test]
fn a_sidecar_with_a_startup_probe_holds_the_next_one_up() {
    let probe = json!({"exec": {"command": ["true"]}});
    let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": probe}], "containers": [{"name": "a"}]});
    let mut node = Node::new(spec);
    node.settle();
    expect!["sandbox0 init:s"].assert_eq(&node.news());
    node.probe("s", |probes| probes.startup = Some(true));
    node.settle();
    expect!["run:a"].assert_eq(&node.news());
}

#[test]
fn restarts_wait_longer_each_time() {
    expect!["[0, 10, 20, 40, 80, 160, 300, 300]"].assert_eq(&format!("{:?}", waits(8)));
    let mut node = Node::new(json!({"containers": [{"name": "a"}]}));
    node.settle();
    node.exits("a", 1);
    node.settle();
    node.exits("a", 1);
    node.settle();
    expect!["sandbox0 run:a run:a"].assert_eq(&node.news());
    expect!["Running a=CrashLoopBackOff/1"].assert_eq(&node.shown());
    node.wait(9);
    node.settle();
    expect![""].assert_eq(&node.news());
    node.wait(1);
    node.settle();
    expect!["run:a"].assert_eq(&node.news());
    expect!["Running a+=running/2"].assert_eq(&node.shown());
}

#[test]
fn the_policy_decides_about_containers_that_end() {
    for (policy, code, wanted) in
        [("Never", 0, "stop"), ("Never", 1, "stop"), ("OnFailure", 0, "stop"), ("OnFailure", 1, "run:a"), ("Always", 0, "run:a")]
    {
        let mut node = Node::new(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        node.settle();
        node.news();
        node.exits("a", code);
        node.settle();
        assert_eq!(node.news(), wanted, "{policy} after {code}");
    }
}

#[test]
fn a_containers_own_rules_come_before_the_pods_policy() {
    let rule = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never", "restartPolicyRules": rule}]});
    let mut node = Node::new(spec);
    node.settle();
    node.exits("a", 42);
    node.settle();
    node.exits("a", 1);
    node.settle();
    expect!["sandbox0 run:a run:a stop"].assert_eq(&node.news());
}

#[test]
fn probes_replace_containers_that_are_dead() {
    let probe = json!({"exec": {"command": ["true"]}});
    let mut node = Node::new(json!({"containers": [{"name": "a", "livenessProbe": probe}, {"name": "b"}]}));
    node.settle();
    node.probe("a", |probes| probes.liveness = Some(false));
    node.settle();
    expect!["sandbox0 run:a run:b kill:a run:a"].assert_eq(&node.news());
    expect!["Running a+=running/1 b+=running/0"].assert_eq(&node.shown());
    let mut node = Node::new(json!({"restartPolicy": "Never", "containers": [{"name": "a", "startupProbe": probe}]}));
    node.settle();
    node.probe("a", |probes| probes.startup = Some(false));
    node.settle();
    expect!["sandbox0 run:a kill:a stop"].assert_eq(&node.news());
}

#[test]
fn readiness_waits_for_startup_and_for_gates() {
    let probe = json!({"exec": {"command": ["true"]}});
    let spec = json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "a", "startupProbe": probe, "readinessProbe": probe}]});
    let mut node = Node::new(spec);
    node.settle();
    node.probe("a", |probes| probes.readiness = Some(true));
    expect!["False ContainersNotReady containers with unready status: [a]"].assert_eq(&node.condition("ContainersReady"));
    node.probe("a", |probes| probes.startup = Some(true));
    expect!["True"].assert_eq(&node.condition("ContainersReady"));
    expect![[r#"False ReadinessGatesNotReady corresponding condition of pod readiness gate "x/y" does not exist."#]]
        .assert_eq(&node.condition("Ready"));
}

#[test]
fn a_changed_image_replaces_the_container_whatever_the_policy() {
    let mut node = Node::new(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    node.settle();
    node.pod.spec.as_mut().unwrap().containers[0].image = Some("image:2".to_owned());
    node.settle();
    expect!["sandbox0 run:a kill:a run:a"].assert_eq(&node.news());
}

#[test]
fn a_lost_sandbox_is_replaced_with_everything_in_it() {
    let mut node = Node::new(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    node.settle();
    node.exits("i", 0);
    node.settle();
    node.news();
    node.reboots();
    node.settle();
    expect!["sandbox1 init:i"].assert_eq(&node.news());
    node.exits("i", 0);
    node.wait(10);
    node.settle();
    expect!["run:a"].assert_eq(&node.news());
    let mut node = Node::new(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    node.settle();
    node.news();
    node.reboots();
    node.settle();
    expect![""].assert_eq(&node.news());
    expect!["Failed a=Error(137)/0"].assert_eq(&node.shown());
}

#[test]
fn ephemeral_containers_run_once_and_at_once() {
    let mut node = Node::new(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    node.settle();
    node.news();
    let debug = json!([{"name": "d", "image": "image:1", "targetContainerName": "a"}]);
    node.pod.spec.as_mut().unwrap().ephemeral_containers = Some(serde_json::from_value(debug).unwrap());
    node.settle();
    expect!["debug:d"].assert_eq(&node.news());
    node.exits("d", 1);
    node.settle();
    expect![""].assert_eq(&node.news());
}

#[test]
fn what_was_told_survives_the_loss_of_records() {
    let mut node = Node::new(json!({"containers": [{"name": "a"}]}));
    node.settle();
    node.exits("a", 1);
    node.settle();
    node.step();
    node.observed = crate::podsync::Observed::default();
    expect!["Running a=ContainerStatusUnknown(137)/1"].assert_eq(&node.shown());
    node.settle();
    expect!["Running a+=running/2"].assert_eq(&node.shown());
}
