//! So much at once, of all peers and of each: one that takes its whole share leaves room for
//! others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Clones share it.
#[derive(Debug, Clone)]
pub struct Quota {
    total_max: usize,
    each_max: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    of_peer: HashMap<IpAddr, usize>,
}

/// A place, given back with the value.
#[derive(Debug)]
pub struct Place {
    quota: Quota,
    peer: IpAddr,
}

impl Quota {
    pub fn new(total_max: usize, each_max: usize) -> Quota {
        Quota { total_max, each_max, taken: Arc::default() }
    }

    /// None when all places are taken, or all of this peer.
    pub fn take(&self, peer: IpAddr) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let of_peer = taken.of_peer.get(&peer).copied().unwrap_or_default();
        if taken.total >= self.total_max || of_peer >= self.each_max {
            return None;
        }
        taken.total += 1;
        taken.of_peer.insert(peer, of_peer + 1);
        Some(Place { quota: self.clone(), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.quota.taken);
        taken.total -= 1;
        match taken.of_peer.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.of_peer.remove(&self.peer);
            }
        }
    }
}

fn lock(shared: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_takes_its_share_and_no_more() {
        let quota = Quota::new(5, 3);
        let [one, other]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().expect("an address"));
        let mut places: Vec<Place> = (0..3).filter_map(|_| quota.take(one)).collect();
        assert_eq!(places.len(), 3);
        assert!(quota.take(one).is_none());
        places.extend((0..3).filter_map(|_| quota.take(other)));
        assert_eq!(places.len(), 5, "all together");
        places.remove(0);
        assert!(quota.take(one).is_some());
        places.clear();
        assert!(lock(&quota.taken).of_peer.is_empty());
        assert_eq!(lock(&quota.taken).total, 0);
    }
}
