//! Names: node-dns with a zone of many Services, beside unbound and dnsmasq with the same names.
//! Each is a process of its own on a loopback address of a new namespace. And lookups of names
//! outside of the cluster by clients with search paths: one of a pod whose list node-dns goes
//! through, one that does it by itself.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use addons::node_dns;
use anyhow::{Context, bail};
use brain::dns::{SearchPaths, Zone, ZoneSettings};
use brain::model::Key;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::figures::{Latencies, line};
use super::super::process;
use super::cluster;
use super::world::Namespace;

const DOMAIN: &str = "cluster.local";
const ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;
const PORT: u16 = 5300;
/// The resolver of others, in the process of node-dns.
const OTHERS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Where node-dns knows a pod, and where it knows none.
const POD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const NO_POD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);
/// Outside of the cluster; all of them are in the cache soon.
const OUTSIDE: usize = 1000;
/// As a pod of the namespace `default` has them.
const SEARCH_PATHS: [&str; 3] = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"];
const CLIENTS: [usize; 2] = [1, 8];
const ROUNDS: usize = 2;
const ROUND: Duration = Duration::from_secs(1);
/// Clients ask again after so long; here, a question without an answer ends the measurement.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
const START_DEADLINE: Duration = Duration::from_secs(60);
const START_PAUSE: Duration = Duration::from_millis(20);
const MESSAGE_BYTES_MAX: usize = 512;
const HEADER_BYTES: usize = 12;

pub fn measure(services: usize) -> anyhow::Result<()> {
    let dir = Scratch::new()?;
    let mut servers = vec![Server::ours(services)?];
    for (name, start) in [("unbound", Server::unbound as fn(&Path, usize) -> io::Result<Server>), ("dnsmasq", Server::dnsmasq)] {
        match start(&dir.0, services) {
            Ok(server) => servers.push(server),
            Err(error) if error.kind() == io::ErrorKind::NotFound => line(&format!("names, {name}"), "left out: it is not installed"),
            Err(error) => return Err(error).with_context(|| format!("cannot start {name}")),
        }
    }
    for server in &servers {
        server.wait_until_ready()?;
    }
    for clients in CLIENTS {
        let mut rounds: Vec<Round> = servers.iter().map(|_| Round::default()).collect();
        for _ in 0..ROUNDS {
            for (server, round) in servers.iter().zip(&mut rounds) {
                round.add(server.ask(clients, services).with_context(|| format!("cannot ask {}", server.name))?);
            }
        }
        for (server, round) in servers.iter().zip(&rounds) {
            round.print(&format!("names, {}, {clients} clients", server.name), &rounds[0], "question");
        }
        measure_searches(&servers[0], clients)?;
    }
    for server in &servers {
        line(&format!("names, {}: resident", server.name), &format!("{:>9.0} MB", process::resident_mb(server.process.id())?));
    }
    Ok(())
}

/// Lookups of names outside of the cluster, until there is an address.
fn measure_searches(server: &Server, clients: usize) -> anyhow::Result<()> {
    let ways = [("gone through by node-dns", POD), ("gone through by the client", NO_POD)];
    let mut rounds = [Round::default(), Round::default()];
    for _ in 0..ROUNDS {
        for ((way, address), round) in ways.iter().zip(&mut rounds) {
            let lookups =
                server.all_at_once(clients, |seed| Client::new(&server.namespace, *address, seed)?.for_a_while(OUTSIDE, Client::search));
            round.add(lookups.with_context(|| format!("cannot look up names {way}"))?);
        }
    }
    for ((way, _), round) in ways.iter().zip(&rounds) {
        round.print(&format!("search paths, {way}, {clients} clients"), &rounds[0], "lookup");
    }
    Ok(())
}

/// Runs node-dns's server alone, until the process is ended: what another process of this
/// measurement is.
pub fn serve(services: usize) -> anyhow::Result<()> {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(node_dns::threads())
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    tokio.block_on(async {
        let dir = Scratch::new()?;
        let resolv_conf = dir.0.join("resolv.conf");
        std::fs::write(&resolv_conf, format!("nameserver {OTHERS}\n")).context("cannot write a resolv.conf")?;
        let others = UdpSocket::bind((OTHERS, 53)).context("cannot play the resolver of others")?;
        std::thread::spawn(move || answer_for_others(&others));
        let settings = node_dns::Settings {
            domain: DOMAIN.to_owned(),
            own_set: None,
            address: ADDRESS,
            port: PORT,
            ranges: Vec::new(),
            resolv_conf,
            health: None,
            table: None,
            autopath: None,
        };
        let (_sender, shutdown) = watch::channel(false);
        let mut serving = JoinSet::new();
        let search_paths = Some(Arc::new(RwLock::new(search_paths())));
        let known = node_dns::Known { zone: Arc::new(RwLock::new(zone(services))), search_paths };
        let resolver = node_dns::answer_from(known, &settings, &shutdown, &mut serving)?;
        // Whoever started this process ends it without a chance to clean up.
        drop(dir);
        resolver.set_synced(true);
        while serving.join_next().await.is_some() {}
        Ok(())
    })
}

