//! From a question to its answer, with the cluster's names and those of others.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use brain::dns::{Answer, End, Outcome, Question, Search, SearchPaths, Seen, Zone};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use jiff::Timestamp;
use tokio::time::timeout;

use super::forward::Forwarder;
use super::message::{self, Asked, ZoneOf};

/// Of all names of a search: time for two servers, and clients ask again after five seconds.
const SEARCH_DEADLINE: Duration = Duration::from_secs(4);

/// What answers come from; others fill it.
#[derive(Debug, Clone)]
pub struct Known {
    pub zone: Arc<RwLock<Zone>>,
    /// None: clients go through their search paths themselves.
    pub search_paths: Option<Arc<RwLock<SearchPaths>>>,
}

#[derive(Debug)]
pub struct Resolver {
    known: Known,
    forwarder: Forwarder,
    is_synced: AtomicBool,
    turn: AtomicUsize,
    serial: u32,
    answered: AtomicU64,
    forwarded: AtomicU64,
    searched: AtomicU64,
    failed: AtomicU64,
}

/// An answer that is there, or a question for others.
pub enum Local {
    Done(Message),
    /// Others know the name. The reply has what the cluster knows: a name that leads there.
    Elsewhere {
        reply: Message,
        name: String,
    },
    /// There is no such name, which the reply says, and the client has a list of further ones.
    Onward {
        reply: Message,
        search: Search,
    },
}

