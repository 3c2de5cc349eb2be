//! One example for each check, with Kubernetes' words; versions; labels.

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

fn asked(text: &str) -> LevelVersion {
    let (level, version) = text.split_once(':').unwrap_or((text, "latest"));
    let labels = json!({"pod-security.kubernetes.io/enforce": level, "pod-security.kubernetes.io/enforce-version": version});
    let (policy, errors) = policy_of(&labels);
    assert_eq!(errors, []);
    policy.enforce
}

fn check(level: &str, spec: Value, expected: Expect) {
    expected.assert_eq(&describe(&violations(asked(level), &json!({}), &spec)));
}

/// A pod of one container with this security context.
fn container(context: Value) -> Value {
    json!({"containers": [{"name": "c", "securityContext": context}]})
}

#[test]
fn a_plain_pod_fails_all_that_the_level_restricted_wants_to_be_set() {
    check(
        "restricted",
        container(json!(null)),
        expect![[
            r#"allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#
        ]],
    );
    check("baseline", container(json!(null)), expect![""]);
    check("privileged", container(json!({"privileged": true})), expect![""]);
}

#[test]
fn a_careful_pod_keeps_to_the_level_restricted() {
    let spec = json!({
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        }}],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "projected": {"sources": []}}],
    });
    check("restricted", spec, expect![""]);
}

#[test]
fn the_level_baseline_refuses_what_opens_the_node() {
    check(
        "baseline",
        container(json!({"privileged": true})),
        expect![[r#"privileged (container "c" must not set securityContext.privileged=true)"#]],
    );
    check("baseline", json!({"hostNetwork": true, "hostPID": true}), expect!["host namespaces (hostNetwork=true, hostPID=true)"]);
    check(
        "baseline",
        json!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "hostPath": {"path": "/"}}]}),
        expect![[r#"hostPath volumes (volumes "a", "b")"#]],
    );
    check(
        "baseline",
        json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 0}]}, {"name": "b", "ports": [{"hostPort": 8080}]}]}),
        expect![[r#"hostPort (containers "a", "b" use hostPorts 80, 8080)"#]],
    );
    check(
        "baseline",
        container(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"]}})),
        expect![[
            r#"non-default capabilities (container "c" must not include "NET_RAW", "SYS_ADMIN" in securityContext.capabilities.add)"#
        ]],
    );
    check(
        "baseline",
        container(json!({"procMount": "Unmasked"})),
        expect![[r#"procMount (container "c" must not set securityContext.procMount to "Unmasked")"#]],
    );
    check(
        "baseline",
        json!({"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u"}}}),
        expect![[r#"seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "spc_t"; user may not be set)"#]],
    );
    check(
        "baseline",
        json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
        expect![[r#"seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")"#]],
    );
    check(
        "baseline",
        json!({"securityContext": {"sysctls": [{"name": "kernel.core_pattern"}, {"name": "net.ipv4.tcp_rmem"}]}}),
        expect!["forbidden sysctls (kernel.core_pattern)"],
    );
    check(
        "baseline",
        container(json!({"appArmorProfile": {"type": "Unconfined"}})),
        expect![[r#"forbidden AppArmor profile (container "c" must not set AppArmor profile type to "Unconfined")"#]],
    );
    check(
        "baseline",
        container(json!({"windowsOptions": {"hostProcess": true}})),
        expect![[r#"hostProcess (container "c" must not set securityContext.windowsOptions.hostProcess=true)"#]],
    );
    check(
        "baseline",
        json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "169.254.169.254"}}}]}),
        expect![[r#"probe or lifecycle host (container "c" uses probe or lifecycle host "169.254.169.254")"#]],
    );
}

#[test]
fn the_level_restricted_replaces_checks_of_the_level_baseline() {
    let spec = json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {}}]});
    check("restricted", spec, expect![[r#"restricted volume types (volumes "v", "n" use restricted volume types "hostPath", "nfs")"#]]);
    let root = json!({"securityContext": {"runAsUser": 0, "runAsNonRoot": false}});
    check(
        "restricted",
        root,
        expect!["runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false), runAsUser=0 (pod must not set runAsUser=0)"],
    );
}

#[test]
fn init_and_ephemeral_containers_count() {
    let bad = json!({"privileged": true});
    check(
        "baseline",
        json!({"initContainers": [{"name": "i", "securityContext": bad}], "ephemeralContainers": [{"name": "e", "securityContext": bad}]}),
        expect![[r#"privileged (containers "i", "e" must not set securityContext.privileged=true)"#]],
    );
}

#[test]
fn a_version_has_the_checks_of_its_time() {
    let probe = json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "x"}}}]});
    check("baseline:v1.33", probe.clone(), expect![""]);
    check("baseline:v1.99", probe, expect![[r#"probe or lifecycle host (container "c" uses probe or lifecycle host "x")"#]]);
    let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
    check("baseline:v1.31", sysctl, expect!["forbidden sysctls (net.ipv4.tcp_rmem)"]);
    let root = json!({"securityContext": {"runAsUser": 0, "runAsNonRoot": true, "seccompProfile": {"type": "Localhost"}}});
    check("restricted:v1.22", root.clone(), expect![""]);
    check("restricted:v1.23", root, expect!["runAsUser=0 (pod must not set runAsUser=0)"]);
    let users = json!({"hostUsers": false, "securityContext": {"runAsUser": 0}, "containers": [{"name": "c", "securityContext": {
        "procMount": "Unmasked", "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "Localhost"},
    }}]});
    check("baseline", users.clone(), expect![""]);
    check("restricted", users, expect![[r#"procMount (container "c" must not set securityContext.procMount to "Unmasked")"#]]);
}

#[test]
fn labels_that_cannot_be_read_enforce_the_strictest_and_warn_of_nothing() {
    let labels = |pairs: &[(&str, &str)]| -> Value {
        pairs
            .iter()
            .map(|(name, value)| (format!("pod-security.kubernetes.io/{name}"), json!(value)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let shown = |pairs: &[(&str, &str)]| {
        let (policy, errors) = policy_of(&labels(pairs));
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        format!("{} {} {} {errors:?}", policy.enforce, policy.audit, policy.warn)
    };
    expect!["privileged:latest privileged:latest privileged:latest []"].assert_eq(&shown(&[]));
    expect!["restricted:v1.30 privileged:latest restricted:v1.30 []"]
        .assert_eq(&shown(&[("enforce", "restricted"), ("enforce-version", "v1.30")]));
    expect!["baseline:latest restricted:latest privileged:latest []"].assert_eq(&shown(&[
        ("enforce", "baseline"),
        ("audit", "restricted"),
        ("warn", "privileged"),
    ]));
    expect![[r#"restricted:latest privileged:latest privileged:latest ["metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted", "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1.01\": must be \"latest\" or \"v1.x\""]"#]]
    .assert_eq(&shown(&[("enforce", "strict"), ("warn-version", "v1.01")]));
}
