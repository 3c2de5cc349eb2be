//! Who is connected, and which connection makes room when there are too many.
//!
//! Peers are addresses; of an IPv6 address its /64 network, which one machine may have to itself. A
//! connection is *shaking hands*, then *proven* (its client showed a certificate of the authority)
//! or *unproven*. When a limit is reached, the oldest handshake goes, which an honest client has
//! long completed, or the connection that has been idle for longest; one that works is never ended.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::activity::Activity;
use crate::listener::Limits;

#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub struct Peer(IpAddr);

impl Peer {
    pub fn of(address: IpAddr) -> Peer {
        const NETWORK_OF_ONE_MACHINE: u128 = !0 << 64;
        match address.to_canonical() {
            IpAddr::V6(address) => Peer(IpAddr::V6((address.to_bits() & NETWORK_OF_ONE_MACHINE).into())),
            v4 => Peer(v4),
        }
    }
}

/// Connections are numbered in the order in which they came.
pub type Id = u64;

#[derive(Debug, Copy, Clone, PartialEq, Eq)]
enum Phase {
    Handshake,
    Unproven,
    Proven,
}

struct Connection {
    peer: Peer,
    phase: Phase,
    activity: Arc<Activity>,
}

/// There are too many connections, and all of them work.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

pub struct Peers {
    limits: Limits,
    connections: HashMap<Id, Connection>,
    handshakes: BTreeSet<Id>,
    /// Handshakes and unproven connections.
    of_peer: HashMap<Peer, BTreeSet<Id>>,
    next: Id,
}

impl Peers {
    pub fn new(limits: Limits) -> Peers {
        Peers { limits, connections: HashMap::new(), handshakes: BTreeSet::new(), of_peer: HashMap::new(), next: 0 }
    }

    /// Takes in a connection that begins with its handshake; others may end for it.
    pub fn admit(&mut self, peer: Peer, activity: Arc<Activity>) -> Result<Id, Full> {
        let own = self.of_peer.get(&peer).into_iter().flatten().copied().filter(|id| self.handshakes.contains(id));
        let own: Vec<Id> = own.collect();
        if own.len() >= self.limits.handshakes_per_peer {
            self.end(own[0]);
        }
        if self.handshakes.len() >= self.limits.handshakes
            && let Some(oldest) = self.handshakes.first().copied()
        {
            self.end(oldest);
        }
        if self.connections.len() >= self.limits.connections {
            let victim = self.handshakes.first().copied().or_else(|| self.longest_idle(self.connections.keys().copied()));
            self.end(victim.ok_or(Full)?);
        }
        let id = self.next;
        self.next += 1;
        self.connections.insert(id, Connection { peer, phase: Phase::Handshake, activity });
        self.handshakes.insert(id);
        self.of_peer.entry(peer).or_default().insert(id);
        Ok(id)
    }

    /// The handshake of a connection is done. An unproven one may be one too many for its peer.
    pub fn shaken(&mut self, id: Id, is_proven: bool) -> Result<(), Full> {
        self.handshakes.remove(&id);
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.phase = if is_proven { Phase::Proven } else { Phase::Unproven };
        let peer = connection.peer;
        if is_proven {
            self.leave_peer(peer, id);
            return Ok(());
        }
        let unproven: Vec<Id> = self.of_peer.get(&peer).into_iter().flatten().copied().filter(|id| !self.handshakes.contains(id)).collect();
        if unproven.len() <= self.limits.unproven_per_peer {
            return Ok(());
        }
        let victim = self.longest_idle(unproven.into_iter().filter(|other| *other != id)).ok_or(Full)?;
        self.end(victim);
        Ok(())
    }

    /// A connection has ended.
    pub fn remove(&mut self, id: Id) {
        self.handshakes.remove(&id);
        if let Some(connection) = self.connections.remove(&id) {
            self.leave_peer(connection.peer, id);
        }
    }

    fn leave_peer(&mut self, peer: Peer, id: Id) {
        if let Some(ids) = self.of_peer.get_mut(&peer) {
            ids.remove(&id);
            if ids.is_empty() {
                self.of_peer.remove(&peer);
            }
        }
    }

