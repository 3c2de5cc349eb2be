//! The devices of the tunnels: making them, finding those of an earlier process, removing them.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::desired::hardware_address;
use super::wireguard::Made;
use super::{PeerNetwork, PeerNetworkError, Result, VXLAN_ID, VXLAN_PORT};
use crate::mtu;
pub use crate::names::{VXLAN_DEVICE, WIREGUARD_DEVICE};
use crate::namespace::{self, Ipv6};
use crate::netlink::{Address, DeviceSettings, Link, NetlinkError, Vxlan};

/// IPv4, UDP and VXLAN headers, and the Ethernet header inside.
const VXLAN_OVERHEAD_BYTES: u32 = 50;
/// IPv4 and UDP headers, WireGuard's own and its checksum.
const WIREGUARD_OVERHEAD_BYTES: u32 = 60;
/// The least that IPv4 asks of a link.
const MTU_MIN_BYTES: u32 = 68;

/// The WireGuard device, and the number of messages that it took.
pub struct WireGuardDevice {
    pub index: u32,
    pub public_key: containers::WireGuardKey,
    pub messages: usize,
}

impl PeerNetwork {
    /// Answers the device's index and the number of messages.
    pub(super) fn ensure_vxlan(&mut self) -> Result<(u32, usize)> {
        let local = self.settings.node_address;
        let wanted = Vxlan { id: VXLAN_ID, local, port: VXLAN_PORT, learns: false };
        let hardware_address = hardware_address(self.settings.pod_cidr);
        let mtu = self.tunnel_mtu(VXLAN_OVERHEAD_BYTES)?;
        let is_right = |link: &Link| link.vxlan == Some(wanted) && link.hardware_address == Some(hardware_address);
        let (link, mut messages) = match self.route.link(VXLAN_DEVICE)? {
            Some(link) if is_right(&link) => (link, 0),
            other => {
                let removed = if other.is_some() { self.remove_device(VXLAN_DEVICE)? } else { 0 };
                self.route.add_vxlan(VXLAN_DEVICE, hardware_address, mtu, &wanted)?;
                (self.device(VXLAN_DEVICE)?, removed + 1)
            }
        };
        messages += self.bring_up(VXLAN_DEVICE, &link, mtu)?;
        Ok((link.index, messages))
    }

    pub(super) fn ensure_wireguard(&mut self) -> Result<WireGuardDevice> {
        let mtu = self.tunnel_mtu(WIREGUARD_OVERHEAD_BYTES)?;
        let Made { public_key, mut messages } = self.wireguard.ensure(&self.namespace, &mut self.route, mtu)?;
        let link = self.device(WIREGUARD_DEVICE)?;
        messages += self.bring_up(WIREGUARD_DEVICE, &link, mtu)?;
        Ok(WireGuardDevice { index: link.index, public_key, messages })
    }

    /// Answers the number of messages: none when it is not there.
    pub(super) fn remove_device(&mut self, name: &'static str) -> Result<usize> {
        if self.route.link(name)?.is_none() {
            return Ok(0);
        }
        self.route.delete_link(name)?;
        Ok(1)
    }

    fn tunnel_mtu(&mut self, overhead: u32) -> Result<u32> {
        let outside = mtu::towards_nodes(&mut self.route, self.settings.node_address)?;
        Ok(outside.saturating_sub(overhead).max(MTU_MIN_BYTES))
    }

    fn device(&mut self, name: &'static str) -> Result<Link> {
        let missing = || NetlinkError::new(format!("make link {name}"), std::io::Error::from_raw_os_error(libc::ENODEV));
        Ok(self.route.link(name)?.ok_or_else(missing)?)
    }

    /// Gives the device its size and the one address that it should have.
    fn bring_up(&mut self, name: &'static str, link: &Link, mtu: u32) -> Result<usize> {
        let mut messages = 0;
        if !link.up || link.mtu != mtu {
            let close = || namespace::close_ipv6(name, Ipv6::Off);
            namespace::inside(&self.namespace, close).map_err(|cause| PeerNetworkError::Ipv6 { interface: name, cause })?;
            // A node's other interfaces may insist on strict sources; what arrives here has its
            // way back through this device, or through another one while ways change.
            self.route.set_up(link.index, &DeviceSettings { has_loose_sources: true, mtu: Some(mtu), ..DeviceSettings::default() })?;
            messages += 1;
        }
        let own: Ipv4Addr = self.settings.pod_cidr.network();
        let wanted = Address { link: link.index, address: Ipv4Net::from(own), link_only: false };
        let there: Vec<Address> = self.route.addresses()?.into_iter().filter(|address| address.link == link.index).collect();
        for address in there.iter().filter(|address| **address != wanted) {
            self.route.delete_address(address)?;
            messages += 1;
        }
        if !there.contains(&wanted) {
            self.route.add_address(&wanted)?;
            messages += 1;
        }
        Ok(messages)
    }
}
