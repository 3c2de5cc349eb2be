//! DaemonSets from outside: what Kubernetes' own controllers do to three nodes, ours do too.
//!
//! Each test is one story over the real server with simulated nodes; the decider's rules have their
//! own tests in `brain`.

use serde_json::{Value, json};

use crate::support::{Fleet, wait_for};

const SETS: &str = "/apis/apps/v1/namespaces/default/daemonsets";
const WEB: &str = "/apis/apps/v1/namespaces/default/daemonsets/web";
const PODS: &str = "/api/v1/namespaces/default/pods";
const REVISIONS: &str = "/apis/apps/v1/namespaces/default/controllerrevisions";

/// Three nodes, and what these stories do to them.
struct Three(Fleet);

impl std::ops::Deref for Three {
    type Target = Fleet;

    fn deref(&self) -> &Fleet {
        &self.0
    }
}

impl Three {
    fn start() -> Three {
        Three(Fleet::start(3))
    }

    fn create_web(&self, change: impl FnOnce(&mut Value)) -> Value {
        let mut set = web();
        change(&mut set);
        self.api.create(SETS, &set)
    }

    fn set_image(&self, image: &str) {
        let mut template = self.api.get(WEB).json()["spec"]["template"].clone();
        template["spec"]["containers"][0]["image"] = json!(image);
        self.patch(WEB, json!({"spec": {"template": template}}));
    }

    /// Pods of the set that no client deleted, by node.
    fn pods(&self) -> Vec<Value> {
        let mut pods = self.list(PODS);
        pods.retain(|pod| pod["metadata"].get("deletionTimestamp").is_none());
        pods.sort_by_key(|pod| pod["spec"]["nodeName"].to_string());
        pods
    }

    /// Names of the set's pods, by node.
    fn names(&self) -> Vec<String> {
        self.pods().iter().map(name).collect()
    }

    /// Waits until the set has seen its last change and `pods` of the image are Ready; returns its
    /// status.
    fn settled(&self, image: &str, pods: usize) -> Value {
        wait_for(&format!("{pods} pods of {image}"), || {
            let set = self.api.get(WEB).json();
            let ready = self.pods().iter().filter(|pod| is_ready(pod) && pod["spec"]["containers"][0]["image"] == image).count();
            let observed = set["status"]["observedGeneration"] == set["metadata"]["generation"];
            let counted = set["status"]["numberAvailable"].as_u64().unwrap_or(0) as usize == pods;
            (ready == pods && observed && counted).then(|| set["status"].clone())
        })
    }

    /// Waits for an event about the set; returns its message.
    fn event(&self, reason: &str) -> String {
        wait_for(&format!("the event {reason}"), || {
            let events = self.list("/api/v1/namespaces/default/events");
            let event = events.into_iter().find(|event| event["reason"] == reason)?;
            Some(event["message"].as_str().unwrap_or_default().to_owned())
        })
    }
}

fn web() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}},
        },
    })
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[test]
fn a_set_runs_one_pod_on_every_node() {
    let fleet = Three::start();
    fleet.create_web(|_| {});
    let status = fleet.settled("nginx:1", 3);
    let expected = json!({
        "currentNumberScheduled": 3, "numberMisscheduled": 0, "desiredNumberScheduled": 3, "numberReady": 3, "observedGeneration": 1,
        "updatedNumberScheduled": 3, "numberAvailable": 3,
    });
    assert_eq!(status, expected);
    let pods = fleet.pods();
    let nodes: Vec<&Value> = pods.iter().map(|pod| &pod["spec"]["nodeName"]).collect();
    assert_eq!(nodes, ["everynode-1", "everynode-2", "everynode-3"]);
    let revision = &fleet.list(REVISIONS)[0];
    let hash = &revision["metadata"]["labels"]["controller-revision-hash"];
    assert_eq!(revision["metadata"]["name"], format!("web-{}", hash.as_str().unwrap()));
    assert_eq!(revision["data"]["spec"]["template"]["$patch"], "replace");
    for pod in &pods {
        assert_eq!(pod["metadata"]["labels"], json!({"app": "web", "controller-revision-hash": hash, "pod-template-generation": "1"}));
        assert_eq!(pod["metadata"]["generateName"], "web-");
    }
    assert!(fleet.event("SuccessfulCreate").starts_with("Created pod: web-"));
    assert!(fleet.event("Scheduled").starts_with("Successfully assigned default/web-"));
}

