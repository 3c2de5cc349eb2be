//! Sandboxes: what the containers of a pod share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Resources;

/// Names a pod to the runtime: unique by `uid` and `attempt`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodId {
    pub name: String,
    pub namespace: String,
    pub uid: String,
}

/// A sandbox to make.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxConfig {
    pub pod: PodId,
    /// Counts the sandboxes made for this pod.
    pub attempt: u32,
    pub hostname: String,
    /// Which of the runtime's ways to run containers; the usual one when empty.
    #[serde(default)]
    pub handler: String,
    /// Where the logs of its containers go; made if it is not there.
    pub log_dir: PathBuf,
    pub dns: DnsConfig,
    pub port_mappings: Vec<PortMapping>,
    pub host: HostNamespaces,
    /// All containers see each other's processes.
    pub share_process_namespace: bool,
    /// Relative to the root of each cgroup hierarchy:
    /// `/everynode/node/kubepods/burstable/pod<uid>`. Made and limited here.
    pub cgroup_parent: String,
    pub resources: Resources,
    pub sysctls: BTreeMap<String, String>,
    /// None: the node's users.
    #[serde(default)]
    pub user_namespace: Option<UserNamespace>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// What the sandbox's resolv.conf is to say; empty lists leave out their lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// Which of the node's namespaces a sandbox shares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNamespaces {
    pub network: bool,
    pub pid: bool,
    pub ipc: bool,
}

/// Users of a sandbox's own: its ids from 0 are the node's from `first`, as many as `length`, users
/// and groups alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    pub first: u32,
    pub length: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    // The other names are those that the file of pod addresses had once.
    #[serde(alias = "TCP")]
    Tcp,
    #[serde(alias = "UDP")]
    Udp,
    #[serde(alias = "SCTP")]
    Sctp,
}

/// A port of the node that leads to a port of the sandbox. A host port of 0 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    /// None, or the unspecified address: all addresses of the node.
    pub host_ip: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    Ready,
    NotReady,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxStatus {
    pub id: String,
    pub pod: PodId,
    pub attempt: u32,
    pub state: SandboxState,
    pub created_at: Timestamp,
    /// Empty for the node's network.
    pub addresses: Vec<IpAddr>,
    pub host: HostNamespaces,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}
