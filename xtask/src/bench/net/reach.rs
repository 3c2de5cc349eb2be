//! How long after a client sees that a pod is Ready another node reaches it: by the address of a
//! Service of which it is the only endpoint, and by a headless Service's name.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::super::client::Connection;
use super::super::cluster::Cluster;
use super::super::figures::{Latencies, line};
use super::super::watched;
use super::names::question;
use super::world::Namespace;

const PODS: usize = 60;
const PODS_PATH: &str = "/api/v1/namespaces/default/pods";
const SERVICES_PATH: &str = "/api/v1/namespaces/default/services";
const IMAGE: &str = "everynode.dev/agent:builtin";
/// Where the agent of the image answers.
const PORT: u16 = 9100;
const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 53);
/// Between tries.
const PAUSE: Duration = Duration::from_millis(1);
/// An address that no node knows yet is not answered, and says nothing about the next moment.
const CONNECT_MAX: Duration = Duration::from_millis(20);
const ANSWER_MAX: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(60);
const HEADER_BYTES: usize = 12;

pub fn measure() -> anyhow::Result<()> {
    let cluster = Cluster::up("bench-reach", 1)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().context("cannot start the runtime")?;
    let (mut services, mut names) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let connection = cluster.connect().await?;
        let mut pods = watched::Pods::watch(&connection).await?;
        // The built-in DaemonSets are there a moment after the nodes.
        let client = Namespace::of_process(cluster.agent(&cluster.control_plane())?)?;
        for number in 0..=PODS {
            let times = one(&connection, &mut pods, &client, &cluster.worker(), number).await?;
            // The first one also waits for the built-in DaemonSets.
            if number > 0 {
                services.push(times.0);
                names.push(times.1);
            }
        }
        anyhow::Ok(())
    })?;
    for (what, times) in [("Ready to reached by a Service", services), ("Ready to found by a name", names)] {
        let latencies = Latencies::new(times, Duration::from_secs(1));
        let (p50, p99) = (latencies.ms(0.5), latencies.ms(0.99));
        line(what, &format!("p50 {p50:>6.1} ms, p99 {p99:.1} ms ({} pods, from another node)", latencies.count()));
    }
    Ok(())
}

/// How long after Ready the pod is reached by its Service, and by name.
async fn one(
    connection: &Connection,
    pods: &mut watched::Pods,
    client: &Namespace,
    node: &str,
    number: usize,
) -> anyhow::Result<(Duration, Duration)> {
    let of_pod = json!({"number": number.to_string()});
    let spec = json!({"selector": of_pod, "ports": [{"port": PORT}]});
    let service = create(connection, SERVICES_PATH, &json!({"metadata": {"name": format!("s{number}")}, "spec": spec})).await?;
    let mut headless = spec;
    headless["clusterIP"] = json!("None");
    create(connection, SERVICES_PATH, &json!({"metadata": {"name": format!("h{number}")}, "spec": headless})).await?;
    let address: IpAddr = service["spec"]["clusterIP"].as_str().context("the Service has no address")?.parse()?;
    let name = format!("h{number}.default.svc.cluster.local");
    let (by_address, by_name) = (client.try_clone()?, client.try_clone()?);
    let reached = tokio::task::spawn_blocking(move || by_address.inside(|| until_reached(SocketAddr::new(address, PORT))));
    let found = tokio::task::spawn_blocking(move || by_name.inside(|| until_found(&name)));
    let before = pods.ready(IMAGE);
    create(connection, PODS_PATH, &pod(node, number, &of_pod)).await?;
    pods.until(|pods| pods.ready(IMAGE) > before).await?;
    let ready = Instant::now();
    let after = |at: Instant| at.saturating_duration_since(ready);
    Ok((after(reached.await??), after(found.await??)))
}

async fn create(connection: &Connection, path: &str, object: &Value) -> anyhow::Result<Value> {
    let answer = connection.send(Method::POST, path, "application/json", Bytes::from(object.to_string())).await?;
    let body = answer.into_body().collect().await?.to_bytes();
    serde_json::from_slice(&body).context("an answer is JSON")
}

fn pod(node: &str, number: usize, labels: &Value) -> Value {
    json!({
        "metadata": {"name": format!("p{number}"), "labels": labels},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
            "containers": [{
                "name": "c", "image": IMAGE,
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1},
            }],
        },
    })
}

fn until_reached(address: SocketAddr) -> io::Result<Instant> {
    until("the Service", || TcpStream::connect_timeout(&address, CONNECT_MAX).is_ok())
}

/// Until the answer to the question for the name has a record.
fn until_found(name: &str) -> io::Result<Instant> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(RESOLVER)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    let (mut id, mut buffer) = (0_u16, [0; 512]);
    until("the name", || {
        id = id.wrapping_add(1);
        let asked = question(id, name);
        let answered = socket.send(&asked).and_then(|_| socket.recv(&mut buffer));
        answered.is_ok_and(|length| length > HEADER_BYTES && buffer[..2] == asked[..2] && buffer[6..8] != [0, 0])
    })
}

fn until(what: &str, mut holds: impl FnMut() -> bool) -> io::Result<Instant> {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > DEADLINE {
            return Err(io::Error::other(format!("{what} is not reached")));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(Instant::now())
}
