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

#[test]
fn roles_are_checked_and_bindings_keep_theirs() {
    check(
        "Role",
        json!({"rules": [{"nonResourceURLs": ["/x"], "resources": ["pods"]}, {"verbs": ["get"]}]}),
        expect![[r#"
            rules[0].verbs: Required value: verbs must contain at least one value
            rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs
            rules[0].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and non-resource URLs
            rules[1].apiGroups: Required value: resource rules must supply at least one api group
            rules[1].resources: Required value: resource rules must supply at least one resource
        "#]],
    );
    check(
        "RoleBinding",
        json!({"roleRef": {"kind": "Robot", "name": "a/b"}, "subjects": [{"kind": "User"}, {"kind": "ServiceAccount", "name": "A", "apiGroup": "x"}]}),
        expect![[r#"
            roleRef.kind: Unsupported value: "Robot": supported values: "Role", "ClusterRole"
            roleRef.name: Invalid value: "a/b": may not contain '/'
            subjects[0].name: Required value
            subjects[1].name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            subjects[1].apiGroup: Unsupported value: "x": supported values: ""
        "#]],
    );
    check(
        "ClusterRole",
        json!({"aggregationRule": {}}),
        expect![[r#"
        aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil
    "#]],
    );
}

#[test]
fn disruption_budgets_count_generations_and_check_conditions() {
    check(
        "PodDisruptionBudget",
        json!({"spec": {"minAvailable": "150%", "maxUnavailable": 1, "unhealthyPodEvictionPolicy": "Never"}}),
        expect![[r#"
            spec: Invalid value: {"MinAvailable":"150%","Selector":null,"MaxUnavailable":1,"UnhealthyPodEvictionPolicy":"Never"}: minAvailable and maxUnavailable cannot be both set
            spec.minAvailable: Invalid value: "150%": must not be greater than 100%
            spec.unhealthyPodEvictionPolicy: Unsupported value: "Never": supported values: "AlwaysAllow", "IfHealthyBudget"
        "#]],
    );
    let (new, _) = update("PodDisruptionBudget", json!({"spec": {"minAvailable": 1}}), Part::Main, |new| new["spec"] = json!({}));
    assert_eq!(new["metadata"]["generation"], 2);
    assert_eq!(new["status"], json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}));
    check_update(
        "PodDisruptionBudget",
        json!({}),
        Part::Status,
        |new| new["status"] = json!({"currentHealthy": -1, "conditions": [{"type": "A", "status": "Maybe", "reason": "not so"}]}),
        expect![[r#"
            status.conditions[0].status: Unsupported value: "Maybe": supported values: "False", "True", "Unknown"
            status.conditions[0].lastTransitionTime: Required value: must be set
            status.conditions[0].reason: Invalid value: "not so": a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')
            status.currentHealthy: Invalid value: -1: must be greater than or equal to 0
        "#]],
    );
}

#[test]
fn priority_classes_of_the_system_are_known() {
    let class = created("PriorityClass", json!({}));
    assert_eq!(
        (&class["value"], &class["preemptionPolicy"], &class["metadata"]["generation"]),
        (&json!(0), &json!("PreemptLowerPriority"), &json!(1))
    );
    check(
        "PriorityClass",
        json!({"metadata": {"name": "system-node-critical"}, "value": 1, "preemptionPolicy": "x"}),
        expect![[r#"
        metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: value of system-node-critical PriorityClass must be 2000001000
        preemptionPolicy: Unsupported value: "x": supported values: "PreemptLowerPriority", "Never"
    "#]],
    );
}

#[test]
fn leases_last_some_time() {
    check(
        "Lease",
        json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}}),
        expect![[r#"
        spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0
        spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0
    "#]],
    );
    assert_eq!(created("Lease", json!({"spec": {"strategy": "x", "preferredHolder": "y"}}))["spec"], json!({}));
}

#[test]
fn limit_ranges_fill_in_what_follows() {
    let limits = created("LimitRange", json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}}));
    expect![[
        r#"{"default":{"cpu":"2"},"defaultRequest":{"cpu":"2","memory":"1Mi"},"max":{"cpu":"2"},"min":{"memory":"1Mi"},"type":"Container"}"#
    ]]
    .assert_eq(&limits["spec"]["limits"][0].to_string());
    check(
        "LimitRange",
        json!({"spec": {"limits": [
            {"type": "Pod", "default": {"cpu": "1"}, "min": {"cpu": "3"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "500m"}},
            {"type": "Pod"}, {"type": "Other"}, {"type": "PersistentVolumeClaim"},
        ]}}),
        expect![[r#"
            spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'
            spec.limits[0].min[cpu]: Invalid value: "3": min value 3 is greater than max value 2
            spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "500m": ratio 500m is less than 1
            spec.limits[1].type: Duplicate value: "Pod"
            spec.limits[2].type: Invalid value: "Other": must be a standard limit type or fully qualified
            spec.limits[3].limits: Required value: either minimum or maximum storage value is required, but neither was provided
        "#]],
    );
}

#[test]
fn quotas_have_fitting_scopes() {
    check(
        "ResourceQuota",
        json!({"spec": {"hard": {"pods": "-1", "services": "1", "limit.cpu": "1"}, "scopes": ["BestEffort", "NotBestEffort", "x"]}}),
        expect![[r#"
            spec.hard[limit.cpu]: Invalid value: "limit.cpu": must be a standard resource type or fully qualified
            spec.hard[limit.cpu]: Invalid value: "limit.cpu": must be a standard resource for quota
            spec.hard[pods]: Invalid value: "-1": must be greater than or equal to 0
            spec.scopes: Invalid value: ["BestEffort","NotBestEffort","x"]: unsupported scope applied to resource
            spec.scopes: Invalid value: ["BestEffort","NotBestEffort","x"]: unsupported scope applied to resource
            spec.scopes: Invalid value: ["BestEffort","NotBestEffort","x"]: unsupported scope
            spec.scopes: Invalid value: ["BestEffort","NotBestEffort","x"]: conflicting scopes
        "#]],
    );
    check_update(
        "ResourceQuota",
        json!({"spec": {"scopes": ["Terminating"]}}),
        Part::Main,
        |new| new["spec"] = json!({}),
        expect![[r#"
        spec.scopes: Invalid value: null: field is immutable
    "#]],
    );
}

#[test]
fn endpoints_point_somewhere() {
    check(
        "Endpoints",
        json!({"subsets": [{"addresses": [{"ip": "127.0.0.1", "hostname": "A_"}], "ports": [{"port": 1}, {"port": 0, "name": "b"}]}, {}]}),
        expect![[r#"
            subsets[0].addresses[0].hostname: Invalid value: "A_": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            subsets[0].addresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)
            subsets[0].ports[0].name: Required value
            subsets[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive
            subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`
        "#]],
    );
    check(
        "EndpointSlice",
        json!({"addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1", "1.2.3.4"]}, {}], "ports": [{"name": "a"}, {"name": "a", "protocol": "x"}]}),
        expect![[r#"
            endpoints[0].addresses[0]: Invalid value: "fd00::1": must be a valid IPv4 address
            endpoints[1].addresses: Required value: must contain at least 1 address
            ports[1].name: Duplicate value: "a"
            ports[1].protocol: Unsupported value: "x": supported values: "SCTP", "TCP", "UDP"
        "#]],
    );
    let slice = json!({"addressType": "IPv4"});
    let generation =
        |change: fn(&mut Value)| update("EndpointSlice", slice.clone(), Part::Main, change).0["metadata"]["generation"].clone();
    assert_eq!(generation(|new| new["metadata"]["annotations"] = json!({"a": "b"})), 1);
    assert_eq!(generation(|new| new["metadata"]["labels"] = json!({"a": "b"})), 2);
}

#[test]
fn events_have_two_forms_and_the_new_one_is_strict() {
    use super::Rules as _;
    use super::event::{NEW_RULES, NEW_VIEW};

    let old =
        created("Event", json!({"involvedObject": {"kind": "Pod", "namespace": "d"}, "message": "m", "count": 2, "source": {"host": "h"}}));
    let new = (NEW_VIEW.from_stored)(old.clone());
    expect![[r#"{"deprecatedCount":2,"deprecatedFirstTimestamp":null,"deprecatedLastTimestamp":null,"deprecatedSource":{"host":"h"},"eventTime":null,"metadata":{"name":"a","namespace":"d"},"note":"m","regarding":{"kind":"Pod","namespace":"d"}}"#]]
        .assert_eq(&new.to_string());
    assert_eq!((NEW_VIEW.to_stored)(new), old);
    let errors: String = NEW_RULES.validate_create(&old).iter().map(|error| format!("{error}\n")).collect();
    expect![[r#"
        eventTime: Required value
        type: Invalid value: "": has invalid value: 
        count: Invalid value: "": needs to be unset
        source: Invalid value: "": needs to be unset
    "#]]
    .assert_eq(&errors);
}

#[test]
fn signing_requests_are_decided_once() {
    check(
        "CertificateSigningRequest",
        json!({"spec": {"request": "", "signerName": "x/Y", "usages": ["any", "any", "fun"], "expirationSeconds": 1}}),
        expect![[r#"
            spec.request: Invalid value: "": PEM block type must be CERTIFICATE REQUEST
            spec.usages[2]: Unsupported value: "fun": supported values: "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment", "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing", "timestamping"
            spec.usages[1]: Duplicate value: "any"
            spec.signerName: Invalid value: "x": should be a domain with at least two segments separated by dots
            spec.signerName: Invalid value: "Y": validating label "Y": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.expirationSeconds: Invalid value: 1: may not specify a duration less than 600 seconds (10 minutes)
        "#]],
    );
    let pem = "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n";
    let request = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
    let old = json!({"spec": {"request": request, "signerName": "a.b/c", "usages": ["any"]}});
    check("CertificateSigningRequest", old.clone(), expect![""]);
    let approve = |new: &mut Value| new["status"]["conditions"] = json!([{"type": "Approved", "status": "True"}]);
    check_update("CertificateSigningRequest", old.clone(), Part::Approval, approve, expect![""]);
    check_update(
        "CertificateSigningRequest",
        old,
        Part::Status,
        approve,
        expect![[r#"
        status.conditions: Forbidden: updates may not add a condition of type "Approved"
    "#]],
    );
}

#[test]
fn reviews_ask_about_one_thing() {
    check(
        "SubjectAccessReview",
        json!({"spec": {}, "metadata": {"name": "a"}}),
        expect![[r#"
        spec.resourceAttributes: Invalid value: "null": exactly one of nonResourceAttributes or resourceAttributes must be specified
        spec.user: Invalid value: "": at least one of user or group must be specified
        metadata: Invalid value: {"name":"a"}: must be empty
    "#]],
    );
    let mut request = json!({"spec": {"expirationSeconds": 10}});
    super::Rules::default(&super::review::TOKEN_REQUEST, &mut request);
    let errors = super::Rules::validate_create(&super::review::TOKEN_REQUEST, &request);
    assert_eq!(errors[0].to_string(), "spec.expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes");
}

#[test]
fn runtime_classes_keep_their_handler() {
    check(
        "RuntimeClass",
        json!({"handler": "A", "overhead": {"podFixed": {"x": "1"}}}),
        expect![[r#"
        handler: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
        overhead.limits[x]: Invalid value: "x": must be a standard resource type or fully qualified
        overhead.limits[x]: Invalid value: "x": must be a standard resource for containers
    "#]],
    );
    check_update(
        "RuntimeClass",
        json!({"handler": "a"}),
        Part::Main,
        |new| new["handler"] = json!("b"),
        expect![[r#"
        handler: Invalid value: "b": field is immutable
    "#]],
    );
}
