//! `cargo xtask bench pods`: how long a pod takes from being bound to Running, with its image
//! present, and what agent and shims need.
//!
//! One node of a local cluster, pods of the built-in image, created with `nodeName` set: bound from
//! the beginning. The clock is that of a client that watches over TLS.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::client::Connection;
use super::cluster::Cluster;
use super::figures::{Latencies, line};
use super::{process, watched};

const PODS: &str = "/api/v1/namespaces/default/pods";
const IMAGE: &str = "everynode.dev/agent:builtin";

/// What a kubelet 1.36 with containerd 1.6 and runc took on such a machine, at another time.
const KUBERNETES_ONE_P50_MS: f64 = 214.0;
const KUBERNETES_FIFTY_P50_MS: f64 = 5_200.0;
const KUBERNETES_FIFTY_ALL_MS: f64 = 6_500.0;

#[derive(Args)]
pub struct Pods {
    /// Pods one after another.
    #[arg(long, default_value_t = 30)]
    single: usize,

    /// Pods at once.
    #[arg(long, default_value_t = 50)]
    together: usize,
}

impl Pods {
    pub fn run(self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let cluster = Cluster::up("bench-pods", 0)?;
        line("up: one node Ready", &format!("{:>9.0} ms", begun.elapsed().as_secs_f64() * 1000.0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
        runtime.block_on(self.measure(&cluster))
    }

    async fn measure(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let connection = cluster.connect().await?;
        let mut pods = watched::Pods::watch(&connection).await?;
        let agent = cluster.agent(&cluster.control_plane())?;
        line("agent, idle: resident", &format!("{:>9.1} MB", process::resident_mb(agent)?));

        let mut latencies = Vec::new();
        let begun = Instant::now();
        for number in 0..self.single {
            let before = pods.ready(IMAGE);
            let start = Instant::now();
            connection.create(PODS, &pod(&cluster.control_plane(), &format!("single-{number}"))).await?;
            pods.until(|pods| pods.ready(IMAGE) > before).await?;
            latencies.push(start.elapsed());
        }
        let single = Latencies::new(latencies, begun.elapsed());
        tell("one pod after another, bound to Running", &single, KUBERNETES_ONE_P50_MS);
        line("agent and shims with these pods", &cluster.memory(agent)?);
        remove_all(&connection, &mut pods).await?;

        let start = Instant::now();
        for number in 0..self.together {
            connection.create(PODS, &pod(&cluster.control_plane(), &format!("many-{number}"))).await?;
        }
        let mut latencies = Vec::new();
        for count in 1..=self.together {
            pods.until(|pods| pods.ready(IMAGE) >= count).await?;
            latencies.push(start.elapsed());
        }
        let together = Latencies::new(latencies, start.elapsed());
        tell(&format!("{} pods at once, to Running", self.together), &together, KUBERNETES_FIFTY_P50_MS);
        let all = start.elapsed().as_secs_f64() * 1000.0;
        line(
            "all of them Ready",
            &format!("{all:>9.0} ms   (Kubernetes {KUBERNETES_FIFTY_ALL_MS:.0} ms: {:.1} times as long)", KUBERNETES_FIFTY_ALL_MS / all),
        );
        line("agent and shims with these pods", &cluster.memory(agent)?);
        let start = Instant::now();
        remove_all(&connection, &mut pods).await?;
        line("all of them deleted", &format!("{:>9.0} ms", start.elapsed().as_secs_f64() * 1000.0));
        Ok(())
    }
}

fn tell(what: &str, latencies: &Latencies, kubernetes_ms: f64) {
    let (p50, p99) = (latencies.ms(0.5), latencies.ms(0.99));
    line(
        what,
        &format!("{p50:>9.0} ms   p99 {p99:.0} ms (Kubernetes' p50 {kubernetes_ms:.0} ms: {:.1} times as long)", kubernetes_ms / p50),
    );
}

fn pod(node: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "c", "image": IMAGE, "args": ["sleep", "100000"]}],
        },
    })
}

async fn remove_all(connection: &Connection, pods: &mut watched::Pods) -> anyhow::Result<()> {
    connection.ask(Method::DELETE, PODS, "application/json", json!({"gracePeriodSeconds": 1}).to_string().into()).await?;
    // They leave the picture when they are marked; gone they are when a list is empty.
    pods.until(|pods| pods.by_uid.is_empty()).await?;
    let begun = Instant::now();
    loop {
        let answer = connection.send(Method::GET, &format!("{PODS}?limit=1"), "application/json", bytes::Bytes::new()).await?;
        let body = http_body_util::BodyExt::collect(answer.into_body()).await?.to_bytes();
        let list: Value = serde_json::from_slice(&body).context("a list is JSON")?;
        if list["items"].as_array().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(120), "the pods do not go");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