#[test]
fn an_update_replaces_pods_one_after_another_and_undo_brings_the_revision_back() {
    let fleet = Three::start();
    fleet.create_web(|_| {});
    fleet.settled("nginx:1", 3);
    let first = fleet.names();
    fleet.set_image("nginx:2");
    fleet.settled("nginx:2", 3);
    assert!(fleet.names().iter().all(|name| !first.contains(name)), "new pods have new names");
    let revisions = |fleet: &Three| -> Vec<i64> {
        let mut numbers: Vec<i64> = fleet.list(REVISIONS).iter().filter_map(|revision| revision["revision"].as_i64()).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(revisions(&fleet), [1, 2]);
    fleet.set_image("nginx:1");
    fleet.settled("nginx:1", 3);
    assert_eq!(revisions(&fleet), [2, 3], "the first revision got a new number");
}

#[test]
fn a_bad_image_stops_at_the_budget_and_the_next_update_repairs_it() {
    let fleet = Three::start();
    fleet.create_web(|_| {});
    fleet.settled("nginx:1", 3);
    fleet.set_image("does-not-exist");
    wait_for("one pod that cannot be pulled", || {
        let bad = fleet
            .pods()
            .into_iter()
            .filter(|pod| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff");
        (bad.count() == 1).then_some(())
    });
    for image in ["does-not-exist:2", "does-not-exist:3"] {
        fleet.set_image(image);
        wait_for("the broken pod to be replaced", || {
            fleet
                .pods()
                .iter()
                .any(|pod| pod["spec"]["containers"][0]["image"] == image && !pod["status"]["containerStatuses"].is_null())
                .then_some(())
        });
        let good = fleet.pods().iter().filter(|pod| is_ready(pod)).count();
        assert_eq!(good, 2, "three bad updates in a row take down one pod, not three");
    }
    fleet.set_image("nginx:1");
    fleet.settled("nginx:1", 3);
}

#[test]
fn on_delete_waits_for_people() {
    let fleet = Three::start();
    fleet.create_web(|set| set["spec"]["updateStrategy"] = json!({"type": "OnDelete"}));
    fleet.settled("nginx:1", 3);
    let before = fleet.names();
    fleet.set_image("nginx:2");
    wait_for("the change to be seen", || (fleet.api.get(WEB).json()["status"]["observedGeneration"] == 2).then_some(()));
    assert_eq!(fleet.names(), before);
    assert_eq!(fleet.api.delete(&format!("{PODS}/{}", before[0])).code, 200);
    wait_for("the new pod", || {
        fleet.pods().iter().any(|pod| is_ready(pod) && pod["spec"]["containers"][0]["image"] == "nginx:2").then_some(())
    });
    assert_eq!(fleet.names()[1..], before[1..]);
}

#[test]
fn surge_never_lacks_a_ready_pod() {
    let fleet = Three::start();
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    fleet.create_web(|set| set["spec"]["updateStrategy"] = rolling);
    fleet.settled("nginx:1", 3);
    fleet.set_image("nginx:2");
    wait_for("the update", || {
        let pods = fleet.pods();
        for node in ["everynode-1", "everynode-2", "everynode-3"] {
            let ready = pods.iter().filter(|pod| pod["spec"]["nodeName"] == node && is_ready(pod)).count();
            assert!((1..=2).contains(&ready), "{ready} ready pods on {node}");
        }
        pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "nginx:2").then_some(())
    });
    fleet.settled("nginx:2", 3);
}

#[test]
fn taints_decide_who_starts_and_who_stays() {
    let fleet = Three::start();
    fleet.create_web(|_| {});
    fleet.settled("nginx:1", 3);
    let taint = |node: &str, effect: Option<&str>| {
        let taints = effect.map(|effect| json!([{"key": "maint", "value": "x", "effect": effect}]));
        fleet.patch(&format!("/api/v1/nodes/{node}"), json!({"spec": {"taints": taints}}));
    };
    taint("everynode-1", Some("NoExecute"));
    fleet.settled("nginx:1", 2);
    taint("everynode-2", Some("NoSchedule"));
    let misscheduled = || fleet.api.get(WEB).json()["status"]["numberMisscheduled"] == 1;
    wait_for("the pod that would not be started to be counted", || misscheduled().then_some(()));
    assert_eq!(fleet.pods().len(), 2, "it stays");
    taint("everynode-1", None);
    taint("everynode-2", None);
    let status = fleet.settled("nginx:1", 3);
    assert_eq!(status["numberMisscheduled"], 0);
}

#[test]
fn a_node_that_comes_gets_its_pod_and_one_that_goes_takes_it_along() {
    let fleet = Three::start();
    fleet.create_web(|_| {});
    fleet.settled("nginx:1", 3);
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "late", "labels": {"everynode.dev/simulated": "true"}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    fleet.api.create("/api/v1/nodes", &node);
    fleet.settled("nginx:1", 4);
    assert_eq!(fleet.api.delete("/api/v1/nodes/late").code, 200);
    wait_for("desired to go down", || (fleet.api.get(WEB).json()["status"]["desiredNumberScheduled"] == 3).then_some(()));
    // The pod garbage collector waits 40 s for the node to come back.
    wait_for("the pod to be collected", || (fleet.list(PODS).len() == 3).then_some(()));
}

#[test]
fn failed_and_succeeded_pods_are_made_anew() {
    let fleet = Three::start();
    fleet.create_web(|_| {});
    fleet.settled("nginx:1", 3);
    let before = fleet.names();
    let end =
        |name: &str, phase: &str| fleet.patch(&format!("{PODS}/{name}/status"), json!({"status": {"phase": phase, "reason": "Evicted"}}));
    end(&before[0], "Failed");
    end(&before[1], "Succeeded");
    wait_for("two new pods", || {
        let now = fleet.names();
        (now.len() == 3 && now[0] != before[0] && now[1] != before[1] && now[2] == before[2]).then_some(())
    });
    fleet.settled("nginx:1", 3);
    let failed = fleet.event("FailedDaemonPod");
    assert_eq!(failed, format!("Found failed daemon pod default/{} on node everynode-1, will try to kill it", before[0]));
    let succeeded = fleet.event("SucceededDaemonPod");
    assert_eq!(succeeded, format!("Found succeeded daemon pod default/{} on node everynode-2, will try to delete it", before[1]));
}

#[test]
fn orphans_are_adopted_strangers_left_alone_and_released_pods_replaced() {
    let fleet = Three::start();
    fleet.create_web(|_| {});
    fleet.settled("nginx:1", 3);
    let before = fleet.names();
    let orphan = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Orphan"});
    let answer = fleet.api.ask("DELETE", WEB, "application/json", orphan.to_string().as_bytes()).expect("the server answers");
    assert_eq!(answer.code, 200);
    wait_for("the set to go", || (fleet.api.get(WEB).code == 404).then_some(()));
    assert_eq!(fleet.names(), before);
    assert!(fleet.pods().iter().all(|pod| pod["metadata"].get("ownerReferences").is_none()));
    let uid = fleet.create_web(|_| {})["metadata"]["uid"].clone();
    fleet.settled("nginx:1", 3);
    assert_eq!(fleet.names(), before, "the new set took them over");
    assert!(fleet.pods().iter().all(|pod| pod["metadata"]["ownerReferences"][0]["uid"] == uid));
    fleet.patch(&format!("{PODS}/{}", before[0]), json!({"metadata": {"labels": {"app": "released"}}}));
    wait_for("the released pod and its successor", || {
        let pods = fleet.pods();
        let released = pods.iter().find(|pod| name(pod) == before[0])?;
        (pods.len() == 4 && released["metadata"].get("ownerReferences").is_none()).then_some(())
    });
}

#[test]
fn deleting_a_set_takes_its_pods_and_revisions_along() {
    for policy in ["Background", "Foreground"] {
        let fleet = Three::start();
        fleet.create_web(|_| {});
        fleet.settled("nginx:1", 3);
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
        assert_eq!(fleet.api.ask("DELETE", WEB, "application/json", options.to_string().as_bytes()).expect("it answers").code, 200);
        wait_for("everything to go", || {
            (fleet.list(PODS).is_empty() && fleet.list(REVISIONS).is_empty() && fleet.api.get(WEB).code == 404).then_some(())
        });
    }
}

#[test]
fn pods_that_a_quota_refuses_are_reported_and_made_when_it_is_gone() {
    let fleet = Three::start();
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}});
    fleet.api.create("/api/v1/namespaces/default/resourcequotas", &quota);
    fleet.create_web(|_| {});
    let message = fleet.event("FailedCreate");
    assert!(message.starts_with("Error creating: pods \"web-") && message.contains("is forbidden: exceeded quota: q"), "{message}");
    fleet.settled("nginx:1", 1);
    assert_eq!(fleet.api.delete("/api/v1/namespaces/default/resourcequotas/q").code, 200);
    fleet.settled("nginx:1", 3);
}

