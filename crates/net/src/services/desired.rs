//! Which elements the maps should have, and who wants them.
//!
//! Several ports may claim the same element (the chain for two endpoints, the address of a Service
//! with two ports). Where they disagree about its data, the first by name has it. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use containers::ServicePortName;

use crate::nftables::{Entry, EntryData};

use super::MapName;
use super::elements::Claim;
use super::rules::CLIENTS;

/// A map and a key.
pub type Place = (MapName, Box<[u8]>);

#[derive(Debug, Default)]
pub struct Desired {
    places: BTreeMap<Place, Vec<Claimed>>,
    /// Where each port has claims.
    owners: BTreeMap<Arc<ServicePortName>, Vec<Place>>,
}

#[derive(Debug)]
struct Claimed {
    by: Arc<ServicePortName>,
    key_end: Option<Box<[u8]>>,
    data: EntryData,
}

impl Desired {
    /// For a port that has no claims yet.
    pub fn claim(&mut self, owner: &ServicePortName, claims: Vec<Claim>) {
        let owner = Arc::new(owner.clone());
        let mut places = Vec::with_capacity(claims.len());
        for (map, Entry { key, key_end, data }) in claims {
            let place = (map, key);
            let claimed = self.places.entry(place.clone()).or_default();
            let at = claimed.partition_point(|other| other.by < owner);
            // A port that claims an element twice means the same one.
            if claimed.get(at).is_none_or(|other| other.by != owner) {
                claimed.insert(at, Claimed { by: owner.clone(), key_end, data });
                places.push(place);
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
        let new_places = claims.iter().map(|(map, entry)| (*map, entry.key.clone()));
        let before: Vec<(Place, Option<Entry>)> =
            old_places.iter().cloned().chain(new_places).map(|place| (place.clone(), self.entry(&place))).collect();
        for place in old_places {
            let claimed = self.places.get_mut(&place).expect("a port's places have its claims");
            // All Services claim the chain for their number of endpoints: going through the list
            // would be most of what a change takes.
            if let Ok(at) = claimed.binary_search_by(|claim| (*claim.by).cmp(owner)) {
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
        self.places.get(place)?.first().map(|claim| claim.entry(place))
    }

    /// Whether there should be such a map of remembered clients.
    pub fn has_clients(&self, map: &str) -> bool {
        self.places.contains_key(&(CLIENTS, Box::from(map.as_bytes())))
    }

    pub fn entries(&self) -> impl Iterator<Item = (&Place, Entry)> {
        self.places.iter().filter_map(|(place, claimed)| Some((place, claimed.first()?.entry(place))))
    }
}

impl Claimed {
    fn entry(&self, (_, key): &Place) -> Entry {
        Entry { key: key.clone(), key_end: self.key_end.clone(), data: self.data.clone() }
    }
}
