//! A transaction of nf_tables: messages between a begin and an end, which the kernel takes as a
//! whole or not at all.

use super::attribute::*;
use super::entry::{Entry, EntryData};
use super::expression;
use super::ruleset::{Chain, ChainKind, Element, Field, Hook, Map, MapKind, Ruleset, Value, Verdict};
use crate::netlink::{Attributes, Message};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
pub(super) const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const DELETE_SET: u16 = 11;
const NEW_ELEMENTS: u16 = 12;
const DELETE_ELEMENTS: u16 = 14;
const DELETE_RULE: u16 = 8;
const SET_HAS_RANGES: u32 = 4;
const SET_IS_MAP: u32 = 8;
const SET_HAS_TIMEOUTS: u32 = 0x10;
const SET_IS_WRITTEN_BY_RULES: u32 = 0x20;
const SET_HAS_RANGES_OF_FIELDS: u32 = 0x80;
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
const VERDICT_DROP: i32 = 0;
const VERDICT_GOTO: i32 = -4;
/// A list of elements is one attribute, and attributes end at 64 KiB; an element takes at most 120
/// bytes.
const ELEMENTS_PER_MESSAGE_MAX: usize = 500;
const MESSAGE_HEADER_BYTES: usize = 16;

#[derive(Debug, Default)]
pub struct Batch {
    messages: Vec<Message>,
    maps: u32,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Several transactions of at most so many bytes each, in order: a message is never cut.
    pub fn into_parts(self, bytes_max: usize) -> Vec<Vec<Message>> {
        let mut parts = vec![Batch::new()];
        let mut bytes = 0;
        for message in self.messages {
            bytes += MESSAGE_HEADER_BYTES + message.payload.len();
            if bytes > bytes_max {
                parts.push(Batch::new());
                bytes = MESSAGE_HEADER_BYTES + message.payload.len();
            }
            parts.last_mut().expect("there is one from the beginning").messages.push(message);
        }
        parts.into_iter().filter(|part| !part.is_empty()).map(Batch::into_messages).collect()
    }

    pub fn into_messages(self) -> Vec<Message> {
        let mut messages = vec![edge(BATCH_BEGIN)];
        messages.extend(self.messages);
        // Older kernels do not answer the end of a batch, so the last message inside it asks.
        if let Some(last) = messages.last_mut() {
            last.flags |= ACK;
        }
        messages.push(edge(BATCH_END));
        messages
    }

    pub fn add_ruleset(&mut self, ruleset: &Ruleset) {
        let table = ruleset.table.as_str();
        self.add_table(table);
        ruleset.maps.iter().for_each(|map| self.add_map(table, map));
        ruleset.chains.iter().for_each(|chain| self.add_chain(table, chain));
        ruleset.chains.iter().for_each(|chain| self.add_rules(table, chain));
    }

    /// A chain that nothing jumps to yet, or only elements of maps.
    pub fn add_chain_with_rules(&mut self, table: &str, chain: &Chain) {
        self.add_chain(table, chain);
        self.add_rules(table, chain);
    }

    /// A chain that nothing jumps to any more.
    pub fn delete_chain(&mut self, table: &str, chain: &str) {
        self.add(DELETE_RULE, 0, Attributes::new().text(RULE_TABLE, table).text(RULE_CHAIN, chain));
        self.add(DELETE_CHAIN, 0, Attributes::new().text(CHAIN_TABLE, table).text(CHAIN_NAME, chain));
    }

    fn add_rules(&mut self, table: &str, chain: &Chain) {
        for rule in &chain.rules {
            let data =
                Attributes::new().text(RULE_TABLE, table).text(RULE_CHAIN, &chain.name).nested(RULE_EXPRESSIONS, expression::rule(rule));
            self.add(NEW_RULE, CREATE | APPEND, data);
        }
    }

    pub fn add_table(&mut self, table: &str) {
        self.add(NEW_TABLE, CREATE, Attributes::new().text(TABLE_NAME, table).network_u32(TABLE_FLAGS, 0));
    }

