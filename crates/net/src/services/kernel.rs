//! The table in the kernel: reading it, and sending what differs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::netlink::{Result, Socket};
use crate::nftables::{self, Batch, Entry, EntryData};

use super::desired::{Desired, Place};
use super::rules::{self, CHAINS, CLIENTS, MAPS};
use super::{MapName, ServiceSettings};

/// A send must fit the socket's buffer; more goes out in several transactions.
const TRANSACTION_BYTES_MAX: usize = 4 << 20;
/// Transactions for remembered clients that could not be forgotten together.
const ONE_BY_ONE_MAX: usize = 200;

#[derive(Debug)]
pub struct Kernel {
    netfilter: Socket,
    settings: ServiceSettings,
    busy: Duration,
}

/// What to send, by place: what is there and what should be.
type Differences = BTreeMap<Place, (Option<Entry>, Option<Entry>)>;

impl Kernel {
    pub fn new(netfilter: Socket, settings: ServiceSettings) -> Kernel {
        Kernel { netfilter, settings, busy: Duration::ZERO }
    }

    pub fn netfilter(&mut self) -> &mut Socket {
        &mut self.netfilter
    }

    pub fn settings(&self) -> &ServiceSettings {
        &self.settings
    }

    /// How long the kernel has worked on changes since the last call.
    pub fn take_busy(&mut self) -> Duration {
        std::mem::take(&mut self.busy)
    }

    pub fn remove(&mut self) -> Result<()> {
        nftables::remove(&mut self.netfilter, &self.settings.table)
    }

    /// Reads the table and makes it what it should be. What the kernel refuses leaves a table of
    /// this version as it was, which is better than none. Answers the number of messages.
    pub fn sync(&mut self, desired: &Desired) -> Result<usize> {
        match self.read() {
            Ok(Some(there)) => self.send(&differences(there, desired)),
            // Another version's, or one that something is missing in.
            Ok(None) | Err(_) => self.replace(desired),
        }
    }

    /// Sends what changed at these places, which had these elements before.
    pub fn change(&mut self, before: &BTreeMap<Place, Option<Entry>>, desired: &Desired) -> Result<usize> {
        let now = before.iter().map(|(place, entry)| (place.clone(), (entry.clone(), desired.entry(place))));
        self.send(&now.filter(|(_, (before, now))| before != now).collect())
    }

    /// Rules cannot be compared one by one with what was sent, because the kernel lists them in its
    /// own words. The mark stands for all of them.
    fn mark(&self) -> [u8; 32] {
        Sha256::digest(format!("{} {:?}", env!("CARGO_PKG_VERSION"), rules::skeleton(&self.settings))).into()
    }

    /// What is in the table. None when its rules are not those of this version and these settings.
    fn read(&mut self) -> Result<Option<BTreeMap<Place, Entry>>> {
        let table = self.settings.table.clone();
        if nftables::table_mark(&mut self.netfilter, &table)?.as_deref() != Some(&self.mark()[..]) {
            return Ok(None);
        }
        // Another program may have taken rules away: each chain must be there and have its number
        // of them.
        let mut expected = rules::skeleton(&self.settings).chains;
        let mut there = BTreeMap::new();
        let chains = nftables::chains(&mut self.netfilter, &table)?;
        for chain in chains.keys().filter_map(|name| rules::chain_of_name(name)) {
            there.insert((CHAINS, Box::from(chain.name.as_bytes())), Entry::named(&chain.name));
            expected.push(chain);
        }
        if chains != expected.into_iter().map(|chain| (chain.name, chain.rules.len())).collect() {
            return Ok(None);
        }
        for map in nftables::maps(&mut self.netfilter, &table)? {
            if !rules::skeleton(&self.settings).maps.iter().any(|of_all| of_all.name == map) {
                there.insert((CLIENTS, Box::from(map.as_bytes())), Entry::named(&map));
            }
        }
        for map in MAPS {
            let entries = nftables::entries(&mut self.netfilter, &table, map)?;
            there.extend(entries.into_iter().map(|entry| ((map, entry.key.clone()), entry)));
        }
        Ok(Some(there))
    }

    /// Whatever was there, in one transaction for the rules; elements follow in the same one if
    /// they fit.
    fn replace(&mut self, desired: &Desired) -> Result<usize> {
        let table = self.settings.table.clone();
        let mut batch = Batch::new();
        batch.add_table(&table);
        batch.delete_table(&table);
        batch.add_marked_table(&table, &self.mark());
        batch.add_ruleset(&rules::skeleton(&self.settings));
        let all = desired.entries().map(|(place, entry)| (place.clone(), (None, Some(entry)))).collect();
        self.transact(batch, &all)
    }

