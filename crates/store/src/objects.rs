//! The current objects: what readers see.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::change::{Batch, Change};
use crate::{Entry, Page, Revision};

/// Current objects in key order, at one revision.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) revision: Revision,
    pub(crate) entries: BTreeMap<Bytes, Entry>,
}

impl Objects {
    pub(crate) fn empty() -> Objects {
        Objects { revision: Revision::FIRST, entries: BTreeMap::new() }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(crate) fn range(&self, prefix: &[u8], after: Option<&[u8]>, limit: Option<usize>) -> Page {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut matching = self.entries.range::<[u8], _>((start, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        let entries = matching.by_ref().take(limit.unwrap_or(usize::MAX)).map(|(key, entry)| (key.clone(), entry.clone())).collect();
        Page { revision: self.revision, entries, more: matching.next().is_some() }
    }

    /// Makes one more revision current. Batches come in revision order without gaps.
    pub(crate) fn apply(&mut self, batch: &Batch) {
        assert_eq!(batch.revision, self.revision.next(), "revisions have no gaps");
        self.revision = batch.revision;
        for event in &batch.events {
            match &event.change {
                Change::Put { value, created, .. } => {
                    let entry = Entry { value: value.clone(), created: *created, modified: batch.revision };
                    self.entries.insert(event.key.clone(), entry);
                }
                Change::Delete { .. } => {
                    self.entries.remove(&event.key);
                }
            }
        }
    }
}