impl Resolver {
    pub fn new(known: Known, forwarder: Forwarder) -> Resolver {
        Resolver {
            known,
            forwarder,
            is_synced: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            serial: u32::try_from(Timestamp::now().as_second()).unwrap_or_default(),
            answered: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            searched: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    pub fn set_synced(&self, is_synced: bool) {
        self.is_synced.store(is_synced, Ordering::Relaxed);
    }

    pub fn is_synced(&self) -> bool {
        self.is_synced.load(Ordering::Relaxed)
    }

    /// What can be said to a client without asking others.
    pub fn answer(&self, client: IpAddr, asked: &Asked) -> Local {
        self.forwarder.note_if_looping(&asked.name);
        let local = match self.look_up(asked, &asked.name) {
            Local::Done(reply) if reply.metadata.response_code == ResponseCode::NXDomain => match self.search(client, asked) {
                Some(search) => return Local::Onward { reply, search },
                None => Local::Done(reply),
            },
            local => local,
        };
        if let Local::Done(reply) = &local {
            let is_failure = reply.metadata.response_code == ResponseCode::ServFail;
            count(if is_failure { &self.failed } else { &self.answered });
        }
        local
    }

    fn search(&self, client: IpAddr, asked: &Asked) -> Option<Search> {
        let paths = self.known.search_paths.as_ref().filter(|_| self.forwarder.has_servers())?;
        paths.read().unwrap_or_else(PoisonError::into_inner).after(client, &asked.name, message::kind(asked.kind))
    }

    /// What the cluster knows of a name, as a reply to a question that may be for another one.
    fn look_up(&self, asked: &Asked, name: &str) -> Local {
        let mut reply = message::reply(&asked.request);
        let zone = self.known.zone.read().unwrap_or_else(PoisonError::into_inner);
        let outcome = zone.answer(&Question { name, kind: message::kind(asked.kind) });
        let server = zone.server_name();
        let of = ZoneOf { domain: zone.domain(), server: &server, serial: self.serial };
        if outcome != Outcome::NotOurs && !self.is_synced() {
            return Local::Done(message::refusal(&asked.request, ResponseCode::ServFail));
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Outcome::NotOurs => return Local::Elsewhere { reply, name: name.to_owned() },
            Outcome::NoSuchName => message::fill(&mut reply, None, &of, turn),
            Outcome::Found(Answer { continues_at: Some(name), .. }) if !self.forwarder.has_servers() => {
                tracing::debug!(name, "a name leads outside of the cluster, and the node has no resolvers");
                return Local::Done(message::refusal(&asked.request, ResponseCode::ServFail));
            }
            Outcome::Found(answer) => {
                message::fill(&mut reply, Some(&answer), &of, turn);
                if let Some(name) = answer.continues_at {
                    return Local::Elsewhere { reply, name };
                }
            }
        }
        Local::Done(reply)
    }

    /// The whole answer for a client: others are asked, or what they said is remembered.
    pub async fn finish(&self, client: IpAddr, asked: &Asked, local: Local) -> Message {
        match local {
            Local::Done(reply) => reply,
            Local::Elsewhere { reply, name } => match self.ask_others(client, asked, reply, &name).await {
                Some(reply) => {
                    count(&self.forwarded);
                    reply
                }
                None => {
                    count(&self.failed);
                    message::refusal(&asked.request, ResponseCode::ServFail)
                }
            },
            Local::Onward { reply, search } => match timeout(SEARCH_DEADLINE, self.go_on(client, asked, search)).await {
                Ok(Some(found)) => {
                    count(&self.searched);
                    found
                }
                Ok(None) | Err(_) => {
                    count(&self.answered);
                    reply
                }
            },
        }
    }

    async fn ask_others(&self, client: IpAddr, asked: &Asked, mut reply: Message, name: &str) -> Option<Message> {
        let answer = self.forwarder.ask(client, name, asked).await?;
        // A name in the cluster leads there: what it leads to is more than that there is none.
        if reply.answers.is_empty() {
            reply.metadata.response_code = answer.metadata.response_code;
        }
        reply.metadata.authoritative = false;
        reply.metadata.authentic_data = answer.metadata.authentic_data;
        reply.answers.extend(answer.answers);
        reply.authorities.extend(answer.authorities);
        reply.additionals.extend(answer.additionals);
        Some(reply)
    }

    /// Asks for one name of a client's list after the other, as the client would.
    async fn go_on(&self, client: IpAddr, asked: &Asked, mut search: Search) -> Option<Message> {
        loop {
            let reply = match self.look_up(asked, search.name()) {
                Local::Elsewhere { reply, name } => self.ask_others(client, asked, reply, &name).await,
                Local::Done(reply) | Local::Onward { reply, .. } => Some(reply),
            };
            let seen = reply.as_ref().map_or(Seen::Failed, |reply| seen(reply, asked.kind));
            match search.take(seen) {
                None => {}
                Some(End::Nothing) => return None,
                Some(End::Leads) => return message::lead(reply?, search.name()),
            }
        }
    }

    pub async fn look_for_loops(&self) {
        self.forwarder.look_for_loops().await;
    }

    /// As if the question that looks for loops came back.
    #[cfg(test)]
    pub fn play_loop(&self) {
        self.forwarder.play_loop();
    }

    /// In the text format of Prometheus.
    pub fn figures(&self) -> String {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (hits, misses, entries) = self.forwarder.cache_figures();
        let figures = [
            ("node_dns_cluster_answers_total", "counter", "Questions about the cluster's names that were answered.", load(&self.answered)),
            ("node_dns_forwarded_total", "counter", "Questions that the node's resolvers or the cache answered.", load(&self.forwarded)),
            (
                "node_dns_searches_total",
                "counter",
                "Questions that were answered with a later name of the client's list.",
                load(&self.searched),
            ),
            ("node_dns_failures_total", "counter", "Questions that could not be answered.", load(&self.failed)),
            ("node_dns_cache_hits_total", "counter", "Answers from the cache.", hits),
            ("node_dns_cache_misses_total", "counter", "Questions that the cache had no answer for.", misses),
            ("node_dns_cache_entries", "gauge", "Answers in the cache.", entries),
        ];
        figures.iter().fold(String::new(), |mut text, (name, kind, help, value)| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
            text
        })
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn seen(reply: &Message, wanted: RecordType) -> Seen {
    match reply.metadata.response_code {
        ResponseCode::NXDomain => Seen::Missing,
        ResponseCode::NoError if reply.answers.iter().any(|record| record.record_type() == wanted) => Seen::Records,
        ResponseCode::NoError => Seen::Empty,
        _ => Seen::Failed,
    }
}
