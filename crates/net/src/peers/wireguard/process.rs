//! A WireGuard device that this process drives: a TUN device, a UDP port and two threads that carry
//! packets between them. It ends with the process.
//!
//! Nothing waits in queues of its own: what the port or the device does not take at once is lost,
//! as on any network.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use containers::WireGuardKey;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};

use super::tunnels::{Output, Tunnels};
use crate::names::WIREGUARD_DEVICE;
use crate::namespace;
use crate::netlink::WireGuardPeer;
use crate::peers::{PeerNetworkError, Result, WIREGUARD_PORT};

/// Between two looks at the clocks of the protocol, as boringtun's own loop has it. Threads that
/// are to end do so within this time.
const TICK: Duration = Duration::from_millis(250);
/// A full link must not stop everything else.
const SEND_PATIENCE: Duration = Duration::from_millis(1);
/// What the port holds while its thread is busy.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
const PACKET_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
pub struct ProcessDevice {
    shared: Arc<Shared>,
    public_key: WireGuardKey,
    threads: Vec<JoinHandle<()>>,
}

/// What both threads have.
struct Shared {
    device: tun::Device,
    port: UdpSocket,
    tunnels: Mutex<Tunnels>,
    is_stopped: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("port", &self.port).field("is_stopped", &self.is_stopped).finish_non_exhaustive()
    }
}

impl ProcessDevice {
    /// In this namespace. The name must be free.
    pub fn start(namespace: &File, private_key: [u8; 32]) -> Result<Self> {
        let failed = |cause| PeerNetworkError::Process { name: WIREGUARD_DEVICE, cause };
        let tunnels = Tunnels::new(private_key);
        let public_key = tunnels.public_key();
        let shared = Arc::new(namespace::inside(namespace, || Shared::open(tunnels)).map_err(failed)?);
        let mut device = Self { shared, public_key, threads: Vec::new() };
        for (name, work) in [("wireguard-out", Shared::carry_out as fn(&Shared)), ("wireguard-in", Shared::carry_in)] {
            let shared = device.shared.clone();
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&shared));
            device.threads.push(thread.map_err(failed)?);
        }
        Ok(device)
    }

    pub fn public_key(&self) -> WireGuardKey {
        self.public_key
    }

    /// False when another program has removed the device.
    pub fn is_running(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// Answers how many peers changed.
    pub fn set_peers(&self, peers: &BTreeMap<WireGuardKey, WireGuardPeer>) -> usize {
        lock(&self.shared.tunnels).set_peers(peers)
    }
}

impl Drop for ProcessDevice {
    /// The port is free and the device is gone afterwards.
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn open(tunnels: Tunnels) -> io::Result<Self> {
        let port = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, WIREGUARD_PORT))?;
        port.set_read_timeout(Some(TICK))?;
        port.set_write_timeout(Some(SEND_PATIENCE))?;
        setsockopt(&port, RcvBufForce, &SOCKET_BUFFER_BYTES)?;
        setsockopt(&port, SndBufForce, &SOCKET_BUFFER_BYTES)?;
        let mut configuration = tun::Configuration::default();
        // Size, address and state are set over netlink, as those of other devices.
        configuration.tun_name(WIREGUARD_DEVICE).platform_config(|platform| {
            platform.ensure_root_privileges(false);
        });
        let device = tun::create(&configuration).map_err(io::Error::other)?;
        device.set_nonblock()?;
        Ok(Self { device, port, tunnels: Mutex::new(tunnels), is_stopped: AtomicBool::new(false) })
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// From this node and its pods to the network.
    fn carry_out(&self) {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        while !self.is_stopped() {
            match self.device.recv_timeout(&mut packet, TICK) {
                Ok(length) => lock(&self.tunnels).outgoing(&packet[..length], &mut |output| self.send(output)),
                Err(error) if [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind()) => {}
                Err(error) => {
                    // The device is gone, and the next look at it makes another one.
                    tracing::warn!(error = &error as &dyn std::error::Error, "the WireGuard device cannot be read any more");
                    return;
                }
            }
        }
    }

    /// From the network to this node and its pods.
    fn carry_in(&self) {
        let mut datagram = vec![0; PACKET_BYTES_MAX];
        let mut next_tick = Instant::now() + TICK;
        while !self.is_stopped() {
            // What fails here was a timeout, or what happened to an earlier packet.
            let received = self.port.recv_from(&mut datagram);
            let mut tunnels = lock(&self.tunnels);
            if let Ok((length, from)) = received {
                tunnels.incoming(from, &datagram[..length], &mut |output| self.send(output));
            }
            if next_tick <= Instant::now() {
                tunnels.tick(&mut |output| self.send(output));
                next_tick = Instant::now() + TICK;
            }
        }
    }

    fn send(&self, output: Output) {
        let _lost_if_it_fails = match output {
            Output::Network(to, message) => self.port.send_to(message, to),
            Output::Inside(packet) => self.device.send(packet),
        };
    }
}

/// A panic leaves each peer as it was or without a session, which its next packet makes anew.
fn lock(tunnels: &Mutex<Tunnels>) -> MutexGuard<'_, Tunnels> {
    tunnels.lock().unwrap_or_else(PoisonError::into_inner)
}
