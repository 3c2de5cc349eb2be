//! node-dns: answers for the cluster's names on the node whose network it runs in.
//!
//! Each node has the cluster's DNS address itself: no other node, no translation of addresses and
//! no tracked connection is between a pod and its answer. Names of the cluster are answered from
//! memory (`brain::dns`), all others go to the node's own resolvers ([`forward`]). Where it is told
//! to, one question of a pod of its node is answered for the whole list of search paths
//! ([`resolver`]). [`message`] is the protocol, [`server`] the sockets.

mod address;
mod forward;
mod message;
mod resolver;
mod server;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use brain::dns::{SearchPaths, Zone, ZoneSettings};
use brain::model::Key;
use brain::podsync::files::parse_resolv_conf;
use http::StatusCode;
use ipnet::IpNet;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use wire::plain;

use crate::OwnSet;
use crate::follow::{Change, Followed, follow, resource};
pub use resolver::{Known, Resolver};
pub use server::threads;

/// Changes that wait for the loop at most; a watch that is ahead waits.
const CHANGES_MAX: usize = 1024;
/// How long the first answers wait for the cluster's objects. After that, questions about the
/// cluster fail until they are there, and all others are answered.
const SYNC_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct Settings {
    /// `cluster.local`.
    pub domain: String,
    /// When it is deleted, the node's address goes, too.
    pub own_set: Option<OwnSet>,
    /// Where pods ask; the node gets it as an address of its own.
    pub address: Ipv4Addr,
    /// 53, but for tests.
    pub port: u16,
    /// Ranges of Services and pods.
    pub ranges: Vec<IpNet>,
    /// Names the node's own resolvers.
    pub resolv_conf: PathBuf,
    /// Where `/health` and `/metrics` answer.
    pub health: Option<SocketAddr>,
    /// The table of rules; no other program may use that name. None: addresses and rules of the
    /// node are left alone, because another program has made them.
    pub table: Option<String>,
    /// The node whose pods get one answer for all of their search paths. None: no pods do.
    pub autopath: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("cannot give the node the address {address}")]
    Address {
        address: Ipv4Addr,
        #[source]
        cause: net::netlink::NetlinkError,
    },
    #[error("cannot open a socket to the kernel's network")]
    Kernel(#[source] std::io::Error),
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        cause: std::io::Error,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Namespace,
    Service,
    EndpointSlice,
}

/// What a change is for.
#[derive(Debug, Clone, Copy)]
enum Part {
    Zone(Kind),
    SearchPaths,
}

/// Runs until `shutdown` turns true. The node keeps the address, because the next version is there
/// soon, unless the program's set is gone.
pub async fn run(client: Client, settings: Settings, mut shutdown: watch::Receiver<bool>) -> Result<(), DnsError> {
    let zone_settings = ZoneSettings { domain: settings.domain.clone(), server: settings.address.into(), ranges: settings.ranges.clone() };
    let zone = Arc::new(RwLock::new(Zone::new(zone_settings)));
    let known = Known { zone, search_paths: search_paths(&settings) };
    let own_set = settings.own_set.clone().map(|set| set.follow(&client));
    if let Some(table) = &settings.table {
        address::ensure(settings.address, table)?;
    }
    let (sender, mut changes) = mpsc::channel(CHANGES_MAX);
    let mut watches = JoinSet::new();
    follow(&client, followed(&settings, &known), &sender, &mut watches);
    let mut listed = BTreeSet::new();
    let all = BTreeSet::from([Kind::Namespace, Kind::Service, Kind::EndpointSlice]);
    let first = async {
        while listed != all {
            let Some((part, change)) = changes.recv().await else { return };
            take(&known, part, change, &mut listed);
        }
    };
    // Both arms only wait.
    tokio::select! {
        _ = tokio::time::timeout(SYNC_DEADLINE, first) => {}
        _ = shutdown.wait_for(|&stopping| stopping) => {}
    }
    let mut serving = JoinSet::new();
    let resolver = answer_from(known.clone(), &settings, &shutdown, &mut serving)?;
    resolver.set_synced(listed == all);
    if let Some(address) = settings.health {
        let listener = server::tcp(address).map_err(|cause| DnsError::Listen { address, cause })?;
        let resolver = resolver.clone();
        serving.spawn(plain::serve(listener, shutdown.clone(), move |path| answer_http(&resolver, path)));
    }
    // Not waited for at the end.
    let mut looking = JoinSet::new();
    let looker = resolver.clone();
    looking.spawn(async move { looker.look_for_loops().await });
    tracing::info!(address = %settings.address, is_synced = listed == all, "answering");
    loop {
        // A change that was received is taken in at once; the other arm only waits.
        tokio::select! {
            Some((part, change)) = changes.recv() => {
                take(&known, part, change, &mut listed);
                resolver.set_synced(listed == all);
            }
            _ = shutdown.wait_for(|&stopping| stopping) => break,
        }
    }
    while serving.join_next().await.is_some() {}
    if let (Some(set), Some(table)) = (own_set, &settings.table)
        && set.is_gone().await
    {
        tracing::info!("the DaemonSet is gone, and the node's address for names with it");
        address::remove(settings.address, table)?;
    }
    Ok(())
}