    /// A new table; the mark can be read back ([`super::table_mark`]).
    pub fn add_marked_table(&mut self, table: &str, mark: &[u8]) {
        let data = Attributes::new().text(TABLE_NAME, table).network_u32(TABLE_FLAGS, 0).bytes(TABLE_USERDATA, mark);
        self.add(NEW_TABLE, CREATE, data);
    }

    pub fn delete_table(&mut self, table: &str) {
        self.add(DELETE_TABLE, 0, Attributes::new().text(TABLE_NAME, table));
    }

    fn add_chain(&mut self, table: &str, chain: &Chain) {
        let data = Attributes::new().text(CHAIN_TABLE, table).text(CHAIN_NAME, &chain.name);
        let (kind, hook, priority) = match chain.kind {
            ChainKind::Plain => return self.add(NEW_CHAIN, CREATE, data),
            ChainKind::Nat { hook, priority } => ("nat", hook, priority),
            ChainKind::Filter { hook, priority } => ("filter", hook, priority),
        };
        let place = Attributes::new().network_u32(HOOK_HOOKNUM, hook_number(hook)).bytes(HOOK_PRIORITY, &priority.to_be_bytes());
        self.add(NEW_CHAIN, CREATE, data.nested(CHAIN_HOOK, place).text(CHAIN_TYPE, kind));
    }

    pub fn add_map(&mut self, table: &str, map: &Map) {
        self.maps += 1;
        let mut data = Attributes::new()
            .text(SET_TABLE, table)
            .text(SET_NAME, &map.name)
            .network_u32(SET_FLAGS, set_flags(map.kind))
            .network_u32(SET_KEY_TYPE, type_number(&map.key))
            .network_u32(SET_KEY_LEN, bytes_of(&map.key));
        let fields = map.kind.data();
        if map.kind == MapKind::ToVerdict {
            data = data.network_u32(SET_DATA_TYPE, DATA_TYPE_VERDICT);
        } else if !fields.is_empty() {
            data = data.network_u32(SET_DATA_TYPE, type_number(fields)).network_u32(SET_DATA_LEN, bytes_of(fields));
        }
        match map.kind {
            MapKind::Ranges => data = data.nested(SET_DESC, description(&map.key)),
            MapKind::Remembered { elements_max } => {
                data = data.nested(SET_DESC, Attributes::new().network_u32(SET_DESC_SIZE, elements_max));
            }
            _ => {}
        }
        self.add(NEW_SET, CREATE, data.network_u32(SET_ID, self.maps));
        let elements: Vec<Element> = map.elements.iter().map(|(key, data)| Element { key: key.clone(), data: data.clone() }).collect();
        self.add_elements(table, &map.name, &elements);
    }

    /// A set or map that no rule names any more.
    pub fn delete_map(&mut self, table: &str, map: &str) {
        self.add(DELETE_SET, 0, Attributes::new().text(SET_TABLE, table).text(SET_NAME, map));
    }

    pub fn add_elements(&mut self, table: &str, map: &str, elements: &[Element]) {
        let entries: Vec<Entry> = elements.iter().map(Entry::of).collect();
        self.add_entries(table, map, entries.iter());
    }

    pub fn delete_elements(&mut self, table: &str, map: &str, elements: &[Element]) {
        let entries: Vec<Entry> = elements.iter().map(Entry::of).collect();
        self.delete_entries(table, map, entries.iter());
    }

    pub fn add_entries<'a>(&mut self, table: &str, map: &str, entries: impl Iterator<Item = &'a Entry>) {
        self.entries(NEW_ELEMENTS, CREATE, (table, map), entries.collect());
    }

    pub fn delete_entries<'a>(&mut self, table: &str, map: &str, entries: impl Iterator<Item = &'a Entry>) {
        self.entries(DELETE_ELEMENTS, 0, (table, map), entries.collect());
    }

    fn entries(&mut self, kind: u16, flags: u16, (table, map): (&str, &str), entries: Vec<&Entry>) {
        for chunk in entries.chunks(ELEMENTS_PER_MESSAGE_MAX) {
            let list = chunk.iter().fold(Attributes::new(), |list, entry| list.nested(LIST_ELEM, encode_entry(entry)));
            self.add(
                kind,
                flags,
                Attributes::new().text(SET_ELEM_LIST_TABLE, table).text(SET_ELEM_LIST_SET, map).nested(SET_ELEM_LIST_ELEMENTS, list),
            );
        }
    }

    fn add(&mut self, kind: u16, flags: u16, data: Attributes) {
        let mut payload = vec![libc::AF_INET as u8, 0, 0, 0];
        payload.extend(data.as_bytes());
        self.messages.push(Message { kind: SUBSYSTEM << 8 | kind, flags, payload });
    }
}

