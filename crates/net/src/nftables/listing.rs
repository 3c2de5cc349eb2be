//! What tables there are: enough to compare a table with itself, and to see chains of others that
//! decide about forwarded packets.

use super::attribute::*;
use super::encode::SUBSYSTEM;
use crate::netlink::{Attribute, Attributes, Message, Reply, Result, Socket, attributes};

const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
const GET_SET: u16 = 10;
const GET_ELEMENTS: u16 = 13;
const FORWARD: u32 = 2;
const NFGEN_BYTES: usize = 4;

/// A chain that the kernel runs by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    pub table: String,
    pub name: String,
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
        is_forward: hook == FORWARD,
        drops_by_default: find(reply, CHAIN_POLICY).and_then(|policy| policy.network_u32()) == Some(0),
    })
}
