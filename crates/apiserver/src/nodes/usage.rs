//! What nodes and containers use: asked of all agents every 15 seconds. Processor use is the
//! difference of two answers.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use tokio::sync::watch;

use super::forward::Outgoing;
use super::{Endpoint, NodeConnector, is_simulated, kind};
use crate::registry::Registry;

const PERIOD: Duration = Duration::from_secs(15);

/// An agent that takes longer is asked again in the next round.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

const REQUESTS_AT_ONCE_MAX: usize = 16;

/// A node with 500 containers answers with about 400 KB.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What something uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    pub at: Timestamp,
    /// What processor use is the average of.
    pub window: Duration,
    pub cpu_nanocores: u64,
    pub memory_bytes: u64,
}

/// Whose figures: namespace, pod, container; all empty for the node itself.
type Key = (String, String, String);

/// One figure as an agent reported it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Told {
    at_ms: i64,
    cpu_seconds: f64,
    memory_bytes: f64,
}

type Answer = BTreeMap<Key, Told>;

/// The last answer of each node, and what follows from it and the one before.
#[derive(Default)]
pub struct Usage(Mutex<BTreeMap<String, Node>>);

#[derive(Default)]
struct Node {
    last: Answer,
    figures: BTreeMap<Key, Figures>,
}

impl Usage {
    pub fn node(&self, name: &str) -> Option<Figures> {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.get(name)?.figures.get(&Key::default()).cloned()
    }

    /// By container; None when there is nothing of the pod.
    pub fn pod(&self, node: &str, namespace: &str, pod: &str) -> Option<BTreeMap<String, Figures>> {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = (namespace.to_owned(), pod.to_owned(), String::new());
        let of_pod = nodes.get(node)?.figures.range(from..).take_while(|((ns, name, _), _)| ns == namespace && name == pod);
        let containers: BTreeMap<String, Figures> = of_pod.map(|((_, _, name), figures)| (name.clone(), figures.clone())).collect();
        (!containers.is_empty()).then_some(containers)
    }

    fn take(&self, node: &str, answer: Answer) {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let node = nodes.entry(node.to_owned()).or_default();
        node.figures = answer.iter().filter_map(|(key, now)| Some((key.clone(), figures(node.last.get(key)?, now)?))).collect();
        node.last = answer;
    }

    /// Forgets nodes that are gone or do not answer.
    fn retain(&self, answered: &[String]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| answered.contains(name));
    }
}

/// None for something that began anew meanwhile, or for which the agent sent nothing new.
fn figures(before: &Told, now: &Told) -> Option<Figures> {
    let window = Duration::from_millis(u64::try_from(now.at_ms - before.at_ms).ok().filter(|&ms| ms > 0)?);
    let used = now.cpu_seconds - before.cpu_seconds;
    (used >= 0.0).then(|| Figures {
        at: Timestamp::from_millisecond(now.at_ms).unwrap_or_default(),
        window,
        cpu_nanocores: (used / window.as_secs_f64() * 1e9) as u64,
        memory_bytes: now.memory_bytes as u64,
    })
}

/// Collects until `shutdown` turns true.
pub async fn follow(usage: &Usage, registry: &Registry, connector: &NodeConnector, mut shutdown: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Both arms only wait; a round that is dropped at the end is no loss.
        tokio::select! {
            _ = async { ticks.tick().await; collect(usage, registry, connector).await } => {}
            _ = shutdown.wait_for(|&stopping| stopping) => return,
        }
    }
}

/// Asks all nodes once.
pub async fn collect(usage: &Usage, registry: &Registry, connector: &NodeConnector) {
    let caches = &registry.caches;
    let nodes = caches.of(kind()).snapshot("", caches.applied()).objects;
    let endpoints = nodes.iter().filter_map(|object| {
        let node = object.value();
        let endpoint = Endpoint::of(&node).ok().filter(|_| !is_simulated(&node))?;
        Some((object.name().to_owned(), endpoint))
    });
    let endpoints: Vec<(String, Endpoint)> = endpoints.collect();
    let asked = endpoints.into_iter().map(|(name, endpoint)| async move {
        match tokio::time::timeout(ANSWER_TIMEOUT, ask(connector, &endpoint)).await {
            Ok(Some(answer)) => {
                usage.take(&name, answer);
                Some(name)
            }
            Ok(None) | Err(_) => {
                tracing::debug!(node = name, "a node does not tell what it uses");
                None
            }
        }
    });
    let answered: Vec<String> =
        futures::stream::iter(asked).buffer_unordered(REQUESTS_AT_ONCE_MAX).filter_map(std::future::ready).collect().await;
    usage.retain(&answered);
}

