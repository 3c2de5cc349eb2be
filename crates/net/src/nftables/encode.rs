//! A transaction of nf_tables: messages between a begin and an end, which the kernel takes as a
//! whole or not at all.

use super::attribute::*;
use super::expression;
use super::ruleset::{Chain, ChainKind, Element, Field, Hook, Map, MapKind, Ruleset, Value};
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
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;
const DELETE_ELEMENTS: u16 = 14;
const SET_IS_MAP: u32 = 8;
/// A list of elements is one attribute, and attributes end at 64 KiB; an element takes at most 60
/// bytes.
const ELEMENTS_PER_MESSAGE_MAX: usize = 500;

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
        for chain in &ruleset.chains {
            for rule in &chain.rules {
                let data = Attributes::new()
                    .text(RULE_TABLE, table)
                    .text(RULE_CHAIN, &chain.name)
                    .nested(RULE_EXPRESSIONS, expression::rule(rule));
                self.add(NEW_RULE, CREATE | APPEND, data);
            }
        }
    }

    pub fn add_table(&mut self, table: &str) {
        self.add(NEW_TABLE, CREATE, Attributes::new().text(TABLE_NAME, table).network_u32(TABLE_FLAGS, 0));
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

    fn add_map(&mut self, table: &str, map: &Map) {
        self.maps += 1;
        let flags = if map.kind == MapKind::Set { 0 } else { SET_IS_MAP };
        let key_bytes = 4 * map.key.iter().map(|field| field.registers()).sum::<u32>();
        let mut data = Attributes::new()
            .text(SET_TABLE, table)
            .text(SET_NAME, &map.name)
            .network_u32(SET_FLAGS, flags)
            .network_u32(SET_KEY_TYPE, type_number(&map.key))
            .network_u32(SET_KEY_LEN, key_bytes);
        if map.kind == MapKind::ToAddressAndPort {
            let fields = [Field::DestinationAddress, Field::DestinationPort];
            data = data.network_u32(SET_DATA_TYPE, type_number(&fields)).network_u32(SET_DATA_LEN, 4 * fields.len() as u32);
        }
        self.add(NEW_SET, CREATE, data.network_u32(SET_ID, self.maps));
        let elements: Vec<Element> = map.elements.iter().map(|(key, data)| Element { key: key.clone(), data: data.clone() }).collect();
        self.add_elements(table, &map.name, &elements);
    }

    pub fn add_elements(&mut self, table: &str, map: &str, elements: &[Element]) {
        self.elements(NEW_ELEMENTS, CREATE, (table, map), elements);
    }

    pub fn delete_elements(&mut self, table: &str, map: &str, elements: &[Element]) {
        self.elements(DELETE_ELEMENTS, 0, (table, map), elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, (table, map): (&str, &str), elements: &[Element]) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE_MAX) {
            let list = chunk.iter().fold(Attributes::new(), |list, element| list.nested(LIST_ELEM, encode_element(element)));
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

fn encode_element(element: &Element) -> Attributes {
    let encoded = Attributes::new().nested(SET_ELEM_KEY, Attributes::new().bytes(DATA_VALUE, &encode_values(&element.key)));
    if element.data.is_empty() {
        return encoded;
    }
    encoded.nested(SET_ELEM_DATA, Attributes::new().bytes(DATA_VALUE, &encode_values(&element.data)))
}

/// Each value fills a register of four bytes; names of interfaces fill four of them.
fn encode_values(values: &[Value]) -> Vec<u8> {
    let encode = |value: &Value| match value {
        Value::Interface(name) => expression::padded(name),
        Value::Address(address) => address.octets().to_vec(),
        Value::Protocol(number) => vec![*number, 0, 0, 0],
        Value::Port(port) => vec![port.to_be_bytes()[0], port.to_be_bytes()[1], 0, 0],
    };
    values.iter().flat_map(encode).collect()
}

/// How listing programs show a key: six bits for each field. The kernel only compares bytes.
fn type_number(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |number, field| {
        let kind = match field {
            Field::SourceAddress | Field::DestinationAddress => 7,
            Field::Input => 41,
            Field::Protocol => 12,
            Field::DestinationPort => 13,
        };
        number << 6 | kind
    })
}

fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}
