//! What people type: the real kubectl against the API, with three simulated nodes.

use expect_test::expect;
use serde_json::Value;

use crate::support::{Kubectl, kubectl_or_skip};

const THREE_NODES: &[&str] = &["--simulate", "3"];
const NO_NODES: &[&str] = &[];

const AGENT: &str = include_str!("../../../../examples/node-agent.yaml");

#[test]
fn create_makes_the_objects_of_its_generators() {
    let Some(server) = kubectl_or_skip(NO_NODES) else { return };
    let kubectl = server.kubectl();
    let mut said = String::new();
    for line in [
        "create namespace team",
        "create configmap settings --from-literal=level=high -n team",
        "create secret generic password --from-literal=key=value -n team",
        "create serviceaccount robot -n team",
        "create role reader --verb=get,list --resource=configmaps -n team",
        "create rolebinding robot-reads --role=reader --serviceaccount=team:robot -n team",
        "create clusterrole looker --verb=get --resource=nodes",
        "create clusterrolebinding robot-looks --clusterrole=looker --serviceaccount=team:robot",
        "create priorityclass important --value=1000 --description=first",
        "create quota limits --hard=pods=7 -n team",
    ] {
        said += &kubectl.run(line);
    }
    expect![[r#"
        namespace/team created
        configmap/settings created
        secret/password created
        serviceaccount/robot created
        role.rbac.authorization.k8s.io/reader created
        rolebinding.rbac.authorization.k8s.io/robot-reads created
        clusterrole.rbac.authorization.k8s.io/looker created
        clusterrolebinding.rbac.authorization.k8s.io/robot-looks created
        priorityclass.scheduling.k8s.io/important created
        resourcequota/limits created
    "#]]
    .assert_eq(&said);
    assert_eq!(kubectl.run("get cm settings -n team -o jsonpath={.data.level}"), "high");
    assert_eq!(kubectl.run("get secret password -n team -o jsonpath={.data.key}"), "dmFsdWU=");
    assert_eq!(kubectl.run("get rolebinding robot-reads -n team -o jsonpath={.subjects[0].name}"), "robot");
    assert_eq!(kubectl.run("create token robot -n team").trim().split('.').count(), 3);
    expect!["Error from server (AlreadyExists): namespaces \"team\" already exists\n"].assert_eq(&kubectl.fails("create namespace team"));
}

/// The controllers run here: they hold the range, and let it go when its last address is free.
#[test]
fn ranges_and_addresses_of_services_are_objects() {
    let Some(server) = kubectl_or_skip(NO_NODES) else { return };
    let kubectl = server.kubectl();
    assert_eq!(columns(&kubectl.run("get servicecidrs"), &[0, 1]), "NAME CIDRS\nkubernetes 10.96.0.0/12\n");
    assert_eq!(columns(&kubectl.run("get ip"), &[0, 1]), "NAME PARENTREF\n10.96.0.1 services/default/kubernetes\n");
    assert!(kubectl.run("explain ipaddress.spec.parentRef.group").contains("Group is the group of the object being referenced"));

    let range = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": {"cidrs": ["10.9.0.0/28"]}}"#;
    assert_eq!(kubectl.stdin("apply -f -", range), "servicecidr.networking.k8s.io/more created\n");
    kubectl.run("wait servicecidr/more servicecidr/kubernetes --for=condition=Ready --timeout=60s");
    kubectl.run("create service clusterip web --tcp=80 --clusterip=10.9.0.5");
    assert_eq!(kubectl.run("get ipaddress 10.9.0.5 -o jsonpath={.spec.parentRef.name}"), "web");

    kubectl.run("delete servicecidr more --wait=false");
    kubectl.run("wait servicecidr/more --for=condition=Ready=false --timeout=60s");
    assert_eq!(kubectl.run("get servicecidr more -o jsonpath={.status.conditions[0].reason}"), "Terminating");
    assert!(kubectl.fails("create service clusterip more --tcp=80 --clusterip=10.9.0.6").contains("does not match the current range"));
    kubectl.run("delete service web");
    kubectl.run("wait servicecidr/more --for=delete --timeout=60s");
    assert_eq!(kubectl.run("get ip -o name"), "ipaddress.networking.k8s.io/10.96.0.1\n");

    // What a client takes away comes back.
    kubectl.run("delete ip 10.96.0.1");
    kubectl.run("wait ipaddress/10.96.0.1 --for=create --timeout=60s");
    assert_eq!(kubectl.run("get ip 10.96.0.1 -o jsonpath={.spec.parentRef.name}"), "kubernetes");
}

#[test]
fn get_shows_nodes_in_every_form() {
    let Some(server) = kubectl_or_skip(THREE_NODES) else { return };
    let kubectl = server.kubectl();
    wait_for_nodes(&kubectl);
    let table = kubectl.run("get nodes");
    assert_eq!(columns(&table, &[0, 1]), "NAME STATUS\neverynode-1 Ready\neverynode-2 Ready\neverynode-3 Ready\n");
    assert!(kubectl.run("get nodes -o wide").lines().next().is_some_and(|head| head.contains("INTERNAL-IP")));
    assert_eq!(kubectl.run("get nodes -o name"), "node/everynode-1\nnode/everynode-2\nnode/everynode-3\n");
    let json: Value = serde_json::from_str(&kubectl.run("get node everynode-2 -o json")).unwrap();
    assert_eq!((&json["kind"], &json["metadata"]["name"]), (&"Node".into(), &"everynode-2".into()));
    assert!(kubectl.run("get node everynode-2 -o yaml").starts_with("apiVersion: v1\nkind: Node\nmetadata:\n"));
    assert_eq!(kubectl.run("get nodes -o jsonpath={.items[*].metadata.name}"), "everynode-1 everynode-2 everynode-3");
    assert_eq!(kubectl.run("get node everynode-3 -o custom-columns=N:.metadata.name,K:.kind"), "N             K\neverynode-3   Node\n");
    assert_eq!(kubectl.run("get nodes -o name -l kubernetes.io/hostname=everynode-1"), "node/everynode-1\n");
    assert_eq!(kubectl.run("get nodes -o name --field-selector metadata.name=everynode-3"), "node/everynode-3\n");
    let described = kubectl.run("describe node everynode-1");
    for line in ["Name:               everynode-1", "Conditions:", "Capacity:", "Non-terminated Pods:"] {
        assert!(described.contains(line), "{line} in {described}");
    }
    expect!["Error from server (NotFound): nodes \"none\" not found\n"].assert_eq(&kubectl.fails("get node none"));
}

#[test]
fn apply_creates_changes_and_leaves_alone() {
    let Some(server) = kubectl_or_skip(NO_NODES) else { return };
    let kubectl = server.kubectl();
    let map = |data: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n{data}");
    let mut said = String::new();
    said += &kubectl.stdin("apply -f -", &map("  a: '1'\n  b: '2'\n"));
    said += &kubectl.stdin("apply -f -", &map("  a: '1'\n  b: '2'\n"));
    said += &kubectl.stdin("apply -f -", &map("  a: '3'\n"));
    assert_eq!(kubectl.run("get cm settings -o jsonpath={.data}"), r#"{"a":"3"}"#);
    said += &kubectl.stdin("apply -f - --server-side --force-conflicts", &map("  a: '4'\n"));
    said += &kubectl.stdin("apply -f - --server-side --dry-run=server", &map("  a: '5'\n"));
    assert_eq!(kubectl.run("get cm settings -o jsonpath={.data.a}"), "4");
    expect![[r#"
        configmap/settings created
        configmap/settings unchanged
        configmap/settings configured
        configmap/settings serverside-applied
        configmap/settings serverside-applied (server dry run)
    "#]]
    .assert_eq(&said);
    let output = kubectl.output(&["apply", "-f", "-", "--server-side", "--field-manager=other"], &map("  a: '6'\n"), &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("conflict with \"kubectl\""), "{stderr}");
}

#[test]
fn patch_label_and_annotate_change_what_they_name() {
    let Some(server) = kubectl_or_skip(NO_NODES) else { return };
    let kubectl = server.kubectl();
    kubectl.stdin("apply -f -", AGENT);
    kubectl.args(&["patch", "ds", "node-agent", "-p", r#"{"spec":{"template":{"spec":{"containers":[{"name":"agent","tty":true}]}}}}"#]);
    kubectl.args(&["patch", "ds", "node-agent", "--type=merge", "-p", r#"{"spec":{"minReadySeconds":7}}"#]);
    kubectl.args(&[
        "patch",
        "ds",
        "node-agent",
        "--type=json",
        "-p",
        r#"[{"op":"replace","path":"/spec/revisionHistoryLimit","value":3}]"#,
    ]);
    kubectl.run("label ds node-agent tier=base");
    kubectl.run("annotate ds node-agent note=seen");
    kubectl.run("set image ds/node-agent agent=example.com/node-agent:2.0");
    let form = "{.spec.template.spec.containers[*].tty} {.spec.template.spec.containers[*].image} {.spec.minReadySeconds} \
                {.spec.revisionHistoryLimit} {.metadata.labels.tier} {.metadata.annotations.note}";
    let shown = kubectl.args(&["get", "ds", "node-agent", "-o", &format!("jsonpath={form}")]);
    assert_eq!(shown, "true example.com/node-agent:2.0 7 3 base seen");
    assert!(kubectl.fails("label ds node-agent tier=top").contains("'tier' already has a value (base), and --overwrite is false"));
    kubectl.run("label ds node-agent tier-");
    assert_eq!(kubectl.run("get ds -l tier -o name"), "");
    let output = kubectl.output(&["patch", "ds", "node-agent", "--type=merge", "-p", r#"{"spec":{"minReadySeconds":-1}}"#], "", &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"), "{stderr}");
}

#[test]
fn a_daemon_set_runs_once_on_every_node() {
    let Some(server) = kubectl_or_skip(THREE_NODES) else { return };
    let kubectl = server.kubectl();
    wait_for_nodes(&kubectl);
    kubectl.stdin("apply -f -", AGENT);
    kubectl.until("get ds node-agent -o jsonpath={.status.numberAvailable}", |count| count == "3");
    wait_for_agents_on(&kubectl, "everynode-1 everynode-2 everynode-3");
    let table = kubectl.run("get daemonset");
    assert_eq!(columns(&table, &[0, 1, 2, 3, 4, 5]), "NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE\nnode-agent 3 3 3 3 3\n");
    kubectl.run("wait --for=condition=Ready pod -l app=node-agent --timeout=50s");
    kubectl.run("rollout status ds/node-agent --timeout=50s");
    assert!(kubectl.run("describe ds node-agent").contains("Desired Number of Nodes Scheduled: 3"));
    assert!(kubectl.run("describe pods -l app=node-agent").contains("Controlled By:  DaemonSet/node-agent"));

    kubectl.run("delete ds node-agent");
    kubectl.until("get pods -o name", str::is_empty);
}

#[test]
fn a_taint_takes_the_pod_away_and_its_end_brings_it_back() {
    let Some(server) = kubectl_or_skip(THREE_NODES) else { return };
    let kubectl = server.kubectl();
    wait_for_nodes(&kubectl);
    kubectl.stdin("apply -f -", AGENT);
    wait_for_agents_on(&kubectl, "everynode-1 everynode-2 everynode-3");
    assert_eq!(kubectl.run("taint node everynode-2 maintenance=yes:NoExecute"), "node/everynode-2 tainted\n");
    wait_for_agents_on(&kubectl, "everynode-1 everynode-3");
    assert_eq!(kubectl.run("taint node everynode-2 maintenance-"), "node/everynode-2 untainted\n");
    wait_for_agents_on(&kubectl, "everynode-1 everynode-2 everynode-3");
}

#[test]
fn drain_evicts_all_but_daemon_sets_pods() {
    let Some(server) = kubectl_or_skip(THREE_NODES) else { return };
    let kubectl = server.kubectl();
    wait_for_nodes(&kubectl);
    kubectl.stdin("apply -f -", AGENT);
    wait_for_agents_on(&kubectl, "everynode-1 everynode-2 everynode-3");
    kubectl.until("get serviceaccounts -o name", |names| names.contains("serviceaccount/default"));
    let lone = "apiVersion: v1\nkind: Pod\nmetadata: {name: lone}\nspec:\n  nodeName: everynode-1\n  containers: [{name: c, image: example.com/c}]\n";
    kubectl.stdin("create -f -", lone);
    kubectl.run("wait --for=condition=Ready pod/lone --timeout=50s");

    assert_eq!(kubectl.run("cordon everynode-1"), "node/everynode-1 cordoned\n");
    kubectl.until("get node everynode-1", |table| table.contains("Ready,SchedulingDisabled"));
    let said = kubectl.run("drain everynode-1 --ignore-daemonsets --force --timeout=50s");
    assert!(said.contains("pod/lone evicted") && said.contains("node/everynode-1 drained"), "{said}");
    assert!(kubectl.fails("get pod lone").contains("NotFound"));
    wait_for_agents_on(&kubectl, "everynode-1 everynode-2 everynode-3");
    assert_eq!(kubectl.run("uncordon everynode-1"), "node/everynode-1 uncordoned\n");
    assert_eq!(kubectl.run("get node everynode-1 -o jsonpath={.spec.unschedulable}"), "");
}

#[test]
fn edit_and_diff_see_what_is_there() {
    let Some(server) = kubectl_or_skip(NO_NODES) else { return };
    let kubectl = server.kubectl();
    kubectl.run("create configmap settings --from-literal=level=low");
    kubectl.with_env("edit configmap settings", &[("KUBE_EDITOR", "sed -i s/low/high/")]);
    assert_eq!(kubectl.run("get cm settings -o jsonpath={.data.level}"), "high");
    let wanted = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {level: top}\n";
    let output = kubectl.output(&["diff", "-f", "-"], wanted, &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "a difference is exit code 1: {text}");
    assert!(text.contains("-  level: high\n+  level: top\n"), "{text}");
}

#[test]
fn explain_and_api_resources_know_the_kinds() {
    let Some(server) = kubectl_or_skip(NO_NODES) else { return };
    let kubectl = server.kubectl();
    let explained = kubectl.run("explain daemonset.spec.updateStrategy");
    assert!(explained.contains("KIND:       DaemonSet") && explained.contains("rollingUpdate"), "{explained}");
    assert!(kubectl.run("explain ds --recursive").contains("minReadySeconds"));
    let resources = kubectl.run("api-resources");
    for (name, short) in [("daemonsets", "ds"), ("configmaps", "cm"), ("nodes", "no"), ("priorityclasses", "pc")] {
        let line = resources.lines().find(|line| line.starts_with(&format!("{name} ")));
        assert!(line.is_some_and(|line| line.split_whitespace().nth(1) == Some(short)), "{name} in {resources}");
    }
    assert!(kubectl.run("api-versions").lines().any(|line| line == "apps/v1"));
    assert!(kubectl.fails("get deployments").contains("the server doesn't have a resource type \"deployments\""));
    assert!(kubectl.run("version").contains("Server Version: v1.36"));
}

#[test]
fn events_are_listed_with_what_they_are_about() {
    let Some(server) = kubectl_or_skip(NO_NODES) else { return };
    let kubectl = server.kubectl();
    kubectl.run("create configmap settings");
    let event = "apiVersion: v1\nkind: Event\nmetadata: {name: settings.1, namespace: default}\nreason: Looked\nmessage: somebody looked\ntype: Normal\n\
                 involvedObject: {apiVersion: v1, kind: ConfigMap, name: settings, namespace: default}\n";
    kubectl.stdin("create -f -", event);
    for line in ["events", "get events", "events --for configmap/settings"] {
        let table = kubectl.run(line);
        assert!(table.contains("Looked") && table.to_lowercase().contains("configmap/settings"), "{line}: {table}");
    }
    assert_eq!(kubectl.run("get events -o name --field-selector reason=Other"), "");
}

#[test]
fn auth_commands_tell_who_may_do_what() {
    let Some(server) = kubectl_or_skip(NO_NODES) else { return };
    let kubectl = server.kubectl();
    assert_eq!(kubectl.run("auth can-i delete nodes"), "yes\n");
    let output = kubectl.output(&["auth", "can-i", "delete", "nodes", "--as=jane"], "", &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "no\n");
    kubectl.run("create role reader --verb=get,list --resource=configmaps");
    kubectl.run("create rolebinding jane-reads --role=reader --user=jane");
    assert_eq!(kubectl.run("auth can-i list configmaps --as=jane"), "yes\n");
    let rules = kubectl.run("auth can-i --list --as=jane");
    assert!(rules.lines().any(|line| line.starts_with("configmaps") && line.ends_with("[get list]")), "{rules}");
    let who = kubectl.run("auth whoami");
    assert!(who.contains("kubernetes-admin") && who.contains("system:masters"), "{who}");
}

#[test]
fn delete_takes_objects_and_whole_namespaces() {
    let Some(server) = kubectl_or_skip(NO_NODES) else { return };
    let kubectl = server.kubectl();
    kubectl.run("create namespace team");
    for name in ["a", "b", "c"] {
        kubectl.run(&format!("create configmap {name} -n team"));
        kubectl.run(&format!("label configmap {name} -n team part={name}"));
    }
    assert_eq!(kubectl.run("delete configmap a -n team"), "configmap \"a\" deleted\n");
    assert_eq!(kubectl.run("delete configmap -l part=b -n team"), "configmap \"b\" deleted\n");
    assert!(kubectl.fails("delete configmap a -n team").contains("configmaps \"a\" not found"));
    assert_eq!(kubectl.run("delete configmap a -n team --ignore-not-found"), "");
    assert_eq!(kubectl.run("delete namespace team --timeout=50s"), "namespace \"team\" deleted\n");
    assert!(kubectl.fails("get namespace team").contains("NotFound"));
    assert!(kubectl.fails("create configmap d -n team").contains("namespaces \"team\" not found"));
}

fn wait_for_nodes(kubectl: &Kubectl<'_>) {
    kubectl.until("get nodes -o name", |names| names.lines().count() == 3);
    kubectl.run("wait --for=condition=Ready nodes --all --timeout=50s");
}

/// One pod that runs on each of these nodes, and no others.
fn wait_for_agents_on(kubectl: &Kubectl<'_>, nodes: &str) {
    let line = "get pods -l app=node-agent --sort-by=.spec.nodeName -o jsonpath={.items[*].status.phase}/{.items[*].spec.nodeName}";
    let phases = vec!["Running"; nodes.split(' ').count()].join(" ");
    kubectl.until(line, |shown| shown == format!("{phases}/{nodes}"));
}

/// Some columns of a table, with one space between them.
fn columns(table: &str, wanted: &[usize]) -> String {
    let row = |line: &str| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        wanted.iter().map(|&at| cells.get(at).copied().unwrap_or_default()).collect::<Vec<_>>().join(" ") + "\n"
    };
    table.lines().map(row).collect()
}
