//! Watch streams: a position in a kind's event window, filtered, until the client or the clock ends
//! it.
//!
//! The stream is pulled by the connection, which pulls only while the client reads. Nothing is
//! queued for a watcher: one that stops reading stays where it is, and when the window has moved
//! past it, the server answers 410 and ends the watch.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream};
use kinds::encode::encode;
use kinds::status::Status;
use kinds::table::Kind;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Registry;
use super::cache::{CacheEvent, EventKind, event_line};
use super::object::Object;
use crate::request::options::{ListOptions, ReadAt};

/// Kubernetes ends watches that name no timeout after a random half to whole hour; spread so that
/// not all come back at once.
const TIMEOUT_SECONDS_MIN: u64 = 1800;

/// Longer than any watch lasts; more could not be added to the time.
const TIMEOUT_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;

/// Bookmarks come once a minute, and shortly before the end of a watch if there was news since the
/// last one.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);

/// How the objects of events are shown.
pub trait Show: Send + Sync + 'static {
    /// A line of the stream. `name` is the event's type.
    fn line(&self, name: &'static str, event: &CacheEvent, object: &Arc<Object>) -> Bytes;

    /// The line of a bookmark, which carries no object.
    fn bookmark(&self, object: Vec<u8>) -> Bytes {
        event_line("BOOKMARK", &object)
    }
}

/// A watch that is about to start.
pub struct Watcher {
    registry: Arc<Registry>,
    kind: &'static Kind,
    prefix: String,
    options: ListOptions,
    show: Box<dyn Show>,
    position: u64,
    initial: std::vec::IntoIter<Arc<Object>>,
    /// The bookmark that ends the initial events is still due.
    initial_bookmark: bool,
    pending: std::vec::IntoIter<Arc<CacheEvent>>,
    changes: Changes,
    deadline: Instant,
    next_bookmark: Option<Instant>,
    /// Something was sent since the last bookmark.
    news: bool,
    shutdown: watch::Receiver<bool>,
    /// The version after which events follow has come.
    has_started: bool,
    ended: bool,
}

/// What wakes the watcher.
enum Changes {
    Kind(watch::Receiver<u64>),
    /// Only changes of pods on one node.
    Node(Arc<Notify>),
}

impl Registry {
    /// Starts a watch on a kind in a namespace (or in all, if it is empty).
    pub async fn watch(
        self: &Arc<Self>,
        kind: &'static Kind,
        namespace: &str,
        options: ListOptions,
        show: Box<dyn Show>,
        shutdown: watch::Receiver<bool>,
    ) -> Result<Watcher, Status> {
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let cache = self.caches.of(kind);
        let changes = match options.field_equals("spec.nodeName").filter(|node| kind.plural == "pods" && !node.is_empty()) {
            Some(node) => Changes::Node(cache.node_changes(node)),
            None => Changes::Kind(cache.changes()),
        };
        let (position, initial) = self.start_position(kind, &prefix, &options).await?;
        let timeout = match options.timeout_seconds {
            Some(seconds) => Duration::from_secs(seconds.min(TIMEOUT_SECONDS_MAX)),
            None => Duration::from_secs(TIMEOUT_SECONDS_MIN + u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * 7),
        };
        let now = Instant::now();
        let next_bookmark = options.bookmarks.then(|| now + BOOKMARK_PERIOD.min(timeout.saturating_sub(BOOKMARK_BEFORE_END)));
        let initial_bookmark = options.send_initial_events == Some(true) && options.bookmarks;
        Ok(Watcher {
            registry: self.clone(),
            kind,
            prefix,
            show,
            position,
            initial: initial.into_iter(),
            initial_bookmark,
            pending: Vec::new().into_iter(),
            changes,
            deadline: now + timeout,
            next_bookmark,
            news: false,
            shutdown,
            has_started: false,
            ended: false,
            options,
        })
    }

    /// The revision after which events follow, and the objects to send as added before.
    async fn start_position(&self, kind: &Kind, prefix: &str, options: &ListOptions) -> Result<(u64, Vec<Arc<Object>>), Status> {
        let wants_initial = options.send_initial_events.unwrap_or(matches!(options.read_at, ReadAt::Latest | ReadAt::Any));
        match options.read_at {
            ReadAt::Latest => self.caches.wait_for(self.revision()).await,
            ReadAt::Any => {}
            ReadAt::NotOlderThan(revision) | ReadAt::Exactly(revision) => {
                if !wants_initial {
                    return Ok((revision, Vec::new()));
                }
                self.wait_for_future(revision).await?;
            }
        }
        let snapshot = self.caches.of(kind).snapshot(prefix, self.caches.applied());
        let objects = if wants_initial { snapshot.objects.into_iter().filter(|o| options.selects(o)).collect() } else { Vec::new() };
        Ok((snapshot.revision, objects))
    }
}

/// The end of a watch after a version that has not come and does not come soon: the server was put
/// back to an earlier state.
///
/// Waiting on would leave the client deaf. Clients of Kubernetes' own library list anew for the
/// cause, all others for the code 410.
fn from_the_future(asked: u64, too_large: Status) -> Status {
    let mut status = Status::expired(format!(
        "the resourceVersion for the provided watch is too large ({asked}): the server was restored to an earlier state, list anew"
    ));
    status.details = too_large.details;
    status
}

impl Watcher {
    /// The lines of the stream.
    pub fn into_lines(self) -> impl Stream<Item = Bytes> + Send {
        stream::unfold(self, |mut watcher| async move {
            let line = watcher.next_line().await?;
            Some((line, watcher))
        })
    }

