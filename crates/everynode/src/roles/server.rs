//! The control plane: store, API server, controllers, in this order; stopped in the reverse one.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use apiserver::admission::{AdmissionSettings, PodRange};
use apiserver::audit::{self, Audit, Rotation};
use apiserver::auth::authenticate::Authenticator;
use apiserver::auth::tokens::TokenKey;
use apiserver::nodes::NodeConnector;
use apiserver::registry::Registry;
use apiserver::request::{MASTERS, User};
use apiserver::{ApiServer, bootstrap, http};
use brain::controllers::ClusterSettings;
use brain::node_ipam::ClusterRanges;
use store::{Backend, CommitError, Txn};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::certificates::{Authority, ServerNames};
use crate::roles::{hostname, published, signalled};
use crate::{data_dir, kubeconfig, server_lock};

/// What the control plane is to be.
#[derive(Debug)]
pub struct Options {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    /// A second address, for nodes that do not reach the first.
    pub also_listen: Option<SocketAddr>,
    /// The address of the Service `kubernetes`' endpoint; by default one that is listened on.
    pub advertise: Option<IpAddr>,
    pub controllers: bool,
    /// Names of the simulated nodes to run in this process.
    pub simulated_nodes: Vec<String>,
    pub service_account_admission: bool,
    /// Nodes get their ranges of pod addresses out of these.
    pub pod_ranges: ClusterRanges,
    /// None: no audit log.
    pub audit: Option<AuditOptions>,
}

impl Options {
    /// Where pods reach this server. None when it is reached on this machine only.
    fn advertised(&self, listening: SocketAddr) -> Option<SocketAddr> {
        let given = self.advertise.map(|address| SocketAddr::new(address, listening.port()));
        let named = || {
            self.also_listen.into_iter().chain([listening]).find(|address| !address.ip().is_loopback() && !address.ip().is_unspecified())
        };
        let any = || listening.ip().is_unspecified().then(published::address_towards_others).flatten();
        given.or_else(named).or_else(|| any().map(|address| SocketAddr::new(address, listening.port())))
    }
}

/// Where the audit log goes, and what is written to it.
#[derive(Debug)]
pub struct AuditOptions {
    pub path: PathBuf,
    /// None: the metadata of every request.
    pub policy: Option<PathBuf>,
    pub rotation: Rotation,
}

impl AuditOptions {
    fn open(&self) -> anyhow::Result<Audit> {
        let policy = match &self.policy {
            None => audit::Policy::metadata_of_everything(),
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the audit policy {}", path.display()))?;
                audit::Policy::parse(&text).with_context(|| format!("the audit policy {} is not usable", path.display()))?
            }
        };
        let log =
            audit::Log::open(&self.path, self.rotation).with_context(|| format!("cannot open the audit log {}", self.path.display()))?;
        Ok(Audit { policy, log })
    }
}

