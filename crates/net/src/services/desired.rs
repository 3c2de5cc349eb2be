//! Which elements the maps should have, and who wants them.
//!
//! Several ports may claim the same element (the chain for two endpoints, the address of a Service
//! with two ports). Where they disagree about its data, the better rank has it, then the first by
//! name. Sources that may use an address count only of the port that has the address: the kernel
//! refuses ranges that overlap, and with them everything else. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use containers::ServicePortName;

use crate::nftables::{Entry, EntryData};

use super::MapName;
use super::elements::{Claim, Rank};
use super::rules::{ALLOWED_SOURCES, CLIENTS, RESTRICTED};

/// A map and a key.
pub type Place = (MapName, Box<[u8]>);

#[derive(Debug, Default)]
pub struct Desired {
    places: BTreeMap<Place, Vec<Claimed>>,
    /// Where each port has claims.
    owners: BTreeMap<Arc<ServicePortName>, Vec<(Place, Rank)>>,
}

/// Address, protocol and port, with which keys of [`ALLOWED_SOURCES`] begin.
const RESTRICTED_KEY_BYTES: usize = 12;

#[derive(Debug)]
struct Claimed {
    rank: Rank,
    by: Arc<ServicePortName>,
    key_end: Option<Box<[u8]>>,
    data: EntryData,
}

impl Desired {
    /// For a port that has no claims yet.
    pub fn claim(&mut self, owner: &ServicePortName, claims: Vec<Claim>) {
        let owner = Arc::new(owner.clone());
        let mut places = Vec::with_capacity(claims.len());
        for Claim { map, entry: Entry { key, key_end, data }, rank } in claims {
            let place = (map, key);
            let claimed = self.places.entry(place.clone()).or_default();
            // A port that claims an element twice means the same one.
            if let Err(at) = find(claimed, rank, &owner) {
                claimed.insert(at, Claimed { rank, by: owner.clone(), key_end, data });
                places.push((place, rank));
            }
        }
        if !places.is_empty() {
            self.owners.insert(owner, places);
        }
    }

    /// Gives the port other claims. Answers all places that it had or has, each with what should
    /// have been there before.
    pub fn replace(&mut self, owner: &ServicePortName, claims: Vec<Claim>) -> Vec<(Place, Option<Entry>)> {
        let old_places = self.owners.remove(owner).unwrap_or_default();
        let new_places = claims.iter().map(|claim| (claim.map, claim.entry.key.clone()));
        let mut touched: BTreeSet<Place> = old_places.iter().map(|(place, _)| place.clone()).chain(new_places).collect();
        let sources: Vec<Place> = touched.iter().flat_map(|place| self.sources_at(place)).collect();
        touched.extend(sources);
        let before = touched.into_iter().map(|place| (place.clone(), self.entry(&place))).collect();
        for (place, rank) in old_places {
            let claimed = self.places.get_mut(&place).expect("a port's places have its claims");
            // All Services claim the chain for their number of endpoints: going through the list
            // would be most of what a change takes.
            if let Ok(at) = find(claimed, rank, owner) {
                claimed.remove(at);
            }
            if claimed.is_empty() {
                self.places.remove(&place);
            }
        }
        self.claim(owner, claims);
        before
    }

    /// What should be there.
    pub fn entry(&self, place: &Place) -> Option<Entry> {
        self.holder(place).map(|claim| claim.entry(place))
    }

    /// Whether the port is the one that has the place.
    pub fn holds(&self, owner: &ServicePortName, place: &Place) -> bool {
        self.holder(place).is_some_and(|claim| *claim.by == *owner)
    }

    fn holder(&self, place: &Place) -> Option<&Claimed> {
        let claimed = self.places.get(place)?;
        let (map, key) = place;
        if *map != ALLOWED_SOURCES {
            return claimed.first();
        }
        let address = (RESTRICTED, Box::from(&key[..RESTRICTED_KEY_BYTES]));
        let by = &self.places.get(&address)?.first()?.by;
        claimed.iter().find(|claim| claim.by == *by)
    }

    /// All sources, of whichever port, that depend on who has this address.
    fn sources_at(&self, (map, key): &Place) -> Vec<Place> {
        if *map != RESTRICTED {
            return Vec::new();
        }
        let from = self.places.range((ALLOWED_SOURCES, key.clone())..).map(|(place, _)| place);
        from.take_while(|(map, source)| *map == ALLOWED_SOURCES && source.starts_with(key)).cloned().collect()
    }

    /// Whether there should be such a map of remembered clients.
    pub fn has_clients(&self, map: &str) -> bool {
        self.places.contains_key(&(CLIENTS, Box::from(map.as_bytes())))
    }

    pub fn entries(&self) -> impl Iterator<Item = (&Place, Entry)> {
        self.places.keys().filter_map(|place| Some((place, self.entry(place)?)))
    }
}

/// Where the port's claim is, or would be.
fn find(claimed: &[Claimed], rank: Rank, owner: &ServicePortName) -> Result<usize, usize> {
    claimed.binary_search_by(|claim| (claim.rank, &*claim.by).cmp(&(rank, owner)))
}

impl Claimed {
    fn entry(&self, (_, key): &Place) -> Entry {
        Entry { key: key.clone(), key_end: self.key_end.clone(), data: self.data.clone() }
    }
}
