//! Example tests, one rule each.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::rules::testing::{create, created, update};

fn daemon_set(change: impl FnOnce(&mut Value)) -> Value {
    let mut set = json!({"spec": {
        "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }});
    change(&mut set);
    set
}

fn check(change: impl FnOnce(&mut Value), expect: Expect) {
    expect.assert_eq(&create("DaemonSet", daemon_set(change)));
}

fn generations(set: &Value) -> String {
    format!("{} {}", set["metadata"]["generation"], template_generation(set))
}

#[test]
fn the_strategy_is_checked() {
    let strategy = |strategy: Value| move |set: &mut Value| set["spec"]["updateStrategy"] = strategy;
    check(strategy(json!({"type": "OnDelete"})), expect![[""]]);
    check(
        strategy(json!({"type": "X", "rollingUpdate": {"maxSurge": "10%"}})),
        expect![[r#"
            spec.updateStrategy: Unsupported value: {"Type":"X","RollingUpdate":{"MaxUnavailable":1,"MaxSurge":"10%"}}: supported values: "RollingUpdate", "OnDelete"
        "#]],
    );
    check(strategy(json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "10%"}})), expect![[""]]);
    check(
        strategy(json!({"rollingUpdate": {"maxUnavailable": "-1%", "maxSurge": -2}})),
        expect![[r#"
            spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: "-1%": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')
            spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: -2: must be greater than or equal to 0
        "#]],
    );
}

#[test]
fn generations_count_changes() {
    assert_eq!(generations(&created("DaemonSet", daemon_set(|_| {}))), "1 1");
    let updated = |part, change: fn(&mut Value)| generations(&update("DaemonSet", daemon_set(|_| {}), part, change).0);
    assert_eq!(updated(Part::Main, |set| set["metadata"]["labels"] = json!({"x": "y"})), "1 1");
    assert_eq!(updated(Part::Main, |set| set["spec"]["minReadySeconds"] = json!(3)), "2 1");
    assert_eq!(updated(Part::Main, |set| set["spec"]["template"]["spec"]["hostNetwork"] = json!(true)), "2 2");
    assert_eq!(updated(Part::Main, |set| set["metadata"]["annotations"] = json!({TEMPLATE_GENERATION: "9"})), "1 1");
    assert_eq!(updated(Part::Status, |set| set["spec"]["minReadySeconds"] = json!(3)), "1 1");
}

#[test]
fn the_selector_is_immutable_and_selects_the_template() {
    let (_, errors) = update("DaemonSet", daemon_set(|_| {}), Part::Main, |set| {
        set["spec"]["selector"]["matchLabels"] = json!({"app": "b"});
    });
    expect![[r#"
        spec.selector: Invalid value: {"matchLabels":{"app":"b"}}: field is immutable
        spec.template.metadata.labels: Invalid value: {"app":"a"}: `selector` does not match template `labels`
    "#]]
    .assert_eq(&errors);
}

#[test]
fn a_selector_that_is_taken_away_shows_as_null() {
    let (_, errors) = update("DaemonSet", daemon_set(|_| {}), Part::Main, |set| set["spec"]["selector"] = Value::Null);
    assert!(errors.starts_with("spec.selector: Invalid value: null: field is immutable\n"), "{errors}");
}

#[test]
fn the_status_counts_from_zero() {
    let (new, errors) = update("DaemonSet", daemon_set(|_| {}), Part::Status, |set| {
        set["spec"]["minReadySeconds"] = json!(7);
        set["status"]["numberReady"] = json!(-1);
    });
    expect![["status.numberReady: Invalid value: -1: must be greater than or equal to 0\n"]].assert_eq(&errors);
    assert!(new["spec"].get("minReadySeconds").is_none());
}

#[test]
fn old_things_are_warned_of() {
    let set = created(
        "DaemonSet",
        daemon_set(|set| {
            let template = &mut set["spec"]["template"];
            template["metadata"]["annotations"] = json!({"scheduler.alpha.kubernetes.io/critical-pod": ""});
            template["spec"]["nodeSelector"] = json!({"beta.kubernetes.io/os": "linux"});
            template["spec"]["terminationGracePeriodSeconds"] = json!(-1);
            template["spec"]["containers"][0]["env"] = json!([{"name": "A"}, {"name": "A", "value": "b"}]);
            template["spec"]["containers"][0]["ports"] =
                json!([{"containerPort": 80, "hostIP": "127.0.0.1"}, {"containerPort": 80, "hostPort": 80}]);
            template["spec"]["hostAliases"] = json!([{"ip": "1.2.3.04"}]);
        }),
    );
    expect![[r#"
        spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead
        spec.template.metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field instead
        spec.template.spec.hostAliases[0].ip: non-standard IP address "1.2.3.04" will be considered invalid in a future Kubernetes release: use "1.2.3.4"
        spec.template.spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply
        spec.template.spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:127.0.0.1}
        spec.template.spec.containers[0].ports[1]: overlapping port definition with spec.template.spec.containers[0].ports[0]
        spec.template.spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"#]]
    .assert_eq(&RULES.warnings_create(&set).join("\n"));
}
