//! A local cluster with real nodes, from outside: its commands, its pods, its files and its
//! processes. It ends with the value.
//!
//! Names hold the id of the test's process: control groups and bridges are the machine's, and
//! several runs may share it.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testing::Need;

use super::{Client, Home, Image, Kubectl};

/// What a cluster with real nodes needs, and tests that look at it.
pub const REAL_NODES: [Need<'_>; 5] =
    [Need::Root, Need::Namespaces, testing::BUSYBOX, Need::Program { name: "ip", package: "iproute2" }, testing::KUBECTL];

/// Containers on a machine that builds something else take their time.
pub const LONG: Duration = Duration::from_secs(120);
const POLL_PERIOD: Duration = Duration::from_millis(50);
const SERVICE_ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const NODES: &str = "/api/v1/nodes";

pub struct Cluster {
    pub home: Home,
    pub name: String,
    data_dir: Option<PathBuf>,
}

impl Cluster {
    /// A cluster with so many workers and the image `busybox:test`. None: the test cannot run here.
    pub fn start_or_skip(group: &str, workers: u8) -> Option<Cluster> {
        let cluster = Cluster::prepare_or_skip(group)?;
        cluster.up(workers);
        cluster.load_busybox();
        cluster.wait_for_service_account();
        Some(cluster)
    }

    /// One that is not started yet.
    pub fn prepare_or_skip(group: &str) -> Option<Cluster> {
        if !testing::can_run(&REAL_NODES) {
            return None;
        }
        Some(Cluster { home: Home::new(), name: format!("{group}-{}", std::process::id()), data_dir: None })
    }

    /// With its state somewhere else; before it is started.
    pub fn set_data_dir(&mut self, dir: PathBuf) {
        self.data_dir = Some(dir);
    }

    /// Without the built-in DaemonSets: what most tests look at are their own pods.
    pub fn up(&self, workers: u8) {
        self.succeed(&["up", "--workers", &workers.to_string(), "--without-addons", "--timeout-seconds", "120"]);
    }

    /// As a user starts one.
    pub fn up_with_addons(&self, workers: u8) {
        self.succeed(&["up", "--workers", &workers.to_string(), "--timeout-seconds", "120"]);
    }

    /// With nodes of these names, whatever the cluster is called: the first is the control plane's.
    pub fn up_named(&self, nodes: &[&str]) {
        self.up_as(nodes, &["--without-addons"]);
    }

    pub fn up_named_with_addons(&self, nodes: &[&str]) {
        self.up_as(nodes, &[]);
    }

    fn up_as(&self, nodes: &[&str], others: &[&str]) {
        let (workers, names) = ((nodes.len() - 1).to_string(), nodes.join(","));
        self.succeed(&[&["up", "--workers", &workers, "--node-names", &names, "--timeout-seconds", "120"], others].concat());
    }

    pub fn load_busybox(&self) {
        let archive = self.home.path("busybox.tar");
        Image::busybox().save(&archive, &["busybox:test"]);
        self.load(&archive);
    }

    pub fn load(&self, archive: &Path) {
        self.succeed(&["load", archive.to_str().expect("temporary paths are text")]);
    }

    /// Pods are refused before it is there.
    pub fn wait_for_service_account(&self) {
        let api = self.api();
        wait_long("the service account", || (api.get(SERVICE_ACCOUNT).code == 200).then_some(()));
    }

    /// `everynode ARGUMENTS --name NAME`.
    pub fn everynode(&self, arguments: &[&str]) -> Output {
        let mut command = self.home.everynode(arguments);
        command.args(["--name", &self.name]);
        if let Some(dir) = &self.data_dir {
            command.arg("--data-dir").arg(dir);
        }
        command.output().expect("the program under test can be started")
    }

    /// Same, which must succeed; returns stdout and stderr.
    pub fn succeed(&self, arguments: &[&str]) -> (String, String) {
        let output = self.everynode(arguments);
        let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert_eq!(output.status.code(), Some(0), "everynode {arguments:?}\n{stdout}{stderr}");
        (stdout, stderr)
    }

    pub fn dir(&self) -> PathBuf {
        match &self.data_dir {
            Some(dir) => dir.clone(),
            None => self.home.path(".local/state/everynode/clusters").join(&self.name),
        }
    }

    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir().join("nodes").join(node)
    }

    pub fn control_plane(&self) -> String {
        format!("{}-control-plane", self.name)
    }

    pub fn worker(&self) -> String {
        format!("{}-worker", self.name)
    }

    /// The address of the machine on the cluster's network.
    pub fn gateway(&self) -> String {
        let network: Value = read_json(&self.dir().join("network.json"));
        format!("172.30.{}.1", network["slot"])
    }

    /// Made anew each time: a server that was started again listens elsewhere.
    pub fn api(&self) -> Client {
        Client::from_kubeconfig(&self.dir().join("admin.kubeconfig"))
    }

    pub fn kubectl(&self) -> Kubectl<'_> {
        Kubectl::new(&self.home, self.dir().join("admin.kubeconfig"))
    }

    pub fn create_pod(&self, pod: &Value) {
        self.api().create(PODS, pod);
    }

    pub fn pod(&self, name: &str) -> Value {
        self.api().get(&format!("{PODS}/{name}")).json()
    }

    pub fn pods(&self) -> Vec<Value> {
        self.api().get(PODS).json()["items"].as_array().cloned().unwrap_or_default()
    }

    pub fn delete_pod(&self, name: &str) {
        let code = self.api().delete(&format!("{PODS}/{name}")).code;
        assert!(code == 200 || code == 202, "deleting {name}: {code}");
    }

    /// Waits until the pod is as wanted; a failure shows what it is like and what was said about
    /// it.
    pub fn wait_pod(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let api = self.api();
        let deadline = Instant::now() + LONG;
        loop {
            let pod = api.get(&format!("{PODS}/{name}")).json();
            if wanted(&pod) {
                return pod;
            }
            if Instant::now() >= deadline {
                panic!("pod {name} did not become {what}: {:#}\n{}\n{}", pod["status"], self.events(name).join("\n"), self.first_log(&pod));
            }
            std::thread::sleep(POLL_PERIOD);
        }
    }

    /// What its first container wrote when it was first started.
    fn first_log(&self, pod: &Value) -> String {
        let container = pod["spec"]["containers"][0]["name"].as_str().unwrap_or_default();
        if pod["spec"]["nodeName"].is_null() { String::new() } else { self.log(pod, container, 0) }
    }

    pub fn wait_ready(&self, name: &str) -> Value {
        self.wait_pod(name, "ready", is_ready)
    }

    pub fn wait_gone(&self, name: &str) {
        let api = self.api();
        wait_long(&format!("the end of pod {name}"), || (api.get(&format!("{PODS}/{name}")).code == 404).then_some(()));
    }

    pub fn node(&self, name: &str) -> Value {
        self.api().get(&format!("{NODES}/{name}")).json()
    }

    pub fn wait_node(&self, name: &str, ready: &str) {
        wait_long(&format!("node {name} with Ready={ready}"), || (condition(&self.node(name), "Ready") == ready).then_some(()));
    }

    /// `REASON: MESSAGE` of all events about a pod.
    pub fn events(&self, pod: &str) -> Vec<String> {
        let path = format!("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3D{pod}");
        let listed = self.api().get(&path).json();
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        let events = listed["items"].as_array().cloned().unwrap_or_default();
        events.iter().map(|event| format!("{}: {}", text(event, "reason"), text(event, "message"))).collect()
    }

    /// What a container wrote, without times and streams; of the container's given restart.
    pub fn log(&self, pod: &Value, container: &str, restart: u32) -> String {
        let node = pod["spec"]["nodeName"].as_str().expect("the pod is bound");
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
        let folder = format!("{}_{}_{}", text("namespace"), text("name"), text("uid"));
        let path = self.node_dir(node).join("log/pods").join(folder).join(container).join(format!("{restart}.log"));
        let log = std::fs::read_to_string(path).unwrap_or_default();
        log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(|line| format!("{line}\n")).collect()
    }

    /// The control group of a node below the root of a hierarchy.
    pub fn group(&self, node: &str) -> PathBuf {
        Path::new("everynode").join(&self.name).join(node)
    }

    /// All processes of a node: whatever is in its control groups.
    pub fn processes(&self, node: &str) -> Vec<i32> {
        processes_below(&self.group(node))
    }

    /// Those whose command line holds the text.
    pub fn processes_with(&self, node: &str, text: &str) -> Vec<i32> {
        self.processes(node).into_iter().filter(|&pid| command_line(pid).contains(text)).collect()
    }

    /// The agent's process.
    pub fn agent(&self, node: &str) -> i32 {
        wait_long(&format!("the agent of {node}"), || match self.processes_with(node, &format!(" agent --node-name {node} "))[..] {
            [pid] => Some(pid),
            _ => None,
        })
    }

    /// The process that keeps the node's namespaces.
    pub fn keeper(&self, node: &str) -> i32 {
        let record = read_json(&self.node_dir(node).join("process.json"));
        record["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("the node's process is recorded")
    }

    /// The server's process.
    pub fn server(&self) -> i32 {
        let record = read_json(&self.dir().join("cluster.json"));
        record["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("the server's process is recorded")
    }

    /// SIGKILL to a process of this cluster.
    pub fn kill(&self, pid: i32) {
        let everything = processes_below(&Path::new("everynode").join(&self.name));
        assert!(everything.contains(&pid) || pid == self.server(), "process {pid} is not of this cluster");
        let pid = rustix::process::Pid::from_raw(pid).expect("process ids are positive");
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }

    /// Kills the agent and waits for the next one to be started.
    pub fn kill_agent(&self, node: &str) {
        let old = self.agent(node);
        self.kill(old);
        wait_long("the next agent", || (self.agent(node) != old).then_some(()));
    }

    fn show_logs(&self) {
        let logs = std::fs::read_dir(self.dir().join("nodes")).into_iter().flatten().flatten().map(|node| node.path().join("agent.log"));
        for log in logs.chain([self.dir().join("server.log")]) {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {}\n{}", log.display(), lines[lines.len().saturating_sub(25)..].join("\n"));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        let output = self.everynode(&["down"]);
        if !output.status.success() && !std::thread::panicking() {
            panic!("everynode down: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// A pod of one container that runs a script in busybox.
pub fn pod(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1, "enableServiceLinks": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "c", "image": "busybox:test", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]}],
        },
    })
}

/// Status of a condition; empty when there is none.
pub fn condition(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default().to_owned()
}

pub fn is_ready(object: &Value) -> bool {
    condition(object, "Ready") == "True"
}

/// The status of the only container.
pub fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// Waits long for something; for nodes and containers.
pub fn wait_long<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain for: {what}", LONG.as_secs());
        std::thread::sleep(POLL_PERIOD);
    }
}

/// The roots of the control group hierarchies: one on v2, one for each controller on v1.
pub fn hierarchies() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| matches!(fields.get(2), Some(&("cgroup" | "cgroup2")))).map(|fields| PathBuf::from(fields[1])).collect()
}

/// All folders of a control group and below it, in all hierarchies.
pub fn groups_below(group: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = hierarchies().into_iter().map(|root| root.join(group)).filter(|dir| dir.is_dir()).collect();
    let mut next = 0;
    while let Some(dir) = found.get(next).cloned() {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        found.extend(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
        next += 1;
    }
    found
}

pub fn processes_below(group: &Path) -> Vec<i32> {
    let mut pids: Vec<i32> = Vec::new();
    for dir in groups_below(group) {
        let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Arguments joined by spaces; empty for a process that ended.
pub fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

pub fn read_json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
