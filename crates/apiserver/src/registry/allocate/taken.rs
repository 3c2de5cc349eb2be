//! Which addresses and ports are taken, and what a write takes and gives back.
//!
//! An address is taken by the stored objects that hold it (a Service, an IPAddress), and by writes
//! under way. What is kept in memory decides which number is tried; that a number is given once is
//! decided by the store, because an address is the name of an IPAddress that the write creates.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kinds::names;
use store::{Expect, Guard, Txn, Write};

use super::OWN_ADDRESS;
use super::ranges::ServiceRange;

const PORTS: RangeInclusive<u32> = 30_000..=32_767;
const STATIC_PORTS: u32 = 86;

const MISMATCH: &str = "the provided network does not match the current range";
const ALLOCATED: &str = "provided IP is already allocated";

/// Which addresses and ports are taken.
#[derive(Debug, Clone, Default)]
pub struct Allocations(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    /// How many stored objects hold the address.
    held: BTreeMap<u32, u32>,
    /// By writes that are under way.
    reserved: BTreeSet<u32>,
    ports: BTreeSet<u32>,
}

impl Allocations {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a stored object has.
    pub fn add(&self, held: Held) {
        let mut taken = self.lock();
        held.addresses.iter().for_each(|address| taken.hold(*address));
        taken.ports.extend(held.ports);
    }
}

impl Taken {
    /// The address of the Service `kubernetes` is never free.
    fn is_free(&self, address: u32) -> bool {
        address != u32::from(OWN_ADDRESS) && !self.held.contains_key(&address) && !self.reserved.contains(&address)
    }

    fn hold(&mut self, address: u32) {
        *self.held.entry(address).or_default() += 1;
    }

    /// What was reserved is held now, or free again.
    fn release(&mut self, reserved: &BTreeSet<u32>, ports: &BTreeSet<u32>) {
        for address in reserved {
            self.reserved.remove(address);
        }
        for port in ports {
            self.ports.remove(port);
        }
    }

    fn give_up(&mut self, address: u32) {
        if let Some(holders) = self.held.get_mut(&address) {
            *holders -= 1;
            if *holders == 0 {
                self.held.remove(&address);
            }
        }
    }
}

/// The addresses and ports of a stored object.
#[derive(Debug, Default)]
pub struct Held {
    pub addresses: BTreeSet<u32>,
    pub ports: BTreeSet<u32>,
}

/// Allocated for a write that has not happened yet; given back unless kept.
#[derive(Debug)]
#[must_use = "what is not kept is given back"]
pub struct Pending {
    allocations: Allocations,
    pub dry_run: bool,
    reserved: BTreeSet<u32>,
    reserved_ports: BTreeSet<u32>,
    /// By how many objects more each address is held once the write has happened, and by how many
    /// less.
    gained: Vec<u32>,
    lost: Vec<u32>,
    lost_ports: BTreeSet<u32>,
    /// The IPAddresses that come and go with the object.
    guards: Vec<Guard>,
    writes: Vec<Write>,
}

impl Pending {
    pub fn new(allocations: &Allocations, dry_run: bool) -> Pending {
        Pending {
            allocations: allocations.clone(),
            dry_run,
            reserved: BTreeSet::new(),
            reserved_ports: BTreeSet::new(),
            gained: Vec::new(),
            lost: Vec::new(),
            lost_ports: BTreeSet::new(),
            guards: Vec::new(),
            writes: Vec::new(),
        }
    }

    /// The transaction of the object's write: it stands last.
    pub fn transaction(&mut self, expect: Expect, write: Write) -> Txn {
        let mut txn = Txn { guards: std::mem::take(&mut self.guards), writes: std::mem::take(&mut self.writes) };
        txn.guards.push(Guard { key: write.key().clone(), expect });
        txn.writes.push(write);
        txn
    }

    /// The write has happened.
    pub fn keep(mut self) {
        let mut taken = self.allocations.lock();
        std::mem::take(&mut self.gained).into_iter().for_each(|address| taken.hold(address));
        std::mem::take(&mut self.lost).into_iter().for_each(|address| taken.give_up(address));
        taken.release(&self.reserved, &self.lost_ports);
        self.reserved.clear();
        self.reserved_ports.clear();
    }

    /// The object holds the address once the write has happened.
    pub fn gain(&mut self, address: u32) {
        self.gained.push(address);
    }

    /// The object holds it no more then.
    pub fn lose(&mut self, address: u32) {
        self.lost.push(address);
    }

