//! kube-proxy: the rules for addresses of Services on the node whose network it runs in.
//!
//! It follows Services, EndpointSlices, ServiceCIDRs and its Node. [`view`] is what it knows
//! (pure); `brain::proxy` decides for each Service; [`net::services`] writes what changed. Rules
//! stay when it ends, so that traffic goes on while a new version takes its place.

mod health;
mod view;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use containers::{ServicePort, ServicePortName};
use futures::future::OptionFuture;
use ipnet::Ipv4Net;
use kube::Client;
use net::netlink::{Family, NetlinkError, Socket};
use net::services::{ServiceNetwork, ServiceSettings};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::OwnSet;
use crate::follow::{Change, Followed, follow, resource};
use health::Health;
use view::{Kind, View};

/// Changes that wait for the loop at most; a watch that is ahead waits.
const CHANGES_MAX: usize = 1024;
/// Changes that come this close after another are written together.
const GATHERING: Duration = Duration::from_millis(5);
/// How often the kernel's rules are compared with what they should be (`syncPeriod`).
const REPAIR_PERIOD: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct Settings {
    pub node_name: String,
    /// When it is deleted, the rules go, too.
    pub own_set: Option<OwnSet>,
    /// The table of rules; no other program may use that name.
    pub table: String,
    /// The pods of all nodes.
    pub cluster_cidr: Ipv4Net,
    /// Where addresses of Services come from, until the cluster's ServiceCIDRs are known.
    pub service_cidrs: Vec<Ipv4Net>,
    /// Where `/healthz` and `/livez` answer.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics` answers.
    pub metrics: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("cannot listen on {address} for {what}")]
    Listen {
        address: SocketAddr,
        what: &'static str,
        #[source]
        cause: std::io::Error,
    },
    #[error("cannot open a socket to the kernel's packet filter")]
    Socket(#[source] std::io::Error),
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
}

/// Runs until `shutdown` turns true. Leaves the rules as they are, unless the program's set is
/// gone.
pub async fn run(client: Client, settings: Settings, mut shutdown: watch::Receiver<bool>) -> Result<(), ProxyError> {
    let own_set = settings.own_set.clone().map(|set| set.follow(&client));
    let health = Health::start(&settings, &shutdown).await?;
    let (sender, mut changes) = mpsc::channel(CHANGES_MAX);
    let mut watches = JoinSet::new();
    follow(&client, followed(&settings.node_name), &sender, &mut watches);
    let mut proxy = Proxy { view: View::new(settings.node_name.clone()), settings, health, written: None, retry: false };
    let mut repair = tokio::time::interval(REPAIR_PERIOD);
    repair.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let retry: OptionFuture<_> = proxy.retry.then(|| tokio::time::sleep(RETRY_PAUSE)).into();
        // A change that was received is taken in at once; the other arms only wait.
        tokio::select! {
            Some((kind, change)) = changes.recv() => {
                proxy.take(kind, change);
                tokio::time::sleep(GATHERING).await;
                while let Ok((kind, change)) = changes.try_recv() {
                    proxy.take(kind, change);
                }
                proxy.write();
            }
            _ = repair.tick() => proxy.repair(),
            Some(()) = retry => proxy.write(),
            _ = shutdown.wait_for(|&stopping| stopping) => break,
        }
    }
    if let Some(set) = own_set
        && set.is_gone().await
    {
        tracing::info!("the DaemonSet is gone, and the rules of Services with it");
        remove(&proxy.settings.table)?;
    }
    Ok(())
}

fn remove(table: &str) -> Result<(), ProxyError> {
    let mut netfilter = Socket::open(Family::Netfilter).map_err(ProxyError::Socket)?;
    Ok(net::nftables::remove(&mut netfilter, table)?)
}