    fn send(&mut self, differences: &Differences) -> Result<usize> {
        if differences.is_empty() {
            return Ok(0);
        }
        self.transact(Batch::new(), differences)
    }

    fn transact(&mut self, mut batch: Batch, differences: &Differences) -> Result<usize> {
        let table = self.settings.table.clone();
        for clients in names(differences, CLIENTS, is_new) {
            batch.add_map(&table, &rules::clients(&clients));
        }
        for chain in names(differences, CHAINS, is_new).filter_map(|name| rules::chain_of_name(&name)) {
            batch.add_chain_with_rules(&table, &chain);
        }
        for map in MAPS {
            let changed = || of_map(differences, map).map(|(_, difference)| difference);
            batch.delete_entries(&table, map, changed().filter_map(|(before, _)| before.as_ref()));
            batch.add_entries(&table, map, changed().filter_map(|(_, now)| now.as_ref()));
        }
        let sent = self.execute(batch)?;
        // Old kernels refuse to delete a chain in the transaction that deletes the last element
        // that names it.
        let mut batch = Batch::new();
        names(differences, CHAINS, is_gone).for_each(|chain| batch.delete_chain(&table, &chain));
        names(differences, CLIENTS, is_gone).for_each(|clients| batch.delete_map(&table, &clients));
        Ok(sent + self.execute(batch)?)
    }

    /// Takes clients out of a map of remembered ones that would go back to other endpoints than
    /// these.
    pub fn forget_clients(&mut self, map: &str, endpoints: &[Box<[u8]>]) -> Result<usize> {
        let table = self.settings.table.clone();
        let is_gone = |entry: &Entry| !matches!(&entry.data, EntryData::Value(target) if endpoints.contains(target));
        let there = nftables::entries(&mut self.netfilter, &table, map)?;
        let gone: Vec<Entry> = there.into_iter().filter(is_gone).collect();
        if gone.is_empty() {
            return Ok(0);
        }
        let mut batch = Batch::new();
        batch.delete_entries(&table, map, gone.iter());
        match self.execute(batch) {
            // One of them ended meanwhile, and the kernel refused all.
            Err(error) if error.errno() == Some(libc::ENOENT) => self.forget_one_by_one(map, &gone),
            other => other,
        }
    }

    fn forget_one_by_one(&mut self, map: &str, gone: &[Entry]) -> Result<usize> {
        let mut sent = 0;
        // The others end by themselves.
        for entry in gone.iter().take(ONE_BY_ONE_MAX) {
            let mut batch = Batch::new();
            batch.delete_entries(&self.settings.table, map, [entry].into_iter());
            match self.execute(batch) {
                Ok(messages) => sent += messages,
                Err(error) if error.errno() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Answers the number of messages; none for an empty batch.
    fn execute(&mut self, batch: Batch) -> Result<usize> {
        let mut sent = 0;
        for messages in batch.into_parts(TRANSACTION_BYTES_MAX) {
            sent += messages.len();
            let began = Instant::now();
            let result = self.netfilter.execute(&format!("change table {}", self.settings.table), messages);
            self.busy += began.elapsed();
            result?;
        }
        Ok(sent)
    }
}

fn differences(mut there: BTreeMap<Place, Entry>, desired: &Desired) -> Differences {
    let mut differences = Differences::new();
    for (place, wanted) in desired.entries() {
        let before = there.remove(place);
        if before.as_ref() != Some(&wanted) {
            differences.insert(place.clone(), (before, Some(wanted)));
        }
    }
    differences.extend(there.into_iter().map(|(place, entry)| (place, (Some(entry), None))));
    differences
}

fn is_new((before, now): &(Option<Entry>, Option<Entry>)) -> bool {
    before.is_none() && now.is_some()
}

fn is_gone((before, now): &(Option<Entry>, Option<Entry>)) -> bool {
    before.is_some() && now.is_none()
}

/// Names of chains or maps that appear or go.
fn names(differences: &Differences, of: MapName, is_wanted: fn(&(Option<Entry>, Option<Entry>)) -> bool) -> impl Iterator<Item = String> {
    let wanted = of_map(differences, of).filter(move |(_, difference)| is_wanted(difference));
    wanted.map(|((_, name), _)| String::from_utf8_lossy(name).into_owned())
}

fn of_map(differences: &Differences, map: MapName) -> impl Iterator<Item = (&Place, &(Option<Entry>, Option<Entry>))> {
    differences.range((map, Box::default())..).take_while(move |((name, _), _)| *name == map)
}
