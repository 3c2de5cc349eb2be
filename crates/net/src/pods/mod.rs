//! The network of a node's pods: an address, a link and host ports for each sandbox.
//!
//! Each pod has a veth pair of its own and no bridge: `eth0` inside with its address as /32 and a
//! default route to a link-local gateway that every outer end has; outside one /32 route. So all
//! traffic of pods is routed by the node, its rules see all of it, and a pod that reaches itself
//! through a service or host port needs no special handling of a bridge.
//!
//! [`PodNetwork`] must be opened in the node's network namespace; afterwards it may be used from
//! anywhere. What it made survives the process; the allocations are in a file.
//!
//! Rules of others can be in the way of all this; [`PodNetwork::obstacles`] says how.

mod addresses;
mod attachment;
mod rules;
mod state;

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containers::{PortMapping, Protocol};
use ipnet::Ipv4Net;

pub use rules::desired;
pub use state::{Allocation, Allocations};

use crate::namespace;
use crate::netlink::{NetlinkError, RouteSocket};
use attachment::Node;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetworkSettings {
    /// Where allocations are kept. Its directory must exist.
    pub state_file: PathBuf,
    /// Pods of this node get their addresses from here.
    pub pod_cidr: Ipv4Net,
    /// The pods of all nodes: what goes there keeps the pod's address.
    pub cluster_cidr: Ipv4Net,
    /// The first IPv4 one is what pods see when the node itself connects to them.
    pub node_addresses: Vec<IpAddr>,
    /// The table of rules; no other program may use that name.
    pub table: String,
}

impl PodNetworkSettings {
    pub fn node_address(&self) -> Option<Ipv4Addr> {
        self.node_addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PodNetworkError {
    #[error("host port {port}/{protocol:?} is taken by sandbox {sandbox}")]
    HostPortTaken { port: u16, protocol: Protocol, sandbox: String },
    #[error("host address {0} is IPv6, and pods of this node have IPv4 addresses only")]
    HostAddressFamily(IpAddr),
    #[error("all {count} addresses of {range} are taken")]
    NoAddressLeft { range: Ipv4Net, count: usize },
    #[error("network namespace {path:?}")]
    Namespace {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("state file {path:?}")]
    StateFile {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("turn on forwarding of packets")]
    Forwarding(#[source] io::Error),
    #[error("close interface {interface} to IPv6 routers")]
    Ipv6 {
        interface: String,
        #[source]
        cause: io::Error,
    },
    #[error("open a socket to the kernel's network")]
    Socket(#[source] io::Error),
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    #[error("the work on sandbox networks was interrupted")]
    Interrupted,
}

pub type Result<T> = std::result::Result<T, PodNetworkError>;

/// The pods of one node. Clones share it. Calls for one sandbox are expected one after the other;
/// for several sandboxes they may overlap.
#[derive(Debug, Clone)]
pub struct PodNetwork {
    node: Arc<Mutex<Node>>,
    /// Removing a link takes the kernel tens of milliseconds: long enough not to keep others
    /// waiting for the node.
    remover: Arc<Mutex<RouteSocket>>,
}

impl PodNetwork {
    /// Reads what was allocated, and makes the node's rules what they should be. Blocks for a few
    /// milliseconds.
    pub fn open(settings: PodNetworkSettings) -> Result<Self> {
        namespace::set_sysctl("ipv4/ip_forward", "1").map_err(PodNetworkError::Forwarding)?;
        let remover = RouteSocket::open().map_err(PodNetworkError::Socket)?;
        let mut node = Node::open(settings)?;
        node.repair_rules()?;
        Ok(Self { node: Arc::new(Mutex::new(node)), remover: Arc::new(Mutex::new(remover)) })
    }

    /// Connects the namespace and answers the sandbox's addresses. Repeating it repairs what is
    /// missing and answers the same; a failure leaves nothing behind that was not there before.
    pub async fn attach(&self, sandbox_id: &str, netns_path: &Path, ports: &[PortMapping]) -> Result<Vec<IpAddr>> {
        let (sandbox_id, path, ports) = (sandbox_id.to_string(), netns_path.to_path_buf(), ports.to_vec());
        self.with_node(move |node| {
            let namespace = File::open(&path).map_err(|cause| PodNetworkError::Namespace { path: path.clone(), cause })?;
            let inside = RouteSocket::open_in(&namespace).map_err(|cause| PodNetworkError::Namespace { path, cause })?;
            let address = node.attach(&sandbox_id, attachment::Sandbox { namespace, inside }, &ports)?;
            Ok(vec![IpAddr::V4(address)])
        })
        .await
    }

    /// Gives link, address and host ports back. Succeeds when there is nothing (left); the
    /// namespace may be gone.
    pub async fn detach(&self, sandbox_id: &str) -> Result<()> {
        let sandbox_id = sandbox_id.to_string();
        let network = self.clone();
        blocking(move || {
            let link = lock(&network.node).withdraw(&sandbox_id)?;
            lock(&network.remover).delete_link(&link)?;
            lock(&network.node).release(&link);
            Ok(())
        })
        .await
    }

    /// Removes what belongs to no live sandbox: allocations, links, rules. For after a start.
    pub async fn retain(&self, live: &[String]) -> Result<()> {
        let live = live.to_vec();
        self.with_node(move |node| node.retain(&live)).await
    }

    /// Sentences about what on this host keeps pods from being reached.
    pub async fn obstacles(&self) -> Result<Vec<String>> {
        self.with_node(|node| node.obstacles()).await
    }

    /// One change at a time: rules and file are changed from what they were.
    async fn with_node<T: Send + 'static>(&self, work: impl FnOnce(&mut Node) -> Result<T> + Send + 'static) -> Result<T> {
        let node = self.node.clone();
        blocking(move || work(&mut lock(&node))).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PodNetworkError::Interrupted)?
}

/// A panic leaves the file and the kernel as after a crash, which every operation can deal with.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
