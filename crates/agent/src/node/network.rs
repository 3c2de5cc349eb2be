//! The pod network as the container runtime asks for it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use containers::{Error, PodRange, PortMapping, Result};
use futures::future::BoxFuture;
use ipnet::{IpNet, Ipv4Net};
use net::pods::{PodNetwork, PodNetworkSettings};
use runtime::port::SandboxNetwork;

/// A node that connects no pods, by the choice of who runs it: those in the node's own network run,
/// others get the reason why they cannot.
#[derive(Debug)]
pub struct NoNetwork;

impl SandboxNetwork for NoNetwork {
    fn attach<'a>(&'a self, _: &'a str, _: &'a Path, _: &'a [PortMapping]) -> BoxFuture<'a, Result<Vec<IpAddr>>> {
        let reason = "this node connects no pods (--pod-network none): only pods with hostNetwork can run on it";
        Box::pin(async move { Err(Error::FailedPrecondition(reason.into())) })
    }

    fn detach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// What a node's network needs to know besides its range.
#[derive(Debug, Clone)]
pub struct RoutedSettings {
    /// Remembers addresses and host ports.
    pub state_file: PathBuf,
    pub node_addresses: Vec<IpAddr>,
    /// The table of rules; no other program may use that name.
    pub table: String,
}

/// Addresses from the node's range, over links between the sandbox and the node. Until the range is
/// known, pods wait.
#[derive(Debug)]
pub struct Routed {
    settings: RoutedSettings,
    network: OnceLock<(Ipv4Net, PodNetwork)>,
    /// The node shows another range than the one that is used.
    shown: Mutex<Option<Ipv4Net>>,
}

/// What the kubelet puts before the reason.
const NOT_READY: &str = "NetworkReady=false reason:NetworkPluginNotReady message:";

/// Why pods wait, in the kubelet's words.
const NO_RANGE: &str = "NetworkReady=false reason:NetworkPluginNotReady message:this node has no range of pod addresses yet: \
     the server gives it one if it runs with --cluster-cidr, or start the agent with --pod-cidr";

impl Routed {
    pub fn new(settings: RoutedSettings) -> Routed {
        Routed { settings, network: OnceLock::new(), shown: Mutex::default() }
    }

    fn network(&self) -> Result<&PodNetwork> {
        let opened = self.network.get().ok_or_else(|| Error::FailedPrecondition(NO_RANGE.into()))?;
        Ok(&opened.1)
    }

    async fn open(&self, range: &PodRange, live: &[String]) -> Result<()> {
        let pod_cidr = ipv4(&range.own).ok_or_else(|| Error::FailedPrecondition("the node has no range of IPv4 addresses".into()))?;
        if let Some((used, _)) = self.network.get() {
            let other = (*used != pod_cidr).then_some(pod_cidr);
            *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = other;
            return other.map_or(Ok(()), |shown| Err(Error::FailedPrecondition(two_ranges(*used, shown).into())));
        }
        let network = PodNetwork::open(PodNetworkSettings {
            state_file: self.settings.state_file.clone(),
            pod_cidr,
            cluster_cidr: ipv4(&range.cluster).unwrap_or(pod_cidr),
            node_addresses: self.settings.node_addresses.clone(),
            table: self.settings.table.clone(),
        });
        let network = network.map_err(failed)?;
        // What belonged to sandboxes that are gone goes first: their addresses are free.
        network.retain(live).await.map_err(failed)?;
        // Another call that was as fast opened the same.
        let _ = self.network.set((pod_cidr, network));
        Ok(())
    }
}

/// Other nodes send to the range that they see.
fn two_ranges(used: Ipv4Net, shown: Ipv4Net) -> String {
    format!(
        "this agent was started with --pod-cidr {used}, but the Node object has the range {shown}: start it without, or delete the Node object"
    )
}

fn ipv4(ranges: &[IpNet]) -> Option<Ipv4Net> {
    ranges.iter().find_map(|range| match range {
        IpNet::V4(range) => Some(*range),
        IpNet::V6(_) => None,
    })
}

impl SandboxNetwork for Routed {
    fn attach<'a>(&'a self, sandbox_id: &'a str, namespace: &'a Path, ports: &'a [PortMapping]) -> BoxFuture<'a, Result<Vec<IpAddr>>> {
        Box::pin(async move { self.network()?.attach(sandbox_id, namespace, ports).await.map_err(failed) })
    }

    fn detach<'a>(&'a self, sandbox_id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match self.network.get() {
                Some((_, network)) => network.detach(sandbox_id).await.map_err(failed),
                // What a sandbox of an earlier agent had is taken back when the range is known.
                None => Ok(()),
            }
        })
    }

    fn problem(&self) -> Option<String> {
        let Some((used, _)) = self.network.get() else { return Some(NO_RANGE.to_owned()) };
        let shown = *self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.map(|shown| format!("{NOT_READY}{}", two_ranges(*used, shown)))
    }

    fn use_pod_range<'a>(&'a self, range: &'a PodRange, live: &'a [String]) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.open(range, live))
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Failed(Box::new(error))
}
