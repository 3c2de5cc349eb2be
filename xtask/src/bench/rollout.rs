//! `cargo xtask bench rollout`: how long a DaemonSet takes over N simulated nodes, and what the
//! server needs for it.
//!
//! The clock is that of a client that watches the pods over TLS: from its POST or PATCH until it
//! has seen every pod Ready. CPU, memory and writes are those of the server's process, which also
//! plays the nodes.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Args;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::client::{Connection, Connector};
use super::figures::line;
use super::process;
use super::watched::Pods;
use crate::server::Server;

const SETS: &str = "/apis/apps/v1/namespaces/default/daemonsets";

/// What kube-apiserver, etcd, controller-manager and scheduler 1.36 took together on a machine with
/// two cores, with their rate limits off: nodes, seconds from apply to all Ready, seconds of an
/// update with maxUnavailable 100 %.
const KUBERNETES: [(usize, f64, f64); 2] = [(1_000, 4.8, 9.0), (5_000, 25.8, 48.8)];

/// No phase takes longer, whatever happens.
const PHASE_MAX: Duration = Duration::from_secs(600);
/// How often the nodes are counted while they register.
const COUNT_PERIOD: Duration = Duration::from_millis(100);

#[derive(Args)]
pub struct Rollout {
    /// Sizes of the fleet, one after another, each with a server of its own.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,5000,10000")]
    nodes: Vec<usize>,
}

impl Rollout {
    pub fn run(self) -> anyhow::Result<()> {
        for nodes in self.nodes {
            println!("--- {nodes} nodes");
            let started = Instant::now();
            let server = Server::start_with(&["--simulate", &nodes.to_string()])?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
            runtime.block_on(measure(&server, nodes, started))?;
        }
        Ok(())
    }
}

async fn measure(server: &Server, nodes: usize, started: Instant) -> anyhow::Result<()> {
    let connection = Connector::new(&server.kubeconfig(), &server.address)?.connect().await?;
    let phase = Phase::begin(server, &connection).await?;
    wait_for_nodes(&connection, nodes).await?;
    phase.report("nodes registered, Ready, untainted", started, nodes, None).await?;
    let mut pods = Pods::watch(&connection).await?;
    let reference = KUBERNETES.iter().find(|(known, ..)| *known == nodes);

    let phase = Phase::begin(server, &connection).await?;
    let begun = Instant::now();
    connection.create(SETS, &daemon_set()).await?;
    pods.until(|pods| pods.ready("agent:1") == nodes).await?;
    phase.report("apply to all Ready", begun, nodes, reference.map(|(_, apply, _)| *apply)).await?;

    for (image, percent) in [("agent:2", "100%"), ("agent:3", "10%")] {
        let phase = Phase::begin(server, &connection).await?;
        let begun = Instant::now();
        update(&connection, image, percent).await?;
        pods.until(|pods| pods.ready(image) == nodes).await?;
        let kubernetes = reference.filter(|_| percent == "100%").map(|(_, _, update)| *update);
        phase.report(&format!("image update, maxUnavailable {percent}"), begun, nodes, kubernetes).await?;
    }
    joins(&connection, &mut pods).await?;
    rests(server, &connection).await
}

/// One node more: from its POST until its pod is Ready.
async fn joins(connection: &Connection, pods: &mut Pods) -> anyhow::Result<()> {
    let mut milliseconds = Vec::new();
    for number in 0..5 {
        let name = format!("late-{number}");
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastHeartbeatTime": null});
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"everynode.dev/simulated": "true", "kubernetes.io/hostname": name}},
            "status": {"conditions": [ready], "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
        });
        let begun = Instant::now();
        connection.create("/api/v1/nodes", &node).await?;
        pods.until(|pods| pods.by_uid.values().any(|pod| pod.node == name && pod.ready)).await?;
        milliseconds.push(begun.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    milliseconds.sort_by(f64::total_cmp);
    line("one node joins, until its pod is Ready", &format!("{:>9.0} ms   (worst of 5: {:.0} ms)", milliseconds[2], milliseconds[4]));
    Ok(())
}

