//! Events as objects: repeated ones are counted, many similar ones are combined, and no component
//! may flood the store with them.
//!
//! The rules are those of client-go's event correlator (`tools/record/events_cache.go`): the same
//! event again raises its count; more than ten similar ones within ten minutes become one whose
//! message begins "(combined from similar events)"; and of one source about one object 25 are let
//! through at once, then one in five minutes. Events with an action are those of the newer API,
//! which only counts repetitions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kinds::decode::{format_micro_time, format_time};
use serde_json::{Value, json};

use crate::model::Key;
use crate::request::{EVENTS, Event, Request, Verb};

/// More similar events than this within the window are combined.
const SIMILAR_MAX: usize = 10;
const SIMILAR_WINDOW: SignedDuration = SignedDuration::from_mins(10);

/// Events of one source about one object: at once, and then one each period.
const BURST: f64 = 25.0;
const REFILL_PERIOD: SignedDuration = SignedDuration::from_mins(5);

/// What is remembered of sources and events; the oldest are forgotten beyond it.
const REMEMBERED_MAX: usize = 4096;

/// What was sent lately.
#[derive(Debug, Default)]
pub struct Correlator {
    similar: Recent<Similar>,
    sent: Recent<Sent>,
    sources: Recent<Tokens>,
    /// Makes names differ that are made within the same nanosecond.
    made: u64,
}

#[derive(Debug, Default)]
struct Similar {
    messages: BTreeSet<String>,
    last: Timestamp,
}

#[derive(Debug)]
struct Sent {
    key: Key,
    count: u64,
    first: Timestamp,
}

#[derive(Debug)]
struct Tokens {
    left: f64,
    at: Timestamp,
}

/// A map that forgets what was put into it first.
#[derive(Debug)]
struct Recent<T> {
    entries: BTreeMap<Arc<str>, T>,
    order: VecDeque<Arc<str>>,
}