    pub fn lose_ports(&mut self, ports: impl IntoIterator<Item = u32>) {
        self.lost_ports.extend(ports);
    }

    /// Writes another object in the same transaction.
    pub fn also(&mut self, key: Bytes, expect: Expect, write: Option<Write>) {
        self.guards.push(Guard { key, expect });
        self.writes.extend(write);
    }

    /// Keeps the address from Services until the write is over. False while another write has it.
    pub fn reserve(&mut self, address: u32) -> bool {
        let is_new = self.dry_run || self.allocations.lock().reserved.insert(address);
        if is_new && !self.dry_run {
            self.reserved.insert(address);
        }
        is_new
    }

    /// A dry run does not look whether the address is free.
    pub fn claim_address(&mut self, ranges: &[ServiceRange], text: &str, may_be_own: bool) -> Result<u32, String> {
        let Some(IpAddr::V4(ip)) = names::parse_ip(text) else { return Err(MISMATCH.to_owned()) };
        let address = u32::from(ip);
        let is_served = ranges.iter().any(|range| range.is_ready && range.addresses.serves(ip.into()));
        if self.dry_run {
            let shown = ranges.first().map_or("", |range| &*range.text);
            let refused = || format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {shown}");
            return is_served.then_some(address).ok_or_else(refused);
        }
        // Without it, a server whose range was deleted would not start.
        if may_be_own && ip == OWN_ADDRESS {
            return Ok(address);
        }
        if !is_served {
            return Err(MISMATCH.to_owned());
        }
        let mut taken = self.allocations.lock();
        if !taken.is_free(address) {
            return Err(ALLOCATED.to_owned());
        }
        taken.reserved.insert(address);
        self.reserved.insert(address);
        Ok(address)
    }

    /// A free address of the first range that has one.
    pub fn next_address(&mut self, ranges: &[ServiceRange]) -> Option<u32> {
        let mut taken = self.allocations.lock();
        let mut usable = ranges.iter().filter(|range| range.is_ready).map(|range| &range.addresses);
        let address = usable.find_map(|range| pick(&range.ipv4()?, range.static_count(), |address| taken.is_free(address)))?;
        if !self.dry_run {
            taken.reserved.insert(address);
            self.reserved.insert(address);
        }
        Some(address)
    }

    /// A dry run does not look at the range.
    pub fn claim_port(&mut self, port: u32) -> Result<(), String> {
        let mut taken = self.allocations.lock();
        if !self.dry_run && !PORTS.contains(&port) {
            let (first, last) = (PORTS.start(), PORTS.end());
            return Err(format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"));
        }
        if taken.ports.contains(&port) || self.reserved_ports.contains(&port) {
            return Err("provided port is already allocated".to_owned());
        }
        if !self.dry_run {
            taken.ports.insert(port);
        }
        self.reserved_ports.insert(port);
        Ok(())
    }

    pub fn next_port(&mut self) -> Option<u32> {
        let mut taken = self.allocations.lock();
        let is_free = |port| !taken.ports.contains(&port) && !self.reserved_ports.contains(&port);
        let port = pick(&PORTS, STATIC_PORTS, is_free)?;
        if !self.dry_run {
            taken.ports.insert(port);
        }
        self.reserved_ports.insert(port);
        Some(port)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.dry_run {
            let mut taken = self.allocations.lock();
            taken.release(&self.reserved, &self.reserved_ports);
        }
    }
}

/// A free number of the range: from a random place on, the lower part last. It looks at no more
/// numbers than are taken, and one.
fn pick(range: &RangeInclusive<u32>, static_count: u32, is_free: impl Fn(u32) -> bool) -> Option<u32> {
    let first = u64::from(*range.start()) + u64::from(static_count);
    let count = (u64::from(*range.end()) + 1).checked_sub(first)?;
    let offset = u64::try_from(uuid::Uuid::new_v4().as_u128() % u128::from(count.max(1))).expect("less than the count");
    let dynamic = (0..count).map(|i| u32::try_from(first + (offset + i) % count).expect("within the range"));
    let lower = (*range.start()..=*range.end()).take(usize::try_from(static_count).expect("it is small"));
    dynamic.chain(lower).find(|number| is_free(*number))
}

#[cfg(test)]
mod tests {
    use kinds::address_range::ipv4_text;

    use super::*;

    fn pending(allocations: &Allocations, dry_run: bool) -> Pending {
        Pending::new(allocations, dry_run)
    }

