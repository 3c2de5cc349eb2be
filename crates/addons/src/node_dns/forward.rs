//! Names of others: asked of the node's own resolvers, and kept for a while.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use wire::Quota;

use super::Settings;
use super::message::{Asked, absolute};

const DNS_PORT: u16 = 53;
/// As resolv.conf has them at most.
const SERVERS_MAX: usize = 3;
/// Of one server; then the next one is asked.
const SERVER_DEADLINE: Duration = Duration::from_secs(2);
/// Times that all servers are asked.
const ROUNDS: usize = 2;
/// Questions to others under way at once, and those of one client; one more fails.
const QUESTIONS_MAX: usize = 1000;
const QUESTIONS_PER_CLIENT_MAX: usize = 100;
/// As in kubeadm's configuration of CoreDNS.
const KEPT_MAX: Duration = Duration::from_secs(30);
const ENTRIES_MAX: usize = 10_000;
/// Between looks for a loop, while there is one.
const LOOP_PERIOD: Duration = Duration::from_secs(60);
/// Of all answers, as they travel. In memory they take a few times that.
const BYTES_MAX: usize = 8 << 20;
/// Of one answer: larger ones are asked for each time.
const ANSWER_BYTES_MAX: usize = 8 << 10;
const UDP_BYTES_MAX: usize = 4096;
const UDP_BYTES_OFFERED: u16 = 1232;

#[derive(Debug)]
pub struct Forwarder {
    servers: Vec<SocketAddr>,
    under_way: Quota,
    cache: Mutex<Cache>,
    hits: AtomicU64,
    misses: AtomicU64,
    /// A name that only this process knows. Who gets it as a question is asked by itself.
    probe: String,
    is_looping: AtomicBool,
    is_looking: AtomicBool,
    came_back: AtomicBool,
}

impl Forwarder {
    /// The servers of resolv.conf, without this one.
    pub fn new(settings: &Settings) -> Forwarder {
        let text = std::fs::read_to_string(&settings.resolv_conf).unwrap_or_else(|error| {
            tracing::warn!(%error, path = %settings.resolv_conf.display(), "cannot read which resolvers the node has");
            String::new()
        });
        let servers = servers(&text, settings.address.into());
        if servers.is_empty() {
            tracing::warn!("the node has no resolvers: only names of the cluster can be answered");
        }
        Forwarder::of(servers)
    }

    pub(super) fn of(servers: Vec<SocketAddr>) -> Forwarder {
        let random: [u64; 2] = [rand(), rand()];
        Forwarder {
            servers,
            under_way: Quota::new(QUESTIONS_MAX, QUESTIONS_PER_CLIENT_MAX),
            cache: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            probe: format!("{:x}.{:x}.loop-check.everynode.dev", random[0], random[1]),
            is_looping: AtomicBool::new(false),
            is_looking: AtomicBool::new(false),
            came_back: AtomicBool::new(false),
        }
    }

    pub fn has_servers(&self) -> bool {
        !self.servers.is_empty()
    }

