//! Rules as data, and how they get into the kernel.
//!
//! A [`Ruleset`] is one whole table of the `ip` family. [`replace`] puts it in place of what is
//! there, [`update`] only changes elements of its maps; both are one transaction of the kernel, so
//! a crash leaves the old or the new rules, never half of them. Other tables are never touched.

mod attribute;
mod encode;
mod entry;
mod expression;
mod listing;
mod ruleset;
mod text;

use std::collections::BTreeMap;

pub use encode::Batch;
pub use entry::{Entry, EntryData};
pub use listing::{BaseChain, TableContent, base_chains, chains, entries, maps, table_content, table_mark};
pub use ruleset::{Action, Balance, Chain, ChainKind, Element, Field, Hook, Map, MapKind, Match, Rejection, Rule, Ruleset, Value, Verdict};

use crate::netlink::{Message, Result, Socket};

/// Makes the table exactly this, whatever was in it.
pub fn replace(netfilter: &mut Socket, ruleset: &Ruleset) -> Result<()> {
    let mut batch = Batch::new();
    // Deleting a table that is not there fails; adding one that is there does not.
    batch.add_table(&ruleset.table);
    batch.delete_table(&ruleset.table);
    batch.add_ruleset(ruleset);
    netfilter.execute(&format!("replace rules of table {}", ruleset.table), batch.into_messages()).map(drop)
}

/// Changes the table from `before` to `after`: by single elements when only those differ and the
/// table is as `before` says, else whole.
pub fn update(netfilter: &mut Socket, before: &Ruleset, after: &Ruleset) -> Result<()> {
    let Some(messages) = plan_update(before, after) else { return replace(netfilter, after) };
    if messages.is_empty() {
        return Ok(());
    }
    match netfilter.execute(&format!("change elements of table {}", after.table), messages) {
        Ok(_) => Ok(()),
        // Another program removed our table or elements of it: put everything back.
        Err(_) => replace(netfilter, after),
    }
}

/// Also when it is gone.
pub fn remove(netfilter: &mut Socket, table: &str) -> Result<()> {
    let mut batch = Batch::new();
    batch.add_table(table);
    batch.delete_table(table);
    netfilter.execute(&format!("remove table {table}"), batch.into_messages()).map(drop)
}

/// None when more than elements differs.
fn plan_update(before: &Ruleset, after: &Ruleset) -> Option<Vec<Message>> {
    if before.without_elements() != after.without_elements() {
        return None;
    }
    let mut batch = Batch::new();
    for (old, new) in before.maps.iter().zip(&after.maps) {
        batch.delete_elements(&after.table, &new.name, &missing(&old.elements, &new.elements));
        batch.add_elements(&after.table, &new.name, &missing(&new.elements, &old.elements));
    }
    Some(if batch.is_empty() { Vec::new() } else { batch.into_messages() })
}

/// What is in `all` but not the same in `others`.
fn missing(all: &BTreeMap<Vec<Value>, Vec<Value>>, others: &BTreeMap<Vec<Value>, Vec<Value>>) -> Vec<Element> {
    let different = all.iter().filter(|(key, data)| others.get(*key) != Some(data));
    different.map(|(key, data)| Element { key: key.clone(), data: data.clone() }).collect()
}
