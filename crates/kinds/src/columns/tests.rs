//! Example tests: the table of an object, as kubectl would print it.

use expect_test::{Expect, expect};
use serde_json::Value;

use super::*;
use crate::table::{KINDS, by_kind};
use crate::yaml;

const NOW: &str = "2024-01-02T03:04:05Z";

fn now() -> Timestamp {
    NOW.parse().expect("NOW is a time")
}

fn parse(text: &str) -> Value {
    yaml::parse(text).expect("the test's YAML is right").0.into_value()
}

/// Prints the row of an object, and its conditions.
fn check(group: &str, kind: &str, object: &str, row_out: Expect) {
    let kind = by_kind(group, kind).expect("the kind is in the table");
    let row = row(kind, &parse(object), now());
    let cells: Vec<String> = row["cells"].as_array().expect("cells are a list").iter().map(Value::to_string).collect();
    let conditions = row.get("conditions").map(|conditions| format!("\n{conditions}")).unwrap_or_default();
    row_out.assert_eq(&format!("{}{conditions}", cells.join(" ")));
}

/// Prints READY, STATUS and RESTARTS of a pod with this status; it has containers c and d, an init
/// container i and a sidecar s.
fn check_pod(status: &str, row_out: Expect) {
    let spec = "{containers: [{name: c}, {name: d}], initContainers: [{name: i}, {name: s, restartPolicy: Always}]}";
    let object = parse(&format!("{{metadata: {{name: p}}, spec: {spec}, status: {status}}}"));
    let row = row(by_kind("", "Pod").expect("the kind is in the table"), &object, now());
    let cells: Vec<&str> = (1..4).map(|at| row["cells"][at].as_str().expect("a text")).collect();
    row_out.assert_eq(&cells.join(" "));
}

#[test]
fn every_kind_has_as_many_cells_as_columns() {
    for kind in KINDS.iter().filter(|kind| kind.is_stored()) {
        // A bookmark has next to nothing in it and becomes a row like any other object.
        let row = row(kind, &parse("{metadata: {resourceVersion: '5'}}"), now());
        assert_eq!(row["cells"].as_array().map(Vec::len), definitions(kind).as_array().map(Vec::len), "{kind:?}");
    }
}

#[test]
fn columns_are_defined_in_full() {
    expect![[
        r#"{"description":"Name of the object, unique in its namespace.","format":"name","name":"Name","priority":0,"type":"string"}"#
    ]]
    .assert_eq(&serde_json::to_string(&definitions(by_kind("", "Pod").expect("pods are served"))[0]).expect("JSON can be written"));
}

#[test]
fn spans_get_coarser_with_length() {
    let day = 86_400;
    let spans =
        [-2, -1, 0, 119, 120, 150, 599, 600, 10_799, 10_800, 12_660, 28_800, 2 * day - 1, 2 * day, 3 * day + 14_400, 8 * day, 729 * day];
    let longer = [730 * day, 731 * day, 8 * 365 * day];
    let texts: Vec<String> = spans.into_iter().chain(longer).map(age::human).collect();
    expect!["<invalid> 0s 0s 119s 2m 2m30s 9m59s 10m 179m 3h 3h31m 8h 47h 2d 3d4h 8d 729d 2y 2y1d 8y"].assert_eq(&texts.join(" "));
}

#[test]
fn a_running_pod() {
    let pod = "
metadata: {name: p, creationTimestamp: 2024-01-02T02:04:05Z}
spec: {nodeName: n1, containers: [{name: c}], readinessGates: [{conditionType: a}, {conditionType: b}]}
status:
  phase: Running
  podIP: 10.0.0.1
  podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]
  conditions: [{type: a, status: 'True'}, {type: b, status: 'False'}]
  containerStatuses: [{name: c, ready: true, restartCount: 0, state: {running: {}}}]
