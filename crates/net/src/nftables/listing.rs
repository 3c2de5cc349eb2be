//! What tables there are: enough to compare a table with itself, and to see chains of others that
//! decide about forwarded packets.

use std::collections::BTreeMap;

use super::attribute::*;
use super::encode::SUBSYSTEM;
use super::entry::{Entry, EntryData};
use super::ruleset::Verdict;
use crate::netlink::{Attribute, Attributes, Message, Reply, Result, Socket, attributes};

const GET_TABLE: u16 = 1;
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
const GET_SET: u16 = 10;
const GET_ELEMENTS: u16 = 13;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const NFGEN_BYTES: usize = 4;

/// A chain that the kernel runs by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    pub table: String,
    pub name: String,
    /// For packets to this host.
    pub is_input: bool,
    pub is_forward: bool,
    /// Packets that no rule accepts are dropped.
    pub drops_by_default: bool,
}

/// A table as the kernel describes it, in its own encoding: two are equal when nothing changed
/// between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableContent {
    pub chains: Vec<Vec<u8>>,
    pub rules: Vec<Vec<u8>>,
    /// Sets and maps, by name.
    pub maps: Vec<String>,
    pub elements: Vec<Vec<u8>>,
}

/// All base chains of the `ip` family, of all tables.
pub fn base_chains(netfilter: &mut Socket) -> Result<Vec<BaseChain>> {
    let replies = list(netfilter, GET_CHAIN, Attributes::new())?;
    Ok(replies.iter().filter_map(base_chain).collect())
}

pub fn table_content(netfilter: &mut Socket, table: &str) -> Result<TableContent> {
    // Chains, rules and sets name their table in an attribute of the same number.
    let of_table =
        |replies: Vec<Reply>| replies.into_iter().filter(|reply| text(reply, CHAIN_TABLE).as_deref() == Some(table)).collect::<Vec<_>>();
    let chains = of_table(list(netfilter, GET_CHAIN, Attributes::new())?);
    let rules = of_table(list(netfilter, GET_RULE, Attributes::new())?);
    let sets = of_table(list(netfilter, GET_SET, Attributes::new())?);
    let maps: Vec<String> = sets.iter().filter_map(|reply| text(reply, SET_NAME)).collect();
    let mut elements = Vec::new();
    for map in &maps {
        for reply in list(netfilter, GET_ELEMENTS, Attributes::new().text(SET_ELEM_LIST_TABLE, table).text(SET_ELEM_LIST_SET, map))? {
            elements.extend(
                find(&reply, SET_ELEM_LIST_ELEMENTS).into_iter().flat_map(|list| list.nested()).map(|element| element.value.to_vec()),
            );
        }
    }
    // The kernel lists elements by a hash that changes with each table.
    elements.sort_unstable();
    let payloads = |replies: Vec<Reply>| replies.into_iter().map(|reply| reply.payload[NFGEN_BYTES..].to_vec()).collect();
    Ok(TableContent { chains: payloads(chains), rules: payloads(rules), maps, elements })
}

/// What [`super::Batch::add_marked_table`] wrote. None when there is no such table, or it has no
/// mark.
pub fn table_mark(netfilter: &mut Socket, table: &str) -> Result<Option<Vec<u8>>> {
    let tables = list(netfilter, GET_TABLE, Attributes::new())?;
    let ours = tables.iter().find(|reply| text(reply, TABLE_NAME).as_deref() == Some(table));
    Ok(ours.and_then(|reply| find(reply, TABLE_USERDATA)).map(|mark| mark.value.to_vec()))
}

/// The chains of a table, each with the number of its rules.
pub fn chains(netfilter: &mut Socket, table: &str) -> Result<BTreeMap<String, usize>> {
    let of_table = |reply: &&Reply| text(reply, CHAIN_TABLE).as_deref() == Some(table);
    let mut found = BTreeMap::new();
    for reply in list(netfilter, GET_CHAIN, Attributes::new())?.iter().filter(of_table) {
        found.extend(text(reply, CHAIN_NAME).map(|name| (name, 0)));
    }
    // Rules name their table and chain in attributes 1 and 2.
    for reply in list(netfilter, GET_RULE, Attributes::new())?.iter().filter(of_table) {
        if let Some(count) = text(reply, RULE_CHAIN).and_then(|chain| found.get_mut(&chain)) {
            *count += 1;
        }
    }
    Ok(found)
}

/// The names of a table's sets and maps.
pub fn maps(netfilter: &mut Socket, table: &str) -> Result<Vec<String>> {
    let sets = list(netfilter, GET_SET, Attributes::new())?;
    let of_table = sets.iter().filter(|reply| text(reply, SET_TABLE).as_deref() == Some(table));
    Ok(of_table.filter_map(|reply| text(reply, SET_NAME)).collect())
}

/// The elements of a set or map.
pub fn entries(netfilter: &mut Socket, table: &str, map: &str) -> Result<Vec<Entry>> {
    let filter = Attributes::new().text(SET_ELEM_LIST_TABLE, table).text(SET_ELEM_LIST_SET, map);
    let replies = list(netfilter, GET_ELEMENTS, filter)?;
    let lists = replies.iter().filter_map(|reply| find(reply, SET_ELEM_LIST_ELEMENTS));
    Ok(lists.flat_map(|list| list.nested()).filter_map(|element| entry(&element)).collect())
}

fn entry(element: &Attribute) -> Option<Entry> {
    let bytes = |kind: u16| Some(element.find(kind)?.find(DATA_VALUE)?.value.into());
    Some(Entry { key: bytes(SET_ELEM_KEY)?, key_end: bytes(SET_ELEM_KEY_END), data: entry_data(element) })
}

fn entry_data(element: &Attribute) -> EntryData {
    let Some(data) = element.find(SET_ELEM_DATA) else { return EntryData::Nothing };
    if let Some(value) = data.find(DATA_VALUE) {
        return EntryData::Value(value.value.into());
    }
    let chain = data.find(DATA_VERDICT).and_then(|verdict| verdict.find(VERDICT_CHAIN));
    EntryData::Verdict(chain.map_or(Verdict::Drop, |chain| Verdict::Goto(chain.text())))
}

fn list(netfilter: &mut Socket, kind: u16, filter: Attributes) -> Result<Vec<Reply>> {
    let payload = [&[libc::AF_INET as u8, 0, 0, 0], filter.as_bytes()].concat();
    netfilter.dump("list rules", &Message { kind: SUBSYSTEM << 8 | kind, flags: 0, payload })
}

fn find(reply: &Reply, kind: u16) -> Option<Attribute<'_>> {
    attributes(reply.payload.get(NFGEN_BYTES..)?).find(|attribute| attribute.kind == kind)
}

fn text(reply: &Reply, kind: u16) -> Option<String> {
    find(reply, kind).map(|attribute| attribute.text())
}

fn base_chain(reply: &Reply) -> Option<BaseChain> {
    let hook = find(reply, CHAIN_HOOK)?.find(HOOK_HOOKNUM)?.network_u32()?;
    Some(BaseChain {
        table: text(reply, CHAIN_TABLE)?,
        name: text(reply, CHAIN_NAME)?,
        is_input: hook == INPUT,
        is_forward: hook == FORWARD,
        drops_by_default: find(reply, CHAIN_POLICY).and_then(|policy| policy.network_u32()) == Some(0),
    })
}