    /// Hits, misses, entries.
    pub fn cache_figures(&self) -> (u64, u64, u64) {
        let entries = lock(&self.cache).entries.len() as u64;
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed), entries)
    }

    /// None when no server answers, or too much is under way.
    pub async fn ask(&self, client: IpAddr, name: &str, asked: &Asked) -> Option<Message> {
        let wants_signatures = asked.request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let is_unchecked = asked.request.metadata.checking_disabled;
        let key = CacheKey { name: name.to_owned(), kind: asked.kind, wants_signatures, is_unchecked };
        if let Some(kept) = lock(&self.cache).get(&key, Instant::now()) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Some(kept);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        if self.is_looping.load(Ordering::Relaxed) {
            return None;
        }
        let _place = self.under_way.take(client)?;
        let answer = self.ask_servers(&question(&key)?).await?;
        lock(&self.cache).put(key, answer.clone(), Instant::now());
        Some(answer)
    }

    async fn ask_servers(&self, question: &Message) -> Option<Message> {
        let mut last = None;
        for server in self.servers.iter().cycle().take(self.servers.len() * ROUNDS) {
            let mut question = question.clone();
            question.metadata.id = rand() as u16;
            match timeout(SERVER_DEADLINE, ask_server(*server, &question)).await {
                // A server that failed may not be the only one.
                Ok(Ok(answer)) if answer.metadata.response_code == ResponseCode::ServFail => last = Some(answer),
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%error, %server, "a resolver of the node cannot be asked"),
                Err(_) => tracing::debug!(%server, "a resolver of the node does not answer"),
            }
        }
        last
    }

    /// Asks for a name that is not there: when the question comes back here, forwarding would never
    /// end. Looks again while there is a loop.
    pub async fn look_for_loops(&self) {
        let key = CacheKey { name: self.probe.clone(), kind: RecordType::HINFO, wants_signatures: false, is_unchecked: false };
        let Some(question) = question(&key) else { return };
        loop {
            self.came_back.store(false, Ordering::Relaxed);
            self.is_looking.store(true, Ordering::Relaxed);
            let _ = self.ask_servers(&question).await;
            self.is_looking.store(false, Ordering::Relaxed);
            let came_back = self.came_back.load(Ordering::Relaxed);
            if self.is_looping.swap(came_back, Ordering::Relaxed) && !came_back {
                tracing::info!("the node's resolvers do not send questions back any more");
            }
            if !came_back {
                return;
            }
            tokio::time::sleep(LOOP_PERIOD).await;
        }
    }

    /// As if the question that looks for loops came back while it is looked for.
    #[cfg(test)]
    pub fn play_loop(&self) {
        self.is_looking.store(true, Ordering::Relaxed);
        self.note_if_looping(&self.probe);
    }

    pub fn note_if_looping(&self, name: &str) {
        if name != self.probe || !self.is_looking.load(Ordering::Relaxed) {
            return;
        }
        self.came_back.store(true, Ordering::Relaxed);
        if !self.is_looping.swap(true, Ordering::Relaxed) {
            tracing::error!(
                servers = ?self.servers,
                "the node's resolvers send questions back here: names outside of the cluster are not answered; \
                 give the node other resolvers in its resolv.conf"
            );
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers that a third party cannot guess.
fn rand() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // Each state has keys of its own, from the system's random numbers.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

fn servers(text: &str, own: IpAddr) -> Vec<SocketAddr> {
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let addresses = words.filter_map(|words| match words[..] {
        ["nameserver", address, ..] => address.parse::<IpAddr>().ok(),
        _ => None,
    });
    addresses.filter(|address| *address != own).take(SERVERS_MAX).map(|address| SocketAddr::new(address, DNS_PORT)).collect()
}

fn question(key: &CacheKey) -> Option<Message> {
    let mut question = Message::new(0, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.metadata.checking_disabled = key.is_unchecked;
    question.add_query(Query::query(absolute(&key.name)?, key.kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES_OFFERED);
    edns.set_dnssec_ok(key.wants_signatures);
    question.set_edns(edns);
    Some(question)
}

/// Over UDP; once more over TCP when the answer did not fit.
async fn ask_server(server: SocketAddr, question: &Message) -> std::io::Result<Message> {
    let bytes = question.to_vec().map_err(std::io::Error::other)?;
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // A socket of its own: the port, too, is one that others have to guess.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; UDP_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What is no answer to this question is from another sender: the right one may still come.
        let Some(answer) = Message::from_vec(&buffer[..length]).ok().filter(|answer| is_answer(answer, question)) else { continue };
        return if answer.metadata.truncation { ask_by_tcp(server, question, &bytes).await } else { Ok(answer) };
    }
}

async fn ask_by_tcp(server: SocketAddr, question: &Message, bytes: &[u8]) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(std::io::Error::other)?;
    if is_answer(&answer, question) { Ok(answer) } else { Err(std::io::Error::other("the answer is to another question")) }
}

fn is_answer(answer: &Message, question: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == question.metadata.id
        && answer.queries == question.queries
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CacheKey {
    name: String,
    kind: RecordType,
    wants_signatures: bool,
    is_unchecked: bool,
}

#[derive(Debug, Default)]
struct Cache {
    entries: HashMap<CacheKey, Entry>,
    /// In the order in which they were put: the oldest goes first.
    order: VecDeque<(CacheKey, Instant)>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    answer: Message,
    bytes: usize,
    put: Instant,
    until: Instant,
}

impl Cache {
    fn get(&self, key: &CacheKey, now: Instant) -> Option<Message> {
        let entry = self.entries.get(key).filter(|entry| now < entry.until)?;
        let age = u32::try_from(now.duration_since(entry.put).as_secs()).unwrap_or(u32::MAX);
        let mut answer = entry.answer.clone();
        for record in answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answer)
    }

    fn put(&mut self, key: CacheKey, answer: Message, now: Instant) {
        let Some(kept) = kept_for(&answer) else { return };
        let Some(bytes) = answer.to_vec().ok().map(|bytes| bytes.len()).filter(|bytes| *bytes <= ANSWER_BYTES_MAX) else { return };
        while self.order.len() >= ENTRIES_MAX || self.bytes + bytes > BYTES_MAX {
            let Some((oldest, put)) = self.order.pop_front() else { break };
            if self.entries.get(&oldest).is_some_and(|entry| entry.put == put) {
                self.remove(&oldest);
            }
        }
        self.remove(&key);
        self.order.push_back((key.clone(), now));
        self.bytes += bytes;
        self.entries.insert(key, Entry { answer, bytes, put: now, until: now + kept });
    }

    fn remove(&mut self, key: &CacheKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }
}

/// How long an answer is right: as long as its shortest record; that there is none, as long as the
/// zone's own record says (RFC 2308). None for failures.
fn kept_for(answer: &Message) -> Option<Duration> {
    if !matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain) || answer.metadata.truncation {
        return None;
    }
    let shortest = match answer.answers.iter().map(|record| record.ttl).min() {
        Some(shortest) => shortest,
        None => answer.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        })?,
    };
    (shortest > 0).then(|| Duration::from_secs(shortest.into()).min(KEPT_MAX))
}
