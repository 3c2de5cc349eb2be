//! From a question to its answer, with the cluster's names and those of others.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use brain::dns::{Answer, Outcome, Question, Zone};
use hickory_proto::op::{Message, ResponseCode};
use jiff::Timestamp;

use super::forward::Forwarder;
use super::message::{self, Asked, ZoneOf};

#[derive(Debug)]
pub struct Resolver {
    zone: Arc<RwLock<Zone>>,
    forwarder: Forwarder,
    is_synced: AtomicBool,
    turn: AtomicUsize,
    serial: u32,
    answered: AtomicU64,
    forwarded: AtomicU64,
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
}

impl Resolver {
    pub fn new(zone: Arc<RwLock<Zone>>, forwarder: Forwarder) -> Resolver {
        Resolver {
            zone,
            forwarder,
            is_synced: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            serial: u32::try_from(Timestamp::now().as_second()).unwrap_or_default(),
            answered: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    pub fn set_synced(&self, is_synced: bool) {
        self.is_synced.store(is_synced, Ordering::Relaxed);
    }

    pub fn is_synced(&self) -> bool {
        self.is_synced.load(Ordering::Relaxed)
    }

    /// What can be said without asking others.
    pub fn answer(&self, asked: &Asked) -> Local {
        self.forwarder.note_if_looping(&asked.name);
        let mut reply = message::reply(&asked.request);
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
        let outcome = zone.answer(&Question { name: &asked.name, kind: message::kind(asked.kind) });
        let server = zone.server_name();
        let of = ZoneOf { domain: zone.domain(), server: &server, serial: self.serial };
        if outcome != Outcome::NotOurs && !self.is_synced() {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return Local::Done(message::refusal(&asked.request, ResponseCode::ServFail));
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Outcome::NotOurs => return Local::Elsewhere { reply, name: asked.name.clone() },
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
        self.answered.fetch_add(1, Ordering::Relaxed);
        Local::Done(reply)
    }

    /// Asks others for a client, or remembers what they said.
    pub async fn ask_others(&self, client: IpAddr, asked: &Asked, mut reply: Message, name: &str) -> Message {
        match self.forwarder.ask(client, name, asked).await {
            Some(answer) => {
                self.forwarded.fetch_add(1, Ordering::Relaxed);
                // A name in the cluster leads there: what it leads to is more than that there is
                // none.
                if reply.answers.is_empty() {
                    reply.metadata.response_code = answer.metadata.response_code;
                }
                reply.metadata.authoritative = false;
                reply.metadata.authentic_data = answer.metadata.authentic_data;
                reply.answers.extend(answer.answers);
                reply.authorities.extend(answer.authorities);
                reply.additionals.extend(answer.additionals);
                reply
            }
            None => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                message::refusal(&asked.request, ResponseCode::ServFail)
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
