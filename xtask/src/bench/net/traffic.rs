//! Traffic: a pod to another one, to a Service, and a client outside to a node port, with our rules
//! and with those in kube-proxy's shape; beside them a pair of links with nothing between.
//!
//! All ways take turns, so that what else the machine does meets all of them. Clients and servers
//! have a CPU each: where the scheduler puts them would be most of the difference between two ways.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::Context;
use net::services::ServiceNetwork;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use super::super::figures::{Latencies, line};
use super::cluster;
use super::proxy_rules;
use super::world::Namespace;

const ROUNDS: u32 = 3;
/// Of each round.
const THROUGHPUT: Duration = Duration::from_secs(1);
const LATENCY: Duration = Duration::from_millis(300);
const CONNECTIONS: Duration = Duration::from_millis(500);
/// What does not come within this time does not come.
const DEADLINE: Duration = Duration::from_secs(5);
const CHUNK_BYTES: usize = 128 << 10;
/// Counted from here: the first connections meet cold caches and have to find their neighbours.
const WARM_UP: usize = 50;

/// The first byte of a connection says what it is for.
const ECHO: u8 = b'e';
const SINK: u8 = b's';

pub fn measure(services: usize, has_nft: bool) -> anyhow::Result<()> {
    let mut worlds = vec![World::new(Rules::None)?, World::new(Rules::Ours(1))?, World::new(Rules::Ours(services))?];
    if has_nft {
        worlds.push(World::new(Rules::Proxy(1))?);
        worlds.push(World::new(Rules::Proxy(services))?);
    }
    compare(ways(&worlds))
}

/// Measures all ways in turns, and prints each with its ratio to the first.
pub fn compare(ways: Vec<Way<'_>>) -> anyhow::Result<()> {
    let mut ways: Vec<(Way<'_>, Figures)> = ways.into_iter().map(|way| (way, Figures::default())).collect();
    for _ in 0..ROUNDS {
        for (way, figures) in &mut ways {
            figures.bytes_per_second += way.throughput().with_context(|| way.failed())? / f64::from(ROUNDS);
            figures.round_trips.extend(way.round_trips().with_context(|| way.failed())?);
            figures.connections.extend(way.connections().with_context(|| way.failed())?);
        }
    }
    let base = ways[0].1.clone();
    for (way, figures) in ways {
        figures.print(&way.what, &base);
    }
    Ok(())
}

enum Rules {
    None,
    Ours(usize),
    Proxy(usize),
}

/// A node with a client's pod and two servers', and a client outside.
struct World {
    rules: Rules,
    pod: Namespace,
    outside: Namespace,
    /// Neighbours without a node between them.
    pair: Option<Namespace>,
    _node: Namespace,
    _network: Option<ServiceNetwork>,
}

impl World {
    fn new(rules: Rules) -> anyhow::Result<World> {
        let node = Namespace::new()?;
        node.inside(|| net::namespace::set_sysctl("ipv4/ip_forward", "1")).context("cannot let the node forward")?;
        let (pod, outside) = (Namespace::new()?, Namespace::new()?);
        node.cable("pod1", "10.244.1.1/24", &pod, "10.244.1.2/24")?;
        node.cable("outside", &format!("{}/24", cluster::NODE_ADDRESS), &outside, "192.168.9.2/24")?;
        for (number, address) in (2..).zip(cluster::PODS) {
            let server = Namespace::new()?;
            node.cable(&format!("pod{number}"), &format!("10.244.{number}.1/24"), &server, &format!("{address}/24"))?;
            serve(&server)?;
        }
        let network = match rules {
            Rules::Ours(services) => {
                let started = ServiceNetwork::start(node.netfilter()?, cluster::settings(), cluster::ports(services));
                Some(started.context("cannot write the rules")?.0)
            }
            Rules::Proxy(services) => {
                proxy_rules::load(&node, services)?;
                None
            }
            Rules::None => None,
        };
        let pair = match rules {
            Rules::None => {
                let (client, server) = (Namespace::new()?, Namespace::new()?);
                client.cable("eth1", &format!("{PAIR_CLIENT}/24"), &server, &format!("{PAIR_SERVER}/24"))?;
                serve(&server)?;
                Some(client)
            }
            _ => None,
        };
        Ok(World { rules, pod, outside, pair, _node: node, _network: network })
    }
}

/// Where there is one CPU only, all run there.
const CLIENT_CPU: usize = 0;
const SERVER_CPU: usize = 1;

fn run_on(cpu: usize) -> io::Result<()> {
    let count = std::thread::available_parallelism()?.get();
    let mut cpus = CpuSet::new();
    cpus.set(cpu.min(count - 1))?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    Ok(())
}

const PAIR_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PAIR_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

fn ways(worlds: &[World]) -> Vec<Way<'_>> {
    let service = SocketAddr::from((cluster::address(0), cluster::PORT));
    let node_port = SocketAddr::from((cluster::NODE_ADDRESS, cluster::NODE_PORT));
    let pod = SocketAddr::from((cluster::PODS[0], cluster::TARGET_PORT));
    let mut ways = Vec::new();
    for world in worlds {
        let mut add = |from, target, what: String| ways.push(Way { what, from, target });
        match &world.rules {
            Rules::None => {
                if let Some(pair) = &world.pair {
                    add(pair, SocketAddr::from((PAIR_SERVER, cluster::TARGET_PORT)), "a pair of links".to_owned());
                }
                add(&world.pod, pod, "pod to pod, no rules".to_owned());
            }
            Rules::Ours(count) => {
                add(&world.pod, pod, format!("pod to pod, {count} Services"));
                add(&world.pod, service, format!("pod to Service, 1 of {count}"));
                add(&world.outside, node_port, format!("client to node port, {count} Services"));
            }
            Rules::Proxy(count) => {
                add(&world.pod, service, format!("kube-proxy's shape: to Service, 1 of {count}"));
                add(&world.outside, node_port, format!("kube-proxy's shape: node port, {count}"));
            }
        }
    }
    ways
}

