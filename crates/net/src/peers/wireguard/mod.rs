//! Who encrypts: a WireGuard device of the kernel, or of this process where the kernel has none.
//!
//! The kernel's keeps its key and its sessions when this process ends. With the other one they end,
//! too, and the node has another key afterwards.

mod process;
mod tunnels;

use std::collections::BTreeMap;
use std::fs::File;

use containers::WireGuardKey;

use super::devices::WIREGUARD_DEVICE;
use super::{PeerNetworkError, Result, WIREGUARD_PORT, WireGuardDriver};
use crate::netlink::{RouteSocket, WireGuardPeer, WireGuardSocket};
use process::ProcessDevice;

/// Whoever encrypts, once it was asked for.
pub struct WireGuard {
    driver: WireGuardDriver,
    running: Option<Running>,
    /// Of a device that this process drives, should it have to be made again. Others know the
    /// public one.
    key: Option<[u8; 32]>,
}

#[derive(Debug)]
enum Running {
    Kernel(WireGuardSocket),
    Process(ProcessDevice),
}

/// The device is there.
pub struct Made {
    pub public_key: WireGuardKey,
    pub messages: usize,
}

impl WireGuard {
    pub fn new(driver: WireGuardDriver) -> Self {
        Self { driver, running: None, key: None }
    }

    /// Finds the device or makes it; it is down and has no address at first.
    pub fn ensure(&mut self, namespace: &File, route: &mut RouteSocket, mtu: u32) -> Result<Made> {
        let kind = route.link(WIREGUARD_DEVICE)?.map(|link| link.kind);
        if let (Some(Running::Process(device)), Some("tun")) = (&self.running, kind.as_deref())
            && device.is_running()
        {
            return Ok(Made { public_key: device.public_key(), messages: 0 });
        }
        let mut messages = 0;
        let is_usable = self.driver == WireGuardDriver::KernelIfKnown && kind.as_deref() == Some("wireguard");
        if !is_usable {
            self.running = None;
            if kind.is_some() {
                // What an earlier process drove, or something else under our name.
                route.delete_link(WIREGUARD_DEVICE)?;
                messages += 1;
            }
            if self.driver == WireGuardDriver::Process || !made_by_kernel(route, mtu)? {
                return self.start(namespace, messages + 1);
            }
            messages += 1;
        }
        let mut socket = WireGuardSocket::open_in(namespace)?;
        let made = configure(&mut socket, messages);
        self.running = Some(Running::Kernel(socket));
        made
    }

    fn start(&mut self, namespace: &File, messages: usize) -> Result<Made> {
        let key = match self.key {
            Some(key) => key,
            None => *self.key.insert(private_key()?),
        };
        let device = ProcessDevice::start(namespace, key)?;
        let public_key = device.public_key();
        self.running = Some(Running::Process(device));
        Ok(Made { public_key, messages })
    }

    /// Makes these the peers. Answers the number of messages.
    pub fn set_peers(&mut self, peers: &BTreeMap<WireGuardKey, WireGuardPeer>) -> Result<usize> {
        match &mut self.running {
            None => Ok(0),
            Some(Running::Process(device)) => Ok(device.set_peers(peers)),
            Some(Running::Kernel(socket)) => {
                let there = socket.device(WIREGUARD_DEVICE)?.peers;
                let gone: Vec<WireGuardKey> = there.keys().filter(|key| !peers.contains_key(key)).copied().collect();
                let differs = |key: &WireGuardKey, peer: &WireGuardPeer| there.get(key).and_then(Option::as_ref) != Some(peer);
                let set = peers.iter().filter(|(key, peer)| differs(key, peer)).map(|(key, peer)| (*key, peer.clone())).collect();
                Ok(socket.change_peers(WIREGUARD_DEVICE, &gone, &set)?)
            }
        }
    }

    /// Ends what this process does, and forgets its key. A device of the kernel stays.
    pub fn stop(&mut self) {
        self.running = None;
        self.key = None;
    }
}

impl std::fmt::Debug for WireGuard {
    /// Without the key.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("WireGuard").field("driver", &self.driver).field("running", &self.running).finish_non_exhaustive()
    }
}

/// False when the kernel does not know WireGuard.
fn made_by_kernel(route: &mut RouteSocket, mtu: u32) -> Result<bool> {
    match route.add_wireguard(WIREGUARD_DEVICE, mtu) {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives a device its key, which it then keeps, and its port.
fn configure(socket: &mut WireGuardSocket, mut messages: usize) -> Result<Made> {
    let device = socket.device(WIREGUARD_DEVICE)?;
    if let (Some(public_key), WIREGUARD_PORT) = (device.public_key, device.listen_port) {
        return Ok(Made { public_key, messages });
    }
    let new_key = if device.public_key.is_none() { Some(private_key()?) } else { None };
    socket.configure(WIREGUARD_DEVICE, new_key.as_ref(), WIREGUARD_PORT)?;
    messages += 1;
    let made = socket.device(WIREGUARD_DEVICE)?.public_key;
    let missing = || PeerNetworkError::Key(std::io::Error::other("the kernel's device has none after it was set"));
    Ok(Made { public_key: made.ok_or_else(missing)?, messages })
}

fn private_key() -> Result<[u8; 32]> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| PeerNetworkError::Key(error.into()))?;
    Ok(key)
}
