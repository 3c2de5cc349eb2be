//! The reference: the store said again, as simply as possible, from the documentation.

use std::collections::BTreeMap;

use bytes::Bytes;
use store::{Batch, Change, Committed, Entry, Event, Expect, Page, Revision, Template, Txn, WatchError, WindowLimits, Write};

#[derive(Clone, Debug)]
pub struct Model {
    pub revision: Revision,
    pub entries: BTreeMap<Bytes, Entry>,
    /// Everything that ever happened, by revision.
    pub history: BTreeMap<Revision, Batch>,
    pub forgotten: Revision,
    pub window: WindowLimits,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refused {
    Conflict { key: Bytes, found: Option<Revision> },
    DuplicateKey,
}

#[derive(Clone, Debug)]
pub struct ModelWatch {
    pub prefix: Bytes,
    pub position: Revision,
}

impl Model {
    pub fn new(window: WindowLimits) -> Model {
        Model { revision: Revision(1), entries: BTreeMap::new(), history: BTreeMap::new(), forgotten: Revision(0), window }
    }

    pub fn unbounded() -> Model {
        Model::new(WindowLimits { events_max: usize::MAX, bytes_max: usize::MAX })
    }

    pub fn commit(&mut self, txn: &Txn) -> Result<Committed, Refused> {
        for (index, write) in txn.writes.iter().enumerate() {
            if txn.writes[..index].iter().any(|earlier| earlier.key() == write.key()) {
                return Err(Refused::DuplicateKey);
            }
        }
        for guard in &txn.guards {
            let found = self.entries.get(&guard.key).map(|entry| entry.modified);
            let holds = match guard.expect {
                Expect::Absent => found.is_none(),
                Expect::Present => found.is_some(),
                Expect::Modified(revision) => found == Some(revision),
            };
            if !holds {
                let key = guard.key.clone();
                return Err(Refused::Conflict { key, found });
            }
        }
        let revision = Revision(self.revision.0 + 1);
        let mut events = Vec::new();
        let mut values = Vec::new();
        for write in &txn.writes {
            values.push(self.write(write, revision, &mut events));
        }
        if !events.is_empty() {
            self.revision = revision;
            self.history.insert(revision, Batch { revision, events });
            self.forget_beyond_window();
        }
        Ok(Committed { revision: self.revision, values })
    }

    fn write(&mut self, write: &Write, revision: Revision, events: &mut Vec<Event>) -> Option<Bytes> {
        let found = self.entries.get(write.key()).cloned();
        let (change, value) = match (write, found) {
            (Write::Put { key, value }, found) => {
                let value = complete(value, revision);
                let created = found.as_ref().map_or(revision, |entry| entry.created);
                let entry = Entry { value: value.clone(), created, modified: revision };
                self.entries.insert(key.clone(), entry);
                let change = Change::Put { value: value.clone(), created, previous: found.map(|entry| entry.value) };
                (change, Some(value))
            }
            (Write::Delete { .. }, None) => return None,
            (Write::Delete { key, last }, Some(found)) => {
                self.entries.remove(key);
                let last = last.as_ref().map(|last| complete(last, revision));
                let change = Change::Delete { previous: found.value, last: last.clone() };
                (change, last)
            }
        };
        let key = write.key().clone();
        events.push(Event { revision, key, change });
        value
    }

    fn forget_beyond_window(&mut self) {
        loop {
            let kept: Vec<&Batch> = self.history_kept().collect();
            let events: usize = kept.iter().map(|batch| batch.events.len()).sum();
            if kept.len() <= 1 || events <= self.window.events_max {
                return;
            }
            self.forgotten = kept[0].revision;
        }
    }

    pub fn history_kept(&self) -> impl Iterator<Item = &Batch> {
        let forgotten = self.forgotten;
        self.history.values().filter(move |batch| batch.revision > forgotten)
    }

    pub fn range(&self, prefix: &[u8], after: Option<&[u8]>, limit: Option<usize>) -> Page {
        let mut entries: Vec<(Bytes, Entry)> = self
            .entries
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .filter(|(key, _)| after.is_none_or(|after| key.as_ref() > after))
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect();
        let limit = limit.unwrap_or(usize::MAX);
        let more = entries.len() > limit;
        entries.truncate(limit);
        Page { revision: self.revision, entries, more }
    }

    /// False when the revision is in the future.
    pub fn compact(&mut self, up_to: Revision) -> bool {
        if up_to <= self.revision {
            self.forgotten = self.forgotten.max(up_to);
        }
        up_to <= self.revision
    }

    pub fn reopen(&mut self) {
        if self.revision > Revision(1) {
            self.forgotten = self.revision;
        } else {
            self.forgotten = Revision(0);
        }
    }

    pub fn watch(&self, prefix: &Bytes, after: Revision) -> Result<ModelWatch, WatchError> {
        if after > self.revision {
            return Err(WatchError::Future { current: self.revision });
        }
        if after < self.forgotten {
            return Err(self.compacted());
        }
        Ok(ModelWatch { prefix: prefix.clone(), position: after })
    }

    pub fn watch_next(&self, watch: &mut ModelWatch) -> Result<Option<Batch>, WatchError> {
        match self.next_matching(watch) {
            Some(batch) if batch.revision <= self.forgotten => Err(self.compacted()),
            Some(batch) => {
                watch.position = batch.revision;
                Ok(Some(batch))
            }
            None => Ok(None),
        }
    }

    pub fn watch_progress(&self, watch: &ModelWatch) -> Revision {
        self.next_matching(watch).map_or(self.revision, |batch| Revision(batch.revision.0 - 1))
    }

    fn next_matching(&self, watch: &ModelWatch) -> Option<Batch> {
        self.history.values().filter(|batch| batch.revision > watch.position).find_map(|batch| only_matching(batch, &watch.prefix))
    }

    fn compacted(&self) -> WatchError {
        WatchError::Compacted { oldest: self.forgotten }
    }
}

pub fn only_matching(batch: &Batch, prefix: &[u8]) -> Option<Batch> {
    let events: Vec<Event> = batch.events.iter().filter(|event| event.key.starts_with(prefix)).cloned().collect();
    let revision = batch.revision;
    (!events.is_empty()).then_some(Batch { revision, events })
}

fn complete(template: &Template, revision: Revision) -> Bytes {
    let mut bytes = template.bytes.clone();
    if let Some(at) = template.revision_at {
        bytes.splice(at..at, revision.to_string().into_bytes());
    }
    Bytes::from(bytes)
}