/// Runs the control plane until SIGTERM or SIGINT.
pub async fn run(options: Options) -> anyhow::Result<()> {
    data_dir::prepare(&options.data_dir)?;
    let _lock = server_lock::serve(&options.data_dir)?;
    let (stop, shutdown) = watch::channel(false);
    let signalled = signalled()?;
    let audit = options.audit.as_ref().map(AuditOptions::open).transpose()?;
    let authority = Authority::load_or_create(&options.data_dir.join("pki"))?;
    let store_options = store::file::Options { left_out: left_out_revisions(), ..store::file::Options::default() };
    let backend = Arc::new(store::file::open(options.data_dir.join("store.redb"), store_options).context("cannot open the store")?);
    let registry = Arc::new(Registry::new(backend.clone()).context("cannot read the store")?);
    let token_key = TokenKey::from_pkcs8(&Authority::token_key(&options.data_dir.join("pki"))?).context("sa.key is not usable")?;
    let pods = agent::unverified::client_config().context("cannot set up TLS")?;
    let nodes = NodeConnector::new(authority.client_config("kube-apiserver-kubelet-client", &[MASTERS])?, pods);
    let pod_ranges = options.pod_ranges.iter().map(|range| PodRange { range: range.range(), node_prefix: range.node_prefix() }).collect();
    let admission = AdmissionSettings { service_account_admission: options.service_account_admission, pod_ranges };
    let authenticator = Authenticator { tokens: Arc::new(token_key) };
    let mut server = ApiServer::new(registry, authenticator, admission, shutdown.clone()).with_nodes(nodes);
    if let Some(audit) = audit {
        server = server.audited(audit);
    }
    bootstrap::run(&server).await.map_err(|status| anyhow::anyhow!("cannot make the objects that every cluster has: {status}"))?;
    let mut usage = Some(tokio::spawn(server.clone().follow_usage(shutdown.clone())));

    let listener = TcpListener::bind(options.listen).await.with_context(|| format!("cannot listen on {}", options.listen))?;
    let address = listener.local_addr().context("cannot tell the address that is listened on")?;
    let advertised = options.advertised(address);
    let names = ServerNames::for_addresses(address, options.also_listen.into_iter().chain(advertised));
    let tls = authority.server_config(&names)?;
    let mut serving = vec![tokio::spawn(http::serve::serve(server.clone(), listener, tls.clone(), shutdown.clone()))];
    if let Some(other) = options.also_listen {
        let listener = TcpListener::bind(other).await.with_context(|| format!("cannot listen on {other}"))?;
        serving.push(tokio::spawn(http::serve::serve(server.clone(), listener, tls, shutdown.clone())));
    }
    let mut controlling = options.controllers.then(|| {
        let client = local_client(&server, User::system("system:kube-controller-manager", &[MASTERS]));
        let cluster = ClusterSettings { root_certificate_pem: authority.certificate_pem.clone(), pod_ranges: options.pod_ranges.clone() };
        let settings = controllers::ControllerSettings { cluster, host: hostname() };
        tokio::spawn(controllers::run(client, settings, shutdown.clone()))
    });
    let mut simulating = (!options.simulated_nodes.is_empty()).then(|| {
        let client = local_client(&server, User::system("system:everynode:simulator", &[MASTERS]));
        let settings = agent::simulated::Settings { names: options.simulated_nodes.clone() };
        tokio::spawn(agent::simulated::run(client, settings, shutdown.clone()))
    });
    let publishing = advertised.map(|address| {
        let client = local_client(&server, User::system("system:apiserver", &[MASTERS]));
        tokio::spawn(published::publish(client, address, shutdown.clone()))
    });
    kubeconfig::write_admin(&options.data_dir.join("admin.kubeconfig"), &authority, address)?;
    // The process that started it may be gone by now; it serves all the same.
    let _ = writeln!(std::io::stdout(), "ready https://{address}");

    // All arms only wait.
    let failure = tokio::select! {
        () = signalled => None,
        error = store_failure(backend.as_ref()) => {
            Some(anyhow::Error::new(error).context("the store failed and takes nothing more until it is opened again"))
        }
        error = ended("the controllers", &mut controlling) => Some(error),
        error = ended("the simulated nodes", &mut simulating) => Some(error),
        error = ended("the collection of what nodes use", &mut usage) => Some(error),
    };
    stop.send_replace(true);
    for task in [publishing, simulating, controlling, usage].into_iter().flatten() {
        task.await.context("a part of the control plane failed")?;
    }
    for task in serving {
        task.await.context("the API server failed")?;
    }
    failure.map_or(Ok(()), Err)
}

/// Waits for the end of a part that should not have one: a server that goes on without its
/// controllers looks well and does nothing. A part that is not there never ends.
async fn ended(what: &str, part: &mut Option<JoinHandle<()>>) -> anyhow::Error {
    let Some(task) = part else { return std::future::pending().await };
    let outcome = task.await;
    *part = None;
    match outcome {
        Ok(()) => anyhow::anyhow!("{what} ended, and the server with them: start it again"),
        Err(error) => anyhow::Error::new(error).context(format!("{what} failed, and the server ends with them: start it again")),
    }
}

/// How often the store is asked whether it still takes writes.
const STORE_PERIOD: Duration = Duration::from_secs(2);

/// Ends when the store takes no writes any more, after a full disk, say: a server that can only
/// refuse had better be started again.
async fn store_failure(store: &dyn Backend) -> CommitError {
    loop {
        tokio::time::sleep(STORE_PERIOD).await;
        // A transaction that changes nothing needs nothing from the disk.
        if let Err(error @ CommitError::Failed(_)) = store.commit(Txn::default()).await {
            return error;
        }
    }
}

/// A client within the process: no socket, no TLS.
fn local_client(server: &ApiServer, user: User) -> kube::Client {
    kube::Client::new(server.as_user(user), "default")
}

/// How many revisions this start leaves out, so that clients of a store that was put back from a
/// copy notice: more than are written while such clients come back, and another number each time.
fn left_out_revisions() -> u64 {
    const AT_LEAST: u64 = 1 << 23;
    use std::hash::{BuildHasher as _, RandomState};
    AT_LEAST + RandomState::new().hash_one(0) % AT_LEAST
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The server went on without controllers, and said nothing.
    #[tokio::test]
    async fn a_part_that_ends_or_panics_ends_the_server_with_a_message() {
        let mut panics = Some(tokio::spawn(async { panic!("a bug") }));
        let error = ended("the controllers", &mut panics).await;
        assert!(panics.is_none() && error.to_string().starts_with("the controllers failed"), "{error}");
        let mut ends = Some(tokio::spawn(async {}));
        let error = ended("the controllers", &mut ends).await;
        assert!(ends.is_none() && error.to_string().starts_with("the controllers ended"), "{error}");
        assert!(futures::FutureExt::now_or_never(ended("nothing", &mut None)).is_none());
    }
}
