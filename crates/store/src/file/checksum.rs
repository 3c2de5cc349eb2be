//! Checksums of format 2: one for each record, one over the numbers of the store, and a sum over
//! all records that tells when one is missing or old.

use std::hash::Hasher as _;

use twox_hash::XxHash3_64;

use crate::Revision;

/// What a key and its value are, whatever the revision.
pub(super) fn content(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = XxHash3_64::default();
    hasher.write(&(key.len() as u64).to_le_bytes());
    hasher.write(key);
    hasher.write(value);
    hasher.finish()
}

/// Stands in the record's header.
pub(super) fn record(content: u64, created: Revision, modified: Revision) -> u64 {
    numbers(&[content, created.0, modified.0])
}

pub(super) fn numbers(numbers: &[u64]) -> u64 {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    XxHash3_64::oneshot(&bytes)
}

/// Over all records: how many there are, and their contents added up. A page that is older than the
/// others holds good records that are not the current ones; only all together tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) records: u64,
    pub(super) contents: u64,
}

impl Sum {
    pub(super) fn add(&mut self, content: u64) {
        self.records += 1;
        self.contents = self.contents.wrapping_add(content);
    }

    pub(super) fn remove(&mut self, content: u64) {
        self.records -= 1;
        self.contents = self.contents.wrapping_sub(content);
    }
}
