//! The peers of a WireGuard device that this process drives: which one a packet is for, and what
//! the protocol (`boringtun`) makes of it. No sockets.
//!
//! Strangers may send anything. What is not of the protocol costs a hash; of handshakes only so
//! many a second are looked at, and beyond that only those of senders that proved their address. A
//! peer's packets go to the address that it was given with and nowhere else, however its own come
//! in, and are taken from its pods only.
//!
//! A peer takes memory from its first packet on, until its keys have expired.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use containers::WireGuardKey;

use crate::netlink::WireGuardPeer;

/// Each costs a twentieth of a millisecond before its sender is known: a twentieth of a processor.
const HANDSHAKES_A_SECOND_MAX: u64 = 1_000;
/// Packets that wait for a peer that does not answer yet. All pods that send to all nodes of a
/// large cluster that is down keep some tens of megabytes busy.
const WAITING_MAX: usize = 16;
/// The largest packet of IP, and what the protocol adds.
const BUFFER_BYTES: usize = (64 << 10) + 256;
/// Peers have numbers of 24 bits, which come back in what they send.
const NUMBERS: u32 = 1 << 24;
/// The first byte of messages that carry a packet.
const DATA: u8 = 4;

/// What is to be done with bytes that the protocol made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output<'a> {
    Network(SocketAddr, &'a [u8]),
    /// A packet for this node or its pods.
    Inside(&'a [u8]),
}

pub struct Tunnels {
    private_key: StaticSecret,
    public_key: PublicKey,
    gate: RateLimiter,
    /// For what has passed the gate.
    open_gate: Arc<RateLimiter>,
    tunnels: BTreeMap<u32, Tunnel>,
    by_key: BTreeMap<WireGuardKey, u32>,
    /// By the first address of a range. Ranges do not overlap.
    by_range: BTreeMap<Ipv4Addr, u32>,
    last_number: u32,
    buffer: Vec<u8>,
}

struct Tunnel {
    key: WireGuardKey,
    peer: WireGuardPeer,
    /// None while there is nothing to remember.
    protocol: Option<Tunn>,
    /// Packets that the protocol keeps until there is a session.
    waiting: usize,
}

impl Tunnels {
    pub fn new(private_key: [u8; 32]) -> Self {
        let private_key = StaticSecret::from(private_key);
        let public_key = PublicKey::from(&private_key);
        Self {
            gate: RateLimiter::new(&public_key, HANDSHAKES_A_SECOND_MAX),
            open_gate: Arc::new(RateLimiter::new(&public_key, u64::MAX)),
            private_key,
            public_key,
            tunnels: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_range: BTreeMap::new(),
            last_number: 0,
            buffer: vec![0; BUFFER_BYTES],
        }
    }

    pub fn public_key(&self) -> WireGuardKey {
        WireGuardKey(self.public_key.to_bytes())
    }

    /// Makes these the peers; those that stay keep their sessions. Answers how many changed.
    pub fn set_peers(&mut self, peers: &BTreeMap<WireGuardKey, WireGuardPeer>) -> usize {
        let gone: Vec<WireGuardKey> = self.by_key.keys().filter(|key| !peers.contains_key(key)).copied().collect();
        gone.iter().for_each(|key| self.remove(key));
        let mut changed = gone.len();
        for (key, peer) in peers {
            match self.by_key.get(key).and_then(|number| self.tunnels.get_mut(number)) {
                Some(tunnel) if tunnel.peer == *peer => {}
                Some(tunnel) => {
                    tunnel.peer = peer.clone();
                    changed += 1;
                }
                None => {
                    self.add(*key, peer.clone());
                    changed += 1;
                }
            }
        }
        if changed > 0 {
            self.by_range = self.tunnels.iter().map(|(number, tunnel)| (tunnel.peer.allowed.network(), *number)).collect();
        }
        changed
    }

    fn remove(&mut self, key: &WireGuardKey) {
        if let Some(number) = self.by_key.remove(key) {
            self.tunnels.remove(&number);
        }
    }

    fn add(&mut self, key: WireGuardKey, peer: WireGuardPeer) {
        let free = (1..NUMBERS).map(|step| self.last_number.wrapping_add(step) % NUMBERS).find(|number| !self.tunnels.contains_key(number));
        let number = free.expect("far fewer peers than numbers");
        self.last_number = number;
        self.by_key.insert(key, number);
        self.tunnels.insert(number, Tunnel { key, peer, protocol: None, waiting: 0 });
    }

    /// A packet that this node or a pod sends.
    pub fn outgoing(&mut self, packet: &[u8], output: &mut impl FnMut(Output)) {
        let Some(IpAddr::V4(destination)) = Tunn::dst_address(packet) else { return };
        let before = self.by_range.range(..=destination).next_back();
        let Some((number, tunnel)) = before.and_then(|(_, number)| Some((*number, self.tunnels.get_mut(number)?))) else { return };
        if !tunnel.peer.allowed.contains(&destination) {
            return;
        }
        let endpoint = tunnel.peer.endpoint.into();
        let protocol = wake(&mut tunnel.protocol, tunnel.key, number, &self.private_key, &self.open_gate);
        if !has_session(protocol) && tunnel.waiting >= WAITING_MAX {
            return;
        }
        match protocol.encapsulate(packet, &mut self.buffer) {
            TunnResult::WriteToNetwork(message) => {
                tunnel.waiting = if message.first() == Some(&DATA) { 0 } else { tunnel.waiting + 1 };
                output(Output::Network(endpoint, message));
            }
            TunnResult::Done => tunnel.waiting += 1,
            _ => {}
        }
    }

    /// A datagram from the network.
    pub fn incoming(&mut self, from: SocketAddr, datagram: &[u8], output: &mut impl FnMut(Output)) {
        let packet = match self.gate.verify_packet(Some(from.ip()), datagram, &mut self.buffer) {
            Ok(packet) => packet,
            // Not looked at before its sender has proved where it is.
            Err(TunnResult::WriteToNetwork(cookie)) => return output(Output::Network(from, cookie)),
            Err(_) => return,
        };
        let Some(number) = self.sender(&packet) else { return };
        let Some(tunnel) = self.tunnels.get_mut(&number) else { return };
        // Only a handshake can begin something.
        let protocol = match (packet, &mut tunnel.protocol) {
            (Packet::HandshakeInit(_), protocol) => wake(protocol, tunnel.key, number, &self.private_key, &self.open_gate),
            (_, Some(protocol)) => protocol,
            (_, None) => return,
        };
        let endpoint = tunnel.peer.endpoint.into();
        match protocol.decapsulate(Some(from.ip()), datagram, &mut self.buffer) {
            TunnResult::WriteToNetwork(answer) => output(Output::Network(endpoint, answer)),
            TunnResult::WriteToTunnelV4(packet, source) if tunnel.peer.allowed.contains(&source) => output(Output::Inside(packet)),
            TunnResult::Err(_) => return,
            _ => {}
        }
        if tunnel.waiting > 0 && has_session(protocol) {
            while let TunnResult::WriteToNetwork(message) = protocol.decapsulate(None, &[], &mut self.buffer) {
                output(Output::Network(endpoint, message));
            }
            tunnel.waiting = 0;
        }
    }

    /// The peer that such a message can only come from.
    fn sender(&self, packet: &Packet) -> Option<u32> {
        match packet {
            Packet::HandshakeInit(initiation) => {
                let sender = parse_handshake_anon(&self.private_key, &self.public_key, initiation).ok()?;
                self.by_key.get(&WireGuardKey(sender.peer_static_public)).copied()
            }
            Packet::HandshakeResponse(response) => Some(response.receiver_idx >> 8),
            Packet::PacketCookieReply(reply) => Some(reply.receiver_idx >> 8),
            Packet::PacketData(data) => Some(data.receiver_idx >> 8),
        }
    }

    /// What time has brought: keys to renew, questions to repeat. To be called several times a
    /// second.
    pub fn tick(&mut self, output: &mut impl FnMut(Output)) {
        self.gate.reset_count();
        for tunnel in self.tunnels.values_mut() {
            let Some(protocol) = &mut tunnel.protocol else { continue };
            match protocol.update_timers(&mut self.buffer) {
                TunnResult::WriteToNetwork(message) => output(Output::Network(tunnel.peer.endpoint.into(), message)),
                TunnResult::Err(WireGuardError::ConnectionExpired) => {
                    tunnel.protocol = None;
                    tunnel.waiting = 0;
                }
                _ => {}
            }
        }
    }
}

/// The peer's state, a new one if there is none.
fn wake<'a>(
    protocol: &'a mut Option<Tunn>,
    key: WireGuardKey,
    number: u32,
    private_key: &StaticSecret,
    open_gate: &Arc<RateLimiter>,
) -> &'a mut Tunn {
    protocol.get_or_insert_with(|| Tunn::new(private_key.clone(), PublicKey::from(key.0), None, None, number, Some(open_gate.clone())))
}

