//! Node agents as people run them: metrics of every node, logs of every node, and updates that keep
//! the others going.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testing::Need;

use super::pod_proxy;
use crate::support::cluster::{LONG, NODES, PODS, container, is_ready, pod, wait_long};
use crate::support::{Cluster, Image};

const SETS: &str = "/apis/apps/v1/namespaces/default/daemonsets";
const PACKAGE: &str = "prometheus-node-exporter";
const PROGRAM: &str = "usr/bin/prometheus-node-exporter";
const METRICS_PORT: u16 = 9100;

#[test]
fn agents_of_all_nodes_do_their_work() {
    let Some(cluster) = Cluster::start_or_skip("agents", 2) else { return };
    collect_logs(&cluster);
    update_keeps_the_budget(&cluster);
    export_metrics(&cluster);
    pod_proxy::requests_reach_ports_with_tls(&cluster);
}

fn set(name: &str, spec: Value) -> Value {
    let labels = json!({"app": name});
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    })
}

/// A collector on every node sees what a pod of that node writes, by the links in
/// /var/log/containers.
fn collect_logs(cluster: &Cluster) {
    let script = "until cat /var/log/containers/talker_*.log 2>/dev/null | grep said-by-talker | head -3 > /lines && [ `wc -l < /lines` -ge 3 ]; \
                  do sleep 0.3; done; cat /lines; echo collected; exec sleep 1000";
    let mut spec = pod("collector", script)["spec"].clone();
    spec["containers"][0]["volumeMounts"] = json!([{"name": "log", "mountPath": "/var/log", "readOnly": true}]);
    spec["volumes"] = json!([{"name": "log", "hostPath": {"path": "/var/log", "type": "Directory"}}]);
    cluster.api().create(SETS, &set("collector", spec));
    let mut talker = pod("talker", "i=0; while :; do i=$((i+1)); echo said-by-talker $i; sleep 0.2; done");
    talker["spec"]["nodeName"] = cluster.worker().into();
    cluster.create_pod(&talker);
    let collector = wait_long("the collector of the node", || {
        let pods = cluster.pods();
        pods.into_iter().find(|pod| is_ready(pod) && is_on(pod, &cluster.worker()) && pod["metadata"]["labels"]["app"] == "collector")
    });
    wait_long("collected lines", || cluster.log(&collector, "c", 0).contains("collected").then_some(()));
    assert!(cluster.log(&collector, "c", 0).contains("said-by-talker 1\n"), "{}", cluster.log(&collector, "c", 0));
    assert_eq!(cluster.api().delete(&format!("{SETS}/collector")).code, 200);
    cluster.delete_pod("talker");
}

fn is_on(pod: &Value, node: &str) -> bool {
    pod["spec"]["nodeName"] == node
}

/// With one pod that may be missing, there are always two that are ready.
fn update_keeps_the_budget(cluster: &Cluster) {
    let spec = |script: &str| {
        let mut spec = pod("rolling", script)["spec"].clone();
        spec["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["test", "-e", "/ready"]}, "periodSeconds": 1});
        spec
    };
    cluster.api().create(SETS, &set("rolling", spec("touch /ready; exec sleep 33001")));
    let kubectl = cluster.kubectl();
    kubectl.run("rollout status daemonset/rolling --timeout=120s");
    let start_again = "sleep 1; touch /ready; exec sleep 33002";
    kubectl.stdin("apply -f - --server-side --force-conflicts", &set("rolling", spec(start_again)).to_string());
    let deadline = Instant::now() + LONG;
    loop {
        let status = cluster.api().get(&format!("{SETS}/rolling")).json()["status"].clone();
        assert!(status["numberUnavailable"].as_u64().unwrap_or(0) <= 1, "{status}");
        let pods = cluster.pods();
        let of_set = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "rolling");
        let ready = of_set.clone().filter(|pod| is_ready(pod) && pod["metadata"].get("deletionTimestamp").is_none()).count();
        assert!(ready >= 2, "only {ready} pods are ready");
        let is_new = |pod: &Value| pod["spec"]["containers"][0]["command"][2] == start_again;
        if of_set.clone().count() == 3 && of_set.clone().all(|pod| is_new(pod) && is_ready(pod)) {
            break;
        }
        assert!(Instant::now() < deadline, "{status}");
        std::thread::sleep(Duration::from_millis(20));
    }
    for node in cluster.api().get(NODES).json()["items"].as_array().expect("there are nodes") {
        let name = node["metadata"]["name"].as_str().expect("nodes have names");
        wait_long("one new process on each node", || (cluster.processes_with(name, "sleep 33002").len() == 1).then_some(()));
        wait_long("no old process", || cluster.processes_with(name, "sleep 33001").is_empty().then_some(()));
    }
    assert_eq!(cluster.api().delete(&format!("{SETS}/rolling")).code, 200);
}

