//! Elements of maps in the kernel's own bytes: compact where there are tens of thousands, and equal
//! exactly when the kernel has the same.

use super::encode::encode_values;
use super::ruleset::{Element, Value, Verdict};

/// An element as it is sent and listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Box<[u8]>,
    /// Where the range of the key's last field ends.
    pub key_end: Option<Box<[u8]>>,
    pub data: EntryData,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryData {
    Nothing,
    Value(Box<[u8]>),
    Verdict(Verdict),
}

impl Entry {
    pub(super) fn of(element: &Element) -> Entry {
        let data = if element.data.is_empty() { EntryData::Nothing } else { EntryData::Value(encode_values(&element.data).into()) };
        Entry { key: encode_values(&element.key).into(), key_end: None, data }
    }

    /// A member of a set.
    pub fn member(key: &[Value]) -> Entry {
        Entry { key: encode_values(key).into(), key_end: None, data: EntryData::Nothing }
    }

    /// A member of a set of ranges: all keys from `key` to `end`, which differ in the last field.
    pub fn range(key: &[Value], end: &[Value]) -> Entry {
        Entry { key_end: Some(encode_values(end).into()), ..Entry::member(key) }
    }

    /// For what is no element but has a name: chains and maps.
    pub fn named(name: &str) -> Entry {
        Entry { key: name.as_bytes().into(), key_end: None, data: EntryData::Nothing }
    }

    pub fn encode(values: &[Value]) -> Box<[u8]> {
        encode_values(values).into()
    }

    pub fn value(key: &[Value], data: &[Value]) -> Entry {
        Entry { data: EntryData::Value(encode_values(data).into()), ..Entry::member(key) }
    }

    pub fn verdict(key: &[Value], verdict: Verdict) -> Entry {
        Entry { data: EntryData::Verdict(verdict), ..Entry::member(key) }
    }
}