fn edge(kind: u16) -> Message {
    let subsystem = SUBSYSTEM.to_be_bytes();
    Message { kind, flags: 0, payload: vec![0, 0, subsystem[0], subsystem[1]] }
}

fn set_flags(kind: MapKind) -> u32 {
    match kind {
        MapKind::Set => 0,
        MapKind::Ranges => SET_HAS_RANGES | SET_HAS_RANGES_OF_FIELDS,
        MapKind::ToAddressAndPort | MapKind::ToVerdict => SET_IS_MAP,
        MapKind::Remembered { .. } => SET_IS_MAP | SET_HAS_TIMEOUTS | SET_IS_WRITTEN_BY_RULES,
    }
}

fn bytes_of(fields: &[Field]) -> u32 {
    4 * fields.iter().map(|field| field.registers()).sum::<u32>()
}

/// How long each field of a key is, for keys with ranges.
fn description(key: &[Field]) -> Attributes {
    let fields = key
        .iter()
        .fold(Attributes::new(), |list, field| list.nested(LIST_ELEM, Attributes::new().network_u32(SET_FIELD_LEN, bytes_of(&[*field]))));
    Attributes::new().nested(SET_DESC_CONCAT, fields)
}

fn encode_entry(entry: &Entry) -> Attributes {
    let value = |bytes: &[u8]| Attributes::new().bytes(DATA_VALUE, bytes);
    let mut encoded = Attributes::new().nested(SET_ELEM_KEY, value(&entry.key));
    if let Some(end) = &entry.key_end {
        encoded = encoded.nested(SET_ELEM_KEY_END, value(end));
    }
    match &entry.data {
        EntryData::Nothing => encoded,
        EntryData::Value(bytes) => encoded.nested(SET_ELEM_DATA, value(bytes)),
        EntryData::Verdict(verdict) => {
            let verdict = match verdict {
                Verdict::Drop => Attributes::new().bytes(VERDICT_CODE, &VERDICT_DROP.to_be_bytes()),
                Verdict::Goto(chain) => Attributes::new().bytes(VERDICT_CODE, &VERDICT_GOTO.to_be_bytes()).text(VERDICT_CHAIN, chain),
            };
            encoded.nested(SET_ELEM_DATA, Attributes::new().nested(DATA_VERDICT, verdict))
        }
    }
}

/// Each value fills a register of four bytes; names of interfaces fill four of them.
pub(super) fn encode_values(values: &[Value]) -> Vec<u8> {
    let encode = |value: &Value| match value {
        Value::Interface(name) => expression::padded(name),
        Value::Address(address) => address.octets().to_vec(),
        Value::Protocol(number) => vec![*number, 0, 0, 0],
        Value::Port(port) => vec![port.to_be_bytes()[0], port.to_be_bytes()[1], 0, 0],
        Value::Index(number) => number.to_ne_bytes().to_vec(),
    };
    values.iter().flat_map(encode).collect()
}

/// How listing programs show a key: six bits for each field. The kernel only compares bytes.
fn type_number(fields: &[Field]) -> u32 {
    const MARK: u32 = 19;
    fields.iter().fold(0, |number, field| {
        let kind = match field {
            Field::SourceAddress | Field::DestinationAddress => 7,
            Field::Input => 41,
            Field::Protocol => 12,
            Field::DestinationPort => 13,
            Field::Index => MARK,
        };
        number << 6 | kind
    })
}

fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}
