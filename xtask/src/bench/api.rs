//! `cargo xtask bench api`: what the API server does in a second, and what it needs for it.
//!
//! The server is the release build in a process of its own; requests come from this process, over
//! TLS on the loopback interface. Both share the machine, so that the figures are those of server
//! and client together. Every phase is bounded in time and count.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use futures::future::try_join_all;
use http::Method;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::client::{Connection, Connector};
use super::figures::{Latencies, line};
use super::{objects, process};
use crate::server::Server;

const PODS: &str = "/api/v1/namespaces/bench/pods";
const SERVICES: &str = "/api/v1/namespaces/bench/services";
/// As many as large clusters have.
const SERVICES_MAX: usize = 5_000;
const CONFIG_MAPS: &str = "/api/v1/namespaces/bench/configmaps";
const MERGE_PATCH: &str = "application/merge-patch+json";

const IN_FLIGHT: usize = 64;
const LISTS: usize = 5;

/// Watches on one connection; the server allows 200.
const WATCHES_PER_CONNECTION: usize = 100;
/// Changes that watchers see one after another, and as fast as they come.
const CHANGES_PACED: usize = 20;
const CHANGES_PACE: Duration = Duration::from_millis(250);
const CHANGES_AT_ONCE: usize = 100;
/// Names of changes have six digits, and each phase numbers its own.
const CHANGES_MAX: usize = CHANGES_PACED + CHANGES_AT_ONCE;

/// No phase takes longer, whatever happens.
const PHASE_MAX: Duration = Duration::from_secs(120);

#[derive(Args)]
pub struct Api {
    #[arg(long, default_value_t = 10_000)]
    pods: usize,

    #[arg(long, default_value_t = 1_000)]
    watchers: usize,

    /// How long each of the phases takes that could go on forever.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

impl Api {
    pub fn run(self) -> anyhow::Result<()> {
        let started = Instant::now();
        let server = Server::start()?;
        line("start to ready", &format!("{:>9.0} ms", started.elapsed().as_secs_f64() * 1000.0));
        line("resident after start", &format!("{:>9.1} MB", process::resident_mb(server.pid())?));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
        runtime.block_on(self.measure(&server))
    }

