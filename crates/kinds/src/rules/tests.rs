//! Examples for the kinds that are one file each; `golden.rs` has the recorded ones.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::Part;
use super::testing::{create, created, update};

fn check(kind: &str, fields: Value, expect: Expect) {
    expect.assert_eq(&create(kind, fields));
}

fn check_update(kind: &str, old: Value, part: Part, change: impl FnOnce(&mut Value), expect: Expect) {
    expect.assert_eq(&update(kind, old, part, change).1);
}

#[test]
fn config_map_keys_are_checked_and_unique() {
    check(
        "ConfigMap",
        json!({"data": {"..": "x", "a": "y"}, "binaryData": {"a": "eA=="}}),
        expect![[r#"
            data[..]: Invalid value: "..": must not be '..'
            data[a]: Invalid value: "a": duplicate of key present in binaryData
        "#]],
    );
    check("ConfigMap", json!({"data": {"a": "x".repeat(1_048_577)}}), expect![["[]: Too long: may not be more than 1048576 bytes\n"]]);
}

#[test]
fn what_is_immutable_stays() {
    check_update(
        "ConfigMap",
        json!({"immutable": true, "data": {"a": "1"}}),
        Part::Main,
        |new| new["data"]["a"] = json!("2"),
        expect![["data: Forbidden: field is immutable when `immutable` is set\n"]],
    );
}

#[test]
fn secrets_keep_string_data_as_data_and_promise_keys() {
    let secret = created("Secret", json!({"stringData": {"a": "x"}, "data": {"a": "eQ==", "b": "eg=="}}));
    expect![[r#"{"a":"eA==","b":"eg=="} "Opaque""#]].assert_eq(&format!("{} {}", secret["data"], secret["type"]));
    check(
        "Secret",
        json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "[]"}}),
        expect![[r#"
            data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": json: cannot unmarshal array into Go value of type map[string]interface {}
        "#]],
    );
    check(
        "Secret",
        json!({"type": "kubernetes.io/basic-auth"}),
        expect![[r#"
            data[username]: Required value
            data[password]: Required value
        "#]],
    );
    check_update(
        "Secret",
        json!({}),
        Part::Main,
        |new| new["type"] = json!("x"),
        expect![[r#"
            type: Invalid value: "x": field is immutable
        "#]],
    );
}

#[test]
fn service_accounts_keep_names_of_secrets_only() {
    let account = created("ServiceAccount", json!({"secrets": [{"name": "s", "namespace": "other"}]}));
    expect![[r#"[{"name":"s"}]"#]].assert_eq(&account["secrets"].to_string());
}

#[test]
fn controller_revisions_keep_their_data() {
    check(
        "ControllerRevision",
        json!({"revision": -1}),
        expect![[r#"
            data: Required value: data is mandatory
            revision: Invalid value: -1: must be greater than or equal to 0
        "#]],
    );
    check_update(
        "ControllerRevision",
        json!({"revision": 1, "data": {"spec": {}}}),
        Part::Main,
        |new| new["data"] = json!({"x": 1}),
        expect![[r#"
            data: Invalid value: {"x":1}: field is immutable
        "#]],
    );
}

#[test]
fn namespaces_have_their_name_as_label_and_a_finalizer() {
    let namespace = created("Namespace", json!({"status": {"phase": "Terminating"}}));
    expect![[r#"{"kubernetes.io/metadata.name":"a"} {"finalizers":["kubernetes"]} {"phase":"Active"}"#]]
        .assert_eq(&format!("{} {} {}", namespace["metadata"]["labels"], namespace["spec"], namespace["status"]));
    check_update(
        "Namespace",
        json!({}),
        Part::Status,
        |new| new["status"]["phase"] = json!("Terminating"),
        expect![[r#"
            status.Phase: Invalid value: "Terminating": may only be 'Active' if `deletionTimestamp` is empty
        "#]],
    );
    check_update(
        "Namespace",
        json!({}),
        Part::Finalize,
        |new| new["spec"]["finalizers"] = json!(["x"]),
        expect![[r#"
            spec.finalizers[0]: Invalid value: "x": name is neither a standard finalizer name nor is it fully qualified
        "#]],
    );
    let (kept, _) = update("Namespace", json!({}), Part::Main, |new| new["spec"] = json!({}));
    assert_eq!(kept["spec"], json!({"finalizers": ["kubernetes"]}));
}

#[test]
fn nodes_are_checked() {
    check(
        "Node",
        json!({
            "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.1.0/24"], "taints": [{"key": "a", "effect": "No"}]},
            "status": {"capacity": {"pods": "1500m"}},
        }),
        expect![[r#"
            metadata.taints[0].effect: Unsupported value: "No": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
            status.capacity.pods: Invalid value: "1500m": must be an integer
            status.allocatable.pods: Invalid value: "1500m": must be an integer
        "#]],
    );
    check(
        "Node",
        json!({"spec": {"podCIDRs": ["10.0.0.0/24", "10.0.0.0/24"]}}),
        expect![[r#"
            spec.podCIDRs: Invalid value: ["10.0.0.0/24","10.0.0.0/24"]: may specify no more than one CIDR for each IP family
            spec.podCIDRs[1]: Duplicate value: "10.0.0.0/24"
        "#]],
    );
    check_update(
        "Node",
        json!({"spec": {"podCIDR": "10.0.0.0/24", "providerID": "a"}}),
        Part::Main,
        |new| new["spec"] = json!({"podCIDR": "10.0.1.0/24", "providerID": "b"}),
        expect![[r#"
            spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid
            spec.providerID: Forbidden: node updates may not change providerID except from "" to valid
        "#]],
    );
}

#[test]
fn a_bad_label_of_a_changed_node_is_told_four_times() {
    let (_, errors) = update("Node", json!({}), Part::Main, |new| new["metadata"]["labels"] = json!({"a": "b c"}));
    assert_eq!(errors.matches("metadata.labels: Invalid value: \"b c\"").count(), 4);
}
