//! The watch cache: for each kind the current objects, indexed for selectors, and a window of
//! recent events.
//!
//! One thread follows the store and applies its batches; readers take snapshots under a short read
//! lock. A watcher is a position in the window, not a queue: a slow one falls out of it and gets
//! the answer to list again, and no other watcher waits for it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use kinds::table::{KINDS, Kind};
use store::{Backend, Batch, Change, Entry, Revision, StoreError, WatchError};
use tokio::sync::{Notify, watch};

use super::object::Object;

/// Bounds of a kind's event window. Sized so that a client that pauses for seconds in a rollout
/// over 10,000 nodes still finds its place.
const WINDOW_EVENTS_MAX: usize = 50_000;
const WINDOW_BYTES_MAX: usize = 32 << 20;

/// Watchers take at most this many events at a time, so that the read lock is held briefly.
const EVENTS_PER_TURN_MAX: usize = 500;

/// So many of the newest events keep their line of a watch stream for the next watcher; those that
/// are further behind make their own. More than watchers take at a time, and little against the
/// window, which would be twice as large with all lines in it.
const LINES_KEPT_MAX: usize = 2 * EVENTS_PER_TURN_MAX;

/// Batches whose watchers are woken together, if they arrive together.
const BATCHES_PER_SIGNAL_MAX: usize = 64;

/// What happened to an object.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

/// A change of one object.
#[derive(Debug)]
pub struct CacheEvent {
    pub revision: u64,
    pub kind: EventKind,
    /// The object after the change; for a deletion its last state, with the revision of the
    /// deletion.
    pub object: Arc<Object>,
    pub previous: Option<Arc<Object>>,
    line: Mutex<Line>,
}

/// The event as a line of a watch stream.
#[derive(Debug)]
enum Line {
    /// No watcher has asked for it.
    Unmade,
    Made(Bytes),
    /// The event is not new any more; a watcher that asks makes it anew.
    NotKept,
}

impl CacheEvent {
    /// Stands for an object that was there before the watch began.
    pub fn initial(object: Arc<Object>) -> CacheEvent {
        CacheEvent { revision: object.revision, kind: EventKind::Added, object, previous: None, line: Mutex::new(Line::NotKept) }
    }

    /// The event as a line of a watch stream, encoded once for all watchers that keep up.
    pub fn line(&self) -> Bytes {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if let Line::Made(made) = &*line {
            return made.clone();
        }
        let made = event_line(self.kind.name(), &self.object.bytes);
        if let Line::Unmade = *line {
            *line = Line::Made(made.clone());
        }
        made
    }

    fn forget_line(&self) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = Line::NotKept;
    }
}

impl EventKind {
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Added => "ADDED",
            EventKind::Modified => "MODIFIED",
            EventKind::Deleted => "DELETED",
        }
    }
}

/// A line of a watch stream.
pub fn event_line(name: &str, object: &[u8]) -> Bytes {
    [&b"{\"type\":\""[..], name.as_bytes(), b"\",\"object\":", object, b"}\n"].concat().into()
}

/// The objects and recent events of one kind.
pub struct KindCache {
    state: RwLock<KindState>,
    changed: watch::Sender<u64>,
    /// Wakes the watchers that only want pods of one node; thousands of agents do.
    by_node: Mutex<HashMap<String, std::sync::Weak<Notify>>>,
}

#[derive(Default)]
struct KindState {
    objects: BTreeMap<String, Arc<Object>>,
    events: VecDeque<Arc<CacheEvent>>,
    event_bytes: usize,
    /// Every event after this revision is in the window.
    complete_after: u64,
    /// Revision of the last event.
    revision: u64,
}

/// The watchers to wake after changes of a kind.
#[derive(Default)]
struct Wake {
    revision: u64,
    nodes: Vec<Arc<Notify>>,
}

/// A consistent view of a kind.
pub struct Snapshot {
    pub revision: u64,
    pub objects: Vec<Arc<Object>>,
}