async fn ask(connector: &NodeConnector, endpoint: &Endpoint) -> Option<Answer> {
    let answered = connector.request(endpoint, Outgoing::get("/metrics/resource")).await.ok()?;
    if !answered.status().is_success() {
        return None;
    }
    let body = Limited::new(answered.into_body(), ANSWER_BYTES_MAX).collect().await.ok()?;
    Some(parse(std::str::from_utf8(&body.to_bytes()).ok()?))
}

/// Reads what is of use of Prometheus' text format.
fn parse(text: &str) -> Answer {
    let mut answer = Answer::new();
    for (name, labels, value, at_ms) in text.lines().filter_map(parse_line) {
        let label = |wanted: &str| labels.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone()).unwrap_or_default();
        let key = match name {
            "node_cpu_usage_seconds_total" | "node_memory_working_set_bytes" => Key::default(),
            "container_cpu_usage_seconds_total" | "container_memory_working_set_bytes" => {
                (label("namespace"), label("pod"), label("container"))
            }
            _ => continue,
        };
        let told = answer.entry(key).or_default();
        if name.ends_with("seconds_total") {
            told.cpu_seconds = value;
            told.at_ms = at_ms;
        } else {
            told.memory_bytes = value;
        }
    }
    answer
}

type Line<'a> = (&'a str, Vec<(String, String)>, f64, i64);

fn parse_line(line: &str) -> Option<Line<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let (head, tail) = line.rsplit_once('}').unwrap_or_else(|| line.split_once(' ').unwrap_or((line, "")));
    let (name, labels) = head.split_once('{').unwrap_or((head, ""));
    let mut figures = tail.split_whitespace();
    let value = figures.next()?.parse().ok()?;
    let at_ms = figures.next().and_then(|at| at.parse().ok()).unwrap_or_else(|| Timestamp::now().as_millisecond());
    // Names of namespaces, pods and containers have neither commas nor quotes.
    let labels = labels.split(',').filter_map(|label| label.split_once('=')).map(|(k, v)| (k.to_owned(), v.trim_matches('"').to_owned()));
    Some((name, labels.collect(), value, at_ms))
}

/// Whole seconds, as the API writes times.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seconds: f64, at_ms: i64) -> Answer {
        parse(&format!(
            "# TYPE container_cpu_usage_seconds_total counter\n\
             container_cpu_usage_seconds_total{{container=\"c\",namespace=\"ns\",pod=\"p\"}} {seconds} {at_ms}\n\
             container_memory_working_set_bytes{{container=\"c\",namespace=\"ns\",pod=\"p\"}} 2048 {at_ms}\n\
             node_cpu_usage_seconds_total {seconds} {at_ms}\nnode_memory_working_set_bytes 4096 {at_ms}\nscrape_error 0\n"
        ))
    }

    #[test]
    fn use_is_the_difference_of_two_answers() {
        let usage = Usage::default();
        usage.take("n", text(1.0, 10_000));
        assert_eq!(usage.node("n"), None);
        usage.take("n", text(2.5, 20_000));
        let node = usage.node("n").unwrap();
        assert_eq!((node.cpu_nanocores, node.memory_bytes, node.window), (150_000_000, 4096, Duration::from_secs(10)));
        assert_eq!(usage.pod("n", "ns", "p").unwrap()["c"].memory_bytes, 2048);
        assert_eq!(usage.pod("n", "ns", "other"), None);
        // A container that began anew counts from nothing.
        usage.take("n", text(0.5, 30_000));
        assert_eq!(usage.node("n"), None);
        usage.retain(&[]);
        assert_eq!(usage.pod("n", "ns", "p"), None);
    }
}
