//! Which pod has which users of the node: a range of ids for each pod with users of its own
//! (`hostUsers: false`), of which no two overlap.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The ids of one pod, and what a range begins at a multiple of.
pub const LENGTH: u32 = 65_536;

/// Below are the node's own users.
pub const FIRST: u32 = LENGTH;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("could not find an empty slot to allocate a user namespace")]
    Full,
    #[error("invalid user namespace mappings file: {0}")]
    Malformed(String),
    #[error("range picked for pod {0:?} already taken")]
    Taken(String),
    #[error("different user namespace range already used by pod {0:?}")]
    Different(String),
}

/// What is on disk beside a pod's volumes, in the kubelet's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mappings {
    pub uid_mappings: Vec<Mapping>,
    pub gid_mappings: Vec<Mapping>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mapping {
    pub host_id: u32,
    pub container_id: u32,
    pub length: u32,
}

impl Mappings {
    pub fn of(first: u32) -> Mappings {
        let mapping = Mapping { host_id: first, container_id: 0, length: LENGTH };
        Mappings { uid_mappings: vec![mapping], gid_mappings: vec![mapping] }
    }

    /// The first id of the node; only what [`Mappings::of`] makes is read.
    pub fn first(&self) -> Result<u32, Error> {
        let first = self.uid_mappings.first().map_or(0, |mapping| mapping.host_id);
        let is_ours = first >= FIRST && first.is_multiple_of(LENGTH) && *self == Mappings::of(first);
        if is_ours { Ok(first) } else { Err(Error::Malformed("it does not map one range of users and groups".to_owned())) }
    }
}

/// The ranges of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// First id and owner.
    taken: BTreeMap<u32, String>,
    first: u32,
    count: u32,
}

impl Ranges {
    /// `count` ranges from the id `first` on, as many as the kernel's ids allow.
    pub fn new(first: u32, count: u32) -> Ranges {
        Ranges { taken: BTreeMap::new(), first: first.max(FIRST) / LENGTH * LENGTH, count }
    }

    pub fn of(&self, uid: &str) -> Option<u32> {
        self.taken.iter().find(|(_, owner)| *owner == uid).map(|(first, _)| *first)
    }

    /// A range that was given before, to a pod of an earlier agent. Also one outside of today's
    /// bounds: it is in use.
    pub fn record(&mut self, uid: &str, first: u32) -> Result<(), Error> {
        match (self.taken.get(&first), self.of(uid)) {
            (Some(owner), _) if owner != uid => Err(Error::Taken(uid.to_owned())),
            (_, Some(known)) if known != first => Err(Error::Different(uid.to_owned())),
            _ => {
                self.taken.insert(first, uid.to_owned());
                Ok(())
            }
        }
    }

    /// The lowest that is free, or the one that the pod has.
    pub fn allocate(&mut self, uid: &str) -> Result<u32, Error> {
        if let Some(first) = self.of(uid) {
            return Ok(first);
        }
        // The last id is no id: the kernel uses it for "unchanged".
        let firsts =
            (0..self.count).map_while(|n| self.first.checked_add(n.checked_mul(LENGTH)?)).filter(|first| *first <= u32::MAX - LENGTH);
        let first = firsts.into_iter().find(|first| !self.taken.contains_key(first)).ok_or(Error::Full)?;
        self.taken.insert(first, uid.to_owned());
        Ok(first)
    }

    pub fn release(&mut self, uid: &str) {
        self.taken.retain(|_, owner| owner != uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_never_overlap() {
        let mut ranges = Ranges::new(FIRST, 3);
        assert_eq!(ranges.allocate("a"), Ok(65_536));
        assert_eq!(ranges.allocate("a"), Ok(65_536), "asked twice");
        assert_eq!(ranges.allocate("b"), Ok(131_072));
        assert_eq!(ranges.record("c", 131_072), Err(Error::Taken("c".to_owned())));
        assert_eq!(ranges.record("a", 196_608), Err(Error::Different("a".to_owned())));
        assert_eq!(ranges.record("c", 196_608), Ok(()));
        assert_eq!(ranges.allocate("d"), Err(Error::Full));
        ranges.release("b");
        assert_eq!(ranges.allocate("d"), Ok(131_072));
        ranges.release("nobody");
        assert_eq!(ranges.of("d"), Some(131_072));
    }

    #[test]
    fn bounds_are_the_kernels() {
        let mut all = Ranges::new(0, u32::MAX);
        for n in 1..=65_534u32 {
            // Quadratic otherwise: only the free end is looked at.
            all.taken.insert(n * LENGTH, n.to_string());
        }
        assert_eq!(all.allocate("last"), Err(Error::Full), "the last range has the id that means unchanged");
        assert_eq!(Ranges::new(u32::MAX, 5).allocate("x"), Err(Error::Full));
    }

    #[test]
    fn only_own_records_are_read() {
        let read = |text: &str| serde_json::from_str::<Mappings>(text).ok().and_then(|mappings| mappings.first().ok());
        let own = serde_json::to_string(&Mappings::of(131_072)).unwrap();
        assert_eq!(
            own,
            r#"{"uidMappings":[{"hostId":131072,"containerId":0,"length":65536}],"gidMappings":[{"hostId":131072,"containerId":0,"length":65536}]}"#
        );
        assert_eq!(read(&own), Some(131_072));
        for damage in ["", "{}", &own.replace("131072", "0"), &own.replace("131072", "131073"), &own.replace("65536", "65535"), &own[..40]]
        {
            assert_eq!(read(damage), None, "{damage}");
        }
        assert_eq!(read(&own.replacen("131072", "196608", 1)), None, "groups that are not the users'");
    }
}