/// The revision asked for is no longer in the window.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct TooOld {
    pub asked: u64,
    pub oldest: u64,
}

impl KindCache {
    fn new(revision: u64) -> KindCache {
        let state = KindState { complete_after: revision, revision, ..KindState::default() };
        KindCache { state: RwLock::new(state), changed: watch::channel(revision).0, by_node: Mutex::default() }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, KindState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object at a local key.
    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.read().objects.get(key).cloned()
    }

    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// The revision of the newest change of the kind.
    pub fn last_change(&self) -> u64 {
        self.read().revision
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All objects whose key starts with `prefix`; `applied` is a revision up to which this cache
    /// is known to be complete.
    pub fn snapshot(&self, prefix: &str, applied: u64) -> Snapshot {
        let state = self.read();
        Snapshot { revision: applied.max(state.revision), objects: in_prefix(&state.objects, prefix).cloned().collect() }
    }

    /// The objects as they were at `revision`, by undoing the events since.
    pub fn snapshot_at(&self, prefix: &str, revision: u64) -> Result<Vec<Arc<Object>>, TooOld> {
        let state = self.read();
        if revision < state.complete_after {
            return Err(TooOld { asked: revision, oldest: state.complete_after });
        }
        let mut objects = state.objects.clone();
        for event in state.events.iter().rev().take_while(|e| e.revision > revision) {
            let key = super::object::local_key(event.object.namespace(), event.object.name());
            match &event.previous {
                Some(previous) => objects.insert(key, previous.clone()),
                None => objects.remove(&key),
            };
        }
        Ok(in_prefix(&objects, prefix).cloned().collect())
    }

    /// The next events after `revision`, a bounded number of them.
    pub fn events_after(&self, revision: u64) -> Result<Vec<Arc<CacheEvent>>, TooOld> {
        let state = self.read();
        if revision < state.complete_after {
            return Err(TooOld { asked: revision, oldest: state.complete_after });
        }
        let start = state.events.partition_point(|e| e.revision <= revision);
        let mut turn: Vec<_> = state.events.range(start..).take(EVENTS_PER_TURN_MAX).cloned().collect();
        // A revision is atomic: its events are not parted.
        if let Some(last) = turn.last().map(|e| e.revision) {
            turn.extend(state.events.range(start + turn.len()..).take_while(|e| e.revision == last).cloned());
        }
        Ok(turn)
    }

    /// Signals each change of the kind with its revision.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Signals changes of the pods of one node, before or after the change.
    pub fn node_changes(&self, node: &str) -> Arc<Notify> {
        let mut by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notify) = by_node.get(node).and_then(std::sync::Weak::upgrade) {
            return notify;
        }
        by_node.retain(|_, notify| notify.strong_count() > 0);
        let notify = Arc::new(Notify::new());
        by_node.insert(node.to_owned(), Arc::downgrade(&notify));
        notify
    }

    /// Forgets all events up to `revision`.
    pub fn compact(&self, revision: u64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        while state.events.front().is_some_and(|e| e.revision <= revision) {
            state.drop_oldest();
        }
        state.complete_after = state.complete_after.max(revision);
    }

    /// Applies the events of a revision; the caller wakes those that wait for them afterwards.
    fn apply(&self, events: Vec<CacheEvent>, wake: &mut Wake) {
        let Some(revision) = events.last().map(|e| e.revision) else { return };
        self.add_concerned_nodes(&events, &mut wake.nodes);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            state.apply(event);
        }
        wake.revision = revision;
    }

    /// Wakes every watcher of the kind.
    fn wake_all(&self, revision: u64) {
        self.changed.send_replace(revision);
        let by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        by_node.values().filter_map(std::sync::Weak::upgrade).for_each(|notify| notify.notify_waiters());
    }

    fn signal(&self, wake: Wake) {
        self.changed.send_replace(wake.revision);
        wake.nodes.iter().for_each(|notify| notify.notify_waiters());
    }

    fn add_concerned_nodes(&self, events: &[CacheEvent], nodes: &mut Vec<Arc<Notify>>) {
        let by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        if by_node.is_empty() {
            return;
        }
        let objects = events.iter().flat_map(|e| std::iter::once(&e.object).chain(&e.previous));
        nodes.extend(objects.filter_map(|object| by_node.get(object.field("spec.nodeName"))?.upgrade()));
    }
}

