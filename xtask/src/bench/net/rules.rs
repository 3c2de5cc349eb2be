//! Rules: writing those of many Services, changing one of them, and starting anew.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use containers::ServicePort;
use net::services::{Applied, ServiceNetwork};

use super::super::figures::{Latencies, line};
use super::super::process;
use super::cluster;
use super::proxy_rules;
use super::world::Namespace;

/// Of each kind of change.
const CHANGES: usize = 200;
/// Each takes the other rules far longer.
const CHANGES_OF_PROXY: usize = 20;

pub fn measure(services: usize, has_nft: bool) -> anyhow::Result<()> {
    let node = Namespace::new()?;
    let (mut network, cold) = cold_start(&node, services)?;
    let added = changes(&mut network, services)?;
    drop(network);
    restart(&node, services)?;
    if !has_nft {
        line("rules in the shape of kube-proxy's", "left out: nft is not installed");
        return Ok(());
    }
    let listed = node.run("nft", &["list", "table", "ip", cluster::TABLE], "")?;
    line("nft list table", &format!("{:>9.0} ms", ms(listed.elapsed)));
    proxy(services, &cold, &added)
}

/// What one kind of work took.
struct Took {
    all: Vec<Duration>,
    in_kernel: Vec<Duration>,
}

impl Took {
    fn new() -> Took {
        Took { all: Vec::new(), in_kernel: Vec::new() }
    }

    fn add(&mut self, all: Duration, in_kernel: Duration) {
        self.all.push(all);
        self.in_kernel.push(in_kernel);
    }

    fn p50_ms(&self) -> (f64, f64) {
        (sorted(&self.all).ms(0.5), sorted(&self.in_kernel).ms(0.5))
    }

    fn print(&self, what: &str) {
        let (all, kernel) = (sorted(&self.all), sorted(&self.in_kernel));
        let (p50, p99, kernel_p50, kernel_p99) = (all.ms(0.5), all.ms(0.99), kernel.ms(0.5), kernel.ms(0.99));
        line(
            what,
            &format!("{p50:>9.3} ms   p99 {p99:.3} ms; in the kernel {kernel_p50:.3} ms, p99 {kernel_p99:.3} ms ({} times)", all.count()),
        );
    }
}

fn sorted(durations: &[Duration]) -> Latencies {
    Latencies::new(durations.to_vec(), durations.iter().sum())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn cold_start(node: &Namespace, services: usize) -> anyhow::Result<(ServiceNetwork, Took)> {
    let ports = cluster::ports(services);
    let before = process::resident_mb(std::process::id())?;
    let (network, applied, elapsed) = start(node, ports)?;
    let after = process::resident_mb(std::process::id())?;
    let (all, kernel, endpoints) = (ms(elapsed), ms(applied.in_kernel), cluster::ENDPOINTS);
    let what = format!("cold start, {services} Services x {endpoints}");
    line(&what, &format!("{all:>9.0} ms   of which the kernel {kernel:.0} ms ({} messages)", applied.messages));
    line("resident memory before and after", &format!("{before:>9.0} MB   {after:.0} MB"));
    let mut took = Took::new();
    took.add(elapsed, applied.in_kernel);
    Ok((network, took))
}

fn start(node: &Namespace, ports: super::Ports) -> anyhow::Result<(ServiceNetwork, Applied, Duration)> {
    let (socket, settings, began) = (node.netfilter()?, cluster::settings(), Instant::now());
    let (network, applied) = ServiceNetwork::start(socket, settings, ports).context("cannot write the rules")?;
    Ok((network, applied, began.elapsed()))
}

/// One Service comes, an endpoint of another changes, the first one goes. Answers what the first
/// took.
fn changes(network: &mut ServiceNetwork, services: usize) -> anyhow::Result<Took> {
    let (mut added, mut replaced, mut removed) = (Took::new(), Took::new(), Took::new());
    for round in 0..CHANGES {
        let new = services + round;
        change(network, new, Some(cluster::port(new)), &mut added)?;
        let number = (round * 47) % services;
        let [stays, _] = cluster::endpoints(number);
        change(network, number, Some(cluster::to(number, [stays, cluster::endpoints(new)[1]])), &mut replaced)?;
        change(network, new, None, &mut removed)?;
        network.apply(vec![(cluster::name(number), Some(cluster::port(number)))]).context("cannot change the rules back")?;
    }
    added.print("one Service added");
    replaced.print("one endpoint replaced");
    removed.print("one Service removed");
    Ok(added)
}

fn change(network: &mut ServiceNetwork, number: usize, port: Option<ServicePort>, took: &mut Took) -> anyhow::Result<()> {
    let began = Instant::now();
    let applied = network.apply(vec![(cluster::name(number), port)]).context("cannot change the rules")?;
    took.add(began.elapsed(), applied.in_kernel);
    Ok(())
}

fn restart(node: &Namespace, services: usize) -> anyhow::Result<()> {
    let (_network, applied, elapsed) = start(node, cluster::ports(services))?;
    line("restart", &format!("{:>9.0} ms   {} messages", ms(elapsed), applied.messages));
    if applied.messages == 0 { Ok(()) } else { bail!("a restart changed rules although nothing was new") }
}

/// The program's own time is in its figures, as it is in kube-proxy's; in the kernel, CPU time.
fn proxy(services: usize, cold: &Took, added: &Took) -> anyhow::Result<()> {
    let node = Namespace::new()?;
    let run = proxy_rules::load(&node, services)?;
    let (all, kernel) = (ms(run.elapsed), ms(run.in_kernel));
    let (our_all, our_kernel) = cold.p50_ms();
    line(
        "in kube-proxy's shape: cold load",
        &format!(
            "{all:>9.0} ms   of which the kernel {kernel:.0} ms; {:.1} times ours, in the kernel {:.1} times",
            all / our_all,
            kernel / our_kernel
        ),
    );
    let mut theirs = Took::new();
    for round in 0..CHANGES_OF_PROXY {
        let run = proxy_rules::add_one(&node, services + round)?;
        theirs.add(run.elapsed, run.in_kernel);
    }
    theirs.print("in kube-proxy's shape: one Service added");
    let ((all, kernel), (our_all, our_kernel)) = (theirs.p50_ms(), added.p50_ms());
    line("  as many times ours", &format!("{:>9.0}      in the kernel {:.0}", all / our_all, kernel / our_kernel));
    Ok(())
}