/// The real node exporter, as its documentation says to run it: it must see the node, not its
/// container and not the machine.
fn export_metrics(cluster: &Cluster) {
    let files = exporter(cluster);
    if !testing::can_run(&[Need::Download { what: PACKAGE, is_there: files.is_some() }]) {
        return;
    }
    let files = files.unwrap_or_default();
    let archive = cluster.home.path("exporter.tar");
    Image::with_files(&files).save(&archive, &["node-exporter:test"]);
    cluster.succeed(&["load", archive.to_str().expect("temporary paths are text")]);
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true, "mountPropagation": "HostToContainer"});
    let volume = |name: &str, path: &str| json!({"name": name, "hostPath": {"path": path}});
    let spec = json!({
        "hostNetwork": true, "hostPID": true, "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsUser": 65534, "runAsNonRoot": true},
        "containers": [{
            "name": "exporter", "image": "node-exporter:test",
            "command": [format!("/{PROGRAM}")],
            "args": ["--path.procfs=/host/proc", "--path.sysfs=/host/sys", "--path.rootfs=/host/root", "--web.listen-address=$(HOST_IP):9100"],
            "env": [{"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}],
            "ports": [{"containerPort": METRICS_PORT, "hostPort": METRICS_PORT, "name": "metrics"}],
            "readinessProbe": {"httpGet": {"path": "/", "port": "metrics"}, "periodSeconds": 1},
            "volumeMounts": [mount("proc", "/host/proc"), mount("sys", "/host/sys"), mount("root", "/host/root")],
        }],
        "volumes": [volume("proc", "/proc"), volume("sys", "/sys"), volume("root", "/")],
    });
    cluster.api().create(SETS, &set("node-exporter", spec));
    cluster.kubectl().run("rollout status daemonset/node-exporter --timeout=120s");
    for node in cluster.api().get(NODES).json()["items"].as_array().expect("there are nodes") {
        let addresses = node["status"]["addresses"].as_array().expect("nodes have addresses");
        let address = addresses.iter().find(|address| address["type"] == "InternalIP").expect("a node has an address of its own");
        check_metrics(
            &get(address["address"].as_str().expect("it is text"), "/metrics"),
            node["metadata"]["name"].as_str().expect("it has a name"),
        );
    }
    let pods = cluster.pods();
    let exporters: Vec<&Value> = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "node-exporter").collect();
    assert_eq!(exporters.len(), 3, "one on each node");
    for exporter in &exporters {
        let [name, node] = [&exporter["metadata"]["name"], &exporter["spec"]["nodeName"]].map(|text| text.as_str().expect("it is bound"));
        let through_the_server = cluster.api().get(&format!("{PODS}/{name}/proxy/metrics"));
        assert_eq!(through_the_server.code, 200, "{}", through_the_server.text());
        check_metrics(&through_the_server.text(), node);
    }
    assert!(exporters.iter().all(|pod| container(pod)["restartCount"] == 0), "an exporter was restarted");
}

fn check_metrics(metrics: &str, node: &str) {
    let lines = |name: &str| -> Vec<&str> { metrics.lines().filter(|line| line.starts_with(name)).collect() };
    let uname = lines("node_uname_info");
    assert!(uname.len() == 1 && uname[0].contains(&format!("nodename=\"{node}\"")), "{uname:?}");
    let devices = lines("node_network_receive_bytes_total").join("\n");
    assert!(devices.contains("device=\"eth0\"") && !devices.contains("device=\"evb"), "the node's devices, not the machine's: {devices}");
    let up = lines("node_network_up").join("\n");
    assert!(up.contains("device=\"eth0\""), "{up}");
    assert!(!lines("node_filesystem_size_bytes").is_empty() && !lines("node_memory_MemTotal_bytes").is_empty());
    let collectors = lines("node_scrape_collector_success").join("\n");
    for name in ["cpu", "filesystem", "loadavg", "meminfo", "netclass", "netdev", "netstat", "sockstat", "stat", "uname"] {
        assert!(collectors.contains(&format!("collector=\"{name}\"}} 1")), "{name} failed: {collectors}");
    }
}

/// The program from Debian's package and the libraries it is linked to, with their places in the
/// image.
fn exporter(cluster: &Cluster) -> Option<Vec<(PathBuf, &'static str)>> {
    let dir = cluster.home.path("exporter");
    std::fs::create_dir_all(&dir).expect("the temporary folder can be written to");
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(&dir).output();
        output.is_ok_and(|output| output.status.success())
    };
    let found = |suffix: &str| entries(&dir).into_iter().find(|path| path.to_string_lossy().ends_with(suffix));
    if !run("apt-get", &["download", "-qq", PACKAGE]) {
        return None;
    }
    let package = found(".deb")?;
    if !run("dpkg-deb", &["-x", package.to_str()?, "root"]) {
        return None;
    }
    let program = dir.join("root").join(PROGRAM);
    let linked = Command::new("ldd").arg(&program).output().ok()?;
    let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
    let mut files: Vec<(PathBuf, &'static str)> = vec![(program, PROGRAM)];
    for word in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        // Lives as long as the test: three short paths.
        files.push((PathBuf::from(word), Box::leak(word.trim_start_matches('/').to_owned().into_boxed_str())));
    }
    Some(files)
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The answer to a plain HTTP request.
fn get(address: &str, path: &str) -> String {
    wait_long(&format!("metrics of {address}"), || {
        let mut stream = TcpStream::connect((address, METRICS_PORT)).ok()?;
        stream.set_read_timeout(Some(LONG)).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    })
}