    /// Unproven connections go before proven ones.
    fn longest_idle(&self, ids: impl Iterator<Item = Id>) -> Option<Id> {
        let idle = ids.filter_map(|id| {
            let connection = self.connections.get(&id)?;
            Some((connection.phase == Phase::Proven, connection.activity.idle_since()?, id))
        });
        idle.min().map(|(_, _, id)| id)
    }

    fn end(&mut self, id: Id) {
        if let Some(connection) = self.connections.get(&id) {
            connection.activity.end();
        }
        self.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Peers {
        Peers::new(Limits { connections: 6, handshakes: 4, handshakes_per_peer: 2, unproven_per_peer: 2 })
    }

    fn peer(last: u8) -> Peer {
        Peer::of(IpAddr::from([10, 0, 0, last]))
    }

    fn connect(peers: &mut Peers, from: Peer) -> (Id, Arc<Activity>) {
        let activity = Arc::new(Activity::new());
        (peers.admit(from, activity.clone()).unwrap(), activity)
    }

    fn stay(peers: &Peers, ids: &[Id]) -> Vec<bool> {
        ids.iter().map(|id| peers.connections.contains_key(id)).collect()
    }

    #[test]
    fn a_peer_that_only_shakes_hands_ends_its_own_oldest_handshake() {
        let mut peers = peers();
        let ids = [2, 1, 1, 1].map(|last| connect(&mut peers, peer(last)).0);
        assert_eq!(stay(&peers, &ids), [true, false, true, true]);
    }

    #[test]
    fn many_peers_that_only_shake_hands_end_the_oldest_of_all() {
        let mut peers = peers();
        let ids = [1, 2, 3, 4, 5].map(|last| connect(&mut peers, peer(last)).0);
        assert_eq!(stay(&peers, &ids), [false, true, true, true, true]);
    }

    #[test]
    fn an_unproven_peer_has_so_many_connections_and_idle_ones_go_first() {
        let mut peers = peers();
        let (busy, activity) = connect(&mut peers, peer(1));
        let _request = activity.begin();
        peers.shaken(busy, false).unwrap();
        let others = [(); 2].map(|()| {
            let (id, _) = connect(&mut peers, peer(1));
            peers.shaken(id, false).unwrap();
            id
        });
        assert_eq!(stay(&peers, &[busy, others[0], others[1]]), [true, false, true]);
    }

    #[test]
    fn when_all_connections_of_a_peer_work_another_is_refused() {
        let mut peers = peers();
        let working = [(); 2].map(|()| {
            let (id, activity) = connect(&mut peers, peer(1));
            peers.shaken(id, false).unwrap();
            (id, activity.begin())
        });
        let (id, _) = connect(&mut peers, peer(1));
        assert_eq!(peers.shaken(id, false), Err(Full));
        assert_eq!(stay(&peers, &working.map(|(id, _)| id)), [true, true]);
    }

    #[test]
    fn proven_clients_are_limited_only_by_all_connections_together() {
        let mut peers = peers();
        let mut working = Vec::new();
        for _ in 0..6 {
            let (id, activity) = connect(&mut peers, peer(1));
            peers.shaken(id, true).unwrap();
            working.push((activity.begin(), activity));
        }
        assert_eq!(peers.admit(peer(2), Arc::new(Activity::new())), Err(Full));
        drop(working.remove(0));
        assert!(peers.admit(peer(2), Arc::new(Activity::new())).is_ok());
    }

    #[test]
    fn an_ipv6_network_is_one_peer_and_mapped_addresses_are_ipv4() {
        let of = |text: &str| Peer::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let mut peers = peers();
        for _ in 0..100 {
            let (id, _) = connect(&mut peers, peer(1));
            peers.shaken(id, false).unwrap();
            peers.remove(id);
        }
        assert!(peers.connections.is_empty() && peers.of_peer.is_empty() && peers.handshakes.is_empty());
    }
}