fn followed(node: &str) -> Vec<Followed<Kind>> {
    let all = |kind, resource| Followed { kind, resource, labels: None, fields: None };
    // Proxies of other names have their Services, and headless ones have no address.
    let without = |labels: &str| Some(labels.split(' ').map(|label| format!("!{label}")).collect::<Vec<_>>().join(","));
    vec![
        Followed {
            labels: without("service.kubernetes.io/service-proxy-name service.kubernetes.io/headless"),
            ..all(Kind::Service, resource("", "v1", "Service", "services"))
        },
        Followed {
            labels: without("service.kubernetes.io/service-proxy-name service.kubernetes.io/headless"),
            ..all(Kind::EndpointSlice, resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"))
        },
        all(Kind::ServiceCidr, resource("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs")),
        Followed { fields: Some(format!("metadata.name={node}")), ..all(Kind::Node, resource("", "v1", "Node", "nodes")) },
    ]
}

struct Proxy {
    settings: Settings,
    view: View,
    health: Health,
    written: Option<Written>,
    /// The last write failed; it is tried again.
    retry: bool,
}

/// What the kernel has.
struct Written {
    settings: ServiceSettings,
    network: ServiceNetwork,
    ports: BTreeMap<ServicePortName, ServicePort>,
}

impl Proxy {
    fn take(&mut self, kind: Kind, change: Change) {
        self.view.take(kind, change);
        self.health.changed();
    }

    /// Writes what changed; everything, when the node's own settings changed or nothing was written
    /// yet. Failures are told and tried again.
    fn write(&mut self) {
        let Some(node) = self.view.node() else { return };
        let began = Instant::now();
        let wanted = ServiceSettings {
            table: self.settings.table.clone(),
            cluster_cidr: self.settings.cluster_cidr,
            service_cidrs: self.view.service_cidrs(self.settings.cluster_cidr).unwrap_or_else(|| self.settings.service_cidrs.clone()),
            node_addresses: self.view.node_addresses(),
        };
        let done = match &mut self.written {
            Some(written) if written.settings == wanted => written.change(&mut self.view, &node, &self.health),
            _ => Written::start(wanted, &mut self.view, &node, &self.health).map(|written| self.written = Some(written)),
        };
        match done {
            Ok(()) => {
                self.retry = false;
                self.health.written(began);
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "rules of Services cannot be written; trying again");
                // What the kernel has is not known any more.
                self.written = None;
                self.retry = true;
            }
        }
    }

    fn repair(&mut self) {
        let Some(written) = &mut self.written else { return };
        match written.network.repair() {
            Ok(0) => {}
            Ok(messages) => tracing::warn!(messages, "another program had changed rules of Services; they are put right"),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "rules of Services cannot be compared");
            }
        }
    }
}

impl Written {
    fn start(settings: ServiceSettings, view: &mut View, node: &brain::proxy::Node, health: &Health) -> Result<Written, ProxyError> {
        let mut ports = BTreeMap::new();
        view.forget_what_changed();
        health.forget_checks();
        for (key, decision) in view.all(node) {
            health.check(&key, decision.health_check);
            ports.extend(decision.ports);
        }
        let netfilter = Socket::open(Family::Netfilter).map_err(ProxyError::Socket)?;
        let (network, applied) = ServiceNetwork::start(netfilter, settings.clone(), ports.clone())?;
        tracing::info!(ports = ports.len(), messages = applied.messages, in_kernel = ?applied.in_kernel, "rules of Services are written");
        Ok(Written { settings, network, ports })
    }

    fn change(&mut self, view: &mut View, node: &brain::proxy::Node, health: &Health) -> Result<(), ProxyError> {
        let mut changes = Vec::new();
        for (key, decision) in view.changed(node) {
            health.check(&key, decision.health_check);
            let now: BTreeMap<ServicePortName, ServicePort> = decision.ports.into_iter().collect();
            let first = ServicePortName { namespace: key.namespace.to_string(), service: key.name.to_string(), port: String::new() };
            let of_service = |name: &&ServicePortName| name.namespace == *key.namespace && name.service == *key.name;
            let before = self.ports.range(first..).map(|(name, _)| name).take_while(of_service);
            changes.extend(before.filter(|name| !now.contains_key(name)).map(|name| (name.clone(), None)));
            changes
                .extend(now.into_iter().filter(|(name, port)| self.ports.get(name) != Some(port)).map(|(name, port)| (name, Some(port))));
        }
        for (name, port) in &changes {
            match port {
                Some(port) => self.ports.insert(name.clone(), port.clone()),
                None => self.ports.remove(name),
            };
        }
        if !changes.is_empty() {
            let count = changes.len();
            let applied = self.network.apply(changes)?;
            tracing::debug!(ports = count, messages = applied.messages, flows = applied.flows, "rules of Services are changed");
        }
        Ok(())
    }
}