";
    check("", "Pod", pod, expect![[r#""p" "1/1" "Running" "0" "60m" "10.0.0.1" "n1" "<none>" "1/2""#]]);
}

#[test]
fn pods_that_have_ended_say_so_in_a_condition() {
    let pod = "{metadata: {name: p}, spec: {containers: [{name: c}]}, status: {phase: Failed, reason: Evicted}}";
    check(
        "",
        "Pod",
        pod,
        expect![[r#"
            "p" "0/1" "Evicted" "0" "<unknown>" "<none>" "<none>" "<none>" "<none>"
            [{"message":"The pod failed.","reason":"Failed","status":"True","type":"Completed"}]"#]],
    );
}

#[test]
fn the_pods_own_word_comes_first() {
    check_pod("{phase: Pending}", expect!["0/3 Pending 0"]);
    check_pod("{phase: Failed, reason: Evicted}", expect!["0/3 Evicted 0"]);
    check_pod("{phase: Pending, conditions: [{type: PodScheduled, reason: SchedulingGated}]}", expect!["0/3 SchedulingGated 0"]);
}

#[test]
fn the_init_container_that_holds_up_the_rest() {
    let with = |statuses: &str| format!("{{phase: Pending, initContainerStatuses: [{statuses}]}}");
    check_pod(&with("{name: i, state: {waiting: {reason: PodInitializing}}}"), expect!["0/3 Init:0/2 0"]);
    check_pod(&with("{name: i, state: {waiting: {reason: ErrImagePull}}}"), expect!["0/3 Init:ErrImagePull 0"]);
    check_pod(&with("{name: i, restartCount: 1, state: {terminated: {exitCode: 7}}}"), expect!["0/3 Init:ExitCode:7 1"]);
    check_pod(&with("{name: i, state: {terminated: {exitCode: 137, signal: 9}}}"), expect!["0/3 Init:Signal:9 0"]);
    check_pod(&with("{name: i, state: {terminated: {exitCode: 0}}}, {name: s, state: {running: {}}}"), expect!["0/3 Init:1/2 0"]);
}

#[test]
fn sidecars_count_once_they_have_started() {
    let last_state = "{terminated: {finishedAt: 2024-01-02T03:00:05Z}}";
    let init = "{name: i, restartCount: 5, state: {terminated: {exitCode: 0}}}";
    let sidecar = format!("{{name: s, restartCount: 2, started: true, ready: true, state: {{running: {{}}}}, lastState: {last_state}}}");
    let containers = "[{name: c, ready: true, state: {running: {}}}, {name: d, ready: true, state: {running: {}}}]";
    let status = format!("{{phase: Running, initContainerStatuses: [{init}, {sidecar}], containerStatuses: {containers}}}");
    check_pod(&status, expect!["3/3 Running 2 (4m ago)"]);
}

#[test]
fn the_first_container_with_something_to_tell() {
    let with = |statuses: &str| format!("{{phase: Running, containerStatuses: [{statuses}]}}");
    let running = "{name: d, ready: true, state: {running: {}}}";
    check_pod(&with(&format!("{{name: c, state: {{terminated: {{exitCode: 137, signal: 9}}}}}}, {running}")), expect!["1/3 Signal:9 0"]);
    check_pod(&with(&format!("{{name: c, state: {{terminated: {{exitCode: 3}}}}}}, {running}")), expect!["1/3 ExitCode:3 0"]);
    check_pod(&with(&format!("{{name: c, state: {{terminated: {{reason: Completed}}}}}}, {running}")), expect!["1/3 NotReady 0"]);
    let mixed = "{name: c, state: {terminated: {reason: Completed}}}, {name: d, state: {terminated: {reason: Error, exitCode: 5}}}";
    check_pod(&with(mixed), expect!["0/3 Error 0"]);
    let crash = "
{name: c, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {finishedAt: 2024-01-02T02:58:35Z}}}, \
{name: d, state: {waiting: {reason: ErrImagePull}}}";
    check_pod(&with(crash), expect!["0/3 CrashLoopBackOff 3 (5m30s ago)"]);
}

#[test]
fn deletion_comes_before_everything_but_the_end() {
    let deleted = |status: &str| format!("{{metadata: {{name: p, deletionTimestamp: {NOW}}}, status: {status}}}");
    let check_deleted = |status: &str, row_out| check("", "Pod", &deleted(status), row_out);
    check_deleted("{phase: Running}", expect![[r#""p" "0/0" "Terminating" "0" "<unknown>" "<none>" "<none>" "<none>" "<none>""#]]);
    check_deleted(
        "{phase: Running, reason: NodeLost}",
        expect![[r#""p" "0/0" "Unknown" "0" "<unknown>" "<none>" "<none>" "<none>" "<none>""#]],
    );
    check_deleted(
        "{phase: Succeeded}",
        expect![[r#"
            "p" "0/0" "Succeeded" "0" "<unknown>" "<none>" "<none>" "<none>" "<none>"
            [{"message":"The pod has completed successfully.","reason":"Succeeded","status":"True","type":"Completed"}]"#]],
    );
}

#[test]
fn a_node() {
    let node = "
metadata: {name: n1, labels: {node-role.kubernetes.io/worker: '', kubernetes.io/role: edge, node-role.kubernetes.io/: x}}
spec: {unschedulable: true}
status:
  conditions: [{type: Ready, status: 'True'}]
  addresses: [{type: InternalIP, address: 172.18.0.3}, {type: InternalIP, address: 172.18.0.4}]
  nodeInfo: {kubeletVersion: v1.36.0, kernelVersion: 6.8.0, architecture: arm64}
";
    check(
        "",
        "Node",
        node,
        expect![[
            r#""n1" "Ready,SchedulingDisabled" "edge,worker" "<unknown>" "v1.36.0" "172.18.0.3" "<none>" "<unknown>" "6.8.0 (arm64)" "<unknown>""#
        ]],
    );
}

#[test]
fn a_daemonset_and_its_revision() {
    let daemonset = "
metadata: {name: web, creationTimestamp: 2024-01-01T03:04:05Z}
spec:
  selector: {matchLabels: {app: web}, matchExpressions: [{key: z, operator: In, values: [q, p]}, {key: a, operator: DoesNotExist}]}
  template: {spec: {nodeSelector: {disk: ssd, a: b}, containers: [{name: c, image: x}, {name: d, image: w}]}}
status: {desiredNumberScheduled: 4, currentNumberScheduled: 3, numberReady: 2, updatedNumberScheduled: 1}
";
    check("apps", "DaemonSet", daemonset, expect![[r#""web" 4 3 2 1 0 "a=b,disk=ssd" "24h" "c,d" "x,w" "!a,app=web,z in (p,q)""#]]);
    let owner = "{apiVersion: apps/v1, kind: DaemonSet, name: web, controller: true}";
    let revision = format!("{{metadata: {{name: r, ownerReferences: [{owner}]}}, revision: 2}}");
    check("apps", "ControllerRevision", &revision, expect![[r#""r" "daemonset.apps/web" 2 "<unknown>""#]]);
}

#[test]
fn services() {
    let check_service = |spec: &str, status: &str, row_out| {
        check("", "Service", &format!("{{metadata: {{name: s}}, spec: {spec}, status: {status}}}"), row_out);
    };
    check_service(
        "{type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080, protocol: TCP}, {port: 53, protocol: UDP}]}",
        "{}",
        expect![[r#""s" "NodePort" "10.96.0.1" "<none>" "80:30080/TCP,53/UDP" "<unknown>" "<none>""#]],
    );
    check_service("{type: LoadBalancer}", "{}", expect![[r#""s" "LoadBalancer" "<none>" "<pending>" "<none>" "<unknown>" "<none>""#]]);
    check_service(
        "{type: LoadBalancer, externalIPs: [9.9.9.9]}",
        "{loadBalancer: {ingress: [{hostname: h}, {ip: 1.2.3.4}]}}",
        expect![[r#""s" "LoadBalancer" "<none>" "1.2.3.4,h,9.9.9.9" "<none>" "<unknown>" "<none>""#]],
    );
}

#[test]
fn endpoints_are_counted_after_the_third() {
    let subset = "{addresses: [{ip: 10.0.0.1}, {ip: 'fd00::1'}], ports: [{port: 80}, {port: 81}]}";
    let endpoints = format!("{{metadata: {{name: e}}, subsets: [{subset}]}}");
    check("", "Endpoints", &endpoints, expect![[r#""e" "10.0.0.1:80,[fd00::1]:80,10.0.0.1:81 + 1 more..." "<unknown>""#]]);
    check("", "Endpoints", "{metadata: {name: e}}", expect![[r#""e" "<none>" "<unknown>""#]]);
    let slice = "{metadata: {name: e}, addressType: IPv4, ports: [{port: 80}, {name: http}, {}], endpoints: []}";
    check("discovery.k8s.io", "EndpointSlice", slice, expect![[r#""e" "IPv4" "80,http,*" "<unset>" "<unknown>""#]]);
}

#[test]
fn events_old_and_new() {
    let old = "
metadata: {name: e}
involvedObject: {kind: Pod, name: p, fieldPath: 'spec.containers{c}'}
type: Normal
reason: Pulled
message: \"done\\n\"
source: {component: kubelet, host: n1}
firstTimestamp: 2024-01-02T03:00:05Z
lastTimestamp: 2024-01-02T03:03:05Z
count: 7
";
    check("", "Event", old, expect![[r#""60s" "Normal" "Pulled" "pod/p" "spec.containers{c}" "kubelet, n1" "done" "4m" 7 "e""#]]);
    let new = "{metadata: {name: e}, eventTime: 2024-01-02T03:00:05.000000Z, reportingComponent: k, reportingInstance: k-0}";
    check("events.k8s.io", "Event", new, expect![[r#""4m" "" "" "" "" "k, k-0" "" "4m" 1 "e""#]]);
}

#[test]
fn bindings_list_their_subjects_by_kind() {
    let subjects = "[{kind: User, name: u}, {kind: User, name: v}, {kind: Group, name: g}, {kind: ServiceAccount, name: s, namespace: x}]";
    let binding = format!("{{metadata: {{name: b}}, roleRef: {{kind: ClusterRole, name: view}}, subjects: {subjects}}}");
    check("rbac.authorization.k8s.io", "RoleBinding", &binding, expect![[r#""b" "ClusterRole/view" "<unknown>" "u, v" "g" "x/s""#]]);
}

#[test]
fn kinds_without_a_printer_show_when_they_were_created() {
    let limits = format!("{{metadata: {{name: l, creationTimestamp: {NOW}}}}}");
    check("", "LimitRange", &limits, expect![[r#""l" "2024-01-02T03:04:05Z""#]]);
    check("rbac.authorization.k8s.io", "Role", "{metadata: {name: r}}", expect![[r#""r" "0001-01-01T00:00:00Z""#]]);
}

#[test]
fn quotas_tell_limits_from_the_rest() {
    let quota =
        "{metadata: {name: q}, status: {hard: {pods: '5', limits.cpu: '2', requests.cpu: '1'}, used: {pods: '2', limits.cpu: 100m}}}";
    check("", "ResourceQuota", quota, expect![[r#""q" "pods: 2/5, requests.cpu: 0/1" "limits.cpu: 100m/2" "<unknown>""#]]);
}

#[test]
fn budgets_count_or_take_a_share() {
    let budget = "{metadata: {name: b}, spec: {minAvailable: 50%}, status: {disruptionsAllowed: 1}}";
    check("policy", "PodDisruptionBudget", budget, expect![[r#""b" "50%" "N/A" 1 "<unknown>""#]]);
}

#[test]
fn signing_requests() {
    let request = "
metadata: {name: c}
spec: {signerName: kubernetes.io/kubelet-serving, username: u, expirationSeconds: 86400}
status: {conditions: [{type: Approved}, {type: Failed}], certificate: eA==}
";
    check(
        "certificates.k8s.io",
        "CertificateSigningRequest",
        request,
        expect![[r#""c" "<unknown>" "kubernetes.io/kubelet-serving" "u" "24h" "Approved,Failed,Issued""#]],
    );
}
