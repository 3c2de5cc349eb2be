//! Waiting longer after each failure: restarts of containers and pulls of images, 10 s doubled up
//! to 5 minutes, forgotten after 10.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

/// The kubelet's figures: `MaxCrashLoopBackOff` and the initial 10 s; entries expire after twice
/// the longest wait.
pub const INITIAL: Duration = Duration::from_secs(10);
pub const MAX: Duration = Duration::from_secs(300);

/// Waits by key: a container, or a container and its image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Backoffs {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    wait: Duration,
    updated_at: Timestamp,
}

/// A wait that is not over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Waiting {
    pub wait: Duration,
    pub until: Timestamp,
}

impl Backoffs {
    /// Whether what failed at `failed_at` still has to wait.
    pub fn waiting(&self, key: &str, failed_at: Timestamp, now: Timestamp) -> Option<Waiting> {
        let entry = self.entries.get(key)?;
        if has_expired(entry, failed_at) {
            return None;
        }
        let until = after(failed_at, entry.wait);
        (now < until).then_some(Waiting { wait: entry.wait, until })
    }

    /// Pulls have no time of failure of their own: they wait from the last attempt on.
    pub fn waiting_since_update(&self, key: &str, now: Timestamp) -> Option<Waiting> {
        let entry = self.entries.get(key)?;
        let until = after(entry.updated_at, entry.wait);
        (now < until && !has_expired(entry, now)).then_some(Waiting { wait: entry.wait, until })
    }

    /// It is tried (again): the next wait is twice as long.
    pub fn next(&mut self, key: &str, event_at: Timestamp, now: Timestamp) {
        let wait = match self.entries.get(key) {
            Some(entry) if !has_expired(entry, event_at) => (entry.wait * 2).min(MAX),
            _ => INITIAL,
        };
        self.entries.insert(key.to_owned(), Entry { wait, updated_at: now });
    }

    pub fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

/// Times of failures come from runtimes, and a wait cannot go past the end of the calendar.
fn after(at: Timestamp, wait: Duration) -> Timestamp {
    at.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

fn has_expired(entry: &Entry, at: Timestamp) -> bool {
    at.duration_since(entry.updated_at).unsigned_abs() > MAX * 2 && at > entry.updated_at
}

/// As Go prints durations in seconds: `10s`, `1m20s`, `5m0s`.
pub fn text(wait: Duration) -> String {
    let seconds = wait.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}