fn zone(services: usize) -> Zone {
    let ranges = ["10.96.0.0/16", "10.244.0.0/16"].map(|range| range.parse().expect("this is a range")).to_vec();
    let mut zone = Zone::new(ZoneSettings { domain: DOMAIN.to_owned(), server: ADDRESS.into(), ranges });
    for number in 0..services {
        let (namespace, name, address) = (cluster::namespace(number), cluster::service(number), cluster::address(number));
        zone.put_namespace(&namespace.as_str().into());
        let port = json!({"name": "http", "port": cluster::PORT, "protocol": "TCP"});
        let service = json!({"spec": {"clusterIP": address, "clusterIPs": [address], "ports": [port]}});
        zone.put_service(&Key::new(&namespace, &name), &service);
        let slice = format!("{name}-1");
        let endpoints: Vec<_> = cluster::endpoints(number).iter().map(|address| json!({"addresses": [address]})).collect();
        let object = json!({
            "metadata": {"namespace": namespace, "name": slice, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "http", "port": cluster::TARGET_PORT, "protocol": "TCP"}],
        });
        zone.put_slice(&Key::new(&namespace, &slice), object);
    }
    zone
}

fn search_paths() -> SearchPaths {
    let mut paths = SearchPaths::new(DOMAIN, &[]).expect("the list is short");
    let pod = json!({"spec": {"dnsPolicy": "ClusterFirst"}, "status": {"phase": "Running", "podIPs": [{"ip": POD}]}});
    paths.put_pod(&Key::new("default", "pod"), &pod);
    paths
}

/// Gives every name one address.
fn answer_for_others(socket: &UdpSocket) {
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        let Some(name_bytes) = buffer[HEADER_BYTES..length].iter().position(|byte| *byte == 0) else { continue };
        let mut answer = buffer[..HEADER_BYTES + name_bytes + 5].to_vec();
        answer[2..HEADER_BYTES].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        answer.extend([0xc0, HEADER_BYTES as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
        let _ = socket.send_to(&answer, client);
    }
}

fn full_name(number: usize) -> String {
    format!("{}.{}.svc.{DOMAIN}", cluster::service(number), cluster::namespace(number))
}

/// A server and the namespace that it answers in.
struct Server {
    name: &'static str,
    namespace: Namespace,
    process: Child,
}

impl Server {
    fn ours(services: usize) -> anyhow::Result<Server> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let services = services.to_string();
        let arguments = ["bench", "net", "--only", "names-server", "--services", &services];
        Server::start("node-dns", program.as_os_str().to_owned(), &arguments).context("cannot start node-dns")
    }

    fn unbound(dir: &Path, services: usize) -> io::Result<Server> {
        let mut text = format!(
            "server:\n interface: {ADDRESS}\n port: {PORT}\n num-threads: 2\n so-reuseport: yes\n username: \"\"\n chroot: \"\"\n \
             directory: \"{dir}\"\n pidfile: \"\"\n use-syslog: no\n do-daemonize: no\n module-config: \"iterator\"\n \
             local-zone: \"{DOMAIN}.\" static\n",
            dir = dir.display()
        );
        for number in 0..services {
            let _ = writeln!(text, " local-data: \"{}. 5 IN A {}\"", full_name(number), cluster::address(number));
        }
        text.push_str("remote-control:\n control-enable: no\n");
        let file = dir.join("unbound.conf");
        std::fs::write(&file, text)?;
        Server::start("unbound", "unbound".into(), &["-d", "-c", &file.to_string_lossy()])
    }

    fn dnsmasq(dir: &Path, services: usize) -> io::Result<Server> {
        let text = (0..services).fold(String::new(), |mut text, number| {
            let _ = writeln!(text, "{} {}", cluster::address(number), full_name(number));
            text
        });
        let file = dir.join("hosts");
        std::fs::write(&file, text)?;
        let (port, address, hosts) =
            (format!("--port={PORT}"), format!("--listen-address={ADDRESS}"), format!("--addn-hosts={}", file.display()));
        let plain = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--pid-file="];
        let ours = ["--user=root", "--local-ttl=5", &port, &address, &hosts];
        Server::start("dnsmasq", "dnsmasq".into(), &[&plain[..], &ours].concat())
    }

    fn start(name: &'static str, program: std::ffi::OsString, arguments: &[&str]) -> io::Result<Server> {
        let namespace = Namespace::new().map_err(io::Error::other)?;
        let process = namespace
            .inside(|| Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn())?;
        Ok(Server { name, namespace, process })
    }

    fn wait_until_ready(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut client = Client::new(&self.namespace, ADDRESS, 1)?;
        while client.ask(0).is_err() {
            if began.elapsed() > START_DEADLINE {
                bail!("{} does not answer", self.name);
            }
            std::thread::sleep(START_PAUSE);
        }
        Ok(())
    }

    /// All clients at once, each with one question at a time.
    fn ask(&self, clients: usize, services: usize) -> anyhow::Result<Round> {
        self.all_at_once(clients, |seed| Client::new(&self.namespace, ADDRESS, seed)?.for_a_while(services, Client::ask))
    }

    fn all_at_once(&self, clients: usize, ask: impl Fn(u64) -> io::Result<Vec<Duration>> + Sync) -> anyhow::Result<Round> {
        let cpu = process::cpu_seconds(self.process.id())?;
        let began = Instant::now();
        let times: Vec<io::Result<Vec<Duration>>> = std::thread::scope(|scope| {
            let ask = &ask;
            let threads: Vec<_> = (0..clients).map(|seed| scope.spawn(move || ask(seed as u64))).collect();
            threads.into_iter().map(|thread| thread.join().expect("clients do not panic")).collect()
        });
        let elapsed = began.elapsed();
        let times = times.into_iter().collect::<io::Result<Vec<_>>>()?.concat();
        Ok(Round { times, elapsed, cpu_seconds: process::cpu_seconds(self.process.id())? - cpu })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Default)]