    fn ranges(texts: &[&str]) -> Vec<ServiceRange> {
        texts.iter().map(|text| ServiceRange::of(text, true).expect("ranges of tests are well formed")).collect()
    }

    #[test]
    fn what_is_not_kept_is_given_back() {
        let (allocations, ranges) = (Allocations::default(), ranges(&["10.96.0.0/16"]));
        let claim = |pending: &mut Pending| pending.claim_address(&ranges, "10.96.5.5", false);
        let mut first = pending(&allocations, false);
        let address = claim(&mut first).unwrap();
        first.claim_port(30_085).unwrap();
        assert_eq!(claim(&mut pending(&allocations, false)).unwrap_err(), ALLOCATED);
        drop(first);
        let mut second = pending(&allocations, false);
        claim(&mut second).unwrap();
        second.claim_port(30_085).unwrap();
        second.gain(address);
        second.keep();
        assert_eq!(claim(&mut pending(&allocations, false)).unwrap_err(), ALLOCATED);
        assert_eq!(pending(&allocations, false).claim_port(30_085).unwrap_err(), "provided port is already allocated");
    }

    #[test]
    fn an_address_is_free_when_its_last_holder_is_gone() {
        let (allocations, ranges) = (Allocations::default(), ranges(&["10.96.0.0/16"]));
        let claim = || pending(&allocations, false).claim_address(&ranges, "10.96.5.5", false);
        let address = u32::from(std::net::Ipv4Addr::new(10, 96, 5, 5));
        for _ in 0..2 {
            allocations.add(Held { addresses: BTreeSet::from([address]), ports: BTreeSet::new() });
        }
        for expected in [Err(ALLOCATED.to_owned()), Ok(address)] {
            let mut gone = pending(&allocations, false);
            gone.lose(address);
            gone.keep();
            assert_eq!(claim(), expected);
        }
    }

    #[test]
    fn a_dry_run_takes_nothing() {
        let (allocations, ranges) = (Allocations::default(), ranges(&["10.96.0.0/16"]));
        let mut dry = pending(&allocations, true);
        dry.claim_address(&ranges, "10.96.5.5", false).unwrap();
        dry.claim_port(30_085).unwrap();
        assert!(dry.next_port().is_some() && dry.next_address(&ranges).is_some());
        dry.keep();
        let taken = allocations.lock();
        assert!(taken.ports.is_empty() && taken.held.is_empty() && taken.reserved.is_empty());
    }

    #[test]
    fn ranges_are_kept() {
        let (allocations, ranges) = (Allocations::default(), ranges(&["10.96.0.0/16", "10.97.0.0/30"]));
        let mut real = pending(&allocations, false);
        let mut claim = |text: &str, may_be_own| real.claim_address(&ranges, text, may_be_own);
        assert_eq!(claim("10.96.0.1", false).unwrap_err(), ALLOCATED);
        assert!(claim("10.96.0.1", true).is_ok() && claim("10.97.0.2", false).is_ok());
        for outside in ["10.96.255.255", "10.96.0.0", "10.97.0.3", "10.98.0.1", "2001:db8::1", "a"] {
            assert_eq!(claim(outside, false).unwrap_err(), MISMATCH, "{outside}");
        }
        assert!(real.claim_port(80).unwrap_err().ends_with("30000-32767"));
        let refused = pending(&allocations, true).claim_address(&ranges, "1.2.3.4", false).unwrap_err();
        assert_eq!(refused, "the provided IP (1.2.3.4) is not in the valid range. The range of valid IPs is 10.96.0.0/16");
    }

    #[test]
    fn ranges_are_used_up_one_after_the_other_and_the_lower_part_last() {
        let allocations = Allocations::default();
        let ranges = ranges(&["10.9.0.0/27", "10.8.0.0/30"]);
        let mut pending = pending(&allocations, false);
        let given: Vec<String> = std::iter::from_fn(|| pending.next_address(&ranges)).map(ipv4_text).collect();
        assert_eq!(given.len(), 30 + 2);
        let place = |address: &str| given.iter().position(|text| text == address).expect("all are given");
        assert!((1..=16).all(|low| (14..30).contains(&place(&format!("10.9.0.{low}")))));
        assert!(place("10.8.0.1") >= 30 && place("10.8.0.2") >= 30);
        assert_eq!(pending.next_address(&ranges), None);
    }

    #[test]
    fn the_largest_range_has_addresses() {
        let mut pending = pending(&Allocations::default(), false);
        assert!(pending.next_address(&ranges(&["0.0.0.0/0"])).is_some());
    }
}