/// From a client to a server.
pub struct Way<'a> {
    pub what: String,
    pub from: &'a Namespace,
    pub target: SocketAddr,
}

#[derive(Clone, Default)]
struct Figures {
    bytes_per_second: f64,
    round_trips: Vec<Duration>,
    connections: Vec<Duration>,
}

impl Figures {
    fn print(&self, what: &str, base: &Figures) {
        let latencies = |list: &[Duration]| Latencies::new(list.to_vec(), list.iter().sum());
        let us = |list: &[Duration], part| latencies(list).ms(part) * 1000.0;
        let gigabits = self.bytes_per_second * 8.0 / 1e9;
        let (p50, p99) = (us(&self.round_trips, 0.5), us(&self.round_trips, 0.99));
        let (connection, connection_p99) = (us(&self.connections, 0.5), us(&self.connections, 0.99));
        let rate = latencies(&self.connections).per_second();
        line(
            what,
            &format!(
                "{gigabits:>6.2} Gbit/s ({:.2})  echo p50 {p50:.1} us ({:.2}), p99 {p99:.0} us  connect and echo {rate:.0} /s, p50 {connection:.0} us ({:.2}), p99 {connection_p99:.0} us",
                self.bytes_per_second / base.bytes_per_second,
                p50 / us(&base.round_trips, 0.5),
                connection / us(&base.connections, 0.5),
            ),
        );
    }
}

impl Way<'_> {
    fn failed(&self) -> String {
        format!("cannot measure: {}", self.what)
    }

    fn connect(&self, purpose: u8) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&self.target, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        stream.write_all(&[purpose])?;
        Ok(stream)
    }

    /// Bytes in a second, as the server counted them.
    fn throughput(&self) -> io::Result<f64> {
        self.from.inside(|| {
            run_on(CLIENT_CPU)?;
            let mut stream = self.connect(SINK)?;
            let (chunk, began) = (vec![0; CHUNK_BYTES], Instant::now());
            while began.elapsed() < THROUGHPUT {
                stream.write_all(&chunk)?;
            }
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut count = [0; 8];
            stream.read_exact(&mut count)?;
            Ok(u64::from_be_bytes(count) as f64 / began.elapsed().as_secs_f64())
        })
    }

    /// One byte there and back, on one connection.
    fn round_trips(&self) -> io::Result<Vec<Duration>> {
        self.from.inside(|| {
            run_on(CLIENT_CPU)?;
            let mut stream = self.connect(ECHO)?;
            let (mut times, began) = (Vec::new(), Instant::now());
            while began.elapsed() < LATENCY {
                times.push(echo(&mut stream)?);
            }
            Ok(times.split_off(WARM_UP.min(times.len())))
        })
    }

    /// A connection for one byte there and back, one after the other.
    fn connections(&self) -> io::Result<Vec<Duration>> {
        self.from.inside(|| {
            run_on(CLIENT_CPU)?;
            let (mut times, began) = (Vec::new(), Instant::now());
            while began.elapsed() < CONNECTIONS {
                let opened = Instant::now();
                let mut stream = self.connect(ECHO)?;
                echo(&mut stream)?;
                times.push(opened.elapsed());
                // Closed at once: otherwise the ports of the client would be used up.
                setsockopt(&stream.as_fd(), sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
            }
            Ok(times.split_off(WARM_UP.min(times.len())))
        })
    }
}

fn echo(stream: &mut TcpStream) -> io::Result<Duration> {
    let (mut byte, began) = ([0], Instant::now());
    stream.write_all(&[1])?;
    stream.read_exact(&mut byte)?;
    Ok(began.elapsed())
}

/// One connection after the other, on a thread that ends with the process.
pub fn serve(namespace: &Namespace) -> anyhow::Result<()> {
    let listener = namespace.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, cluster::TARGET_PORT)));
    let listener = listener.context("cannot listen in a pod")?;
    std::thread::spawn(move || {
        // Without it, only figures differ more.
        let _ = run_on(SERVER_CPU);
        for stream in listener.incoming().flatten() {
            // Clients end their connections as it suits them.
            let _ = answer(stream);
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    stream.read_exact(&mut buffer[..1])?;
    if buffer[0] == ECHO {
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                length => stream.write_all(&buffer[..length])?,
            }
        }
    }
    let mut count = 0_u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&count.to_be_bytes()),
            length => count += length as u64,
        }
    }
}
