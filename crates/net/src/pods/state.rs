//! What was given to which sandbox, and the file that remembers it.
//!
//! The file is replaced as a whole by a rename and not synced: it has to survive this process, not
//! the machine, because links and rules do not survive the machine either. A file that cannot be
//! read after a power loss is therefore taken for an empty one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use containers::PortMapping;
use serde::{Deserialize, Serialize};

use super::{PodNetworkError, Result};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    pub address: Ipv4Addr,
    /// Sorted, without duplicates, each with a host port.
    pub ports: Vec<PortMapping>,
}

/// The content of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocations {
    /// Where the search for the next address goes on.
    pub last_address: Option<Ipv4Addr>,
    /// By sandbox.
    pub sandboxes: BTreeMap<String, Allocation>,
}

impl Allocations {
    pub fn load(path: &Path) -> Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(?path, %error, "the file of pod addresses is not readable and starts anew");
                Self::default()
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(cause) => Err(PodNetworkError::StateFile { path: path.to_path_buf(), cause }),
        }
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).expect("maps with text keys can always be written as JSON");
        let temporary = path.with_extension("new");
        let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
        written.map_err(|cause| PodNetworkError::StateFile { path: path.to_path_buf(), cause })
    }

    pub fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.sandboxes.values().map(|allocation| allocation.address).collect()
    }

    /// That no other sandbox has one of these host ports.
    pub fn check_ports(&self, sandbox_id: &str, ports: &[PortMapping]) -> Result<()> {
        let others = self.sandboxes.iter().filter(|(id, _)| *id != sandbox_id);
        let mut taken = others.flat_map(|(id, allocation)| allocation.ports.iter().map(move |port| (id.as_str(), port)));
        if let Some((sandbox, port)) = taken.find(|(_, theirs)| ports.iter().any(|ours| overlap(ours, theirs))) {
            return Err(taken_by(sandbox, port));
        }
        let twice = ports.iter().enumerate().find(|(place, port)| ports[..*place].iter().any(|earlier| overlap(earlier, port)));
        twice.map_or(Ok(()), |(_, port)| Err(taken_by(sandbox_id, port)))
    }
}

/// Only what has a host port, in one order, addresses in their simplest form.
pub fn normalize_ports(ports: &[PortMapping]) -> Result<Vec<PortMapping>> {
    let mut normalized = Vec::new();
    for port in ports.iter().filter(|port| port.host_port != 0) {
        let host_ip = port.host_ip.filter(|address| !address.is_unspecified());
        if let Some(address @ IpAddr::V6(_)) = host_ip {
            return Err(PodNetworkError::HostAddressFamily(address));
        }
        normalized.push(PortMapping { host_ip, ..*port });
    }
    normalized.sort_unstable();
    normalized.dedup();
    Ok(normalized)
}

fn overlap(one: &PortMapping, other: &PortMapping) -> bool {
    let same_address = one.host_ip.is_none() || other.host_ip.is_none() || one.host_ip == other.host_ip;
    one.protocol == other.protocol && one.host_port == other.host_port && same_address
}

fn taken_by(sandbox: &str, port: &PortMapping) -> PodNetworkError {
    PodNetworkError::HostPortTaken { port: port.host_port, protocol: port.protocol, sandbox: sandbox.to_string() }
}

#[cfg(test)]
mod tests {
    use containers::Protocol;

    use super::*;

    fn port(host_port: u16, host_ip: Option<&str>) -> PortMapping {
        let host_ip = host_ip.map(|address| address.parse().expect("an address"));
        PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port, host_ip }
    }

    fn with(ports: Vec<PortMapping>) -> Allocations {
        let allocation = Allocation { address: Ipv4Addr::new(10, 0, 0, 2), ports };
        Allocations { last_address: None, sandboxes: BTreeMap::from([("first".to_string(), allocation)]) }
    }

    #[test]
    fn a_conflict_names_the_other_sandbox() {
        let allocations = with(vec![port(8080, None)]);
        let error = allocations.check_ports("second", &[port(8080, Some("127.0.0.1"))]).expect_err("the port is taken");
        assert_eq!(error.to_string(), "host port 8080/Tcp is taken by sandbox first");
        allocations.check_ports("first", &[port(8080, None)]).expect("its own port is no conflict");
        allocations.check_ports("second", &[port(8081, None)]).expect("another port is free");
    }

    #[test]
    fn different_host_addresses_share_a_port() {
        let allocations = with(vec![port(8080, Some("10.0.0.1"))]);
        allocations.check_ports("second", &[port(8080, Some("10.0.0.2"))]).expect("another address");
        allocations.check_ports("second", &[PortMapping { protocol: Protocol::Udp, ..port(8080, None) }]).expect("another protocol");
    }

    #[test]
    fn ports_are_brought_to_one_form() {
        let ports = [port(0, None), port(8081, Some("0.0.0.0")), port(8080, None), port(8081, Some("::"))];
        assert_eq!(normalize_ports(&ports).expect("all are IPv4 or any"), [port(8080, None), port(8081, None)]);
        assert!(matches!(normalize_ports(&[port(1, Some("::1"))]), Err(PodNetworkError::HostAddressFamily(_))));
    }

    #[test]
    fn a_damaged_file_is_an_empty_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pods.json");
        assert_eq!(Allocations::load(&path).expect("no file is fine"), Allocations::default());
        let allocations = with(vec![port(8080, Some("127.0.0.1"))]);
        allocations.save(&path).expect("it can be written");
        assert_eq!(Allocations::load(&path).expect("it can be read"), allocations);
        std::fs::write(&path, b"{\"sand").expect("it can be damaged");
        assert_eq!(Allocations::load(&path).expect("a damaged file is fine"), Allocations::default());
    }
}
