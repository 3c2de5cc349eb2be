//! pod-network: the ways from the node whose network it runs in to the pods of all other nodes.
//!
//! It follows Nodes. [`view`] is what it knows (pure); `brain::pod_network` decides;
//! [`net::peers`] writes routes and tunnels. [`report`] tells the cluster by the condition
//! `NetworkUnavailable` whether this node has its part. Routes stay when it ends, so that traffic
//! goes on while a new version takes its place.

mod report;
mod view;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use brain::pod_network::{Decision, Mode, Own, Site, condition, decide, newly_left_out, shared_networks};
use containers::WireGuardKey;
use futures::future::OptionFuture;
use http::StatusCode;
use ipnet::Ipv4Net;
use kube::Client;
use net::netlink::{NetlinkError, RouteScope, RouteSocket};
use net::peers::{PeerNetwork, PeerNetworkError, PeerNetworkSettings};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::plain;

use crate::OwnSet;
use crate::follow::{Followed, follow, resource};
use report::{Report, Reporter};
use view::View;

/// Changes that wait for the loop at most; a watch that is ahead waits.
const CHANGES_MAX: usize = 1024;
/// Changes that come this close after another are decided about together.
const GATHERING: Duration = Duration::from_millis(5);
/// How often the kernel's routes are compared with what they should be.
const REPAIR_PERIOD: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct Settings {
    pub node_name: String,
    /// When it is deleted, the routes go, too.
    pub own_set: Option<OwnSet>,
    pub mode: Mode,
    /// The pods of all nodes.
    pub cluster_cidr: Ipv4Net,
    /// Where `/healthz` and `/readyz` answer.
    pub health: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum PodNetworkError {
    #[error("cannot listen on {address} for health checks")]
    Listen {
        address: SocketAddr,
        #[source]
        cause: std::io::Error,
    },
    #[error("cannot open a socket to the kernel's network")]
    Socket(#[source] std::io::Error),
    #[error("no other node can be reached: {0}")]
    AllFailed(String),
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    #[error(transparent)]
    Peers(#[from] PeerNetworkError),
}

/// Runs until `shutdown` turns true. Leaves routes and tunnels as they are, unless the program's
/// set is gone.
pub async fn run(client: Client, settings: Settings, mut shutdown: watch::Receiver<bool>) -> Result<(), PodNetworkError> {
    let is_up = Arc::new(AtomicBool::new(false));
    if let Some(address) = settings.health {
        let listener = TcpListener::bind(address).await.map_err(|cause| PodNetworkError::Listen { address, cause })?;
        let is_up = is_up.clone();
        tokio::spawn(plain::serve(listener, shutdown.clone(), move |path| answer(&is_up, path)));
    }
    let own_set = settings.own_set.clone().map(|set| set.follow(&client));
    let (sender, mut changes) = mpsc::channel(CHANGES_MAX);
    let mut tasks = JoinSet::new();
    let nodes = Followed { kind: (), resource: resource("", "v1", "Node", "nodes"), labels: None, fields: None };
    follow(&client, vec![nodes], &sender, &mut tasks);
    let (wanted, reports) = watch::channel(None);
    let reporter = Reporter { client: client.clone(), node: settings.node_name.clone() };
    tasks.spawn(async move { reporter.run(reports).await });
    let mut network = PodNetwork {
        view: View::default(),
        settings,
        decided: None,
        written: None,
        error: None,
        retry_at: None,
        unreached: BTreeMap::new(),
        is_up,
        wanted,
    };
    let mut repair = tokio::time::interval(REPAIR_PERIOD);
    repair.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let retry: OptionFuture<_> = network.retry_at.map(tokio::time::sleep_until).into();
        // A change that was received is taken in at once; the other arms only wait.
        tokio::select! {
            Some(((), change)) = changes.recv() => {
                network.view.take(change);
                tokio::time::sleep(GATHERING).await;
                while let Ok(((), change)) = changes.try_recv() {
                    network.view.take(change);
                }
                network.follow_cluster();
            }
            _ = repair.tick() => network.repair(),
            Some(()) = retry => network.write(),
            _ = shutdown.wait_for(|&stopping| stopping) => break,
        }
    }
    drop(tasks);
    if let Some(set) = own_set
        && set.is_gone().await
    {
        tracing::info!("the DaemonSet is gone, and the routes to other nodes' pods with it");
        let reporter = Reporter { client, node: network.settings.node_name.clone() };
        if let Some(own) = network.view.own(&network.settings.node_name) {
            reporter.tell_removed(own).await;
        }
        network.remove()?;
    }
    Ok(())
}

fn answer(is_up: &AtomicBool, path: &str) -> http::Response<http_body_util::Full<bytes::Bytes>> {
    match path {
        "/healthz" | "/livez" => plain::text(StatusCode::OK, "ok"),
        "/readyz" if is_up.load(Ordering::Relaxed) => plain::text(StatusCode::OK, "ok"),
        "/readyz" => plain::text(StatusCode::SERVICE_UNAVAILABLE, "this node has no part in the pod network\n"),
        _ => plain::text(StatusCode::NOT_FOUND, "there are /healthz and /readyz\n"),
    }
}

struct PodNetwork {
    settings: Settings,
    view: View,
    decided: Option<Decision>,
    written: Option<Written>,
    /// Why the last write failed; it is tried again.
    error: Option<String>,
    /// However many changes come meanwhile.
    retry_at: Option<Instant>,
    /// Why nodes are not reached, by name.
    unreached: BTreeMap<String, String>,
    is_up: Arc<AtomicBool>,
    wanted: watch::Sender<Option<Report>>,
}

/// What the kernel has.
struct Written {
    own: Own,
    network: PeerNetwork,
    /// By which others encrypt for this node.
    key: Option<WireGuardKey>,
}

impl PodNetwork {
    /// Takes in what changed, and writes if it matters for this node.
    fn follow_cluster(&mut self) {
        if !self.view.is_listed() {
            return;
        }
        if self.view.forget_that_nodes_changed() {
            self.write();
        } else {
            self.report();
        }
    }

    /// Decides anew, because networks of this node may have changed, and compares with the kernel.
    fn repair(&mut self) {
        if self.view.is_listed() {
            self.write();
        }
    }

    /// Failures are told and tried again.
    fn write(&mut self) {
        let error = self.try_to_write().err().map(|error| containers::chain(&error));
        if let Some(error) = error.as_ref().filter(|error| self.error.as_ref() != Some(*error)) {
            tracing::warn!(error, "the pod network cannot be set up; trying again");
        }
        self.retry_at = error.as_ref().map(|_| Instant::now() + RETRY_PAUSE);
        self.error = error;
        self.report();
    }

    fn try_to_write(&mut self) -> Result<(), PodNetworkError> {
        let mut route = RouteSocket::open().map_err(PodNetworkError::Socket)?;
        let on_link = route.routes()?.into_iter().filter(|route| route.gateway.is_none() && route.scope == RouteScope::Link);
        let site = Site {
            node: self.settings.node_name.as_str().into(),
            mode: self.settings.mode,
            cluster_cidr: self.settings.cluster_cidr,
            networks: shared_networks(on_link.map(|route| route.destination), self.settings.cluster_cidr),
        };
        let decision = decide(&site, self.view.members(), self.decided.as_ref());
        tell_who_is_left_out(self.decided.as_ref(), &decision);
        let own = decision.own.clone();
        let mut unreached: BTreeMap<String, String> =
            decision.left_out.iter().map(|(node, problem)| (node.to_string(), problem.to_string())).collect();
        let peers = &self.decided.insert(decision).peers;
        // Without a part of its own a node's pods get no answers; what is there stays.
        let Ok(own) = own else {
            self.unreached = unreached;
            return Ok(());
        };
        match &mut self.written {
            Some(written) if written.own.pod_cidr == own.pod_cidr => {
                written.own = own;
                written.network.set_node_address(own.address);
            }
            // What it holds is wanted again.
            other => *other = None,
        }
        if self.written.is_none() {
            let mut network = PeerNetwork::open(PeerNetworkSettings::new(own.address, own.pod_cidr))?;
            let key = if self.settings.mode == Mode::WireGuard { Some(network.public_key()?) } else { None };
            self.written = Some(Written { own, network, key });
        }
        let Some(written) = &mut self.written else { return Ok(()) };
        let applied = written.network.apply(peers)?;
        if applied.messages > 0 {
            tracing::info!(peers = peers.len(), messages = applied.messages, "routes to other nodes' pods are written");
        }
        for (node, error) in applied.failed.iter().filter(|(node, error)| self.unreached.get(*node) != Some(*error)) {
            tracing::warn!(node, error = error.as_str(), "pods of a node cannot be reached");
        }
        let all_failed = !peers.is_empty() && applied.failed.len() == peers.len();
        let first = applied.failed.values().next().filter(|_| all_failed).cloned();
        unreached.extend(applied.failed);
        self.unreached = unreached;
        first.map_or(Ok(()), |error| Err(PodNetworkError::AllFailed(error)))
    }

    fn remove(self) -> Result<(), PodNetworkError> {
        let network = match self.written {
            Some(written) => written.network,
            // Nothing of this node matters for what is taken away.
            None => PeerNetwork::open(PeerNetworkSettings::new(Ipv4Addr::UNSPECIFIED, self.settings.cluster_cidr))?,
        };
        Ok(network.remove()?)
    }

    /// Says how it is, to those who ask this program and to the cluster.
    fn report(&self) {
        let (Some(own), Some(decision)) = (self.view.own(&self.settings.node_name), &self.decided) else {
            self.wanted.send_replace(None);
            return;
        };
        let condition = condition(&decision.own, self.error.as_deref(), &self.unreached);
        self.is_up.store(decision.own.is_ok() && self.error.is_none(), Ordering::Relaxed);
        let key = self.written.as_ref().and_then(|written| written.key);
        self.wanted.send_replace(Report::of(own, condition, key));
    }
}

fn tell_who_is_left_out(before: Option<&Decision>, now: &Decision) {
    let none = Decision { own: Err(brain::pod_network::Problem::NoNode), peers: Vec::new(), left_out: Default::default() };
    for (node, problem) in newly_left_out(before.unwrap_or(&none), now) {
        tracing::warn!(node = &**node, problem = %problem, "pods of a node are not reached");
    }
}
