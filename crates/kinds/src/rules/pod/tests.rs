//! Example tests, one rule each.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::rules::testing::{create, created, update};

fn pod(spec: Value) -> Value {
    let mut spec = spec;
    spec.as_object_mut().unwrap().entry("containers").or_insert_with(|| json!([{"name": "c", "image": "nginx:1.27"}]));
    json!({"spec": spec})
}

fn container(fields: Value) -> Value {
    let mut container = fields;
    container["name"] = json!("c");
    container["image"] = json!("i");
    json!({"containers": [container]})
}

fn check(spec: Value, expect: Expect) {
    expect.assert_eq(&create("Pod", pod(spec)));
}

fn check_update(spec: Value, change: impl FnOnce(&mut Value), expect: Expect) {
    expect.assert_eq(&update("Pod", pod(spec), Part::Main, |new| change(&mut new["spec"])).1);
}

#[test]
fn volumes_have_one_source_and_a_name() {
    check(
        json!({"volumes": [
            {"name": "A", "emptyDir": {}},
            {"name": "b", "configMap": {}, "hostPath": {"path": "/x", "type": "Dir"}},
            {"name": "c", "projected": {"sources": [{"serviceAccountToken": {"path": "/t", "expirationSeconds": 1}}]}},
            {"name": "d", "downwardAPI": {"items": [{"path": "..x", "resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}]}},
        ]}),
        expect![[r#"
            spec.volumes[0].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.volumes[1].hostPath.type: Unsupported value: "Dir": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"
            spec.volumes[1].configMap: Forbidden: may not specify more than 1 volume type
            spec.volumes[2].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes
            spec.volumes[2].projected.path: Invalid value: "/t": must be a relative path
            spec.volumes[3].downwardAPI.path: Invalid value: "..x": must not start with '..'
            spec.volumes[3].downwardAPI.resourceFieldRef.containerName: Required value
            spec.volumes[3].downwardAPI.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource
            spec.volumes[2].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set
        "#]],
    );
}

#[test]
fn probes_have_one_action() {
    check(
        container(json!({
            "livenessProbe": {"exec": {"command": ["true"]}, "grpc": {"port": 80}},
            "readinessProbe": {"tcpSocket": {"port": 0}},
            "startupProbe": {"httpGet": {"port": "http", "scheme": "X"}, "periodSeconds": -1},
        })),
        expect![[r#"
            spec.containers[0].livenessProbe.grpc: Forbidden: may not specify more than 1 handler type
            spec.containers[0].readinessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive
            spec.containers[0].startupProbe.httpGet.scheme: Unsupported value: "X": supported values: "HTTP", "HTTPS"
            spec.containers[0].startupProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0
        "#]],
    );
    check(
        container(json!({"livenessProbe": {}, "readinessProbe": {"grpc": {"port": 70000}}})),
        expect![[r#"
        spec.containers[0].livenessProbe: Required value: must specify a handler type
        spec.containers[0].readinessProbe.grpc.port: Invalid value: 70000: must be between 1 and 65535, inclusive
    "#]],
    );
}

#[test]
fn mounts_and_devices_need_volumes() {
    let mut spec = container(json!({
        "volumeMounts": [{"name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional", "recursiveReadOnly": "Enabled"}, {"name": "w", "mountPath": "/a"}],
        "volumeDevices": [{"name": "v", "devicePath": "/../x"}],
    }));
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    check(
        spec,
        expect![[r#"
            spec.containers[0].volumeMounts[0].name: Invalid value: "v": must not already exist in volumeDevices
            spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers
            spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true
            spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not specified
            spec.containers[0].volumeMounts[1].name: Not found: "w"
            spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique
            spec.containers[0].volumeDevices[0].name: Invalid value: "v": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode
            spec.containers[0].volumeDevices[0].devicePath: Invalid value: "/../x": can not contain backsteps ('..')
            spec.containers[0].volumeDevices[0].name: Invalid value: "v": must not already exist in volumeMounts
        "#]],
    );
}

#[test]
fn variables_come_from_one_place() {
    check(
        container(json!({"env": [
            {"name": "A=", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}},
            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a b']"}, "fileKeyRef": {"key": "k", "path": "/p", "volumeName": "v"}}},
        ]})),
        expect![[r#"
            spec.containers[0].env[0].name: Invalid value: "A=": a valid environment variable name must consist only of printable ASCII characters other than '='
            spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"
            spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: "spec.x": error converting fieldPath: field label not supported: spec.x
            spec.containers[0].env[2].valueFrom.fieldRef: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.containers[0].env[2].valueFrom.fileKeyRef.path: Invalid value: "/p": must be a relative path
            spec.containers[0].env[2].valueFrom: Invalid value: "": may not have more than one field specified at a time
        "#]],
    );
}

#[test]
fn resources_fit() {
    check(
        container(json!({"resources": {
            "limits": {"hugepages-2Mi": "3Mi", "x.io/gpu": "1500m", "a/b/c": "1"},
            "requests": {"memory": "-1", "x.io/gpu": "1"},
        }})),
        expect![[r#"
            spec.containers[0].resources.limits[a/b/c]: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
            spec.containers[0].resources.limits[a/b/c]: Invalid value: "a/b/c": doesn't follow extended resource name standard
            spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi
            spec.containers[0].resources.limits[x.io/gpu]: Invalid value: "1500m": must be an integer
            spec.containers[0].resources.requests[a/b/c]: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
            spec.containers[0].resources.requests[a/b/c]: Invalid value: "a/b/c": doesn't follow extended resource name standard
            spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi
            spec.containers[0].resources.requests[memory]: Invalid value: "-1": must be greater than or equal to 0
            spec.containers[0].resources.requests: Invalid value: "1": must be equal to x.io/gpu limit of 1500m
        "#]],
    );
    check(
        json!({
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1", "ephemeral-storage": "1Gi"}},
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}}],
        }),
        expect![[r#"
            spec.resources.limits[ephemeral-storage]: Unsupported value: "ephemeral-storage": supported values: "cpu", "hugepages-", "memory"
            spec.resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container requests of 2
            spec.resources.containers[0][cpu].limits: Invalid value: "2": must be less than or equal to pod limits of 1
        "#]],
    );
}

#[test]
fn a_pod_is_defaulted_beyond_its_template() {
    let spec = &created(
        "Pod",
        pod(json!({"hostNetwork": true, "containers": [
            {"name": "c", "image": "i", "resources": {"limits": {"cpu": "0.5"}}, "ports": [{"containerPort": 80}]},
        ]})),
    )["spec"];
    expect![[r#"{"limits":{"cpu":"500m"},"requests":{"cpu":"500m"}} [{"containerPort":80,"hostPort":80,"protocol":"TCP"}]"#]]
        .assert_eq(&format!("{} {}", spec["containers"][0]["resources"], spec["containers"][0]["ports"]));
    let class = |resources: Value| created("Pod", pod(container(json!({"resources": resources}))))["status"]["qosClass"].clone();
    assert_eq!(class(json!({})), "BestEffort");
    assert_eq!(class(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
    assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
}

#[test]
fn gated_pods_are_not_scheduled() {
    let gated = created("Pod", pod(json!({"schedulingGates": [{"name": "x.io/g"}]})));
    assert_eq!(gated["status"]["conditions"][0]["reason"], "SchedulingGated");
    check_update(
        json!({"schedulingGates": [{"name": "x.io/g"}], "nodeSelector": {"a": "b"}}),
        |spec| {
            spec["schedulingGates"] = json!([{"name": "x.io/h"}]);
            spec["nodeSelector"] = json!({"c": "d"});
        },
        expect![[r#"
            spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'x.io/h'
            spec.nodeSelector: Invalid value: {"c":"d"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)
        "#]],
    );
}

#[test]
fn little_of_a_pod_may_change() {
    check_update(
        json!({"tolerations": [{"key": "a", "operator": "Exists"}]}),
        |spec| {
            spec["containers"][0]["image"] = json!("other");
            spec["activeDeadlineSeconds"] = json!(10);
            spec["tolerations"] = json!([{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}]);
        },
        expect![[""]],
    );
    check_update(
        json!({"activeDeadlineSeconds": 10}),
        |spec| spec["activeDeadlineSeconds"] = json!(20),
        expect![["spec.activeDeadlineSeconds: Invalid value: 20: must be less than or equal to previous value\n"]],
    );
    check_update(
        json!({"tolerations": [{"key": "a", "operator": "Exists"}]}),
        |spec| spec["tolerations"] = json!([]),
        expect![["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds\n"]],
    );
    check_update(json!({"terminationGracePeriodSeconds": -1}), |spec| spec["terminationGracePeriodSeconds"] = json!(1), expect![[""]]);
    check_update(
        json!({}),
        |spec| spec["containers"][0]["command"] = json!(["x"]),
        expect![[r#"
            spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
            @@ -5,7 +5,9 @@
               {
                "Name": "c",
                "Image": "nginx:1.27",
            -   "Command": null,
            +   "Command": [
            +    "x"
            +   ],
                "Args": null,
                "WorkingDir": "",
                "Ports": null,

        "#]],
    );
    check_update(
        json!({}),
        |spec| spec["terminationGracePeriodSeconds"] = json!(5),
        expect![[r#"
            spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
            @@ -36,7 +36,7 @@
              ],
              "EphemeralContainers": null,
              "RestartPolicy": "Always",
            - "TerminationGracePeriodSeconds": 30,
            + "TerminationGracePeriodSeconds": 5,
              "ActiveDeadlineSeconds": null,
              "DNSPolicy": "ClusterFirst",
              "NodeSelector": null,

        "#]],
    );
}

#[test]
fn generations_count_changes_of_the_spec() {
    let generation = |part, change: fn(&mut Value)| update("Pod", pod(json!({})), part, change).0["metadata"]["generation"].clone();
    assert_eq!(generation(Part::Main, |pod| pod["metadata"]["labels"] = json!({"a": "b"})), 1);
    assert_eq!(generation(Part::Main, |pod| pod["spec"]["activeDeadlineSeconds"] = json!(9)), 2);
    assert_eq!(generation(Part::Status, |pod| pod["spec"]["activeDeadlineSeconds"] = json!(9)), 1);
}

#[test]
fn the_status_of_a_pod() {
    let (new, errors) = update("Pod", pod(json!({})), Part::Status, |pod| {
        pod["spec"]["hostNetwork"] = json!(true);
        pod["status"] = json!({
            "phase": "Running",
            "conditions": [{"type": "a b", "status": "True"}],
            "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}],
        });
    });
    expect![[r#"
        metadata.conditions[0].Type: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
        status.podIPs: Invalid value: [{"IP":"10.0.0.1"},{"IP":"10.0.0.2"}]: may specify no more than one IP for each IP family
    "#]]
    .assert_eq(&errors);
    assert_eq!(new["status"]["qosClass"], "BestEffort");
    assert!(new["spec"].get("hostNetwork").is_none());
}

#[test]
fn ephemeral_containers_are_added_by_their_own_path() {
    let add = |part| {
        update("Pod", pod(json!({})), part, |pod| {
            pod["spec"]["hostNetwork"] = json!(true);
            pod["spec"]["ephemeralContainers"] =
                json!([{"name": "c", "image": "i", "targetContainerName": "x", "ports": [{"containerPort": 1}]}]);
        })
    };
    let (new, errors) = add(Part::EphemeralContainers);
    expect![[r#"
        spec.ephemeralContainers[0].name: Duplicate value: "c"
        spec.ephemeralContainers[0].targetContainerName: Not found: "x"
        spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container
    "#]]
    .assert_eq(&errors);
    assert_eq!((new["spec"].get("hostNetwork"), &new["metadata"]["generation"]), (None, &json!(2)));
}

#[test]
fn only_cpu_and_memory_are_resized() {
    let resources = json!({"resources": {"requests": {"cpu": "1"}}});
    let resize = |change: fn(&mut Value)| {
        update("Pod", pod(container(resources.clone())), Part::Resize, |pod| change(&mut pod["spec"]["containers"][0])).1
    };
    assert_eq!(resize(|container| container["resources"]["requests"]["cpu"] = json!("2")), "");
    expect![[r#"
        spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed
        spec: Invalid value: "Burstable": Pod QOS Class may not change as a result of resizing
    "#]]
    .assert_eq(&{
        let mut lines: Vec<String> =
            resize(|container| container["resources"] = json!({})).lines().map(|line| format!("{line}\n")).collect();
        lines.sort();
        lines.concat()
    });
}

#[test]
fn security_contexts() {
    let mut spec = container(json!({"securityContext": {
        "privileged": true,
        "allowPrivilegeEscalation": false,
        "runAsUser": -1,
        "appArmorProfile": {"type": "Localhost", "localhostProfile": " x"},
        "seccompProfile": {"type": "Unconfined", "localhostProfile": "x"},
    }}));
    spec["securityContext"] = json!({"sysctls": [{"name": "net/ipv4/a"}], "fsGroupChangePolicy": "X"});
    spec["hostNetwork"] = json!(true);
    spec["os"] = json!({"name": "windows"});
    check(
        spec,
        expect![[r#"
            spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 4294967295, inclusive
            spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: {"Type":"Unconfined","LocalhostProfile":"x"}: can only be set when seccomp type is Localhost
            spec.containers[0].securityContext: Invalid value: {"Capabilities":null,"Privileged":true,"SELinuxOptions":null,"WindowsOptions":null,"RunAsUser":-1,"RunAsGroup":null,"RunAsNonRoot":null,"ReadOnlyRootFilesystem":null,"AllowPrivilegeEscalation":false,"ProcMount":null,"SeccompProfile":{"Type":"Unconfined","LocalhostProfile":"x"},"AppArmorProfile":{"Type":"Localhost","LocalhostProfile":" x"}}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true
            spec.containers[0].securityContext.appArmorProfile.localhostProfile: Invalid value: " x": must not be padded with whitespace
            spec.securityContext.sysctls[0].name: Invalid value: "net/ipv4/a": may not be specified when 'hostNetwork' is true
            spec.securityContext.fsGroupChangePolicy: Unsupported value: "X": supported values: "Always", "OnRootMismatch"
            spec.securityContext.fsGroupChangePolicy: Forbidden: cannot be set for a windows pod
            spec.securityContext.sysctls: Forbidden: cannot be set for a windows pod
            spec.containers[0].securityContext.appArmorProfile: Forbidden: cannot be set for a windows pod
            spec.containers[0].securityContext.seccompProfile: Forbidden: cannot be set for a windows pod
            spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod
            spec.containers[0].securityContext.allowPrivilegeEscalation: Forbidden: cannot be set for a windows pod
            spec.containers[0].securityContext.runAsUser: Forbidden: cannot be set for a windows pod
        "#]],
    );
}

#[test]
fn affinity_and_spread() {
    check(
        json!({
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.uid", "operator": "Exists"}], "matchExpressions": [{"key": "a", "operator": "Near"}]},
                ]}},
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"matchLabelKeys": ["a"], "topologyKey": ""}]},
            },
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 2},
                {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway", "matchLabelKeys": ["b"], "labelSelector": {"matchLabels": {"b": "c"}}},
            ],
        }),
        expect![[r#"
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator: Invalid value: "Near": not a valid selector operator
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].operator: Invalid value: "Exists": not a valid selector operator
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].key: Invalid value: "metadata.uid": not a valid field selector key
            spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set
            spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty
            spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must be non-empty
            spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: "{z, ScheduleAnyway}"
            spec.topologySpreadConstraints[0].minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway
            spec.topologySpreadConstraints[1].matchLabelKeys[0]: Invalid value: "b": exists in both matchLabelKeys and labelSelector
        "#]],
    );
}

#[test]
fn fields_behind_gates_are_dropped() {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {
        "schedulingGroup": {"podGroupName": "g"},
        "containers": [{"name": "c", "lifecycle": {"stopSignal": "SIGUSR1", "preStop": {"sleep": {"seconds": 1}}}}],
        "initContainers": [{"name": "i", "restartPolicy": "Always", "lifecycle": {"stopSignal": "SIGUSR1"}}],
    }});
    super::prepare::prepare_create(&mut pod);
    assert_eq!(pod["spec"].get("schedulingGroup"), None);
    assert_eq!(pod["spec"]["containers"][0]["lifecycle"], json!({"preStop": {"sleep": {"seconds": 1}}}));
    assert_eq!(pod["spec"]["initContainers"][0]["lifecycle"], json!({}));
}