/// Answers questions from what the caller fills. Until the caller says that it is complete,
/// questions about the cluster fail.
pub fn answer_from(
    known: Known,
    settings: &Settings,
    shutdown: &watch::Receiver<bool>,
    serving: &mut JoinSet<()>,
) -> Result<Arc<Resolver>, DnsError> {
    let address = SocketAddr::from((settings.address, settings.port));
    let sockets = server::Sockets::bind(address).map_err(|cause| DnsError::Listen { address, cause })?;
    let resolver = Arc::new(Resolver::new(known, forward::Forwarder::new(settings)));
    sockets.serve(&resolver, shutdown, serving);
    Ok(resolver)
}

/// The paths that pods have from this node. Those of its program's own pod are the node's.
fn search_paths(settings: &Settings) -> Option<Arc<RwLock<SearchPaths>>> {
    settings.autopath.as_ref()?;
    // Without the file, `Forwarder` complains, and knows no resolvers.
    let of_node = std::fs::read_to_string(&settings.resolv_conf).map(|text| parse_resolv_conf(&text).searches).ok()?;
    let paths = SearchPaths::new(&settings.domain, &of_node);
    if paths.is_none() {
        tracing::warn!(?of_node, "libraries cut the pods' list of search paths in different places: pods go through it themselves");
    }
    paths.map(RwLock::new).map(Arc::new)
}

fn followed(settings: &Settings, known: &Known) -> Vec<Followed<Part>> {
    let all = |kind, resource| Followed { kind: Part::Zone(kind), resource, labels: None, fields: None };
    let mut followed = vec![
        all(Kind::Namespace, resource("", "v1", "Namespace", "namespaces")),
        all(Kind::Service, resource("", "v1", "Service", "services")),
        all(Kind::EndpointSlice, resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")),
    ];
    if let (Some(node), Some(_)) = (&settings.autopath, &known.search_paths) {
        let fields = Some(format!("spec.nodeName={node}"));
        followed.push(Followed { kind: Part::SearchPaths, resource: resource("", "v1", "Pod", "pods"), labels: None, fields });
    }
    followed
}

fn take(known: &Known, part: Part, change: Change, listed: &mut BTreeSet<Kind>) {
    match (part, &known.search_paths) {
        (Part::Zone(kind), _) => take_into_zone(&known.zone, kind, change, listed),
        // Answers do not wait for pods: until they are there, they go through their lists.
        (Part::SearchPaths, Some(paths)) => take_pod(paths, change),
        (Part::SearchPaths, None) => {}
    }
}

fn take_into_zone(zone: &RwLock<Zone>, kind: Kind, change: Change, listed: &mut BTreeSet<Kind>) {
    let mut zone = zone.write().unwrap_or_else(PoisonError::into_inner);
    match (kind, change) {
        (Kind::Namespace, Change::Put(key, _)) => zone.put_namespace(&key.name),
        (Kind::Service, Change::Put(key, object)) => zone.put_service(&key, &object),
        (Kind::EndpointSlice, Change::Put(key, object)) => zone.put_slice(&key, object),
        (kind, Change::Gone(key)) => remove(&mut zone, kind, &key),
        (kind, Change::Listed(keys)) => {
            let there: Vec<Key> = match kind {
                Kind::Namespace => zone.namespaces().map(|name| Key { namespace: "".into(), name: name.clone() }).collect(),
                Kind::Service => zone.service_keys().cloned().collect(),
                Kind::EndpointSlice => zone.slice_keys().cloned().collect(),
            };
            there.iter().filter(|key| !keys.contains(key)).for_each(|key| remove(&mut zone, kind, key));
            listed.insert(kind);
        }
    }
}

fn take_pod(paths: &RwLock<SearchPaths>, change: Change) {
    let mut paths = paths.write().unwrap_or_else(PoisonError::into_inner);
    match change {
        Change::Put(key, object) => paths.put_pod(&key, &object),
        Change::Gone(key) => paths.remove_pod(&key),
        Change::Listed(keys) => {
            let gone: Vec<Key> = paths.pod_keys().filter(|key| !keys.contains(key)).cloned().collect();
            gone.iter().for_each(|key| paths.remove_pod(key));
        }
    }
}

fn remove(zone: &mut Zone, kind: Kind, key: &Key) {
    match kind {
        Kind::Namespace => zone.remove_namespace(&key.name),
        Kind::Service => zone.remove_service(key),
        Kind::EndpointSlice => zone.remove_slice(key),
    }
}

fn answer_http(resolver: &Resolver, path: &str) -> http::Response<http_body_util::Full<bytes::Bytes>> {
    match path {
        "/health" | "/livez" => plain::text(StatusCode::OK, "OK"),
        "/ready" if resolver.is_synced() => plain::text(StatusCode::OK, "OK"),
        "/ready" => plain::text(StatusCode::SERVICE_UNAVAILABLE, "the cluster's objects are not there yet\n"),
        "/metrics" => plain::text(StatusCode::OK, resolver.figures()),
        _ => plain::text(StatusCode::NOT_FOUND, "there are /health, /ready and /metrics\n"),
    }
}

#[cfg(test)]
mod tests;