    async fn measure(&self, server: &Server) -> anyhow::Result<()> {
        let connector = Connector::new(&server.kubeconfig(), &server.address)?;
        let connection = connector.connect().await?;
        let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}});
        connection.create("/api/v1/namespaces", &namespace).await?;
        let pods = self.creates(&connection, server).await?;
        line(&format!("resident with {pods} pods"), &format!("{:>9.1} MB", process::resident_mb(server.pid())?));
        self.gets(&connection, pods).await?;
        self.status_patches(&connection, pods).await?;
        lists(&connection, pods).await?;
        self.services(&connection, server).await?;
        self.watches(&connector, &connection).await?;
        line("resident after the watches", &format!("{:>9.1} MB", process::resident_mb(server.pid())?));
        Ok(())
    }

    fn phase(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// Creates the pods, first one after another; returns how many there are.
    async fn creates(&self, connection: &Connection, server: &Server) -> anyhow::Result<usize> {
        let create = |number: usize| {
            let connection = connection.clone();
            async move { connection.create(PODS, &objects::pod(number)).await.map(drop) }
        };
        let alone = drive(1, 0..self.pods / 5, self.phase(), create).await?;
        alone.print("create, 1 in flight");
        let cpu_before = process::cpu_seconds(server.pid())?;
        let many = drive(IN_FLIGHT, alone.count()..self.pods, PHASE_MAX, create).await?;
        many.print(&format!("create, {IN_FLIGHT} in flight"));
        let cpu = (process::cpu_seconds(server.pid())? - cpu_before) * 1000.0 / many.count() as f64;
        line("CPU of the server for 1,000 creates", &format!("{cpu:>9.2} s"));
        Ok(alone.count() + many.count())
    }

    /// Services, each of which gets an address.
    async fn services(&self, connection: &Connection, server: &Server) -> anyhow::Result<()> {
        let create = |number: usize| {
            let connection = connection.clone();
            async move { connection.create(SERVICES, &objects::service(number)).await.map(drop) }
        };
        let cpu_before = process::cpu_seconds(server.pid())?;
        let many = drive(IN_FLIGHT, 0..SERVICES_MAX, PHASE_MAX, create).await?;
        many.print(&format!("create a Service, {IN_FLIGHT} in flight"));
        let cpu = (process::cpu_seconds(server.pid())? - cpu_before) * 1000.0 / many.count() as f64;
        line("CPU of the server for 1,000 Services", &format!("{cpu:>9.2} s"));
        Ok(())
    }

    async fn gets(&self, connection: &Connection, pods: usize) -> anyhow::Result<()> {
        for in_flight in [1, IN_FLIGHT] {
            let get = |number: usize| {
                let connection = connection.clone();
                async move { connection.get(&format!("{PODS}/node-agent-{:06}", number % pods)).await.map(drop) }
            };
            drive(in_flight, 0..usize::MAX, self.phase(), get).await?.print(&format!("get, {in_flight} in flight"));
        }
        Ok(())
    }

    async fn status_patches(&self, connection: &Connection, pods: usize) -> anyhow::Result<()> {
        for (first, in_flight) in [(0, 1), (1 << 20, IN_FLIGHT)] {
            let patch = |number: usize| {
                let connection = connection.clone();
                let (path, body) = (format!("{PODS}/node-agent-{:06}/status", number % pods), objects::pod_status(number).to_string());
                async move { connection.ask(Method::PATCH, &path, MERGE_PATCH, body.into()).await.map(drop) }
            };
            drive(in_flight, first..usize::MAX, self.phase(), patch).await?.print(&format!("status patch, {in_flight} in flight"));
        }
        Ok(())
    }

    async fn watches(&self, connector: &Connector, connection: &Connection) -> anyhow::Result<()> {
        let seen = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let mut watchers = Vec::new();
        for first in (0..self.watchers).step_by(WATCHES_PER_CONNECTION) {
            let shared = connector.connect().await?;
            for _ in first..self.watchers.min(first + WATCHES_PER_CONNECTION) {
                let response = shared.send(Method::GET, &format!("{CONFIG_MAPS}?watch=true"), "", Bytes::new()).await?;
                watchers.push(tokio::spawn(watch(response.into_body(), seen.clone())));
            }
        }
        line(&format!("open {} watches", self.watchers), &format!("{:>9.2} s", started.elapsed().as_secs_f64()));

        let mut sent = Vec::with_capacity(CHANGES_MAX);
        for number in 0..CHANGES_PACED {
            sent.push(Instant::now());
            connection.create(CONFIG_MAPS, &objects::change(number)).await?;
            tokio::time::sleep_until((sent[number] + CHANGES_PACE).into()).await;
        }
        wait_for(&seen, CHANGES_PACED * self.watchers).await?;
        let started = Instant::now();
        for number in CHANGES_PACED..CHANGES_MAX {
            sent.push(Instant::now());
            connection.create(CONFIG_MAPS, &objects::change(number)).await?;
        }
        wait_for(&seen, CHANGES_MAX * self.watchers).await?;
        let elapsed = started.elapsed();

        let (mut paced, mut at_once) = (Vec::new(), Vec::new());
        for watcher in watchers {
            for (number, at) in watcher.await.context("a watcher panicked")?? {
                let delays = if number < CHANGES_PACED { &mut paced } else { &mut at_once };
                delays.push(at.saturating_duration_since(sent[number]));
            }
        }
        let paced = Latencies::new(paced, elapsed);
        line("a change to all watchers, from its POST on", &format!("{:>9.1} ms p50, {:.1} ms p99", paced.ms(0.5), paced.ms(0.99)));
        Latencies::new(at_once, elapsed).print(&format!("events of {CHANGES_AT_ONCE} changes, one after another"));
        line("until all watchers have them", &format!("{:>9.2} s", elapsed.as_secs_f64()));
        Ok(())
    }
}