fn in_prefix<'a>(objects: &'a BTreeMap<String, Arc<Object>>, prefix: &str) -> impl Iterator<Item = &'a Arc<Object>> {
    let owned = prefix.to_owned();
    objects.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(&owned)).map(|(_, object)| object)
}

impl KindState {
    fn apply(&mut self, event: CacheEvent) {
        let key = super::object::local_key(event.object.namespace(), event.object.name());
        match event.kind {
            EventKind::Deleted => self.objects.remove(&key),
            EventKind::Added | EventKind::Modified => self.objects.insert(key, event.object.clone()),
        };
        self.revision = event.revision;
        self.event_bytes += event.object.bytes.len();
        self.events.push_back(Arc::new(event));
        if let Some(at) = self.events.len().checked_sub(LINES_KEPT_MAX + 1) {
            self.events[at].forget_line();
        }
        while self.events.len() > WINDOW_EVENTS_MAX || self.event_bytes > WINDOW_BYTES_MAX {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.event_bytes -= event.object.bytes.len();
            self.complete_after = self.complete_after.max(event.revision);
        }
    }
}

/// The caches of all kinds and the thread that keeps them.
pub struct Caches {
    by_storage: HashMap<&'static str, (&'static Kind, KindCache)>,
    applied: AtomicU64,
    progress: watch::Sender<u64>,
}

impl Caches {
    /// Loads everything from the store and returns with the caches complete; a thread follows from
    /// there until the store closes.
    pub fn start(store: Arc<dyn Backend>) -> Result<Arc<Caches>, StoreError> {
        let mut by_storage = HashMap::new();
        for kind in KINDS.iter().filter(|k| k.is_stored()) {
            by_storage.entry(kind.storage).or_insert_with(|| (kind, KindCache::new(0)));
        }
        let caches = Arc::new(Caches { by_storage, applied: AtomicU64::new(0), progress: watch::channel(0).0 });
        let mut feed = caches.reload(&*store)?;
        let follower = Arc::downgrade(&caches);
        // Not the store itself: the thread ends when that is dropped.
        let source = Arc::downgrade(&store);
        std::thread::Builder::new()
            .name("watch-cache".to_owned())
            .spawn(move || {
                loop {
                    let first = feed.next_blocking();
                    let Some(caches) = follower.upgrade() else { return };
                    let more = std::iter::from_fn(|| feed.try_next().transpose()).take(BATCHES_PER_SIGNAL_MAX - 1);
                    match caches.apply(std::iter::once(first).chain(more)) {
                        Ok(()) => {}
                        Err(WatchError::Failed(StoreError::Closed)) => return,
                        Err(error) => {
                            tracing::warn!(%error, "the watch cache fell behind the store and is loaded anew");
                            match source.upgrade().map(|store| caches.reload(&*store)) {
                                Some(Ok(next)) => feed = next,
                                Some(Err(error)) => {
                                    tracing::error!(%error, "the watch cache lost the store's events and stops");
                                    return;
                                }
                                None => return,
                            }
                        }
                    }
                }
            })
            .expect("a thread can be started at start-up");
        Ok(caches)
    }

    /// Takes everything from the store again. Watchers lose their place, and list anew as after any
    /// expired revision.
    fn reload(&self, store: &dyn Backend) -> Result<store::Watch, StoreError> {
        loop {
            let page = store.range(b"", None, None)?;
            let revision = page.revision;
            // Followed first: what comes while the objects are read is not to be lost once more.
            match store.watch(b"", revision) {
                Ok(feed) => {
                    self.replace(page.entries, revision.0);
                    return Ok(feed);
                }
                Err(WatchError::Compacted { .. }) => {}
                Err(_) => return Err(StoreError::Closed),
            }
        }
    }