struct Round {
    times: Vec<Duration>,
    elapsed: Duration,
    /// Of the server.
    cpu_seconds: f64,
}

impl Round {
    fn add(&mut self, other: Round) {
        self.times.extend(other.times);
        self.elapsed += other.elapsed;
        self.cpu_seconds += other.cpu_seconds;
    }

    fn cpu_us(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.times.len() as f64
    }

    fn print(&self, what: &str, first: &Round, unit: &str) {
        let latencies = Latencies::new(self.times.clone(), self.elapsed);
        let first_rate = first.times.len() as f64 / first.elapsed.as_secs_f64();
        let (rate, p50, p99, cpu) = (latencies.per_second(), latencies.ms(0.5) * 1000.0, latencies.ms(0.99) * 1000.0, self.cpu_us());
        let ratio = rate / first_rate;
        line(what, &format!("{rate:>9.0} /s ({ratio:.2})  p50 {p50:.0} us, p99 {p99:.0} us; the server's CPU {cpu:.1} us a {unit}"));
    }
}

struct Client {
    socket: UdpSocket,
    random: u64,
    id: u16,
}

impl Client {
    fn new(namespace: &Namespace, address: Ipv4Addr, seed: u64) -> io::Result<Client> {
        let socket = namespace.inside(|| UdpSocket::bind((address, 0)))?;
        socket.connect(SocketAddr::new(IpAddr::V4(ADDRESS), PORT))?;
        socket.set_read_timeout(Some(ANSWER_DEADLINE))?;
        Ok(Client { socket, random: seed, id: 0 })
    }

    fn for_a_while(&mut self, names: usize, ask: fn(&mut Client, usize) -> io::Result<Duration>) -> io::Result<Vec<Duration>> {
        let (mut times, began) = (Vec::new(), Instant::now());
        while began.elapsed() < ROUND {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            times.push(ask(self, (self.random >> 33) as usize % names)?);
        }
        Ok(times)
    }

    /// Fails when the answer is not the Service's address.
    fn ask(&mut self, number: usize) -> io::Result<Duration> {
        let began = Instant::now();
        let answer = self.answer(&full_name(number))?;
        let elapsed = began.elapsed();
        let is_right = answer.ends_with(&cluster::address(number).octets());
        if is_right { Ok(elapsed) } else { Err(io::Error::other(format!("a wrong answer for {}", full_name(number)))) }
    }

    /// Asks with each path in turn, as libraries do; fails when there is no address in the end.
    fn search(&mut self, number: usize) -> io::Result<Duration> {
        let wanted = format!("host{number}.www.example.org");
        let began = Instant::now();
        let with_paths = SEARCH_PATHS.iter().map(|path| format!("{wanted}.{path}"));
        for name in with_paths.chain([wanted.clone()]) {
            if self.answer(&name)?.ends_with(&[192, 0, 2, 7]) {
                return Ok(began.elapsed());
            }
        }
        Err(io::Error::other(format!("no address for {wanted}")))
    }

    fn answer(&mut self, name: &str) -> io::Result<Vec<u8>> {
        self.id = self.id.wrapping_add(1);
        let question = question(self.id, name);
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        self.socket.send(&question)?;
        let length = self.socket.recv(&mut buffer)?;
        let answer = &buffer[..length];
        let is_answer = answer.len() > HEADER_BYTES && answer[..2] == question[..2];
        if is_answer { Ok(answer.to_vec()) } else { Err(io::Error::other(format!("another answer than that for {name}"))) }
    }
}

/// For an address (type A), as libraries ask without EDNS.
pub fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("labels are short"));
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Scratch> {
        let path = std::env::temp_dir().join(format!("everynode-bench-net-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let (Some(parent), Some(name)) = (self.0.parent(), self.0.file_name()) {
            let _ = runtime::trees::detach_and_remove(parent, name);
        }
    }
}