impl<T> Default for Recent<T> {
    fn default() -> Recent<T> {
        Recent { entries: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<T> Recent<T> {
    fn entry(&mut self, key: String, new: impl FnOnce() -> T) -> &mut T {
        let key: Arc<str> = key.into();
        if !self.entries.contains_key(&key) {
            if self.order.len() >= REMEMBERED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.entries.entry(key).or_insert_with(new)
    }
}

impl Correlator {
    /// The request that records an event; None when it is one too many. `host` is the machine that
    /// says so.
    pub fn request(&mut self, event: &Event, host: &str, now: Timestamp) -> Option<Request> {
        let source = format!("{}/{}", event.component, event.about.uid);
        let is_new_api = event.action.is_some();
        let mut message = event.message.clone();
        let part = event.about.field_path.as_deref().unwrap_or_default();
        let mut same = format!("{source}/{part}/{}/{}/{message}", event.reason, event.event_type.text());
        if !is_new_api {
            let key = format!("{source}/{}/{}", event.reason, event.event_type.text());
            let similar = self.similar.entry(key.clone(), Similar::default);
            if now.duration_since(similar.last) > SIMILAR_WINDOW {
                similar.messages.clear();
            }
            similar.last = now;
            similar.messages.insert(message.clone());
            if similar.messages.len() > SIMILAR_MAX {
                // Only that there are too many matters, not which.
                similar.messages.pop_first();
                message = format!("(combined from similar events): {message}");
                same = key;
            }
            if !self.sources.entry(source, || Tokens { left: BURST, at: now }).take(now) {
                return None;
            }
        }
        self.made += 1;
        let name = format!("{}.{:016x}", event.about.key.name, now.as_nanosecond() as u64 ^ self.made);
        let namespace = if event.about.key.namespace.is_empty() { "default".into() } else { event.about.key.namespace.clone() };
        let fresh = Key { namespace, name: name.into() };
        let sent = self.sent.entry(same, || Sent { key: fresh.clone(), count: 0, first: now });
        sent.count += 1;
        let request = match sent.count {
            1 => Request::new(EVENTS, fresh, Verb::Create(Arc::new(object(event, &sent.key, &message, host, now)))),
            _ => Request::new(EVENTS, sent.key.clone(), Verb::Strategic(repetition(event, sent, &message, now))),
        };
        Some(request)
    }

    /// The event that is counted was forgotten by the server: the next one is made anew.
    pub fn forget(&mut self, key: &Key) {
        self.sent.entries.retain(|_, sent| sent.key != *key);
        let entries = &self.sent.entries;
        self.sent.order.retain(|same| entries.contains_key(same));
    }
}

impl Tokens {
    fn take(&mut self, now: Timestamp) -> bool {
        let passed = now.duration_since(self.at).as_secs_f64() / REFILL_PERIOD.as_secs_f64();
        self.left = (self.left + passed).min(BURST);
        self.at = now;
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }
}

fn object(event: &Event, key: &Key, message: &str, host: &str, now: Timestamp) -> Value {
    let about = &event.about;
    let mut involved =
        json!({"kind": about.resource.kind, "name": about.key.name, "uid": about.uid, "apiVersion": about.resource.api_version()});
    if !about.key.namespace.is_empty() {
        involved["namespace"] = json!(about.key.namespace);
    }
    if let Some(path) = &about.field_path {
        involved["fieldPath"] = json!(path);
    }
    if about.resource_version > 0 {
        involved["resourceVersion"] = json!(about.resource_version.to_string());
    }
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": key.name, "namespace": key.namespace},
        "involvedObject": involved,
        "reason": event.reason,
        "message": message,
        "type": event.event_type.text(),
        "reportingComponent": event.component,
        "reportingInstance": "",
    });
    match event.action {
        Some(action) => {
            object["action"] = json!(action);
            object["eventTime"] = json!(format_micro_time(now));
            object["reportingInstance"] = json!(format!("{}-{host}", event.component));
        }
        None => {
            object["source"] = json!({"component": event.component});
            if let Some(host) = &event.host {
                object["source"]["host"] = json!(host);
                object["reportingInstance"] = json!(host);
            }
            object["firstTimestamp"] = json!(format_time(now));
            object["lastTimestamp"] = json!(format_time(now));
            object["count"] = json!(1);
        }
    }
    object
}

fn repetition(event: &Event, sent: &Sent, message: &str, now: Timestamp) -> Value {
    match event.action {
        Some(_) => {
            json!({"series": {"count": sent.count, "lastObservedTime": format_micro_time(now)}})
        }
        None => {
            json!({"count": sent.count, "lastTimestamp": format_time(now), "firstTimestamp": format_time(sent.first), "message": message})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{PODS, Regarding};

    fn event(message: &str) -> Event {
        let about = Regarding { resource: PODS, key: Key::new("ns", "web"), uid: "u".into(), resource_version: 3, field_path: None };
        Event {
            about,
            event_type: crate::request::EventType::Normal,
            reason: "R".into(),
            message: message.to_owned(),
            action: None,
            component: "c",
            host: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a small number of seconds is a time")
    }

    #[test]
    fn the_same_event_again_raises_its_count() {
        let mut correlator = Correlator::default();
        let first = correlator.request(&event("m"), "h", at(1)).expect("it is let through");
        let again = correlator.request(&event("m"), "h", at(2)).expect("it is let through");
        assert!(matches!(first.verb, Verb::Create(_)));
        assert_eq!(again.key, first.key);
        let Verb::Strategic(patch) = again.verb else { panic!("not a patch: {again:?}") };
        assert_eq!(patch["count"], 2);
    }

    #[test]
    fn the_eleventh_similar_event_is_combined() {
        let mut correlator = Correlator::default();
        let messages: Vec<String> = (0..12)
            .map(|n| match correlator.request(&event(&format!("m{n}")), "h", at(1)).expect("it is let through").verb {
                Verb::Create(object) => object["message"].as_str().unwrap_or_default().to_owned(),
                Verb::Strategic(patch) => patch["message"].as_str().unwrap_or_default().to_owned() + &format!(" {}", patch["count"]),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(messages[9], "m9");
        assert_eq!(messages[10], "(combined from similar events): m10");
        assert_eq!(messages[11], "(combined from similar events): m11 2");
    }

    #[test]
    fn a_flood_about_one_object_is_cut_to_25() {
        let mut correlator = Correlator::default();
        let sent = (0..1000).filter(|n| correlator.request(&event(&format!("m{n}")), "h", at(1)).is_some()).count();
        assert_eq!(sent, 25);
        assert!(correlator.request(&event("later"), "h", at(302)).is_some());
    }
}