    async fn next_line(&mut self) -> Option<Bytes> {
        if let Some(line) = self.wait_for_start().await {
            return Some(line);
        }
        loop {
            if self.ended {
                return None;
            }
            if let Some(line) = self.initial_line() {
                return Some(line);
            }
            if let Some(event) = self.pending.next() {
                self.position = event.revision;
                match self.event_line(&event) {
                    Some(line) => {
                        self.news = true;
                        return Some(line);
                    }
                    None => continue,
                }
            }
            match self.registry.caches.of(self.kind).events_after(self.position) {
                Err(too_old) => {
                    self.ended = true;
                    return Some(error_line(&Status::expired(too_old.to_string())));
                }
                Ok(events) if !events.is_empty() => self.pending = events.into_iter(),
                Ok(_) => match self.wait().await {
                    Woken::Changed => {}
                    Woken::Bookmark => return Some(self.bookmark(self.registry.caches.applied(), false)),
                    Woken::Ended => self.ended = true,
                },
            }
        }
    }

    /// Waits for the version after which the client wants to watch; when it does not come, the line
    /// that says so.
    async fn wait_for_start(&mut self) -> Option<Bytes> {
        if self.has_started || self.ended {
            return None;
        }
        self.has_started = true;
        let registry = self.registry.clone();
        // All arms only wait.
        let refused = tokio::select! {
            waited = registry.wait_for_future(self.position) => waited.err(),
            () = tokio::time::sleep_until(self.deadline) => None,
            _ = self.shutdown.wait_for(|&stopping| stopping) => None,
        };
        refused.map(|status| {
            self.ended = true;
            error_line(&from_the_future(self.position, status))
        })
    }

    fn initial_line(&mut self) -> Option<Bytes> {
        if let Some(object) = self.initial.next() {
            let event = CacheEvent::initial(object.clone());
            return Some(self.show.line(EventKind::Added.name(), &event, &object));
        }
        if std::mem::take(&mut self.initial_bookmark) {
            return Some(self.bookmark(self.position, true));
        }
        None
    }

    /// None when the event is nothing to this watcher.
    fn event_line(&self, event: &CacheEvent) -> Option<Bytes> {
        let selects = |object: &Object| {
            (self.prefix.is_empty() || self.prefix.strip_suffix('/') == Some(object.namespace())) && self.options.selects(object)
        };
        let before = event.previous.as_deref().is_some_and(selects);
        let after = event.kind != EventKind::Deleted && selects(&event.object);
        let name = match (before, after) {
            (false, false) => return None,
            (false, true) => EventKind::Added.name(),
            (true, true) => EventKind::Modified.name(),
            (true, false) => EventKind::Deleted.name(),
        };
        match &event.previous {
            // What left the selection is shown as it was, at the version of the change.
            Some(previous) if name == EventKind::Deleted.name() && event.kind != EventKind::Deleted => {
                let shown = Arc::new(previous.at_revision(event.revision));
                Some(self.show.line(name, event, &shown))
            }
            _ => Some(self.show.line(name, event, &event.object)),
        }
    }

    async fn wait(&mut self) -> Woken {
        let bookmark_at = self.next_bookmark.unwrap_or(self.deadline + BOOKMARK_PERIOD);
        let position = self.position;
        let caches = &self.registry.caches;
        let kind = self.kind;
        let changed = async {
            match &mut self.changes {
                // The channel closes only with the cache, which the registry keeps alive.
                Changes::Kind(changes) => drop(changes.wait_for(|&revision| revision > position).await),
                Changes::Node(notify) => {
                    let notified = notify.notified();
                    // Events that came between the last look and the registration must not be slept
                    // over.
                    if caches.of(kind).events_after(position).is_ok_and(|events| events.is_empty()) {
                        notified.await;
                    }
                }
            }
        };
        // All arms only wait: dropping one loses nothing, the window keeps the events.
        tokio::select! {
            () = changed => Woken::Changed,
            () = tokio::time::sleep_until(bookmark_at) => {
                let at_end = self.deadline - BOOKMARK_BEFORE_END;
                self.next_bookmark = (bookmark_at < at_end).then(|| (bookmark_at + BOOKMARK_PERIOD).min(at_end));
                if self.next_bookmark.is_some() || std::mem::take(&mut self.news) { Woken::Bookmark } else { Woken::Changed }
            }
            () = tokio::time::sleep_until(self.deadline) => Woken::Ended,
            _ = self.shutdown.wait_for(|&stopping| stopping) => Woken::Ended,
        }
    }

    fn bookmark(&self, revision: u64, ends_initial: bool) -> Bytes {
        let mut object = json!({"metadata": {"resourceVersion": revision.to_string()}});
        if ends_initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        if let Some((annotation, zero)) = self.kind.converted_annotation {
            object["metadata"]["annotations"][annotation] = zero.into();
        }
        self.show.bookmark(encode(&self.kind.api_version(), self.kind.kind, &object))
    }
}

enum Woken {
    Changed,
    Bookmark,
    Ended,
}

fn error_line(status: &Status) -> Bytes {
    event_line("ERROR", status.to_value().to_string().as_bytes())
}

/// Objects as they are stored: the bytes that all watchers share.
pub struct ShowObjects;

impl Show for ShowObjects {
    fn line(&self, name: &'static str, event: &CacheEvent, object: &Arc<Object>) -> Bytes {
        if name == event.kind.name() && Arc::ptr_eq(object, &event.object) { event.line() } else { event_line(name, &object.bytes) }
    }
}