    fn replace(&self, entries: Vec<(Bytes, Entry)>, revision: u64) {
        let mut fresh: HashMap<&'static str, BTreeMap<String, Arc<Object>>> = HashMap::new();
        for (key, entry) in entries {
            let Some((kind, _, local)) = self.locate(&key) else { continue };
            let object = Arc::new(Object::parse(kind, entry.value, entry.modified.0));
            fresh.entry(kind.storage).or_default().insert(local, object);
        }
        for (storage, (_, cache)) in &self.by_storage {
            let objects = fresh.remove(storage).unwrap_or_default();
            let state = KindState { objects, complete_after: revision, revision, ..KindState::default() };
            *cache.state.write().unwrap_or_else(PoisonError::into_inner) = state;
            cache.wake_all(revision);
        }
        self.applied.store(revision, Ordering::Release);
        self.progress.send_replace(revision);
    }

    /// The cache of a kind that is stored.
    pub fn of(&self, kind: &Kind) -> &KindCache {
        &self.by_storage.get(kind.storage).expect("only stored kinds are listed and watched").1
    }

    /// All caches have applied everything up to here.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Waits until everything up to `revision` is applied.
    pub async fn wait_for(&self, revision: u64) {
        if self.applied() >= revision {
            return;
        }
        let mut progress = self.progress.subscribe();
        // An error means that the sender is gone, with the caches themselves.
        let _ = progress.wait_for(|&applied| applied >= revision).await;
    }

    fn locate(&self, key: &[u8]) -> Option<(&'static Kind, &KindCache, String)> {
        let (storage, local) = std::str::from_utf8(key).ok()?.split_once('/')?;
        let (kind, cache) = self.by_storage.get(storage)?;
        Some((kind, cache, local.to_owned()))
    }

    /// Applies batches one after another, then wakes the tasks that wait for any of them.
    fn apply(&self, batches: impl Iterator<Item = Result<Batch, WatchError>>) -> Result<(), WatchError> {
        let mut wakes: BTreeMap<&'static str, Wake> = BTreeMap::new();
        let mut applied = None;
        let outcome = batches.into_iter().try_for_each(|batch| {
            let batch = batch?;
            applied = Some(batch.revision.0);
            self.apply_batch(batch, &mut wakes);
            Ok(())
        });
        for (storage, wake) in wakes {
            self.by_storage[storage].1.signal(wake);
        }
        if let Some(applied) = applied {
            self.applied.store(applied, Ordering::Release);
            self.progress.send_replace(applied);
        }
        outcome
    }

    fn apply_batch(&self, batch: Batch, wakes: &mut BTreeMap<&'static str, Wake>) {
        let mut by_storage: BTreeMap<&'static str, Vec<CacheEvent>> = BTreeMap::new();
        for event in batch.events {
            let Some((kind, cache, local)) = self.locate(&event.key) else { continue };
            let previous = cache.get(&local);
            by_storage.entry(kind.storage).or_default().push(cache_event(kind, batch.revision, event.change, previous));
        }
        for (storage, events) in by_storage {
            self.by_storage[storage].1.apply(events, wakes.entry(storage).or_default());
        }
    }
}

fn cache_event(kind: &'static Kind, revision: Revision, change: Change, previous: Option<Arc<Object>>) -> CacheEvent {
    let revision = revision.0;
    let (event_kind, bytes) = match change {
        Change::Put { value, .. } if previous.is_none() => (EventKind::Added, value),
        Change::Put { value, .. } => (EventKind::Modified, value),
        Change::Delete { previous, last } => (EventKind::Deleted, last.unwrap_or(previous)),
    };
    let object = Arc::new(Object::parse(kind, bytes, revision));
    CacheEvent { revision, kind: event_kind, object, previous, line: Mutex::new(Line::Unmade) }
}