/// Performs the numbered requests with so many in flight, until they or the time are used up.
async fn drive<F, R>(in_flight: usize, numbers: std::ops::Range<usize>, time: Duration, request: F) -> anyhow::Result<Latencies>
where
    F: Fn(usize) -> R,
    R: Future<Output = anyhow::Result<()>>,
{
    let next = AtomicUsize::new(numbers.start);
    let started = Instant::now();
    let worker = || async {
        let mut latencies = Vec::new();
        while started.elapsed() < time {
            // Not `fetch_add` alone: a number that is taken must be used, or there would be gaps.
            let Ok(number) = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < numbers.end).then_some(n + 1)) else { break };
            let began = Instant::now();
            request(number).await?;
            latencies.push(began.elapsed());
        }
        anyhow::Ok(latencies)
    };
    let latencies = try_join_all((0..in_flight).map(|_| worker())).await?.concat();
    Ok(Latencies::new(latencies, started.elapsed()))
}

/// Reads events until it has seen all changes; returns when each was there.
async fn watch(mut body: hyper::body::Incoming, seen: Arc<AtomicUsize>) -> anyhow::Result<Vec<(usize, Instant)>> {
    let (mut events, mut rest) = (Vec::with_capacity(CHANGES_MAX), Vec::new());
    while events.len() < CHANGES_MAX {
        let frame = body.frame().await.context("the watch ended early")??;
        rest.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            if let Some(number) = objects::change_number(&rest[..end]) {
                events.push((number, Instant::now()));
                seen.fetch_add(1, Ordering::Relaxed);
            }
            rest.drain(..=end);
        }
    }
    Ok(events)
}

async fn wait_for(seen: &AtomicUsize, events: usize) -> anyhow::Result<()> {
    const POLL: Duration = Duration::from_millis(1);
    let deadline = Instant::now() + PHASE_MAX;
    while seen.load(Ordering::Relaxed) < events {
        if Instant::now() > deadline {
            bail!("watchers have {} of {events} events", seen.load(Ordering::Relaxed));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn lists(connection: &Connection, pods: usize) -> anyhow::Result<()> {
    let (bytes, seconds) = list(connection, PODS).await?;
    let megabytes = bytes as f64 / 1e6;
    line(
        &format!("list of {pods} pods"),
        &format!("{seconds:>9.3} s     {megabytes:.1} MB, {:.0} MB/s, {} bytes a pod", megabytes / seconds, bytes / pods),
    );
    let plain = copy_over_loopback(bytes).await?;
    line("the same bytes copied and sent without TLS", &format!("{plain:>9.3} s     a list takes {:.1} times as long", seconds / plain));
    let (bytes, seconds) = list(connection, &format!("{PODS}?labelSelector=canary%3Dyes")).await?;
    let selected = pods.div_ceil(objects::SELECTED_ONE_IN);
    line(&format!("list with a label selector ({selected} pods)"), &format!("{seconds:>9.3} s     {:.1} MB", bytes as f64 / 1e6));
    Ok(())
}

/// Bytes and seconds of the median of some lists.
async fn list(connection: &Connection, path: &str) -> anyhow::Result<(usize, f64)> {
    let mut runs = Vec::new();
    for _ in 0..LISTS {
        let began = Instant::now();
        let bytes = connection.get(path).await?;
        runs.push((began.elapsed(), bytes));
    }
    runs.sort();
    let (elapsed, bytes) = runs[LISTS / 2];
    Ok((bytes, elapsed.as_secs_f64()))
}

/// Seconds that it takes to copy so many bytes once and to send them over TCP within the machine:
/// what no list can be faster than by much.
async fn copy_over_loopback(bytes: usize) -> anyhow::Result<f64> {
    let source = vec![b'x'; bytes];
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen")?;
    let address = listener.local_addr()?;
    let mut runs = Vec::new();
    for _ in 0..LISTS {
        let receiver = tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            let mut buffer = vec![0; 1 << 20];
            while stream.read(&mut buffer).await? > 0 {}
            anyhow::Ok(())
        });
        let (mut stream, _) = listener.accept().await?;
        let began = Instant::now();
        stream.write_all(&std::hint::black_box(&source).clone()).await?;
        drop(stream);
        receiver.await.context("the receiver panicked")??;
        runs.push(began.elapsed());
    }
    runs.sort();
    Ok(runs[LISTS / 2].as_secs_f64())
}
