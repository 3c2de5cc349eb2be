//! The records of a file whose index cannot be read, found page by page: every record has a
//! checksum of its own, which tells a record from bytes that only look like one.
//!
//! redb's leaf pages (its docs/design.md): the byte 1, a byte, the number of pairs as u16, where
//! each key ends and where each value ends as u32 from the beginning of the page, the keys, the
//! values; all little endian. A page begins at a multiple of 4 KiB and may be longer than that.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::checksum::Sum;
use super::format::{self, Meta};
use crate::{Entry, Revision};

const PAGE_BYTES: usize = 4096;
const LEAF: u8 = 1;

/// What looks like records is checked up to so many times the file's length: a file that is made to
/// look like more must end, too.
const CHECKED_TIMES_MAX: usize = 16;

/// The newest record of each key. What was deleted may be among them, as long as its page was not
/// used again.
pub(super) fn records(file: &[u8]) -> BTreeMap<Bytes, Entry> {
    // No revision is too high without the store's own numbers.
    let meta = Meta { format: format::FORMAT, revision: Revision(u64::MAX), sum: Sum::default() };
    let mut found: BTreeMap<Bytes, Entry> = BTreeMap::new();
    let mut left = file.len().saturating_mul(CHECKED_TIMES_MAX);
    for start in (0..file.len()).step_by(PAGE_BYTES) {
        for (key, value) in pairs(&file[start..]) {
            left = match left.checked_sub(key.len() + value.len()) {
                Some(left) => left,
                None => return found,
            };
            let Ok((entry, _)) = format::decode(key, value, &meta) else { continue };
            if found.get(key).is_none_or(|known| known.modified < entry.modified) {
                found.insert(Bytes::copy_from_slice(key), entry);
            }
        }
    }
    found
}

/// Keys and values of a page, as far as they lie within the file.
fn pairs(page: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let is_leaf = page.first() == Some(&LEAF);
    let count = page.get(2..4).filter(|_| is_leaf).map_or(0, |bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])));
    let end = move |n: usize| -> Option<usize> {
        let bytes = page.get(4 + 4 * n..8 + 4 * n)?;
        Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize)
    };
    let keys = 4 + 8 * count;
    let first_value = count.checked_sub(1).and_then(end);
    (0..count).filter_map(move |n| {
        let key_start = if n == 0 { keys } else { end(n - 1)? };
        let value_start = if n == 0 { first_value? } else { end(count + n - 1)? };
        Some((page.get(key_start..end(n)?)?, page.get(value_start..end(count + n)?)?))
    })
}