/// What the server writes by itself once all is done: heartbeats only.
async fn rests(server: &Server, connection: &Connection) -> anyhow::Result<()> {
    let seconds = 5;
    let phase = Phase::begin(server, connection).await?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let cpu = process::cpu_seconds(server.pid())? - phase.cpu;
    let writes = revision(connection).await? - phase.revision;
    let text = format!("{:>9.1} %    of a core, {:.0} writes/s", cpu * 100.0 / seconds as f64, writes as f64 / seconds as f64);
    line("at rest", &text);
    Ok(())
}

/// What was used up to the beginning of a phase.
struct Phase<'a> {
    server: &'a Server,
    connection: &'a Connection,
    cpu: f64,
    revision: u64,
}

impl<'a> Phase<'a> {
    async fn begin(server: &'a Server, connection: &'a Connection) -> anyhow::Result<Phase<'a>> {
        Ok(Phase { server, connection, cpu: process::cpu_seconds(server.pid())?, revision: revision(connection).await? })
    }

    async fn report(&self, what: &str, begun: Instant, nodes: usize, kubernetes: Option<f64>) -> anyhow::Result<()> {
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = process::cpu_seconds(self.server.pid())? - self.cpu;
        let writes = revision(self.connection).await? - self.revision;
        let memory = process::peak_mb(self.server.pid())?;
        let ratio = kubernetes.map_or_else(String::new, |theirs| format!("; Kubernetes {theirs} s: {:.1} times as long", theirs / seconds));
        let each = cpu * 1000.0 / nodes as f64;
        line(what, &format!("{seconds:>9.2} s    CPU {cpu:.2} s ({each:.2} ms a node), {writes} writes, peak {memory:.0} MB{ratio}"));
        Ok(())
    }
}

/// The store's revision: it counts writes.
async fn revision(connection: &Connection) -> anyhow::Result<u64> {
    let list = read(connection, "/api/v1/namespaces?limit=1").await?;
    let text = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).context("a list without resourceVersion")?;
    text.parse().context("the resourceVersion is no number")
}

async fn read(connection: &Connection, path: &str) -> anyhow::Result<Value> {
    let answer = connection.send(Method::GET, path, "application/json", Bytes::new()).await?;
    serde_json::from_slice(&answer.into_body().collect().await?.to_bytes()).with_context(|| format!("{path} does not answer with JSON"))
}

async fn wait_for_nodes(connection: &Connection, wanted: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let list = read(connection, "/api/v1/nodes?resourceVersion=0").await?;
        let nodes = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let settled = nodes.iter().filter(|node| node["spec"].get("taints").is_none()).count();
        if settled == wanted {
            return Ok(());
        }
        ensure!(begun.elapsed() < PHASE_MAX, "only {settled} of {wanted} nodes are there");
        tokio::time::sleep(COUNT_PERIOD).await;
    }
}

fn daemon_set() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "agent", "image": "agent:1", "args": ["--config", "/etc/agent/config.yaml"],
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                    "volumeMounts": [{"name": "log", "mountPath": "/var/log", "readOnly": true}],
                }],
                "volumes": [{"name": "log", "hostPath": {"path": "/var/log"}}],
            }},
        },
    })
}

async fn update(connection: &Connection, image: &str, percent: &str) -> anyhow::Result<()> {
    let patch = json!([
        {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image},
        {"op": "replace", "path": "/spec/updateStrategy/rollingUpdate/maxUnavailable", "value": percent},
    ]);
    connection.ask(Method::PATCH, &format!("{SETS}/agent"), "application/json-patch+json", patch.to_string().into()).await?;
    let set = read(connection, &format!("{SETS}/agent")).await?;
    ensure!(set.pointer("/spec/template/spec/containers/0/image").and_then(Value::as_str) == Some(image), "the image was not changed");
    Ok(())
}