#[test]
fn pods_that_do_not_fit_say_why() {
    let fleet = Three::start();
    fleet.create_web(|set| set["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100"}}));
    let expected = "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims to \
                    deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
    assert_eq!(fleet.event("FailedScheduling"), expected);
    wait_for("the condition", || {
        let pods = fleet.pods();
        let conditions = pods.first()?["status"]["conditions"].as_array()?.clone();
        conditions.iter().any(|condition| condition["message"] == expected && condition["reason"] == "Unschedulable").then_some(())
    });
    // The set's status follows the pods'.
    wait_for("the set's status", || (fleet.api.get(WEB).json()["status"]["numberUnavailable"] == 3).then_some(()));
}

#[test]
fn a_more_important_set_preempts() {
    let fleet = Three::start();
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000});
    fleet.api.create("/apis/scheduling.k8s.io/v1/priorityclasses", &class);
    fleet.create_web(|set| set["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "3"}}));
    fleet.settled("nginx:1", 3);
    let mut second = web();
    second["metadata"]["name"] = json!("second");
    second["spec"]["selector"]["matchLabels"] = json!({"app": "second"});
    second["spec"]["template"]["metadata"]["labels"] = json!({"app": "second"});
    second["spec"]["template"]["spec"]["priorityClassName"] = json!("high");
    second["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "3"}});
    fleet.api.create(SETS, &second);
    wait_for("the second set on all nodes", || {
        let pods = fleet.pods();
        let ready = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "second" && is_ready(pod)).count();
        (ready == 3).then_some(())
    });
    assert!(fleet.event("Preempted").starts_with("Preempted by pod"));
}

#[test]
fn a_dead_node_is_tainted_and_keeps_its_pod_and_is_well_again_afterwards() {
    let fleet = Three::start();
    fleet.create_web(|_| {});
    fleet.settled("nginx:1", 3);
    let node = "/api/v1/nodes/everynode-2";
    let unknown = json!([{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "x"}]);
    let answer = fleet.api.ask(
        "PATCH",
        &format!("{node}/status"),
        "application/strategic-merge-patch+json",
        json!({"status": {"conditions": unknown}}).to_string().as_bytes(),
    );
    assert_eq!(answer.expect("the server answers").code, 200);
    wait_for("its taints", || {
        let taints = fleet.api.get(node).json()["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let has = |effect: &str| taints.iter().any(|taint| taint["key"] == "node.kubernetes.io/unreachable" && taint["effect"] == effect);
        (has("NoSchedule") && has("NoExecute")).then_some(())
    });
    assert_eq!(fleet.pods().len(), 3);
    let ready = json!([{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "x"}]);
    let body = json!({"status": {"conditions": ready}}).to_string();
    let answer = fleet.api.ask("PATCH", &format!("{node}/status"), "application/strategic-merge-patch+json", body.as_bytes());
    assert_eq!(answer.expect("the server answers").code, 200);
    wait_for("the taints to be lifted", || fleet.api.get(node).json()["spec"].get("taints").is_none().then_some(()));
    fleet.settled("nginx:1", 3);
}

#[test]
fn a_restart_touches_no_pod() {
    let mut fleet = Three::start();
    fleet.create_web(|_| {});
    fleet.settled("nginx:1", 3);
    let before = fleet.list(PODS);
    fleet.0.server.kill();
    fleet.0.server.run();
    fleet.0.api = fleet.server.admin();
    // A node that joins shows that the controllers have begun.
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "late", "labels": {"everynode.dev/simulated": "true"}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    fleet.api.create("/api/v1/nodes", &node);
    fleet.settled("nginx:1", 4);
    let after = fleet.list(PODS);
    for pod in before {
        let now = after.iter().find(|other| other["metadata"]["uid"] == pod["metadata"]["uid"]).expect("the pod is there");
        assert_eq!(now["metadata"]["resourceVersion"], pod["metadata"]["resourceVersion"], "nobody wrote it");
    }
}