/// Whether a packet would go out at once.
fn has_session(protocol: &Tunn) -> bool {
    protocol.time_since_last_handshake().is_some()
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;

    use super::*;

    /// Two nodes, 10.0.N.0/24 at 192.168.0.N each, and what is on its way between them.
    struct World {
        nodes: [Tunnels; 2],
        inside: [Vec<Vec<u8>>; 2],
        sent: Vec<Vec<u8>>,
    }

    fn peer(node: usize) -> WireGuardPeer {
        let endpoint = format!("192.168.0.{node}:14790").parse().expect("an address");
        WireGuardPeer { endpoint, allowed: Ipv4Net::new_assert(Ipv4Addr::new(10, 0, node as u8, 0), 24) }
    }

    fn packet(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&40_u16.to_be_bytes());
        packet[12..16].copy_from_slice(&from);
        packet[16..20].copy_from_slice(&to);
        packet
    }

    impl World {
        fn new() -> Self {
            let mut nodes = [Tunnels::new([3; 32]), Tunnels::new([5; 32])];
            let keys = [nodes[0].public_key(), nodes[1].public_key()];
            nodes[0].set_peers(&BTreeMap::from([(keys[1], peer(1))]));
            nodes[1].set_peers(&BTreeMap::from([(keys[0], peer(0))]));
            Self { nodes, inside: Default::default(), sent: Vec::new() }
        }

        fn send(&mut self, node: usize, packet: &[u8]) {
            let mut out = Vec::new();
            self.nodes[node].outgoing(packet, &mut |output| out.push(copy(output)));
            self.deliver(node, out);
        }

        /// What node sent, and all answers to it.
        fn deliver(&mut self, node: usize, messages: Vec<(Option<SocketAddr>, Vec<u8>)>) {
            for (to, bytes) in messages {
                let Some(to) = to else {
                    self.inside[node].push(bytes);
                    continue;
                };
                assert_eq!(to, peer(1 - node).endpoint.into());
                let mut out = Vec::new();
                self.nodes[1 - node].incoming(peer(node).endpoint.into(), &bytes, &mut |output| out.push(copy(output)));
                self.sent.push(bytes);
                self.deliver(1 - node, out);
            }
        }
    }

    fn copy(output: Output) -> (Option<SocketAddr>, Vec<u8>) {
        match output {
            Output::Network(to, bytes) => (Some(to), bytes.to_vec()),
            Output::Inside(bytes) => (None, bytes.to_vec()),
        }
    }

    #[test]
    fn packets_arrive_whole_and_nothing_shows_them() {
        let mut world = World::new();
        let (there, back) = (packet([10, 0, 0, 7], [10, 0, 1, 7]), packet([10, 0, 1, 7], [10, 0, 0, 7]));
        world.send(0, &there);
        world.send(1, &back);
        world.send(0, &there);
        assert_eq!(world.inside, [vec![back], vec![there.clone(), there]]);
        assert!(world.sent.iter().all(|message| !message.windows(4).any(|bytes| bytes == [10, 0, 1, 7])));
    }

    #[test]
    fn a_peer_speaks_for_its_own_pods_only() {
        let mut world = World::new();
        world.send(0, &packet([10, 0, 0, 7], [10, 0, 1, 7]));
        world.send(0, &packet([10, 0, 9, 9], [10, 0, 1, 7]));
        world.send(0, &packet([10, 0, 0, 8], [10, 0, 9, 9]));
        assert_eq!(world.inside[1].len(), 1);
    }

    #[test]
    fn a_key_that_is_not_a_peers_gets_nothing() {
        let mut world = World::new();
        let stranger = Tunnels::new([9; 32]);
        world.nodes[1].set_peers(&BTreeMap::from([(stranger.public_key(), peer(0))]));
        world.send(0, &packet([10, 0, 0, 7], [10, 0, 1, 7]));
        assert_eq!((world.inside[1].len(), world.sent.len()), (0, 1), "the question is not answered");
    }

    #[test]
    fn a_removed_peer_is_not_heard_any_more() {
        let mut world = World::new();
        world.send(0, &packet([10, 0, 0, 7], [10, 0, 1, 7]));
        assert_eq!(world.nodes[1].set_peers(&BTreeMap::new()), 1);
        world.send(0, &packet([10, 0, 0, 7], [10, 0, 1, 7]));
        assert_eq!(world.inside[1].len(), 1);
    }

    #[test]
    fn sessions_outlive_a_change_of_address() {
        let mut world = World::new();
        world.send(0, &packet([10, 0, 0, 7], [10, 0, 1, 7]));
        let keys = [world.nodes[0].public_key(), world.nodes[1].public_key()];
        let moved = WireGuardPeer { endpoint: "192.168.0.99:14790".parse().expect("an address"), ..peer(1) };
        assert_eq!(world.nodes[0].set_peers(&BTreeMap::from([(keys[1], moved.clone())])), 1);
        assert_eq!(world.nodes[0].set_peers(&BTreeMap::from([(keys[1], moved.clone())])), 0);
        let mut sent = Vec::new();
        world.nodes[0].outgoing(&packet([10, 0, 0, 7], [10, 0, 1, 7]), &mut |output| sent.push(copy(output)));
        assert_eq!((sent[0].0, sent[0].1[0]), (Some(moved.endpoint.into()), DATA));
    }

    #[test]
    fn few_packets_wait_for_a_peer_that_is_silent() {
        let mut world = World::new();
        let mut sent = 0;
        for _ in 0..10 * WAITING_MAX {
            world.nodes[0].outgoing(&packet([10, 0, 0, 7], [10, 0, 1, 7]), &mut |_| sent += 1);
        }
        assert_eq!(sent, 1, "one question");
        assert_eq!(world.nodes[0].tunnels.values().next().map(|tunnel| tunnel.waiting), Some(WAITING_MAX));
        // Its own first packet lets all go.
        world.send(1, &packet([10, 0, 1, 7], [10, 0, 0, 7]));
        world.send(0, &packet([10, 0, 0, 7], [10, 0, 1, 7]));
        assert!(world.inside[1].len() > WAITING_MAX / 2, "{}", world.inside[1].len());
    }

    /// Every length, every kind, and true messages with one byte changed.
    #[test]
    fn strangers_may_send_anything() {
        let mut world = World::new();
        world.send(0, &packet([10, 0, 0, 7], [10, 0, 1, 7]));
        let stranger: SocketAddr = "203.0.113.9:1".parse().expect("an address");
        let node = &mut world.nodes[1];
        let mut answers = 0;
        for length in 0..300 {
            for kind in 0..=6 {
                let mut datagram = vec![0xff; length];
                datagram.iter_mut().zip([kind, 0, 0, 0]).for_each(|(byte, value)| *byte = value);
                node.incoming(stranger, &datagram, &mut |_| answers += 1);
                node.outgoing(&datagram, &mut |_| answers += 1);
            }
        }
        for message in &world.sent {
            for place in 0..message.len() {
                let mut datagram = message.clone();
                datagram[place] ^= 1;
                node.incoming(stranger, &datagram, &mut |_| answers += 1);
            }
        }
        node.incoming(stranger, &vec![DATA; 65_535], &mut |_| answers += 1);
        assert_eq!(answers, 0);
    }

    #[test]
    fn beyond_the_limit_senders_have_to_prove_their_address() {
        let mut world = World::new();
        let mut question = Vec::new();
        world.nodes[0].outgoing(&packet([10, 0, 0, 7], [10, 0, 1, 7]), &mut |output| question = copy(output).1);
        let stranger: SocketAddr = "203.0.113.9:1".parse().expect("an address");
        let mut answers = Vec::new();
        for _ in 0..=HANDSHAKES_A_SECOND_MAX {
            world.nodes[1].incoming(stranger, &question, &mut |output| answers.push(copy(output)));
        }
        let (to, cookie) = answers.last().expect("there are answers");
        assert_eq!((*to, cookie.len(), cookie[0]), (Some(stranger), 64, 3));
        let handshakes = answers.iter().filter(|(_, answer)| answer[0] == 2).collect::<Vec<_>>();
        assert_eq!(handshakes.len(), 1, "repetitions of one question are not answered");
        assert_eq!(handshakes[0].0, Some(peer(0).endpoint.into()), "and the answer goes to the peer, not to whoever sent it");
    }
}
